//! Unique keys: at most one job holds a key at a time.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    sync::OnceLock,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{ids::JobId, request::RequestId};
use crate::clock::{StoreTime, Timestamp};

/// The unique key of a submission, as its client gave it.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct UniqueKey {
    /// The key.
    pub key: String,
    /// The scope within which the key is unique.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<UniqueScope>,
    /// The policy while the holder has never started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_waiting: Option<OnConflict>,
    /// The policy once the holder has started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_started: Option<OnConflict>,
    /// Time for which the key is held after the holder's end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<Duration>,
    /// Postponement of the start by each further submission.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debounce: Option<Debounce>,
    /// The shortest time from one start to the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttle: Option<Duration>,
}

/// Postponement of a start by each further submission with the same key.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Debounce {
    /// Time from the latest submission to the start.
    pub quiet: Duration,
    /// Longest time from the first submission to the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_wait: Option<Duration>,
}

impl Debounce {
    /// The default of `max_wait`, as a multiple of `quiet`.
    pub const MAX_WAIT_FACTOR: u32 = 10;

    /// Returns the start of a job that was first submitted at `first`, and latest at `now`.
    #[must_use]
    pub fn start(self, first: Timestamp, now: Timestamp) -> Timestamp {
        let max_wait = self.max_wait.unwrap_or_else(|| self.quiet.saturating_mul(Self::MAX_WAIT_FACTOR));
        now.after(self.quiet).min(first.after(max_wait))
    }
}

/// The scope of a unique key. The numbers are those of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum UniqueScope {
    /// The jobs of one kind, in all queues.
    Kind = 1,
    /// The jobs of one queue.
    Queue = 2,
    /// All jobs.
    Namespace = 3,
}

/// The policy for a submission whose key another job holds. The numbers are those of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum OnConflict {
    /// No job is created; the answer is the holder.
    ReturnExisting = 1,
    /// The submission is refused.
    Reject = 2,
    /// The holder, which waits, takes over the submission's input.
    Replace = 3,
    /// The job waits for the holder's end, as its one successor.
    Follow = 4,
    /// The holder is cancelled, and the job follows it.
    Cancel = 5,
}

/// The identity of a unique key, with its scope, in 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyHash(pub [u8; 16]);

impl Ord for KeyHash {
    fn cmp(&self, other: &Self) -> Ordering {
        // The order of the bytes, in two comparisons: a batch sorts thousands of them.
        u128::from_be_bytes(self.0).cmp(&u128::from_be_bytes(other.0))
    }
}

impl PartialOrd for KeyHash {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for KeyHash {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // The second half is a part of a SHA-256, whatever the key is.
        let (_, digest) = self.0.split_at(8);
        state.write(digest);
    }
}

/// The identity of a job's unique key, once it was needed. It takes no part in comparisons.
#[derive(Clone, Default)]
pub struct KnownHash(OnceLock<KeyHash>);

impl fmt::Debug for KnownHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KnownHash")
    }
}

impl PartialEq for KnownHash {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for KnownHash {}

impl From<Option<KeyHash>> for KnownHash {
    fn from(hash: Option<KeyHash>) -> Self {
        KnownHash(hash.map(OnceLock::from).unwrap_or_default())
    }
}

impl KnownHash {
    /// Returns the identity, and computes it the first time.
    pub(crate) fn get_or_compute(&self, compute: impl FnOnce() -> KeyHash) -> KeyHash {
        *self.0.get_or_init(compute)
    }
}

impl From<&str> for UniqueKey {
    fn from(key: &str) -> Self {
        UniqueKey::new(key)
    }
}

impl From<String> for UniqueKey {
    fn from(key: String) -> Self {
        UniqueKey::new(key)
    }
}

impl UniqueKey {
    /// Creates a key of 1 to 256 bytes for the jobs of one kind. A submission whose key another job holds gets that job.
    #[must_use]
    pub fn new(key: impl Into<String>) -> Self {
        UniqueKey { key: key.into(), ..UniqueKey::default() }
    }

