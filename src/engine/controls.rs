//! Requests for mutations, and what is kept for their repeats.

use std::fmt;

use super::{Action, ControlRefusal, JobDone, decision::Decision};
use crate::{
    job::RequestId,
    store::sets::{RequestOutcome, RequestRow, StoredRequest},
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
}

impl Decision<'_> {
    /// Decides one control. A purge gets its verdict at its end. A repeated request changes nothing.
    pub(super) fn control(&mut self, control: Control) {
        let Control { request, action, only_repeat, .. } = control;
        let seen = request.and_then(|request| {
            let row = &self.request(request)?.row;
            Some((row.digest == request.digest, row.answer))
        });
        let same = seen.filter(|(is_same, _)| *is_same).map(|(_, answer)| answer);
        let may_hear = |answer: &RequestOutcome| {
            let Some(QueueCheck(may)) = &only_repeat else { return true };
            let queue = answer.queue().and_then(|number| self.engine.names.queues.get(number));
            queue.is_some_and(|queue| may(queue.as_str()))
        };
        let (action, is_repeat) = match same.filter(may_hear) {
            Some(answer) => (self.repeat(action, answer, only_repeat.is_none()), true),
            None if only_repeat.is_some() => {
                // A caller without permission must not learn whether the job, the queue or another request exists.
                let missing = action.missing();
                (Some(action.refused(missing)), false)
            }
            None if seen.is_some() => (Some(action.refused(ControlRefusal::RequestMismatch)), false),
            None => (self.act(action, request), false),
        };
        let control = action.map(|action| Control { request, action, only_repeat, is_repeat });
        self.sealed.controls.extend(control);
    }

    pub(super) fn keep_job_answer(
        &mut self,
        request: Option<RequestId>,
        done: &Result<JobDone, ControlRefusal>,
    ) {
        if let Ok(JobDone { id, state, revision, job: Some(job), .. }) = done {
            let (id, state, revision, queue) = (*id, *state, *revision, job.spec.queue.number);
            self.keep_answer(request, RequestOutcome::Job { id, state, revision, queue });
        }
    }

    /// Stores the success of a request, with the queue that `of` returns.
    pub(super) fn keep_done<T>(
        &mut self,
        request: Option<RequestId>,
        done: &Result<T, ControlRefusal>,
        of: impl FnOnce(&T) -> u32,
    ) {
        if let Ok(done) = done {
            self.keep_answer(request, RequestOutcome::Done { queue: of(done) });
        }
    }

    /// Stores the answer to a request. It has no jobs of its own, so that its retention begins now.
    pub(super) fn keep_answer(&mut self, request: Option<RequestId>, answer: RequestOutcome) {
        let Some(RequestId { key, digest }) = request else { return };
        let row = RequestRow { digest, answer, found: None };
        let now = self.engine.times.retention();
        self.writes.requests.push((key, row.clone(), Some(now)));
        self.new_requests.insert(key, StoredRequest { row, job: None });
        self.engine.sweeping.request_bare(now);
    }

    /// Returns the stored or new entry of a request id.
    pub(super) fn request(&self, request: RequestId) -> Option<&StoredRequest> {
        self.new_requests.get(&request.key).or_else(|| self.found.requests.get(&request.key))
    }
}
