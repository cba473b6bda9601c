//! A durable job service that speaks gRPC.

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod execute;
pub mod job;
pub mod proto;
pub mod serve;
pub mod transition;
