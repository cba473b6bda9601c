//! A `JobQueue` that does as its test says.

use std::{
    collections::VecDeque,
    future::{Ready, ready},
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
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

use crate::proto::v1::{self, job_queue_server as server};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What to do with the next call.
pub(super) enum Act<T> {
    Answer(T),
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
    pub(super) retried: Mutex<Vec<v1::RetryJobRequest>>,
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
        let service = server::JobQueueServer::new(self.clone());
        let incoming = ReceiverStream::new(accepted);
        self.tasks
            .spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        Connector { fake: self.clone(), accept }
    }

    fn cut(&self) {
        self.connection.lock().cancel();
    }

    async fn act<T>(&self, act: Option<Act<T>>) -> Result<Response<T>, Status> {
        match act.expect("an unexpected call") {
            Act::Answer(answer) => Ok(Response::new(answer)),
            Act::Refuse(status) => Err(status),
            Act::Cut => {
                self.cut();
                std::future::pending().await
            }
            Act::Hang => std::future::pending().await,
        }
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
        self.submitted.lock().push(request.into_inner());
        let act = self.submits.lock().pop_front();
        self.act(act).await
    }

    async fn submit_batch(
        &self,
        _: Request<v1::SubmitBatchRequest>,
    ) -> Result<Response<v1::SubmitBatchResponse>, Status> {
        Err(Status::unimplemented("fake"))
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

    async fn get_job(&self, _: Request<v1::GetJobRequest>) -> Result<Response<v1::GetJobResponse>, Status> {
        Ok(Response::new(v1::GetJobResponse::default()))
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
        Err(Status::unimplemented("fake"))
    }

    async fn cancel_job(
        &self,
        _: Request<v1::CancelJobRequest>,
    ) -> Result<Response<v1::CancelJobResponse>, Status> {
        self.cut();
        std::future::pending().await
    }

    async fn retry_job(
        &self,
        request: Request<v1::RetryJobRequest>,
    ) -> Result<Response<v1::RetryJobResponse>, Status> {
        let calls = {
            let mut retried = self.retried.lock();
            retried.push(request.into_inner());
            retried.len()
        };
        if calls == 1 {
            self.cut();
            std::future::pending::<()>().await;
        }
        Ok(Response::new(v1::RetryJobResponse { job: Some(v1::Job::default()) }))
    }

    async fn delete_job(
        &self,
        _: Request<v1::DeleteJobRequest>,
    ) -> Result<Response<v1::DeleteJobResponse>, Status> {
        Err(Status::unimplemented("fake"))
    }
}
