//! Latencies, and the clock that measures them.

use std::time::{Duration, Instant};

/// Returns the present, for measurements.
#[expect(
    clippy::disallowed_methods,
    reason = "the bench measures real time; nothing here is to be tested by moving it"
)]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// A collection of latencies.
#[derive(Debug, Default)]
pub(super) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(super) fn add(&mut self, mut others: Latencies) {
        self.0.append(&mut others.0);
    }

    pub(super) fn push(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    /// Returns a quantile: the latency that this part of them (0 to 1) does not exceed.
    pub(super) fn quantile(&mut self, part: f64) -> Duration {
        self.0.sort_unstable();
        let rank = (part * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}

impl FromIterator<Duration> for Latencies {
    fn from_iter<I: IntoIterator<Item = Duration>>(latencies: I) -> Self {
        Latencies(latencies.into_iter().collect())
    }
}
