//! Submitting callers, the notice of their disconnect, and the places of their waiting offers.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::job::Participant;

/// Identifier of a caller within this process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct CallerId(u64);

impl CallerId {
    /// The schedules of the store: all their offers in a line count as one caller.
    pub(super) const SCHEDULES: CallerId = CallerId(u64::MAX);
}

#[cfg(test)]
impl CallerId {
    pub(super) fn new(number: u64) -> Self {
        CallerId(number)
    }

    pub(super) fn number(self) -> u64 {
        self.0
    }
}

/// A submitting call, for as long as its client is connected. All offers of a stream have one caller.
#[derive(Debug)]
pub(crate) struct Caller {
    id: CallerId,
    /// Absent once no offer of the caller can wait any more.
    departures: Option<Arc<Departures>>,
}

/// Callers that have disconnected, until the committer takes notice of them.
#[derive(Debug, Default)]
pub(crate) struct Departures {
    last_id: AtomicU64,
    gone: Mutex<Vec<CallerId>>,
    told: Notify,
}

impl Departures {
    /// Creates a caller.
    pub(crate) fn caller(self: &Arc<Self>) -> Caller {
        let id = CallerId(self.last_id.fetch_add(1, Ordering::Relaxed) + 1);
        Caller { id, departures: Some(Arc::clone(self)) }
    }

    /// Returns once a caller has disconnected since the last call of [`Departures::take`].
    pub(crate) async fn told(&self) {
        self.told.notified().await;
    }

    pub(super) fn take(&self) -> Vec<CallerId> {
        std::mem::take(&mut *self.gone.lock())
    }
}

impl Caller {
    /// Returns the caller's identifier.
    pub(crate) fn id(&self) -> CallerId {
        self.id
    }

    /// Drops the caller without a notice, because all its offers are answered.
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

/// An offer's place in a queue's waiting line, from when it is parked until it is answered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Seat {
    pub(super) queue: u32,
    /// The participant in the turns of a fair queue.
    pub(super) participant: Participant,
    pub(super) turn: u64,
}

impl Seat {
    /// Returns the queue of the waiting line.
    pub(super) fn queue(self) -> u32 {
        self.queue
    }

    /// Returns whether the place is in this queue's waiting line.
    pub(super) fn is_in(self, queue: u32) -> bool {
        self.queue == queue
    }
}
