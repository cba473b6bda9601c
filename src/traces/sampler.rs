//! Which submissions without a context of their own begin a trace.

use parking_lot::Mutex;

use crate::clock::Timestamp;

/// The server itself begins at most so many traces a second, so that what they cost has a bound.
const BEGUN_PER_SECOND_MAX: u32 = 100;
const SECOND_MICROS: i64 = 1_000_000;

/// Decides for those whose callers have not.
#[derive(Debug)]
pub(super) struct Sampler {
    ratio: f64,
    /// The second, since 1970, and how many traces have begun in it.
    begun: Mutex<(i64, u32)>,
}

impl Sampler {
    /// Of so many submissions, 0 to 1.
    pub(super) fn new(ratio: f64) -> Self {
        Sampler { ratio, begun: Mutex::default() }
    }

    /// Whether this one begins a trace.
    pub(super) fn begins_a_trace(&self, now: Timestamp) -> bool {
        if self.ratio <= 0.0 || (self.ratio < 1.0 && rand::random::<f64>() >= self.ratio) {
            return false;
        }
        let second = now.as_micros().div_euclid(SECOND_MICROS);
        let mut begun = self.begun.lock();
        if begun.0 != second {
            *begun = (second, 0);
        }
        begun.1 += 1;
        begun.1 <= BEGUN_PER_SECOND_MAX
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
            (0..1_000).filter(|_| sampler.begins_a_trace(now)).count()
        };
        assert_eq!(begun(1), BEGUN_PER_SECOND_MAX as usize);
        assert_eq!(begun(1), 0);
        assert_eq!(begun(2), BEGUN_PER_SECOND_MAX as usize);
    }

    #[test]
    fn a_ratio_of_zero_begins_none() {
        let sampler = Sampler::new(0.0);
        assert!((0..1_000).all(|_| !sampler.begins_a_trace(Timestamp::from_micros(1))));
    }
}
