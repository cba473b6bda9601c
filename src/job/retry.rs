//! The backoff between attempts.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

/// Backoff between attempts.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
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
    /// The delays after the first, the second and each further failure, in place of growing ones. The last one repeats.
    #[serde(default, rename = "delays_us", skip_serializing_if = "Option::is_none", with = "list")]
    pub delays: Option<Arc<[Duration]>>,
}

impl RetryPolicy {
    /// 1 s, doubling up to 1 h, a fifth of it random.
    pub const DEFAULT: RetryPolicy = RetryPolicy {
        initial_delay: Duration::from_secs(1),
        max_delay: Duration::from_secs(3600),
        multiplier: 2.0,
        jitter: 0.2,
        delays: None,
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

    /// Sets the delays after the first, the second and each further failure. The last one repeats: a single one is a
    /// fixed delay. Without any, the delays grow.
    #[must_use]
    pub fn delays(self, delays: impl IntoIterator<Item = Duration>) -> Self {
        let delays: Arc<[Duration]> = delays.into_iter().collect();
        RetryPolicy { delays: (!delays.is_empty()).then_some(delays), ..self }
    }

    /// Returns the delay after failure `failure` (from 1), with `random` from 0 to 1.
    #[must_use]
    pub fn delay(&self, failure: u32, random: f64) -> Duration {
        let full = self.full_delay(failure.saturating_sub(1));
        let delay_s = full.as_secs_f64() * (1.0 - self.jitter * random);
        Duration::try_from_secs_f64(delay_s).unwrap_or(full)
    }

    /// Returns the longest delay that the policy gives.
    #[must_use]
    pub fn longest_delay(&self) -> Duration {
        let listed = self.delays.as_ref().and_then(|delays| delays.iter().max().copied());
        listed.unwrap_or(self.max_delay)
    }

    /// Returns the delay without its random part, after `earlier` failures before this one.
    fn full_delay(&self, earlier: u32) -> Duration {
        if let Some(delays) = &self.delays {
            let listed = delays.get(earlier as usize).or_else(|| delays.last());
            return listed.copied().unwrap_or_default();
        }
        if self.initial_delay.is_zero() {
            // Zero times infinity would be NaN instead of the delay of zero that was asked for.
            return Duration::ZERO;
        }
        let growth = self.multiplier.powi(i32::try_from(earlier).unwrap_or(i32::MAX));
        let full_s = (self.initial_delay.as_secs_f64() * growth).min(self.max_delay.as_secs_f64());
        Duration::try_from_secs_f64(full_s).unwrap_or(self.max_delay)
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

/// Serialisation of a list of durations as whole microseconds.
mod list {
    use std::{sync::Arc, time::Duration};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        delays: &Option<Arc<[Duration]>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let micros = |delay: &Duration| u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        delays.as_ref().map(|delays| delays.iter().map(micros).collect::<Vec<_>>()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Arc<[Duration]>>, D::Error> {
        let micros = Option::<Vec<u64>>::deserialize(deserializer)?;
        Ok(micros.map(|micros| micros.into_iter().map(Duration::from_micros).collect()))
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

    #[test]
    fn the_first_delays_of_each_policy_are_the_documented_ones() {
        let seconds = |seconds: &[u64]| seconds.iter().map(|s| Duration::from_secs(*s)).collect::<Vec<_>>();
        for (policy, expected) in [
            (RetryPolicy::DEFAULT, [1, 2, 4, 8]),
            (RetryPolicy::DEFAULT.initial_delay(Duration::from_secs(10)).multiplier(3.0), [10, 30, 90, 270]),
            (RetryPolicy::DEFAULT.multiplier(1.0), [1, 1, 1, 1]),
            (RetryPolicy::DEFAULT.delays(seconds(&[30])), [30, 30, 30, 30]),
            (RetryPolicy::DEFAULT.delays(seconds(&[5, 60, 3_600])), [5, 60, 3_600, 3_600]),
            (RetryPolicy::DEFAULT.delays(seconds(&[60, 5])), [60, 5, 5, 5]),
            (RetryPolicy::DEFAULT.delays([]), [1, 2, 4, 8]),
        ] {
            let delays: Vec<_> = (1..=4).map(|failure| policy.delay(failure, 0.0)).collect();
            assert_eq!(delays, seconds(&expected), "{policy:?}");
            let shortest = expected.map(|seconds| Duration::from_millis(seconds * 800));
            let least: Vec<_> = (1..=4).map(|failure| policy.delay(failure, 1.0)).collect();
            assert_eq!(least, shortest, "{policy:?}: a fifth less at most");
        }
    }

    #[test]
    fn a_policy_is_read_back_as_it_was_written() {
        for policy in
            [RetryPolicy::DEFAULT, RetryPolicy::DEFAULT.delays([Duration::from_micros(5), Duration::MAX / 2])]
        {
            let text = serde_json::to_string(&policy).unwrap();
            assert_eq!(text.contains("delays_us"), policy.delays.is_some());
            let read: RetryPolicy = serde_json::from_str(&text).unwrap();
            assert_eq!(read.delays.map(|delays| delays.len()), policy.delays.map(|delays| delays.len()));
        }
    }
}
