//! Unique keys on the command line: the options of `submit`, the fields of a stream's line, and their names.

use std::time::Duration;

use serde::Deserialize;

use super::values;
use jobmill::{
    client::to_wire_duration,
    proto::v1::{Debounce, OnConflict, UniqueKey, UniqueScope},
};

/// The unique key of a job.
#[derive(Debug, clap::Args)]
pub(super) struct UniqueArgs {
    /// Unique key of the job, which at most one job holds at a time
    #[arg(long, value_name = "KEY")]
    unique_key: Option<String>,
    /// Scope of the unique key. Default: the jobs of the kind
    #[arg(long, value_enum, value_name = "SCOPE", requires = "unique_key")]
    unique_scope: Option<ScopeArg>,
    /// What to do if a job holds the unique key that has never started. Default: existing; with --debounce or --throttle
    /// replace
    #[arg(long, value_enum, value_name = "HOW", requires = "unique_key")]
    on_waiting: Option<PolicyArg>,
    /// What to do if a job holds the unique key that has started. Default: as --on-waiting, and follow in place of replace
    #[arg(long, value_enum, value_name = "HOW", requires = "unique_key")]
    on_started: Option<PolicyArg>,
    /// Hold the unique key for this time after the job's end
    #[arg(long, value_name = "DURATION", value_parser = values::positive_duration, requires = "unique_key")]
    hold: Option<Duration>,
    /// Start the job once this time has passed without a further submission with its unique key
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = values::positive_duration,
        requires = "unique_key",
        conflicts_with_all = ["run_at", "delay", "throttle"]
    )]
    debounce: Option<Duration>,
    /// With --debounce: start the job this time after its first submission at the latest. Default: 10 times as long as
    /// --debounce
    #[arg(long, value_name = "DURATION", value_parser = values::positive_duration, requires = "debounce")]
    max_wait: Option<Duration>,
    /// Start at most one job with the unique key in each such period; of those submitted meanwhile the latest runs next
    #[arg(long, value_name = "DURATION", value_parser = values::positive_duration, requires = "unique_key")]
    throttle: Option<Duration>,
}

impl UniqueArgs {
    pub(super) fn to_wire(&self) -> Option<UniqueKey> {
        let wire = |time: Option<Duration>| time.map(to_wire_duration);
        let policy = |policy: Option<PolicyArg>| policy.map_or(OnConflict::Unspecified, PolicyArg::to_wire);
        Some(UniqueKey {
            key: self.unique_key.clone()?,
            scope: self.unique_scope.map_or(UniqueScope::Unspecified, ScopeArg::to_wire).into(),
            on_waiting: policy(self.on_waiting).into(),
            on_started: policy(self.on_started).into(),
            hold: wire(self.hold),
            debounce: self.debounce.map(|quiet| Debounce {
                quiet: Some(to_wire_duration(quiet)),
                max_wait: wire(self.max_wait),
            }),
            throttle: wire(self.throttle),
        })
    }
}

/// The scope of a unique key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, Deserialize)]
pub(super) enum ScopeArg {
    /// The jobs of one kind
    #[serde(rename = "UNIQUE_SCOPE_KIND", alias = "kind")]
    Kind,
    /// The jobs of one queue
    #[serde(rename = "UNIQUE_SCOPE_QUEUE", alias = "queue")]
    Queue,
    /// All jobs
    #[serde(rename = "UNIQUE_SCOPE_NAMESPACE", alias = "namespace")]
    Namespace,
}

impl ScopeArg {
    pub(super) fn to_wire(self) -> UniqueScope {
        match self {
            ScopeArg::Kind => UniqueScope::Kind,
            ScopeArg::Queue => UniqueScope::Queue,
            ScopeArg::Namespace => UniqueScope::Namespace,
        }
    }
}

/// What becomes of a submission whose unique key another job holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, Deserialize)]
pub(super) enum PolicyArg {
    /// Create no job; the answer is the holder
    #[serde(rename = "ON_CONFLICT_RETURN_EXISTING", alias = "existing")]
    Existing,
    /// Refuse the submission
    #[serde(rename = "ON_CONFLICT_REJECT", alias = "reject")]
    Reject,
    /// Let the job that waits take over the input
    #[serde(rename = "ON_CONFLICT_REPLACE", alias = "replace")]
    Replace,
    /// Wait for the holder's end
    #[serde(rename = "ON_CONFLICT_FOLLOW", alias = "follow")]
    Follow,
    /// Cancel the holder, and follow it
    #[serde(rename = "ON_CONFLICT_CANCEL", alias = "cancel")]
    Cancel,
}

impl PolicyArg {
    pub(super) fn to_wire(self) -> OnConflict {
        match self {
            PolicyArg::Existing => OnConflict::ReturnExisting,
            PolicyArg::Reject => OnConflict::Reject,
            PolicyArg::Replace => OnConflict::Replace,
            PolicyArg::Follow => OnConflict::Follow,
            PolicyArg::Cancel => OnConflict::Cancel,
        }
    }
}

/// Returns the scope of a key in words: `kind report`, `queue mail` or `namespace`.
pub(super) fn scope(scope: UniqueScope, queue: &str, kind: &str) -> String {
    match scope {
        UniqueScope::Unspecified | UniqueScope::Kind => format!("kind {}", super::text::escape(kind)),
        UniqueScope::Queue => format!("queue {}", super::text::escape(queue)),
        UniqueScope::Namespace => "namespace".to_owned(),
    }
}
