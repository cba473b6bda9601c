//! How a queue is set up.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

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
    /// Grows with each change of it.
    pub revision: i64,
}

impl QueueInfo {
    /// Tells this state of the queue from all others, of this queue and of any other one.
    #[must_use]
    pub fn etag(&self) -> String {
        format!("{:x}-{:x}", self.name.number, self.revision)
    }
}

/// A change of some of a queue's settings.
#[derive(Clone, PartialEq, Debug)]
pub struct SettingsChange {
    /// The settings that are changed.
    pub fields: BTreeSet<SettingsField>,
    /// Their values, beside others that do not count.
    pub to: QueueSettings,
}

/// One of a queue's settings.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SettingsField {
    /// `max_jobs`.
    MaxJobs,
    /// `max_bytes`.
    MaxBytes,
    /// `consumers`.
    Consumers,
    /// `when_full`.
    WhenFull,
    /// `max_wait`.
    MaxWait,
    /// `max_waiters`.
    MaxWaiters,
    /// `accept_unknown_kinds`.
    AcceptUnknownKinds,
    /// `retention.succeeded`.
    KeepSucceeded,
    /// `retention.failed`.
    KeepFailed,
    /// `retention.cancelled`.
    KeepCancelled,
    /// `retention.expired`.
    KeepExpired,
}

impl SettingsField {
    /// All of them, with their paths.
    pub const ALL: [(&'static str, SettingsField); 11] = [
        ("max_jobs", SettingsField::MaxJobs),
        ("max_bytes", SettingsField::MaxBytes),
        ("consumers", SettingsField::Consumers),
        ("when_full", SettingsField::WhenFull),
        ("max_wait", SettingsField::MaxWait),
        ("max_waiters", SettingsField::MaxWaiters),
        ("accept_unknown_kinds", SettingsField::AcceptUnknownKinds),
        ("retention.succeeded", SettingsField::KeepSucceeded),
        ("retention.failed", SettingsField::KeepFailed),
        ("retention.cancelled", SettingsField::KeepCancelled),
        ("retention.expired", SettingsField::KeepExpired),
    ];
}

impl SettingsChange {
    /// The settings after the change.
    #[must_use]
    pub fn applied(&self, settings: &QueueSettings) -> QueueSettings {
        let mut after = settings.clone();
        let to = &self.to;
        for field in &self.fields {
            match field {
                SettingsField::MaxJobs => after.max_jobs = to.max_jobs,
                SettingsField::MaxBytes => after.max_bytes = to.max_bytes,
                SettingsField::Consumers => after.consumers = to.consumers,
                SettingsField::WhenFull => after.when_full = to.when_full,
                SettingsField::MaxWait => after.max_wait = to.max_wait,
                SettingsField::MaxWaiters => after.max_waiters = to.max_waiters,
                SettingsField::AcceptUnknownKinds => after.accept_unknown_kinds = to.accept_unknown_kinds,
                SettingsField::KeepSucceeded => after.retention.succeeded = to.retention.succeeded,
                SettingsField::KeepFailed => after.retention.failed = to.retention.failed,
                SettingsField::KeepCancelled => after.retention.cancelled = to.retention.cancelled,
                SettingsField::KeepExpired => after.retention.expired = to.retention.expired,
            }
        }
        after
    }
}
