//! What can go wrong between a program and the server that it embeds.

use std::sync::Arc;

use crate::{
    admission::FieldFault,
    engine::{
        AdmissionError, ControlError, ControlRefusal, NotAdmitted, OfferError, OfferRefusal, QueueFull,
        Stopped,
    },
    job::{Failure, JobId, StateName},
    store::StoreError,
    watch::WatchError,
};

/// Why a job was not submitted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The request is not valid: every fault of it.
    #[error("{}", told(.0))]
    Invalid(Vec<FieldFault>),
    /// The queue is not there, or nothing runs the kind.
    #[error(transparent)]
    NotAdmitted(AdmissionError),
    /// The queue had no room, for as long as the submission could wait.
    #[error("{full}{}", if *.too_many_waiters { ", and as many submissions wait for room as may" } else { "" })]
    Full {
        /// Which bound was met.
        full: QueueFull,
        /// Whether it was not even possible to wait, because too many do.
        too_many_waiters: bool,
    },
    /// Refused for good.
    #[error(transparent)]
    Refused(#[from] OfferRefusal),
    /// The server stops. Nothing was kept, unless it is [`Stopped::Unknown`]: then submit it again after the restart,
    /// with the same `request_id`.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl From<OfferError> for SubmitError {
    fn from(error: OfferError) -> Self {
        match error {
            OfferError::Full { full, too_many_waiters } => SubmitError::Full { full, too_many_waiters },
            OfferError::Refused(OfferRefusal::NotAdmitted(refused)) => refused.into(),
            OfferError::Refused(refusal) => refusal.into(),
            OfferError::Stopped(stopped) => stopped.into(),
        }
    }
}

impl From<NotAdmitted> for SubmitError {
    fn from(refused: NotAdmitted) -> Self {
        SubmitError::NotAdmitted(refused.error)
    }
}

impl SubmitError {
    /// The stable reason that the same refusal has over the wire.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            SubmitError::Invalid(_) => "INVALID_REQUEST",
            SubmitError::NotAdmitted(error) => error.reason(),
            SubmitError::Refused(refusal) => refusal.reason(),
            SubmitError::Full { too_many_waiters: false, .. } => "QUEUE_FULL",
            SubmitError::Full { too_many_waiters: true, .. } => "TOO_MANY_WAITERS",
            SubmitError::Stopped(stopped) => stopped.reason(),
        }
    }
}

fn told(faults: &[FieldFault]) -> String {
    faults.iter().map(FieldFault::to_string).collect::<Vec<_>>().join("; ")
}

/// Why a job was not cancelled.
#[derive(Debug, thiserror::Error)]
pub enum CancelError {
    /// There is no such job, or it has ended.
    #[error(transparent)]
    Refused(#[from] ControlRefusal),
    /// The server has stopped. Where it is not known whether the job was cancelled, cancel it again: that is no error.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl From<ControlError> for CancelError {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Refused(refusal) => refusal.into(),
            ControlError::Stopped(stopped) => stopped.into(),
        }
    }
}

/// Why a job's end was not seen.
#[derive(Debug, thiserror::Error)]
pub enum OutcomeError {
    /// There is no such job.
    #[error("no job has the id {0}: it never existed, or has been deleted")]
    Gone(JobId),
    /// The watch ended before the job: most likely because the server stops.
    #[error(transparent)]
    Watch(#[from] WatchError),
}

impl From<StoreError> for OutcomeError {
    fn from(error: StoreError) -> Self {
        WatchError::from(error).into()
    }
}

/// A job that ended without success.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the job {id} is {state}{}", .failure.as_ref().map(|failure| because(failure)).unwrap_or_default())]
pub struct Unsuccessful {
    /// Which job.
    pub id: JobId,
    /// How it ended.
    pub state: StateName,
    /// Why its latest attempt did not succeed; absent where none had started.
    pub failure: Option<Arc<Failure>>,
}

fn because(failure: &Failure) -> String {
    format!(" ({}): {}", failure.reason.as_str(), failure.message)
}
