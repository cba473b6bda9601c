//! The shared vocabulary: what a job is.

mod ids;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

pub use ids::{InvalidJobId, JobId, LeaseToken, Name, Position};

use crate::clock::Timestamp;

/// Where a job stands, with what goes with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Its time has not come.
    Scheduled {
        /// When it comes.
        due: Timestamp,
    },
    /// It could run.
    Queued {
        /// Its place among the jobs of its queue and priority: where in the feed it became ready.
        order: Position,
    },
    /// An attempt runs.
    Running {
        /// The attempt's right to report.
        lease: LeaseToken,
    },
    /// An attempt failed, or could not even start, and the next one waits for its time.
    BackingOff {
        /// When it comes.
        due: Timestamp,
    },
    /// An attempt was asked to stop.
    Cancelling {
        /// The attempt's right to report.
        lease: LeaseToken,
    },
    /// The handler did its work.
    Succeeded,
    /// Every attempt failed, or one failed for good.
    Failed,
    /// Cancelled before it succeeded.
    Cancelled,
    /// Its time was over before an attempt started.
    Expired,
}

/// A [`State`] without what goes with it. The numbers are those of the protocol and of the store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum StateName {
    /// See [`State::Scheduled`].
    Scheduled = 1,
    /// See [`State::Queued`].
    Queued = 3,
    /// See [`State::Running`].
    Running = 4,
    /// See [`State::BackingOff`].
    BackingOff = 5,
    /// See [`State::Cancelling`].
    Cancelling = 6,
    /// See [`State::Succeeded`].
    Succeeded = 7,
    /// See [`State::Failed`].
    Failed = 8,
    /// See [`State::Cancelled`].
    Cancelled = 9,
    /// See [`State::Expired`].
    Expired = 10,
}

impl StateName {
    /// Every state, in the order of a job's life.
    pub const ALL: [StateName; 9] = [
        StateName::Scheduled,
        StateName::Queued,
        StateName::Running,
        StateName::BackingOff,
        StateName::Cancelling,
        StateName::Succeeded,
        StateName::Failed,
        StateName::Cancelled,
        StateName::Expired,
    ];

    pub(crate) fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as i64 == number)
    }

    /// Whether a job in this state has ended.
    #[must_use]
    pub const fn is_done(self) -> bool {
        match self {
            StateName::Succeeded | StateName::Failed | StateName::Cancelled | StateName::Expired => true,
            StateName::Scheduled
            | StateName::Queued
            | StateName::Running
            | StateName::BackingOff
            | StateName::Cancelling => false,
        }
    }

    /// The state's name as people and the protocol write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            StateName::Scheduled => "SCHEDULED",
            StateName::Queued => "QUEUED",
            StateName::Running => "RUNNING",
            StateName::BackingOff => "BACKING_OFF",
            StateName::Cancelling => "CANCELLING",
            StateName::Succeeded => "SUCCEEDED",
            StateName::Failed => "FAILED",
            StateName::Cancelled => "CANCELLED",
            StateName::Expired => "EXPIRED",
        }
    }
}

impl fmt::Display for StateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl State {
    /// The state without what goes with it.
    #[must_use]
    pub const fn name(self) -> StateName {
        match self {
            State::Scheduled { .. } => StateName::Scheduled,
            State::Queued { .. } => StateName::Queued,
            State::Running { .. } => StateName::Running,
            State::BackingOff { .. } => StateName::BackingOff,
            State::Cancelling { .. } => StateName::Cancelling,
            State::Succeeded => StateName::Succeeded,
            State::Failed => StateName::Failed,
            State::Cancelled => StateName::Cancelled,
            State::Expired => StateName::Expired,
        }
    }

    /// Whether the job has ended.
    #[must_use]
    pub const fn is_done(self) -> bool {
        self.name().is_done()
    }

    /// The lease of the attempt that runs now.
    #[must_use]
    pub const fn lease(self) -> Option<LeaseToken> {
        match self {
            State::Running { lease } | State::Cancelling { lease } => Some(lease),
            State::Scheduled { .. }
            | State::Queued { .. }
            | State::BackingOff { .. }
            | State::Succeeded
            | State::Failed
            | State::Cancelled
            | State::Expired => None,
        }
    }

    /// When a waiting job's time comes.
    #[must_use]
    pub const fn due(self) -> Option<Timestamp> {
        match self {
            State::Scheduled { due } | State::BackingOff { due } => Some(due),
            State::Queued { .. }
            | State::Running { .. }
            | State::Cancelling { .. }
            | State::Succeeded
            | State::Failed
            | State::Cancelled
            | State::Expired => None,
        }
    }
}

