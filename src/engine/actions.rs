//! Mutations of jobs and queues requested by callers: what each is, answers, and does.

use super::{
    CalendarAction, CalendarDone, ControlRefusal, JobDone, KeyDone, LimitAction, LimitDone, QueueDone, Registered, Reply, ReplySlot,
    ScheduleAction, ScheduleDone, ScheduleRefusal, WorkerHello, ask::Refusable, decision::Decision,
    queue_actions::queue_done,
};
use crate::{
    job::{JobId, JobUpdate, KeyHash, LeaseToken, RequestId},
    settings::{QueueInfo, QueueSettings, SettingsChange},
    store::sets::{Committed, PurgeCounts, RequestOutcome},
};

/// The mutation of a control.
#[derive(Debug)]
pub enum Action {
    /// Cancel a job.
    Cancel {
        /// The job.
        id: JobId,
        /// Revision that the job must have.
        expected_revision: Option<u64>,
        /// Reply channel: the job after the change.
        ask: ReplySlot<JobDone, ControlRefusal>,
    },
    /// Retry an ended job, or run a waiting one now.
    Retry {
        /// The job.
        id: JobId,
        /// Revision that the job must have.
        expected_revision: Option<u64>,
        /// Whether the attempts so far no longer count.
        reset: bool,
        /// Whether the checkpoint of earlier attempts is deleted.
        drop_checkpoint: bool,
        /// Reply channel: the job after the change.
        ask: ReplySlot<JobDone, ControlRefusal>,
    },
    /// Change the input of a job that has never started.
    Update {
        /// The job.
        id: JobId,
        /// Revision that the job must have.
        expected_revision: Option<u64>,
        /// The new input.
        update: Box<JobUpdate>,
        /// Reply channel: the job after the change.
        ask: ReplySlot<JobDone, ControlRefusal>,
    },
    /// Delete a job.
    Delete {
        /// The job.
        id: JobId,
        /// Revision that the job must have.
        expected_revision: Option<u64>,
        /// Whether to delete it although children have not ended.
        force: bool,
        /// Reply channel, answered once the job is deleted.
        ask: ReplySlot<(), ControlRefusal>,
    },
    /// Take a unique key from its holder.
    ReleaseKey {
        /// The key.
        hash: KeyHash,
        /// The text of the key, for errors.
        key: String,
        /// Reply channel: the former and the present holder.
        ask: ReplySlot<KeyDone, ControlRefusal>,
    },
    /// Create a queue.
    CreateQueue {
        /// Its name.
        name: String,
        /// Its settings.
        settings: QueueSettings,
        /// Reply channel: the queue.
        ask: ReplySlot<QueueDone, ControlRefusal>,
    },
    /// Change a queue's settings.
    UpdateQueue {
        /// Its name.
        name: String,
        /// The changed settings.
        change: SettingsChange,
        /// Etag that the queue must have.
        etag: Option<String>,
        /// Reply channel: the queue after the change.
        ask: ReplySlot<QueueDone, ControlRefusal>,
    },
    /// Delete a queue.
    DeleteQueue {
        /// Its name.
        name: String,
        /// Reply channel, answered once the queue is deleted.
        ask: ReplySlot<(), ControlRefusal>,
    },
    /// Pause or resume a queue.
    SetPaused {
        /// Its name.
        name: String,
        /// Whether to pause (`true`) or resume.
        paused: bool,
        /// Reply channel: the queue after the change.
        ask: ReplySlot<QueueDone, ControlRefusal>,
    },
    /// Delete all jobs that wait in a queue at present, over several batches.
    Purge {
        /// The queue's name.
        name: String,
        /// Reply channel: what was done, at the end of the purge.
        ask: ReplySlot<PurgeCounts, ControlRefusal>,
    },
    /// Change a schedule.
    Schedule {
        /// Its name.
        name: String,
        /// The change.
        action: ScheduleAction,
        /// Reply channel: the schedule after the change.
        ask: ReplySlot<ScheduleDone, ControlRefusal>,
    },
    /// Change a calendar.
    Calendar {
        /// Its name.
        name: String,
        /// The change.
        action: CalendarAction,
        /// Reply channel: the calendar after the change.
        ask: ReplySlot<CalendarDone, ControlRefusal>,
    },
    /// Change a limit, or one of its overrides.
    Limit {
        /// Its name.
        name: String,
        /// The change.
        action: LimitAction,
        /// Reply channel: the limit after the change.
        ask: ReplySlot<LimitDone, ControlRefusal>,
    },
    /// Register a remote worker.
    RegisterWorker {
        /// Its introduction.
        hello: Box<WorkerHello>,
        /// Reply channel: the worker, and what became of its leases.
        ask: ReplySlot<Registered, ControlRefusal>,
    },
    /// Refresh what is known of workers, and forget those that are gone.
    ReviewWorkers {
        /// Reply channel.
        ask: ReplySlot<(), ControlRefusal>,
    },
}

