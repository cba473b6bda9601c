//! Changes of jobs and queues that callers ask for.

use std::sync::Arc;

use super::{Ask, Control, ControlRefusal, decision::Decision, retention::times_of, tallies::Usage};
use crate::{
    engine::transition::{Event, transition},
    job::{Job, JobId, Name, RequestId, StateName},
    settings::{QueueInfo, QueueSettings, Retention},
    store::sets::{KeptRequest, RequestRow},
};

impl Decision<'_> {
    /// Decides one control. A purge is decided at its end.
    pub(super) fn control(&mut self, mut control: Control) {
        match &mut control {
            Control::Cancel { id, ask } => ask.decide(self.cancel(*id)),
            Control::Retry { id, request, ask } => ask.decide(self.retry(*id, *request)),
            Control::Delete { id, ask } => ask.decide(self.delete_job(*id)),
            Control::CreateQueue { name, settings, ask } => {
                ask.decide(self.create_queue(name, settings.clone()));
            }
            Control::UpdateQueue { name, settings, ask } => {
                ask.decide(self.update_queue(name, settings.clone()));
            }
            Control::DeleteQueue { name, ask } => ask.decide(self.delete_queue(name)),
            Control::SetPaused { name, paused, ask } => ask.decide(self.set_paused(name, *paused)),
            Control::Purge { name, ask } => match self.engine.queues.name(name) {
                Some(queue) => {
                    let ask = std::mem::replace(ask, Ask::unheard());
                    self.begin_purge(queue.number, ask);
                    return;
                }
                None => ask.decide(Err(ControlRefusal::QueueNotFound(name.clone()))),
            },
        }
        self.sealed.controls.push(control);
    }

    fn begin_purge(&mut self, queue: u32, ask: Ask<u64, ControlRefusal>) {
        self.engine.purges.begin(queue, self.engine.numbers.last_id(), ask);
        // What came into line with this very batch is on no page.
        for job in self.waiting_anew().iter().filter(|job| job.spec.queue.number == queue) {
            self.delete(job);
            self.engine.purges.deleted_early(queue);
        }
    }

    fn cancel(&mut self, id: JobId) -> Result<Arc<Job>, ControlRefusal> {
        let job = self.job(id).ok_or(ControlRefusal::JobNotFound(id))?;
        match transition(&job, &Event::Cancel, self.moment(&job)) {
            Ok(changed) => Ok(self.change(&job, changed)),
            Err(_) => match job.state.name() {
                StateName::Cancelling | StateName::Cancelled => Ok(job),
                state @ (StateName::Scheduled
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

    fn retry(&mut self, id: JobId, request: Option<RequestId>) -> Result<Arc<Job>, ControlRefusal> {
        let seen = request.and_then(|request| Some((self.request(request)?.row, request)));
        if seen.is_some_and(|(row, request)| row.digest != request.digest) {
            return Err(ControlRefusal::RequestMismatch);
        }
        let job = self.job(id).ok_or(ControlRefusal::JobNotFound(id))?;
        if seen.is_some() {
            return Ok(job);
        }
        let changed = transition(&job, &Event::Retry, self.moment(&job)).map_err(|_| {
            let way_out = "only a FAILED, CANCELLED, BACKING_OFF or SCHEDULED job can be retried";
            ControlRefusal::WrongState { id, state: job.state.name(), way_out }
        })?;
        if job.state.is_done() {
            // Ended jobs outlive their queue; in a deleted one nothing would ever start them.
            let queue = &job.spec.queue;
            if self.engine.queues.with(queue.number, |_| ()).is_none() {
                return Err(ControlRefusal::QueueNotFound(queue.as_str().to_owned()));
            }
            let share = Usage { jobs: 1, bytes: job.spec.bytes as i64 };
            if let Some(full) = self.engine.queues.full(queue, self.used(queue), share) {
                return Err(ControlRefusal::QueueFull(full));
            }
        }
        if let Some(request) = request {
            // It has no jobs of its own: the repeat is remembered from the retry on.
            let row = RequestRow { digest: request.digest, first: id, count: 1, live: 0 };
            let now = self.engine.times.retention();
            self.writes.requests.push((request.key, row, Some(now)));
            self.new_requests.insert(request.key, KeptRequest { row, first: None });
            self.engine.sweeping.request_bare(now);
        }
        Ok(self.change(&job, changed))
    }

    /// What is known of a request.
    pub(super) fn request(&self, request: RequestId) -> Option<&KeptRequest> {
        self.new_requests.get(&request.key).or_else(|| self.found.requests.get(&request.key))
    }

    fn delete_job(&mut self, id: JobId) -> Result<(), ControlRefusal> {
        let job = self.job(id).ok_or(ControlRefusal::JobNotFound(id))?;
        if job.state.lease().is_some() {
            let way_out = "cancel it, and delete it once it has ended";
            return Err(ControlRefusal::WrongState { id, state: job.state.name(), way_out });
        }
        self.delete(&job);
        Ok(())
    }

    fn create_queue(&mut self, name: &str, settings: QueueSettings) -> Result<QueueInfo, ControlRefusal> {
        let engine = &mut *self.engine;
        engine.queues.check_new(&engine.names, name, &settings)?;
        let info = QueueInfo {
            name: Name::new(0, name),
            settings,
            paused: false,
            declared: false,
            formerly_declared: false,
        };
        engine.sweeping.check_times(engine.queues.all().iter().chain([&info]))?;
        // A number is drawn only for a queue that there will be.
        let name = engine.queues.intern(&engine.names, name);
        Ok(self.put_queue(QueueInfo { name, ..info }))
    }

    fn update_queue(&mut self, name: &str, settings: QueueSettings) -> Result<QueueInfo, ControlRefusal> {
        let engine = &mut *self.engine;
        let info = engine.queues.changeable(name)?;
        let number = info.name.number;
        engine.queues.check_consumers(Some(number), &settings)?;
        let info = QueueInfo { settings, formerly_declared: false, ..info };
        let mut all = engine.queues.all();
        all.retain(|queue| queue.name.number != number);
        engine.sweeping.check_times(all.iter().chain([&info]))?;
        Ok(self.put_queue(info))
    }

    fn delete_queue(&mut self, name: &str) -> Result<(), ControlRefusal> {
        let info = self.engine.queues.changeable(name)?;
        let number = info.name.number;
        let jobs = self.engine.tallies.queue(number).live.jobs;
        if jobs > 0 {
            return Err(ControlRefusal::QueueNotEmpty { queue: name.to_owned(), jobs: jobs as u64 });
        }
        let before = self.engine.sweeping.of_queue(Some(&info));
        self.engine.queues.delete(&info.name);
        self.replan_sweeps(number, before);
        // Whoever waits for room hears that the queue is gone.
        self.sealed.gained_room.insert(number);
        Ok(())
    }

    fn set_paused(&mut self, name: &str, paused: bool) -> Result<QueueInfo, ControlRefusal> {
        match self.engine.queues.find(name) {
            Some(info) if info.paused == paused => Ok(info),
            Some(info) => Ok(self.put_queue(QueueInfo { paused, ..info })),
            None => Err(ControlRefusal::QueueNotFound(name.to_owned())),
        }
    }

    /// Sets a queue, with all that follows from its settings.
    pub(super) fn put_queue(&mut self, info: QueueInfo) -> QueueInfo {
        let number = info.name.number;
        let sweeping = &self.engine.sweeping;
        let before = self.engine.queues.with(number, |info| sweeping.of_queue(Some(info)));
        let before = before.unwrap_or(sweeping.server());
        self.engine.queues.put(info.clone());
        self.replan_sweeps(number, before);
        self.sealed.gained_room.insert(number);
        info
    }

    /// A queue's times of retention may have changed.
    fn replan_sweeps(&mut self, queue: u32, before: Retention) {
        let engine = &mut *self.engine;
        let sweeping = &engine.sweeping;
        let now = engine.queues.with(queue, |info| sweeping.of_queue(Some(info)));
        let now = now.unwrap_or(sweeping.server());
        if now != before {
            let all = engine.queues.all();
            engine.sweeping.replan(&all, |keep| times_of(now).any(|time| time == keep));
        }
    }
}
