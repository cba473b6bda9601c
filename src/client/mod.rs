//! The Rust client.
//!
//! [`Client`] has a method for every call of the API. A method that changes something takes the call's request, or a
//! value that converts to one (a [`JobSpec`](crate::proto::v1::JobSpec), a job's id, a queue's name), and returns the
//! call's response. It adds a request id, unless the request has one, and repeats the call while its outcome is
//! unknown, so that a broken connection neither loses nor doubles a job. A [`Watch`] resumes after a broken connection,
//! from the last resume token. A refusal by the server is a [`Refusal`], with a reason that programs can match on.
//!
//! ```no_run
//! # async fn example(client: jobmill::client::Client, id: &str) -> Result<(), jobmill::client::ClientError> {
//! use jobmill::proto::v1::{CancelJobRequest, CreateQueueRequest, QueueSettings};
//!
//! client.create_queue("mail").await?;
//! let settings = Some(QueueSettings { consumers: Some(2), ..Default::default() });
//! client.create_queue(CreateQueueRequest { settings, ..From::from("reports") }).await?;
//! client.cancel_job(id).await?;
//! // Only if the job has not changed since it was at revision 3.
//! client.cancel_job(CancelJobRequest { expected_revision: Some(3), ..id.into() }).await?;
//! # Ok(())
//! # }
//! ```
//!
//! Submit a job, wait for its end, and tell refusals apart:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//!
//! use jobmill::{
//!     client::Client,
//!     proto::v1::{ErrorReason, JobSpec, JobState, Payload, SubmitRequest},
//! };
//!
//! // Requires what an older server would ignore.
//! let client = Client::builder("127.0.0.1:7733").require(["wait"]).connect().await?;
//! let payload = Some(Payload::of_text("photo.jpg"));
//! let job = JobSpec { queue: "images".into(), kind: "thumbnail".into(), payload, ..Default::default() };
//! // The same request id finds the same job, also when this program runs again.
//! let request = SubmitRequest { job: Some(job), request_id: "order-17".into(), ..Default::default() };
//! let id = match client.submit(request).await {
//!     Ok(answer) => answer.id().to_owned(),
//!     Err(error) => match (error.reason(), error.refusal()) {
//!         (ErrorReason::QueueFull, Some(refusal)) => {
//!             let (jobs, max_jobs) = (&refusal.metadata["jobs"], &refusal.metadata["max_jobs"]);
//!             println!("{jobs} of {max_jobs} jobs wait; again in {:?}", refusal.retry_after);
//!             return Ok(());
//!         }
//!         (ErrorReason::InvalidRequest, Some(refusal)) => {
//!             for fault in &refusal.fields {
//!                 println!("{} {}", fault.field, fault.description);
//!             }
//!             return Ok(());
//!         }
//!         // Where `error.is_unknown_outcome()`, the job may be there: submit it again under its request id.
//!         _ => return Err(error.into()),
//!     },
//! };
//! let job = client.wait_for_job(id, Duration::from_secs(3600)).await?;
//! match job.state() {
//!     JobState::Succeeded => println!("{} bytes", job.result.unwrap_or_default().size_bytes),
//!     _ if job.done => println!("{:?}: {:?}", job.state(), job.last_failure),
//!     _ => println!("it still goes on"),
//! }
//! # Ok(())
//! # }
//! ```

mod builder;
mod changes;
mod error;
mod jobs;
mod limits;
mod queues;
mod retry;
mod schedules;
mod server;
mod submit_stream;
#[cfg(test)]
mod tests;
mod wait;
mod watch;
mod wire;
mod workers;

use std::{future::Future, sync::Arc, time::Duration};

pub use builder::{ClientBuilder, DEFAULT_PORT, token_in};
#[cfg(feature = "worker")]
pub(crate) use error::root_cause;
pub use error::{ClientError, FieldFault, Refusal};
pub use schedules::ScheduleWatch;
pub use submit_stream::{ItemResult, StreamOver, SubmitResults, SubmitSender};
pub use tonic::Code;
use tonic::{service::interceptor::InterceptedService, transport::Channel};
pub use watch::{Watch, WatchItem};
pub use wire::{from_wire_duration, from_wire_timestamp, to_wire_duration, to_wire_timestamp};

use crate::proto::v1::{
    job_queue_client::JobQueueClient, limit_service_client::LimitServiceClient,
    queue_service_client::QueueServiceClient, schedule_service_client::ScheduleServiceClient,
    server_service_client::ServerServiceClient, worker_service_client::WorkerServiceClient,
};
use retry::Retries;

/// Size limit of an answer. It is large because a page of whole jobs may be long, and the client chose the page's size.
const ANSWER_MAX_BYTES: usize = 64 << 20;

/// A connection to a Jobmill server. Clones share it.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Headed,
    shared: Arc<Shared>,
}

/// A channel that adds the token and the required features to each call.
pub(crate) type Headed = InterceptedService<Channel, builder::Headers>;

/// The state shared by all clones of a client.
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

    /// Returns the builder of a client whose options differ from the defaults.
    pub fn builder(endpoint: &str) -> ClientBuilder {
        ClientBuilder::new(endpoint)
    }

    /// Returns the server's address, in the form `http://host:port` or `https://host:port`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.shared.endpoint
    }

    fn job_queue(&self) -> JobQueueClient<Headed> {
        JobQueueClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX_BYTES)
    }

    fn queue_service(&self) -> QueueServiceClient<Headed> {
        QueueServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX_BYTES)
    }

    fn limit_service(&self) -> LimitServiceClient<Headed> {
        LimitServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX_BYTES)
    }

    fn schedule_service(&self) -> ScheduleServiceClient<Headed> {
        ScheduleServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX_BYTES)
    }

    fn server_service(&self) -> ServerServiceClient<Headed> {
        ServerServiceClient::new(self.channel.clone())
    }

    pub(crate) fn worker_service(&self) -> WorkerServiceClient<Headed> {
        WorkerServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX_BYTES)
    }

    /// Wraps a message in a request that tells the server the time limit of the call.
    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.set_timeout(self.shared.call_timeout);
        request
    }

    /// Waits for an answer, up to the time limit of a call. A server that hangs can't enforce the limit itself.
    async fn answer<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, ClientError> {
        self.answer_within(self.shared.call_timeout, call).await
    }

    async fn answer_within<T>(
        &self,
        limit: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, ClientError> {
        match tokio::time::timeout(limit, Box::pin(call)).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.error(&status)),
            Err(_) => Err(ClientError::Timeout { endpoint: self.shared.endpoint.clone(), after: limit }),
        }
    }

    pub(crate) fn error(&self, status: &tonic::Status) -> ClientError {
        ClientError::from_status(&self.shared.endpoint, self.shared.call_timeout, status)
    }

    fn timed_out(&self) -> ClientError {
        ClientError::Timeout { endpoint: self.shared.endpoint.clone(), after: self.shared.call_timeout }
    }

    /// Returns a field that the protocol requires in an answer, or an error if it is missing.
    fn present<T>(&self, field: Option<T>, name: &'static str) -> Result<T, ClientError> {
        field.ok_or_else(|| ClientError::Failed {
            endpoint: self.shared.endpoint.clone(),
            code: Code::Internal,
            message: format!("the answer has no `{name}`"),
        })
    }
}
