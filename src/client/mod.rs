//! The Rust client.
//!
//! [`Client`] has a method for every call of the API. Those that create something give each request an id of its own
//! and repeat it while the outcome is unknown, so that a broken connection neither loses nor doubles a job. A
//! [`Watch`] takes itself up again after a break, from the last resume token.
//!
//! ```no_run
//! # async fn example() -> Result<(), jobmill::client::ClientError> {
//! use jobmill::{client::Client, proto::v1};
//!
//! let client = Client::connect("http://127.0.0.1:7733").await?;
//! let job = v1::JobSpec { queue: "default".into(), kind: "thumbnail".into(), ..Default::default() };
//! let submitted = client.submit(job).await?;
//! let ids = vec![submitted.id().to_owned()];
//! let mut watch = client.watch(v1::WatchStatusRequest { ids, ..Default::default() });
//! while let Some(item) = watch.next().await {
//!     println!("{:?}", item?);
//! }
//! # Ok(())
//! # }
//! ```

mod builder;
mod error;
mod jobs;
mod queues;
mod retry;
mod submit_stream;
#[cfg(test)]
mod tests;
mod watch;
mod wire;

use std::{future::Future, sync::Arc, time::Duration};

pub use builder::{ClientBuilder, DEFAULT_PORT};
pub use error::{ClientError, FieldFault, Refusal};
pub use submit_stream::{ItemResult, StreamOver, SubmitResults, SubmitSender};
pub use tonic::Code;
use tonic::{service::interceptor::InterceptedService, transport::Channel};
pub use watch::{Watch, WatchItem};
pub use wire::{from_wire_duration, from_wire_timestamp, to_wire_duration, to_wire_timestamp};

use crate::proto::v1::{job_queue_client::JobQueueClient, queue_service_client::QueueServiceClient};
use retry::Retries;

/// The largest answer taken: a page of whole jobs may be long, and the client chose the page's size.
const ANSWER_MAX_BYTES: usize = 64 << 20;

/// A connection to a Jobmill server. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Authorized,
    shared: Arc<Shared>,
}

/// A channel that adds the token to each call.
type Authorized = InterceptedService<Channel, builder::Bearer>;

/// What all clones of a client have in common.
#[derive(Debug)]
struct Shared {
    endpoint: String,
    call_timeout: Duration,
    retries: Retries,
}

impl Client {
    /// Connects to a server: `http://host:port`, `https://host:port`, or `host:port`.
    ///
    /// # Errors
    /// [`ClientError::InvalidEndpoint`], [`ClientError::Unreachable`] if nothing answers there, or
    /// [`ClientError::Untrusted`].
    pub async fn connect(endpoint: &str) -> Result<Client, ClientError> {
        Client::builder(endpoint).connect().await
    }

    /// Begins a client whose timeouts and retries differ from the defaults.
    pub fn builder(endpoint: &str) -> ClientBuilder {
        ClientBuilder::new(endpoint)
    }

    /// The server's address, in the form `http://host:port`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.shared.endpoint
    }

    fn job_queue(&self) -> JobQueueClient<Authorized> {
        JobQueueClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX_BYTES)
    }

    fn queue_service(&self) -> QueueServiceClient<Authorized> {
        QueueServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX_BYTES)
    }

    /// A request that tells the server how long its caller waits.
    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.set_timeout(self.shared.call_timeout);
        request
    }

    /// Waits for an answer as long as a call may take, and no longer: a server that hangs can't enforce its deadline.
    async fn answer<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, ClientError> {
        match tokio::time::timeout(self.shared.call_timeout, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.error(&status)),
            Err(_) => Err(self.timed_out()),
        }
    }

    fn error(&self, status: &tonic::Status) -> ClientError {
        ClientError::from_status(&self.shared.endpoint, self.shared.call_timeout, status)
    }

    fn timed_out(&self) -> ClientError {
        ClientError::Timeout { endpoint: self.shared.endpoint.clone(), after: self.shared.call_timeout }
    }

    /// What an answer must have by the protocol.
    fn present<T>(&self, field: Option<T>, name: &'static str) -> Result<T, ClientError> {
        field.ok_or_else(|| ClientError::Failed {
            endpoint: self.shared.endpoint.clone(),
            code: Code::Internal,
            message: format!("the answer has no `{name}`"),
        })
    }
}