    /// Sets the scope within which the key is unique.
    #[must_use]
    pub fn with_scope(self, scope: UniqueScope) -> Self {
        UniqueKey { scope: Some(scope), ..self }
    }

    /// Sets what becomes of the submission while the holder has never started: not [`OnConflict::Cancel`].
    #[must_use]
    pub fn while_waiting(self, policy: OnConflict) -> Self {
        UniqueKey { on_waiting: Some(policy), ..self }
    }

    /// Sets what becomes of the submission once the holder has started: not [`OnConflict::Replace`].
    #[must_use]
    pub fn once_started(self, policy: OnConflict) -> Self {
        UniqueKey { on_started: Some(policy), ..self }
    }

    /// Holds the key for this time after the job's end.
    #[must_use]
    pub fn with_hold(self, hold: Duration) -> Self {
        UniqueKey { hold: Some(hold), ..self }
    }

    /// Starts the job once this time has passed without a further submission, and at most `max_wait` after the first
    /// one.
    #[must_use]
    pub fn debounced(self, quiet: Duration, max_wait: Duration) -> Self {
        UniqueKey { debounce: Some(Debounce { quiet, max_wait: Some(max_wait) }), ..self }
    }

    /// Starts at most one job in each such period.
    #[must_use]
    pub fn throttled(self, period: Duration) -> Self {
        UniqueKey { throttle: Some(period), ..self }
    }

    /// Returns the scope in force.
    #[must_use]
    pub fn scope(&self) -> UniqueScope {
        self.scope.unwrap_or(UniqueScope::Kind)
    }

    /// Returns whether each further submission changes the job that waits.
    fn keeps_the_latest(&self) -> bool {
        self.debounce.is_some() || self.throttle.is_some()
    }

    /// Returns the policy in force while the holder has never started.
    #[must_use]
    pub fn on_waiting(&self) -> OnConflict {
        let default = if self.keeps_the_latest() { OnConflict::Replace } else { OnConflict::ReturnExisting };
        self.on_waiting.unwrap_or(default)
    }

    /// Returns the policy in force once the holder has started. Unless it is given, it is that of a waiting holder; a
    /// submission that would replace input follows the holder, so that it is not lost.
    #[must_use]
    pub fn on_started(&self) -> OnConflict {
        self.on_started.unwrap_or(match self.on_waiting() {
            OnConflict::Replace => OnConflict::Follow,
            other @ (OnConflict::ReturnExisting
            | OnConflict::Reject
            | OnConflict::Follow
            | OnConflict::Cancel) => other,
        })
    }

    /// Returns whether a submission with the key may change the job that holds it.
    #[must_use]
    pub fn changes_holder(&self) -> bool {
        self.on_waiting() == OnConflict::Replace || self.on_started() == OnConflict::Cancel
    }

    /// Returns the key's identity for a job of this queue and kind.
    ///
    /// The first half of a UUID is kept, so that time-ordered ones keep their order in the store's index.
    #[must_use]
    pub fn hash(&self, queue: &str, kind: &str) -> KeyHash {
        let (scope, of) = match self.scope() {
            UniqueScope::Kind => (b"kind".as_slice(), kind),
            UniqueScope::Queue => (b"queue".as_slice(), queue),
            UniqueScope::Namespace => (b"namespace".as_slice(), ""),
        };
        let mut hash = RequestId::hash(&[b"jobmill unique key", scope, of.as_bytes(), self.key.as_bytes()]);
        if let Ok(uuid) = uuid::Uuid::try_parse(&self.key) {
            let (start, _) = hash.split_at_mut(8);
            start.copy_from_slice(&uuid.as_bytes()[..8]);
        }
        KeyHash(hash)
    }
}

/// A held key, as stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyRow {
    /// The job that holds the key, or held it last.
    pub holder: JobId,
    /// The job that waits for the holder's end.
    pub successor: Option<JobId>,
    /// Time on the timeline of backoffs until which the key is held after its holder's end. While the holder waits, the
    /// earliest start.
    pub until: Option<StoreTime>,
    /// The key's own text, once the holder may be gone.
    pub name: Option<Box<KeyName>>,
}

