//! Admission of jobs before the committer decides: the queue exists, and the kind has a handler.

mod digest;
pub(crate) mod rules;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

#[cfg(test)]
pub(crate) use digest::vectors;
pub(crate) use digest::{repeatable, request};
pub use rules::FieldFault;

use crate::{
    engine::{AdmissionError, NewJob, QueueEntry, Queues, WorkerKinds},
    job::{ClientInput, Extras, PartialRetryPolicy, PayloadInfo, When, names},
    settings::KindDefaults,
};

/// A job as the client describes it, with checked fields. An absent field gets the kind's default.
#[derive(Clone, Debug, Default)]
pub struct JobDraft {
    /// The queue's name.
    pub queue: String,
    /// The kind's name.
    pub kind: String,
    /// The handler's input.
    pub payload: Bytes,
    /// Metadata of the payload for the handler.
    pub payload_info: PayloadInfo,
    /// Labels, for the client's own use.
    pub labels: BTreeMap<String, String>,
    /// Headers for the handler.
    pub headers: BTreeMap<String, String>,
    /// The priority, −100 to 100.
    pub priority: Option<i8>,
    /// Limit of the attempts.
    pub max_attempts: Option<u32>,
    /// Backoff between attempts.
    pub retry: Option<PartialRetryPolicy>,
    /// Timeout of an attempt.
    pub attempt_timeout: Option<Duration>,
    /// Earliest start.
    pub start: Option<When>,
    /// Expiry of the job if no attempt has started by then.
    pub expiry: Option<When>,
    /// Name of the closure of this process that runs the job; empty for all other jobs.
    pub closure: String,
}

/// Request id and trace context of a submission.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    /// The request id; empty if the submission has none.
    pub(crate) request_id: &'a str,
    /// The W3C trace context.
    pub(crate) traceparent: &'a str,
    /// The W3C trace state.
    pub(crate) tracestate: &'a str,
}

/// A completed job.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) job: NewJob,
    /// Its queue, if that exists.
    pub(crate) queue: Option<Arc<QueueEntry>>,
    /// Its admission error, if any.
    pub(crate) obstacle: Option<AdmissionError>,
}

/// The checks that need no decision of the committer.
#[derive(Debug)]
pub struct Admission {
    queues: Arc<Queues>,
    kinds: HashMap<Box<str>, KnownKind>,
    /// The kinds that have a handler here.
    handled: HashSet<String>,
    /// The kinds that remote workers serve.
    worker_kinds: Arc<WorkerKinds>,
}

#[derive(Debug)]
struct KnownKind {
    name: Arc<str>,
    defaults: KindDefaults,
}

impl Admission {
    /// Creates the checks for these queues and kinds, of which those in `handled` have a handler here.
    #[must_use]
    pub fn new(
        queues: Arc<Queues>,
        kinds: impl IntoIterator<Item = (String, KindDefaults)>,
        handled: HashSet<String>,
        worker_kinds: Arc<WorkerKinds>,
    ) -> Self {
        let kinds = kinds
            .into_iter()
            .map(|(name, defaults)| {
                (name.clone().into_boxed_str(), KnownKind { name: name.into(), defaults })
            })
            .collect();
        Admission { queues, kinds, handled, worker_kinds }
    }

    /// Returns the registry of queues.
    #[must_use]
    pub fn queues(&self) -> &Arc<Queues> {
        &self.queues
    }

    /// Returns whether the kind has a handler here.
    #[must_use]
    pub fn runs(&self, kind: &str) -> bool {
        self.handled.contains(kind)
    }

    /// Completes a draft with its kind's defaults, even if it has an admission error: a repeated request finds its job
    /// although its queue or handler is gone.
    pub(crate) fn admit(&self, draft: JobDraft, origin: Origin<'_>) -> Admitted {
        let queue = self.queues.get(&draft.queue);
        let kind = self.kinds.get(draft.kind.as_str());
        let obstacle = match &queue {
            None => Some(AdmissionError::QueueNotFound(draft.queue.clone())),
            Some(queue)
                if kind.is_none()
                    && !queue.info().settings.accept_unknown_kinds
                    && !self.worker_kinds.knows(&draft.kind) =>
            {
                Some(AdmissionError::UnknownKind {
                    kind: draft.kind.clone(),
                    queue: draft.queue.clone(),
                    known: self.known_kinds(),
                })
            }
            Some(_) => None,
        };
        let defaults = kind.map_or_else(KindDefaults::default, |kind| kind.defaults);
        let said = ClientInput {
            priority: draft.priority == Some(0),
            max_attempts: draft.max_attempts,
            attempt_timeout: draft.attempt_timeout.is_some(),
            retry: draft.retry,
            start: draft.start,
            expiry: draft.expiry,
        };
        let extras = Extras {
            labels: draft.labels,
            headers: draft.headers,
            payload: draft.payload_info,
            request_id: origin.request_id.to_owned(),
            traceparent: origin.traceparent.to_owned(),
            tracestate: origin.tracestate.to_owned(),
            said,
            closure: draft.closure,
        };
        let job = NewJob {
            queue: queue.as_ref().map_or_else(|| Arc::from(draft.queue), |queue| Arc::clone(queue.name())),
            kind: kind.map_or_else(|| Arc::from(draft.kind.as_str()), |kind| Arc::clone(&kind.name)),
            priority: draft.priority.unwrap_or_default(),
            max_attempts: draft.max_attempts.unwrap_or(defaults.max_attempts),
            retry: draft.retry.map_or(defaults.retry, |said| said.or(defaults.retry)),
            attempt_timeout: draft.attempt_timeout.unwrap_or(defaults.attempt_timeout),
            run_time: draft.start,
            expires: draft.expiry,
            extras: (extras != Extras::default()).then(|| Box::new(extras)),
            payload: draft.payload,
        };
        Admitted { job, queue, obstacle }
    }

    fn known_kinds(&self) -> String {
        const SHOWN_MAX: usize = 10;
        let served = self.worker_kinds.all();
        let mut names: Vec<&str> = self.kinds.keys().map(AsRef::as_ref).collect();
        names.extend(served.iter().map(String::as_str));
        names.retain(|name| !names::is_reserved_kind(name));
        if names.is_empty() {
            return "none".to_owned();
        }
        names.sort_unstable();
        names.dedup();
        let more = names.len().saturating_sub(SHOWN_MAX);
        names.truncate(SHOWN_MAX);
        let shown = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        if more > 0 { format!("{shown} and {more} more") } else { shown }
    }
}
