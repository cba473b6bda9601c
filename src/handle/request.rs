//! Builders of submissions. Nothing is validated before the submission.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    clock::Timestamp,
    job::{Dependency, JobDraft, PartialRetryPolicy, UniqueKey, When, names::CLOSURE_KIND},
    settings::{DEFAULT_QUEUE, WhenFull},
};

/// A job to submit. Fields that are not set have the kind's defaults.
#[derive(Clone, Debug)]
#[must_use]
pub struct JobRequest {
    pub(super) draft: JobDraft,
    pub(super) request_id: String,
    pub(super) when_full: Option<WhenFull>,
    pub(super) max_wait: Option<Duration>,
    pub(super) traceparent: String,
    pub(super) tracestate: String,
}

impl JobRequest {
    /// Creates a request for a job of this kind, in the queue `default`.
    pub fn new(kind: impl Into<String>) -> Self {
        let draft = JobDraft { queue: DEFAULT_QUEUE.to_owned(), kind: kind.into(), ..JobDraft::default() };
        JobRequest {
            draft,
            request_id: String::new(),
            when_full: None,
            max_wait: None,
            traceparent: String::new(),
            tracestate: String::new(),
        }
    }

    /// Sets the job's queue.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.draft.queue = queue.into();
        self
    }

    /// Sets the handler's input: at most 1 MiB.
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.draft.payload = payload.into();
        self
    }

    /// Sets the payload's media type.
    pub fn payload_type(mut self, media_type: impl Into<String>) -> Self {
        self.draft.payload_info.media_type = media_type.into();
        self
    }

    /// Adds metadata of the payload, such as an encoding. At most 16 entries, of 4 KiB together.
    pub fn payload_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.draft.payload_info.metadata.insert(key.into(), value.into());
        self
    }

    /// Adds a header: a value for the handler, beside the payload. At most 32, of 8 KiB together.
    pub fn header(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.draft.headers.insert(key.into(), value.into());
        self
    }

    /// Adds a label, by which jobs can be filtered. At most 32.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.draft.labels.insert(key.into(), value.into());
        self
    }

    /// Sets the priority: −100 to 100, the default is 0. Jobs with a larger value run first.
    pub fn priority(mut self, priority: i8) -> Self {
        self.draft.priority = Some(priority);
        self
    }

    /// Sets the earliest start: a [`Timestamp`], or a [`std::time::SystemTime`].
    pub fn run_at(mut self, instant: impl Into<Timestamp>) -> Self {
        self.draft.start = Some(When::At(instant.into()));
        self
    }

    /// Sets the earliest start, as a delay after the submission. It becomes a time of the machine's clock, as with
    /// [`JobRequest::run_at`]: setting the clock changes the wait.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.draft.start = Some(When::After(delay));
        self
    }

    /// Sets the time at which the job becomes EXPIRED if no attempt has started.
    pub fn expires_at(mut self, instant: impl Into<Timestamp>) -> Self {
        self.draft.expiry = Some(When::At(instant.into()));
        self
    }

    /// Sets the time after the submission at which the job becomes EXPIRED if no attempt has started.
    pub fn expires_after(mut self, time: Duration) -> Self {
        self.draft.expiry = Some(When::After(time));
        self
    }

    /// Sets the maximum number of attempts: 1 to 1,000. With 1, at most one attempt starts.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.draft.max_attempts = (attempts > 0).then_some(attempts);
        self
    }

    /// Sets the backoff between attempts: a [`crate::job::RetryPolicy`], or parts of one; the rest is the kind's.
    pub fn retry(mut self, policy: impl Into<PartialRetryPolicy>) -> Self {
        self.draft.retry = Some(policy.into());
        self
    }

    /// Sets the timeout of an attempt.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.draft.attempt_timeout = Some(timeout);
        self
    }

    /// Sets the time by which the job must have ended, over all of its attempts.
    pub fn deadline_at(mut self, instant: impl Into<Timestamp>) -> Self {
        self.draft.deadline = Some(When::At(instant.into()));
        self
    }

    /// Sets the time after the submission by which the job must have ended, over all of its attempts.
    pub fn deadline_after(mut self, time: Duration) -> Self {
        self.draft.deadline = Some(When::After(time));
        self
    }

    /// Sets how many attempts may ask to be run later: 0 to 1,000,000.
    pub fn max_snoozes(mut self, snoozes: u32) -> Self {
        self.draft.max_snoozes = Some(snoozes);
        self
    }

    /// Sets how many deaths of the process that runs the job within 72 hours end it: 1 to 100.
    pub fn max_process_losses(mut self, losses: u32) -> Self {
        self.draft.max_process_losses = Some(losses);
        self
    }

    /// Sets the unique key, a text or a [`UniqueKey`]: at most one job holds it at a time. The submission's
    /// [`fate`](crate::handle::Submitted::fate) tells whether it met another job.
    pub fn unique(mut self, key: impl Into<UniqueKey>) -> Self {
        self.draft.unique = Some(Box::new(key.into()));
        self
    }

    /// Adds a dependency: the job waits for one that exists. At most 1,000, each job once.
    pub fn after(mut self, dependency: Dependency) -> Self {
        self.draft.depends_on.push(dependency);
        self
    }

    /// Sets what the job weighs under a limit, in place of 1: 1 to 1,000,000. Under a limit of running jobs it takes
    /// this number of places, under a rate this number of tokens. At most 32 limits, which must exist.
    pub fn weight(mut self, limit: impl Into<String>, weight: u32) -> Self {
        self.draft.weights.insert(limit.into(), weight);
        self
    }

    /// Sets the idempotency key: a second submission with the same id, in this process or after a restart, finds the
    /// first one's job. It must be the same request.
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.request_id = id.into();
        self
    }

    /// Sets the behaviour on a full queue, in place of the queue's setting.
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = Some(when_full);
        self
    }

    /// Limits the wait for room; the queue's own `max_wait` stays the upper limit.
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.max_wait = Some(wait);
        self
    }

    /// Sets the submitter's W3C trace context, as in the header `traceparent`: the job's attempts belong to its trace.
    /// Invalid text is ignored, as the W3C specification requires.
    pub fn traceparent(mut self, context: impl Into<String>) -> Self {
        self.traceparent = context.into();
        self
    }

    /// Sets the submitter's W3C trace state, as in the header `tracestate`: handlers get it beside the trace context.
    pub fn tracestate(mut self, state: impl Into<String>) -> Self {
        self.tracestate = state.into();
        self
    }
}

