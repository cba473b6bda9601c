//! What the operator says, checked and ready to use before any port is bound.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use crate::job::RetryPolicy;

/// A whole configuration, ready to use.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen. Loopback only, for now.
    pub listen: SocketAddr,
    /// Where jobs are kept.
    pub store: StoreSettings,
    /// How long a stopping server waits for running attempts.
    pub drain_timeout: Duration,
    /// The queues that the file declares, by name.
    pub queues: BTreeMap<String, QueueSettings>,
    /// The kinds that the file declares, by name.
    pub kinds: BTreeMap<String, KindSettings>,
}

/// Where jobs are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreSettings {
    /// In memory: gone when the server stops.
    Memory,
    /// In a folder, which is made where it does not exist.
    Folder(PathBuf),
}

/// How a queue is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// How many jobs may wait and run.
    pub max_jobs: u64,
    /// How many bytes they may take.
    pub max_bytes: u64,
    /// How many attempts run at once.
    pub consumers: u32,
    /// What to do when it is full.
    pub when_full: WhenFull,
    /// How long a submission may wait for room.
    pub max_wait: Duration,
    /// How many submissions may wait for room.
    pub max_waiters: u32,
    /// Whether kinds that have no handler here are accepted.
    pub accept_unknown_kinds: bool,
}

/// What to do when a queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Wait for room.
    Wait,
    /// Refuse at once.
    Reject,
}

impl Default for QueueSettings {
    fn default() -> Self {
        QueueSettings {
            max_jobs: 100_000,
            max_bytes: 1 << 30,
            consumers: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
            when_full: WhenFull::Wait,
            max_wait: Duration::from_secs(30),
            max_waiters: 1_000,
            accept_unknown_kinds: false,
        }
    }
}

/// How jobs of a kind run, and what they get where a submission does not say.
#[derive(Clone, Debug)]
pub struct KindSettings {
    /// What runs them.
    pub command: CommandSettings,
    /// What submissions of the kind get unless they say otherwise.
    pub defaults: KindDefaults,
}

/// What submissions of a kind get unless they say otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KindDefaults {
    /// How many attempts may start.
    pub max_attempts: u32,
    /// How long to wait between them.
    pub retry: RetryPolicy,
    /// How long one may take.
    pub attempt_timeout: Duration,
}

impl Default for KindDefaults {
    fn default() -> Self {
        KindDefaults {
            max_attempts: 5,
            retry: RetryPolicy::DEFAULT,
            attempt_timeout: Duration::from_secs(15 * 60),
        }
    }
}

/// A command that runs jobs. No shell is involved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandSettings {
    /// The program and its arguments, each one element as it is.
    pub argv: Vec<String>,
    /// Variables that the command gets beside `PATH`, `HOME`, `LANG` and `TZ` and Jobmill's own.
    pub env: BTreeMap<String, String>,
    /// Names of the server's own variables that the command gets too.
    pub env_allow: Vec<String>,
    /// Where it runs; the data folder's parent process's folder if absent.
    pub working_dir: Option<PathBuf>,
    /// How long it has between `SIGTERM` and `SIGKILL`.
    pub kill_grace: Duration,
    /// Exit codes that no other attempt would mend.
    pub permanent_exit_codes: Vec<i32>,
}
