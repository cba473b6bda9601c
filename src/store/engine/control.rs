//! What people want changed.

use std::sync::Arc;

use super::{
    Engine, Progressing, QUEUE_NAMES_MAX,
    rows::{Purge, RequestRow, Rows},
};
use crate::{
    clock::Timestamp,
    job::{Job, JobId, RequestId, StateName},
    settings::{
        QueueInfo, QueueSettings,
        limits::{CONSUMERS_TOTAL_MAX, QUEUES_MAX},
    },
    store::{
        StoreError,
        batch::{Control, ControlDone, ControlRefusal},
    },
    transition::{Event, transition},
};

type Answer = Result<ControlDone, ControlRefusal>;

impl<R: Rows> Engine<R> {
    pub(super) fn control(
        &mut self,
        control: Control,
        now: Timestamp,
        progressing: &mut Progressing,
    ) -> Result<Answer, StoreError> {
        match control {
            Control::Cancel(id) => self.cancel(id, now, progressing),
            Control::Retry { id, request } => self.retry(id, request, now, progressing),
            Control::Delete(id) => self.delete_job(id, progressing),
            Control::CreateQueue { name, settings } => self.create_queue(&name, settings, progressing),
            Control::UpdateQueue { name, settings } => self.update_queue(&name, settings, progressing),
            Control::DeleteQueue { name } => self.delete_queue(&name, progressing),
            Control::SetPaused { name, paused } => self.set_paused(&name, paused, progressing),
            Control::Purge { name } => self.begin_purge(&name, progressing),
        }
    }

    fn current(&mut self, id: JobId) -> Result<Option<Arc<Job>>, StoreError> {
        match self.leased.get(&id) {
            Some(job) => Ok(Some(Arc::clone(job))),
            None => Ok(self.rows.job(id)?.map(Arc::new)),
        }
    }

    fn cancel(
        &mut self,
        id: JobId,
        now: Timestamp,
        progressing: &mut Progressing,
    ) -> Result<Answer, StoreError> {
        let Some(job) = self.current(id)? else {
            return Ok(Err(ControlRefusal::JobNotFound(id)));
        };
        match transition(&job, &Event::Cancel, self.moment(&job, now)) {
            Ok(changed) => Ok(Ok(ControlDone::Job(self.write_change(&job, changed, progressing)?))),
            Err(_) => match job.state.name() {
                StateName::Cancelling | StateName::Cancelled => Ok(Ok(ControlDone::Job(job))),
                state @ (StateName::Scheduled
                | StateName::Queued
                | StateName::Running
                | StateName::BackingOff
                | StateName::Succeeded
                | StateName::Failed
                | StateName::Expired) => Ok(Err(ControlRefusal::WrongState {
                    id,
                    state,
                    way_out: "it has ended and can't be cancelled",
                })),
            },
        }
    }

    fn retry(
        &mut self,
        id: JobId,
        request: Option<RequestId>,
        now: Timestamp,
        progressing: &mut Progressing,
    ) -> Result<Answer, StoreError> {
        let seen = match &request {
            Some(request) => self.rows.request(&request.key)?.map(|row| (row, request)),
            None => None,
        };
        if let Some((row, request)) = seen
            && row.digest != request.digest
        {
            return Ok(Err(ControlRefusal::RequestMismatch));
        }
        let Some(job) = self.current(id)? else {
            return Ok(Err(ControlRefusal::JobNotFound(id)));
        };
        if seen.is_some() {
            return Ok(Ok(ControlDone::Job(job)));
        }
        let changed = match transition(&job, &Event::Retry, self.moment(&job, now)) {
            Ok(changed) => changed,
            Err(_) => {
                let way_out = "only a FAILED, CANCELLED, BACKING_OFF or SCHEDULED job can be retried";
                return Ok(Err(ControlRefusal::WrongState { id, state: job.state.name(), way_out }));
            }
        };
        if job.state.is_done() {
            // Ended jobs outlive their queue; in a deleted one nothing would ever start them.
            let queue = job.spec.queue.as_str();
            if self.existing_queue(queue).is_none() {
                return Ok(Err(ControlRefusal::QueueNotFound(queue.to_owned())));
            }
            if let Some(full) = self.room_for(&job, progressing) {
                return Ok(Err(ControlRefusal::QueueFull(full)));
            }
        }
        if let Some(request) = request {
            let row = RequestRow { digest: request.digest, first: id, count: 1 };
            self.rows.insert_request(&request.key, &row)?;
            let gone = self.times.retention();
            self.rows.request_gone(&request.key, gone)?;
            self.sweeping.request_gone(gone);
        }
        Ok(Ok(ControlDone::Job(self.write_change(&job, changed, progressing)?)))
    }

    fn delete_job(&mut self, id: JobId, progressing: &mut Progressing) -> Result<Answer, StoreError> {
        let Some(job) = self.current(id)? else {
            return Ok(Err(ControlRefusal::JobNotFound(id)));
        };
        if job.state.lease().is_some() {
            let way_out = "cancel it, and delete it once it has ended";
            return Ok(Err(ControlRefusal::WrongState { id, state: job.state.name(), way_out }));
        }
        self.delete(&job, progressing)?;
        Ok(Ok(ControlDone::JobDeleted))
    }

