//! What Jobmill does beside real programs: nginx, sqlite3, a full file system, PID 1 of a container.
//!
//! These need programs or rights that `cargo test` does not ask for: `.ci/setup` installs them, and the step `peers` of
//! `.ci/run` runs `cargo test --test peers`, as root.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]
