//! May this job enter? What can be said before the committer decides: the queue is there, and something runs the kind.

pub(crate) mod rules;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

pub use rules::FieldFault;

use crate::{
    clock::Timestamp,
    engine::{NewJob, QueueEntry, Queues},
    job::{Extras, RetryPolicy, names},
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
    /// Its media type.
    pub payload_type: String,
    /// The client's own names and values.
    pub labels: BTreeMap<String, String>,
    /// −100 to 100.
    pub priority: i8,
    /// How many attempts may start.
    pub max_attempts: Option<u32>,
    /// How long to wait between them.
    pub retry: Option<RetryPolicy>,
    /// How long one may take.
    pub attempt_timeout: Option<Duration>,
    /// Not to be run before this instant.
    pub run_time: Option<Timestamp>,
    /// Over if no attempt has started by then.
    pub expire_time: Option<Timestamp>,
    /// Names the closure of this process that runs the job; empty for all others.
    pub closure: String,
}

/// Why a job can't enter, whatever room there is.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AdmissionError {
    /// No queue has this name.
    #[error(
        "no queue is named `{0}`: create it with QueueService.CreateQueue, or declare it in the configuration file"
    )]
    QueueNotFound(String),
    /// Nothing runs the kind.
    #[error(
        "no handler here runs the kind `{kind}` (known: {known}): map it to a handler in the configuration file, or \
         set accept_unknown_kinds on the queue `{queue}`"
    )]
    UnknownKind {
        /// The kind.
        kind: String,
        /// The queue.
        queue: String,
        /// The kinds that are run here, cut short where they are many.
        known: String,
    },
}

impl AdmissionError {
    /// The stable reason that errors carry.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            AdmissionError::QueueNotFound(_) => "QUEUE_NOT_FOUND",
            AdmissionError::UnknownKind { .. } => "UNKNOWN_KIND",
        }
    }
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

    /// Completes a draft with its kind's defaults.
    ///
    /// # Errors
    /// When the queue is not there, or nothing runs the kind and the queue does not accept that.
    pub fn admit(
        &self,
        draft: JobDraft,
        request_id: &str,
        traceparent: &str,
    ) -> Result<(NewJob, Arc<QueueEntry>), AdmissionError> {
        let Some(queue) = self.queues.get(&draft.queue) else {
            return Err(AdmissionError::QueueNotFound(draft.queue));
        };
        let kind = self.kinds.get(draft.kind.as_str());
        if kind.is_none() && !queue.info().settings.accept_unknown_kinds {
            return Err(AdmissionError::UnknownKind {
                kind: draft.kind,
                queue: draft.queue,
                known: self.known_kinds(),
            });
        }
        let defaults = kind.map_or_else(KindDefaults::default, |kind| kind.defaults);
        let extras = Extras {
            labels: draft.labels,
            payload_type: draft.payload_type,
            request_id: request_id.to_owned(),
            traceparent: traceparent.to_owned(),
            closure: draft.closure,
        };
        let job = NewJob {
            queue: Arc::clone(queue.name()),
            kind: kind.map_or_else(|| Arc::from(draft.kind.as_str()), |kind| Arc::clone(&kind.name)),
            priority: draft.priority,
            max_attempts: draft.max_attempts.unwrap_or(defaults.max_attempts),
            retry: draft.retry.unwrap_or(defaults.retry),
            attempt_timeout: draft.attempt_timeout.unwrap_or(defaults.attempt_timeout),
            run_time: draft.run_time,
            expires: draft.expire_time,
            extras: (extras != Extras::default()).then(|| Box::new(extras)),
            payload: draft.payload,
        };
        Ok((job, queue))
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
