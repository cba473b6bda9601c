//! A real server in the test's own process, real clients, and handlers that the test controls.

mod process;
mod refusals;
mod stage;
mod watcher;

use std::{collections::HashMap, path::Path, time::Duration};

use jobmill::{
    clock::{ManualClock, Timestamp},
    execute::{Attempt, HandlerError},
    handle::Handle,
    job::{Output, PayloadInfo, RetryPolicy},
    proto::v1::{
        self, JobState, JobView, PendingReason, SubmitOutcome,
        job_queue_client::JobQueueClient,
        job_spec::{Expiry, Start},
        queue_service_client::QueueServiceClient,
        server_service_client::ServerServiceClient,
    },
    serve::{Server, ServerBuilder, Stopper},
    settings::{KindDefaults, QueueSettings, Settings, StoreSettings},
};
use tonic::transport::Channel;

pub(crate) use process::Process;
pub(crate) use refusals::{Refusal, is_definite, refusal, refused_item};
pub(crate) use stage::{Stage, StagedAttempt};
pub(crate) use watcher::{Watcher, describe};

/// Timeout of a test's waits, far longer than any machine needs.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The queue that always exists.
pub(crate) const QUEUE: &str = "default";

/// Returns the result of a future; panics at the timeout.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(TEST_TIMEOUT, future).await.expect("done in time")
}

/// Returns settings of a server on a free port with one queue of four consumers and a drain timeout of a second.
pub(crate) fn settings(store: StoreSettings) -> Settings {
    let mut settings = Settings::new(store);
    settings.listen = ([127, 0, 0, 1], 0).into();
    settings.drain_timeout = Duration::from_secs(1);
    settings.queues.insert(QUEUE.to_owned(), queue(4));
    settings
}

pub(crate) fn memory() -> Settings {
    settings(StoreSettings::Memory)
}

pub(crate) fn folder(path: &Path) -> Settings {
    settings(StoreSettings::Folder(path.to_owned()))
}

/// Returns settings of a queue with this many consumers.
pub(crate) fn queue(consumers: u32) -> QueueSettings {
    QueueSettings { consumers, ..QueueSettings::default() }
}

/// Adds a queue to settings.
pub(crate) fn with_queue(mut settings: Settings, name: &str, queue: QueueSettings) -> Settings {
    settings.queues.insert(name.to_owned(), queue);
    settings
}

/// Returns a clock that stands still on a day in 2027.
pub(crate) fn manual_clock() -> ManualClock {
    ManualClock::new(Timestamp::from_micros(1_800_000_000_000_000))
}

/// Returns defaults without jitter: the first retry after 1 s, each later one after twice as long.
pub(crate) fn defaults() -> KindDefaults {
    KindDefaults { retry: RetryPolicy { jitter: 0.0, ..RetryPolicy::DEFAULT }, ..KindDefaults::default() }
}

/// A handler that returns its payload.
pub(crate) async fn echo(attempt: Attempt) -> Result<Output, HandlerError> {
    Ok(Output { bytes: attempt.payload().clone(), info: PayloadInfo::typed("text/plain") })
}

/// A handler that always fails.
pub(crate) async fn fail(_: Attempt) -> Result<Output, HandlerError> {
    Err(HandlerError::retryable("out of paper").with_code("E42"))
}

/// Returns a job of a kind in the queue that always exists.
pub(crate) fn job(kind: &str) -> v1::JobSpec {
    v1::JobSpec { queue: QUEUE.to_owned(), kind: kind.to_owned(), ..v1::JobSpec::default() }
}

pub(crate) fn submission(job: v1::JobSpec) -> v1::SubmitRequest {
    v1::SubmitRequest { job: Some(job), ..v1::SubmitRequest::default() }
}

/// Returns a submission under a request id.
pub(crate) fn named(request_id: &str, job: v1::JobSpec) -> v1::SubmitRequest {
    v1::SubmitRequest { request_id: request_id.to_owned(), ..submission(job) }
}

/// Returns an update of all settings of a queue, whatever its etag.
pub(crate) fn update_of(name: &str, settings: v1::QueueSettings) -> v1::UpdateQueueRequest {
    let mask = prost_types::FieldMask { paths: vec!["settings".to_owned()] };
    let queue = v1::Queue {
        name: name.to_owned(),
        etag: "*".to_owned(),
        settings: Some(settings),
        ..v1::Queue::default()
    };
    v1::UpdateQueueRequest { queue: Some(queue), update_mask: Some(mask), ..Default::default() }
}

/// Returns a start time in seconds since 1970.
pub(crate) fn run_time(seconds: i64) -> Option<Start> {
    Some(Start::RunTime(prost_types::Timestamp { seconds, nanos: 0 }))
}

/// Returns an expiry in seconds since 1970.
pub(crate) fn expire_time(seconds: i64) -> Option<Expiry> {
    Some(Expiry::ExpireTime(prost_types::Timestamp { seconds, nanos: 0 }))
}

/// Returns a job's spec, which is what the client submitted.
pub(crate) fn spec(job: &v1::Job) -> &v1::JobSpec {
    job.spec.as_ref().expect("every job has a spec")
}

