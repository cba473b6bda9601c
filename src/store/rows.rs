//! Rows that a batch writes.

use std::sync::Arc;

use bytes::Bytes;

use crate::job::{Job, JobId, Participant, StateName};

/// A job that has changed.
#[derive(Clone, Debug)]
pub struct ChangedJob {
    /// The stored job. The write fails if the store has another revision.
    pub before: Arc<Job>,
    /// The job to store.
    pub after: Arc<Job>,
}

/// Outcome of an attempt.
#[derive(Clone, Debug)]
pub struct OutcomeRow {
    /// The job.
    pub id: JobId,
    /// The bytes of the result; absent if the handler returned nothing.
    pub result: Option<Bytes>,
    /// End of the attempt's output.
    pub tail: String,
}

/// A count of jobs. A row with zero jobs is deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TallyRow {
    /// The queue's number.
    pub queue: u32,
    /// The kind's number.
    pub kind: u32,
    /// The state.
    pub state: StateName,
    /// Number of jobs.
    pub jobs: i64,
    /// Bytes that the jobs count against their queue's limit.
    pub bytes: i64,
}

/// A purge in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purge {
    /// The queue's number.
    pub queue: u32,
    /// The newest job at the time of the request; later ones are not purged.
    pub last: JobId,
    /// Number of jobs deleted so far.
    pub deleted: u64,
}

/// The turns of a fair queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TurnsRow {
    /// The queue's number.
    pub queue: u32,
    /// The participant that had the last turn.
    pub last: Participant,
    /// Whether ready jobs may have the participants of another label.
    pub is_renewing: bool,
}
