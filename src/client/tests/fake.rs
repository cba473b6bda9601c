//! A server that does as its test says.

use std::{
    collections::VecDeque,
    future::{Ready, ready},
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{
    io::{DuplexStream, copy_bidirectional, duplex},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    Request, Response, Status, async_trait,
    codegen::{Service, http::Uri},
};

use crate::proto::v1::{self, job_queue_server as server, queue_service_server as queue_server};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What to do with the next call.
pub(super) enum Act<T> {
    Answer(T),
    /// An answer after so long.
    Late(Duration, T),
    Refuse(Status),
    /// The connection breaks before the answer.
    Cut,
    /// No answer, ever.
    Hang,
}

/// What a stream does.
pub(super) enum Step<T> {
    Send(T),
    End(Status),
    Cut,
    Hang,
}

/// What happened, and what is to happen. A unary call that has no act left fails its test.
#[derive(Default)]
pub(super) struct Fake {
    pub(super) submits: Mutex<VecDeque<Act<v1::SubmitResponse>>>,
    pub(super) submitted: Mutex<Vec<v1::SubmitRequest>>,
    /// What `submitted` came with as its `jobmill-require`.
    pub(super) required: Mutex<Vec<String>>,
    pub(super) gets: Mutex<VecDeque<Act<v1::GetJobResponse>>>,
    pub(super) got: Mutex<Vec<v1::GetJobRequest>>,
    /// All other calls that change something, by their names, with their request ids. The first answer to each is lost.
    pub(super) changes: Mutex<Vec<(&'static str, String)>>,
    pub(super) watches: Mutex<VecDeque<Vec<Step<v1::WatchStatusResponse>>>>,
    pub(super) watched: Mutex<Vec<v1::WatchStatusRequest>>,
    pub(super) submit_watches: Mutex<VecDeque<Vec<Step<v1::SubmitAndWatchResponse>>>>,
    pub(super) submit_watched: Mutex<Vec<v1::SubmitAndWatchRequest>>,
    connection: Mutex<CancellationToken>,
    /// They end with the test's runtime.
    tasks: TaskTracker,
}

impl Fake {
    /// Serves connections made by the returned connector, until that is dropped.
    pub(super) fn connector(self: &Arc<Self>) -> Connector {
        let (accept, accepted) = mpsc::channel::<io::Result<DuplexStream>>(8);
        let jobs = server::JobQueueServer::new(self.clone());
        let queues = queue_server::QueueServiceServer::new(self.clone());
        let incoming = ReceiverStream::new(accepted);
        let services = tonic::transport::Server::builder().add_service(jobs).add_service(queues);
        self.tasks.spawn(services.serve_with_incoming(incoming));
        Connector { fake: self.clone(), accept }
    }

    fn cut(&self) {
        self.connection.lock().cancel();
    }

    async fn act<T>(&self, act: Option<Act<T>>) -> Result<Response<T>, Status> {
        match act.expect("an unexpected call") {
            Act::Answer(answer) => Ok(Response::new(answer)),
            Act::Late(after, answer) => {
                tokio::time::sleep(after).await;
                Ok(Response::new(answer))
            }
            Act::Refuse(status) => Err(status),
            Act::Cut => {
                self.cut();
                std::future::pending().await
            }
            Act::Hang => std::future::pending().await,
        }
    }

    async fn change<T>(&self, name: &'static str, id: String, answer: T) -> Result<Response<T>, Status> {
        let is_first = {
            let mut changes = self.changes.lock();
            let seen = changes.iter().any(|(before, _)| *before == name);
            changes.push((name, id));
            !seen
        };
        self.act(Some(if is_first { Act::Cut } else { Act::Answer(answer) })).await
    }

    fn play<T: Send + 'static>(self: &Arc<Self>, steps: Option<Vec<Step<T>>>) -> Response<Answers<T>> {
        let fake = self.clone();
        let steps = stream::iter(steps.expect("an unexpected stream")).then(move |step| {
            let fake = fake.clone();
            async move {
                match step {
                    Step::Send(message) => Ok(message),
                    Step::End(status) => Err(status),
                    Step::Cut => {
                        // Let what was sent before arrive.
                        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                        fake.cut();
                        std::future::pending().await
                    }
                    Step::Hang => std::future::pending().await,
                }
            }
        });
        Response::new(Box::pin(steps))
    }
}

/// Makes a connection through a pump that can be stopped.
pub(super) struct Connector {
    fake: Arc<Fake>,
    accept: mpsc::Sender<io::Result<DuplexStream>>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<DuplexStream>;
    type Error = io::Error;
    type Future = Ready<Result<Self::Response, io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        const BUFFER_BYTES: usize = 64 << 10;
        let (client, mut near) = duplex(BUFFER_BYTES);
        let (mut far, server) = duplex(BUFFER_BYTES);
        if self.accept.try_send(Ok(server)).is_err() {
            return ready(Err(io::ErrorKind::ConnectionRefused.into()));
        }
        let cut = CancellationToken::new();
        *self.fake.connection.lock() = cut.clone();
        self.fake
            .tasks
            .spawn(async move { cut.run_until_cancelled(copy_bidirectional(&mut near, &mut far)).await });
        ready(Ok(TokioIo::new(client)))
    }
}

