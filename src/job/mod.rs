//! The shared vocabulary: what a job is, and what becomes of it.

mod at_least_one;
mod attempt;
mod change;
mod filter;
mod identity;
mod ids;
pub mod names;
mod record;
mod request;
mod retry;
mod state;
mod tally;

pub use self::{
    at_least_one::AtLeastOne,
    attempt::{AttemptRecord, Failure, FailureReason, Output, Progress},
    change::{Change, Changes, Tombstone},
    filter::JobFilter,
    identity::{Identity, Incarnation},
    ids::{InvalidJobId, JobId, LeaseToken, Name, Position},
    record::{Extras, Job, Spec},
    request::RequestId,
    retry::RetryPolicy,
    state::{State, StateName},
    tally::Tally,
};
