//! A durable job service that speaks gRPC.

pub mod client;
pub mod clock;
pub mod config;
pub mod execute;
pub mod job;
pub mod proto;
pub mod serve;
pub mod transition;
