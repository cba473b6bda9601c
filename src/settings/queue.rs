//! How a queue is set up.

use std::{sync::Arc, time::Duration};

use super::{limits, retention::QueueRetention};
use crate::job::Name;

/// The queue that always exists.
pub const DEFAULT_QUEUE: &str = "default";

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
    /// How many callers may wait for room.
    pub max_waiters: u32,
    /// Whether kinds that have no handler here are accepted.
    pub accept_unknown_kinds: bool,
    /// How long its ended jobs are kept, where that differs from the server's own times.
    pub retention: QueueRetention,
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
            consumers: default_consumers(),
            when_full: WhenFull::Wait,
            max_wait: Duration::from_secs(30),
            max_waiters: 1_000,
            accept_unknown_kinds: false,
            retention: QueueRetention::default(),
        }
    }
}

/// One for each core, as far as a queue may have so many.
fn default_consumers() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(cores).unwrap_or(u32::MAX).min(*limits::QUEUE_CONSUMERS.end())
}

/// A queue as it is set up.
#[derive(Clone, PartialEq, Debug)]
pub struct QueueInfo {
    /// Its name.
    pub name: Arc<Name>,
    /// Its settings.
    pub settings: QueueSettings,
    /// Whether it starts no jobs for now.
    pub paused: bool,
    /// Whether the configuration file declares it.
    pub declared: bool,
    /// Whether the configuration file declared it once, and nothing but its pause has been changed since.
    pub formerly_declared: bool,
}
