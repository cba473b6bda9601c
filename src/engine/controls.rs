//! Mutations of jobs and queues requested by callers.

use std::{fmt, sync::Arc};

use super::{
    Answer, Ask, ControlRefusal, JobDone, QueueDone, ask::Asked, decision::Decision, tallies::Usage,
};
use crate::{
    engine::transition::{Event, transition},
    job::{Job, JobId, RequestId, StateName},
    settings::{QueueInfo, QueueSettings, SettingsChange},
    store::sets::{Committed, KeptAnswer, KeptRequest, RequestRow},
};

/// A mutation of a job or a queue requested by a caller.
#[derive(Debug)]
pub struct Control {
    /// The request id, which makes a repeat idempotent: it gets the first answer and changes nothing.
    pub request: Option<RequestId>,
    /// The mutation.
    pub action: Action,
    /// Restricts the control to answering a repeat. Set if the job or queue that it names was not found, so that its
    /// caller could not be authorised: a first answer is then repeated only if it concerns a queue that this check
    /// permits.
    pub only_repeat: Option<QueueCheck>,
    /// Whether the batch that decided it last found it to be a repeat, which changes nothing.
    pub(crate) is_repeat: bool,
}

/// Authorisation check of a caller on a queue, by the queue's name.
pub struct QueueCheck(pub Box<dyn Fn(&str) -> bool + Send>);

impl fmt::Debug for QueueCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueCheck").finish_non_exhaustive()
    }
}

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
        ask: Ask<JobDone, ControlRefusal>,
    },
    /// Retry an ended job, or run a waiting one now.
    Retry {
        /// The job.
        id: JobId,
        /// Revision that the job must have.
        expected_revision: Option<u64>,
        /// Reply channel: the job after the change.
        ask: Ask<JobDone, ControlRefusal>,
    },
    /// Delete a job.
    Delete {
        /// The job.
        id: JobId,
        /// Revision that the job must have.
        expected_revision: Option<u64>,
        /// Reply channel, answered once the job is deleted.
        ask: Ask<(), ControlRefusal>,
    },
    /// Create a queue.
    CreateQueue {
        /// Its name.
        name: String,
        /// Its settings.
        settings: QueueSettings,
        /// Reply channel: the queue.
        ask: Ask<QueueDone, ControlRefusal>,
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
        ask: Ask<QueueDone, ControlRefusal>,
    },
    /// Delete a queue.
    DeleteQueue {
        /// Its name.
        name: String,
        /// Reply channel, answered once the queue is deleted.
        ask: Ask<(), ControlRefusal>,
    },
    /// Pause or resume a queue.
    SetPaused {
        /// Its name.
        name: String,
        /// Whether to pause (`true`) or resume.
        paused: bool,
        /// Reply channel: the queue after the change.
        ask: Ask<QueueDone, ControlRefusal>,
    },
    /// Delete all jobs that wait in a queue at present, over several batches.
    Purge {
        /// The queue's name.
        name: String,
        /// Reply channel: the number of deleted jobs, at the end of the purge.
        ask: Ask<u64, ControlRefusal>,
    },
}

/// Selects the reply channel of any action.
macro_rules! question {
    ($action:expr) => {
        match $action {
            Action::Cancel { ask, .. } | Action::Retry { ask, .. } => ask,
            Action::Delete { ask, .. } | Action::DeleteQueue { ask, .. } => ask,
            Action::CreateQueue { ask, .. }
            | Action::UpdateQueue { ask, .. }
            | Action::SetPaused { ask, .. } => ask,
            Action::Purge { ask, .. } => ask,
        }
    };
}

impl Control {
    /// Creates a control, which can be repeated if it has a request id.
    #[must_use]
    pub fn new(request: Option<RequestId>, action: Action) -> Self {
        Control { request, action, only_repeat: None, is_repeat: false }
    }

    /// Creates a control without a request id.
    #[must_use]
    pub fn once(action: Action) -> Self {
        Control::new(None, action)
    }

    /// Returns the reply channel.
    pub(crate) fn ask(&self) -> &dyn Asked<ControlRefusal> {
        question!(&self.action)
    }

    /// Returns the reply channel, to refuse the control or to clear its verdict.
    pub(crate) fn ask_mut(&mut self) -> &mut dyn Asked<ControlRefusal> {
        question!(&mut self.action)
    }

    /// Returns the reply, which the commit has made valid.
    pub(crate) fn open(self, proof: &Committed) -> Option<Answer> {
        match self.action {
            Action::Cancel { ask, .. } | Action::Retry { ask, .. } => ask.open(proof).map(Answer::Job),
            Action::Delete { ask, .. } | Action::DeleteQueue { ask, .. } => ask.open(proof).map(Answer::Gone),
            Action::CreateQueue { ask, .. }
            | Action::UpdateQueue { ask, .. }
            | Action::SetPaused { ask, .. } => ask.open(proof).map(Answer::Queue),
            Action::Purge { ask, .. } => ask.open(proof).map(Answer::Purged),
        }
    }

