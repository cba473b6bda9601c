//! Jobmill beside real programs: nginx, sqlite3, croner, a full file system, process 1 of a container.
//!
//! These tests need programs or rights that `cargo test` does not ask for. `.ci/setup` installs the programs, and the
//! step `peers` of `.ci/run` runs `cargo test --test peers` as root.

#![expect(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "helpers of tests fail as tests do")]

mod croner;
mod faketime;
mod nginx;
#[cfg(target_os = "linux")]
mod process_one;
mod served;
mod sqlite3;

#[expect(dead_code, unused_imports, reason = "these tests need less of it than others")]
#[path = "../support/mod.rs"]
mod support;
