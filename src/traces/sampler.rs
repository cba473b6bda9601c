//! Sampling of submissions that come without a trace context.

use parking_lot::Mutex;

use crate::clock::Timestamp;

/// Limit of the jobs per second whose traces the server begins, which bounds their cost.
const JOBS_PER_SECOND_MAX: u64 = 100;
const SECOND_MICROS: i64 = 1_000_000;

/// Jobs that were traced recently.
#[derive(Debug, Default)]
struct Recent {
    /// The second, since 1970.
    second: i64,
    /// The jobs traced in this second, and the excess of larger batches in earlier ones.
    jobs: u64,
}

/// The sampling decision for submissions whose callers made none.
#[derive(Debug)]
pub(super) struct Sampler {
    ratio: f64,
    recent: Mutex<Recent>,
}

impl Sampler {
    /// Creates a sampler that traces this share of submissions, 0 to 1.
    pub(super) fn new(ratio: f64) -> Self {
        Sampler { ratio, recent: Mutex::default() }
    }

    /// Decides whether a submission of `jobs` jobs begins a trace.
    pub(super) fn begins_a_trace(&self, jobs: usize, now: Timestamp) -> bool {
        if self.ratio <= 0.0 || (self.ratio < 1.0 && rand::random::<f64>() >= self.ratio) {
            return false;
        }
        let second = now.as_micros().div_euclid(SECOND_MICROS);
        let mut recent = self.recent.lock();
        let passed = u64::try_from(second - recent.second).unwrap_or(0);
        recent.jobs = recent.jobs.saturating_sub(passed.saturating_mul(JOBS_PER_SECOND_MAX));
        recent.second = second;
        let begins = recent.jobs < JOBS_PER_SECOND_MAX;
        if begins {
            recent.jobs += jobs as u64;
        }
        begins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_a_bound_and_the_next_one_starts_anew() {
        let sampler = Sampler::new(1.0);
        let begun = |second: i64| {
            let now = Timestamp::from_micros(second * SECOND_MICROS);
            (0..1_000).filter(|_| sampler.begins_a_trace(1, now)).count()
        };
        assert_eq!(begun(1), JOBS_PER_SECOND_MAX as usize);
        assert_eq!(begun(1), 0);
        assert_eq!(begun(2), JOBS_PER_SECOND_MAX as usize);
    }

    #[test]
    fn a_large_batch_uses_up_the_seconds_to_come() {
        let sampler = Sampler::new(1.0);
        let begins = |second: i64| {
            let now = Timestamp::from_micros(second * SECOND_MICROS);
            sampler.begins_a_trace(10 * JOBS_PER_SECOND_MAX as usize, now)
        };
        assert_eq!((1..=21).filter(|second| begins(*second)).collect::<Vec<_>>(), [1, 11, 21]);
    }

    #[test]
    fn a_ratio_of_zero_begins_none() {
        let sampler = Sampler::new(0.0);
        assert!((0..1_000).all(|_| !sampler.begins_a_trace(1, Timestamp::from_micros(1))));
    }
}
