//! A job: the part that its client submitted, and the changing part.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    attempt::{Failure, Progress},
    client_input::ClientInput,
    dependency::Dependency,
    ids::{JobId, Name, Position},
    payload::{PayloadInfo, ResultInfo, bytes_of},
    rare::Rare,
    retry::RetryPolicy,
    schedule::{RESERVED_PREFIX, ScheduledBy},
    state::State,
    unique::{KeyHash, KeyName, KnownHash, UniqueKey},
    worker::Remote,
};
use crate::clock::Timestamp;

/// The part of a job that its client submitted. It is shared and never changed itself: an update of a job that has
/// never started gives the job another one, with the same queue, kind, labels and time of acceptance.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, PartialEq, Debug)]
pub struct Spec {
    /// The queue of the job.
    pub queue: Arc<Name>,
    /// The kind of work.
    pub kind: Arc<Name>,
    /// Priority, −100 to 100; larger ones run first.
    pub priority: i8,
    /// Delays between attempts.
    pub retry: RetryPolicy,
    /// Timeout of an attempt.
    pub attempt_timeout: Duration,
    /// Bytes that the job counts against its queue's limit.
    pub bytes: u64,
    /// Time at which the job was accepted.
    pub created: Timestamp,
    /// Time by which an attempt must have started; otherwise the job expires.
    pub expires: Option<Timestamp>,
    /// Rare fields; absent if the job has none of them.
    pub extras: Option<Box<Extras>>,
}

/// Rare fields of a job.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Extras {
    /// The client's own names and values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Names and values for the handler, beside the payload.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Description of the payload for the handler.
    #[serde(skip_serializing_if = "PayloadInfo::is_empty")]
    pub payload: PayloadInfo,
    /// The request id of the submission.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// The W3C trace context of the submission.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub traceparent: String,
    /// The W3C trace state of the submission.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tracestate: String,
    /// The client's original input, where the job itself does not show it.
    #[serde(skip_serializing_if = "ClientInput::is_empty")]
    pub said: ClientInput,
    /// Time by which the job must have ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// Limit of snoozes, if it is not the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_snoozes: Option<u32>,
    /// Limit of process losses, if it is not the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_process_losses: Option<u32>,
    /// The unique key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique: Option<Box<UniqueKey>>,
    /// The identity of the unique key.
    #[serde(skip)]
    pub key_hash: KnownHash,
    /// Its weights under limits, by their names; 1 under all others.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, u32>,
    /// Number of the jobs that the job depends on.
    #[serde(skip_serializing_if = "is_zero")]
    pub dependencies: u32,
    /// Id of the closure that runs the job, in the memory of the process that accepted it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub closure: String,
    /// The schedule that created the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Box<ScheduledBy>>,
}

impl Extras {
    /// Returns the identity of the unique key of a job of this queue and kind, if it has one.
    pub(crate) fn key_hash(&self, queue: &str, kind: &str) -> Option<KeyHash> {
        let unique = self.unique.as_ref()?;
        Some(self.key_hash.get_or_compute(|| unique.hash(queue, kind)))
    }

