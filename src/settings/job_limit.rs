//! Limits of the jobs that run at once, or start in a time.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

/// What a limit says.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LimitSpec {
    /// What each of its values is allowed.
    pub rule: LimitRule,
    /// What has a place of its own.
    pub key: LimitKey,
    /// Names of the queues whose jobs are limited; empty for all.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub queues: BTreeSet<String>,
    /// Names of the kinds whose jobs are limited; empty for all.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub kinds: BTreeSet<String>,
}

/// What a value of a limit is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitRule {
    /// The total weight of the jobs that run at once; 0 if none may start.
    Running(u32),
    /// How often jobs may start.
    Rate(Rate),
}

/// How often jobs may start: a bucket of tokens, of which a start takes as many as the job weighs.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rate {
    /// The number of tokens that come in each period; 0 if none may start.
    pub count: u32,
    /// The period.
    pub per: Duration,
    /// The largest number of tokens that are saved.
    pub burst: u32,
}

/// What has a place of its own under a limit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitKey {
    /// All jobs together.
    All,
    /// Each queue.
    Queue,
    /// Each kind.
    Kind,
    /// Each value of this label. Jobs without the label are not limited.
    Label(Arc<str>),
}

/// A limit.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LimitInfo {
    /// Its number in the store.
    pub number: u32,
    /// Its name.
    pub name: Arc<str>,
    /// What it says.
    pub spec: LimitSpec,
    /// Number that grows with each change of the limit.
    pub revision: i64,
    /// Whether the configuration file declares it.
    pub declared: bool,
}

impl LimitInfo {
    /// Returns a tag that no other version of the limit has.
    #[must_use]
    pub fn etag(&self) -> String {
        format!("{:x}", self.revision)
    }
}

impl LimitSpec {
    /// Creates a limit of all jobs together, in all queues and of all kinds.
    #[must_use]
    pub fn new(rule: LimitRule) -> Self {
        LimitSpec { rule, key: LimitKey::All, queues: BTreeSet::new(), kinds: BTreeSet::new() }
    }

    /// Sets what has a place of its own.
    #[must_use]
    pub fn by(self, key: LimitKey) -> Self {
        LimitSpec { key, ..self }
    }

    /// Returns whether the limit concerns jobs of this queue and kind.
    #[must_use]
    pub fn covers(&self, queue: &str, kind: &str) -> bool {
        (self.queues.is_empty() || self.queues.contains(queue))
            && (self.kinds.is_empty() || self.kinds.contains(kind))
    }

    /// Returns whether jobs wait in the same lanes under both limits, whatever these allow.
    #[must_use]
    pub fn sorts_as(&self, other: &LimitSpec) -> bool {
        self.key == other.key && self.queues == other.queues && self.kinds == other.kinds
    }
}

impl LimitRule {
    /// Returns the largest weight of a job that can start; 0 if none can.
    #[must_use]
    pub fn heaviest(&self) -> u32 {
        match self {
            LimitRule::Running(max) => *max,
            LimitRule::Rate(rate) if rate.count == 0 => 0,
            LimitRule::Rate(rate) => rate.burst,
        }
    }

    /// Returns whether none may start.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.heaviest() == 0
    }

    /// Returns whether both are of the same sort: of running jobs, or of starts.
    #[must_use]
    pub fn is_like(&self, other: &LimitRule) -> bool {
        matches!(self, LimitRule::Running(_)) == matches!(other, LimitRule::Running(_))
    }
}

impl Rate {
    /// Creates a rate whose burst is its count.
    #[must_use]
    pub fn new(count: u32, per: Duration) -> Self {
        Rate { count, per, burst: count }
    }

    /// Sets the largest number of tokens that are saved.
    #[must_use]
    pub fn burst(self, burst: u32) -> Self {
        Rate { burst, ..self }
    }
}
