//! What to submit, step by step. Nothing is checked before it is submitted.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    admission::JobDraft,
    clock::Timestamp,
    job::{PartialRetryPolicy, When, names::CLOSURE_KIND},
    settings::{DEFAULT_QUEUE, WhenFull},
};

/// A job to submit. What is not said is the kind's default.
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
    /// A job of this kind, in the queue `default`.
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

    /// The queue that holds it.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.draft.queue = queue.into();
        self
    }

    /// The handler's input: at most 1 MiB.
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.draft.payload = payload.into();
        self
    }

    /// The payload's media type.
    pub fn payload_type(mut self, media_type: impl Into<String>) -> Self {
        self.draft.payload_info.media_type = media_type.into();
        self
    }

    /// Adds what the payload's reader needs to know, such as an encoding. At most 16, of 4 KiB together.
    pub fn payload_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.draft.payload_info.metadata.insert(key.into(), value.into());
        self
    }

    /// Adds a header: what the handler is told beside the payload. At most 32, of 8 KiB together.
    pub fn header(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.draft.headers.insert(key.into(), value.into());
        self
    }

    /// Adds a label, by which the job can be found. At most 32.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.draft.labels.insert(key.into(), value.into());
        self
    }

    /// −100 to 100; the larger runs first. Default 0.
    pub fn priority(mut self, priority: i8) -> Self {
        self.draft.priority = Some(priority);
        self
    }

    /// Not to be run before this instant: a [`Timestamp`], or a [`std::time::SystemTime`].
    pub fn run_at(mut self, instant: impl Into<Timestamp>) -> Self {
        self.draft.start = Some(When::At(instant.into()));
        self
    }

    /// Not to be run before the instant that the machine's clock, if it is not set, says so long after the submission:
    /// as [`JobRequest::run_at`].
    pub fn delay(mut self, delay: Duration) -> Self {
        self.draft.start = Some(When::After(delay));
        self
    }

    /// If no attempt has started by this instant, the job ends as EXPIRED.
    pub fn expires_at(mut self, instant: impl Into<Timestamp>) -> Self {
        self.draft.expiry = Some(When::At(instant.into()));
        self
    }

    /// If no attempt has started so long after the submission, the job ends as EXPIRED.
    pub fn expires_after(mut self, time: Duration) -> Self {
        self.draft.expiry = Some(When::After(time));
        self
    }

    /// How many attempts may start: 1 to 1,000. With 1, at most one ever does.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.draft.max_attempts = (attempts > 0).then_some(attempts);
        self
    }

    /// How long to wait between attempts: a [`crate::job::RetryPolicy`], or parts of one; the rest is the kind's.
    pub fn retry(mut self, policy: impl Into<PartialRetryPolicy>) -> Self {
        self.draft.retry = Some(policy.into());
        self
    }

    /// How long one attempt may take.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.draft.attempt_timeout = Some(timeout);
        self
    }

    /// Makes a repeat safe: a second submission with the same id, in this process or after a restart, finds the first
    /// one's job. It must ask for the same.
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.request_id = id.into();
        self
    }

    /// What to do when the queue is full, in place of what the queue says.
    pub fn when_full(mut self, when_full: WhenFull) -> Self {
        self.when_full = Some(when_full);
        self
    }

    /// Waits for room for no longer than this; the queue's own `max_wait` stays the upper bound.
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.max_wait = Some(wait);
        self
    }

    /// The W3C trace context of whoever submits, as in the header `traceparent`: the job's attempts belong to its
    /// trace. Text of another form is ignored, as the W3C has it.
    pub fn traceparent(mut self, context: impl Into<String>) -> Self {
        self.traceparent = context.into();
        self
    }

    /// The caller's W3C trace state, as in the header `tracestate`: handlers get it beside the trace context.
    pub fn tracestate(mut self, state: impl Into<String>) -> Self {
        self.tracestate = state.into();
        self
    }
}

/// A closure's job to submit. The name of a queue is one, too.
#[derive(Clone, Debug)]
#[must_use]
pub struct SpawnRequest(pub(super) JobRequest);

impl SpawnRequest {
    /// In this queue.
    pub fn on(queue: impl Into<String>) -> Self {
        SpawnRequest(JobRequest::new(CLOSURE_KIND).queue(queue))
    }

    /// Adds a label, by which the job can be found. At most 32.
    pub fn label(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        SpawnRequest(self.0.label(key, value))
    }

    /// −100 to 100; the larger runs first. Default 0.
    pub fn priority(self, priority: i8) -> Self {
        SpawnRequest(self.0.priority(priority))
    }

    /// How long the closure may take. Default 15 min.
    pub fn timeout(self, timeout: Duration) -> Self {
        SpawnRequest(self.0.timeout(timeout))
    }

    /// The W3C trace context of whoever submits: see [`JobRequest::traceparent`].
    pub fn traceparent(self, context: impl Into<String>) -> Self {
        SpawnRequest(self.0.traceparent(context))
    }

    /// What to do when the queue is full, in place of what the queue says.
    pub fn when_full(self, when_full: WhenFull) -> Self {
        SpawnRequest(self.0.when_full(when_full))
    }

    /// Waits for room for no longer than this; the queue's own `max_wait` stays the upper bound.
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