    /// Returns whether the job has no rare fields.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        // Field by field: a comparison with an empty value took a twelfth of the time of a batch's submission.
        let Extras {
            labels,
            headers,
            payload,
            request_id,
            traceparent,
            tracestate,
            said,
            deadline,
            max_snoozes,
            max_process_losses,
            unique,
            // It is there with the key.
            key_hash: _,
            weights,
            dependencies,
            closure,
            schedule,
        } = self;
        let texts = [request_id, traceparent, tracestate, closure];
        texts.into_iter().all(String::is_empty)
            && labels.is_empty()
            && headers.is_empty()
            && payload.is_empty()
            && said.is_empty()
            && deadline.is_none()
            && max_snoozes.is_none()
            && max_process_losses.is_none()
            && unique.is_none()
            && weights.is_empty()
            && *dependencies == 0
            && schedule.is_none()
    }

    /// Returns the bytes that count against a queue's limit: the fields that a client can make large.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let unique = self.unique.as_ref().map_or(0, |unique| unique.key.len());
        let weights: usize = self.weights.keys().map(|limit| limit.len() + size_of::<u32>()).sum();
        let entries =
            bytes_of(&self.labels) + bytes_of(&self.headers) + bytes_of(&self.payload.metadata) + weights;
        (entries + unique) as u64 + u64::from(self.dependencies) * Dependency::BYTES
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Spec {
    /// Number of snoozes that a job may have unless it says otherwise.
    pub const DEFAULT_MAX_SNOOZES: u32 = 1_000;
    /// Number of process losses that end a job unless it says otherwise.
    pub const DEFAULT_MAX_PROCESS_LOSSES: u32 = 3;
    /// Time within which process losses are counted together.
    pub const PROCESS_LOSS_WINDOW: Duration = Duration::from_secs(72 * 3_600);

    /// Returns the part of a deleted job's spec that is kept: labels for watchers, and the id by which its closure is
    /// released. All other extras are dropped.
    #[must_use]
    pub fn of_deleted(spec: &Arc<Spec>) -> Arc<Spec> {
        let Some(extras) = &spec.extras else { return Arc::clone(spec) };
        let Extras { labels, closure, .. } = &**extras;
        let kept = Extras { labels: labels.clone(), closure: closure.clone(), ..Extras::default() };
        let extras = (!kept.labels.is_empty() || !kept.closure.is_empty()).then(|| Box::new(kept));
        Arc::new(Spec { extras, ..Spec::clone(spec) })
    }

    /// Returns the time by which the job must have ended, if it has one.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        self.extras.as_ref().and_then(|extras| extras.deadline)
    }

    /// Returns the number of snoozes that the job may have.
    #[must_use]
    pub fn max_snoozes(&self) -> u32 {
        self.extras.as_ref().and_then(|extras| extras.max_snoozes).unwrap_or(Self::DEFAULT_MAX_SNOOZES)
    }

    /// Returns the number of process losses within [`Spec::PROCESS_LOSS_WINDOW`] that end the job.
    #[must_use]
    pub fn max_process_losses(&self) -> u32 {
        let said = self.extras.as_ref().and_then(|extras| extras.max_process_losses);
        said.unwrap_or(Self::DEFAULT_MAX_PROCESS_LOSSES)
    }

    /// Returns the schedule that created the job.
    #[must_use]
    pub fn schedule(&self) -> Option<&ScheduledBy> {
        self.extras.as_ref()?.schedule.as_deref()
    }

    /// Returns the request id under which the store keeps the job's submission.
    #[must_use]
    pub fn kept_request_id(&self) -> Option<&str> {
        let extras = self.extras.as_ref()?;
        // The request id of an instant is for people: the schedule's own row keeps it from being repeated.
        let is_kept = !extras.request_id.is_empty() && !extras.request_id.starts_with(RESERVED_PREFIX);
        is_kept.then_some(&*extras.request_id)
    }

    /// Returns the job's labels, if it has extras.
    #[must_use]
    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.extras.as_ref().map(|extras| &extras.labels)
    }

    /// Returns the job's unique key, if it has one.
    #[must_use]
    pub fn unique(&self) -> Option<&UniqueKey> {
        self.extras.as_ref()?.unique.as_deref()
    }

    /// Returns the identity of the job's unique key, if it has one.
    #[must_use]
    pub fn key_hash(&self) -> Option<KeyHash> {
        self.extras.as_ref()?.key_hash(self.queue.as_str(), self.kind.as_str())
    }

    /// Returns the text of the job's unique key, if it has one.
    #[must_use]
    pub fn key_name(&self) -> Option<KeyName> {
        let unique = self.unique()?;
        Some(KeyName {
            key: unique.key.clone(),
            scope: unique.scope(),
            queue: self.queue.as_str().to_owned(),
            kind: self.kind.as_str().to_owned(),
        })
    }

    /// Returns the number of the jobs that the job depends on.
    #[must_use]
    pub fn dependencies(&self) -> u32 {
        self.extras.as_ref().map_or(0, |extras| extras.dependencies)
    }

    /// Returns the size of the payload in bytes.
    #[must_use]
    pub fn payload_bytes(&self) -> u64 {
        let beside = Job::FIXED_BYTES + self.extras.as_ref().map_or(0, |extras| extras.bytes());
        self.bytes.saturating_sub(beside)
    }
}

