//! A durable job service that speaks gRPC.

pub mod admission;
mod api;
pub mod client;
pub mod clock;
pub mod commit;
pub mod config;
mod dispatch;
pub mod execute;
pub mod job;
pub mod proto;
pub mod serve;
pub mod store;
pub mod transition;
pub mod watch;
