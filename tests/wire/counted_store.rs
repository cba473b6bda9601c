//! A store that records what its batches bring, and can hold up a batch.

use std::sync::Arc;

use jobmill::store::{
    Names, Reader, Space, Store, StoreError,
    sets::{ChangedJob, Committed, Loaded, OutcomeRow, ReadResults, ReadSet, WriteSet},
};
use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

/// The contents of one batch.
#[derive(Clone, Debug, Default)]
pub(crate) struct BatchContents {
    pub(crate) new_jobs: usize,
    pub(crate) new_bytes: usize,
    pub(crate) reports: usize,
    /// The total size of the results in its reports.
    pub(crate) result_bytes: usize,
    pub(crate) checkpoints: usize,
}

/// The records and the switch of a counted store.
#[derive(Default)]
pub(crate) struct Counts {
    batches: Mutex<Vec<BatchContents>>,
    holds_reports: Mutex<bool>,
    changed: Condvar,
    held: Notify,
}

impl Counts {
    /// Wraps a store so that its batches are recorded.
    pub(crate) fn around(self: &Arc<Self>) -> impl FnOnce(Box<dyn Store>) -> Box<dyn Store> + Send + 'static {
        let counts = Arc::clone(self);
        move |store| Box::new(Counted { store, counts })
    }

    /// Returns the batches since the last call.
    pub(crate) fn take(&self) -> Vec<BatchContents> {
        std::mem::take(&mut *self.batches.lock())
    }

    /// Holds up the next batch that ends an attempt.
    pub(crate) fn hold_reports(&self) {
        *self.holds_reports.lock() = true;
    }

    /// Returns once a batch is held up.
    pub(crate) async fn is_held(&self) {
        self.held.notified().await;
    }

    pub(crate) fn let_go(&self) {
        *self.holds_reports.lock() = false;
        self.changed.notify_all();
    }
}

struct Counted {
    store: Box<dyn Store>,
    counts: Arc<Counts>,
}

fn brought(writes: &WriteSet) -> BatchContents {
    let ended = |job: &&ChangedJob| job.before.state.lease().is_some() && job.after.state.lease().is_none();
    let result = |row: &OutcomeRow| row.result.as_ref().map_or(0, |bytes| bytes.len());
    BatchContents {
        new_jobs: writes.new_jobs.len(),
        new_bytes: writes.new_jobs.iter().map(|(_, payload)| payload.len()).sum(),
        reports: writes.changed_jobs.iter().filter(ended).count(),
        result_bytes: writes.outcomes.iter().map(result).sum(),
        checkpoints: writes.checkpoints.len(),
    }
}

impl Store for Counted {
    fn names(&self) -> Arc<Names> {
        self.store.names()
    }

    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.store.load()
    }

    fn fetch(&mut self, wants: &ReadSet) -> Result<ReadResults, StoreError> {
        self.store.fetch(wants)
    }

    fn write(&mut self, writes: &WriteSet) -> Result<Committed, StoreError> {
        let brought = brought(writes);
        if brought.reports > 0 {
            let mut holds = self.counts.holds_reports.lock();
            if *holds {
                self.counts.held.notify_one();
                self.counts.changed.wait_while(&mut holds, |holds| *holds);
            }
        }
        self.counts.batches.lock().push(brought);
        self.store.write(writes)
    }

    fn space(&mut self) -> Space {
        self.store.space()
    }

    fn reader(&self) -> Arc<dyn Reader> {
        self.store.reader()
    }
}
