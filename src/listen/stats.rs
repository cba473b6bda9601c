//! Counters of connections, and rate-limited log lines about refusals.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::clock::{Clock, Uptime};

/// Shortest interval between two log lines of the same refusal reason.
const NOTICE_EVERY: std::time::Duration = std::time::Duration::from_secs(10);

/// The reason why a connection was refused, or closed before it sent anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusalReason {
    /// The connection limit was reached.
    TooMany,
    /// The connection was pending, or had no admitted call, when the limit was reached and a newer one arrived.
    GaveWay,
    /// The handshake or the first bytes did not arrive in time.
    TooSlow,
    /// The peer closed the connection before it sent anything, as a TCP probe does.
    Left,
    /// The TLS handshake failed, or the connection broke before it sent anything.
    Handshake,
    /// The system could not provide the connection, for lack of file descriptors or memory. Counts attempts, not
    /// connections: these wait until an attempt succeeds.
    NoResources,
}

impl RefusalReason {
    /// All reasons.
    pub const ALL: [RefusalReason; 6] = [
        RefusalReason::TooMany,
        RefusalReason::GaveWay,
        RefusalReason::TooSlow,
        RefusalReason::Left,
        RefusalReason::Handshake,
        RefusalReason::NoResources,
    ];

    /// Returns the reason's name, such as `too_many`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            RefusalReason::TooMany => "too_many",
            RefusalReason::GaveWay => "gave_way",
            RefusalReason::TooSlow => "too_slow",
            RefusalReason::Left => "left",
            RefusalReason::Handshake => "handshake",
            RefusalReason::NoResources => "no_resources",
        }
    }
}

/// Counters of a server's connections: totals since its start, and current numbers.
#[derive(Debug, Default)]
pub struct ListenStats {
    accepted: AtomicU64,
    open: AtomicU64,
    pending: AtomicU64,
    refused: [AtomicU64; RefusalReason::ALL.len()],
}

impl ListenStats {
    /// The number of accepted connections, including those that were refused later.
    #[must_use]
    pub fn accepted_total(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// The number of open connections, including pending ones.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// The number of pending connections: those that have not sent anything yet.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    /// The number of connections refused for this reason.
    #[must_use]
    pub fn refused_total(&self, why: RefusalReason) -> u64 {
        self.refused[why as usize].load(Ordering::Relaxed)
    }

    pub(super) fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self, why: RefusalReason) {
        self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// A guard that counts one connection until it is dropped.
#[derive(Debug)]
pub(super) struct CountGuard {
    pub(super) stats: Arc<ListenStats>,
    of: fn(&ListenStats) -> &AtomicU64,
}

impl CountGuard {
    fn take(stats: &Arc<ListenStats>, of: fn(&ListenStats) -> &AtomicU64) -> Self {
        of(stats).fetch_add(1, Ordering::Relaxed);
        CountGuard { stats: Arc::clone(stats), of }
    }

    /// Counts an open connection.
    pub(super) fn open(stats: &Arc<ListenStats>) -> Self {
        CountGuard::take(stats, |stats| &stats.open)
    }

    /// Counts a pending connection.
    pub(super) fn pending(stats: &Arc<ListenStats>) -> Self {
        CountGuard::take(stats, |stats| &stats.pending)
    }
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        (self.of)(&self.stats).fetch_sub(1, Ordering::Relaxed);
    }
}

/// Rate-limited logging of refusals.
#[derive(Debug)]
pub(super) struct RefusalLog {
    clock: Clock,
    stats: Arc<ListenStats>,
    /// The time and the total of each reason's last log line.
    told: [Option<(Uptime, u64)>; RefusalReason::ALL.len()],
}

impl RefusalLog {
    pub(super) fn new(clock: Clock, stats: Arc<ListenStats>) -> Self {
        RefusalLog { clock, stats, told: [None; RefusalReason::ALL.len()] }
    }

    /// Logs the refusals since the last line, at most once in [`NOTICE_EVERY`] for each reason.
    pub(super) fn tell(&mut self, why: RefusalReason, latest: impl FnOnce() -> String) {
        let now = self.clock.uptime();
        let total = self.stats.refused_total(why);
        let before = match self.told[why as usize] {
            Some((at, _)) if now.since(at) < NOTICE_EVERY => return,
            Some((_, before)) => before,
            None => 0,
        };
        self.told[why as usize] = Some((now, total));
        let count = total - before;
        tracing::warn!(reason = why.as_str(), count, latest = latest(), "refused connections");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_places_of_their_own() {
        let stats = ListenStats::default();
        for (count, why) in RefusalReason::ALL.into_iter().enumerate() {
            (0..=count).for_each(|_| stats.refused(why));
        }
        let counts = RefusalReason::ALL.map(|why| stats.refused_total(why));
        assert_eq!(counts, [1, 2, 3, 4, 5, 6]);
    }
}
