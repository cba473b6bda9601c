//! A fake server that is scripted by its test.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Ready, ready},
    io,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prost::{Message, encoding};
use tokio::{
    io::{DuplexStream, copy_bidirectional, duplex},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{
        Service,
        http::{self, Uri},
    },
    server::{Grpc, NamedService},
};
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::proto::{
    self,
    v1::{self, job_queue_server::JobQueueServer, queue_service_server::QueueServiceServer},
};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The scripted answer to a call.
pub(super) enum Act<T> {
    Answer(T),
    /// An answer after a delay.
    Late(Duration, T),
    Refuse(Status),
    /// The connection breaks before the answer.
    Cut,
    /// No answer at all.
    Hang,
}

/// A scripted step of a stream.
pub(super) enum Step<T> {
    Send(T),
    End(Status),
    Cut,
    Hang,
}

/// The record of calls, and the script of those to come. A unary call without a scripted answer fails its test.
#[derive(Default)]
pub(super) struct Fake {
    pub(super) submits: Mutex<VecDeque<Act<v1::SubmitResponse>>>,
    pub(super) submitted: Mutex<Vec<v1::SubmitRequest>>,
    /// The `jobmill-require` header of each call in `submitted`.
    pub(super) required: Mutex<Vec<String>>,
    pub(super) gets: Mutex<VecDeque<Act<v1::GetJobResponse>>>,
    pub(super) got: Mutex<Vec<v1::GetJobRequest>>,
    /// All other calls that change something, by their names, with their request ids. The first answer to each is lost.
    pub(super) changes: Mutex<Vec<(String, String)>>,
    pub(super) watches: Mutex<VecDeque<Vec<Step<v1::WatchStatusResponse>>>>,
    pub(super) watched: Mutex<Vec<v1::WatchStatusRequest>>,
    pub(super) submit_watches: Mutex<VecDeque<Vec<Step<v1::SubmitAndWatchResponse>>>>,
    pub(super) submit_watched: Mutex<Vec<v1::SubmitAndWatchRequest>>,
    connection: Mutex<CancellationToken>,
    /// Tasks that end with the test's runtime.
    tasks: TaskTracker,
}

