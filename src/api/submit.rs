//! Submissions of one job and of a batch.

use std::{collections::BTreeSet, sync::Arc};

use tonic::{Request, Status};

use super::{
    caller::Caller,
    convert,
    core::{Core, traceparent},
    errors,
    validate::{BATCH_MAX, Validator, request},
};
use crate::{
    admission::JobDraft,
    clock::Uptime,
    engine::{NewJob, QueueEntry, Submitted},
    job::{AtLeastOne, Job, RequestId},
    proto::v1,
    settings::WhenFull,
    shard::{self, position_of},
    traces::Submission,
    watch::ResumeToken,
};

/// Who submits, and what came beside the request.
pub(super) struct By<'a> {
    pub(super) caller: &'a Arc<Caller>,
    pub(super) metadata: &'a tonic::metadata::MetadataMap,
    pub(super) deadline: Option<Uptime>,
}

/// Takes submissions of one job and of a batch.
#[derive(Clone, Copy)]
pub(super) struct Submitter<'a> {
    pub(super) core: &'a Core,
}

impl Submitter<'_> {
    /// Offers checked drafts.
    async fn offer(
        &self,
        drafts: AtLeastOne<JobDraft>,
        request_id: &str,
        request: Option<RequestId>,
        traceparent: &str,
        when_full: Option<WhenFull>,
        deadline: Option<Uptime>,
    ) -> Result<Submitted, Status> {
        let of = (drafts.first.queue.as_str(), drafts.first.kind.as_str());
        let mut span = self.core.traces.submission(traceparent, of, drafts.count(), self.core.clock.now());
        let offered = match self.admit(drafts, request_id, span.traceparent()) {
            Ok((jobs, queue)) => {
                let patience = queue.patience(self.core.clock.uptime(), when_full, deadline);
                let submission = shard::Submission { request, jobs, patience };
                self.core.shard.submit(submission).await.map_err(Status::from)
            }
            Err(status) => Err(status),
        };
        match &offered {
            Ok(answer) => answered(&mut span, answer),
            Err(status) => span.failed(&errors::reason(status).unwrap_or_default()),
        }
        offered
    }

    /// Completes drafts; returns the first one's queue, too.
    fn admit(
        &self,
        drafts: AtLeastOne<JobDraft>,
        request_id: &str,
        traceparent: &str,
    ) -> Result<(AtLeastOne<NewJob>, Arc<QueueEntry>), Status> {
        let is_batch = drafts.count() > 1;
        let admit = |index: usize, draft| {
            let admitted = self.core.admission.admit(draft, request_id, traceparent);
            admitted.map_err(|error| errors::not_admitted(&error, is_batch.then(|| format!("jobs[{index}]"))))
        };
        let (first, queue) = admit(0, drafts.first)?;
        let rest = drafts.rest.into_iter().zip(1..).map(|(draft, index)| Ok(admit(index, draft)?.0));
        Ok((AtLeastOne { first, rest: rest.collect::<Result<_, Status>>()? }, queue))
    }

    /// Submits one job. `validator` has the faults of what else the request says.
    pub(super) async fn submit_one(
        &self,
        by: &By<'_>,
        mut validator: Validator,
        job: Option<v1::JobSpec>,
        request_id: &str,
        when_full: i32,
    ) -> Result<(Arc<Job>, bool), Status> {
        let draft = validator.job_spec(&"job", job);
        validator.request_id(request_id);
        let when_full = validator.when_full("when_full", when_full);
        validator.finish()?;
        by.caller.on_queue(&draft.queue)?;
        let entry = by.caller.begin(Some(&draft.queue));
        let request = request(request_id, "submit", std::slice::from_ref(&draft));
        let traceparent = traceparent(by.metadata);
        let draft = AtLeastOne::one(draft);
        let answer = self.offer(draft, request_id, request, traceparent, when_full, by.deadline).await;
        let submitted = answer.map(|answer| (Arc::clone(answer.first()), answer.is_new()));
        entry.end(&submitted, |(job, _)| vec![job.id.to_string()]);
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
        let mut validator = Validator::new(self.core.clock.now());
        validator.request_id(&body.request_id);
        let when_full = validator.when_full("when_full", body.when_full);
        let count = body.jobs.len();
        let specs = AtLeastOne::collect(body.jobs).filter(|specs| specs.count() <= BATCH_MAX);
        let Some(specs) = specs else {
            return Err(
                validator.failed("jobs", format!("has {count} entries; it must have 1 to {BATCH_MAX}"))
            );
        };
        let mut index = 0..;
        let drafts = specs.map(|spec| {
            let index = index.next().unwrap_or_default();
            validator.job_spec(&format_args!("jobs[{index}]"), Some(spec))
        });
        validator.finish()?;
        let queues: BTreeSet<&str> = drafts.iter().map(|draft| draft.queue.as_str()).collect();
        queues.iter().try_for_each(|queue| caller.on_queue(queue))?;
        let entry = caller.begin(Some(&queues.into_iter().collect::<Vec<_>>().join(" ")));
        let request = request(&body.request_id, "submit batch", drafts.iter());
        let answer =
            self.offer(drafts, &body.request_id, request, traceparent(&metadata), when_full, deadline).await;
        entry.end(&answer, |answer| match answer {
            Submitted::Created { jobs } => jobs.iter().map(|job| job.id.to_string()).collect(),
            Submitted::Seen { first, .. } => vec![first.id.to_string()],
        });
        let (ids, position, created) = match answer? {
            Submitted::Created { jobs } => {
                (jobs.iter().map(|job| job.id.to_string()).collect(), position_of(jobs.iter()), true)
            }
            Submitted::Seen { first, count } => {
                let ids = (0..i64::from(count)).map(|offset| first.id.plus(offset).to_string()).collect();
                (ids, first.position, false)
            }
        };
        // What a repeat's jobs did since is not told by this answer: a watch by ids tells their present state anyway.
        let position = if created { position } else { Default::default() };
        let token = ResumeToken { watched: [0; 8], position, snapshot: None };
        let resume_token = self.core.issuer.issue(&token);
        Ok(v1::SubmitBatchResponse { ids, resume_token, created })
    }

    /// What a submission of one job is answered with.
    pub(super) fn submit_response(&self, job: &Job, created: bool) -> v1::SubmitResponse {
        let token = ResumeToken { watched: [0; 8], position: job.position, snapshot: None };
        v1::SubmitResponse {
            job: Some(convert::job(job)),
            resume_token: self.core.issuer.issue(&token),
            created,
        }
    }
}

/// Tells a span what its submission came to.
pub(super) fn answered(span: &mut Submission, answer: &Submitted) {
    match answer {
        Submitted::Created { jobs } => span.accepted(jobs.first.id, jobs.count(), true),
        Submitted::Seen { first, count } => span.accepted(first.id, *count as usize, false),
    }
}
