//! Settings of queues.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{limits, retention::QueueRetention};
use crate::job::Name;

/// The queue that always exists.
pub const DEFAULT_QUEUE: &str = "default";

/// Settings of a queue.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// Maximum number of jobs that wait and run.
    pub max_jobs: u64,
    /// Maximum number of bytes of these jobs.
    pub max_bytes: u64,
    /// Number of attempts that run at once.
    pub consumers: u32,
    /// Behaviour when the queue is full.
    pub when_full: WhenFull,
    /// Longest wait of a submission for room.
    pub max_wait: Duration,
    /// Maximum number of callers that wait for room.
    pub max_waiters: u32,
    /// Whether jobs of kinds without a handler on this server are accepted.
    pub accept_unknown_kinds: bool,
    /// The label whose values take turns, so that none waits for the many jobs of another one. Absent: jobs run by
    /// priority, in their order.
    pub fair_by: Option<Arc<str>>,
    /// Retention of ended jobs, where it differs from the server's own.
    pub retention: QueueRetention,
}

/// Behaviour of a full queue.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Submissions wait for room.
    Wait,
    /// Submissions are refused at once.
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
            fair_by: None,
            retention: QueueRetention::default(),
        }
    }
}

impl QueueSettings {
    /// Sets the limit of waiting and running jobs.
    #[must_use]
    pub fn max_jobs(self, max_jobs: u64) -> Self {
        QueueSettings { max_jobs, ..self }
    }

    /// Sets the limit of their bytes.
    #[must_use]
    pub fn max_bytes(self, max_bytes: u64) -> Self {
        QueueSettings { max_bytes, ..self }
    }

    /// Sets the number of attempts that run at the same time.
    #[must_use]
    pub fn consumers(self, consumers: u32) -> Self {
        QueueSettings { consumers, ..self }
    }

    /// Sets what a submission does when the queue is full.
    #[must_use]
    pub fn when_full(self, when_full: WhenFull) -> Self {
        QueueSettings { when_full, ..self }
    }

    /// Sets the longest wait of a submission for room.
    #[must_use]
    pub fn max_wait(self, max_wait: Duration) -> Self {
        QueueSettings { max_wait, ..self }
    }

    /// Sets the limit of submissions that wait for room.
    #[must_use]
    pub fn max_waiters(self, max_waiters: u32) -> Self {
        QueueSettings { max_waiters, ..self }
    }

    /// Sets whether jobs of kinds without a handler here are accepted.
    #[must_use]
    pub fn accept_unknown_kinds(self, accept_unknown_kinds: bool) -> Self {
        QueueSettings { accept_unknown_kinds, ..self }
    }

    /// Sets the label whose values take turns.
    #[must_use]
    pub fn fair_by(self, label: impl Into<Arc<str>>) -> Self {
        QueueSettings { fair_by: Some(label.into()), ..self }
    }

    /// Sets how long ended jobs are kept, where that differs from the server's own times.
    #[must_use]
    pub fn retention(self, retention: QueueRetention) -> Self {
        QueueSettings { retention, ..self }
    }
}

/// Returns one consumer for each core, up to the limit of a queue's consumers.
fn default_consumers() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(cores).unwrap_or(u32::MAX).min(*limits::QUEUE_CONSUMERS.end())
}

/// A queue with its settings and status.
#[derive(Clone, PartialEq, Debug)]
pub struct QueueInfo {
    /// The queue's name.
    pub name: Arc<Name>,
    /// The queue's settings.
    pub settings: QueueSettings,
    /// Whether the queue is paused: it starts no jobs.
    pub paused: bool,
    /// Whether the configuration file declares it.
    pub declared: bool,
    /// Whether the configuration file used to declare it, and nothing but its pause has changed since.
    pub formerly_declared: bool,
    /// Number that grows with each change of the queue.
    pub revision: i64,
}

impl QueueInfo {
    /// Returns a tag that no other state of this or any other queue has.
    #[must_use]
    pub fn etag(&self) -> String {
        format!("{:x}-{:x}", self.name.number, self.revision)
    }
}

/// A change of some of a queue's settings.
#[derive(Clone, PartialEq, Debug)]
pub struct SettingsChange {
    /// The settings to change.
    pub fields: BTreeSet<SettingsField>,
    /// The new values. Settings that are not to change are ignored.
    pub to: QueueSettings,
}

/// A setting of a queue.
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
    /// `fair_by`.
    FairBy,
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
    /// All settings with their paths.
    pub const ALL: [(&'static str, SettingsField); 12] = [
        ("max_jobs", SettingsField::MaxJobs),
        ("max_bytes", SettingsField::MaxBytes),
        ("consumers", SettingsField::Consumers),
        ("when_full", SettingsField::WhenFull),
        ("max_wait", SettingsField::MaxWait),
        ("max_waiters", SettingsField::MaxWaiters),
        ("accept_unknown_kinds", SettingsField::AcceptUnknownKinds),
        ("fair_by", SettingsField::FairBy),
        ("retention.succeeded", SettingsField::KeepSucceeded),
        ("retention.failed", SettingsField::KeepFailed),
        ("retention.cancelled", SettingsField::KeepCancelled),
        ("retention.expired", SettingsField::KeepExpired),
    ];
}

impl SettingsChange {
    /// Returns the settings after the change.
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
                SettingsField::FairBy => after.fair_by.clone_from(&to.fair_by),
                SettingsField::KeepSucceeded => after.retention.succeeded = to.retention.succeeded,
                SettingsField::KeepFailed => after.retention.failed = to.retention.failed,
                SettingsField::KeepCancelled => after.retention.cancelled = to.retention.cancelled,
                SettingsField::KeepExpired => after.retention.expired = to.retention.expired,
            }
        }
        after
    }
}
