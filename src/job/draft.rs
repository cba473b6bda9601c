//! A job as its client describes it, before its kind's defaults are added.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Dependency, PartialRetryPolicy, PayloadInfo, UniqueKey, When};

/// A job as the client describes it, with checked fields. An absent field gets the kind's default.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct JobDraft {
    /// The queue's name.
    pub queue: String,
    /// The kind's name.
    pub kind: String,
    /// The handler's input. A store keeps it apart.
    #[serde(skip)]
    pub payload: Bytes,
    /// Metadata of the payload for the handler.
    pub payload_info: PayloadInfo,
    /// Labels, for the client's own use.
    pub labels: BTreeMap<String, String>,
    /// Headers for the handler.
    pub headers: BTreeMap<String, String>,
    /// The priority, −100 to 100.
    pub priority: Option<i8>,
    /// Limit of the attempts.
    pub max_attempts: Option<u32>,
    /// Backoff between attempts.
    pub retry: Option<PartialRetryPolicy>,
    /// Timeout of an attempt.
    pub attempt_timeout: Option<Duration>,
    /// Earliest start.
    pub start: Option<When>,
    /// Expiry of the job if no attempt has started by then.
    pub expiry: Option<When>,
    /// Time by which the job must have ended.
    pub deadline: Option<When>,
    /// Limit of snoozes.
    pub max_snoozes: Option<u32>,
    /// Limit of process losses.
    pub max_process_losses: Option<u32>,
    /// The unique key.
    pub unique: Option<Box<UniqueKey>>,
    /// What the job weighs under limits, by their names; 1 under all others.
    pub weights: BTreeMap<String, u32>,
    /// The jobs that the job waits for. A schedule's job has none.
    #[serde(skip)]
    pub depends_on: Vec<Dependency>,
    /// Name of the closure of this process that runs the job; empty for all other jobs.
    pub closure: String,
}