/// Returns the bytes of a job's payload that the view includes.
pub(crate) fn payload(job: &v1::Job) -> &[u8] {
    spec(job).payload.as_ref().map_or(&[], v1::Payload::bytes)
}

/// Returns the bytes of a job's result that the view includes.
pub(crate) fn result(job: &v1::Job) -> &[u8] {
    job.result.as_ref().map_or(&[], v1::Payload::bytes)
}

/// Returns the media type of a job's result.
pub(crate) fn result_type(job: &v1::Job) -> &str {
    job.result.as_ref().map_or("", |result| &result.media_type)
}

/// Returns the reasons for which a job waits.
pub(crate) fn pending(job: &v1::Job) -> Vec<PendingReason> {
    job.pending.iter().map(v1::Pending::reason).collect()
}

/// Returns the job ids of submissions.
pub(crate) fn ids(submitted: Vec<v1::Submitted>) -> Vec<String> {
    submitted.into_iter().map(|submitted| submitted.id).collect()
}

/// Returns the outcomes of submissions.
pub(crate) fn outcomes(submitted: &[v1::Submitted]) -> Vec<SubmitOutcome> {
    submitted.iter().map(v1::Submitted::outcome).collect()
}

/// A running server and a connection to it.
pub(crate) struct Rig {
    /// Absent where the server is another process.
    server: Option<Server>,
    pub(crate) channel: Channel,
    pub(crate) jobs: JobQueueClient<Channel>,
    pub(crate) queues: QueueServiceClient<Channel>,
    pub(crate) about: ServerServiceClient<Channel>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.stopper().force();
        }
    }
}

impl Rig {
    pub(crate) async fn start(builder: ServerBuilder) -> Self {
        let server = soon(builder.start()).await.expect("the server starts");
        let mut rig = Rig::connect(&server.local_addr().expect("an address").to_string()).await;
        rig.server = Some(server);
        rig
    }

    /// Connects to a server in another process.
    pub(crate) async fn connect(address: &str) -> Self {
        let channel = connect(address).await;
        Rig {
            server: None,
            jobs: JobQueueClient::new(channel.clone()),
            queues: QueueServiceClient::new(channel.clone()),
            about: ServerServiceClient::new(channel.clone()),
            channel,
        }
    }

    /// Starts a server in memory with the kinds `echo` and `fail`.
    pub(crate) async fn simple() -> Self {
        Rig::start(simple(memory())).await
    }

    pub(crate) fn address(&self) -> std::net::SocketAddr {
        self.server.as_ref().and_then(Server::local_addr).expect("a server that listens")
    }

    /// Returns the counts of the server's connections.
    pub(crate) fn connections(&self) -> std::sync::Arc<jobmill::listen::ListenStats> {
        self.server.as_ref().expect("a server").connections()
    }

