//! A durable job service that speaks gRPC: submit with one call, run in the background, watch until it ends.
//!
//! This library is the server ([`serve`]), its Rust client ([`client`]) and the protocol ([`proto`]). With
//! `default-features = false`, the feature `client` is the client alone, and `server` is both without the command line.
//! A program that embeds the server gives it handlers ([`execute`]) and [`settings`], which [`config`] reads from
//! files, and uses it through a [`handle`]; the other modules are its parts, and ARCHITECTURE.md in the repository is
//! their map.

#[cfg(feature = "server")]
pub mod access;
#[cfg(feature = "server")]
pub mod admission;
#[cfg(feature = "server")]
mod api;
#[cfg(feature = "server")]
pub mod audit;
#[cfg(feature = "client")]
pub mod client;
#[cfg_attr(not(feature = "server"), expect(dead_code, reason = "only the server uses all of it"))]
pub mod clock;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
mod counters;
#[cfg(feature = "server")]
mod dispatch;
#[cfg(feature = "server")]
pub mod engine;
#[cfg(feature = "server")]
pub mod execute;
#[cfg(feature = "server")]
pub mod handle;
#[cfg(feature = "server")]
mod intake;
#[cfg_attr(not(feature = "server"), expect(dead_code, reason = "only the server uses all of it"))]
pub mod job;
#[cfg(feature = "server")]
pub mod lines;
#[cfg(feature = "server")]
pub mod listen;
#[cfg(feature = "server")]
mod metrics;
#[cfg(feature = "client")]
pub mod proto;
#[cfg(feature = "server")]
pub mod serve;
#[cfg(feature = "server")]
pub mod settings;
#[cfg(feature = "server")]
pub mod shard;
#[cfg(feature = "server")]
pub mod store;
#[cfg(feature = "server")]
mod timeouts;
#[cfg(feature = "server")]
pub mod tls;
#[cfg(feature = "server")]
mod traces;
#[cfg(feature = "server")]
pub mod watch;

#[cfg(feature = "server")]
pub use counters::MetricsError;
#[cfg(feature = "server")]
pub use metrics::PageError;
#[cfg(feature = "server")]
pub use traces::TracesError;

/// The README's Rust code is compiled with the other tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The Rust code of the page on embedding is compiled with the other tests, too.
#[cfg(doctest)]
#[doc = include_str!("../docs/embedding.md")]
struct Embedding;
