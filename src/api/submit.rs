//! Submissions of one job and of a batch.

use std::{collections::BTreeSet, sync::Arc};

use tonic::{Request, Status};

use super::{
    caller::Caller,
    convert,
    core::{Core, trace_context},
    errors,
    validate::{BATCH_MAX, Validator},
};
use crate::{
    admission::dependencies,
    clock::Uptime,
    engine::{Submitted, SubmittedJob},
    intake::{SubmissionOptions, SubmitMethod},
    job::{AtLeastOne, Job, JobDraft, JobId, Position, SubmitOutcome},
    proto::v1,
    shard::position_of,
    store::{Reader, StoreError},
    traces::SubmissionSpan,
    watch::ResumeToken,
};

/// Context of a submitting call: its caller, metadata and deadline.
pub(super) struct CallContext<'a> {
    pub(super) caller: &'a Arc<Caller>,
    pub(super) metadata: &'a tonic::metadata::MetadataMap,
    pub(super) deadline: Option<Uptime>,
}

/// A submitted job.
pub(super) struct OneSubmitted {
    pub(super) id: JobId,
    pub(super) outcome: SubmitOutcome,
    /// The job as it is now; `None` if it is gone, can't be read, or is hidden from the caller.
    pub(super) job: Option<Arc<Job>>,
    /// Whether the caller may watch the job.
    pub(super) is_shown: bool,
}

impl OneSubmitted {
    /// The feed position after which a watch sees all later changes of the job. `None` for a repeat, and for a job that
    /// had expired at submission: their watch starts with a snapshot, as no later change would report the job's end.
    pub(super) fn watch_after(&self) -> Option<Position> {
        let job = self.job.as_ref().filter(|_| self.outcome == SubmitOutcome::Created)?;
        (!job.state.is_done()).then_some(job.position)
    }
}

/// Handler of submissions, of one job or of a batch.
#[derive(Clone, Copy)]
pub(super) struct Submitter<'a> {
    pub(super) core: &'a Core,
}