    /// Returns a metric's value, by its name and labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = soon(self.handle().metrics()).await.expect("metrics");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name}")).parse().expect("a number")
    }

    pub(crate) fn metrics_address(&self) -> std::net::SocketAddr {
        self.server.as_ref().and_then(Server::metrics_addr).expect("a server with metrics")
    }

    /// Reopens or rereads the server's files, as SIGHUP does.
    pub(crate) fn reload(&self) {
        self.server.as_ref().expect("a server").reloader().reload();
    }

    /// Returns the server's in-process handle.
    pub(crate) fn handle(&self) -> Handle {
        self.server.as_ref().expect("a server").handle()
    }

    pub(crate) fn stopper(&self) -> Stopper {
        self.server.as_ref().expect("a server").stopper()
    }

    /// Stops the server, and returns once its folder is free.
    pub(crate) async fn stop(self) {
        self.stopper().drain();
        self.stopped().await;
    }

    /// Returns once the server has ended, and its folder is free.
    pub(crate) async fn stopped(mut self) {
        soon(self.server.take().expect("a server").finished()).await.expect("an orderly end");
    }

    /// Stops the server without a drain; running attempts are cut off.
    pub(crate) async fn force(self) {
        self.stopper().force();
        self.stopped().await;
    }

    /// Submits a job; returns it as it was accepted.
    pub(crate) async fn submit(&self, job: v1::JobSpec) -> v1::Job {
        let request = v1::SubmitRequest { view: JobView::Basic as i32, ..submission(job) };
        let response = soon(self.jobs.clone().submit(request)).await.expect("accepted");
        response.into_inner().job.map(|job| *job).expect("a job")
    }

    pub(crate) async fn submit_batch(&self, jobs: Vec<v1::JobSpec>) -> Vec<String> {
        let request = v1::SubmitBatchRequest { jobs, ..v1::SubmitBatchRequest::default() };
        ids(soon(self.jobs.clone().submit_batch(request)).await.expect("accepted").into_inner().jobs)
    }

    /// Returns the whole job as it is now.
    pub(crate) async fn get(&self, id: &str) -> v1::Job {
        self.find(id).await.expect("a job")
    }

    pub(crate) async fn find(&self, id: &str) -> Result<v1::Job, tonic::Status> {
        self.look(id, JobView::Unspecified).await
    }

    /// Returns the job in a view.
    pub(crate) async fn look(&self, id: &str, view: JobView) -> Result<v1::Job, tonic::Status> {
        let request = v1::GetJobRequest { id: id.to_owned(), view: view as i32, ..Default::default() };
        soon(self.jobs.clone().get_job(request)).await.map(|found| found.into_inner().job.expect("a job"))
    }

    /// Cancels a job; returns it after the cancel.
    pub(crate) async fn cancel(&self, id: &str) -> Result<v1::Job, tonic::Status> {
        let view = JobView::Basic as i32;
        let request = v1::CancelJobRequest { id: id.to_owned(), view, ..Default::default() };
        soon(self.jobs.clone().cancel_job(request)).await.map(|done| done.into_inner().job.expect("a job"))
    }

    /// Retries a job; returns it after the retry.
    pub(crate) async fn retry(&self, id: &str) -> Result<v1::Job, tonic::Status> {
        let view = JobView::Basic as i32;
        let request = v1::RetryJobRequest { id: id.to_owned(), view, ..Default::default() };
        soon(self.jobs.clone().retry_job(request)).await.map(|done| done.into_inner().job.expect("a job"))
    }

    pub(crate) async fn delete(&self, id: &str) -> Result<(), tonic::Status> {
        let request = v1::DeleteJobRequest { id: id.to_owned(), ..Default::default() };
        soon(self.jobs.clone().delete_job(request)).await.map(|_| ())
    }

    /// Returns the job once it is in this state.
    pub(crate) async fn reaches(&self, id: &str, state: JobState) -> v1::Job {
        self.watch_ids(&[id]).await.until(state).await;
        self.get(id).await
    }

    /// Returns the job once it has ended.
    pub(crate) async fn ends(&self, id: &str) -> v1::Job {
        self.watch_ids(&[id]).await.rest().await.expect("an end");
        self.get(id).await
    }

    pub(crate) async fn watch_ids(&self, ids: &[&str]) -> Watcher {
        let ids = ids.iter().map(|&id| id.to_owned()).collect();
        self.watch(v1::WatchStatusRequest { ids, detail: 2, ..v1::WatchStatusRequest::default() }).await
    }

    pub(crate) async fn watch(&self, request: v1::WatchStatusRequest) -> Watcher {
        Watcher::new(soon(self.jobs.clone().watch_status(request)).await.expect("a watch").into_inner())
    }

    /// Returns all jobs that match a filter.
    pub(crate) async fn list(&self, filter: v1::JobFilter) -> Vec<v1::Job> {
        let (mut jobs, mut page_token) = (Vec::new(), String::new());
        loop {
            let filter = Some(filter.clone());
            let request = v1::ListJobsRequest { filter, page_size: 1_000, page_token, ..Default::default() };
            let page = soon(self.jobs.clone().list_jobs(request)).await.expect("a page").into_inner();
            jobs.extend(page.jobs);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return jobs;
            }
        }
    }

    /// Returns all jobs, by their request ids.
    pub(crate) async fn jobs_by_request(&self) -> HashMap<String, Vec<v1::Job>> {
        let mut found: HashMap<String, Vec<v1::Job>> = HashMap::new();
        for job in self.list(v1::JobFilter::default()).await {
            found.entry(job.request_id.clone()).or_default().push(job);
        }
        found
    }

    pub(crate) async fn total(&self) -> i64 {
        let request = v1::CountJobsRequest::default();
        soon(self.jobs.clone().count_jobs(request)).await.expect("a count").into_inner().total
    }

    pub(crate) async fn queue(&self, name: &str) -> v1::Queue {
        let request = v1::GetQueueRequest { name: name.to_owned(), ..Default::default() };
        soon(self.queues.clone().get_queue(request))
            .await
            .expect("a queue")
            .into_inner()
            .queue
            .expect("a queue")
    }

    pub(crate) async fn pause(&self, name: &str) {
        let request = v1::PauseQueueRequest { name: name.to_owned(), ..Default::default() };
        soon(self.queues.clone().pause_queue(request)).await.expect("paused");
    }

    pub(crate) async fn resume(&self, name: &str) {
        let request = v1::ResumeQueueRequest { name: name.to_owned(), ..Default::default() };
        soon(self.queues.clone().resume_queue(request)).await.expect("resumed");
    }

    /// Returns once this many submissions wait for room in a queue. Polls, because the server publishes no event for
    /// it.
    pub(crate) async fn waiters(&self, name: &str, count: i64) {
        let asked = async {
            while self.queue(name).await.stats.expect("stats").waiters != count {
                tokio::task::yield_now().await;
            }
        };
        soon(asked).await;
    }
}

pub(crate) fn simple(settings: Settings) -> ServerBuilder {
    Server::builder(settings).handler("echo", defaults(), echo).handler("fail", defaults(), fail)
}

pub(crate) async fn connect(address: &str) -> Channel {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("an address");
    soon(endpoint.connect()).await.expect("a connection")
}
