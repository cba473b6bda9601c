//! What users of a running server see, a file for each behaviour: the real server, its real store, and real clients.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod bad_input;
mod bad_messages;
mod commands;
mod execution;
mod queues;
mod submit;
mod watch;

#[path = "../support/mod.rs"]
mod support;
