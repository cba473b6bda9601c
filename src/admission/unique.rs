//! Validation rules for the unique key of a submission.

use std::{ops::RangeInclusive, time::Duration};

use super::rules::{RuleResult, duration};
use crate::{
    job::{OnConflict, UniqueKey, When},
    settings::limits,
};

/// Byte limit of a unique key.
pub(crate) const UNIQUE_KEY_MAX_BYTES: usize = 256;
/// Allowed range of the times of a unique key.
pub(crate) const UNIQUE_TIMES: RangeInclusive<Duration> = Duration::from_millis(1)..=limits::TEN_YEARS;

/// Checks the text of a key.
pub(crate) fn key(key: &str) -> RuleResult {
    if key.is_empty() {
        return Err(format!("is required: 1 to {UNIQUE_KEY_MAX_BYTES} bytes"));
    }
    if key.len() > UNIQUE_KEY_MAX_BYTES {
        let bytes = key.len();
        return Err(format!("has {bytes} bytes; at most {UNIQUE_KEY_MAX_BYTES} are allowed: use a hash of it"));
    }
    match key.char_indices().find(|(_, letter)| letter.is_control()) {
        Some((at, letter)) => {
            let code = u32::from(letter);
            Err(format!("has the control character U+{code:04X} at byte {at}: encode it, or leave it out"))
        }
        None => Ok(()),
    }
}

/// Returns every fault of a unique key, each with the name of its field.
pub(crate) fn unique(unique: &UniqueKey, start: Option<When>) -> Vec<(&'static str, String)> {
    let UniqueKey { key, on_waiting, on_started, hold, debounce, throttle, .. } = unique;
    let time = |time: Option<Duration>| time.map_or(Ok(()), |time| duration(time, &UNIQUE_TIMES));
    let of_waiting = match on_waiting {
        Some(OnConflict::Cancel) => {
            Err("can't be CANCEL, because the holder has not started then: use REPLACE, so that it takes over the input")
        }
        Some(OnConflict::ReturnExisting | OnConflict::Reject | OnConflict::Follow)
            if debounce.is_some() || throttle.is_some() =>
        {
            Err("must be REPLACE with debounce or throttle, of which the latest submission runs: leave it out")
        }
        Some(_) | None => Ok(()),
    };
    let of_started = match on_started {
        Some(OnConflict::Replace) => {
            Err("can't be REPLACE, because the holder runs with its input then: use FOLLOW, so that the job runs after it")
        }
        Some(_) | None => Ok(()),
    };
    let of_debounce = match debounce {
        Some(_) if start.is_some() => {
            Err("can't be set beside run_time or delay, because it decides the start: leave one of them out")
        }
        Some(_) | None => Ok(()),
    };
    let of_throttle = match (throttle, debounce) {
        (Some(_), Some(_)) => Err("can't be set beside debounce: leave one of them out"),
        (Some(_) | None, Some(_) | None) => Ok(()),
    };
    let max_wait = debounce.and_then(|debounce| {
        let wait = debounce.max_wait?;
        Some(if wait < debounce.quiet { Err("is shorter than quiet".to_owned()) } else { time(Some(wait)) })
    });
    let told = |verdict: Result<(), &str>| verdict.map_err(str::to_owned);
    let verdicts = [
        ("key", self::key(key)),
        ("on_waiting", told(of_waiting)),
        ("on_started", told(of_started)),
        ("hold", time(*hold)),
        ("debounce", told(of_debounce)),
        ("debounce.quiet", time(debounce.map(|debounce| debounce.quiet))),
        ("debounce.max_wait", max_wait.unwrap_or(Ok(()))),
        ("throttle", told(of_throttle).and_then(|()| time(*throttle))),
    ];
    verdicts.into_iter().filter_map(|(field, verdict)| Some((field, verdict.err()?))).collect()
}

/// Returns the start of a job, for the check of its expiry.
pub(crate) fn start(unique: Option<&UniqueKey>, start: Option<When>) -> Option<When> {
    let debounce = unique.and_then(|unique| unique.debounce);
    start.or(debounce.map(|debounce| When::After(debounce.quiet)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Debounce;

    fn faults(unique: &UniqueKey) -> Vec<&'static str> {
        super::unique(unique, None).into_iter().map(|(field, _)| field).collect()
    }

    #[test]
    fn settings_that_contradict_each_other_are_named() {
        let second = Some(Duration::from_secs(1));
        let good = UniqueKey { key: "order 17 ü".into(), hold: second, ..UniqueKey::default() };
        assert_eq!(super::unique(&good, None), []);
        let debounce = Some(Debounce { quiet: Duration::from_secs(2), max_wait: second });
        let bad = UniqueKey {
            key: "a\0b".into(),
            on_waiting: Some(OnConflict::Cancel),
            on_started: Some(OnConflict::Replace),
            hold: Some(Duration::ZERO),
            debounce,
            throttle: second,
            ..UniqueKey::default()
        };
        let fields = ["key", "on_waiting", "on_started", "hold", "debounce.max_wait", "throttle"];
        assert_eq!(faults(&bad), fields);
        let (at, told) = &super::unique(&bad, None)[0];
        assert_eq!((*at, told.as_str()), ("key", "has the control character U+0000 at byte 1: encode it, or leave it out"));
        for (key, fits) in [("", false), ("x", true), (&"x".repeat(256), true), (&"x".repeat(257), false)] {
            assert_eq!(super::key(key).is_ok(), fits);
        }
        for on_waiting in [OnConflict::ReturnExisting, OnConflict::Reject, OnConflict::Follow] {
            let unique = UniqueKey { throttle: second, on_waiting: Some(on_waiting), ..good.clone() };
            assert_eq!(faults(&unique), ["on_waiting"]);
        }
        let replace = Some(OnConflict::Replace);
        assert_eq!(faults(&UniqueKey { throttle: second, on_waiting: replace, ..good.clone() }), [""; 0]);
        let quiet = Debounce { quiet: Duration::ZERO, max_wait: None };
        assert_eq!(faults(&UniqueKey { debounce: Some(quiet), ..good.clone() }), ["debounce.quiet"]);
        let with_start = super::unique(
            &UniqueKey { debounce: Some(Debounce { quiet: Duration::from_secs(1), max_wait: None }), ..good },
            Some(When::After(Duration::ZERO)),
        );
        assert_eq!(with_start.len(), 1);
        assert_eq!(with_start[0].0, "debounce");
    }
}
