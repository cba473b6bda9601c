//! Reports of attempts, and the record of an ended one.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    ids::{JobId, LeaseToken},
    worker::LeaseOwner,
};
use crate::clock::Timestamp;

/// Progress reported by an attempt.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Completed fraction, 0 to 1; absent if not reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fraction: Option<f64>,
    /// One line of text for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
    /// The name of the step under way.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub step: String,
}

/// Reason for which an attempt, or a job, did not succeed.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// The class of the failure.
    pub reason: FailureReason,
    /// Description of the failure, for people.
    pub message: String,
    /// The application's own code.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub code: String,
    /// The exit code of a command, or 128 + the number of the signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Whether another attempt could succeed.
    pub retryable: bool,
    /// The job on which the failed one depended, if that is the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<JobId>,
}

/// The class of a failure. The numbers are those of the protocol.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
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
    /// The worker handed the job back after it had started.
    Released = 8,
    /// The job's deadline left no time for another attempt.
    Deadline = 9,
    /// The job was snoozed more often than it may be.
    SnoozedOut = 10,
    /// The process that ran the job died too often.
    Poison = 11,
    /// A dependency of the job can't hold any more.
    Dependency = 12,
}

impl FailureReason {
    /// Returns the reason's name as people and logs write it.
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
            FailureReason::Released => "released",
            FailureReason::Deadline => "deadline",
            FailureReason::SnoozedOut => "snoozed out",
            FailureReason::Poison => "poison",
            FailureReason::Dependency => "dependency",
        }
    }
}

/// One attempt of a job.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AttemptRecord {
    /// Number of the attempt, from 1.
    pub number: u32,
    /// Time at which the attempt started.
    pub started: Timestamp,
    /// Time at which the attempt ended; absent while it runs.
    pub ended: Option<Timestamp>,
    /// The failure; absent if the attempt succeeded or still runs.
    pub failure: Option<Failure>,
    /// The process of a remote worker that ran the attempt; absent if the server ran it itself.
    pub worker: Option<Arc<LeaseOwner>>,
    /// The attempt's lease, if the worker has ended it by its own report.
    pub reported: Option<LeaseToken>,
}