    /// Returns whether the control frees space, and so must be accepted on a full disk.
    pub(crate) fn frees_space(&self) -> bool {
        matches!(self.action, Action::Cancel { .. } | Action::Delete { .. })
    }

    /// Returns the name of the queue that the control purges.
    pub(super) fn purges(&self) -> Option<&str> {
        if let Action::Purge { name, .. } = &self.action { Some(name) } else { None }
    }

    /// Returns the largest number of consumers that a queue may have after the control, and whether it is paused then.
    pub(super) fn consumers_after(&self, info: &QueueInfo, consumers: u32, paused: bool) -> (u32, bool) {
        let named = |name: &str| name == info.name.as_str();
        if let Action::UpdateQueue { name, change, .. } = &self.action
            && named(name)
        {
            return (consumers.max(change.applied(&info.settings).consumers), paused);
        }
        let resumes = matches!(&self.action, Action::SetPaused { name, paused: false, .. } if named(name));
        (consumers, paused && !resumes)
    }

    /// Returns the job that the control names.
    pub(crate) fn job(&self) -> Option<JobId> {
        self.action.job()
    }
}

impl Action {
    fn job(&self) -> Option<JobId> {
        match self {
            Action::Cancel { id, .. } | Action::Retry { id, .. } | Action::Delete { id, .. } => Some(*id),
            Action::CreateQueue { .. }
            | Action::UpdateQueue { .. }
            | Action::DeleteQueue { .. }
            | Action::SetPaused { .. }
            | Action::Purge { .. } => None,
        }
    }

    /// Sets a refusal as the verdict.
    fn refused(mut self, why: ControlRefusal) -> Self {
        let ask: &mut dyn Asked<ControlRefusal> = question!(&mut self);
        ask.decide_refusal(why);
        self
    }
}

