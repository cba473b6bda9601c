//! An engine and its store: takes batches and returns committed outcomes.

use std::time::Duration;

use crate::{
    engine::{Allowance, Batch, Engine, EngineSetup, OfferRefusal, Outcome},
    store::{
        Space, Store, StoreError,
        sets::{Committed, ReadSet},
    },
};

/// Limits of the waiting offers that one batch tries again.
const OFFERED_AGAIN: Allowance = Allowance { offers: 256, jobs: 2_048, bytes: 1 << 20 };

/// A store and its engine, the only writer of the store.
pub struct Ledger {
    store: Box<dyn Store>,
    engine: Engine,
    /// Whether a batch has failed, so that the state on disk is unknown.
    is_broken: bool,
}

/// The result of applying a batch.
#[expect(clippy::large_enum_variant, reason = "there is one for each batch, and nearly all are the large one")]
#[derive(Debug)]
pub enum Applied {
    /// The batch is on disk.
    Committed {
        /// The outcome.
        outcome: Outcome,
        /// Duration of the commit to disk.
        flush: Duration,
    },
    /// The batch was not written, and the store remains usable.
    Unapplied(Unapplied),
}

/// A batch that was not written.
#[derive(Debug)]
pub struct Unapplied {
    /// The rest of the batch; see [`StoreObstacle`].
    pub batch: Batch,
    /// The reason.
    pub obstacle: StoreObstacle,
}

/// Temporary reason why a store does not take a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreObstacle {
    /// The disk is full. The batch's new offers are refused; its reports and controls are unchanged.
    DiskFull,
    /// Another program holds the database's lock. The batch is unchanged.
    Locked,
}

impl Ledger {
    /// Opens a store: ends the attempts that a crash left running, and sets up the declared queues. Waits for as long
    /// as another program holds the store's lock.
    ///
    /// # Errors
    /// When the store can't be read or written, or its state contradicts itself.
    pub fn open(mut store: Box<dyn Store>, setup: &EngineSetup) -> Result<Self, StoreError> {
        let mut was_full = false;
        let engine = loop {
            match Self::take_over(&mut *store, setup) {
                // The store logs the lock.
                Err(StoreError::Locked(_)) => {}
                // The store has freed the space that it reserves for this case.
                Err(StoreError::DiskFull(_)) if !was_full => was_full = true,
                taken => break taken?,
            }
        };
        Ok(Ledger { store, engine, is_broken: false })
    }

    fn take_over(store: &mut dyn Store, setup: &EngineSetup) -> Result<Engine, StoreError> {
        let loaded = store.load()?;
        let (mut engine, before) = Engine::load(store.names(), loaded, setup);
        let set_aside = store.has_unreadable().then_some(setup.present.wall);
        let keys = engine.keys_of_running_jobs();
        let wants = ReadSet { keys, ..Engine::plan_start(setup, set_aside) };
        let found = store.fetch(&wants)?;
        let decided = engine.recover(setup, &before, found)?;
        let committed = store.write(&decided.writes)?;
        engine.commit(decided, &committed, setup.present);
        Ok(engine)
    }

    /// Returns the store, in the state that a crash would leave.
    #[must_use]
    pub fn into_store(self) -> Box<dyn Store> {
        self.store
    }

    /// Returns the store.
    #[must_use]
    pub fn store(&mut self) -> &mut dyn Store {
        &mut *self.store
    }

    /// Returns the engine.
    pub(super) fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// Applies a batch in one transaction. Returns once the batch is on disk, or with the batch if the disk is full or
    /// another program holds the database's lock.
    ///
    /// # Errors
    /// After an error the state of the batch is unknown: the process must end, and the next start recovers.
    pub fn apply(&mut self, mut batch: Batch) -> Result<Applied, StoreError> {
        if self.is_broken {
            let fault = "an earlier batch failed: restart the server to recover the store";
            return Err(StoreError::Corrupt(fault.to_owned()));
        }
        let (present, space) = (batch.present, batch.space);
        self.engine.offer_again(&mut batch, OFFERED_AGAIN);
        let plan = self.engine.plan(&batch, self.store.has_unreadable());
        let found = match self.store.fetch(&plan.wants) {
            // Nothing was begun: the batch is unchanged.
            Err(StoreError::Locked(error)) => {
                tracing::debug!(%error, "a batch waits for the database's lock");
                return Ok(Applied::Unapplied(Unapplied { batch, obstacle: StoreObstacle::Locked }));
            }
            Err(StoreError::DiskFull(error)) => {
                tracing::debug!(%error, "a batch could not be begun on the full disk");
                self.engine.refuse_offers(std::mem::take(&mut batch.offers), &OfferRefusal::DiskFull);
                return Ok(Applied::Unapplied(Unapplied { batch, obstacle: StoreObstacle::DiskFull }));
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
                return Ok(Applied::Unapplied(Unapplied { batch, obstacle: StoreObstacle::DiskFull }));
            }
            committed => committed?,
        };
        self.is_broken = false;
        let mut outcome = self.engine.commit(decided, &committed, present);
        // On a full disk no further work can be done at once.
        outcome.more = space != Space::Full && (outcome.more || self.store.has_unreadable());
        Ok(Applied::Committed { outcome, flush: committed.flush() })
    }
}
