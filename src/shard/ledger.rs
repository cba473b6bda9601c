//! An engine and its store: batches in, committed outcomes out.

use std::time::Duration;

use crate::{
    engine::{Allowance, Batch, Engine, EngineSetup, OfferRefusal, Outcome},
    store::{
        Space, Store, StoreError,
        sets::{Committed, Wants},
    },
};

/// What one batch may offer again to those that wait for room.
const OFFERED_AGAIN: Allowance = Allowance { offers: 256, jobs: 2_048, bytes: 1 << 20 };

/// The rules of a store with the store itself, which nothing else writes.
pub struct Ledger {
    store: Box<dyn Store>,
    engine: Engine,
    /// A batch failed halfway: what is on disk is not known.
    is_broken: bool,
}

/// What became of a batch.
#[derive(Debug)]
pub enum Applied {
    /// It is on disk.
    Committed {
        /// What it came to.
        outcome: Outcome,
        /// What it took to make it durable.
        flush: Duration,
    },
    /// Nothing of it is kept, and the store goes on.
    Unapplied(Unapplied),
}

/// A batch of which nothing is kept.
#[derive(Debug)]
pub struct Unapplied {
    /// The batch, as far as the obstacle leaves it.
    pub batch: Batch,
    /// What was in the way.
    pub obstacle: Obstacle,
}

/// What keeps a store from taking a batch for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Obstacle {
    /// The disk is full. The batch's offers are refused; its reports and controls are as they were.
    DiskFull,
    /// Another program holds the database's lock. The batch is whole.
    Locked,
}

impl Ledger {
    /// Takes over a store: puts back what a crash left running, and sets up the declared queues. Waits for as long as
    /// another program holds the store's lock.
    ///
    /// # Errors
    /// When the store can't be read or written, or contradicts itself.
    pub fn open(mut store: Box<dyn Store>, setup: &EngineSetup) -> Result<Self, StoreError> {
        let mut was_full = false;
        let engine = loop {
            match Self::take_over(&mut *store, setup) {
                // The store says so in its log.
                Err(StoreError::Locked(_)) => {}
                // The store has given up space that it kept for this.
                Err(StoreError::DiskFull(_)) if !was_full => was_full = true,
                taken => break taken?,
            }
        };
        Ok(Ledger { store, engine, is_broken: false })
    }

    fn take_over(store: &mut dyn Store, setup: &EngineSetup) -> Result<Engine, StoreError> {
        let loaded = store.load()?;
        let server_before = loaded.retention;
        let mut engine = Engine::load(store.names(), loaded, setup);
        let set_aside = store.has_unreadable().then_some(setup.present.wall);
        let found = store.fetch(&Wants { set_aside, ..Wants::default() })?;
        let decided = engine.recover(setup, server_before, found)?;
        let committed = store.write(&decided.writes)?;
        engine.commit(decided, &committed, setup.present);
        Ok(engine)
    }

    /// Gives the store back, as a crash would leave it.
    #[must_use]
    pub fn into_store(self) -> Box<dyn Store> {
        self.store
    }

    /// The store.
    #[must_use]
    pub fn store(&mut self) -> &mut dyn Store {
        &mut *self.store
    }

    /// The engine.
    pub(super) fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// Applies a batch in one transaction. When it returns, the batch is on disk, or, where the disk is full or another
    /// program holds the database's lock, comes back.
    ///
    /// # Errors
    /// After an error nothing is known about the batch: the process must end, and the next start recovers.
    pub fn apply(&mut self, mut batch: Batch) -> Result<Applied, StoreError> {
        if self.is_broken {
            let fault = "an earlier batch failed; only a new start tells what is kept";
            return Err(StoreError::Corrupt(fault.to_owned()));
        }
        let (present, space) = (batch.present, batch.space);
        self.engine.offer_again(&mut batch, OFFERED_AGAIN);
        let plan = self.engine.plan(&batch, self.store.has_unreadable());
        let found = match self.store.fetch(&plan.wants) {
            // Nothing was begun: the batch is as it came.
            Err(StoreError::Locked(error)) => {
                tracing::debug!(%error, "a batch waits for the database's lock");
                return Ok(Applied::Unapplied(Unapplied { batch, obstacle: Obstacle::Locked }));
            }
            Err(StoreError::DiskFull(error)) => {
                tracing::debug!(%error, "a batch could not be begun on the full disk");
                self.engine.refuse_offers(std::mem::take(&mut batch.offers), &OfferRefusal::DiskFull);
                return Ok(Applied::Unapplied(Unapplied { batch, obstacle: Obstacle::DiskFull }));
            }
            found => found.inspect_err(|_| self.is_broken = true)?,
        };
        self.is_broken = true;
        let decided = self.engine.decide(batch, &plan, found)?;
        let committed: Committed = match self.store.write(&decided.writes) {
            Err(StoreError::DiskFull(error)) => {
                tracing::debug!(%error, "a batch did not fit on the disk");
                self.is_broken = false;
                let batch = Batch { present, space, ..self.engine.discard(decided) };
                return Ok(Applied::Unapplied(Unapplied { batch, obstacle: Obstacle::DiskFull }));
            }
            committed => committed?,
        };
        self.is_broken = false;
        let mut outcome = self.engine.commit(decided, &committed, present);
        // On a full disk there is nothing that can be done at once.
        outcome.more = space != Space::Full && (outcome.more || self.store.has_unreadable());
        Ok(Applied::Committed { outcome, flush: committed.flush() })
    }
}