impl Fake {
    /// Serves connections made by the returned connector, until that is dropped.
    pub(super) fn connector(self: &Arc<Self>) -> Connector {
        let (accept, accepted) = mpsc::channel::<io::Result<DuplexStream>>(8);
        let jobs = Named(self.clone(), PhantomData::<fn() -> JobQueueServer<()>>);
        let queues = Named(self.clone(), PhantomData::<fn() -> QueueServiceServer<()>>);
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

    fn play<T: Send + 'static>(self: &Arc<Self>, steps: Option<Vec<Step<T>>>) -> Response<Answers<T>> {
        let fake = self.clone();
        let steps = stream::iter(steps.expect("an unexpected stream")).then(move |step| {
            let fake = fake.clone();
            async move {
                match step {
                    Step::Send(message) => Ok(message),
                    Step::End(status) => Err(status),
                    Step::Cut => {
                        // Lets what was sent before arrive.
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

/// Connector whose connections go through a pump that the test can stop.
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

/// The fake under the name of one of the services.
struct Named<N>(Arc<Fake>, PhantomData<fn() -> N>);

impl<N> Clone for Named<N> {
    fn clone(&self) -> Self {
        Named(self.0.clone(), PhantomData)
    }
}

impl<N: NamedService> NamedService for Named<N> {
    const NAME: &'static str = N::NAME;
}

impl<N> Service<http::Request<Body>> for Named<N> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let fake = self.0.clone();
        Box::pin(async move { Ok(fake.call(request).await) })
    }
}

impl Fake {
    async fn call(self: Arc<Self>, request: http::Request<Body>) -> http::Response<Body> {
        let path = request.uri().path().to_owned();
        match path.rsplit('/').next().unwrap_or_default() {
            "Submit" => {
                unary(request, |request: Request<v1::SubmitRequest>| async move {
                    let required = request.metadata().get_all("jobmill-require");
                    self.required
                        .lock()
                        .extend(required.iter().map(|value| value.to_str().unwrap().to_owned()));
                    self.submitted.lock().push(request.into_inner());
                    let act = self.submits.lock().pop_front();
                    self.act(act).await
                })
                .await
            }
            "GetJob" => {
                unary(request, |request: Request<v1::GetJobRequest>| async move {
                    self.got.lock().push(request.into_inner());
                    let act = self.gets.lock().pop_front();
                    self.act(Some(act.unwrap_or(Act::Answer(v1::GetJobResponse::default())))).await
                })
                .await
            }
            "SubmitAndWatch" => {
                streaming(request, move |request| {
                    self.submit_watched.lock().push(request);
                    let steps = self.submit_watches.lock().pop_front();
                    self.play(steps)
                })
                .await
            }
            "WatchStatus" => {
                streaming(request, move |request| {
                    self.watched.lock().push(request);
                    let steps = self.watches.lock().pop_front();
                    self.play(steps)
                })
                .await
            }
            "ListJobs" => std::future::pending().await,
            "CountJobs" => {
                self.cut();
                std::future::pending().await
            }
            name => self.change(name, request).await,
        }
    }

    /// Takes a call that changes something. The first answer to each is lost, the next ones are empty.
    async fn change(&self, name: &str, request: http::Request<Body>) -> http::Response<Body> {
        let request = request.into_body().collect().await.unwrap().to_bytes();
        let id = request_id(name, &request[FRAME_HEADER_BYTES..]);
        let is_first = {
            let mut changes = self.changes.lock();
            let seen = changes.iter().any(|(before, _)| before == name);
            changes.push((name.to_owned(), id));
            !seen
        };
        if is_first {
            self.cut();
            return std::future::pending().await;
        }
        let trailers = http::HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static("0"),
        )]);
        let empty = Full::new(Bytes::from_static(&[0; FRAME_HEADER_BYTES]));
        let mut response = http::Response::new(Body::new(empty.with_trailers(ready(Some(Ok(trailers))))));
        let grpc = http::HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(http::header::CONTENT_TYPE, grpc);
        response
    }
}

/// Length of what stands before a message on the wire.
const FRAME_HEADER_BYTES: usize = 5;

/// The request id in the encoded request of a call.
fn request_id(call: &str, mut request: &[u8]) -> String {
    let set = prost_types::FileDescriptorSet::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
    let name = format!("{call}Request");
    let message = set.file.iter().flat_map(|file| &file.message_type).find(|message| message.name() == name);
    let field = message.unwrap().field.iter().find(|field| field.name() == "request_id").unwrap();
    let mut id = String::new();
    while !request.is_empty() {
        let (tag, wire_type) = encoding::decode_key(&mut request).unwrap();
        if tag == field.number() as u32 {
            encoding::string::merge(wire_type, &mut id, &mut request, Default::default()).unwrap();
        } else {
            encoding::skip_field(wire_type, tag, &mut request, Default::default()).unwrap();
        }
    }
    id
}

async fn unary<Q, A, F>(
    request: http::Request<Body>,
    answer: impl FnOnce(Request<Q>) -> F,
) -> http::Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    F: Future<Output = Result<Response<A>, Status>>,
{
    let mut answer = Some(answer);
    let service = service_fn(|request| answer.take().expect("one call")(request));
    Grpc::new(ProstCodec::<A, Q>::default()).unary(service, request).await
}

async fn streaming<Q, A>(
    request: http::Request<Body>,
    answer: impl FnOnce(Q) -> Response<Answers<A>>,
) -> http::Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
{
    let mut answer = Some(answer);
    let service =
        service_fn(|request: Request<Q>| ready(Ok(answer.take().expect("one call")(request.into_inner()))));
    Grpc::new(ProstCodec::<A, Q>::default()).server_streaming(service, request).await
}
