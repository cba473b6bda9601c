//! The client's original input for a job, where the job itself no longer shows it.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::retry::RetryPolicy;
use crate::clock::Timestamp;

/// The client's original input that the job itself does not show: which values were given and which are defaults, and
/// relative times as given.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientInput {
    /// Whether a priority was given, even if it was 0.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub priority: bool,
    /// The number of attempts, if given; a retry may raise the job's own number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// Whether a timeout of an attempt was given.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub attempt_timeout: bool,
    /// The parts of the retry policy that were given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<PartialRetryPolicy>,
    /// The start time, if given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<When>,
    /// The expiry time, if given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expiry: Option<When>,
    /// The deadline, if given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<When>,
    /// The limit of snoozes, if given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_snoozes: Option<u32>,
    /// The limit of process losses, if given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_process_losses: Option<u32>,
}

impl ClientInput {
    /// Returns whether the job itself shows all of the client's input.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let ClientInput {
            priority,
            max_attempts,
            attempt_timeout,
            retry,
            start,
            expiry,
            deadline,
            max_snoozes,
            max_process_losses,
        } = self;
        let counts = [max_attempts, max_snoozes, max_process_losses];
        !(*priority || *attempt_timeout)
            && counts.into_iter().all(Option::is_none)
            && [start, expiry, deadline].into_iter().all(Option::is_none)
            && retry.is_none()
    }
}

/// An instant as a client gives it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// A wall-clock time.
    At(Timestamp),
    /// A duration after the job was accepted.
    After(Duration),
}

impl From<Timestamp> for When {
    fn from(instant: Timestamp) -> Self {
        When::At(instant)
    }
}

impl When {
    /// Returns the instant for a job that is accepted at `created`.
    #[must_use]
    pub fn instant(self, created: Timestamp) -> Timestamp {
        match self {
            When::At(instant) => instant,
            When::After(delay) => created.after(delay),
        }
    }
}

/// A retry policy with parts that may be absent.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PartialRetryPolicy {
    /// The delay after the first failed attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_delay: Option<Duration>,
    /// The longest delay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_delay: Option<Duration>,
    /// The factor from one delay to the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multiplier: Option<f64>,
    /// The random part of a delay, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<f64>,
    /// The delays after the first, the second and each further failure, in place of growing ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delays: Option<Arc<[Duration]>>,
}

impl PartialRetryPolicy {
    /// Fills absent parts from the defaults. Since the longest delay is never shorter than the first one, a default is
    /// adapted to the part that was given. A policy with a part that tells how delays grow does not take the listed
    /// delays of the defaults.
    #[must_use]
    pub fn or(self, defaults: &RetryPolicy) -> RetryPolicy {
        let grows = self.initial_delay.is_some() || self.max_delay.is_some() || self.multiplier.is_some();
        let mut initial_delay = self.initial_delay.unwrap_or(defaults.initial_delay);
        let mut max_delay = self.max_delay.unwrap_or(defaults.max_delay);
        if max_delay < initial_delay {
            match self.max_delay {
                Some(said) => initial_delay = said,
                None => max_delay = initial_delay,
            }
        }
        RetryPolicy {
            initial_delay,
            max_delay,
            multiplier: self.multiplier.unwrap_or(defaults.multiplier),
            jitter: self.jitter.unwrap_or(defaults.jitter),
            delays: self.delays.or_else(|| defaults.delays.clone().filter(|_| !grows)),
        }
    }
}

impl From<RetryPolicy> for PartialRetryPolicy {
    fn from(policy: RetryPolicy) -> Self {
        let RetryPolicy { initial_delay, max_delay, multiplier, jitter, delays } = policy;
        PartialRetryPolicy {
            initial_delay: Some(initial_delay),
            max_delay: Some(max_delay),
            multiplier: Some(multiplier),
            jitter: Some(jitter),
            delays,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_policy_takes_the_rest_from_the_defaults_which_give_way() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let defaults =
            RetryPolicy { max_delay: Duration::from_secs(10), jitter: 0.5, ..RetryPolicy::DEFAULT };
        let policy =
            PartialRetryPolicy { initial_delay: seconds(2), ..PartialRetryPolicy::default() }.or(&defaults);
        assert_eq!(policy, RetryPolicy { initial_delay: Duration::from_secs(2), ..defaults.clone() });
        let policy =
            PartialRetryPolicy { initial_delay: seconds(60), ..PartialRetryPolicy::default() }.or(&defaults);
        assert_eq!(
            (policy.initial_delay, policy.max_delay),
            (Duration::from_secs(60), Duration::from_secs(60))
        );
        let said = PartialRetryPolicy { max_delay: Some(Duration::ZERO), ..PartialRetryPolicy::default() };
        assert_eq!(said.or(&defaults).initial_delay, Duration::ZERO);
        let listed = defaults.clone().delays([Duration::from_secs(7)]);
        assert_eq!(PartialRetryPolicy::default().or(&listed), listed);
        let grows = PartialRetryPolicy { multiplier: Some(3.0), ..PartialRetryPolicy::default() };
        assert_eq!(grows.or(&listed).delays, None);
        assert_eq!(PartialRetryPolicy::from(defaults.clone()).or(&RetryPolicy::DEFAULT), defaults);
    }

    #[test]
    fn a_relative_instant_counts_from_when_the_job_was_accepted() {
        let created = Timestamp::from_micros(5);
        assert_eq!(When::After(Duration::from_micros(3)).instant(created), Timestamp::from_micros(8));
        assert_eq!(When::At(created).instant(Timestamp::MAX), created);
    }
}