impl Submitter<'_> {
    /// Submits validated drafts.
    async fn offer(
        &self,
        drafts: AtLeastOne<JobDraft>,
        options: &SubmissionOptions<'_>,
    ) -> Result<Submitted, Status> {
        let mut span = self.core.intake.span(&drafts, options);
        let offered = match self.core.intake.submission(drafts, options, &span) {
            Ok(submission) => self.core.shard.submit(submission).await.map_err(Status::from),
            Err(refused) => Err(refused.into()),
        };
        match &offered {
            Ok(answer) => answered(&mut span, answer),
            Err(status) => span.failed(&errors::reason(status).unwrap_or_default()),
        }
        offered
    }

    /// Submits one job. `validator` holds the faults of the request's other fields.
    pub(super) async fn submit_one(
        &self,
        context: &CallContext<'_>,
        mut validator: Validator,
        mut job: Option<v1::JobSpec>,
        request_id: &str,
        when_full: i32,
    ) -> Result<OneSubmitted, Status> {
        let draft = validator.job_spec(&"job", job.as_mut(), None);
        validator.request_id(request_id);
        let when_full = validator.when_full("when_full", when_full);
        validator.finish()?;
        context.caller.on_queue(&draft.queue)?;
        context.caller.on_unique(&draft)?;
        let parents = std::iter::once(&draft.depends_on[..]);
        self.core.check_parents(context.caller, parents, false).await?;
        let entry = context.caller.begin(Some(&draft.queue));
        let (traceparent, tracestate) = trace_context(context.metadata);
        let deadline = context.deadline;
        let options = SubmissionOptions {
            call: SubmitMethod::Submit,
            request_id,
            traceparent,
            tracestate: &tracestate,
            when_full,
            deadline,
        };
        let answer = self.offer(AtLeastOne::one(draft), &options).await;
        let submitted = answer.map(|answer| OneSubmitted {
            id: answer.first(),
            outcome: answer.outcome(),
            // The job of another submission is for those who may read it.
            job: answer.first_job().filter(|job| answer.is_own() || context.caller.sees(job)).cloned(),
            is_shown: answer.is_own() || answer.first_job().is_none_or(|job| context.caller.sees(job)),
        });
        entry.end(&submitted, |one| vec![one.id.to_string()]);
        submitted
    }

    /// Submits a batch.
    pub(super) async fn submit_many(
        &self,
        call: Request<v1::SubmitBatchRequest>,
    ) -> Result<v1::SubmitBatchResponse, Status> {
        let caller = Caller::of(&call)?;
        let deadline = self.core.deadline(&call);
        let (metadata, _, body) = call.into_parts();
        let mut validator = Validator::new(self.core.clock.now(), &body.namespace);
        validator.request_id(&body.request_id);
        let when_full = validator.when_full("when_full", body.when_full);
        let mut specs = body.jobs;
        let count = specs.len();
        let each = specs.iter_mut().enumerate();
        let drafts = each.map(|(index, spec)| {
            validator.job_spec(&format_args!("jobs[{index}]"), Some(spec), Some((index, count)))
        });
        let drafts = if count <= BATCH_MAX { AtLeastOne::collect(drafts) } else { None };
        let Some(drafts) = drafts else {
            return Err(
                validator.failed("jobs", format!("has {count} entries; it must have 1 to {BATCH_MAX}"))
            );
        };
        drop(specs);
        let count = drafts.iter().map(|draft| draft.depends_on.len()).sum();
        validator.hold("jobs", dependencies::of_call(count));
        validator.finish()?;
        let queues: BTreeSet<&str> = drafts.iter().map(|draft| draft.queue.as_str()).collect();
        queues.iter().try_for_each(|queue| caller.on_queue(queue))?;
        drafts.iter().try_for_each(|draft| caller.on_unique(draft))?;
        let parents = drafts.iter().map(|draft| &draft.depends_on[..]);
        self.core.check_parents(&caller, parents, drafts.count() > 1).await?;
        let entry = caller.begin(Some(&queues.into_iter().collect::<Vec<_>>().join(" ")));
        let (traceparent, tracestate) = trace_context(&metadata);
        let request_id = &body.request_id;
        let options = SubmissionOptions {
            call: SubmitMethod::SubmitBatch,
            request_id,
            traceparent,
            tracestate: &tracestate,
            when_full,
            deadline,
        };
        let answer = self.offer(drafts, &options).await;
        entry.end(&answer, |answer| match answer {
            Submitted::Accepted { jobs } => jobs.iter().map(|job| job.id.to_string()).collect(),
            Submitted::Seen { ids, .. } => vec![ids.first().0.to_string()],
        });
        let answer = answer?;
        let (jobs, resume_token) = match &answer {
            Submitted::Accepted { jobs } => {
                let all = jobs.iter().map(|job| convert::submitted(job.id, job.outcome));
                // A job that had expired at submission has no later change, and others may have changed before: a watch
                // of those must start with a snapshot.
                let is_new = |one: &SubmittedJob| match &one.job {
                    Some(job) => one.outcome == SubmitOutcome::Created && !job.state.is_done(),
                    None => false,
                };
                let new = jobs.iter().all(is_new).then(|| jobs.iter().filter_map(|one| one.job.as_ref()));
                let token = new.map(|new| self.token(position_of(new))).unwrap_or_default();
                (all.collect(), token)
            }
            Submitted::Seen { .. } => (self.seen(&answer).await?, String::new()),
        };
        Ok(v1::SubmitBatchResponse { jobs, resume_token })
    }

    /// Returns the current outcomes of a batch that was submitted before.
    async fn seen(&self, answer: &Submitted) -> Result<Vec<v1::Submitted>, Status> {
        let Submitted::Seen { ids, .. } = answer else { return Ok(Vec::new()) };
        let ids: Vec<JobId> = ids.iter().map(|(id, _)| id).collect();
        if !answer.lacks_jobs() {
            let repeated = ids.into_iter().map(|id| convert::submitted(id, SubmitOutcome::Repeated));
            return Ok(repeated.collect());
        }
        let fate = |reader: &dyn Reader, id: JobId| match reader.job(id) {
            // A job that can't be read still exists.
            Ok(Some(_)) | Err(StoreError::Unreadable { .. }) => Ok(SubmitOutcome::Repeated),
            Ok(None) => Ok(SubmitOutcome::Gone),
            Err(error) => Err(error),
        };
        let told = move |reader: &dyn Reader| {
            ids.into_iter().map(|id| Ok(convert::submitted(id, fate(reader, id)?))).collect()
        };
        Ok(self.core.shard.reads.read(told).await?)
    }

    /// Builds the response to a submission of one job.
    pub(super) fn submit_response(&self, one: &OneSubmitted) -> v1::SubmitResponse {
        let resume_token = one.watch_after().map(|position| self.token(position)).unwrap_or_default();
        v1::SubmitResponse {
            submitted: Some(convert::submitted(one.id, one.outcome)),
            resume_token,
            job: None,
        }
    }

    fn token(&self, position: Position) -> String {
        self.core.issuer.issue(&ResumeToken::after(position))
    }
}

/// Records the outcome of a submission in its span.
pub(super) fn answered(span: &mut SubmissionSpan, answer: &Submitted) {
    span.accepted(answer.first(), answer.count(), answer.is_new());
}
