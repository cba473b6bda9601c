//! The backoff between attempts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Backoff between attempts.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// The delay after the first failed attempt.
    #[serde(rename = "initial_us", with = "micros")]
    pub initial_delay: Duration,
    /// The longest delay.
    #[serde(rename = "max_us", with = "micros")]
    pub max_delay: Duration,
    /// The factor from one delay to the next.
    pub multiplier: f64,
    /// The random part of a delay, 0 to 1.
    pub jitter: f64,
}

impl RetryPolicy {
    /// 1 s, doubling up to 1 h, a fifth of it random.
    pub const DEFAULT: RetryPolicy = RetryPolicy {
        initial_delay: Duration::from_secs(1),
        max_delay: Duration::from_secs(3600),
        multiplier: 2.0,
        jitter: 0.2,
    };

    /// Sets the delay after the first failed attempt.
    #[must_use]
    pub fn initial_delay(self, initial_delay: Duration) -> Self {
        RetryPolicy { initial_delay, ..self }
    }

    /// Sets the longest delay.
    #[must_use]
    pub fn max_delay(self, max_delay: Duration) -> Self {
        RetryPolicy { max_delay, ..self }
    }

    /// Sets the factor from one delay to the next.
    #[must_use]
    pub fn multiplier(self, multiplier: f64) -> Self {
        RetryPolicy { multiplier, ..self }
    }

    /// Sets the random part of a delay, 0 to 1.
    #[must_use]
    pub fn jitter(self, jitter: f64) -> Self {
        RetryPolicy { jitter, ..self }
    }

    /// Returns the delay after attempt `attempt` (from 1), with `random` from 0 to 1.
    #[must_use]
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        let growth = self.multiplier.powi(i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX));
        let max_s = self.max_delay.as_secs_f64();
        // Zero times infinity would be NaN instead of the delay of zero that was asked for.
        let full_s =
            if self.initial_delay.is_zero() { 0.0 } else { self.initial_delay.as_secs_f64() * growth }
                .min(max_s);
        let delay_s = full_s * (1.0 - self.jitter * random);
        Duration::try_from_secs_f64(delay_s).unwrap_or(self.max_delay)
    }

    /// Returns the delay where the handler asked for `delay`, with `random` from 0 to 1. It is never shorter; jitter
    /// spreads jobs that asked for the same delay.
    #[must_use]
    pub fn at_least(&self, delay: Duration, random: f64) -> Duration {
        let extra_s = delay.as_secs_f64() * self.jitter * random;
        delay.saturating_add(Duration::try_from_secs_f64(extra_s).unwrap_or_default())
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Serialisation of a duration as whole microseconds, for the store's text columns.
mod micros {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_their_limit_and_jitter_only_shortens_them() {
        let policy = RetryPolicy { max_delay: Duration::from_secs(5), ..RetryPolicy::DEFAULT };
        let full: Vec<_> = (1..=5).map(|attempt| policy.delay(attempt, 0.0).as_secs()).collect();
        assert_eq!(full, [1, 2, 4, 5, 5]);
        assert_eq!(policy.delay(3, 1.0), Duration::from_millis(3200));
        assert_eq!(policy.delay(u32::MAX, 0.0), Duration::from_secs(5));
        let at_once = RetryPolicy { initial_delay: Duration::ZERO, ..policy };
        assert_eq!(at_once.delay(1_000_000, 0.0), Duration::ZERO);
    }
}
