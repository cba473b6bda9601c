//! Errors of a [`Handle`](super::Handle).

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

/// The error of a submission.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The request is not valid; all its faults.
    #[error("{}", told(.0))]
    Invalid(Vec<FieldFault>),
    /// The queue does not exist, or no handler runs the kind.
    #[error(transparent)]
    NotAdmitted(AdmissionError),
    /// The queue was full for as long as the submission could wait.
    #[error("{full}{}", if *.too_many_waiters { ", and the limit of waiting submissions is reached" } else { "" })]
    Full {
        /// The queue and the limit that was reached.
        full: QueueFull,
        /// Whether the submission could not even wait, because too many submissions do.
        too_many_waiters: bool,
    },
    /// Refused permanently.
    #[error(transparent)]
    Refused(#[from] OfferRefusal),
    /// The server is shutting down. Nothing was stored, except possibly with [`Stopped::Unknown`]: then submit again
    /// after the restart, with the same `request_id`.
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
        SubmitError::NotAdmitted(*refused.error)
    }
}

impl SubmitError {
    /// The stable reason of the same error in the gRPC API.
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

/// The error of a cancellation.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Debug, thiserror::Error)]
pub enum CancelError {
    /// The job does not exist, or has ended.
    #[error(transparent)]
    Refused(#[from] ControlRefusal),
    /// The server has stopped. If it is unknown whether the job was cancelled, cancel it again: a repeat is not an
    /// error.
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

/// The error of waiting for a job's end.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Debug, thiserror::Error)]
pub enum OutcomeError {
    /// The job does not exist.
    #[error("no job has the id {0}: it never existed, or has been deleted")]
    Gone(JobId),
    /// The watch ended before the job, most likely because the server is shutting down.
    #[error(transparent)]
    Watch(#[from] WatchError),
}

impl From<StoreError> for OutcomeError {
    fn from(error: StoreError) -> Self {
        WatchError::from(error).into()
    }
}

/// A job that ended without success.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the job {id} is {state}{}", .failure.as_ref().map(|failure| because(failure)).unwrap_or_default())]
pub struct Unsuccessful {
    /// The job's id.
    pub id: JobId,
    /// The job's final state.
    pub state: StateName,
    /// The failure of its latest attempt; absent if none had started.
    pub failure: Option<Arc<Failure>>,
}

fn because(failure: &Failure) -> String {
    format!(" ({}): {}", failure.reason.as_str(), failure.message)
}
