//! The shared vocabulary: jobs, their states and their outcomes.

mod at_least_one;
mod attempt;
mod canonical;
mod change;
pub(crate) mod checkpoint;
mod client_input;
mod dependency;
mod draft;
mod filter;
mod identity;
mod ids;
pub mod names;
#[cfg(feature = "server")]
mod output_tail;
mod participant;
mod payload;
mod rare;
mod record;
mod request;
mod retry;
mod schedule;
mod state;
mod tally;
mod unique;
mod update;
mod worker;
#[cfg(any(feature = "server", feature = "worker"))]
pub(crate) mod worker_limits;

pub use self::{
    at_least_one::AtLeastOne,
    attempt::{AttemptRecord, Failure, FailureReason, Progress},
    change::{Change, Changes, Tombstone},
    checkpoint::{Checkpoint, StoredCheckpoint},
    client_input::{ClientInput, PartialRetryPolicy, When},
    dependency::{Dependency, DependencyCondition, DependencyTarget, Edge, EdgeState, ParentEnd},
    draft::JobDraft,
    filter::JobFilter,
    identity::{Identity, Incarnation},
    ids::{InvalidJobId, JobId, LeaseToken, Name, Position},
    participant::Participant,
    payload::{Output, PayloadInfo, ResultInfo},
    rare::Rare,
    record::{Extras, Job, Spec},
    request::{RequestId, SubmitOutcome},
    retry::RetryPolicy,
    schedule::{
        INSTANT_LABEL, RESERVED_PREFIX, SCHEDULE_HEADERS, SCHEDULE_LABEL, ScheduleId, ScheduleOrigin,
        ScheduledBy,
    },
    state::{State, StateName},
    tally::Tally,
    unique::{Debounce, KeyHash, KeyName, KeyRow, KnownHash, OnConflict, UniqueKey, UniqueScope},
    update::JobUpdate,
    worker::{LeaseOwner, Remote, ReportedEnd, WorkerProcess, WorkerRow},
};
#[cfg(feature = "server")]
pub(crate) use self::{
    canonical::Canonical,
    output_tail::{OUTPUT_LINE_MAX_BYTES, OutputTail},
};
