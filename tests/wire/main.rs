//! What users of a running server see, a file for each behaviour: the real server, its real store, and real clients.

#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "helpers of tests fail as tests do")]

mod bad_input;
mod bad_messages;
mod commands;
mod connections;
mod crash;
mod doctor;
mod drain;
mod execution;
mod floods;
#[cfg(feature = "http")]
mod http_handlers;
mod metrics;
mod pages;
mod queues;
mod storage;
mod submit;
mod tls;
mod tokens;
mod traces;
mod watch;

#[path = "../support/mod.rs"]
mod support;
