//! A durable job service that speaks gRPC: submit with one call, run in the background, watch until it ends.
//!
//! - The feature `server` is the server inside another program: a [`Server`] runs handlers, Rust functions that get an
//!   [`Attempt`], and its [`Handle`] submits jobs, watches and cancels them. [`Settings`] say where jobs are kept;
//!   [`config`] reads them from a file.
//! - The feature `worker` runs such handlers for a server elsewhere ([`worker`]).
//! - The feature `client` is the client of a server elsewhere ([`client`]), with the protocol ([`proto`]).
//!
//! Depend on Jobmill with `default-features = false` and what you need: the default features are the `jobmill` program.
//!
//! ```
//! # #[cfg(feature = "server")]
//! # mod example {
//! use jobmill::{Attempt, HandlerError, JobRequest, KindDefaults, Output, QueueSettings, Server, Settings};
//!
//! async fn resize(attempt: Attempt) -> Result<Output, HandlerError> {
//!     Ok(Output::new(attempt.payload().clone()).media_type("image/png"))
//! }
//!
//! # pub async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! // In memory, for a test. `Settings::in_folder("jobs")` keeps the jobs on disk.
//! let settings = Settings::in_memory().queue("images", QueueSettings::default().max_jobs(100).consumers(4));
//! let kind = KindDefaults::default().max_attempts(3);
//! let server = Server::builder(settings).handler("resize", kind, resize).without_listener().start().await?;
//! let job = server.handle().submit(JobRequest::new("resize").queue("images").payload("a photo")).await?;
//! assert_eq!(job.outcome().await?.into_result()?.bytes, "a photo");
//! server.stopper().drain();
//! server.finished().await?;
//! # Ok(())
//! # }
//! # }
//! # #[cfg(feature = "server")]
//! # tokio::runtime::Runtime::new().unwrap().block_on(example::run()).unwrap();
//! ```

#![cfg_attr(
    not(feature = "internals"),
    expect(dead_code, reason = "only the program and the tests use all of the parts")
)]
#![cfg_attr(
    all(feature = "server", not(feature = "internals")),
    expect(unreachable_pub, unused_imports, reason = "the program and the tests reach them")
)]

#[cfg(feature = "client")]
pub mod client;
pub mod clock;
#[cfg(feature = "server")]
pub mod config;
#[cfg(any(feature = "server", feature = "worker"))]
pub mod execute;
#[cfg(feature = "server")]
pub mod handle;
pub mod job;
#[cfg(feature = "client")]
pub mod proto;
#[cfg(feature = "server")]
pub mod serve;
#[cfg(feature = "server")]
pub mod settings;
#[cfg(feature = "worker")]
pub mod worker;

#[cfg(feature = "server")]
mod api;
#[cfg(feature = "server")]
mod counters;
#[cfg(feature = "server")]
mod dispatch;
#[cfg(feature = "server")]
mod intake;
#[cfg(feature = "server")]
mod metrics;
#[cfg(feature = "server")]
mod timeouts;
#[cfg(feature = "server")]
mod traces;
#[cfg(feature = "server")]
mod workers;

/// Declares the parts that the program and the tests reach, by the feature `internals`, and other crates do not.
macro_rules! internal {
    ($(mod $name:ident;)*) => {
        $(
            #[cfg(all(feature = "server", feature = "internals"))]
            #[doc(hidden)]
            pub mod $name;
            #[cfg(all(feature = "server", not(feature = "internals")))]
            mod $name;
        )*
    };
}
internal! {
    mod access;
    mod admission;
    mod audit;
    mod engine;
    mod lines;
    mod listen;
    mod shard;
    mod store;
    mod timetable;
    mod tls;
    mod watch;
}

#[cfg(any(feature = "server", feature = "worker"))]
pub use self::{
    execute::{Attempt, Handler, HandlerError},
    job::Output,
};
#[cfg(feature = "server")]
pub use self::{
    handle::{Handle, JobRequest, SpawnRequest},
    serve::{ServeError, Server, ServerBuilder, Stopper},
    settings::{KindDefaults, QueueSettings, Settings},
};

/// The README's Rust code is compiled with the other tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The Rust code of the page on embedding is compiled with the other tests, too.
#[cfg(doctest)]
#[doc = include_str!("../docs/embedding.md")]
struct Embedding;

/// And so is that of the page on workers.
#[cfg(doctest)]
#[doc = include_str!("../docs/workers.md")]
struct Workers;
