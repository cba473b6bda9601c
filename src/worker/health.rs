//! The state of a worker, for health pages and metrics.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    clock::{Clock, Uptime},
    proto::v1::report::Report,
};

/// Counters of a worker's jobs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Counts {
    /// Attempts that have started.
    pub started: u64,
    /// Attempts that have succeeded.
    pub succeeded: u64,
    /// Attempts that have failed, including those whose handler panicked.
    pub failed: u64,
    /// Attempts that asked to be run again later.
    pub snoozed: u64,
    /// Jobs that were handed back: most of them before they had started, and some when the worker was shut down.
    pub released: u64,
    /// Leases that were lost while their attempts ran, or before their ends were reported.
    pub lost: u64,
}

impl Counts {
    pub(super) fn ended(&mut self, report: &Report) {
        match report {
            Report::Completed(_) => self.succeeded += 1,
            Report::Failed(_) => self.failed += 1,
            Report::Snoozed(_) => self.snoozed += 1,
            Report::Released(_) => self.released += 1,
            Report::Received(_) | Report::Heartbeat(_) | Report::Output(_) => {}
        }
    }
}

/// What a worker has done, when it has ended as it was told to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Summary {
    /// The counters of its jobs.
    pub counts: Counts,
    /// Attempts whose ends the server has not confirmed: it was not reached in time. They end as lost.
    pub unreported: u64,
}

/// A session's numbers at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Numbers {
    pub(super) connected: bool,
    pub(super) draining: bool,
    pub(super) answered: Option<Uptime>,
    pub(super) ping_every: Duration,
    pub(super) running: usize,
    pub(super) unreported: usize,
    pub(super) counts: Counts,
}

/// A handle on the state of a worker. Clones share it.
#[derive(Clone, Debug)]
pub struct Health(pub(super) Arc<State>);

#[derive(Debug)]
pub(super) struct State {
    pub(super) clock: Clock,
    numbers: Mutex<Numbers>,
    /// Notified when a stream is welcomed.
    welcomed: Notify,
    streams: AtomicU64,
}

impl Health {
    pub(super) fn new(clock: Clock) -> Self {
        let (numbers, welcomed, streams) = Default::default();
        Health(Arc::new(State { clock, numbers, welcomed, streams }))
    }

    fn numbers(&self) -> Numbers {
        *self.0.numbers.lock()
    }

    /// Whether the server has welcomed the worker on a stream that is still open.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.numbers().connected
    }

    /// Returns once the worker is connected. Its kinds are then known to the server.
    pub async fn connected(&self) {
        loop {
            let welcomed = self.0.welcomed.notified();
            if self.is_connected() {
                return;
            }
            welcomed.await;
        }
    }

    /// Whether the worker takes no more jobs, because it is about to end.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.numbers().draining
    }

    /// Whether the server has answered a heartbeat or a ping within three intervals of pings. A worker for which this
    /// is false gets no jobs, and its leases run out.
    #[must_use]
    pub fn is_live(&self) -> bool {
        let ping_every = self.numbers().ping_every;
        self.is_connected() && self.last_answer().is_some_and(|ago| ago < ping_every * 3)
    }

    /// The time since the server last answered a heartbeat or a ping. `None` if it never has.
    #[must_use]
    pub fn last_answer(&self) -> Option<Duration> {
        self.numbers().answered.map(|answered| self.0.clock.uptime().since(answered))
    }

    /// The number of handlers that run.
    #[must_use]
    pub fn running(&self) -> u64 {
        self.numbers().running as u64
    }

    /// The number of ended attempts whose ends the server has not confirmed.
    #[must_use]
    pub fn unreported(&self) -> u64 {
        self.numbers().unreported as u64
    }

    /// The number of streams on which the server has welcomed the worker.
    #[must_use]
    pub fn streams(&self) -> u64 {
        self.0.streams.load(Relaxed)
    }

    /// The counters since the worker's start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.numbers().counts
    }
}

impl State {
    /// Takes over a session's present numbers.
    pub(super) fn update(&self, numbers: Numbers) {
        let before = std::mem::replace(&mut *self.numbers.lock(), numbers);
        if numbers.connected && !before.connected {
            self.streams.fetch_add(1, Relaxed);
            self.welcomed.notify_waiters();
        }
    }
}
