//! The JobQueue service.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    pin::Pin,
    sync::Arc,
};

use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::{
    Core, ENOUGH_BYTES,
    caller::Caller,
    convert, errors, page_token, submit_stream, traceparent,
    validate::{BATCH_MAX, Validator, request},
    watch_stream::{self, WatchRequest},
};
use crate::{
    admission::JobDraft,
    clock::Timestamp,
    commit::{ControlAnswer, SubmitAnswer, position_of},
    config::WhenFull,
    job::{Job, JobId},
    proto::v1::{self, job_queue_server::JobQueue},
    store::{Control, ControlDone, Offer, Page, RequestId, Scan, ScanOrder, StoreError},
    watch::ResumeToken,
};

/// A list call looks at so many jobs in one read,
const SCAN_BUDGET: usize = 10_000;
/// and at so many in all before it returns a short page.
const LIST_BUDGET: usize = 100_000;

/// The JobQueue service.
#[derive(Clone)]
pub(crate) struct JobQueueApi {
    pub(super) core: Core,
}

/// Who submits, and what came beside the request.
struct By<'a> {
    caller: &'a Caller,
    metadata: &'a tonic::metadata::MetadataMap,
    deadline: Option<Timestamp>,
}

impl JobQueueApi {
    pub(crate) fn new(core: Core) -> Self {
        JobQueueApi { core }
    }

    /// Offers checked drafts.
    async fn offer(
        &self,
        drafts: Vec<JobDraft>,
        request_id: &str,
        request: Option<RequestId>,
        traceparent: &str,
        when_full: Option<WhenFull>,
        deadline: Option<Timestamp>,
    ) -> Result<SubmitAnswer, Status> {
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
        let wait = queue.and_then(|queue| queue.patience(self.core.clock.now(), when_full, deadline));
        let offer = Offer { request, jobs, behind_waiters: false };
        match self.core.commit.submit(offer, wait).await? {
            SubmitAnswer::Full { full, too_many_waiters } => Err(errors::queue_full(&full, too_many_waiters)),
            SubmitAnswer::Refused(refusal) => Err(refusal.into()),
            answer @ (SubmitAnswer::Created { .. } | SubmitAnswer::Seen { .. }) => Ok(answer),
        }
    }

