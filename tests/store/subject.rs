//! A store under test, and how its process dies.
//!
//! This is the only file of these tests that knows how the product takes a batch and answers it. The others know the
//! values of `batch.rs`.

use std::{fs, path::Path, sync::Arc};

use jobmill::store::{self, Reader, Store, StoreError, memory::MemoryStore, sqlite::SqliteStore};
use tempfile::TempDir;

use super::batch::{Applied, Batch, Claim, ControlDone, Offer, Receipt, Report, Setup};

/// A store under test.
pub(crate) trait Subject {
    /// Applies a batch.
    fn apply(&mut self, batch: Batch) -> Result<Applied, StoreError>;
    /// Reads what is committed.
    fn reader(&self) -> Arc<dyn Reader>;
    /// Kills the process as `kill -9` does, and starts the next one.
    fn crash(&mut self, setup: Setup) -> Result<(), StoreError>;
}

/// The model.
pub(crate) struct Memory(Option<MemoryStore>);

impl Memory {
    pub(crate) fn open(setup: Setup) -> Self {
        Memory(Some(MemoryStore::open(product_setup(setup)).unwrap()))
    }
}

impl Subject for Memory {
    fn apply(&mut self, batch: Batch) -> Result<Applied, StoreError> {
        apply(self.0.as_mut().unwrap(), batch)
    }

    fn reader(&self) -> Arc<dyn Reader> {
        self.0.as_ref().unwrap().reader()
    }

    fn crash(&mut self, setup: Setup) -> Result<(), StoreError> {
        self.0 = Some(self.0.take().unwrap().reopen(product_setup(setup))?);
        Ok(())
    }
}

/// SQLite in a folder of its own.
pub(crate) struct Sqlite {
    store: SqliteStore,
    folder: TempDir,
}

impl Sqlite {
    pub(crate) fn open(setup: Setup) -> Self {
        Self::open_in(TempDir::new().unwrap(), setup).unwrap()
    }

    /// Opens what is in a folder, as the next process would.
    pub(crate) fn open_in(folder: TempDir, setup: Setup) -> Result<Self, StoreError> {
        Ok(Sqlite { store: SqliteStore::open(folder.path(), product_setup(setup))?, folder })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What a disk would hold if the process died now.
    pub(crate) fn image(&self) -> TempDir {
        image_of(self.folder.path())
    }

    /// Goes on from an image, as the next process would.
    pub(crate) fn restart_from(&mut self, image: TempDir, setup: Setup) -> Result<(), StoreError> {
        *self = Self::open_in(image, setup)?;
        Ok(())
    }
}

/// Copies the files of an open store. To drop the store would close it properly, which a crash does not.
///
/// The database comes first: what a checkpoint writes to it meanwhile is in the log still, which is copied after it.
fn image_of(folder: &Path) -> TempDir {
    let image = TempDir::new().unwrap();
    for file in ["jobmill.db", "jobmill.db-wal"] {
        fs::copy(folder.join(file), image.path().join(file)).unwrap();
    }
    image
}

impl Subject for Sqlite {
    fn apply(&mut self, batch: Batch) -> Result<Applied, StoreError> {
        apply(&mut self.store, batch)
    }

    fn reader(&self) -> Arc<dyn Reader> {
        self.store.reader()
    }

    fn crash(&mut self, setup: Setup) -> Result<(), StoreError> {
        let image = self.image();
        self.restart_from(image, setup)
    }
}

fn product_setup(setup: Setup) -> store::EngineSetup {
    let Setup { present, seed, served_kinds, declared_queues, retention } = setup;
    store::EngineSetup { present, seed, served_kinds, declared_queues, retention }
}

fn apply(store: &mut dyn Store, batch: Batch) -> Result<Applied, StoreError> {
    let applied = store.apply(product_batch(batch))?;
    assert!(applied.unapplied.is_none(), "nothing is in the way of these stores: {:?}", applied.unapplied);
    Ok(Applied {
        controls: applied.controls.into_iter().map(|control| control.map(control_done)).collect(),
        reports: applied.reports,
        offers: applied.offers.into_iter().map(receipt).collect(),
        claims: applied.claims.into_iter().map(claim).collect(),
        cancelling: applied.cancelling,
        changes: applied.changes,
        position: applied.position,
        wake: applied.wake,
        more: applied.more,
        room: applied.room,
        queues: applied.queues,
        purged: applied.purged,
    })
}

fn product_batch(batch: Batch) -> store::Batch {
    let Batch { present, controls, reports, offers, claim, space } = batch;
    let report = |Report { id, lease, body }| store::Report { id, lease, body };
    let offer = |Offer { request, jobs, behind_waiters }| store::Offer { request, jobs, behind_waiters };
    store::Batch {
        present,
        controls,
        reports: reports.into_iter().map(report).collect(),
        offers: offers.into_iter().map(offer).collect(),
        claim,
        space,
    }
}

fn control_done(done: store::ControlDone) -> ControlDone {
    match done {
        store::ControlDone::Job(job) => ControlDone::Job(job),
        store::ControlDone::JobDeleted => ControlDone::JobDeleted,
        store::ControlDone::Queue(queue) => ControlDone::Queue(queue),
        store::ControlDone::QueueDeleted => ControlDone::QueueDeleted,
        store::ControlDone::PurgeBegun(number) => ControlDone::PurgeBegun(number),
    }
}

fn receipt(receipt: store::Receipt) -> Receipt {
    match receipt {
        store::Receipt::Created { jobs } => Receipt::Created { jobs },
        store::Receipt::Seen { first, count } => Receipt::Seen { first, count },
        store::Receipt::Full { offer, full } => {
            let store::Offer { request, jobs, behind_waiters } = offer;
            Receipt::Full { offer: Offer { request, jobs, behind_waiters }, full }
        }
        store::Receipt::Refused(refusal) => Receipt::Refused(refusal),
    }
}

fn claim(claim: store::Claim) -> Claim {
    let store::Claim { job, lease, payload, ready } = claim;
    Claim { job, lease, payload, ready }
}
