//! Remote workers and their server under faults: killed and paused processes, broken networks, floods, forged messages,
//! and restarts. Each test ends with the check that no lease was overwritten, no job leased twice, and no credit exceeded.

#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "helpers of tests fail as tests do")]

mod blocked;
mod checkpoints;
mod clocks;
mod closing;
mod crashes;
mod deploys;
mod floods;
mod forged;
mod handler_log;
mod library;
mod limit;
mod limit_kills;
mod many;
mod network;
mod processes;
mod programs;
mod relay;
mod starts;
mod tokens;
mod unread;

#[expect(dead_code, reason = "these tests need less of it than others")]
#[path = "../wire/workers/rig.rs"]
mod rig;
#[expect(dead_code, unused_imports, reason = "these tests need less of it than others")]
#[path = "../support/mod.rs"]
mod support;
