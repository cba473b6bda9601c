//! HTTP endpoint of metrics and health, for Prometheus and process supervisors.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::timeout,
};

use super::{callback, response::text};
use crate::{execute::Callbacks, listen::Hosts};

/// What the endpoint shows.
pub(crate) trait Content: Clone + Send + Sync + 'static {
    /// Returns the metrics as text. `None`, with the reason in the log, if they can't be read.
    fn metrics(&self) -> impl Future<Output = Option<String>> + Send;

    /// Returns whether the process is ready, with details for people.
    fn ready(&self) -> Result<String, String>;
}

/// Limit of open connections. Above it the oldest is closed, so that a flood does not lock other clients out.
const CONNECTIONS_MAX: usize = 64;
/// Time limit of a connection, which serves one request.
const CONNECTION_MAX: Duration = Duration::from_secs(10);
/// Byte limit of a request's head.
const HEAD_MAX_BYTES: usize = 8 << 10;
/// Pause after a failure to accept a connection, most likely for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const METRICS_TYPE: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Serves until the future is dropped, which closes its connections.
///
/// Running attempts are called back here, too: by `callbacks`, if their kinds' settings say so.
pub(crate) async fn serve(
    page: impl Content,
    hosts: Hosts,
    callbacks: Callbacks,
    listener: TcpListener,
) -> Infallible {
    let mut connections = JoinSet::new();
    let mut oldest = VecDeque::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    oldest.retain(|open: &AbortHandle| !open.is_finished());
                    if oldest.len() >= CONNECTIONS_MAX
                        && let Some(oldest) = oldest.pop_front()
                    {
                        oldest.abort();
                    }
                    let serving = connection(page.clone(), hosts.clone(), callbacks.clone(), stream);
                    oldest.push_back(connections.spawn(timeout(CONNECTION_MAX, serving)));
                }
                Err(error) => {
                    tracing::warn!(%error, "the metrics endpoint can't accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn connection(page: impl Content, hosts: Hosts, callbacks: Callbacks, stream: TcpStream) {
    let service = service_fn(|request| answer(&page, &hosts, &callbacks, request));
    let served = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_MAX_BYTES)
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection of the metrics endpoint ended early");
    }
}

async fn answer(
    page: &impl Content,
    hosts: &Hosts,
    callbacks: &Callbacks,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if hosts.check(request.uri(), request.headers()).is_err() {
        let refused =
            "this host name is refused: use `localhost` or a loopback address, or add it to `hosts`\n";
        return Ok(text(StatusCode::MISDIRECTED_REQUEST, refused));
    }
    if request.uri().path() == callback::PATH {
        return Ok(callback::answer(callbacks, request).await);
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are allowed\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(refused);
    }
    Ok(match request.uri().path() {
        "/metrics" => match page.metrics().await {
            Some(metrics) => {
                let mut response = text(StatusCode::OK, metrics);
                response.headers_mut().insert(CONTENT_TYPE, METRICS_TYPE);
                response
            }
            None => {
                text(StatusCode::INTERNAL_SERVER_ERROR, "the store can't be read: the log has the reason\n")
            }
        },
        "/livez" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match page.ready() {
            Ok(details) => text(StatusCode::OK, format!("ok\n{details}")),
            Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, reason),
        },
        _ => text(
            StatusCode::NOT_FOUND,
            "not found: the paths are /metrics, /livez, /readyz and /checkpoint\n",
        ),
    })
}
