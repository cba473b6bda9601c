//! Handlers that call an HTTP endpoint.
//!
//! # The request
//! Each attempt is one `POST` with the job's payload as its body and the payload's type as its `Content-Type`
//! (`application/octet-stream` if the job has none). Beside the operator's own headers it has:
//!
//! | header | value |
//! |---|---|
//! | `Jobmill-Job-Id`, `Jobmill-Queue`, `Jobmill-Kind` | the job |
//! | `Jobmill-Attempt`, `Jobmill-Max-Attempts` | the attempt's number, from 1, and the maximum |
//! | `Jobmill-Lease` | the lease token, a number that grows with every attempt in the store |
//! | `Jobmill-Deadline` | when the attempt's timeout expires, by the server's clock, in RFC 3339 |
//! | `Jobmill-Request-Id` | the submission's request id, percent-encoded, if the client set one |
//! | `Jobmill-Labels`, `Jobmill-Payload-Metadata` | JSON objects in ASCII, if there are any; long ones in several lines |
//! | `Jobmill-Header-…` | one for each of the job's headers |
//! | `Jobmill-Checkpoint-Url`, `Jobmill-Checkpoint-Secret` | where and with which secret checkpoints are kept, if the kind has a `callback_url` |
//! | `Jobmill-Earlier-Checkpoint` | the size in bytes of the state that earlier attempts have left, if there is one to read |
//! | `Idempotency-Key` | the job's id: the same for all attempts of a job |
//! | `traceparent`, `tracestate` | the W3C trace context of the attempt, if there is a trace |
//! | `webhook-id`, `webhook-timestamp`, `webhook-signature` | a Standard Webhooks signature, if there are secrets |
//!
//! # The response
//! 2xx is success, and the body is the job's result. 408, 425, 429 and 5xx are retryable failures. `Retry-After` sets
//! the delay, plus the retry policy's jitter, if the policy's own backoff could be shorter, and at most the policy's
//! maximum delay. All other statuses, including redirects, are permanent failures. So is an address that the operator
//! has not allowed. If the endpoint can't be reached, or the response breaks off, the attempt is retried.
//!
//! A request that was certainly not processed is sent again within the attempt (`pool.rs`). An attempt whose request
//! never had a connection does not count.
//!
//! # Why the address is checked after the look-up
//! A name can resolve to any address, and to another one at each look-up; an address can be written in ways that no
//! check of its text foresees. So `connection.rs` looks the name up itself, checks each resolved address, and connects
//! only to those that passed. Redirects are not followed and proxies are not used: they would connect elsewhere.

mod connection;
mod exchange;
mod http1;
mod http2;
mod metadata_headers;
mod pool;
mod request;
mod response;
mod socket;

use std::{error::Error, fmt::Write, sync::Arc, time::Duration};

use crate::{
    clock::Clock,
    execute::{Attempt, Callbacks, Handler, HandlerError, HandlerFuture},
    job::{FailureReason, Output},
    settings::{HttpSettings, HttpUrl},
};
use connection::{ConnectError, Connector, TlsError};
use pool::{Pool, PoolLimits, PoolPermit, SendError};
use request::Requests;
use response::Snoozes;

/// Delay of a job that got no connection in time: other jobs of its queue may run meanwhile.
const NO_CONNECTION_DELAY: Duration = Duration::from_secs(1);

/// A handler that calls an endpoint for each attempt.
#[derive(Clone)]
pub struct HttpHandler {
    endpoint: Arc<Endpoint>,
}

/// An endpoint can't be called at all.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct HttpHandlerError(#[from] TlsError);

struct Endpoint {
    requests: Requests,
    pool: Pool,
    snoozes: Snoozes,
    clock: Clock,
    /// The URL that endpoints call to keep a checkpoint; absent if they may not.
    callback_url: Option<String>,
    callbacks: Callbacks,
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
            snooze_statuses,
            snooze_delay,
            snooze_pauses,
            callback_url,
        } = settings;
        let requests = Requests::new(&url, headers, signing_secrets, clock.clone());
        let connector = Connector::new(url, targets, authorities.as_ref(), connect_timeout, clock.clone())?;
        let limits = PoolLimits { connections: max_connections, wait: connection_wait, idle: idle_timeout };
        let pool = Pool::new(connector, limits);
        let snoozes = Snoozes { statuses: snooze_statuses, delay: snooze_delay, pause: snooze_pauses };
        let callback_url = callback_url.map(|url| callback_url_of(&url));
        let callbacks = Callbacks::default();
        let endpoint = Endpoint { requests, pool, snoozes, clock, callback_url, callbacks };
        Ok(HttpHandler { endpoint: Arc::new(endpoint) })
    }

    /// Sets the register of the attempts that may be called back, which a listener shares.
    #[must_use]
    pub(crate) fn callbacks(mut self, callbacks: Callbacks) -> Self {
        if let Some(endpoint) = Arc::get_mut(&mut self.endpoint) {
            endpoint.callbacks = callbacks;
        }
        self
    }

    /// Connects to the endpoint, including TLS, without sending a request.
    ///
    /// # Errors
    /// The error of an attempt that could not connect.
    pub async fn reach(&self) -> Result<(), HandlerError> {
        self.endpoint.pool.reach().await.map_err(transport_failure)
    }
}

impl Handler for HttpHandler {
    fn run(&self, attempt: Attempt) -> HandlerFuture {
        let endpoint = Arc::clone(&self.endpoint);
        Box::pin(async move {
            let Some(permit) = attempt.start_after(endpoint.pool.acquire()).await else {
                return Err(HandlerError::not_started(
                    "the attempt was stopped before it had a connection",
                    None,
                ));
            };
            let permit = permit.map_err(|none| HandlerError::not_started(none, Some(NO_CONNECTION_DELAY)))?;
            tokio::select! {
                biased;
                result = endpoint.call(&attempt, permit) => result,
                // Dropping the call closes its connection, or resets its stream.
                () = attempt.cancelled() => Err(HandlerError::retryable("the request was dropped before its end")),
            }
        })
    }

    fn stop_grace(&self) -> Duration {
        Duration::from_secs(1)
    }
}

impl Endpoint {
    async fn call(&self, attempt: &Attempt, mut permit: PoolPermit) -> Result<Output, HandlerError> {
        // The secret ends with the call.
        let callback = self.callback_url.as_ref().map(|url| (url.as_str(), self.callbacks.open(attempt)));
        let request = self.requests.of_attempt(attempt, callback.as_ref())?;
        let answer = self.pool.send(&mut permit, &request).await.map_err(transport_failure)?;
        let (result, is_read) = response::judge(answer, attempt, &self.snoozes, &self.clock).await;
        if is_read {
            self.pool.give_back(permit).await;
        }
        result
    }
}

/// Returns the URL for checkpoints below the one of the settings.
fn callback_url_of(url: &HttpUrl) -> String {
    format!("{}/checkpoint", url.uri().to_string().trim_end_matches('/'))
}

/// Maps a transport error to a failure. Only an address that is not allowed is permanent.
fn transport_failure(error: SendError) -> HandlerError {
    let (reason, retryable) = match &error {
        SendError::Connect(ConnectError::Refused { .. }) => (FailureReason::StartFailed, false),
        SendError::Connect(_) => (FailureReason::StartFailed, true),
        SendError::Exchange(_) | SendError::Unprocessed { .. } => (FailureReason::HandlerError, true),
    };
    HandlerError::new(reason, error_chain(&error), retryable)
}

/// Formats an error with its chain of sources.
fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}
