//! Changes of the input of jobs that have never started, in place: the job keeps its id and its order.

use std::sync::Arc;

use bytes::Bytes;

use super::{ControlRefusal, JobDone, decision::Decision};
use crate::{
    engine::transition::{Event, Refusal, transition},
    job::{Job, JobId, JobUpdate},
};

impl Decision<'_> {
    /// Changes a job for a caller.
    pub(super) fn update_job(
        &mut self,
        id: JobId,
        expected: Option<u64>,
        update: &JobUpdate,
    ) -> Result<JobDone, ControlRefusal> {
        let job = self.expected(id, expected)?;
        let event = self.update_event(&job, update);
        let changed = transition(&job, &event, self.moment(&job)).map_err(|_: Refusal| {
            let way_out = "only a job that has never started can be changed; cancel it, and submit another one";
            ControlRefusal::WrongState { id, state: job.state.name(), way_out }
        })?;
        let growth = changed.job.spec.bytes.saturating_sub(job.spec.bytes);
        if growth > 0 {
            let queue = &job.spec.queue;
            let full = self.engine.queues.usage(queue, self.used(queue));
            if full.bytes + growth > full.max_bytes {
                return Err(ControlRefusal::QueueFull(full));
            }
        }
        self.put_payload(id, update);
        Ok(JobDone::now(&self.change(&job, changed)))
    }

    /// Returns the event of a job's change.
    fn update_event(&self, job: &Job, update: &JobUpdate) -> Event {
        let now = self.now();
        Event::Update { spec: Arc::new(update.applied(&job.spec, now)), start: update.start(now), replaces: false }
    }

    fn put_payload(&mut self, id: JobId, update: &JobUpdate) {
        let payload = update.payload.as_ref().map(|(payload, _)| (id, Bytes::clone(payload)));
        self.writes.payloads.extend(payload);
    }
}