#[async_trait]
impl server::JobQueue for Arc<Fake> {
    async fn submit(
        &self,
        request: Request<v1::SubmitRequest>,
    ) -> Result<Response<v1::SubmitResponse>, Status> {
        let required = request.metadata().get_all("jobmill-require");
        self.required.lock().extend(required.iter().map(|value| value.to_str().unwrap().to_owned()));
        self.submitted.lock().push(request.into_inner());
        let act = self.submits.lock().pop_front();
        self.act(act).await
    }

    async fn submit_batch(
        &self,
        request: Request<v1::SubmitBatchRequest>,
    ) -> Result<Response<v1::SubmitBatchResponse>, Status> {
        self.change("SubmitBatch", request.into_inner().request_id, Default::default()).await
    }

    type SubmitStreamStream = Answers<v1::SubmitStreamResponse>;

    async fn submit_stream(
        &self,
        _: Request<tonic::Streaming<v1::SubmitStreamRequest>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        Err(Status::unimplemented("tests/submit_stream.rs tries it with a real server"))
    }

    type SubmitAndWatchStream = Answers<v1::SubmitAndWatchResponse>;

    async fn submit_and_watch(
        &self,
        request: Request<v1::SubmitAndWatchRequest>,
    ) -> Result<Response<Self::SubmitAndWatchStream>, Status> {
        self.submit_watched.lock().push(request.into_inner());
        let steps = self.submit_watches.lock().pop_front();
        Ok(self.play(steps))
    }

    type WatchStatusStream = Answers<v1::WatchStatusResponse>;

    async fn watch_status(
        &self,
        request: Request<v1::WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        self.watched.lock().push(request.into_inner());
        let steps = self.watches.lock().pop_front();
        Ok(self.play(steps))
    }

    async fn get_job(
        &self,
        request: Request<v1::GetJobRequest>,
    ) -> Result<Response<v1::GetJobResponse>, Status> {
        self.got.lock().push(request.into_inner());
        let act = self.gets.lock().pop_front().unwrap_or(Act::Answer(v1::GetJobResponse::default()));
        self.act(Some(act)).await
    }

    async fn list_jobs(
        &self,
        _: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        std::future::pending().await
    }

    async fn count_jobs(
        &self,
        _: Request<v1::CountJobsRequest>,
    ) -> Result<Response<v1::CountJobsResponse>, Status> {
        self.act(Some(Act::Cut)).await
    }

    async fn cancel_job(
        &self,
        request: Request<v1::CancelJobRequest>,
    ) -> Result<Response<v1::CancelJobResponse>, Status> {
        let answer = v1::CancelJobResponse { change: Some(v1::JobChange::default()), job: None };
        self.change("CancelJob", request.into_inner().request_id, answer).await
    }

    async fn retry_job(
        &self,
        request: Request<v1::RetryJobRequest>,
    ) -> Result<Response<v1::RetryJobResponse>, Status> {
        let answer = v1::RetryJobResponse { change: Some(v1::JobChange::default()), job: None };
        self.change("RetryJob", request.into_inner().request_id, answer).await
    }

    async fn delete_job(
        &self,
        request: Request<v1::DeleteJobRequest>,
    ) -> Result<Response<v1::DeleteJobResponse>, Status> {
        self.change("DeleteJob", request.into_inner().request_id, Default::default()).await
    }
}

#[async_trait]
impl queue_server::QueueService for Arc<Fake> {
    async fn create_queue(
        &self,
        request: Request<v1::CreateQueueRequest>,
    ) -> Result<Response<v1::CreateQueueResponse>, Status> {
        self.change("CreateQueue", request.into_inner().request_id, Default::default()).await
    }

    async fn get_queue(
        &self,
        _: Request<v1::GetQueueRequest>,
    ) -> Result<Response<v1::GetQueueResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn list_queues(
        &self,
        _: Request<v1::ListQueuesRequest>,
    ) -> Result<Response<v1::ListQueuesResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }

    async fn update_queue(
        &self,
        request: Request<v1::UpdateQueueRequest>,
    ) -> Result<Response<v1::UpdateQueueResponse>, Status> {
        self.change("UpdateQueue", request.into_inner().request_id, Default::default()).await
    }

    async fn delete_queue(
        &self,
        request: Request<v1::DeleteQueueRequest>,
    ) -> Result<Response<v1::DeleteQueueResponse>, Status> {
        self.change("DeleteQueue", request.into_inner().request_id, Default::default()).await
    }

    async fn pause_queue(
        &self,
        request: Request<v1::PauseQueueRequest>,
    ) -> Result<Response<v1::PauseQueueResponse>, Status> {
        self.change("PauseQueue", request.into_inner().request_id, Default::default()).await
    }

    async fn resume_queue(
        &self,
        request: Request<v1::ResumeQueueRequest>,
    ) -> Result<Response<v1::ResumeQueueResponse>, Status> {
        self.change("ResumeQueue", request.into_inner().request_id, Default::default()).await
    }

    async fn purge_queue(
        &self,
        request: Request<v1::PurgeQueueRequest>,
    ) -> Result<Response<v1::PurgeQueueResponse>, Status> {
        self.change("PurgeQueue", request.into_inner().request_id, Default::default()).await
    }
}