/// Selects the reply channel of any action.
macro_rules! question {
    ($action:expr) => {
        match $action {
            Action::Cancel { ask, .. } | Action::Retry { ask, .. } | Action::Update { ask, .. } => ask,
            Action::Delete { ask, .. }
            | Action::DeleteQueue { ask, .. }
            | Action::ReviewWorkers { ask } => ask,
            Action::RegisterWorker { ask, .. } => ask,
            Action::ReleaseKey { ask, .. } => ask,
            Action::Schedule { ask, .. } => ask,
            Action::Calendar { ask, .. } => ask,
            Action::Limit { ask, .. } => ask,
            Action::CreateQueue { ask, .. }
            | Action::UpdateQueue { ask, .. }
            | Action::SetPaused { ask, .. } => ask,
            Action::Purge { ask, .. } => ask,
        }
    };
}

impl Action {
    /// Returns the reply channel.
    pub(crate) fn ask(&self) -> &dyn Refusable<ControlRefusal> {
        question!(self)
    }

    /// Returns the reply channel, to refuse the control or to clear its verdict.
    pub(crate) fn ask_mut(&mut self) -> &mut dyn Refusable<ControlRefusal> {
        question!(self)
    }

    /// Returns the reply, which the commit has made valid.
    pub(crate) fn open(self, proof: &Committed) -> Option<Reply> {
        match self {
            Action::Cancel { ask, .. } | Action::Retry { ask, .. } | Action::Update { ask, .. } => {
                ask.open(proof).map(Reply::Job)
            }
            Action::Delete { ask, .. }
            | Action::DeleteQueue { ask, .. }
            | Action::ReviewWorkers { ask } => ask.open(proof).map(Reply::Gone),
            Action::RegisterWorker { ask, .. } => ask.open(proof).map(Reply::Registered),
            Action::ReleaseKey { ask, .. } => ask.open(proof).map(Reply::Key),
            Action::Schedule { ask, .. } => ask.open(proof).map(Reply::Schedule),
            Action::Calendar { ask, .. } => ask.open(proof).map(Reply::Calendar),
            Action::Limit { ask, .. } => ask.open(proof).map(Reply::Limit),
            Action::CreateQueue { ask, .. }
            | Action::UpdateQueue { ask, .. }
            | Action::SetPaused { ask, .. } => ask.open(proof).map(Reply::Queue),
            Action::Purge { ask, .. } => ask.open(proof).map(Reply::Purged),
        }
    }

    /// Returns whether the control frees space, and so must be accepted on a full disk.
    pub(crate) fn frees_space(&self) -> bool {
        matches!(self, Action::Cancel { .. } | Action::Delete { .. })
    }

    /// Returns the name of the queue that the control purges.
    pub(super) fn purges(&self) -> Option<&str> {
        if let Action::Purge { name, .. } = self { Some(name) } else { None }
    }

    /// Returns the largest number of consumers that a queue may have after the control, and whether it is paused then.
    pub(super) fn consumers_after(&self, info: &QueueInfo, consumers: u32, paused: bool) -> (u32, bool) {
        let named = |name: &str| name == info.name.as_str();
        if let Action::UpdateQueue { name, change, .. } = self
            && named(name)
        {
            return (consumers.max(change.applied(&info.settings).consumers), paused);
        }
        let resumes = matches!(self, Action::SetPaused { name, paused: false, .. } if named(name));
        (consumers, paused && !resumes)
    }

