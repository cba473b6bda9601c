//! Endpoints over HTTP as handlers.
//!
//! # What an endpoint sees
//! Each attempt is one `POST` with the job's payload as its body and the payload's type as its `Content-Type`
//! (`application/octet-stream` where the job has none). Beside the operator's own headers it has:
//!
//! | header | what |
//! |---|---|
//! | `Jobmill-Job-Id`, `Jobmill-Queue`, `Jobmill-Kind` | which job |
//! | `Jobmill-Attempt`, `Jobmill-Max-Attempts` | which attempt, from 1, of how many |
//! | `Jobmill-Lease` | the attempt's token, a number that grows with every attempt in the store |
//! | `Jobmill-Deadline` | when the attempt's timeout is over, by the server's clock, in RFC 3339 |
//! | `Jobmill-Request-Id` | the id that the client gave the submission, percent-encoded, if it gave one |
//! | `Jobmill-Labels`, `Jobmill-Payload-Metadata` | JSON objects in ASCII, if there are any; long ones in several lines |
//! | `Jobmill-Header-…` | one for each of the job's headers |
//! | `Idempotency-Key` | the job's id: the same for all attempts of a job |
//! | `traceparent`, `tracestate` | the W3C trace context of the attempt, where there is a trace |
//! | `webhook-id`, `webhook-timestamp`, `webhook-signature` | the signature by the Standard Webhooks, if there are secrets |
//!
//! # What its answer means
//! 2xx is success, and the body is the job's result. 408, 425, 429 and 5xx are failures that another attempt could
//! mend, after the time that `Retry-After` says and the retry policy's jitter, where the policy's own delay could be
//! shorter, and at most its longest. All else, redirects among it, is a failure for good. So is an address that the
//! operator has not allowed. An endpoint that can't be reached, or breaks off, is tried again.
//!
//! A request that was certainly not processed is sent again within the attempt (`pool.rs`), and an attempt whose
//! request never had a connection goes back uncounted.
//!
//! # Why the address is checked where it is
//! A name can lead anywhere, and to another place at each look-up; an address can be written in ways that no check of
//! text foresees. So `connection.rs` looks the name up itself, judges each address that comes of it, and connects to
//! exactly those that have passed. Redirects are not followed and proxies not used: they would connect elsewhere.

mod connection;
mod exchange;
mod http1;
mod http2;
mod pool;
mod request;
mod response;
mod said;
mod socket;

use std::{error::Error, fmt::Write, sync::Arc, time::Duration};

use crate::{
    clock::Clock,
    execute::{Attempt, Handler, HandlerError, HandlerFuture},
    job::{FailureReason, Output},
    settings::HttpSettings,
};
use connection::{ConnectError, Connector, TlsError};
use pool::{Place, Pool, PoolLimits, SendError};
use request::Requests;

/// How long a job waits that had no connection within its time: others of its queue may run meanwhile.
const NO_PLACE_DELAY: Duration = Duration::from_secs(1);

/// Calls an endpoint for each attempt.
#[derive(Clone)]
pub struct HttpHandler {
    endpoint: Arc<Endpoint>,
}

/// Why an endpoint can't be called at all.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct HttpHandlerError(#[from] TlsError);

struct Endpoint {
    requests: Requests,
    pool: Pool,
    clock: Clock,
}

impl HttpHandler {
    /// Prepares calls to an endpoint. Nothing is connected before the first attempt.
    ///
    /// # Errors
    /// When TLS can't be set up for its host.
    pub fn new(settings: HttpSettings, clock: Clock) -> Result<Self, HttpHandlerError> {
        let HttpSettings {
            url,
            headers,
            signing_secrets,
            targets,
            authorities,
            connect_timeout,
            max_connections,
            connection_wait,
            idle_timeout,
        } = settings;
        let requests = Requests::new(&url, headers, signing_secrets, clock.clone());
        let connector = Connector::new(url, targets, authorities.as_ref(), connect_timeout, clock.clone())?;
        let limits = PoolLimits { connections: max_connections, wait: connection_wait, idle: idle_timeout };
        let pool = Pool::new(connector, limits);
        Ok(HttpHandler { endpoint: Arc::new(Endpoint { requests, pool, clock }) })
    }

    /// Connects to the endpoint, TLS included, without asking anything of it.
    ///
    /// # Errors
    /// That of an attempt that could not connect.
    pub async fn reach(&self) -> Result<(), HandlerError> {
        self.endpoint.pool.reach().await.map_err(transport_failure)
    }
}

impl Handler for HttpHandler {
    fn run(&self, attempt: Attempt) -> HandlerFuture {
        let endpoint = Arc::clone(&self.endpoint);
        Box::pin(async move {
            let Some(place) = attempt.start_after(endpoint.pool.place()).await else {
                return Err(HandlerError::not_started("it was stopped before it had a connection", None));
            };
            let place = place.map_err(|none| HandlerError::not_started(none, Some(NO_PLACE_DELAY)))?;
            tokio::select! {
                biased;
                result = endpoint.call(&attempt, place) => result,
                // To drop the call is to close its connection, or to reset its stream.
                () = attempt.cancelled() => Err(HandlerError::retryable("the request was dropped before its end")),
            }
        })
    }

    fn stop_grace(&self) -> Duration {
        Duration::from_secs(1)
    }
}

impl Endpoint {
    async fn call(&self, attempt: &Attempt, mut place: Place) -> Result<Output, HandlerError> {
        let request = self.requests.of_attempt(attempt)?;
        let answer = self.pool.send(&mut place, &request).await.map_err(transport_failure)?;
        let (result, is_read) = response::judge(answer, attempt, &self.clock).await;
        if is_read {
            self.pool.give_back(place).await;
        }
        result
    }
}

/// A failure of the way to the endpoint. Only an address that is not allowed stays as it is.
fn transport_failure(error: SendError) -> HandlerError {
    let (reason, retryable) = match &error {
        SendError::Connect(ConnectError::Refused { .. }) => (FailureReason::StartFailed, false),
        SendError::Connect(_) => (FailureReason::StartFailed, true),
        SendError::Exchange(_) | SendError::Unprocessed { .. } => (FailureReason::HandlerError, true),
    };
    HandlerError::new(reason, told(&error), retryable)
}

/// An error with what lies under it.
fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
