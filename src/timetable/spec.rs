//! The times of a schedule as they are given, and what may be wrong with them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

use super::parse::BYTES_MAX;

/// Most cron expressions of one schedule.
pub const CRONS_MAX: usize = 32;
/// Longest cron expression, in bytes.
pub const CRON_BYTES_MAX: usize = BYTES_MAX;
/// Shortest distance of `every`.
pub const EVERY_MIN: Duration = Duration::from_secs(1);
/// Longest distance of `every`: ten years of 366 days.
pub const EVERY_MAX: Duration = Duration::from_secs(10 * 366 * 86_400);

/// The times of a schedule, as an operator or a client gives them. Cron expressions and `every` may be combined: the
/// schedule then runs at the instants of all, once where several fall together.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TimetableSpec {
    /// Cron expressions of five fields, or six with seconds; at most [`CRONS_MAX`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub crons: Vec<String>,
    /// A fixed distance of elapsed time, from [`EVERY_MIN`] to [`EVERY_MAX`].
    #[serde(rename = "every_us", with = "micros", skip_serializing_if = "Option::is_none")]
    pub every: Option<Duration>,
    /// IANA name of the time zone of cron expressions and excluded dates. Empty: UTC.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub time_zone: String,
    /// Longest delay of a run. The delay of each instant is drawn once, from zero up to this.
    #[serde(rename = "jitter_us", with = "micros", skip_serializing_if = "Option::is_none")]
    pub jitter: Option<Duration>,
    /// The earliest instant. `every` counts from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<Timestamp>,
    /// The latest instant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<Timestamp>,
}

/// What is wrong with the times of a schedule.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct TimetableFault {
    /// The field, by its name in the protocol.
    pub field: &'static str,
    /// What is wrong, with the position and the limit where there is one, and what to write instead.
    pub problem: String,
}

/// Returns a fault of a field.
pub(super) fn fault(field: &'static str, problem: impl Into<String>) -> TimetableFault {
    TimetableFault { field, problem: problem.into() }
}

/// Formats a duration by its largest units: `1 h 30 min`.
pub(super) fn told(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [
        (seconds / 86_400, "d"),
        (seconds / 3_600 % 24, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let mut parts: Vec<_> = units
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count} {unit}"))
        .collect();
    if duration.subsec_micros() > 0 || parts.is_empty() {
        parts.push(format!("{} µs", duration.subsec_micros()));
    }
    parts.join(" ")
}

/// Durations as whole microseconds.
mod micros {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
    pub(super) fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        duration.map(|duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(deserializer)?.map(Duration::from_micros))
    }
}
