//! What becomes of connections, in numbers; and now and then in words.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::clock::{Clock, Uptime};

/// A flood of refusals is worth one line in this time, for each reason.
const NOTICE_EVERY: std::time::Duration = std::time::Duration::from_secs(10);

/// Why a connection was refused, or cut before it said anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// As many connections were open as may be.
    TooMany,
    /// It was still pending, or had made no call that was let in, when there were as many as may be and a newer one came.
    GaveWay,
    /// Its handshake or its first bytes did not come in time.
    TooSlow,
    /// The peer closed it before it said anything, as a TCP probe does.
    Left,
    /// Its TLS handshake failed, or it broke before it said anything.
    Handshake,
    /// The system could not give the connection: it has no file descriptor or memory left. Counts tries, not
    /// connections, which wait until one succeeds.
    NoResources,
}

impl Refused {
    /// All reasons.
    pub const ALL: [Refused; 6] = [
        Refused::TooMany,
        Refused::GaveWay,
        Refused::TooSlow,
        Refused::Left,
        Refused::Handshake,
        Refused::NoResources,
    ];

    /// A word for it, such as `too_many`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Refused::TooMany => "too_many",
            Refused::GaveWay => "gave_way",
            Refused::TooSlow => "too_slow",
            Refused::Left => "left",
            Refused::Handshake => "handshake",
            Refused::NoResources => "no_resources",
        }
    }
}

/// Counts of a server's connections since its start, and how many there are now.
#[derive(Debug, Default)]
pub struct ListenStats {
    accepted: AtomicU64,
    open: AtomicU64,
    pending: AtomicU64,
    refused: [AtomicU64; Refused::ALL.len()],
}

impl ListenStats {
    /// How many connections the system gave, those that were refused later included.
    #[must_use]
    pub fn accepted_total(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// How many are open now, pending ones included.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// How many have not said anything yet.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    /// How many were refused for this reason.
    #[must_use]
    pub fn refused_total(&self, why: Refused) -> u64 {
        self.refused[why as usize].load(Ordering::Relaxed)
    }

    pub(super) fn accepted(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self, why: Refused) {
        self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// A part of a count that ends with this.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) stats: Arc<ListenStats>,
    of: fn(&ListenStats) -> &AtomicU64,
}

impl Place {
    fn take(stats: &Arc<ListenStats>, of: fn(&ListenStats) -> &AtomicU64) -> Self {
        of(stats).fetch_add(1, Ordering::Relaxed);
        Place { stats: Arc::clone(stats), of }
    }

    /// A connection is open.
    pub(super) fn open(stats: &Arc<ListenStats>) -> Self {
        Place::take(stats, |stats| &stats.open)
    }

    /// A connection is pending.
    pub(super) fn pending(stats: &Arc<ListenStats>) -> Self {
        Place::take(stats, |stats| &stats.pending)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        (self.of)(&self.stats).fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tells the log of refusals, at a bounded rate.
#[derive(Debug)]
pub(super) struct Notice {
    clock: Clock,
    stats: Arc<ListenStats>,
    /// When each reason was told last, and how many there had been.
    told: [Option<(Uptime, u64)>; Refused::ALL.len()],
}

impl Notice {
    pub(super) fn new(clock: Clock, stats: Arc<ListenStats>) -> Self {
        Notice { clock, stats, told: [None; Refused::ALL.len()] }
    }

    /// Tells one that has been counted, if it is time.
    pub(super) fn tell(&mut self, why: Refused, latest: impl FnOnce() -> String) {
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
        for (count, why) in Refused::ALL.into_iter().enumerate() {
            (0..=count).for_each(|_| stats.refused(why));
        }
        let counts = Refused::ALL.map(|why| stats.refused_total(why));
        assert_eq!(counts, [1, 2, 3, 4, 5, 6]);
    }
}