/// A job as of one of its changes.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, PartialEq, Debug)]
pub struct Job {
    /// Id of the job.
    pub id: JobId,
    /// The part that the client submitted.
    pub spec: Arc<Spec>,
    /// The state.
    pub state: State,
    /// Number of changes so far, from 1.
    pub revision: u64,
    /// Position of the latest change in the feed.
    pub position: Position,
    /// Number of claimed attempts. It never falls.
    pub attempt: u32,
    /// Maximum number of counted attempts.
    pub max_attempts: u32,
    /// Time of the latest change.
    pub updated: Timestamp,
    /// Start time of the latest attempt; absent if that ended without having started.
    pub started: Option<Timestamp>,
    /// Time at which the job ended.
    pub ended: Option<Timestamp>,
    /// Progress of the running attempt.
    pub progress: Option<Arc<Progress>>,
    /// Failure of the latest attempt that ended without success.
    pub failure: Option<Arc<Failure>>,
    /// Size and description of the result; absent if there is none.
    pub result: Option<Arc<ResultInfo>>,
    /// The part of remote workers.
    pub remote: Remote,
    /// Fields that few jobs need; absent if the job has none of them.
    pub rare: Option<Box<Rare>>,
}

impl Job {
    /// Bytes that every job counts against its queue's limit, beside payload, labels, headers and metadata.
    pub const FIXED_BYTES: u64 = 256;

    /// Returns the fields that few jobs need.
    #[must_use]
    pub fn rare(&self) -> &Rare {
        self.rare.as_deref().unwrap_or(Rare::NONE)
    }

    /// Changes the fields that few jobs need.
    pub(crate) fn change_rare(&mut self, change: impl FnOnce(&mut Rare)) {
        let mut rare = self.rare.take().unwrap_or_default();
        change(&mut rare);
        self.rare = (*rare != *Rare::NONE).then_some(rare);
    }

    /// Returns whether an attempt has started. One that was claimed and given back has not.
    #[must_use]
    pub fn has_started(&self) -> bool {
        self.attempt > self.rare().never_started
    }

    /// Returns the number of attempts that count against the job's maximum, including one that runs.
    #[must_use]
    pub fn counted_attempts(&self) -> u32 {
        self.attempt.saturating_sub(self.rare().uncounted)
    }

    /// Returns the number of failures, by which the backoff grows.
    #[must_use]
    pub fn failures(&self) -> u32 {
        let no_failure = match self.state {
            State::Running { .. } | State::Cancelling { .. } | State::Succeeded => 1,
            State::Scheduled { .. }
            | State::Blocked { .. }
            | State::Queued { .. }
            | State::BackingOff { .. }
            | State::Failed
            | State::Cancelled
            | State::Expired => 0,
        };
        self.attempt.saturating_sub(self.rare().unfailed + no_failure)
    }

    /// Returns the timeout of the attempt that runs: no longer than what was left until the deadline when it started.
    #[must_use]
    pub fn attempt_timeout(&self) -> Duration {
        self.attempt_timeout_from(self.started.unwrap_or(self.updated))
    }

    /// Returns the timeout of an attempt that begins to work at `start`.
    #[must_use]
    pub fn attempt_timeout_from(&self, start: Timestamp) -> Duration {
        let left = self.spec.deadline().map(|deadline| deadline.since(start));
        left.map_or(self.spec.attempt_timeout, |left| left.min(self.spec.attempt_timeout))
    }

    /// Returns the time at which the job ends by itself, if it still waits then: its expiry while no attempt has
    /// started, and its deadline.
    #[must_use]
    pub fn waits_until(&self) -> Option<Timestamp> {
        match self.state {
            State::Scheduled { .. }
            | State::Blocked { .. }
            | State::Queued { .. }
            | State::BackingOff { .. } => {
                let expires = self.spec.expires.filter(|_| !self.has_started());
                expires.into_iter().chain(self.spec.deadline()).min()
            }
            State::Running { .. }
            | State::Cancelling { .. }
            | State::Succeeded
            | State::Failed
            | State::Cancelled
            | State::Expired => None,
        }
    }
}
