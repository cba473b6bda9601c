//! The JobQueue service, and the verbs that change jobs.

use std::{collections::HashSet, pin::Pin, sync::Arc};

use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::{
    caller::Caller,
    core::Core,
    keys::ReleaseUniqueKey,
    needs::Needs,
    outgoing,
    submit::{CallContext, Submitter},
    submit_stream,
    update_job::UpdateJob,
    validate::Validator,
    verbs::{self, Target, Verb},
    views::job_change,
    watch_stream::{self, WatchRequest},
};
use crate::{
    engine::{Action, ControlRefusal, JobDone, ReplySlot},
    job::{Canonical, JobId, SubmitOutcome},
    proto::v1::{self, job_queue_server::JobQueue},
    settings::Role,
    watch::{ResumeToken, Start},
};

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
        let context = CallContext { caller: &caller, metadata: &metadata, deadline };
        let submitter = self.submitter();
        let one = submitter
            .submit_one(&context, validator, body.job, &body.request_id, body.when_full)
            .await
            .inspect_err(|status| self.core.rejected(status))?;
        let mut response = submitter.submit_response(&one);
        let Some(job) = one.job.filter(|_| view != v1::JobView::Unspecified) else {
            return Ok(Response::new(response));
        };
        let share = self.core.outgoing.share();
        response.job = Some(self.core.shown_job(&job, view, &share).await?.into());
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
        use v1::submit_and_watch_response::Event;

        let caller = Caller::of(&call)?;
        let deadline = self.core.deadline(&call);
        let (metadata, _, body) = call.into_parts();
        let mut validator = Validator::new(self.core.clock.now(), &body.namespace);
        let detail = validator.detail(body.detail);
        let view = validator.view("view", body.view, v1::JobView::Basic);
        let context = CallContext { caller: &caller, metadata: &metadata, deadline };
        let submitter = self.submitter();
        let one = submitter
            .submit_one(&context, validator, body.job, &body.request_id, body.when_full)
            .await
            .inspect_err(|status| self.core.rejected(status))?;
        let first = tokio_stream::once(Ok(Event::Submitted(submitter.submit_response(&one))));
        let share = self.core.outgoing.share();
        let status = (one.outcome != SubmitOutcome::Gone && one.is_shown).then(|| {
            let watch = WatchRequest::Ids {
                ids: vec![one.id],
                hidden: HashSet::new(),
                detail,
                output: body.output,
                start: one
                    .watch_after()
                    .map_or(Start::Snapshot, |after| Start::Resume(ResumeToken::after(after))),
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
        self.core.get_job(call).await
    }

    async fn list_jobs(
        &self,
        call: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        self.core.list_jobs(call).await
    }

    async fn count_jobs(
        &self,
        call: Request<v1::CountJobsRequest>,
    ) -> Result<Response<v1::CountJobsResponse>, Status> {
        self.core.count_jobs(call).await
    }

    async fn cancel_job(
        &self,
        call: Request<v1::CancelJobRequest>,
    ) -> Result<Response<v1::CancelJobResponse>, Status> {
        verbs::run::<CancelJob>(&self.core, call).await
    }

    async fn retry_job(
        &self,
        call: Request<v1::RetryJobRequest>,
    ) -> Result<Response<v1::RetryJobResponse>, Status> {
        verbs::run::<RetryJob>(&self.core, call).await
    }

    async fn update_job(
        &self,
        call: Request<v1::UpdateJobRequest>,
    ) -> Result<Response<v1::UpdateJobResponse>, Status> {
        verbs::run::<UpdateJob>(&self.core, call).await
    }

    async fn get_job_graph(
        &self,
        call: Request<v1::GetJobGraphRequest>,
    ) -> Result<Response<v1::GetJobGraphResponse>, Status> {
        self.core.get_job_graph(call).await
    }

    async fn list_unique_keys(
        &self,
        call: Request<v1::ListUniqueKeysRequest>,
    ) -> Result<Response<v1::ListUniqueKeysResponse>, Status> {
        self.core.list_unique_keys(call).await
    }

    async fn release_unique_key(
        &self,
        call: Request<v1::ReleaseUniqueKeyRequest>,
    ) -> Result<Response<v1::ReleaseUniqueKeyResponse>, Status> {
        verbs::run::<ReleaseUniqueKey>(&self.core, call).await
    }

    async fn delete_job(
        &self,
        call: Request<v1::DeleteJobRequest>,
    ) -> Result<Response<v1::DeleteJobResponse>, Status> {
        verbs::run::<DeleteJob>(&self.core, call).await
    }
}

const SUBMIT: Needs = Needs::Role(Role::Submit);
const READ: Needs = Needs::Role(Role::Read);

/// What the service's RPCs require of their callers.
pub(super) const RPCS: &[(&str, Needs)] = &[
    ("jobmill.v1.JobQueue/Submit", SUBMIT),
    ("jobmill.v1.JobQueue/SubmitBatch", SUBMIT),
    ("jobmill.v1.JobQueue/SubmitStream", SUBMIT),
    ("jobmill.v1.JobQueue/SubmitAndWatch", SUBMIT),
    ("jobmill.v1.JobQueue/WatchStatus", READ),
    ("jobmill.v1.JobQueue/GetJob", READ),
    ("jobmill.v1.JobQueue/ListJobs", READ),
    ("jobmill.v1.JobQueue/CountJobs", READ),
    ("jobmill.v1.JobQueue/CancelJob", CancelJob::NEEDS),
    ("jobmill.v1.JobQueue/RetryJob", RetryJob::NEEDS),
    ("jobmill.v1.JobQueue/UpdateJob", UpdateJob::NEEDS),
    ("jobmill.v1.JobQueue/GetJobGraph", READ),
    ("jobmill.v1.JobQueue/ListUniqueKeys", READ),
    ("jobmill.v1.JobQueue/ReleaseUniqueKey", ReleaseUniqueKey::NEEDS),
    ("jobmill.v1.JobQueue/DeleteJob", DeleteJob::NEEDS),
];

/// Cancels a job.
pub(super) struct CancelJob {
    id: JobId,
    expected_revision: Option<u64>,
    view: v1::JobView,
}

impl Verb for CancelJob {
    type Request = v1::CancelJobRequest;
    type Response = v1::CancelJobResponse;
    type Done = JobDone;
    const NAME: &'static str = "CancelJob";
    const NEEDS: Needs = Needs::Role(Role::Cancel);

    fn read(request: v1::CancelJobRequest, validator: &mut Validator) -> Self {
        CancelJob {
            id: validator.job_id("id", &request.id),
            expected_revision: validator.expected_revision(request.expected_revision),
            view: validator.view("view", request.view, v1::JobView::Unspecified),
        }
    }

    fn target(&self) -> Target<'_> {
        Target::Job(self.id, self.expected_revision)
    }

    fn shows_job(&self) -> bool {
        self.view != v1::JobView::Unspecified
    }

    fn action(&self, ask: ReplySlot<JobDone, ControlRefusal>) -> Action {
        Action::Cancel { id: self.id, expected_revision: self.expected_revision, ask }
    }

    async fn answer(self, core: &Core, done: JobDone) -> Result<Response<v1::CancelJobResponse>, Status> {
        let share = core.outgoing.share();
        let (change, job) = job_change(core, &share, done, self.view).await?;
        Ok(outgoing::message(v1::CancelJobResponse { change: Some(change), job }, share))
    }
}

