//! The shared vocabulary: jobs, their states and their outcomes.

mod at_least_one;
mod attempt;
mod canonical;
mod change;
mod filter;
mod identity;
mod ids;
pub mod names;
mod payload;
mod record;
mod request;
mod retry;
mod said;
mod state;
mod tally;

#[cfg(feature = "server")]
pub(crate) use self::canonical::Canonical;
pub use self::{
    at_least_one::AtLeastOne,
    attempt::{AttemptRecord, Failure, FailureReason, Progress},
    change::{Change, Changes, Tombstone},
    filter::JobFilter,
    identity::{Identity, Incarnation},
    ids::{InvalidJobId, JobId, LeaseToken, Name, Position},
    payload::{Output, PayloadInfo, ResultInfo},
    record::{Extras, Job, Spec},
    request::{RequestId, SubmitOutcome},
    retry::RetryPolicy,
    said::{PartialRetryPolicy, Said, When},
    state::{State, StateName},
    tally::Tally,
};
