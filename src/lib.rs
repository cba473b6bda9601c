//! A durable job service that speaks gRPC: submit with one call, run in the background, watch until it ends.
//!
//! This library is the server ([`serve`]), its Rust client ([`client`]) and the protocol ([`proto`]). A program that
//! embeds the server gives it handlers ([`execute`]) and [`settings`], which [`config`] reads from files, and uses it
//! through a [`handle`]; the other modules are its parts, and ARCHITECTURE.md in the repository is their map.

pub mod access;
pub mod admission;
mod api;
pub mod audit;
pub mod client;
pub mod clock;
pub mod config;
mod counters;
mod dispatch;
pub mod engine;
pub mod execute;
pub mod handle;
mod intake;
pub mod job;
pub mod lines;
pub mod listen;
mod metrics;
pub mod proto;
pub mod serve;
pub mod settings;
pub mod shard;
pub mod store;
mod timeouts;
pub mod tls;
mod traces;
pub mod watch;

pub use counters::MetricsError;
pub use metrics::PageError;
pub use traces::TracesError;

/// The README's Rust code is compiled with the other tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// And so is the code of the page on embedding.
#[cfg(doctest)]
#[doc = include_str!("../docs/embedding.md")]
struct Embedding;