/// A closure's job to submit. The name of a queue converts to a request.
#[derive(Clone, Debug)]
#[must_use]
pub struct SpawnRequest(pub(super) JobRequest);

impl SpawnRequest {
    /// Creates a request for this queue.
    pub fn on(queue: impl Into<String>) -> Self {
        SpawnRequest(JobRequest::new(CLOSURE_KIND).queue(queue))
    }

    /// Adds a label, by which jobs can be filtered. At most 32.
    pub fn label(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        SpawnRequest(self.0.label(key, value))
    }

    /// Sets the priority: −100 to 100, the default is 0. Jobs with a larger value run first.
    pub fn priority(self, priority: i8) -> Self {
        SpawnRequest(self.0.priority(priority))
    }

    /// Sets what the closure weighs under a limit: see [`JobRequest::weight`].
    pub fn weight(self, limit: impl Into<String>, weight: u32) -> Self {
        SpawnRequest(self.0.weight(limit, weight))
    }

    /// Sets the closure's timeout; the default is 15 min.
    pub fn timeout(self, timeout: Duration) -> Self {
        SpawnRequest(self.0.timeout(timeout))
    }

    /// Sets the submitter's W3C trace context: see [`JobRequest::traceparent`].
    pub fn traceparent(self, context: impl Into<String>) -> Self {
        SpawnRequest(self.0.traceparent(context))
    }

    /// Sets the behaviour on a full queue, in place of the queue's setting.
    pub fn when_full(self, when_full: WhenFull) -> Self {
        SpawnRequest(self.0.when_full(when_full))
    }

    /// Limits the wait for room; the queue's own `max_wait` stays the upper limit.
    pub fn max_wait(self, wait: Duration) -> Self {
        SpawnRequest(self.0.max_wait(wait))
    }
}

impl From<&str> for SpawnRequest {
    fn from(queue: &str) -> Self {
        SpawnRequest::on(queue)
    }
}

impl From<String> for SpawnRequest {
    fn from(queue: String) -> Self {
        SpawnRequest::on(queue)
    }
}
