//! What an attempt tells, and what is kept of it.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// How far an attempt says it is.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    /// 0 to 1; absent where it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fraction: Option<f64>,
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
