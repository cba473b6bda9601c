//! May this job enter? What can be said before the committer decides: the queue is there, and something runs the kind.

mod digest;
pub(crate) mod rules;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

#[cfg(test)]
pub(crate) use digest::vectors;
pub(crate) use digest::{repeatable, request};
pub use rules::FieldFault;

use crate::{
    engine::{AdmissionError, NewJob, QueueEntry, Queues},
    job::{Extras, PartialRetryPolicy, PayloadInfo, Said, When, names},
    settings::KindDefaults,
};

/// A job as a client describes it, checked field by field. Absent means the kind's default.
#[derive(Clone, Debug, Default)]
pub struct JobDraft {
    /// The queue's name.
    pub queue: String,
    /// The kind's name.
    pub kind: String,
    /// The handler's input.
    pub payload: Bytes,
    /// What the handler is told of it.
    pub payload_info: PayloadInfo,
    /// The client's own names and values.
    pub labels: BTreeMap<String, String>,
    /// What the handler is told beside the payload.
    pub headers: BTreeMap<String, String>,
    /// −100 to 100.
    pub priority: Option<i8>,
    /// How many attempts may start.
    pub max_attempts: Option<u32>,
    /// How long to wait between them.
    pub retry: Option<PartialRetryPolicy>,
    /// How long one may take.
    pub attempt_timeout: Option<Duration>,
    /// Not to be run before.
    pub start: Option<When>,
    /// Over if no attempt has started by then.
    pub expiry: Option<When>,
    /// Names the closure of this process that runs the job; empty for all others.
    pub closure: String,
}

/// What a submission brings beside its jobs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    /// The id of the request; empty where it has none.
    pub(crate) request_id: &'a str,
    /// The W3C trace context.
    pub(crate) traceparent: &'a str,
    /// The W3C trace state.
    pub(crate) tracestate: &'a str,
}

/// A job that is complete.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) job: NewJob,
    /// Its queue, if that is there.
    pub(crate) queue: Option<Arc<QueueEntry>>,
    /// Why it can't enter.
    pub(crate) obstacle: Option<AdmissionError>,
}

/// Decides what can be decided before the committer.
#[derive(Debug)]
pub struct Admission {
    queues: Arc<Queues>,
    kinds: HashMap<Box<str>, KnownKind>,
}

#[derive(Debug)]
struct KnownKind {
    name: Arc<str>,
    defaults: KindDefaults,
}

impl Admission {
    /// For these queues and the kinds that have a handler.
    #[must_use]
    pub fn new(queues: Arc<Queues>, kinds: impl IntoIterator<Item = (String, KindDefaults)>) -> Self {
        let kinds = kinds
            .into_iter()
            .map(|(name, defaults)| {
                (name.clone().into_boxed_str(), KnownKind { name: name.into(), defaults })
            })
            .collect();
        Admission { queues, kinds }
    }

    /// The queues.
    #[must_use]
    pub fn queues(&self) -> &Arc<Queues> {
        &self.queues
    }

    /// Whether something runs the kind here.
    #[must_use]
    pub fn runs(&self, kind: &str) -> bool {
        self.kinds.contains_key(kind)
    }

    /// Completes a draft with its kind's defaults. What can't enter is completed as well: a request that was seen
    /// before finds its job though its queue or handler is gone.
    pub(crate) fn admit(&self, draft: JobDraft, origin: Origin<'_>) -> Admitted {
        let queue = self.queues.get(&draft.queue);
        let kind = self.kinds.get(draft.kind.as_str());
        let obstacle = match &queue {
            None => Some(AdmissionError::QueueNotFound(draft.queue.clone())),
            Some(queue) if kind.is_none() && !queue.info().settings.accept_unknown_kinds => {
                Some(AdmissionError::UnknownKind {
                    kind: draft.kind.clone(),
                    queue: draft.queue.clone(),
                    known: self.known_kinds(),
                })
            }
            Some(_) => None,
        };
        let defaults = kind.map_or_else(KindDefaults::default, |kind| kind.defaults);
        let said = Said {
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
        let mut names: Vec<&str> = self.kinds.keys().map(AsRef::as_ref).collect();
        names.retain(|name| !names::is_reserved_kind(name));
        if names.is_empty() {
            return "none".to_owned();
        }
        names.sort_unstable();
        let more = names.len().saturating_sub(SHOWN_MAX);
        names.truncate(SHOWN_MAX);
        let shown = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        if more > 0 { format!("{shown} and {more} more") } else { shown }
    }
}
