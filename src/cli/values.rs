//! Parsers of option values, which run before anything starts.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};

use jobmill::{
    client::{from_wire_duration, to_wire_duration},
    clock::Timestamp,
    proto::v1::{JobState, Keep, WhenFull, keep},
};

/// Parses a duration: `5m`, `1h 30m`, `250ms`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "write it like 250ms, 30s, 5m or 1h".to_owned())
}

/// Parses a duration that is longer than zero.
pub(super) fn positive_duration(text: &str) -> Result<Duration, String> {
    Some(duration(text)?)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "must be longer than 0".to_owned())
}

/// Parses an instant in RFC 3339.
pub(super) fn instant(text: &str) -> Result<Timestamp, String> {
    let instant: jiff::Timestamp = text
        .parse()
        .map_err(|_| "write it like 2030-01-31T12:00:00Z or 2030-01-31T12:00:00+02:00".to_owned())?;
    Ok(Timestamp::from_micros(instant.as_microsecond()))
}

/// Parses `key=value`.
pub(super) fn entry(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err("write it like key=value".to_owned()),
    }
}

/// Parses a weight, `limit=number`.
pub(super) fn weight(text: &str) -> Result<(String, i32), String> {
    let weight = entry(text).ok().and_then(|(limit, weight)| Some((limit, weight.parse().ok()?)));
    weight
        .filter(|(_, weight)| (1..=1_000_000).contains(weight))
        .ok_or_else(|| "write it like gpu=4, with 1 to 1000000".to_owned())
}

/// Parses the name of a state in any case, with `-` or `_`.
pub(super) fn state(text: &str) -> Result<JobState, String> {
    let name = text.to_ascii_uppercase().replace('-', "_");
    let name = name.strip_prefix("JOB_STATE_").unwrap_or(&name);
    JobState::from_str_name(&format!("JOB_STATE_{name}"))
        .filter(|state| *state != JobState::Unspecified)
        .ok_or_else(|| {
            "one of SCHEDULED, BLOCKED, QUEUED, RUNNING, BACKING_OFF, CANCELLING, SUCCEEDED, FAILED, CANCELLED, EXPIRED"
                .to_owned()
        })
}

/// Retention time of ended jobs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum KeepArg {
    /// For this long.
    For(Duration),
    /// Until they are deleted by a call.
    Forever,
    /// The server's default.
    Default,
}

impl KeepArg {
    pub(super) fn to_wire(self) -> Option<Keep> {
        let keep = match self {
            KeepArg::For(time) => keep::Keep::Time(to_wire_duration(time)),
            KeepArg::Forever => keep::Keep::Forever(true),
            KeepArg::Default => return None,
        };
        Some(Keep { keep: Some(keep) })
    }
}

/// Parses a retention time: `24h`, `forever` or `default`.
pub(super) fn keep(text: &str) -> Result<KeepArg, String> {
    match text {
        "forever" => Ok(KeepArg::Forever),
        "default" => Ok(KeepArg::Default),
        text => duration(text)
            .map(KeepArg::For)
            .map_err(|_| "write it like 30m, 24h or 14days, or `forever` or `default`".to_owned()),
    }
}

/// Formats a retention time. Returns `None` for a form that this program does not know.
pub(super) fn kept(keep: &Keep) -> Option<String> {
    match keep.keep? {
        keep::Keep::Time(time) => Some(super::text::duration(from_wire_duration(&time))),
        keep::Keep::Forever(forever) => forever.then(|| "for ever".to_owned()),
    }
}

/// What to do when a queue is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum WhenFullArg {
    /// Wait for room
    Wait,
    /// Refuse at once
    Reject,
}

impl From<WhenFullArg> for WhenFull {
    fn from(arg: WhenFullArg) -> Self {
        match arg {
            WhenFullArg::Wait => WhenFull::Wait,
            WhenFullArg::Reject => WhenFull::Reject,
        }
    }
}

/// Parses a number of bytes: `4096`, `64KiB`, `1.5GiB`, `10MB`.
pub(super) fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 9] = [
        ("", 1),
        ("b", 1),
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("tib", 1 << 40),
        ("kb", 1_000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
    ];
    let fault = || "write it like 4096, 64MiB or 1GiB".to_owned();
    let text = text.trim().to_ascii_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (_, factor) = UNITS.into_iter().find(|(name, _)| *name == unit.trim()).ok_or_else(fault)?;
    if !number.contains('.') {
        // Whole numbers are parsed exactly, and refused where they overflow.
        return number.parse().ok().and_then(|whole: u64| whole.checked_mul(factor)).ok_or_else(fault);
    }
    let number: f64 = number.parse().map_err(|_| fault())?;
    Ok((number * factor as f64) as u64)
}

/// Encodes bytes in base64.
pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        for (text, expected) in [
            ("0", 0),
            ("4096", 4096),
            ("64KiB", 65_536),
            ("1.5 MiB", 1_572_864),
            ("10MB", 10_000_000),
            ("1tib", 1 << 40),
        ] {
            assert_eq!(size(text), Ok(expected), "{text}");
        }
        for text in ["", "x", "1XB", "-1", "1..2MiB", "99999999999999999999", "18446744073709551615KiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn states_read_in_any_case() {
        for text in ["backing-off", "BACKING_OFF", "job_state_backing_off", "Backing_Off"] {
            assert_eq!(state(text), Ok(JobState::BackingOff));
        }
        assert!(state("unspecified").is_err());
    }

    #[test]
    fn an_entry_may_have_an_empty_value_and_more_equals_signs() {
        assert_eq!(entry("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(entry("a="), Ok(("a".into(), String::new())));
        assert!(entry("=a").is_err());
        assert!(entry("a").is_err());
    }

    #[test]
    fn a_weight_is_a_limit_and_a_number() {
        assert_eq!(weight("gpu=4"), Ok(("gpu".into(), 4)));
        for text in ["gpu", "gpu=", "=4", "gpu=0", "gpu=-1", "gpu=1000001", "gpu=1.5", "gpu=99999999999"] {
            assert!(weight(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_read_whole() {
        assert_eq!(duration("1h 30m"), Ok(Duration::from_secs(5400)));
        assert!(duration("-1s").is_err());
        assert!(positive_duration("0s").is_err());
    }
}
