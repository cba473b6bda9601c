//! Metrics of RPCs: counts by method and code, and durations of unary calls.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderMap, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use prost::Message;
use tonic::{Code, body::Body};

use crate::{
    clock::Stopwatch,
    counters::{Counters, MethodCounters, Methods},
    listen::{OpenCall, Peer},
    proto,
};

/// The header or trailer that holds a call's status code.
const STATUS: &str = "grpc-status";

/// Call counters of a server.
#[derive(Debug)]
pub(super) struct Calls {
    counters: Arc<Counters>,
    methods: Methods,
}

impl Calls {
    /// Creates counters for the server's methods.
    pub(super) fn new(counters: Arc<Counters>) -> Self {
        let sets = [proto::FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET];
        let methods = counters.calls.methods(sets.into_iter().flat_map(methods));
        Calls { counters, methods }
    }

    /// Starts counting a call, on its connection too unless it is called in process.
    pub(super) fn begin(&self, path: &str, peer: Option<&Peer>) -> Call {
        let method = self.methods.get(path).unwrap_or_else(|| self.counters.calls.other());
        method.begins();
        let open = peer.map(Peer::begin_call);
        Call { method: Arc::clone(method), stopwatch: Stopwatch::start(), code: None, _open: open }
    }
}

/// Returns the methods of a descriptor set, and whether they stream.
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

/// A call in progress. It is counted when this is dropped.
pub(super) struct Call {
    method: Arc<MethodCounters>,
    stopwatch: Stopwatch,
    /// Absent until the server has sent a status: the client may disconnect before.
    code: Option<Code>,
    /// Counts the call on its connection.
    _open: Option<OpenCall>,
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

pin_project! {
    /// A call until its response begins.
    pub(super) struct Counted<F> {
        #[pin]
        answer: F,
        // Absent once the response has begun.
        call: Option<Call>,
    }
}

impl Call {
    /// Wraps a response future so that its outcome is counted.
    pub(super) fn until<F>(self, answer: F) -> Counted<F> {
        Counted { answer, call: Some(self) }
    }
}

impl<F, E> Future for Counted<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.answer.poll(context))?;
        let Some(mut call) = this.call.take() else { return Poll::Ready(Ok(answer)) };
        // A call that fails at once has its status in the headers, all others in the trailers.
        call.read(answer.headers());
        if call.code.is_some() {
            return Poll::Ready(Ok(answer));
        }
        Poll::Ready(Ok(answer.map(|body| Body::new(CountedBody { body, call: Some(call) }))))
    }
}

/// A response body whose trailers are counted.
struct CountedBody {
    body: Body,
    /// Absent once the server has sent a status.
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
            // Counted before the trailers are sent, so that a client that sees the end of a call finds it counted.
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