/// Runs an ended job again, or a waiting job now.
struct RetryJob {
    id: JobId,
    expected_revision: Option<u64>,
    reset: bool,
    drop_checkpoint: bool,
    view: v1::JobView,
}

impl Verb for RetryJob {
    type Request = v1::RetryJobRequest;
    type Response = v1::RetryJobResponse;
    type Done = JobDone;
    const NAME: &'static str = "RetryJob";
    const NEEDS: Needs = Needs::Role(Role::Admin);

    fn read(request: v1::RetryJobRequest, validator: &mut Validator) -> Self {
        RetryJob {
            id: validator.job_id("id", &request.id),
            expected_revision: validator.expected_revision(request.expected_revision),
            reset: request.reset_attempts,
            drop_checkpoint: request.drop_checkpoint,
            view: validator.view("view", request.view, v1::JobView::Unspecified),
        }
    }

    fn target(&self) -> Target<'_> {
        Target::Job(self.id, self.expected_revision)
    }

    fn shows_job(&self) -> bool {
        self.view != v1::JobView::Unspecified
    }

    fn add_to_digest(&self, said: &mut Canonical) {
        if self.reset {
            said.put("reset_attempts", &[]);
        }
        if self.drop_checkpoint {
            said.put("drop_checkpoint", &[]);
        }
    }

    fn action(&self, ask: ReplySlot<JobDone, ControlRefusal>) -> Action {
        let RetryJob { id, expected_revision, reset, drop_checkpoint, .. } = *self;
        Action::Retry { id, expected_revision, reset, drop_checkpoint, ask }
    }

    async fn answer(self, core: &Core, done: JobDone) -> Result<Response<v1::RetryJobResponse>, Status> {
        let share = core.outgoing.share();
        let (change, job) = job_change(core, &share, done, self.view).await?;
        Ok(outgoing::message(v1::RetryJobResponse { change: Some(change), job }, share))
    }
}

/// Deletes a job.
pub(super) struct DeleteJob {
    id: JobId,
    expected_revision: Option<u64>,
    force: bool,
}

impl Verb for DeleteJob {
    type Request = v1::DeleteJobRequest;
    type Response = v1::DeleteJobResponse;
    type Done = ();
    const NAME: &'static str = "DeleteJob";
    const NEEDS: Needs = Needs::Role(Role::Admin);

    fn read(request: v1::DeleteJobRequest, validator: &mut Validator) -> Self {
        DeleteJob {
            id: validator.job_id("id", &request.id),
            expected_revision: validator.expected_revision(request.expected_revision),
            force: request.force,
        }
    }

    fn target(&self) -> Target<'_> {
        Target::Job(self.id, self.expected_revision)
    }

    fn add_to_digest(&self, said: &mut Canonical) {
        if self.force {
            said.put("force", &[]);
        }
    }

    fn action(&self, ask: ReplySlot<(), ControlRefusal>) -> Action {
        Action::Delete { id: self.id, expected_revision: self.expected_revision, force: self.force, ask }
    }

    async fn answer(self, _: &Core, (): ()) -> Result<Response<v1::DeleteJobResponse>, Status> {
        Ok(Response::new(v1::DeleteJobResponse {}))
    }
}
