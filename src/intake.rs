//! How new jobs come in, by whatever call: completed, with what makes a repeat safe, and on their way to the committer.
//!
//! The order in which a submission is asked about is the same for all calls: is it valid, may its caller, has its
//! request come before; then the queue, the handler, the room and the disk. The last four are the committer's: a
//! request that has come before finds its job although its queue is gone since.

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

/// A call that submits, by whose name requests are told apart. An item of a stream is submitted as by Submit, so that
/// it may be repeated by either.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    /// One job.
    Submit,
    /// Several, all or none.
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

/// What a submission says beside its jobs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    pub(crate) call: Call,
    /// Empty where the submission has none.
    pub(crate) request_id: &'a str,
    pub(crate) traceparent: &'a str,
    pub(crate) tracestate: &'a str,
    pub(crate) when_full: Option<WhenFull>,
    /// When the caller stops to wait.
    pub(crate) deadline: Option<Uptime>,
}

/// Takes jobs in.
#[derive(Clone)]
pub(crate) struct Intake {
    pub(crate) admission: Arc<Admission>,
    pub(crate) shard: Shard,
    pub(crate) clock: Clock,
    pub(crate) traces: Traces,
}

impl Intake {
    /// Begins the span of a submission of drafts that have passed all rules.
    pub(crate) fn span(&self, drafts: &AtLeastOne<JobDraft>, terms: &Terms<'_>) -> traces::Submission {
        let of = (drafts.first.queue.as_str(), drafts.first.kind.as_str());
        self.traces.submission(terms.traceparent, of, drafts.count(), self.clock.now())
    }

    /// Completes drafts that have passed all rules.
    ///
    /// # Errors
    /// The first one that can't enter. Where the request may have come before, that is the committer's to say.
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
