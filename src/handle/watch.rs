//! One job, watched until it ends.

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

/// What a [`JobWatch`] tells.
#[derive(Clone, Debug)]
pub enum JobEvent {
    /// The job as it was when the watch began.
    Snapshot(Arc<Job>),
    /// The job changed.
    Updated {
        /// The job after the change.
        job: Arc<Job>,
        /// How many earlier changes are folded into this one; absent where that is not known.
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
/// keep up is told the job's latest state.
pub struct JobWatch {
    handle: Handle,
    id: JobId,
    watch: IdsWatch,
    ready: VecDeque<WatchEvent>,
}

/// How a job ended.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    /// The job: SUCCEEDED, FAILED or CANCELLED.
    pub job: Job,
    /// What the handler returned; absent where that is nothing.
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

    /// What happened next; `None` once the job has ended and its end was told. The first is the job as it is.
    ///
    /// Let its future come to its end: one that is dropped may take events with it.
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
            // Somebody has it run again since.
            self.watch = begin(&self.handle, self.id);
        }
    }
}

impl Outcome {
    /// What the handler returned, or why the job did not succeed.
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

/// What a watcher of one job in this process wants to hear: neither tokens nor the means to keep a connection alive.
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
        // The next call returns it as an error.
        | WatchEvent::Closing => None,
    }
}
