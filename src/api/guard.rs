//! Middleware that admits or refuses every call, by host name, browser origin and token.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tonic::{
    Status,
    body::Body,
    codegen::http::{HeaderMap, HeaderValue, Request, Response, header},
};
use tower::{Layer, Service};

use super::{
    caller::Caller,
    calls::{Calls, Counted},
    errors, limits,
    needs::Needs,
    outgoing, rpcs,
    unfinished::Unfinished,
};
use crate::{
    access::{Access, Denied, Subject},
    audit::{self, Audit, Receipt},
    counters::grpc_code,
    listen::{Hosts, Peer},
};

/// The metadata key that names the features a call requires.
const REQUIRE: &str = "jobmill-require";

/// The rules by which calls are admitted.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    pub(crate) access: Arc<Access>,
    pub(crate) audit: Arc<Audit>,
    /// Host names by which the server may be called.
    pub(crate) hosts: Hosts,
    /// Origins of web pages that may call.
    pub(crate) origins: Arc<[String]>,
}

/// State of the middleware: admission rules, call counters, and the limit on incomplete messages.
struct GuardState {
    gate: Gate,
    calls: Calls,
    unfinished: Unfinished,
}

/// The layer that puts the guard before services.
#[derive(Clone)]
pub(super) struct GuardLayer(Arc<GuardState>);

impl GuardLayer {
    pub(super) fn new(gate: Gate, calls: Calls) -> Self {
        GuardLayer(Arc::new(GuardState { gate, calls, unfinished: Unfinished::default() }))
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { state: Arc::clone(&self.0), inner }
    }
}

/// A service behind the guard.
#[derive(Clone)]
pub(super) struct Guard<S> {
    state: Arc<GuardState>,
    inner: S,
}

impl<S> Service<Request<Body>> for Guard<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Counted<AuditedResponse<S::Future>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let GuardState { gate, calls, unfinished } = &*self.state;
        let call = calls.begin(request.uri().path(), request.extensions().get::<Peer>());
        call.until(match gate.admit(&request) {
            Ok(caller) => {
                let caller = Arc::new(caller);
                request.extensions_mut().insert(Arc::clone(&caller));
                let call = self.inner.call(request.map(|body| unfinished.count(body)));
                AuditedResponse { call: Some(call), caller: Some(caller), answer: None, wait: None }
            }
            Err((status, receipt)) => {
                let wait = receipt.is_open().then(|| written(Arc::clone(&gate.audit), receipt));
                AuditedResponse { call: None, caller: None, answer: Some(status.into_http()), wait }
            }
        })
    }
}

pin_project! {
    /// A response that is sent only once the audit has recorded its call, or has taken too long.
    pub(super) struct AuditedResponse<F> {
        // Absent once it has responded, or if the call was refused.
        #[pin]
        call: Option<F>,
        caller: Option<Arc<Caller>>,
        answer: Option<Response<Body>>,
        wait: Option<Written>,
    }
}

type Written = Pin<Box<dyn Future<Output = ()> + Send>>;

fn written(audit: Arc<Audit>, receipt: Receipt) -> Written {
    Box::pin(async move { audit.written(receipt).await })
}

impl<F, E> Future for AuditedResponse<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(call) = this.call.as_mut().as_pin_mut() {
            *this.answer = Some(outgoing::own(ready!(call.poll(context))?));
            this.call.set(None);
            let caller = this.caller.take();
            *this.wait = caller.and_then(|caller| {
                let receipt = caller.take_unwritten()?;
                Some(written(Arc::clone(&caller.audit), receipt))
            });
        }
        if let Some(wait) = this.wait {
            ready!(wait.as_mut().poll(context));
        }
        match this.answer.take() {
            Some(answer) => Poll::Ready(Ok(answer)),
            // The future was polled after its end.
            None => Poll::Pending,
        }
    }
}

impl Gate {
    /// Admits a call, or returns the error and the receipt of its audit line.
    fn admit<B>(&self, request: &Request<B>) -> Result<Caller, (Status, Receipt)> {
        let unheard = |status| (status, Receipt::default());
        // If gRPC-Web is enabled, its requests have been translated before they arrive here.
        let kind = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
        if kind.is_some_and(|kind| kind.starts_with(b"application/grpc-web")) {
            return Err(unheard(errors::web_is_off()));
        }
        let found = rpcs::find(request.uri().path()).ok_or_else(errors::no_such_rpc);
        let (rpc, needs) = found.map_err(unheard)?;
        check_required(request.headers()).map_err(unheard)?;
        let peer = request.extensions().get::<Peer>().cloned();
        let certificate = peer.as_ref().and_then(|peer| peer.certificate.clone());
        let refused = |status: Status, subject: Option<&str>| {
            let receipt = self.audit.record_denied_admission(audit::Call {
                subject,
                certificate: certificate.as_deref(),
                peer: peer.as_ref().map(|peer| peer.address),
                rpc,
                code: grpc_code(status.code() as usize),
                reason: errors::reason(&status).as_deref(),
                ..audit::Call::default()
            });
            (status, receipt)
        };
        self.hosts
            .check(request.uri(), request.headers())
            .map_err(|host| refused(errors::host_not_allowed(&host), None))?;
        self.check_origin(request.headers()).map_err(|status| refused(status, None))?;
        let subject = match needs {
            Needs::Nothing => Ok(Subject::anyone(certificate.clone())),
            Needs::AnyToken | Needs::Role(_) => {
                bearer(request.headers()).and_then(|token| self.access.admit(token, certificate.clone()))
            }
        };
        let subject =
            subject.map_err(|denied| refused(errors::unauthenticated(denied), certificate.as_deref()))?;
        if let Needs::Role(role) = needs
            && !subject.may_anywhere(role)
        {
            let status = errors::role_missing(subject.name().unwrap_or_default(), role);
            return Err(refused(status, subject.name()));
        }
        if let Some(peer) = &peer
            && needs != Needs::Nothing
        {
            peer.mark_admitted();
        }
        let (access, audit) = (Arc::clone(&self.access), Arc::clone(&self.audit));
        Ok(Caller { access, audit, subject, peer, rpc, needs, unwritten: Default::default() })
    }

    /// Checks the `Origin` header, which only browsers send.
    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Status> {
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
        if self.origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()) {
            return Ok(());
        }
        Err(errors::origin_not_allowed(&String::from_utf8_lossy(origin.as_bytes())))
    }
}

/// Checks that this server has all features that a call requires. This comes before all other checks, as the request
/// may have another meaning here than for its caller.
fn check_required(headers: &HeaderMap) -> Result<(), Status> {
    for value in headers.get_all(REQUIRE) {
        let unknown = match value.to_str() {
            Ok(required) => limits::unknown_feature(required),
            Err(_) => Some("?"),
        };
        if let Some(name) = unknown {
            return Err(errors::feature_unknown(name));
        }
    }
    Ok(())
}

/// Returns the call's bearer token, if it has one.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Denied> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        // A proxy before the server may have checked another one of them.
        return Err(Denied::Several);
    }
    let token = value.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    token.filter(|token| !token.is_empty()).map(Some).ok_or(Denied::Unknown)
}
