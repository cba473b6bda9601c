//! Requests with an id, as a store keeps them for the answers to their repeats.

use std::sync::Arc;

use crate::job::{Job, JobId, StateName};

/// The key of a request id.
pub type RequestKey = [u8; 16];

/// A stored request with the job that the answer to a repeat needs.
#[derive(Clone, Debug)]
pub struct StoredRequest {
    /// The row.
    pub row: RequestRow,
    /// The job, if it exists and can be read.
    pub job: Option<Arc<Job>>,
}

/// A stored request, for the answer to a repeat.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestRow {
    /// Digest of the request's content.
    pub digest: [u8; 16],
    /// The request's outcome.
    pub answer: RequestOutcome,
    /// Items of the request that created no job, each with its index and the job that held its unique key.
    pub found: Option<Arc<[(u32, JobId)]>>,
}

impl RequestRow {
    /// Returns the job that the answer to a repeat needs.
    #[must_use]
    pub fn job(&self) -> Option<JobId> {
        match self.found.as_deref() {
            Some([(0, id), ..]) => Some(*id),
            Some(_) | None => self.answer.job(),
        }
    }
}

/// Outcome of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestOutcome {
    /// The request created jobs, with consecutive ids.
    Jobs {
        /// The first of the jobs.
        first: JobId,
        /// Number of jobs.
        count: u32,
        /// Number of jobs that are not deleted.
        live: u32,
    },
    /// The request changed a job.
    Job {
        /// The job.
        id: JobId,
        /// The job's state after the change.
        state: StateName,
        /// The job's revision after the change.
        revision: u64,
        /// Number of the job's queue.
        queue: u32,
    },
    /// The request was done, and there is nothing else to tell.
    Done {
        /// Number of the queue that the request concerned.
        queue: u32,
    },
    /// The request asked for a purge.
    Purge {
        /// The queue's number.
        queue: u32,
        /// What the purge has done; absent until it has ended.
        done: Option<PurgeCounts>,
    },
}

/// What a purge has done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PurgeCounts {
    /// Number of deleted jobs.
    pub deleted: u64,
    /// Number of jobs that were left, because others depend on them.
    pub skipped: u64,
}

impl RequestOutcome {
    /// Returns the number of the queue that the request concerned, if it concerned one.
    #[must_use]
    pub fn queue(&self) -> Option<u32> {
        match self {
            RequestOutcome::Jobs { .. } => None,
            RequestOutcome::Job { queue, .. }
            | RequestOutcome::Done { queue }
            | RequestOutcome::Purge { queue, .. } => Some(*queue),
        }
    }

    /// Returns the job that the answer to a repeat needs.
    #[must_use]
    pub fn job(&self) -> Option<JobId> {
        match self {
            RequestOutcome::Jobs { first, .. } => Some(*first),
            RequestOutcome::Job { id, .. } => Some(*id),
            RequestOutcome::Done { .. } | RequestOutcome::Purge { .. } => None,
        }
    }
}
