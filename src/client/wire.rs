//! Conversions between the library's types and the protocol's.

use std::time::Duration;

use crate::{
    clock::Timestamp,
    proto::v1::{JobSpec, SubmitAndWatchRequest, SubmitItem, SubmitRequest},
};

/// Converts a duration to the protocol's type.
#[must_use]
pub fn to_wire_duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos() as i32,
    }
}

/// Converts a duration from the protocol's type. A negative one becomes zero.
#[must_use]
pub fn from_wire_duration(duration: &prost_types::Duration) -> Duration {
    Duration::try_from(*duration).unwrap_or_default()
}

/// Converts an instant to the protocol's type.
#[must_use]
pub fn to_wire_timestamp(instant: Timestamp) -> prost_types::Timestamp {
    let micros = instant.as_micros();
    prost_types::Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: micros.rem_euclid(1_000_000) as i32 * 1_000,
    }
}

/// Converts an instant from the protocol's type, to whole microseconds.
#[must_use]
pub fn from_wire_timestamp(instant: &prost_types::Timestamp) -> Timestamp {
    let micros = instant.seconds.saturating_mul(1_000_000).saturating_add(i64::from(instant.nanos) / 1_000);
    Timestamp::from_micros(micros)
}

impl From<JobSpec> for SubmitRequest {
    fn from(job: JobSpec) -> Self {
        SubmitRequest { job: Some(job), ..Default::default() }
    }
}

impl From<JobSpec> for SubmitItem {
    fn from(job: JobSpec) -> Self {
        SubmitItem { job: Some(job), ..Default::default() }
    }
}

impl From<JobSpec> for SubmitAndWatchRequest {
    fn from(job: JobSpec) -> Self {
        SubmitAndWatchRequest { job: Some(job), ..Default::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_before_1970_keep_their_sign() {
        for micros in [0, 1, -1, -1_000_000, 1_700_000_000_123_456] {
            let instant = Timestamp::from_micros(micros);
            let wire = to_wire_timestamp(instant);
            assert!((0..1_000_000_000).contains(&wire.nanos), "{micros}");
            assert_eq!(from_wire_timestamp(&wire), instant, "{micros}");
        }
    }
}
