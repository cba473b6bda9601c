//! Counts calls: by method and code, and how long unary ones take.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use prost::Message;
use tonic::{Code, body::Body, codegen::Service};

use crate::{
    clock::Stopwatch,
    metrics::{MethodMetrics, Methods, Metrics},
    proto,
};

/// The header, or trailer, with a call's code.
const STATUS: &str = "grpc-status";

/// Counts the calls of the service that it is put around.
#[derive(Clone)]
pub(super) struct CountCalls {
    metrics: Arc<Metrics>,
    methods: Arc<Methods>,
}

impl CountCalls {
    /// For the methods that the server has.
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        let sets = [proto::FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET];
        let methods = Arc::new(metrics.calls.methods(sets.into_iter().flat_map(methods)));
        CountCalls { metrics, methods }
    }

    fn call(&self, path: &str) -> Call {
        let method = self.methods.get(path).unwrap_or_else(|| self.metrics.calls.other());
        method.begins();
        Call { method: Arc::clone(method), stopwatch: Stopwatch::start(), code: None }
    }
}

/// The methods of a set of descriptors, and whether they stream.
pub(super) fn methods(descriptors: &[u8]) -> Vec<(String, bool)> {
    let set = prost_types::FileDescriptorSet::decode(descriptors).unwrap_or_default();
    let mut names = Vec::new();
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let name = format!("{}.{}/{}", file.package(), service.name(), method.name());
                names.push((name, method.client_streaming() || method.server_streaming()));
            }
        }
    }
    names
}

/// A call under way. It is counted when this is dropped.
struct Call {
    method: Arc<MethodMetrics>,
    stopwatch: Stopwatch,
    /// Absent until the server has said how it ends: the client may go before.
    code: Option<Code>,
}

impl Call {
    fn read(&mut self, headers: &HeaderMap) {
        if let Some(status) = headers.get(STATUS) {
            self.code = Some(Code::from_bytes(status.as_bytes()));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let code = self.code.unwrap_or(Code::Cancelled);
        self.method.ended(code as usize, self.stopwatch.elapsed().as_secs_f64());
    }
}

impl<S> tower_layer::Layer<S> for CountCalls {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { calls: self.clone(), inner }
    }
}

/// A service whose calls are counted.
#[derive(Clone)]
pub(super) struct Counted<S> {
    calls: CountCalls,
    inner: S,
}

impl<S> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Future: Send + 'static>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut call = self.calls.call(request.uri().path());
        let response = self.inner.call(request);
        Box::pin(async move {
            let response = response.await?;
            // A call that fails at once says so in its headers, all others in their trailers.
            call.read(response.headers());
            if call.code.is_some() {
                return Ok(response);
            }
            Ok(response.map(|body| Body::new(CountedBody { body, call: Some(call) })))
        })
    }
}

/// An answer on its way.
struct CountedBody {
    body: Body,
    /// Absent once the server has said how it ends.
    call: Option<Call>,
}

impl HttpBody for CountedBody {
    type Data = <Body as HttpBody>::Data;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            // Counted before the client knows, so that whoever sees a call's end finds it counted.
            if let Some(mut call) = this.call.take() {
                call.read(trailers);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
