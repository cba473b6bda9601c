//! The counts of a job that differ from the plain number of its attempts.

use serde::{Deserialize, Serialize};

use crate::clock::StoreTime;

/// Changing fields that few jobs need. A job has none while each of its attempts ran until it succeeded or failed.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Rare {
    /// Number of submissions with the job's unique key whose input it took over.
    #[serde(skip_serializing_if = "is_zero")]
    pub replaced: u32,
    /// Number of attempts that were claimed, and given back before they had started.
    #[serde(skip_serializing_if = "is_zero")]
    pub never_started: u32,
    /// Number of attempts that do not count against the job's maximum.
    #[serde(skip_serializing_if = "is_zero")]
    pub uncounted: u32,
    /// Number of ended attempts that are no failures for the backoff.
    #[serde(skip_serializing_if = "is_zero")]
    pub unfailed: u32,
    /// Number of attempts that asked to be run later.
    #[serde(skip_serializing_if = "is_zero")]
    pub snoozes: u32,
    /// Whether the job waits because its latest attempt asked to be run later.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub snoozed: bool,
    /// Number of attempts whose process died.
    #[serde(skip_serializing_if = "is_zero")]
    pub process_losses: u32,
    /// Times of the latest of these deaths, on the timeline of backoffs, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty", with = "micros")]
    pub loss_times: Vec<StoreTime>,
    /// Whether other jobs depend on this one, or have depended on it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub has_dependents: bool,
}

impl Rare {
    /// The value of a job without such fields.
    pub(crate) const NONE: &'static Rare = &Rare {
        replaced: 0,
        never_started: 0,
        uncounted: 0,
        unfailed: 0,
        snoozes: 0,
        snoozed: false,
        process_losses: 0,
        loss_times: Vec::new(),
        has_dependents: false,
    };
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// Serialisation of times as whole microseconds.
mod micros {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::clock::StoreTime;

    pub(super) fn serialize<S: Serializer>(times: &[StoreTime], serializer: S) -> Result<S::Ok, S::Error> {
        times.iter().map(|time| time.as_micros()).collect::<Vec<_>>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<StoreTime>, D::Error> {
        Ok(Vec::<i64>::deserialize(deserializer)?.into_iter().map(StoreTime::from_micros).collect())
    }
}
