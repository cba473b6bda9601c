//! Intake of new jobs from all submitting calls: completes them, adds the digest that identifies a repeat, and builds
//! the submission for the committer.
//!
//! The order of checks is the same for all calls: validity, permission, whether the request id was seen before; then
//! queue, handler, room and disk space. The last four are the committer's: a repeat finds its job even if the queue has
//! been deleted since.

use std::sync::Arc;

use crate::{
    admission::{self, Admission, Admitted},
    clock::{Clock, Uptime},
    engine::{NewJob, NotAdmitted, Origin, QueueEntry, WaitDeadlines},
    job::{AtLeastOne, JobDraft},
    settings::WhenFull,
    shard::{Shard, Submission},
    traces::{self, Traces},
};

/// A submitting call, whose name is part of a request's digest. An item of a stream counts as Submit, so that it can be
/// repeated by either call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SubmitMethod {
    /// Submits one job.
    Submit,
    /// Submits several jobs, all or none.
    SubmitBatch,
}

impl SubmitMethod {
    const fn name(self) -> &'static str {
        match self {
            SubmitMethod::Submit => "Submit",
            SubmitMethod::SubmitBatch => "SubmitBatch",
        }
    }
}

/// The options of a submission.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SubmissionOptions<'a> {
    pub(crate) call: SubmitMethod,
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
    pub(crate) fn span(
        &self,
        drafts: &AtLeastOne<JobDraft>,
        options: &SubmissionOptions<'_>,
    ) -> traces::SubmissionSpan {
        let of = (drafts.first.queue.as_str(), drafts.first.kind.as_str());
        self.traces.submission(options.traceparent, of, drafts.count(), self.clock.now())
    }

    /// Builds a submission from drafts that have passed all rules.
    ///
    /// # Errors
    /// The admission error of the first job that has one, unless the submission has a request id: the committer then
    /// returns the error after it has looked for a repeat.
    pub(crate) fn submission(
        &self,
        drafts: AtLeastOne<JobDraft>,
        options: &SubmissionOptions<'_>,
        span: &traces::SubmissionSpan,
    ) -> Result<Submission, NotAdmitted> {
        let request = admission::request(options.request_id, options.call.name(), drafts.iter());
        let is_batch = drafts.count() > 1;
        let origin = Origin {
            request_id: options.request_id,
            traceparent: span.traceparent(),
            tracestate: if traces::is_context(options.traceparent) { options.tracestate } else { "" },
        };
        let (mut index, mut first_queue, mut first_obstacle) = (0, None, None);
        let jobs = drafts.map(|draft| -> NewJob {
            let Admitted { job, queue, obstacle } = self.admission.admit(draft, origin);
            if first_obstacle.is_none() {
                first_obstacle = obstacle
                    .map(|error| NotAdmitted { error: error.into(), index: is_batch.then_some(index) });
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
        let wait_deadlines = self.wait_deadlines(first_queue.as_deref(), &jobs.first.queue, options);
        Ok(Submission { request, jobs, obstacle: first_obstacle, wait_deadlines })
    }

    fn wait_deadlines(
        &self,
        queue: Option<&QueueEntry>,
        name: &str,
        options: &SubmissionOptions<'_>,
    ) -> WaitDeadlines {
        let now = self.clock.uptime();
        match queue {
            Some(queue) => queue.wait_deadlines(now, options.when_full, options.deadline),
            None => WaitDeadlines {
                room: None,
                store: self.shard.queues.store_deadline(name, now, options.deadline),
            },
        }
    }
}
