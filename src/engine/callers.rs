//! Callers that submit, how they say that they leave, and the places of their offers that wait.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Names a caller within this process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct CallerId(u64);

#[cfg(test)]
impl CallerId {
    pub(super) fn new(number: u64) -> Self {
        CallerId(number)
    }

    pub(super) fn number(self) -> u64 {
        self.0
    }
}

/// A call that submits, for as long as its client is there. All offers of a stream have one caller.
#[derive(Debug)]
pub(crate) struct Caller {
    id: CallerId,
    /// Absent once nothing of the caller can wait any more.
    departures: Option<Arc<Departures>>,
}

/// Callers that have left, until the committer hears of them.
#[derive(Debug, Default)]
pub(crate) struct Departures {
    last_id: AtomicU64,
    gone: Mutex<Vec<CallerId>>,
    told: Notify,
}

impl Departures {
    /// A new caller.
    pub(crate) fn caller(self: &Arc<Self>) -> Caller {
        let id = CallerId(self.last_id.fetch_add(1, Ordering::Relaxed) + 1);
        Caller { id, departures: Some(Arc::clone(self)) }
    }

    /// Returns once a caller has left since the last call of [`Departures::take`].
    pub(crate) async fn told(&self) {
        self.told.notified().await;
    }

    pub(super) fn take(&self) -> Vec<CallerId> {
        std::mem::take(&mut *self.gone.lock())
    }
}

impl Caller {
    /// Its name.
    pub(crate) fn id(&self) -> CallerId {
        self.id
    }

    /// All its offers are answered: nothing is left to be looked for.
    pub(crate) fn disarm(mut self) {
        self.departures = None;
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if let Some(departures) = self.departures.take() {
            departures.gone.lock().push(self.id);
            departures.told.notify_one();
        }
    }
}

/// An offer's place among those that wait, from when it is parked until it is answered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Seat {
    pub(super) queue: u32,
    pub(super) turn: u64,
}

impl Seat {
    /// The queue in whose line it is.
    pub(super) fn queue(self) -> u32 {
        self.queue
    }

    /// Whether it is in this queue's line.
    pub(super) fn is_in(self, queue: u32) -> bool {
        self.queue == queue
    }
}
