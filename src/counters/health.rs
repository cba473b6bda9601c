//! Readiness of the server.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{clock::Uptime, store::Space};

/// Duration of a batch from which on the disk counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(5);
/// Duration of another program's lock from which on the server is not ready.
const LOCKED_AFTER: Duration = Duration::from_secs(1);

/// The state that decides whether the server is ready.
#[derive(Debug)]
pub(crate) struct Health {
    /// Cancelled when the drain begins.
    draining: CancellationToken,
    /// Start of the batch that is being applied, in microseconds of uptime; 0 between batches.
    applying_since: AtomicU64,
    /// First time at which a batch found the database locked by another program, in microseconds of uptime; 0 if it is
    /// not.
    locked_since: AtomicU64,
    /// Whether the latest batch found too little space for new jobs.
    disk_full: AtomicBool,
    /// Notified when a readiness check needs a new look at the disk space.
    asked: Notify,
}

/// Reason why a server is not ready.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum NotReady {
    /// The server drains.
    #[error("the server is draining: it takes no new jobs")]
    Draining,
    /// The disk has not taken the latest batch.
    #[error("the disk has not taken the latest batch for {} s", .0.as_secs())]
    Stuck(Duration),
    /// Another program holds the database's lock.
    #[error(
        "another program has held the database's lock for {} s: the server continues once it is released; the log \
         names the program if the system reports it", .0.as_secs()
    )]
    Locked(Duration),
    /// New jobs are refused.
    #[error("the disk is full, or nearly so: new jobs are refused")]
    DiskFull,
}

impl Health {
    pub(crate) fn new(draining: CancellationToken) -> Self {
        Health {
            draining,
            applying_since: AtomicU64::new(0),
            locked_since: AtomicU64::new(0),
            disk_full: AtomicBool::new(false),
            asked: Notify::new(),
        }
    }

    /// Records the disk space at the start of a batch.
    pub(crate) fn disk(&self, space: Space) {
        self.disk_full.store(space != Space::Enough, Ordering::Relaxed);
    }

    /// Returns once a readiness check needs a new look at the disk space. While the server is not ready, clients may
    /// submit nothing, and without a batch the state would never change.
    pub(crate) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Records the start of a batch.
    pub(crate) fn batch_begins(&self, now: Uptime) {
        self.applying_since.store(now.as_micros().max(1), Ordering::Relaxed);
    }

    /// Records the end of a batch.
    pub(crate) fn batch_ended(&self) {
        self.applying_since.store(0, Ordering::Relaxed);
    }

    /// Records that a batch found the database locked by another program.
    pub(crate) fn lock_is_taken(&self, now: Uptime) {
        // The time of the first such batch is kept.
        let _ = self.locked_since.compare_exchange(
            0,
            now.as_micros().max(1),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    /// Records that a batch was applied, so that the database is not locked.
    pub(crate) fn lock_is_free(&self) {
        self.locked_since.store(0, Ordering::Relaxed);
    }

    /// Returns how long another program has held the database's lock.
    pub(crate) fn locked_for(&self, now: Uptime) -> Duration {
        match self.locked_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => now.since(Uptime::new(Duration::from_micros(since))),
        }
    }

    /// Checks whether the server is ready.
    ///
    /// # Errors
    /// The reason why the server is not ready.
    pub(crate) fn ready(&self, now: Uptime) -> Result<(), NotReady> {
        if self.draining.is_cancelled() {
            return Err(NotReady::Draining);
        }
        let since = self.applying_since.load(Ordering::Relaxed);
        let applying = now.since(Uptime::new(Duration::from_micros(since)));
        if since != 0 && applying >= STUCK_AFTER {
            return Err(NotReady::Stuck(applying));
        }
        let locked = self.locked_for(now);
        if locked >= LOCKED_AFTER {
            return Err(NotReady::Locked(locked));
        }
        if self.disk_full.load(Ordering::Relaxed) {
            self.asked.notify_one();
            return Err(NotReady::DiskFull);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_until_the_drain_or_while_a_batch_hangs() {
        let draining = CancellationToken::new();
        let health = Health::new(draining.clone());
        let start = Uptime::new(Duration::from_secs(1));
        assert_eq!(health.ready(start), Ok(()));
        health.batch_begins(start);
        assert_eq!(health.ready(start.after(STUCK_AFTER / 2)), Ok(()));
        assert_eq!(health.ready(start.after(STUCK_AFTER)), Err(NotReady::Stuck(STUCK_AFTER)));
        health.batch_ended();
        assert_eq!(health.ready(start.after(STUCK_AFTER)), Ok(()));
        health.lock_is_taken(start);
        assert_eq!(health.ready(start), Ok(()));
        health.lock_is_taken(start.after(LOCKED_AFTER));
        assert_eq!(health.ready(start.after(LOCKED_AFTER)), Err(NotReady::Locked(LOCKED_AFTER)));
        health.lock_is_free();
        assert_eq!(health.ready(start.after(LOCKED_AFTER)), Ok(()));
        draining.cancel();
        assert_eq!(health.ready(start), Err(NotReady::Draining));
    }
}
