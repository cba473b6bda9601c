//! The JobQueue service.

use std::{
    collections::{BTreeMap, HashSet},
    pin::Pin,
    sync::Arc,
};

use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::{
    caller::Caller,
    convert,
    core::Core,
    errors, outgoing, page_token,
    sizes::ENOUGH_BYTES,
    submit::{By, One, Submitter},
    submit_stream,
    validate::Validator,
    views::is_large,
    watch_stream::{self, WatchRequest},
};
use crate::{
    admission,
    clock::Uptime,
    engine::{Ask, Control, ControlRefusal},
    job::{Job, JobFilter, JobId, SubmitOutcome},
    proto::v1::{self, job_queue_server::JobQueue},
    store::{Page, Scan, ScanOrder},
    watch::{ResumeToken, Start},
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

impl JobQueueApi {
    pub(crate) fn new(core: Core) -> Self {
        JobQueueApi { core }
    }

    fn submitter(&self) -> Submitter<'_> {
        Submitter { core: &self.core }
    }

    /// Changes a job, if the caller may. A job never goes to another queue, so that looking first is enough.
    async fn job_control<T>(
        &self,
        caller: &Arc<Caller>,
        id: JobId,
        deadline: Option<Uptime>,
        make: impl FnOnce(Ask<T, ControlRefusal>) -> Control,
    ) -> Result<T, Status> {
        let found = self.core.shard.reads.read(move |reader| reader.job(id)).await?;
        let job = found.ok_or_else(|| errors::job_not_found(&id))?;
        caller.on_job(&job)?;
        let entry = caller.begin_job(id, Some(job.spec.queue.as_str()));
        let give_up = self.core.give_up(job.spec.queue.as_str(), deadline);
        let done = self.core.shard.control(give_up, make).await.map_err(Status::from);
        entry.end(&done, |_| Vec::new());
        done
    }

    /// The jobs of a page, cut short where they would not fit into a message; returns where.
    async fn page(
        &self,
        jobs: Vec<Arc<Job>>,
        view: v1::JobView,
        share: &outgoing::Share,
    ) -> Result<(Vec<v1::Job>, Option<JobId>), Status> {
        if is_large(view) || jobs.len() > outgoing::FEW_JOBS {
            share.reserve().await;
        }
        let (mut page, mut bytes, mut last) = (Vec::with_capacity(jobs.len()), 0, None);
        for job in jobs {
            let id = job.id;
            let proto = if is_large(view) {
                // A job that has been deleted since is left out.
                self.core.read_job(id, view).await?.map(|(_, shown)| shown)
            } else {
                Some(convert::job(&job))
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
        let mut validator = Validator::new(self.core.clock.now(), &body.namespace);
        let view = validator.view("view", body.view, v1::JobView::Unspecified);
        let by = By { caller: &caller, metadata: &metadata, deadline };
        let submitter = self.submitter();
        let one = submitter
            .submit_one(&by, validator, body.job, &body.request_id, body.when_full)
            .await
            .inspect_err(|status| self.core.rejected(status))?;
        let mut response = submitter.submit_response(&one);
        let share = self.core.outgoing.share();
        if let Some(job) = one.job.filter(|_| view != v1::JobView::Unspecified) {
            if is_large(view) {
                share.reserve().await;
            }
            let mut shown = convert::job(&job);
            self.core.complete(&mut shown, job.id, view).await?;
            response.job = Some(shown);
        }
        Ok(outgoing::message(response, share))
    }

    async fn submit_batch(
        &self,
        call: Request<v1::SubmitBatchRequest>,
    ) -> Result<Response<v1::SubmitBatchResponse>, Status> {
        let submitted =
            self.submitter().submit_many(call).await.inspect_err(|status| self.core.rejected(status))?;
        Ok(Response::new(submitted))
    }

    type SubmitStreamStream = ResponseStream<v1::SubmitStreamResponse>;

    async fn submit_stream(
        &self,
        call: Request<tonic::Streaming<v1::SubmitStreamRequest>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        let caller = Caller::of(&call)?;
        Ok(Response::new(Box::pin(submit_stream::start(self.core.clone(), caller, call))))
    }

    type SubmitAndWatchStream = ResponseStream<v1::SubmitAndWatchResponse>;

    async fn submit_and_watch(
        &self,
        call: Request<v1::SubmitAndWatchRequest>,
    ) -> Result<Response<Self::SubmitAndWatchStream>, Status> {
        let caller = Caller::of(&call)?;
        use v1::submit_and_watch_response::Event;

        let deadline = self.core.deadline(&call);
        let (metadata, _, body) = call.into_parts();
        let mut validator = Validator::new(self.core.clock.now(), &body.namespace);
        let detail = validator.detail(body.detail);
        let view = validator.view("view", body.view, v1::JobView::Basic);
        let by = By { caller: &caller, metadata: &metadata, deadline };
        let submitter = self.submitter();
        let one = submitter
            .submit_one(&by, validator, body.job, &body.request_id, body.when_full)
            .await
            .inspect_err(|status| self.core.rejected(status))?;
        let first = tokio_stream::once(Ok(Event::Submitted(submitter.submit_response(&one))));
        let share = self.core.outgoing.share();
        let status = (one.outcome != SubmitOutcome::Gone).then(|| {
            let watch = WatchRequest::Ids {
                ids: vec![one.id],
                hidden: HashSet::new(),
                detail,
                output: body.output,
                start: watch_from(&one),
            };
            watch_stream::start(&self.core, caller, watch, view, Arc::clone(&share))
                .map(|message| message.map(Event::Status))
        });
        let stream = first
            .chain(futures_util::StreamExt::flatten(futures_util::stream::iter(status)))
            .map(|event| event.map(|event| v1::SubmitAndWatchResponse { event: Some(event) }));
        Ok(outgoing::stream(stream, share))
    }

    type WatchStatusStream = ResponseStream<v1::WatchStatusResponse>;

    async fn watch_status(
        &self,
        call: Request<v1::WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let caller = Caller::of(&call)?;
        let body = call.into_inner();
        let mut validator = Validator::new(self.core.clock.now(), &body.namespace);
        let view = validator.view("view", body.view, v1::JobView::Basic);
        let mut watch = watch_stream::request(&self.core, validator, body)?;
        watch_stream::authorize(&self.core, &caller, &mut watch).await?;
        let share = self.core.outgoing.share();
        let messages = watch_stream::start(&self.core, caller, watch, view, Arc::clone(&share));
        Ok(outgoing::stream(messages, share))
    }

    async fn get_job(
        &self,
        call: Request<v1::GetJobRequest>,
    ) -> Result<Response<v1::GetJobResponse>, Status> {
        let caller = Caller::of(&call)?;
        let body = call.into_inner();
        let mut validator = Validator::new(self.core.clock.now(), &body.namespace);
        let id = validator.job_id("id", &body.id);
        let view = validator.view("view", body.view, v1::JobView::Full);
        validator.finish()?;
        let share = self.core.outgoing.share();
        if is_large(view) {
            share.reserve().await;
        }
        let found = self.core.read_job(id, view).await?;
        let (job, mut proto) = found.ok_or_else(|| errors::job_not_found(&id))?;
        caller.on_job(&job)?;
        let queue = self.core.shard.queues.get(job.spec.queue.as_str());
        let runs_here = self.core.intake.admission.runs(job.spec.kind.as_str());
        proto.pending = convert::pending(&job, queue.as_deref(), runs_here);
        Ok(outgoing::message(v1::GetJobResponse { job: Some(proto) }, share))
    }

    async fn list_jobs(
        &self,
        call: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        let caller = Caller::of(&call)?;
        let body = call.into_inner();
        let mut validator = Validator::new(self.core.clock.now(), &body.namespace);
        let filter = validator.filter(body.filter);
        let page_size = validator.page_size(body.page_size);
        let view = validator.view("view", body.view, v1::JobView::Basic);
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
            let page: Page = self.core.shard.reads.read(move |reader| reader.scan(&filter, scan)).await?;
            jobs.extend(page.jobs);
            next = page.next;
            budget = budget.saturating_sub(SCAN_BUDGET);
            if next.is_none() || jobs.len() >= page_size || budget == 0 {
                break;
            }
            before = next;
        }
        let share = self.core.outgoing.share();
        let (jobs, cut_after) = self.page(jobs, view, &share).await?;
        next = cut_after.or(next);
        let next_page_token = next.map(|next| page_token::issue(next, tag)).unwrap_or_default();
        Ok(outgoing::message(v1::ListJobsResponse { jobs, next_page_token }, share))
    }

    async fn count_jobs(
        &self,
        call: Request<v1::CountJobsRequest>,
    ) -> Result<Response<v1::CountJobsResponse>, Status> {
        let caller = Caller::of(&call)?;
        let body = call.into_inner();
        let mut validator = Validator::new(self.core.clock.now(), &body.namespace);
        let filter = validator.filter(body.filter);
        validator.finish()?;
        caller.on_filter(&filter)?;
        let (counts, exact) = if filter.is_tallied() {
            let tallies = self.core.shard.reads.read(|reader| reader.tallies()).await?;
            let fitting = tallies.iter().filter(|tally| {
                filter.matches_state(tally.state)
                    && filter.matches_queue(tally.queue.as_str())
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
        let deadline = self.core.deadline(&call);
        let body = call.into_inner();
        let mut validator = Validator::new(self.core.clock.now(), &body.namespace);
        let id = validator.job_id("id", &body.id);
        validator.finish()?;
        let job = self.job_control(&caller, id, deadline, |ask| Control::Cancel { id, ask }).await?;
        Ok(Response::new(v1::CancelJobResponse { job: Some(convert::job(&job)) }))
    }

    async fn retry_job(
        &self,
        call: Request<v1::RetryJobRequest>,
    ) -> Result<Response<v1::RetryJobResponse>, Status> {
        let caller = Caller::of(&call)?;
        let deadline = self.core.deadline(&call);
        let body = call.into_inner();
        let mut validator = Validator::new(self.core.clock.now(), &body.namespace);
        let id = validator.job_id("id", &body.id);
        validator.request_id(&body.request_id);
        validator.finish()?;
        let request = admission::request(&body.request_id, &format!("RetryJob {id}"), &[]);
        let job = self.job_control(&caller, id, deadline, |ask| Control::Retry { id, request, ask }).await?;
        Ok(Response::new(v1::RetryJobResponse { job: Some(convert::job(&job)) }))
    }

    async fn delete_job(
        &self,
        call: Request<v1::DeleteJobRequest>,
    ) -> Result<Response<v1::DeleteJobResponse>, Status> {
        let caller = Caller::of(&call)?;
        let deadline = self.core.deadline(&call);
        let body = call.into_inner();
        let mut validator = Validator::new(self.core.clock.now(), &body.namespace);
        let id = validator.job_id("id", &body.id);
        validator.finish()?;
        self.job_control(&caller, id, deadline, |ask| Control::Delete { id, ask }).await?;
        Ok(Response::new(v1::DeleteJobResponse {}))
    }
}

impl JobQueueApi {
    /// Counts what the tallies can't: looks at the jobs themselves, newest first, up to a limit.
    async fn count_by_looking(&self, filter: JobFilter) -> Result<(Vec<v1::StateCount>, bool), Status> {
        let filter = Arc::new(filter);
        let mut counts = BTreeMap::new();
        let (mut before, mut budget) = (None, LIST_BUDGET);
        while budget > 0 {
            let scan =
                Scan { order: ScanOrder::NewestFirst { before }, limit: SCAN_BUDGET, budget: SCAN_BUDGET };
            let filter = Arc::clone(&filter);
            let page = self.core.shard.reads.read(move |reader| reader.scan(&filter, scan)).await?;
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

/// Where a watch of a job that was just submitted begins. That of a repeat begins with the job as it is: the caller may have
/// missed its end.
fn watch_from(one: &One) -> Start {
    match &one.job {
        Some(job) if one.outcome == SubmitOutcome::Created => {
            Start::Resume(ResumeToken { watched: [0; 8], position: job.position, snapshot: None })
        }
        Some(_) | None => Start::Snapshot,
    }
}