    fn create_queue(
        &mut self,
        name: &str,
        settings: QueueSettings,
        progressing: &mut Progressing,
    ) -> Result<Answer, StoreError> {
        if self.existing_queue(name).is_some() {
            return Ok(Err(ControlRefusal::QueueExists(name.to_owned())));
        }
        if self.queues.values().filter(|queue| !queue.deleted).count() >= QUEUES_MAX {
            return Ok(Err(ControlRefusal::TooManyQueues(QUEUES_MAX)));
        }
        // Numbers of deleted queues stay taken, because ended jobs still name them.
        if self.names.queues.find(name).is_none() && self.names.queues.len() >= QUEUE_NAMES_MAX {
            return Ok(Err(ControlRefusal::TooManyQueues(QUEUE_NAMES_MAX)));
        }
        if let Some(refusal) = self.too_many_consumers(None, &settings) {
            return Ok(Err(refusal));
        }
        let number = self.names.queues.find(name).map_or(u32::MAX, |name| name.number);
        if let Some(refusal) = self.too_many_times(number, settings.retention.over(self.sweeping.server)) {
            return Ok(Err(refusal));
        }
        let name = self.intern_queue(name);
        let info = QueueInfo { name, settings, paused: false, declared: false, formerly_declared: false };
        self.changed_queue(info, progressing)
    }

    fn update_queue(
        &mut self,
        name: &str,
        settings: QueueSettings,
        progressing: &mut Progressing,
    ) -> Result<Answer, StoreError> {
        let info = match self.changeable_queue(name) {
            Ok(info) => info,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Some(refusal) = self.too_many_consumers(Some(&info), &settings) {
            return Ok(Err(refusal));
        }
        let retention = settings.retention.over(self.sweeping.server);
        if let Some(refusal) = self.too_many_times(info.name.number, retention) {
            return Ok(Err(refusal));
        }
        self.changed_queue(QueueInfo { settings, formerly_declared: false, ..info }, progressing)
    }

    fn delete_queue(&mut self, name: &str, progressing: &mut Progressing) -> Result<Answer, StoreError> {
        let info = match self.changeable_queue(name) {
            Ok(info) => info,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let jobs = self.tallies.queue(info.name.number).live.jobs as u64;
        if jobs > 0 {
            return Ok(Err(ControlRefusal::QueueNotEmpty { queue: name.to_owned(), jobs }));
        }
        self.rows.put_queue(&info, true)?;
        let before = info.settings.retention.over(self.sweeping.server);
        if let Some(queue) = self.queues.get_mut(&info.name.number) {
            queue.deleted = true;
        }
        // Its ended jobs are kept for as long as the server says from now on.
        self.retention_changed(info.name.number, before)?;
        progressing.wrote = true;
        progressing.queues_changed = true;
        // Whoever waits for room in it learns that it is gone.
        progressing.applied.room = true;
        Ok(Ok(ControlDone::QueueDeleted))
    }

    fn set_paused(
        &mut self,
        name: &str,
        paused: bool,
        progressing: &mut Progressing,
    ) -> Result<Answer, StoreError> {
        match self.existing_queue(name).map(|queue| queue.info.clone()) {
            Some(info) if info.paused == paused => Ok(Ok(ControlDone::Queue(info))),
            Some(info) => self.changed_queue(QueueInfo { paused, ..info }, progressing),
            None => Ok(Err(ControlRefusal::QueueNotFound(name.to_owned()))),
        }
    }

    fn begin_purge(&mut self, name: &str, progressing: &mut Progressing) -> Result<Answer, StoreError> {
        let Some(queue) = self.existing_queue(name).map(|queue| queue.info.name.number) else {
            return Ok(Err(ControlRefusal::QueueNotFound(name.to_owned())));
        };
        self.counters.last_purge += 1;
        let purge = Purge {
            number: self.counters.last_purge,
            queue,
            cursor: JobId::from_raw(0),
            last: JobId::from_raw(self.counters.last_id),
            deleted: 0,
        };
        self.rows.put_purge(&purge)?;
        progressing.wrote = true;
        let number = purge.number;
        self.purges.push(purge);
        Ok(Ok(ControlDone::PurgeBegun(number)))
    }

    fn changeable_queue(&self, name: &str) -> Result<QueueInfo, ControlRefusal> {
        match self.existing_queue(name).map(|queue| &queue.info) {
            Some(info) if info.declared => Err(ControlRefusal::QueueDeclared(name.to_owned())),
            Some(info) => Ok(info.clone()),
            None => Err(ControlRefusal::QueueNotFound(name.to_owned())),
        }
    }

    fn changed_queue(
        &mut self,
        info: QueueInfo,
        progressing: &mut Progressing,
    ) -> Result<Answer, StoreError> {
        self.put_queue(info.clone())?;
        progressing.wrote = true;
        progressing.queues_changed = true;
        progressing.applied.room = true;
        Ok(Ok(ControlDone::Queue(info)))
    }

    fn too_many_consumers(&self, except: Option<&QueueInfo>, new: &QueueSettings) -> Option<ControlRefusal> {
        let others: u64 = self
            .queues
            .values()
            .filter(|queue| !queue.deleted && except.is_none_or(|except| except.name != queue.info.name))
            .map(|queue| u64::from(queue.info.settings.consumers))
            .sum();
        let actual = others + u64::from(new.consumers);
        (actual > CONSUMERS_TOTAL_MAX)
            .then_some(ControlRefusal::TooManyConsumers { actual, max: CONSUMERS_TOTAL_MAX })
    }
}
