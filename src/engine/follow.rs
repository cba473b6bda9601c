//! What the change of one job causes for others: the one place where it is decided, in the change's own transaction.
//!
//! Each part hears of each change. What a change may cause for very many others is not done here: it begins an operation,
//! which `operations.rs` carries on in steps.

use std::sync::Arc;

use super::decision::Decision;
use crate::job::{Change, Job, RequestId, State, StateName};

impl Decision<'_> {
    /// A job has changed, or is new where there is no `before`.
    pub(super) fn follow(&mut self, before: Option<&Job>, job: &Arc<Job>) {
        let was = before.map(|before| before.state.name());
        let engine = &mut *self.engine;
        engine.numbers.position_taken();
        engine.tallies.moved(job, was, Some(job.state.name()));
        engine.leases.changed(before, job);
        if job.state.is_done() {
            engine.sweeping.ended(engine.times.retention());
            self.sealed.gained_room.insert(job.spec.queue.number);
        }
        if let State::Cancelling { lease } = job.state
            && was == Some(StateName::Running)
        {
            self.sealed.cancelling.push(lease);
        }
        self.sealed.changes.push(Change::Job { job: Arc::clone(job), before: was });
    }

    /// A job is deleted, which does not run.
    pub(super) fn follow_deletion(&mut self, job: &Job) {
        let engine = &mut *self.engine;
        let now = engine.times.retention();
        engine.tallies.moved(job, Some(job.state.name()), None);
        engine.sweeping.deleted(now);
        if !job.state.is_done() {
            self.sealed.gained_room.insert(job.spec.queue.number);
        }
        if let Some(extras) = job.spec.extras.as_ref().filter(|extras| !extras.request_id.is_empty()) {
            // A request is kept for as long as any of its jobs, or a repeat would create them again.
            engine.sweeping.request_bare(now);
            self.lose_job(RequestId::key_of(&extras.request_id));
        }
    }
}
