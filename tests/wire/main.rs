//! The behaviour of a running server as its users see it, one file for each: the real server, its real store, and real
//! clients.

#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "helpers of tests fail as tests do")]

mod api;
mod audit;
mod bad_input;
mod bad_messages;
mod changed_configuration;
mod checkpoints;
mod clocks;
mod commands;
mod connections;
mod counted_store;
mod crash;
mod cut_off;
mod data_folder;
mod doctor;
mod drain;
mod drain_store;
mod execution;
mod floods;
mod frames;
#[cfg(feature = "http")]
mod http_handlers;
mod limit_counts;
mod limits;
mod lost_log;
mod many_watchers;
mod metrics;
mod pages;
mod panics;
mod paused;
mod poison;
mod queues;
mod rate_kills;
mod retries;
mod schedule_kills;
mod schedule_limits;
mod schedules;
mod several_queues;
mod stalls;
mod stopped_watchers;
mod storage;
mod store_lock;
mod submit;
mod tls;
mod tokens;
mod traces;
mod unreadable_rows;
mod watch;
mod workers;

#[path = "../support/mod.rs"]
mod support;