/// The text of a key whose last holder has ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KeyName {
    /// The key.
    pub key: String,
    /// The scope.
    pub scope: UniqueScope,
    /// The queue of the last holder.
    pub queue: String,
    /// The kind of the last holder.
    pub kind: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str, scope: UniqueScope) -> UniqueKey {
        UniqueKey { key: text.into(), scope: Some(scope), ..UniqueKey::default() }
    }

    #[test]
    fn a_key_is_of_its_scope() {
        use UniqueScope::{Kind, Namespace, Queue};

        let hash = |scope, queue, kind| key("a", scope).hash(queue, kind);
        assert_eq!(hash(Kind, "q", "k"), hash(Kind, "other", "k"));
        assert_ne!(hash(Kind, "q", "k"), hash(Kind, "q", "other"));
        assert_eq!(hash(Queue, "q", "k"), hash(Queue, "q", "other"));
        assert_ne!(hash(Queue, "q", "k"), hash(Queue, "other", "k"));
        assert_eq!(hash(Namespace, "q", "k"), hash(Namespace, "other", "other"));
        assert_ne!(hash(Queue, "a", "a"), hash(Kind, "a", "a"));
        assert_ne!(key("a", Kind).hash("q", "k"), key("b", Kind).hash("q", "k"));
        assert_eq!(
            UniqueKey { key: "a".into(), ..UniqueKey::default() }.hash("q", "k"),
            hash(Kind, "q", "k")
        );
    }

    #[test]
    fn time_ordered_uuids_keep_their_order() {
        let hashes: Vec<KeyHash> = (0..3_u64)
            .map(|second| {
                let time = uuid::Timestamp::from_unix(uuid::NoContext, 1_700_000_000 + second, 0);
                key(&uuid::Uuid::new_v7(time).to_string(), UniqueScope::Kind).hash("q", "k")
            })
            .collect();
        assert!(hashes.is_sorted());
        let [a, b] =
            ["k", "l"].map(|kind| key(&uuid::Uuid::nil().to_string(), UniqueScope::Kind).hash("q", kind));
        assert_ne!(a, b, "the scope counts all the same");
    }

    #[test]
    fn policies_that_are_not_given_follow_from_the_others() {
        use OnConflict::{Follow, Reject, Replace, ReturnExisting};

        let policies = |unique: UniqueKey| (unique.on_waiting(), unique.on_started());
        let none = UniqueKey::default;
        assert_eq!(policies(none()), (ReturnExisting, ReturnExisting));
        assert_eq!(policies(UniqueKey { on_waiting: Some(Reject), ..none() }), (Reject, Reject));
        assert_eq!(policies(UniqueKey { on_waiting: Some(Replace), ..none() }), (Replace, Follow));
        assert_eq!(
            policies(UniqueKey { throttle: Some(Duration::from_secs(1)), ..none() }),
            (Replace, Follow)
        );
        let debounce = Some(Debounce::default());
        let existing = Some(ReturnExisting);
        assert_eq!(
            policies(UniqueKey { debounce, on_started: existing, ..none() }),
            (Replace, ReturnExisting)
        );
    }

    #[test]
    fn a_start_is_put_off_up_to_the_longest_wait() {
        let at = |seconds: i64| Timestamp::from_micros(seconds * 1_000_000);
        let quiet = Duration::from_secs(5);
        let debounce = Debounce { quiet, max_wait: Some(Duration::from_secs(12)) };
        assert_eq!(debounce.start(at(0), at(0)), at(5));
        assert_eq!(debounce.start(at(0), at(7)), at(12));
        assert_eq!(debounce.start(at(0), at(20)), at(12));
        assert_eq!(Debounce { quiet, max_wait: None }.start(at(0), at(1_000)), at(50));
    }
}
