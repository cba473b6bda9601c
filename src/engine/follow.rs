//! Follow-ups of a job's change on other state: the one place that decides them, in the change's own transaction.
//!
//! Each part of the engine is told of each change. A follow-up that may concern very many rows is not done here: it
//! begins an operation, which `operations.rs` carries on in steps.

use std::sync::Arc;

use super::decision::Decision;
use crate::job::{Change, Job, RequestId, State, StateName};

impl Decision<'_> {
    /// Records the follow-ups of a changed job, or of a new one if `before` is absent.
    pub(super) fn follow(&mut self, before: Option<&Job>, job: &Arc<Job>) {
        let was = before.map(|before| before.state.name());
        let engine = &mut *self.engine;
        engine.numbers.position_taken();
        engine.tallies.moved(before, Some(job));
        engine.leases.changed(before, job);
        engine.limits.changed(before, job);
        engine.suspects.changed(before, job);
        if job.state.is_done() {
            engine.schedules.job_ended(job, job.state.name());
            engine.sweeping.ended(engine.times.retention());
            self.sealed.gained_room.insert(job.spec.queue.number);
        }
        if before.is_some_and(|before| before.spec.bytes > job.spec.bytes) {
            self.sealed.gained_room.insert(job.spec.queue.number);
        }
        if let State::Cancelling { lease } = job.state
            && was == Some(StateName::Running)
        {
            match job.remote.worker() {
                Some(worker) => self.sealed.remote.cancelling.push((worker.number, lease)),
                None => self.sealed.cancelling.push(lease),
            }
        }
        if let Some(before) = before
            && let (Some(lease), Some(worker)) = (before.state.lease(), before.remote.worker())
            && job.state.lease() != Some(lease)
        {
            self.sealed.remote.ended.push((worker.number, lease));
        }
        self.sealed.changes.push(Change::Job { job: Arc::clone(job), before: was });
        if job.state.is_done() {
            self.end_of_key(job);
            self.end_of_edges(job);
        }
    }

    /// Records the follow-ups of deleting a job that is not running.
    pub(super) fn follow_deletion(&mut self, job: &Job) {
        let engine = &mut *self.engine;
        let now = engine.times.retention();
        engine.tallies.moved(Some(job), None);
        engine.sweeping.deleted(now);
        engine.suspects.deleted(job.id);
        engine.limits.deleted(job);
        if !job.state.is_done() {
            engine.schedules.job_ended(job, StateName::Cancelled);
            self.sealed.gained_room.insert(job.spec.queue.number);
        }
        if let Some(request_id) = job.spec.kept_request_id() {
            // A request id is kept for as long as any of its jobs, because a repeat would create the jobs again
            // otherwise.
            engine.sweeping.request_bare(now);
            let key = RequestId::key_of(request_id);
            self.lose_job(key);
        }
        self.deletion_of_edges(job);
    }
}
