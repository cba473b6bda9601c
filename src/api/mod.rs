//! The gRPC API. In the server, the only module that uses tonic and prost.

mod calendar_verbs;
mod caller;
mod calls;
mod convert;
mod core;
mod dependencies;
mod errors;
mod errors_of_schedules;
mod graph;
mod guard;
mod held_key;
mod job_queue;
mod keys;
mod limits;
mod needs;
mod outgoing;
mod page_token;
mod queue_service;
mod reads;
mod rpcs;
mod schedule_service;
mod schedule_verbs;
mod server;
mod server_service;
mod show_schedule;
mod sizes;
mod status;
mod submit;
mod submit_stream;
#[cfg(test)]
mod tests;
mod unfinished;
mod update_job;
mod validate;
mod validate_queue;
mod validate_schedule;
mod validate_worker;
mod verbs;
mod views;
mod watch_schedules;
mod watch_stream;
mod worker_frames;
mod worker_service;
mod worker_stream;

pub use self::server::{ApiError, incoming, server};
pub(crate) use self::{core::Core, guard::Gate, outgoing::ResponseBudget, server::serve};