    /// Returns the job that the action changes.
    pub(crate) fn job(&self) -> Option<JobId> {
        match self {
            Action::Cancel { id, .. }
            | Action::Retry { id, .. }
            | Action::Update { id, .. }
            | Action::Delete { id, .. } => Some(*id),
            Action::ReleaseKey { .. }
            | Action::RegisterWorker { .. }
            | Action::ReviewWorkers { .. }
            | Action::Schedule { .. }
            | Action::Calendar { .. }
            | Action::Limit { .. }
            | Action::CreateQueue { .. }
            | Action::UpdateQueue { .. }
            | Action::DeleteQueue { .. }
            | Action::SetPaused { .. }
            | Action::Purge { .. } => None,
        }
    }

    /// Returns the unique key that the action changes.
    pub(super) fn key(&self) -> Option<KeyHash> {
        if let Action::ReleaseKey { hash, .. } = self { Some(*hash) } else { None }
    }

    /// Returns the introduction of a worker.
    pub(super) fn introduced(&self) -> Option<&WorkerHello> {
        if let Action::RegisterWorker { hello, .. } = self { Some(hello) } else { None }
    }

    /// Returns the name of the schedule that the action changes.
    pub(super) fn schedule(&self) -> Option<&str> {
        if let Action::Schedule { name, .. } = self { Some(name) } else { None }
    }

    /// Returns the refusal of an action whose object does not exist, or that its caller may not learn of.
    pub(super) fn missing(&self) -> ControlRefusal {
        match (self, self.job()) {
            (Action::ReleaseKey { key, .. }, _) => ControlRefusal::KeyNotFound(key.clone()),
            (Action::Schedule { name, .. }, _) => ScheduleRefusal::NotFound(name.clone()).into(),
            (_, Some(id)) => ControlRefusal::JobNotFound(id),
            (_, None) => ControlRefusal::RequestMismatch,
        }
    }

    /// Returns the leases that the action asks about.
    pub(crate) fn leases(&self) -> &[(JobId, LeaseToken)] {
        if let Action::RegisterWorker { hello, .. } = self {
            return hello.leases.as_deref().unwrap_or_default();
        }
        &[]
    }

    /// Sets a refusal as the verdict.
    pub(super) fn refused(mut self, why: ControlRefusal) -> Self {
        let ask: &mut dyn Refusable<ControlRefusal> = question!(&mut self);
        ask.decide_refusal(why);
        self
    }
}

