//! Remote workers: handlers in this program for the jobs of a server elsewhere.
//!
//! A [`Worker`] connects to a server, says which kinds it runs and how many jobs at a time, and gets jobs as long as it
//! has free places. Its handlers are those of a server in the same process: functions that get an
//! [`Attempt`](crate::Attempt). [`json`], [`protobuf`] and [`bytes()`] make handlers with typed input and output.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use jobmill::{HandlerError, worker::{self, Worker}};
//!
//! #[derive(serde::Deserialize)]
//! struct Thumbnail {
//!     photo: String,
//! }
//!
//! let worker = Worker::builder("https://jobs.internal")
//!     .token_file("/etc/shop/jobmill.token")
//!     .queues(["images"])
//!     .concurrency(8)
//!     .handler("thumbnail", worker::json(|attempt, input: Thumbnail| async move {
//!         if input.photo.is_empty() {
//!             return Err(HandlerError::permanent("there is no photo").with_code("NO_PHOTO"));
//!         }
//!         attempt.progress(0.5, "half of it is done", "scale");
//!         Ok(format!("{}.small.jpg", input.photo))
//!     }))
//!     .build()?;
//! let summary = worker.run().await?;
//! println!("{} attempts succeeded", summary.counts.succeeded);
//! # Ok(())
//! # }
//! ```
//!
//! # The life of a job here
//! 1. The server assigns the job under a *lease*, for as long as a place is free. The worker confirms it, and starts
//!    the handler only when the server has answered, so that no attempt starts for a lease that is gone.
//! 2. Heartbeats renew the lease. They come from a thread of the worker's own: a handler that blocks the runtime does
//!    not stop them. The worker counts a lease from when it *sent* the heartbeat that renewed it.
//! 3. The handler returns, fails, or panics (which is a failure). The end is kept until the server has confirmed it, also
//!    across broken connections and restarts of the server.
//!
//! An attempt should stop when [`Attempt::cancelled`](crate::Attempt::cancelled) resolves;
//! [`Attempt::stop_cause`](crate::Attempt::stop_cause) says why. It is then dropped after its grace period
//! ([`Handler::stop_grace`](crate::Handler::stop_grace)). If the server stays silent for a lease's time, the attempt goes
//! on, unless its handler is made with [`on_silence`].
//!
//! # Connections
//! The worker calls again after any end of its stream that it did not ask for, with a random delay of up to 10 s, and
//! resolves the server's name each time. It ends only when it is told to: by its [`Stopper`], by the server's operator,
//! or by [`WorkerBuilder::max_jobs`] and [`WorkerBuilder::until_idle`]. If it can't go on, it says why with a
//! [`WorkerError`]. [`Health`] tells whether the server answers.

mod builder;
mod connection;
mod control;
mod dial;
mod error;
mod handlers;
mod health;
mod key;
mod lease;
mod mailbox;
mod outgoing;
mod plan;
mod session;
mod stopping;
#[cfg(test)]
mod tests;
mod timers;
mod typed;

pub use self::{
    builder::{Pool, Stopper, Worker, WorkerBuilder},
    error::WorkerError,
    health::{Counts, Health, Summary},
    typed::{IntoOutput, OnSilence, bytes, json, on_silence, protobuf},
};
