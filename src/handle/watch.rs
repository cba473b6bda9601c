//! Watching one job until it ends.

use std::{
    collections::{HashSet, VecDeque},
    fmt,
    sync::Arc,
};

use super::{Handle, OutcomeError, Unsuccessful};
use crate::{
    job::{Job, JobId, Output, StateName},
    watch::{Detail, IdsWatch, OutputLine, Start, WatchError, WatchEvent},
};

/// An event of a [`JobWatch`].
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, Debug)]
pub enum JobEvent {
    /// The job as it was when the watch began.
    Snapshot(Arc<Job>),
    /// The job changed.
    Updated {
        /// The job after the change.
        job: Arc<Job>,
        /// The number of earlier changes merged into this one; absent if unknown.
        merged: Option<u64>,
    },
    /// The running attempt wrote a line.
    Output(OutputLine),
    /// The job was deleted.
    Deleted,
    /// No job has this id.
    NotFound,
}

/// A watch of one job. It costs little while nothing happens, and never slows the server down: a watcher that does not
/// keep up skips to the job's latest state.
pub struct JobWatch {
    handle: Handle,
    id: JobId,
    watch: IdsWatch,
    ready: VecDeque<WatchEvent>,
}

/// The end of a job.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    /// The job: SUCCEEDED, FAILED or CANCELLED.
    pub job: Job,
    /// The handler's result; absent if it is empty.
    pub result: Option<Output>,
}

impl fmt::Debug for JobWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobWatch").field("id", &self.id).finish_non_exhaustive()
    }
}

impl JobWatch {
    pub(super) fn new(handle: Handle, id: JobId) -> Self {
        let watch = begin(&handle, id);
        JobWatch { handle, id, watch, ready: VecDeque::new() }
    }

    /// Returns the next event; `None` after the job's end was reported. The first event is a snapshot of the job.
    ///
    /// This is not cancel-safe: a future that is dropped early may lose events.
    pub async fn next(&mut self) -> Option<Result<JobEvent, WatchError>> {
        loop {
            while let Some(event) = self.ready.pop_front() {
                if let Some(event) = of_one_job(event) {
                    return Some(Ok(event));
                }
            }
            match self.watch.next().await? {
                Ok(message) => self.ready.extend(message.events),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Waits for the job's end, and returns the job with its result.
    ///
    /// # Errors
    /// When the job is deleted, or the server stops before the job has ended: the job goes on at the next start.
    pub async fn outcome(mut self) -> Result<Outcome, OutcomeError> {
        loop {
            while let Some(event) = self.next().await {
                event?;
            }
            let whole = self.handle.get(self.id).await?.ok_or(OutcomeError::Gone(self.id))?;
            if whole.job.state.is_done() {
                return Ok(Outcome { result: whole.output(), job: whole.job });
            }
            // The job was retried meanwhile.
            self.watch = begin(&self.handle, self.id);
        }
    }
}

impl Outcome {
    /// Returns the handler's result, or the failure of the job.
    ///
    /// # Errors
    /// When the job is FAILED or CANCELLED.
    pub fn into_result(self) -> Result<Output, Unsuccessful> {
        let state = self.job.state.name();
        if state == StateName::Succeeded {
            Ok(self.result.unwrap_or_default())
        } else {
            Err(Unsuccessful { id: self.job.id, state, failure: self.job.failure })
        }
    }
}

fn begin(handle: &Handle, id: JobId) -> IdsWatch {
    let parts = &handle.parts;
    let issuer = Arc::clone(&parts.issuer);
    let hidden = HashSet::new();
    IdsWatch::new(
        &parts.shard.hub,
        parts.shard.reads.clone(),
        issuer,
        &[id],
        hidden,
        Detail::EveryTransition,
        true,
        Start::Snapshot,
    )
}

/// Converts an event for a watcher of one job in this process, which needs no resume tokens and no keepalive events.
fn of_one_job(event: WatchEvent) -> Option<JobEvent> {
    match event {
        WatchEvent::Snapshot(job) => Some(JobEvent::Snapshot(job)),
        WatchEvent::Updated { job, merged } => Some(JobEvent::Updated { job, merged }),
        WatchEvent::Output(line) => Some(JobEvent::Output(line)),
        WatchEvent::Deleted(_) => Some(JobEvent::Deleted),
        WatchEvent::NotFound(_) => Some(JobEvent::NotFound),
        WatchEvent::Synced
        | WatchEvent::Left { .. }
        | WatchEvent::Bookmark
        | WatchEvent::Resync
        // The next call to the watch returns this as an error.
        | WatchEvent::Closing => None,
    }
}