    /// Submits one job. `validator` has the faults of what else the request says.
    async fn submit_one(
        &self,
        by: &By<'_>,
        mut validator: Validator,
        job: Option<v1::JobSpec>,
        request_id: &str,
        when_full: i32,
    ) -> Result<(Arc<Job>, bool), Status> {
        let draft = validator.job_spec("job", job);
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

    fn submit_response(&self, job: &Job, created: bool) -> v1::SubmitResponse {
        let token = ResumeToken { watched: [0; 8], position: job.position, snapshot: None };
        v1::SubmitResponse {
            job: Some(convert::job(job)),
            resume_token: self.core.issuer.issue(&token),
            created,
        }
    }

    /// Changes a job, if the caller may. A job never goes to another queue, so that looking first is enough.
    async fn job_control(
        &self,
        caller: &Caller,
        id: JobId,
        control: Control,
    ) -> Result<Option<Arc<Job>>, Status> {
        let found = self.core.reads.read(move |reader| reader.job(id)).await?;
        let job = found.ok_or_else(|| errors::job_not_found(&id))?;
        caller.on_job(&job)?;
        let entry = caller.begin_job(id, Some(job.spec.queue.as_str()));
        let done = match self.core.commit.control(control).await {
            Ok(ControlAnswer::Decided(Ok(ControlDone::Job(job)))) => Ok(Some(job)),
            Ok(ControlAnswer::Decided(Ok(_)) | ControlAnswer::Purged { .. }) => Ok(None),
            Ok(ControlAnswer::Decided(Err(refusal))) => Err(refusal.into()),
            Err(stopped) => Err(stopped.into()),
        };
        entry.end(&done, |_| Vec::new());
        done
    }

    /// The jobs of a page, cut short where they would not fit into a message; returns where.
    async fn page(
        &self,
        jobs: Vec<Arc<Job>>,
        view: v1::JobView,
    ) -> Result<(Vec<v1::Job>, Option<JobId>), Status> {
        let (mut page, mut bytes, mut last) = (Vec::with_capacity(jobs.len()), 0, None);
        for job in jobs {
            let id = job.id;
            let proto = match view {
                v1::JobView::Full => {
                    // A job that has been deleted since is left out.
                    let whole = self.core.reads.read(move |reader| reader.whole_job(id)).await?;
                    whole.map(convert::whole_job)
                }
                v1::JobView::Basic | v1::JobView::Unspecified => Some(convert::job(&job)),
            };
            let job_bytes = proto.as_ref().map_or(0, prost::Message::encoded_len);
            if bytes + job_bytes > ENOUGH_BYTES && last.is_some() {
                return Ok((page, last));
            }
            bytes += job_bytes;
            page.extend(proto);
            last = Some(id);
        }
        Ok((page, None))
    }
}

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl JobQueue for JobQueueApi {
    async fn submit(&self, call: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitResponse>, Status> {
        let caller = Caller::of(&call)?;
        let deadline = self.core.deadline(&call);
        let (metadata, _, body) = call.into_parts();
        let validator = Validator::new(self.core.clock.now());
        let by = By { caller: &caller, metadata: &metadata, deadline };
        let (job, created) =
            self.submit_one(&by, validator, body.job, &body.request_id, body.when_full).await?;
        Ok(Response::new(self.submit_response(&job, created)))
    }

    async fn submit_batch(
        &self,
        call: Request<v1::SubmitBatchRequest>,
    ) -> Result<Response<v1::SubmitBatchResponse>, Status> {
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
            .map(|(index, spec)| validator.job_spec(&format!("jobs[{index}]"), Some(spec)))
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
        Ok(Response::new(v1::SubmitBatchResponse { ids, resume_token, created }))
    }

    type SubmitStreamStream = ResponseStream<v1::SubmitStreamResponse>;

    async fn submit_stream(
        &self,
        call: Request<tonic::Streaming<v1::SubmitStreamRequest>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        let caller = Caller::of(&call)?;
        Ok(Response::new(Box::pin(submit_stream::start(self.clone(), caller, call))))
    }

    type SubmitAndWatchStream = ResponseStream<v1::SubmitAndWatchResponse>;

    async fn submit_and_watch(
        &self,
        call: Request<v1::SubmitAndWatchRequest>,
    ) -> Result<Response<Self::SubmitAndWatchStream>, Status> {
        let caller = Caller::of(&call)?;
        use v1::submit_and_watch_response::Message;

        let deadline = self.core.deadline(&call);
        let (metadata, _, body) = call.into_parts();
        let mut validator = Validator::new(self.core.clock.now());
        let detail = validator.detail(body.detail);
        let view = view(&mut validator, "view", body.view, v1::JobView::Basic);
        let by = By { caller: &caller, metadata: &metadata, deadline };
        let (job, created) =
            self.submit_one(&by, validator, body.job, &body.request_id, body.when_full).await?;
        let submitted = self.submit_response(&job, created);
        let watch = WatchRequest::Ids {
            ids: vec![job.id],
            hidden: HashSet::new(),
            detail,
            output: body.output,
            // A repeat starts with the job as it is now: the caller may have missed its end.
            resume: created.then_some(ResumeToken {
                watched: [0; 8],
                position: job.position,
                snapshot: None,
            }),
        };
        let first = tokio_stream::once(Ok(Message::Submitted(submitted)));
        let status =
            watch_stream::start(&self.core, caller, watch, view).map(|message| message.map(Message::Status));
        let stream = first
            .chain(status)
            .map(|message| message.map(|message| v1::SubmitAndWatchResponse { message: Some(message) }));
        Ok(Response::new(Box::pin(stream)))
    }

    type WatchStatusStream = ResponseStream<v1::WatchStatusResponse>;

    async fn watch_status(
        &self,
        call: Request<v1::WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let caller = Caller::of(&call)?;
        let body = call.into_inner();
        let mut validator = Validator::new(self.core.clock.now());
        let view = view(&mut validator, "view", body.view, v1::JobView::Basic);
        let mut watch = watch_stream::request(&self.core, validator, body)?;
        watch_stream::authorize(&self.core, &caller, &mut watch).await?;
        Ok(Response::new(Box::pin(watch_stream::start(&self.core, caller, watch, view))))
    }

    async fn get_job(
        &self,
        call: Request<v1::GetJobRequest>,
    ) -> Result<Response<v1::GetJobResponse>, Status> {
        let caller = Caller::of(&call)?;
        let body = call.into_inner();
        let mut validator = Validator::new(self.core.clock.now());
        let id = validator.job_id("id", &body.id);
        let view = view(&mut validator, "view", body.view, v1::JobView::Full);
        validator.finish()?;
        let whole = view == v1::JobView::Full;
        let found = self
            .core
            .reads
            .read(move |reader| {
                if whole {
                    Ok(reader.whole_job(id)?.map(|found| (found.job.clone(), convert::whole_job(found))))
                } else {
                    Ok(reader.job(id)?.map(|job| (job.clone(), convert::job(&job))))
                }
            })
            .await?;
        let Some((job, mut proto)) = found else {
            return Err(errors::job_not_found(&id));
        };
        caller.on_job(&job)?;
        let queue = self.core.admission.queues().get(job.spec.queue.as_str());
        let runs_here = self.core.admission.runs(job.spec.kind.as_str());
        proto.pending_reason = convert::pending_reason(&job, queue.as_deref(), runs_here) as i32;
        Ok(Response::new(v1::GetJobResponse { job: Some(proto) }))
    }

    async fn list_jobs(
        &self,
        call: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        let caller = Caller::of(&call)?;
        let body = call.into_inner();
        let mut validator = Validator::new(self.core.clock.now());
        let filter = validator.filter(body.filter);
        let page_size = validator.page_size(body.page_size);
        let view = view(&mut validator, "view", body.view, v1::JobView::Basic);
        let tag = self.core.issuer.page_tag(&filter);
        let mut before = None;
        if !body.page_token.is_empty() {
            match page_token::read(&body.page_token, tag) {
                Some(id) => before = Some(id),
                None => validator.fault(
                    "page_token",
                    "is not the next_page_token of a page of this store with this filter: start again without it",
                ),
            }
        }
        validator.finish()?;
        caller.on_filter(&filter)?;
        let filter = Arc::new(filter);
        let mut jobs: Vec<Arc<Job>> = Vec::new();
        let mut budget = LIST_BUDGET;
        let mut next;
        loop {
            let scan = Scan {
                order: ScanOrder::NewestFirst { before },
                limit: page_size - jobs.len(),
                budget: SCAN_BUDGET,
            };
            let filter = Arc::clone(&filter);
            let page: Page = self.core.reads.read(move |reader| reader.scan(&filter, scan)).await?;
            jobs.extend(page.jobs);
            next = page.next;
            budget = budget.saturating_sub(SCAN_BUDGET);
            if next.is_none() || jobs.len() >= page_size || budget == 0 {
                break;
            }
            before = next;
        }
        let (jobs, cut_after) = self.page(jobs, view).await?;
        next = cut_after.or(next);
        let next_page_token = next.map(|next| page_token::issue(next, tag)).unwrap_or_default();
        Ok(Response::new(v1::ListJobsResponse { jobs, next_page_token }))
    }

    async fn count_jobs(
        &self,
        call: Request<v1::CountJobsRequest>,
    ) -> Result<Response<v1::CountJobsResponse>, Status> {
        let caller = Caller::of(&call)?;
        let mut validator = Validator::new(self.core.clock.now());
        let filter = validator.filter(call.into_inner().filter);
        validator.finish()?;
        caller.on_filter(&filter)?;
        let (counts, exact) = if filter.is_tallied() {
            let tallies = self.core.reads.read(|reader| reader.tallies()).await?;
            let fitting = tallies.iter().filter(|tally| {
                filter.matches_state(tally.state)
                    && filter.queue.as_deref().is_none_or(|queue| queue == tally.queue.as_str())
                    && (filter.kinds.is_empty()
                        || filter.kinds.iter().any(|kind| kind == tally.kind.as_str()))
            });
            (convert::state_counts(fitting), true)
        } else {
            self.count_by_looking(filter).await?
        };
        let total = counts.iter().map(|count| count.count).sum();
        Ok(Response::new(v1::CountJobsResponse { counts, total, exact }))
    }

    async fn cancel_job(
        &self,
        call: Request<v1::CancelJobRequest>,
    ) -> Result<Response<v1::CancelJobResponse>, Status> {
        let caller = Caller::of(&call)?;
        let mut validator = Validator::new(self.core.clock.now());
        let id = validator.job_id("id", &call.into_inner().id);
        validator.finish()?;
        let job = self.job_control(&caller, id, Control::Cancel(id)).await?;
        Ok(Response::new(v1::CancelJobResponse { job: job.as_deref().map(convert::job) }))
    }

    async fn retry_job(
        &self,
        call: Request<v1::RetryJobRequest>,
    ) -> Result<Response<v1::RetryJobResponse>, Status> {
        let caller = Caller::of(&call)?;
        let body = call.into_inner();
        let mut validator = Validator::new(self.core.clock.now());
        let id = validator.job_id("id", &body.id);
        validator.request_id(&body.request_id);
        validator.finish()?;
        let request = request(&body.request_id, &format!("retry {id}"), &[]);
        let job = self.job_control(&caller, id, Control::Retry { id, request }).await?;
        Ok(Response::new(v1::RetryJobResponse { job: job.as_deref().map(convert::job) }))
    }

    async fn delete_job(
        &self,
        call: Request<v1::DeleteJobRequest>,
    ) -> Result<Response<v1::DeleteJobResponse>, Status> {
        let caller = Caller::of(&call)?;
        let mut validator = Validator::new(self.core.clock.now());
        let id = validator.job_id("id", &call.into_inner().id);
        validator.finish()?;
        self.job_control(&caller, id, Control::Delete(id)).await?;
        Ok(Response::new(v1::DeleteJobResponse {}))
    }
}

impl JobQueueApi {
    /// Counts what the tallies can't: looks at the jobs themselves, newest first, up to a limit.
    async fn count_by_looking(
        &self,
        filter: crate::store::JobFilter,
    ) -> Result<(Vec<v1::StateCount>, bool), Status> {
        let filter = Arc::new(filter);
        let mut counts = BTreeMap::new();
        let (mut before, mut budget) = (None, LIST_BUDGET);
        while budget > 0 {
            let scan =
                Scan { order: ScanOrder::NewestFirst { before }, limit: SCAN_BUDGET, budget: SCAN_BUDGET };
            let filter = Arc::clone(&filter);
            let page = self.core.reads.read(move |reader| reader.scan(&filter, scan)).await?;
            for job in &page.jobs {
                *counts.entry(job.state.name()).or_insert(0) += 1;
            }
            budget = budget.saturating_sub(SCAN_BUDGET);
            before = page.next;
            if before.is_none() {
                return Ok((convert::counts_by_state(counts), true));
            }
        }
        Ok((convert::counts_by_state(counts), false))
    }
}

fn view(validator: &mut Validator, field: &str, number: i32, default: v1::JobView) -> v1::JobView {
    match validator.known(field, number) {
        v1::JobView::Unspecified => default,
        view @ (v1::JobView::Basic | v1::JobView::Full) => view,
    }
}
