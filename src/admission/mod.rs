//! Admission of jobs before the committer decides: the queue exists, and the kind has a handler.

pub(crate) mod dependencies;
mod digest;
pub(crate) mod rules;
pub(crate) mod schedule;
pub(crate) mod unique;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

#[cfg(test)]
pub(crate) use digest::vectors;
pub(crate) use digest::{put_job, put_update, repeatable, request};
pub use rules::FieldFault;

use crate::{
    engine::{AdmissionError, NewJob, Origin, QueueEntry, Queues, WorkerKinds},
    job::JobDraft,
    settings::KindDefaults,
};

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
        let obstacle = AdmissionError::of_draft(
            &draft,
            queue.as_ref().map(|queue| &queue.info().settings),
            kind.map(|kind| &kind.defaults),
            || self.worker_kinds.knows(&draft.kind),
            || self.worker_kinds.listed_with(self.kinds.keys().map(AsRef::as_ref)),
        );
        let usual = KindDefaults::default();
        let defaults = kind.map_or(&usual, |kind| &kind.defaults);
        let name = kind.map_or_else(|| Arc::from(draft.kind.as_str()), |kind| Arc::clone(&kind.name));
        let queue_name = match &queue {
            Some(queue) => Arc::clone(queue.name()),
            None => Arc::from(draft.queue.as_str()),
        };
        let job = NewJob::complete(draft, queue_name, name, defaults, origin);
        Admitted { job, queue, obstacle }
    }
}
