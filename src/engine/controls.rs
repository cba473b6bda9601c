//! Changes of jobs and queues that callers ask for.

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

/// A change of a job or a queue that a caller asks for.
#[derive(Debug)]
pub struct Control {
    /// Makes a repeat safe: it is answered as the first one was, and changes nothing.
    pub request: Option<RequestId>,
    /// What is to be done.
    pub action: Action,
    /// Where what it names was not there, its caller could not be asked whether it may. Then nothing is done but to
    /// answer a request that came before, if that was about a queue on which this says that the caller may.
    pub only_repeat: Option<QueueCheck>,
    /// It was found to be a repeat, which changes nothing, by the batch that decided it last.
    pub(crate) is_repeat: bool,
}

/// Whether a caller may do something on a queue, by its name.
pub struct QueueCheck(pub Box<dyn Fn(&str) -> bool + Send>);

impl fmt::Debug for QueueCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueCheck").finish_non_exhaustive()
    }
}

/// What a control does.
#[derive(Debug)]
pub enum Action {
    /// Cancel a job.
    Cancel {
        /// The job.
        id: JobId,
        /// The revision that the job must have.
        expected_revision: Option<u64>,
        /// Answered with the job after the change.
        ask: Ask<JobDone, ControlRefusal>,
    },
    /// Run a job again, or now.
    Retry {
        /// The job.
        id: JobId,
        /// The revision that the job must have.
        expected_revision: Option<u64>,
        /// Answered with the job after the change.
        ask: Ask<JobDone, ControlRefusal>,
    },
    /// Delete a job.
    Delete {
        /// The job.
        id: JobId,
        /// The revision that the job must have.
        expected_revision: Option<u64>,
        /// Answered once the job is gone.
        ask: Ask<(), ControlRefusal>,
    },
    /// Create a queue.
    CreateQueue {
        /// Its name.
        name: String,
        /// Its settings.
        settings: QueueSettings,
        /// Answered with the queue.
        ask: Ask<QueueDone, ControlRefusal>,
    },
    /// Change a queue's settings.
    UpdateQueue {
        /// Its name.
        name: String,
        /// What is changed.
        change: SettingsChange,
        /// The etag that the queue must have.
        etag: Option<String>,
        /// Answered with the queue after the change.
        ask: Ask<QueueDone, ControlRefusal>,
    },
    /// Delete a queue.
    DeleteQueue {
        /// Its name.
        name: String,
        /// Answered once the queue is gone.
        ask: Ask<(), ControlRefusal>,
    },
    /// Pause or resume a queue.
    SetPaused {
        /// Its name.
        name: String,
        /// Whether the queue starts no jobs from now on.
        paused: bool,
        /// Answered with the queue after the change.
        ask: Ask<QueueDone, ControlRefusal>,
    },
    /// Delete all jobs that wait in a queue now, over several batches.
    Purge {
        /// The queue's name.
        name: String,
        /// Answered at the purge's end with the number of deleted jobs.
        ask: Ask<u64, ControlRefusal>,
    },
}

/// The question in an action, whatever it asks for.
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
    /// A control that can be repeated where it has a request.
    #[must_use]
    pub fn new(request: Option<RequestId>, action: Action) -> Self {
        Control { request, action, only_repeat: None, is_repeat: false }
    }

    /// A control that is no repeat of anything.
    #[must_use]
    pub fn once(action: Action) -> Self {
        Control::new(None, action)
    }

    /// The question in it.
    pub(crate) fn ask(&self) -> &dyn Asked<ControlRefusal> {
        question!(&self.action)
    }

    /// The question in it, to be refused or taken back.
    pub(crate) fn ask_mut(&mut self) -> &mut dyn Asked<ControlRefusal> {
        question!(&mut self.action)
    }

    /// The answer, which is true now.
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

    /// Whether it frees space, so that a full disk must take it.
    pub(crate) fn frees_space(&self) -> bool {
        matches!(self.action, Action::Cancel { .. } | Action::Delete { .. })
    }

    /// The queue that it purges.
    pub(super) fn purges(&self) -> Option<&str> {
        if let Action::Purge { name, .. } = &self.action { Some(name) } else { None }
    }

    /// How many consumers a queue has after it, at most, and whether it is paused then.
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

    /// The job that it names.
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

    /// The action with a refusal as its verdict.
    fn refused(mut self, why: ControlRefusal) -> Self {
        let ask: &mut dyn Asked<ControlRefusal> = question!(&mut self);
        ask.decide_refusal(why);
        self
    }
}

impl Decision<'_> {
    /// Decides one control. A purge is decided at its end. A request that came before changes nothing.
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
                // Whether there is something, or another request, is not for this caller to know.
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

    /// Does what was asked for. Returns the action with its verdict; a purge has none yet.
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

    /// Answers a request that came before as it was answered then.
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
            // The digest tells calls apart: only a row that was damaged comes here.
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

    /// Keeps that something was done, about the queue that `of` tells.
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

    /// Keeps what a request came to. It has no jobs of its own: it is remembered from now on.
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
        // What came into line with this very batch is on no page.
        for job in self.waiting_anew().iter().filter(|job| job.spec.queue.number == queue) {
            self.delete(job);
            self.engine.purges.deleted_early(queue);
        }
    }

    /// The job, if it is at the revision that the caller expects.
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
        Ok(JobDone::now(&self.change(&job, changed)))
    }

    /// What is known of a request.
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
