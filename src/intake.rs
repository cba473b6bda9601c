//! Intake of new jobs from all submitting calls: completes them, adds the digest that identifies a repeat, and builds
//! the submission for the committer.
//!
//! The order of checks is the same for all calls: validity, permission, whether the request id was seen before; then
//! queue, handler, room and disk space. The last four are the committer's: a repeat finds its job even if the queue has
//! been deleted since.

use std::sync::Arc;

use crate::{
    admission::{self, Admission, Admitted, JobDraft, Origin},
    clock::{Clock, Uptime},
    engine::{NewJob, NotAdmitted, Patience, QueueEntry},
    job::AtLeastOne,
    settings::WhenFull,
    shard::{Shard, Submission},
    traces::{self, Traces},
};

/// A submitting call, whose name is part of a request's digest. An item of a stream counts as Submit, so that it can be
/// repeated by either call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    /// Submits one job.
    Submit,
    /// Submits several jobs, all or none.
    SubmitBatch,
}

impl Call {
    const fn name(self) -> &'static str {
        match self {
            Call::Submit => "Submit",
            Call::SubmitBatch => "SubmitBatch",
        }
    }
}

/// The options of a submission.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    pub(crate) call: Call,
    /// The request id; empty if the submission has none.
    pub(crate) request_id: &'a str,
    pub(crate) traceparent: &'a str,
    pub(crate) tracestate: &'a str,
    pub(crate) when_full: Option<WhenFull>,
    /// The caller's deadline.
    pub(crate) deadline: Option<Uptime>,
}

/// The intake of new jobs.
#[derive(Clone)]
pub(crate) struct Intake {
    pub(crate) admission: Arc<Admission>,
    pub(crate) shard: Shard,
    pub(crate) clock: Clock,
    pub(crate) traces: Traces,
}

impl Intake {
    /// Begins the span of a submission whose drafts have passed all rules.
    pub(crate) fn span(&self, drafts: &AtLeastOne<JobDraft>, terms: &Terms<'_>) -> traces::Submission {
        let of = (drafts.first.queue.as_str(), drafts.first.kind.as_str());
        self.traces.submission(terms.traceparent, of, drafts.count(), self.clock.now())
    }

    /// Builds a submission from drafts that have passed all rules.
    ///
    /// # Errors
    /// The admission error of the first job that has one, unless the submission has a request id: the committer then
    /// returns the error after it has looked for a repeat.
    pub(crate) fn submission(
        &self,
        drafts: AtLeastOne<JobDraft>,
        terms: &Terms<'_>,
        span: &traces::Submission,
    ) -> Result<Submission, NotAdmitted> {
        let request = admission::request(terms.request_id, terms.call.name(), drafts.iter());
        let is_batch = drafts.count() > 1;
        let origin = Origin {
            request_id: terms.request_id,
            traceparent: span.traceparent(),
            tracestate: if traces::is_context(terms.traceparent) { terms.tracestate } else { "" },
        };
        let (mut index, mut first_queue, mut first_obstacle) = (0, None, None);
        let jobs = drafts.map(|draft| -> NewJob {
            let Admitted { job, queue, obstacle } = self.admission.admit(draft, origin);
            if first_obstacle.is_none() {
                first_obstacle =
                    obstacle.map(|error| NotAdmitted { error, index: is_batch.then_some(index) });
            }
            if index == 0 {
                first_queue = queue;
            }
            index += 1;
            job
        });
        if let Some(obstacle) = first_obstacle.take_if(|_| request.is_none()) {
            return Err(obstacle);
        }
        let patience = self.patience(first_queue.as_deref(), &jobs.first.queue, terms);
        Ok(Submission { request, jobs, obstacle: first_obstacle, patience })
    }

    fn patience(&self, queue: Option<&QueueEntry>, name: &str, terms: &Terms<'_>) -> Patience {
        let now = self.clock.uptime();
        match queue {
            Some(queue) => queue.patience(now, terms.when_full, terms.deadline),
            None => Patience { room: None, store: self.shard.queues.give_up(name, now, terms.deadline) },
        }
    }
}