/// How long to wait between attempts.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// The delay after the first failed attempt.
    #[serde(rename = "initial_us", with = "micros")]
    pub initial_delay: Duration,
    /// The longest delay.
    #[serde(rename = "max_us", with = "micros")]
    pub max_delay: Duration,
    /// The growth from one delay to the next.
    pub multiplier: f64,
    /// The random part of a delay: 0 to 1.
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

    /// How long to wait after attempt `attempt` (from 1), with `random` from 0 to 1.
    #[must_use]
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        let growth = self.multiplier.powi(i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX));
        let max_s = self.max_delay.as_secs_f64();
        // Nothing times a growth beyond all numbers would be no number, and not the delay of zero that was asked for.
        let full_s =
            if self.initial_delay.is_zero() { 0.0 } else { self.initial_delay.as_secs_f64() * growth }
                .min(max_s);
        let delay_s = full_s * (1.0 - self.jitter * random);
        Duration::try_from_secs_f64(delay_s).unwrap_or(self.max_delay)
    }

    /// How long to wait where `delay` was asked for, with `random` from 0 to 1: at least that, so that jobs that were
    /// asked for the same do not all come back at once.
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

/// A duration as whole microseconds in the store's text columns.
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

/// What a job is from its submission to its end: all that never changes.
#[derive(Clone, PartialEq, Debug)]
pub struct Spec {
    /// The queue that holds it.
    pub queue: Arc<Name>,
    /// What to do.
    pub kind: Arc<Name>,
    /// −100 to 100; the larger runs first.
    pub priority: i8,
    /// How long to wait between attempts.
    pub retry: RetryPolicy,
    /// How long one attempt may take.
    pub attempt_timeout: Duration,
    /// What it counts against its queue's bytes.
    pub bytes: u64,
    /// When it was accepted.
    pub created: Timestamp,
    /// If no attempt has started by then, the job is over.
    pub expires: Option<Timestamp>,
    /// What few jobs have; absent where a job has none of it.
    pub extras: Option<Box<Extras>>,
}

/// What few jobs have.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Extras {
    /// The client's own names and values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The media type of the payload.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub payload_type: String,
    /// The id that the client gave the submission.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// The W3C trace context of the submission.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub traceparent: String,
    /// Names the closure that runs the job, in the memory of the process that accepted it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub closure: String,
}

impl Spec {
    /// The job's labels.
    #[must_use]
    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.extras.as_ref().map(|extras| &extras.labels)
    }
}

/// A job as it stands after one of its changes.
#[derive(Clone, PartialEq, Debug)]
pub struct Job {
    /// Identifies it.
    pub id: JobId,
    /// What never changes.
    pub spec: Arc<Spec>,
    /// Where it stands.
    pub state: State,
    /// Counts its changes, from 1.
    pub revision: u64,
    /// Where in the feed its latest change is.
    pub position: Position,
    /// How many attempts have started.
    pub attempt: u32,
    /// How many attempts may start.
    pub max_attempts: u32,
    /// When it last changed.
    pub updated: Timestamp,
    /// When its latest attempt started; absent where that went back without having started.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How far its running attempt says it is.
    pub progress: Option<Arc<Progress>>,
    /// Why its latest attempt did not succeed.
    pub failure: Option<Arc<Failure>>,
}

/// How far an attempt says it is.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    /// 0 to 1.
    pub fraction: f64,
    /// One line for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// The name of the step under way.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub step: String,
}

/// Why an attempt, or a job, did not succeed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// Its class.
    pub reason: FailureReason,
    /// What went wrong, for people.
    pub message: String,
    /// The application's own code.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// The exit code of a command, or 128 + the number of the signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Whether another attempt could help.
    pub retryable: bool,
}

/// The class of a failure. The numbers are those of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureReason {
    /// The handler reported an error.
    HandlerError = 1,
    /// The handler panicked.
    Panic = 2,
    /// The attempt took longer than its timeout.
    Timeout = 3,
    /// The server stopped or died while the attempt ran.
    Lost = 4,
    /// The attempt was cancelled.
    Cancelled = 5,
    /// The handler could not be started.
    StartFailed = 6,
    /// The handler returned a result over the cap.
    ResultTooLarge = 7,
}

impl FailureReason {
    /// The reason's name as people and logs write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            FailureReason::HandlerError => "handler error",
            FailureReason::Panic => "panic",
            FailureReason::Timeout => "timeout",
            FailureReason::Lost => "lost",
            FailureReason::Cancelled => "cancelled",
            FailureReason::StartFailed => "start failed",
            FailureReason::ResultTooLarge => "result too large",
        }
    }
}

/// One run of a job that has not succeeded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttemptRecord {
    /// Counts the job's attempts, from 1.
    pub number: u32,
    /// When it started.
    pub started: Timestamp,
    /// When it ended; absent while it runs.
    pub ended: Option<Timestamp>,
    /// Why it did not succeed; absent if it did, or still runs.
    pub failure: Option<Failure>,
}

/// What a handler returned.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Output {
    /// The result itself.
    pub bytes: bytes::Bytes,
    /// Its media type.
    pub media_type: String,
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
