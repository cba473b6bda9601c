//! Changes of a job that callers ask for: cancels, retries and deletions.

use std::sync::Arc;

use super::{ControlRefusal, JobDone, decision::Decision, tallies::Usage};
use crate::{
    engine::transition::{Event, Refusal, transition},
    job::{Job, JobId, StateName},
};

impl Decision<'_> {
    /// Returns the job if it is at the revision that the caller expects.
    pub(super) fn expected(&self, id: JobId, expected: Option<u64>) -> Result<Arc<Job>, ControlRefusal> {
        let job = self.job(id).ok_or(ControlRefusal::JobNotFound(id))?;
        match expected {
            Some(expected) if expected != job.revision => {
                Err(ControlRefusal::RevisionMismatch { id, expected, revision: job.revision })
            }
            Some(_) | None => Ok(job),
        }
    }

    pub(super) fn cancel(&mut self, id: JobId, expected: Option<u64>) -> Result<JobDone, ControlRefusal> {
        let job = self.expected(id, expected)?;
        match self.try_change(&job, &Event::Cancel) {
            Ok(after) => Ok(JobDone::now(&after)),
            Err(_) => match job.state.name() {
                StateName::Cancelling | StateName::Cancelled => Ok(JobDone::now(&job)),
                state @ (StateName::Scheduled
                | StateName::Blocked
                | StateName::Queued
                | StateName::Running
                | StateName::BackingOff
                | StateName::Succeeded
                | StateName::Failed
                | StateName::Expired) => Err(ControlRefusal::WrongState {
                    id,
                    state,
                    way_out: "it has ended and can't be cancelled",
                }),
            },
        }
    }

    pub(super) fn retry(&mut self, id: JobId, expected: Option<u64>, reset: bool) -> Result<JobDone, ControlRefusal> {
        let job = self.expected(id, expected)?;
        if self.engine.over_parents.has(id) {
            return Err(ControlRefusal::ChildrenAreTold(id));
        }
        let refused = |refusal| {
            if let Refusal::DeadlinePassed(deadline) = refusal {
                return ControlRefusal::DeadlinePassed { id, deadline };
            }
            let way_out = "only a FAILED, CANCELLED, BACKING_OFF or SCHEDULED job can be retried";
            ControlRefusal::WrongState { id, state: job.state.name(), way_out }
        };
        let event = Event::Retry { reset };
        transition(&job, &event, self.moment(&job)).map_err(refused)?;
        if job.state.is_done() {
            self.check_key_of(&job)?;
            // Ended jobs outlive their queue. In a deleted queue nothing would ever start them.
            let queue = &job.spec.queue;
            if self.engine.queues.with(queue.number, |_| ()).is_none() {
                return Err(ControlRefusal::QueueNotFound(queue.as_str().to_owned()));
            }
            let share = Usage { jobs: 1, bytes: job.spec.bytes as i64 };
            if let Some(full) = self.engine.queues.full(queue, self.used(queue), share) {
                return Err(ControlRefusal::QueueFull(full));
            }
        }
        // Decided again: the check of the key may have deleted a job that a purge covers, which takes a position.
        let after = self.try_change(&job, &event).map_err(refused)?;
        if job.state.is_done() {
            self.retake_key(&after);
        }
        Ok(JobDone::now(&after))
    }

    pub(super) fn delete_job(
        &mut self,
        id: JobId,
        expected: Option<u64>,
        force: bool,
    ) -> Result<u32, ControlRefusal> {
        let job = self.expected(id, expected)?;
        if job.state.lease().is_some() {
            let way_out = "cancel it, and delete it once it has ended";
            return Err(ControlRefusal::WrongState { id, state: job.state.name(), way_out });
        }
        if let Some(child) = self.live_child(&job).filter(|_| !force) {
            return Err(ControlRefusal::HasDependents { id, child });
        }
        self.delete(&job);
        if job.state.is_done() {
            self.free_key_of(&job);
        }
        Ok(job.spec.queue.number)
    }
}
