//! The defaults of a kind's jobs, and the most that submissions may ask for.

use std::{fmt::Display, sync::Arc, time::Duration};

use super::{
    rules::{DurationIn, FloatIn, IntIn},
    schedule_rules::Name,
    section::{Reading, Section},
};
use crate::{
    job::{RetryPolicy, names::check_limit_name},
    settings::{
        JobBounds, KindDefaults,
        limits::{self, DEFAULT_SNOOZE_DELAY},
    },
};

/// The keys of `[kinds."NAME"]` for the defaults of its jobs.
pub(super) const DEFAULT_KEYS: [&str; 7] =
    ["max_attempts", "attempt_timeout", "deadline", "max_snoozes", "max_process_losses", "retry", "bounds"];

/// The keys of `[kinds."NAME".retry]`.
pub(super) const RETRY_KEYS: [&str; 5] = ["initial_delay", "max_delay", "multiplier", "jitter", "delays"];

/// The keys of `[kinds."NAME".bounds]`.
pub(super) const BOUND_KEYS: [&str; 5] =
    ["max_attempts", "attempt_timeout", "max_snoozes", "max_process_losses", "max_delay"];

/// Reads the defaults of a kind's jobs. A default above the kind's own bound is a fault.
pub(super) fn defaults(section: &Section<'_>, reading: &mut Reading<'_>) -> KindDefaults {
    let default = KindDefaults::default();
    let attempts = IntIn(limits::MAX_ATTEMPTS);
    let timeout = DurationIn(limits::ATTEMPT_TIMEOUT);
    let deadline = DurationIn(limits::DEADLINE);
    let snoozes = IntIn(limits::MAX_SNOOZES);
    let losses = IntIn(limits::MAX_PROCESS_LOSSES);
    let mut defaults = KindDefaults {
        max_attempts: section.setting("max_attempts", &attempts, default.max_attempts, reading),
        attempt_timeout: section.setting("attempt_timeout", &timeout, default.attempt_timeout, reading),
        deadline: section.optional("deadline", &deadline, reading),
        max_snoozes: section.setting("max_snoozes", &snoozes, default.max_snoozes, reading),
        max_process_losses: section.setting(
            "max_process_losses",
            &losses,
            default.max_process_losses,
            reading,
        ),
        retry: retry(section, reading),
        bounds: JobBounds::default(),
    };
    let table = section.table("bounds", reading);
    let inner = Section::open(section.key("bounds"), table, &BOUND_KEYS, reading);
    defaults.bounds = JobBounds {
        max_attempts: inner.optional("max_attempts", &attempts, reading),
        attempt_timeout: inner.optional("attempt_timeout", &timeout, reading),
        max_delay: inner.optional("max_delay", &DurationIn(limits::RETRY_DELAY), reading),
        max_snoozes: inner.optional("max_snoozes", &snoozes, reading),
        max_process_losses: inner.optional("max_process_losses", &losses, reading),
    };
    check(&inner, &defaults, reading);
    defaults
}

fn retry(section: &Section<'_>, reading: &mut Reading<'_>) -> RetryPolicy {
    let table = section.table("retry", reading);
    let retry = Section::open(section.key("retry"), table, &RETRY_KEYS, reading);
    let delay = DurationIn(limits::RETRY_DELAY);
    let usual = RetryPolicy::DEFAULT;
    let delays = listed_delays(&retry, reading);
    let multiplier = FloatIn(limits::RETRY_MULTIPLIER);
    RetryPolicy {
        initial_delay: retry.setting("initial_delay", &delay, usual.initial_delay, reading),
        max_delay: retry.setting("max_delay", &delay, usual.max_delay, reading),
        multiplier: retry.setting("multiplier", &multiplier, usual.multiplier, reading),
        jitter: retry.setting("jitter", &FloatIn(limits::RETRY_JITTER), usual.jitter, reading),
        delays,
    }
}

/// Reads the listed delays of a retry policy, which can't have growing ones, too.
pub(super) fn listed_delays(retry: &Section<'_>, reading: &mut Reading<'_>) -> Option<Arc<[Duration]>> {
    let delay = DurationIn(limits::RETRY_DELAY);
    let delays = retry.list_setting("delays", limits::RETRY_DELAYS_MAX, &delay, reading);
    let growing = ["initial_delay", "max_delay", "multiplier"];
    if let Some(key) = growing.into_iter().find(|key| !delays.is_empty() && retry.get(key).is_some()) {
        let advice = "`delays` takes the place of growing delays; leave one of them out";
        reading.fault_at(&retry.key_span(key), retry.key(key), advice);
    }
    (!delays.is_empty()).then(|| delays.into())
}

/// Reads the name of the limit that starts nothing until the end of such a delay.
pub(super) fn snooze_pauses(section: &Section<'_>, reading: &mut Reading<'_>) -> Option<String> {
    section.optional("snooze_pauses", &Name(check_limit_name), reading)
}

/// Reads the delay after an attempt that asks to be run again later, where it tells no other.
pub(super) fn snooze_delay(section: &Section<'_>, reading: &mut Reading<'_>) -> Duration {
    section.setting("snooze_delay", &DurationIn(limits::RETRY_DELAY), DEFAULT_SNOOZE_DELAY, reading)
}

/// Checks that a submission which leaves everything out fits the bounds.
fn check(section: &Section<'_>, defaults: &KindDefaults, reading: &mut Reading<'_>) {
    let KindDefaults {
        max_attempts, attempt_timeout, retry, bounds, max_snoozes, max_process_losses, ..
    } = defaults;
    let longest = retry.longest_delay();
    hold(section, "max_attempts", *max_attempts, bounds.max_attempts, u32::to_string, reading);
    hold(section, "attempt_timeout", *attempt_timeout, bounds.attempt_timeout, text, reading);
    hold(section, "max_delay", longest, bounds.max_delay, text, reading);
    hold(section, "max_snoozes", *max_snoozes, bounds.max_snoozes, u32::to_string, reading);
    let losses = bounds.max_process_losses;
    hold(section, "max_process_losses", *max_process_losses, losses, u32::to_string, reading);
}

fn text(duration: &Duration) -> String {
    humantime::format_duration(*duration).to_string()
}

fn hold<T: Copy + PartialOrd>(
    section: &Section<'_>,
    key: &str,
    default: T,
    bound: Option<T>,
    show: impl Fn(&T) -> String,
    reading: &mut Reading<'_>,
) {
    if let Some(bound) = bound
        && default > bound
    {
        let message = over(&show(&bound), &show(&default));
        reading.fault_at(&section.key_span(key), section.key(key), message);
    }
}

fn over(bound: &impl Display, default: &impl Display) -> String {
    format!("this bound of {bound} is less than the kind's own default, {default}; lower that, too")
}