impl Decision<'_> {
    /// Carries out an action and returns it with its verdict. A purge under way has none yet: `None`.
    pub(super) fn act(&mut self, mut action: Action, request: Option<RequestId>) -> Option<Action> {
        match &mut action {
            Action::Cancel { id, expected_revision, ask } => {
                let done = self.cancel(*id, *expected_revision);
                self.keep_job_answer(request, &done);
                ask.decide(done);
            }
            Action::Retry { id, expected_revision, reset, drop_checkpoint, ask } => {
                let done = self.retry(*id, *expected_revision, *reset);
                self.writes.dropped_checkpoints.extend(done.as_ref().ok().filter(|_| *drop_checkpoint).map(|_| *id));
                self.keep_job_answer(request, &done);
                ask.decide(done);
            }
            Action::Update { id, expected_revision, update, ask } => {
                let done = self.update_job(*id, *expected_revision, update);
                self.keep_job_answer(request, &done);
                ask.decide(done);
            }
            Action::Delete { id, expected_revision, force, ask } => {
                let done = self.delete_job(*id, *expected_revision, *force);
                self.keep_done(request, &done, |queue| *queue);
                ask.decide(done.map(|_| ()));
            }
            Action::ReleaseKey { hash, key, ask } => {
                let done = self.release_key(*hash, key);
                self.keep_done(request, &done, |(_, queue)| *queue);
                ask.decide(done.map(|(done, _)| done));
            }
            Action::CreateQueue { name, settings, ask } => {
                let done = self.create_queue(name, settings.clone());
                self.keep_done(request, &done, |info| info.name.number);
                ask.decide(done.map(queue_done));
            }
            Action::UpdateQueue { name, change, etag, ask } => {
                let done = self.update_queue(name, change, etag.as_deref());
                self.keep_done(request, &done, |info| info.name.number);
                ask.decide(done.map(queue_done));
            }
            Action::DeleteQueue { name, ask } => {
                let done = self.delete_queue(name);
                self.keep_done(request, &done, |queue| *queue);
                ask.decide(done.map(|_| ()));
            }
            Action::SetPaused { name, paused, ask } => {
                let done = self.set_paused(name, *paused);
                self.keep_done(request, &done, |info| info.name.number);
                ask.decide(done.map(queue_done));
            }
            Action::Purge { name, ask } => match self.engine.queues.name(name) {
                Some(queue) => {
                    let ask = std::mem::replace(ask, ReplySlot::unheard());
                    self.keep_answer(request, RequestOutcome::Purge { queue: queue.number, done: None });
                    self.begin_purge(queue.number, ask);
                    return None;
                }
                None => ask.decide(Err(ControlRefusal::QueueNotFound(name.clone()))),
            },
            Action::Schedule { name, action, ask } => ask.decide(self.change_schedule(name, action, request)),
            Action::Calendar { name, action, ask } => ask.decide(self.change_calendar(name, action, request)),
            Action::Limit { name, action, ask } => ask.decide(self.change_limit(name, action, request)),
            Action::RegisterWorker { hello, ask } => ask.decide(self.register_worker(hello)),
            Action::ReviewWorkers { ask } => {
                self.review_workers();
                ask.decide(Ok(()));
            }
        }
        Some(action)
    }

    /// Answers a repeated request with its first answer.
    pub(super) fn repeat(
        &mut self,
        mut action: Action,
        answer: RequestOutcome,
        shows_job: bool,
    ) -> Option<Action> {
        match (&mut action, answer) {
            (
                Action::Cancel { ask, .. } | Action::Retry { ask, .. } | Action::Update { ask, .. },
                RequestOutcome::Job { id, state, revision, .. },
            ) => {
                let job = self.job(id).filter(|_| shows_job);
                ask.decide(Ok(JobDone { id, state, revision, is_repeat: true, job }));
            }
            (Action::Delete { ask, .. } | Action::DeleteQueue { ask, .. }, RequestOutcome::Done { .. }) => {
                ask.decide(Ok(()));
            }
            (
                Action::CreateQueue { name, ask, .. }
                | Action::UpdateQueue { name, ask, .. }
                | Action::SetPaused { name, ask, .. },
                RequestOutcome::Done { .. },
            ) => {
                let info = self.engine.queues.find(name);
                ask.decide(Ok(QueueDone { info, is_repeat: true }));
            }
            (Action::ReleaseKey { ask, .. }, RequestOutcome::Done { .. }) => {
                ask.decide(Ok(KeyDone { holder: None, successor: None, is_repeat: true }));
            }
            (Action::Schedule { name, ask, .. }, RequestOutcome::Done { .. } | RequestOutcome::Jobs { .. }) => {
                ask.decide(Ok(self.repeat_schedule(name, answer)));
            }
            (Action::Limit { name, ask, .. }, RequestOutcome::Done { .. }) => {
                ask.decide(Ok(LimitDone { limit: self.engine.limits.find(name), is_repeat: true }));
            }
            (Action::Calendar { name, ask, .. }, RequestOutcome::Done { .. }) => {
                let calendar = self.engine.schedules.calendar(name);
                ask.decide(Ok(CalendarDone { calendar, is_repeat: true }));
            }
            (Action::Purge { ask, .. }, RequestOutcome::Purge { done: Some(done), .. }) => {
                ask.decide(Ok(done));
            }
            (Action::Purge { ask, .. }, RequestOutcome::Purge { queue, done: None }) => {
                let ask = std::mem::replace(ask, ReplySlot::unheard());
                self.engine.purges.join(queue, ask);
                return None;
            }
            // The digest differs between calls, so that only a damaged row gets here.
            (_, RequestOutcome::Jobs { .. } | RequestOutcome::Job { .. } | RequestOutcome::Done { .. })
            | (_, RequestOutcome::Purge { .. }) => {
                return Some(action.refused(ControlRefusal::RequestMismatch));
            }
        }
        Some(action)
    }

    fn begin_purge(&mut self, queue: u32, ask: ReplySlot<PurgeCounts, ControlRefusal>) {
        self.engine.purges.begin(queue, self.engine.numbers.last_id(), ask);
        // Jobs that began to wait in this batch are on no page that the store read.
        for job in self.waiting_anew().iter().filter(|job| job.spec.queue.number == queue) {
            // The deletion of one that holds a unique key takes its successor along.
            if let Some(job) = self.job(job.id) {
                self.delete_if_purged(&job);
            }
        }
    }
}