impl Decision<'_> {
    /// Decides one control. A purge gets its verdict at its end. A repeated request changes nothing.
    pub(super) fn control(&mut self, control: Control) {
        let Control { request, action, only_repeat, .. } = control;
        let seen = request.and_then(|request| Some((request, self.request(request)?.row)));
        let same = seen.filter(|(request, row)| row.digest == request.digest).map(|(_, row)| row.answer);
        let may_hear = |answer: &KeptAnswer| {
            let Some(QueueCheck(may)) = &only_repeat else { return true };
            let queue = answer.queue().and_then(|number| self.engine.names.queues.get(number));
            queue.is_some_and(|queue| may(queue.as_str()))
        };
        let (action, is_repeat) = match same.filter(may_hear) {
            Some(answer) => (self.repeat(action, answer, only_repeat.is_none()), true),
            None if only_repeat.is_some() => {
                // A caller without permission must not learn whether the job, the queue or another request exists.
                let missing =
                    action.job().map_or(ControlRefusal::RequestMismatch, ControlRefusal::JobNotFound);
                (Some(action.refused(missing)), false)
            }
            None if seen.is_some() => (Some(action.refused(ControlRefusal::RequestMismatch)), false),
            None => (self.act(action, request), false),
        };
        let control = action.map(|action| Control { request, action, only_repeat, is_repeat });
        self.sealed.controls.extend(control);
    }

    /// Carries out an action and returns it with its verdict. A purge under way has none yet: `None`.
    fn act(&mut self, mut action: Action, request: Option<RequestId>) -> Option<Action> {
        match &mut action {
            Action::Cancel { id, expected_revision, ask } => {
                let done = self.cancel(*id, *expected_revision);
                self.keep_job_answer(request, &done);
                ask.decide(done);
            }
            Action::Retry { id, expected_revision, ask } => {
                let done = self.retry(*id, *expected_revision);
                self.keep_job_answer(request, &done);
                ask.decide(done);
            }
            Action::Delete { id, expected_revision, ask } => {
                let done = self.delete_job(*id, *expected_revision);
                self.keep_done(request, &done, |queue| *queue);
                ask.decide(done.map(|_| ()));
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
                    let ask = std::mem::replace(ask, Ask::unheard());
                    self.keep_answer(request, KeptAnswer::Purge { queue: queue.number, deleted: None });
                    self.begin_purge(queue.number, ask);
                    return None;
                }
                None => ask.decide(Err(ControlRefusal::QueueNotFound(name.clone()))),
            },
        }
        Some(action)
    }

    /// Answers a repeated request with its first answer.
    fn repeat(&mut self, mut action: Action, answer: KeptAnswer, shows_job: bool) -> Option<Action> {
        match (&mut action, answer) {
            (
                Action::Cancel { ask, .. } | Action::Retry { ask, .. },
                KeptAnswer::Job { id, state, revision, .. },
            ) => {
                let job = self.job(id).filter(|_| shows_job);
                ask.decide(Ok(JobDone { id, state, revision, is_repeat: true, job }));
            }
            (Action::Delete { ask, .. } | Action::DeleteQueue { ask, .. }, KeptAnswer::Done { .. }) => {
                ask.decide(Ok(()));
            }
            (
                Action::CreateQueue { name, ask, .. }
                | Action::UpdateQueue { name, ask, .. }
                | Action::SetPaused { name, ask, .. },
                KeptAnswer::Done { .. },
            ) => {
                let info = self.engine.queues.find(name);
                ask.decide(Ok(QueueDone { info, is_repeat: true }));
            }
            (Action::Purge { ask, .. }, KeptAnswer::Purge { deleted: Some(deleted), .. }) => {
                ask.decide(Ok(deleted));
            }
            (Action::Purge { ask, .. }, KeptAnswer::Purge { queue, deleted: None }) => {
                let ask = std::mem::replace(ask, Ask::unheard());
                self.engine.purges.join(queue, ask);
                return None;
            }
            // The digest differs between calls, so that only a damaged row gets here.
            (_, KeptAnswer::Jobs { .. } | KeptAnswer::Job { .. } | KeptAnswer::Done { .. })
            | (_, KeptAnswer::Purge { .. }) => {
                return Some(action.refused(ControlRefusal::RequestMismatch));
            }
        }
        Some(action)
    }

    fn keep_job_answer(&mut self, request: Option<RequestId>, done: &Result<JobDone, ControlRefusal>) {
        if let Ok(JobDone { id, state, revision, job: Some(job), .. }) = done {
            let (id, state, revision, queue) = (*id, *state, *revision, job.spec.queue.number);
            self.keep_answer(request, KeptAnswer::Job { id, state, revision, queue });
        }
    }

    /// Stores the success of a request, with the queue that `of` returns.
    fn keep_done<T>(
        &mut self,
        request: Option<RequestId>,
        done: &Result<T, ControlRefusal>,
        of: impl FnOnce(&T) -> u32,
    ) {
        if let Ok(done) = done {
            self.keep_answer(request, KeptAnswer::Done { queue: of(done) });
        }
    }

    /// Stores the answer to a request. It has no jobs of its own, so that its retention begins now.
    fn keep_answer(&mut self, request: Option<RequestId>, answer: KeptAnswer) {
        let Some(RequestId { key, digest }) = request else { return };
        let row = RequestRow { digest, answer };
        let now = self.engine.times.retention();
        self.writes.requests.push((key, row, Some(now)));
        self.new_requests.insert(key, KeptRequest { row, job: None });
        self.engine.sweeping.request_bare(now);
    }

    fn begin_purge(&mut self, queue: u32, ask: Ask<u64, ControlRefusal>) {
        self.engine.purges.begin(queue, self.engine.numbers.last_id(), ask);
        // Jobs that began to wait in this batch are on no page that the store read.
        for job in self.waiting_anew().iter().filter(|job| job.spec.queue.number == queue) {
            self.delete(job);
            self.engine.purges.deleted_early(queue);
        }
    }

    /// Returns the job if it is at the revision that the caller expects.
    fn expected(&self, id: JobId, expected: Option<u64>) -> Result<Arc<Job>, ControlRefusal> {
        let job = self.job(id).ok_or(ControlRefusal::JobNotFound(id))?;
        match expected {
            Some(expected) if expected != job.revision => {
                Err(ControlRefusal::RevisionMismatch { id, expected, revision: job.revision })
            }
            Some(_) | None => Ok(job),
        }
    }

    fn cancel(&mut self, id: JobId, expected: Option<u64>) -> Result<JobDone, ControlRefusal> {
        let job = self.expected(id, expected)?;
        match transition(&job, &Event::Cancel, self.moment(&job)) {
            Ok(changed) => Ok(JobDone::now(&self.change(&job, changed))),
            Err(_) => match job.state.name() {
                StateName::Cancelling | StateName::Cancelled => Ok(JobDone::now(&job)),
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

    fn retry(&mut self, id: JobId, expected: Option<u64>) -> Result<JobDone, ControlRefusal> {
        let job = self.expected(id, expected)?;
        let changed = transition(&job, &Event::Retry, self.moment(&job)).map_err(|_| {
            let way_out = "only a FAILED, CANCELLED, BACKING_OFF or SCHEDULED job can be retried";
            ControlRefusal::WrongState { id, state: job.state.name(), way_out }
        })?;
        if job.state.is_done() {
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
        Ok(JobDone::now(&self.change(&job, changed)))
    }

    /// Returns the stored or new entry of a request id.
    pub(super) fn request(&self, request: RequestId) -> Option<&KeptRequest> {
        self.new_requests.get(&request.key).or_else(|| self.found.requests.get(&request.key))
    }

    fn delete_job(&mut self, id: JobId, expected: Option<u64>) -> Result<u32, ControlRefusal> {
        let job = self.expected(id, expected)?;
        if job.state.lease().is_some() {
            let way_out = "cancel it, and delete it once it has ended";
            return Err(ControlRefusal::WrongState { id, state: job.state.name(), way_out });
        }
        self.delete(&job);
        Ok(job.spec.queue.number)
    }
}

fn queue_done(info: QueueInfo) -> QueueDone {
    QueueDone { info: Some(info), is_repeat: false }
}
