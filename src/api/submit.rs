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
    admission::{JobDraft, Patience, QueueEntry},
    clock::Uptime,
    commit::{SubmitAnswer, position_of},
    job::{Job, RequestId},
    proto::v1,
    settings::WhenFull,
    store::{NewJob, Offer, StoreError},
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
        drafts: Vec<JobDraft>,
        request_id: &str,
        request: Option<RequestId>,
        traceparent: &str,
        when_full: Option<WhenFull>,
        deadline: Option<Uptime>,
    ) -> Result<SubmitAnswer, Status> {
        let (queue, kind) =
            drafts.first().map_or(("", ""), |draft| (draft.queue.as_str(), draft.kind.as_str()));
        let mut span =
            self.core.traces.submission(traceparent, (queue, kind), drafts.len(), self.core.clock.now());
        let offered = match self.admit(drafts, request_id, span.traceparent()) {
            Ok((jobs, queue)) => {
                let patience = queue.patience(self.core.clock.uptime(), when_full, deadline);
                self.decided(Offer { request, jobs, behind_waiters: false }, patience).await
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
        drafts: Vec<JobDraft>,
        request_id: &str,
        traceparent: &str,
    ) -> Result<(Vec<NewJob>, Arc<QueueEntry>), Status> {
        let mut jobs = Vec::with_capacity(drafts.len());
        let mut queue = None;
        let is_batch = drafts.len() > 1;
        for (index, draft) in drafts.into_iter().enumerate() {
            let (job, its_queue) =
                self.core.admission.admit(draft, request_id, traceparent).map_err(|error| {
                    errors::not_admitted(&error, is_batch.then(|| format!("jobs[{index}]")))
                })?;
            queue.get_or_insert(its_queue);
            jobs.push(job);
        }
        let queue = queue.ok_or_else(|| Status::internal("a submission without jobs was let through"))?;
        Ok((jobs, queue))
    }

    /// What the committer says to an offer: an error unless there are jobs for it.
    async fn decided(&self, offer: Offer, patience: Patience) -> Result<SubmitAnswer, Status> {
        match self.core.commit.submit(offer, patience).await? {
            SubmitAnswer::Full { full, too_many_waiters } => Err(errors::queue_full(&full, too_many_waiters)),
            SubmitAnswer::Refused(refusal) => Err(refusal.into()),
            answer @ (SubmitAnswer::Created { .. } | SubmitAnswer::Seen { .. }) => Ok(answer),
        }
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
        let answer = self.offer(vec![draft], request_id, request, traceparent, when_full, by.deadline).await;
        let submitted = answer.and_then(|answer| match answer {
            SubmitAnswer::Created { mut jobs } => match jobs.pop() {
                Some(job) => Ok((job, true)),
                None => Err(StoreError::Corrupt("an accepted offer has no job".into()).into()),
            },
            SubmitAnswer::Seen { first, .. } => Ok((first, false)),
            SubmitAnswer::Full { .. } | SubmitAnswer::Refused(_) => {
                Err(Status::internal("a refusal came as an answer"))
            }
        });
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
        if body.jobs.is_empty() || body.jobs.len() > BATCH_MAX {
            validator
                .fault("jobs", format!("has {} entries; it must have 1 to {BATCH_MAX}", body.jobs.len()));
            validator.finish()?;
            return Err(Status::internal("a fault is no fault"));
        }
        let drafts: Vec<_> = body
            .jobs
            .into_iter()
            .enumerate()
            .map(|(index, spec)| validator.job_spec(&format_args!("jobs[{index}]"), Some(spec)))
            .collect();
        validator.finish()?;
        let queues: BTreeSet<&str> = drafts.iter().map(|draft| draft.queue.as_str()).collect();
        queues.iter().try_for_each(|queue| caller.on_queue(queue))?;
        let entry = caller.begin(Some(&queues.into_iter().collect::<Vec<_>>().join(" ")));
        let request = request(&body.request_id, "submit batch", &drafts);
        let answer =
            self.offer(drafts, &body.request_id, request, traceparent(&metadata), when_full, deadline).await;
        entry.end(&answer, |answer| match answer {
            SubmitAnswer::Created { jobs } => jobs.iter().map(|job| job.id.to_string()).collect(),
            SubmitAnswer::Seen { first, .. } => vec![first.id.to_string()],
            SubmitAnswer::Full { .. } | SubmitAnswer::Refused(_) => Vec::new(),
        });
        let (ids, position, created) = match answer? {
            SubmitAnswer::Created { jobs } => {
                (jobs.iter().map(|job| job.id.to_string()).collect(), position_of(&jobs), true)
            }
            SubmitAnswer::Seen { first, count } => {
                let ids = (0..i64::from(count)).map(|offset| first.id.plus(offset).to_string()).collect();
                (ids, first.position, false)
            }
            SubmitAnswer::Full { .. } | SubmitAnswer::Refused(_) => {
                return Err(Status::internal("a refusal came as an answer"));
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
pub(super) fn answered(span: &mut Submission, answer: &SubmitAnswer) {
    match answer {
        SubmitAnswer::Created { jobs } => {
            if let Some(first) = jobs.first() {
                span.accepted(first.id, jobs.len(), true);
            }
        }
        SubmitAnswer::Seen { first, count } => span.accepted(first.id, *count as usize, false),
        SubmitAnswer::Full { .. } | SubmitAnswer::Refused(_) => {}
    }
}
