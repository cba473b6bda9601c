//! Validation rules for the fields of a submission, the same over the wire and from the embedding program. Errors in a
//! request's encoding are detected elsewhere.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive, time::Duration};

use super::{dependencies, unique};
use crate::{
    clock::Timestamp,
    job::{JobDraft, PartialRetryPolicy, RESERVED_PREFIX, When, names},
    settings::limits,
};

pub(crate) const PAYLOAD_MAX_BYTES: usize = 1 << 20;
pub(crate) const MEDIA_TYPE_MAX_BYTES: usize = 128;
pub(crate) const METADATA_MAX: usize = 16;
pub(crate) const METADATA_MAX_BYTES: usize = 4 << 10;
pub(crate) const HEADERS_MAX: usize = 32;
pub(crate) const HEADERS_MAX_BYTES: usize = 8 << 10;
const HEADER_KEY_MAX_BYTES: usize = 63;
/// Prefixes of header keys that are reserved for gRPC and Jobmill.
const RESERVED_HEADERS: [&str; 2] = ["grpc-", "jobmill-"];
pub(crate) const LABELS_MAX: usize = 32;
const LABEL_KEY_MAX_BYTES: usize = 63;
const LABEL_KEY_FORM: &str = "1 to 63 of a-z, A-Z, 0-9, `-`, `_`, `.`, `/`";
pub(crate) const LABEL_VALUE_MAX_BYTES: usize = 256;
const PRIORITY: RangeInclusive<i32> = -100..=100;
pub(crate) const REQUEST_ID_MAX_BYTES: usize = 128;
const MAX_AHEAD: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
/// Allowed delay between a job's acceptance and its start.
pub(crate) const DELAY: RangeInclusive<Duration> = Duration::ZERO..=limits::TEN_YEARS;
/// Allowed time between a job's acceptance and its expiry.
pub(crate) const EXPIRE_AFTER: RangeInclusive<Duration> = Duration::from_millis(1)..=limits::TEN_YEARS;

/// The result of a rule; the error text has the problem and the limit.
pub(crate) type RuleResult = Result<(), String>;

/// An invalid field of a submission.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldFault {
    /// The field's name.
    pub field: &'static str,
    /// The problem, with the limit.
    pub problem: String,
}

impl fmt::Display for FieldFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

/// Checks all fields of a submission, and returns every fault.
pub(crate) fn check(draft: &JobDraft, request_id: &str, now: Timestamp) -> Vec<FieldFault> {
    let mut faults = Vec::new();
    let mut hold = |field, verdict: RuleResult| {
        if let Err(problem) = verdict {
            faults.push(FieldFault { field, problem });
        }
    };
    hold("queue", queue(&draft.queue));
    // The kind of a closure is reserved for Jobmill.
    if draft.closure.is_empty() {
        hold("kind", kind(&draft.kind));
    }
    hold("payload", payload(&draft.payload));
    hold("payload_type", media_type(&draft.payload_info.media_type));
    for problem in metadata(&draft.payload_info.metadata) {
        hold("payload_metadata", Err(problem));
    }
    labels(&draft.labels).into_iter().for_each(|problem| hold("labels", Err(problem)));
    headers(&draft.headers).into_iter().for_each(|problem| hold("headers", Err(problem)));
    if let Some(number) = draft.priority {
        hold("priority", priority(i32::from(number)));
    }
    if let Some(attempts) = draft.max_attempts {
        hold("max_attempts", max_attempts(i64::from(attempts)));
    }
    if let Some(policy) = &draft.retry {
        for (part, problem) in retry_policy(policy) {
            hold("retry", Err(format!("{part} {problem}")));
        }
    }
    if let Some(timeout) = draft.attempt_timeout {
        hold("attempt_timeout", duration(timeout, &limits::ATTEMPT_TIMEOUT));
    }
    match draft.start {
        Some(When::At(time)) => hold("run_time", run_time(time, now)),
        Some(When::After(time)) => hold("delay", duration(time, &DELAY)),
        None => {}
    }
    for (part, problem) in draft.unique.iter().flat_map(|key| unique::unique(key, draft.start)) {
        hold("unique_key", Err(format!("{part} {problem}")));
    }
    for problem in weights(draft.weights.iter().map(|(limit, weight)| (&**limit, i64::from(*weight)))) {
        hold("weights", Err(problem));
    }
    dependencies::alone(&draft.depends_on).for_each(|problem| hold("depends_on", Err(problem)));
    if let Some(expiry) = draft.expiry {
        let field = match expiry {
            When::At(_) => "expire_time",
            When::After(_) => "expire_after",
        };
        let start = unique::start(draft.unique.as_deref(), draft.start);
        hold(field, self::expiry(expiry, start, now));
    }
    if let Some(deadline) = draft.deadline {
        let field = match deadline {
            When::At(_) => "deadline_time",
            When::After(_) => "deadline_after",
        };
        hold(field, self::deadline(deadline, draft.start, now));
    }
    if let Some(snoozes) = draft.max_snoozes {
        hold("max_snoozes", max_snoozes(i64::from(snoozes)));
    }
    if let Some(losses) = draft.max_process_losses {
        hold("max_process_losses", count(i64::from(losses), 1, *limits::MAX_PROCESS_LOSSES.end()));
    }
    hold("request_id", self::request_id(request_id));
    faults
}

pub(crate) fn queue(name: &str) -> RuleResult {
    names::check_queue_name(name).map_err(|error| error.to_string())
}

pub(crate) fn kind(name: &str) -> RuleResult {
    names::check_free_kind_name(name).map_err(|error| error.to_string())
}

pub(crate) fn payload(payload: &[u8]) -> RuleResult {
    if payload.len() <= PAYLOAD_MAX_BYTES {
        return Ok(());
    }
    Err(format!(
        "has {} bytes; at most {PAYLOAD_MAX_BYTES} are allowed: store large input elsewhere and send a reference to \
         it",
        payload.len()
    ))
}

pub(crate) fn media_type(media_type: &str) -> RuleResult {
    let visible = media_type.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if media_type.len() <= MEDIA_TYPE_MAX_BYTES && visible && media_type.trim() == media_type {
        return Ok(());
    }
    Err(format!(
        "must be at most {MEDIA_TYPE_MAX_BYTES} visible ASCII characters, without a blank at either end"
    ))
}

/// Returns every fault of a payload's metadata.
pub(crate) fn metadata(entries: &BTreeMap<String, String>) -> Vec<String> {
    if let Err(problem) = entries_fit(entries, METADATA_MAX, METADATA_MAX_BYTES) {
        return vec![problem];
    }
    entries.keys().filter(|key| !is_label_key(key)).map(|key| label_key_fault(key)).collect()
}

/// Returns every fault of a job's headers.
pub(crate) fn headers(headers: &BTreeMap<String, String>) -> Vec<String> {
    if let Err(problem) = entries_fit(headers, HEADERS_MAX, HEADERS_MAX_BYTES) {
        return vec![problem];
    }
    let mut faults = Vec::new();
    for (key, value) in headers {
        let shown = shown(key);
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
        if key.is_empty() || key.len() > HEADER_KEY_MAX_BYTES || !key.bytes().all(allowed) {
            faults.push(format!(
                "the key {shown} must be 1 to {HEADER_KEY_MAX_BYTES} of a-z, 0-9, `-`, `_`, `.`"
            ));
        } else if let Some(prefix) = RESERVED_HEADERS.iter().find(|prefix| key.starts_with(**prefix)) {
            faults
                .push(format!("the key {shown} begins with `{prefix}`, which is reserved: use another one"));
        }
        if value.trim_matches([' ', '\t']) != value {
            faults
                .push(format!("the value of {shown} begins or ends with a blank, which no header can have"));
        } else if !value.bytes().all(|byte| byte == b'\t' || (0x20..0x7f).contains(&byte)) {
            faults.push(format!(
                "the value of {shown} must be of visible ASCII characters, spaces and tabs: encode anything else"
            ));
        }
    }
    faults
}

/// Checks the number and the total bytes of entries.
fn entries_fit(entries: &BTreeMap<String, String>, max: usize, max_bytes: usize) -> RuleResult {
    if entries.len() > max {
        return Err(format!("has {} entries; at most {max} are allowed", entries.len()));
    }
    let bytes: usize = entries.iter().map(|(key, value)| key.len() + value.len()).sum();
    match bytes > max_bytes {
        true => Err(format!("has {bytes} bytes; at most {max_bytes} are allowed")),
        false => Ok(()),
    }
}

/// Returns every fault of a job's labels.
pub(crate) fn labels(labels: &BTreeMap<String, String>) -> Vec<String> {
    if labels.len() > LABELS_MAX {
        return vec![format!("has {} entries; at most {LABELS_MAX} are allowed", labels.len())];
    }
    let mut faults = Vec::new();
    for (key, value) in labels {
        if !is_label_key(key) {
            faults.push(label_key_fault(key));
        }
        if value.len() > LABEL_VALUE_MAX_BYTES {
            let (shown, bytes) = (shown(key), value.len());
            faults.push(format!("the value of {shown} has {bytes} bytes; at most 256 are allowed"));
        }
    }
    faults
}

/// Returns every fault of a job's weights.
pub(crate) fn weights<'a>(weights: impl ExactSizeIterator<Item = (&'a str, i64)>) -> Vec<String> {
    let max = limits::WEIGHTS_MAX;
    if weights.len() > max {
        return vec![format!("has {} entries; at most {max} are allowed", weights.len())];
    }
    let mut faults = Vec::new();
    for (limit, weight) in weights {
        if let Err(error) = names::check_limit_name(limit) {
            faults.push(format!("the key {}: {error}", shown(limit)));
        }
        let (least, most) = limits::WEIGHT.into_inner();
        if !(i64::from(least)..=i64::from(most)).contains(&weight) {
            faults.push(format!("the weight under {} is {weight}; it must be {least} to {most}", shown(limit)));
        }
    }
    faults
}

fn is_label_key(key: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
    !key.is_empty() && key.len() <= LABEL_KEY_MAX_BYTES && key.bytes().all(allowed)
}

/// Checks the name of a label.
pub(crate) fn label_name(name: &str) -> RuleResult {
    let fault = || format!("{} is no name of a label: write {LABEL_KEY_FORM}", shown(name));
    if is_label_key(name) { Ok(()) } else { Err(fault()) }
}

fn label_key_fault(key: &str) -> String {
    format!("the key {} must be {LABEL_KEY_FORM}", shown(key))
}

pub(crate) fn priority(priority: i32) -> RuleResult {
    if PRIORITY.contains(&priority) {
        return Ok(());
    }
    Err(format!("is {priority}; it must be from -100 to 100"))
}

/// Checks a limit of attempts. Zero means the kind's default.
pub(crate) fn max_attempts(attempts: i64) -> RuleResult {
    if attempts == 0 || u32::try_from(attempts).is_ok_and(|some| limits::MAX_ATTEMPTS.contains(&some)) {
        return Ok(());
    }
    Err(format!("is {attempts}; it must be from 1 to 1000, or 0 for the default"))
}

/// Returns every fault of a retry policy, each with the name of its field.
pub(crate) fn retry_policy(policy: &PartialRetryPolicy) -> Vec<(&'static str, String)> {
    let number = |value: Option<f64>, allowed: &RangeInclusive<f64>| match value {
        // No range contains NaN.
        Some(value) if !allowed.contains(&value) => {
            Err(format!("is {value}; it must be from {} to {}", allowed.start(), allowed.end()))
        }
        Some(_) | None => Ok(()),
    };
    let delay = |value: Option<Duration>| value.map_or(Ok(()), |value| duration(value, &limits::RETRY_DELAY));
    let order = || match (policy.initial_delay, policy.max_delay) {
        (Some(initial), Some(max)) if max < initial => Err("is shorter than initial_delay".to_owned()),
        (Some(_) | None, Some(_) | None) => Ok(()),
    };
    let verdicts = [
        ("initial_delay", delay(policy.initial_delay)),
        ("max_delay", delay(policy.max_delay).and_then(|()| order())),
        ("multiplier", number(policy.multiplier, &limits::RETRY_MULTIPLIER)),
        ("jitter", number(policy.jitter, &limits::RETRY_JITTER)),
        ("delays", policy.delays.as_deref().map_or(Ok(()), |delays| listed_delays(delays, policy))),
    ];
    verdicts.into_iter().filter_map(|(part, verdict)| Some((part, verdict.err()?))).collect()
}

/// Checks the listed delays of a policy, which can't have growing ones, too.
fn listed_delays(delays: &[Duration], policy: &PartialRetryPolicy) -> RuleResult {
    if delays.len() > limits::RETRY_DELAYS_MAX {
        return Err(format!(
            "has {} entries; at most {} are allowed: the last one repeats",
            delays.len(),
            limits::RETRY_DELAYS_MAX
        ));
    }
    if policy.initial_delay.is_some() || policy.max_delay.is_some() || policy.multiplier.is_some() {
        let growing = "initial_delay, max_delay and multiplier";
        return Err(format!("takes the place of {growing}: give either the list, or how the delays grow"));
    }
    delays.iter().try_for_each(|delay| duration(*delay, &limits::RETRY_DELAY))
}

pub(crate) fn max_snoozes(snoozes: i64) -> RuleResult {
    count(snoozes, 0, *limits::MAX_SNOOZES.end())
}

/// Checks a limit of process losses. 0 means the default.
pub(crate) fn max_process_losses(losses: i64) -> RuleResult {
    count(losses, 0, *limits::MAX_PROCESS_LOSSES.end())
}

fn count(value: i64, from: u32, to: u32) -> RuleResult {
    if (i64::from(from)..=i64::from(to)).contains(&value) {
        return Ok(());
    }
    Err(format!("is {value}; it must be from {from} to {to}"))
}

pub(crate) fn duration(value: Duration, allowed: &RangeInclusive<Duration>) -> RuleResult {
    if allowed.contains(&value) {
        return Ok(());
    }
    Err(format!("is {}; {}", humantime::format_duration(value), duration_limits(allowed)))
}

/// Returns the text about a duration's limits for error messages.
pub(crate) fn duration_limits(allowed: &RangeInclusive<Duration>) -> String {
    let [from, to] = [allowed.start(), allowed.end()].map(|limit| humantime::format_duration(*limit));
    format!("it must be from {from} to {to}")
}

pub(crate) fn run_time(time: Timestamp, now: Timestamp) -> RuleResult {
    if time <= now.after(MAX_AHEAD) {
        return Ok(());
    }
    Err(too_far_ahead(now))
}

fn too_far_ahead(now: Timestamp) -> String {
    format!("is more than 10 years after the server's time, {now}")
}

/// Checks an expiry. An instant in the past is valid, because a late repeat of a submission must find its job.
pub(crate) fn expiry(expiry: When, start: Option<When>, now: Timestamp) -> RuleResult {
    match expiry {
        When::At(time) if time > now.after(MAX_AHEAD) => return Err(too_far_ahead(now)),
        When::At(_) => {}
        When::After(time) => duration(time, &EXPIRE_AFTER)?,
    }
    let never_runs = match (start, expiry) {
        (None, _) => false,
        (Some(When::After(delay)), When::After(time)) => time <= delay,
        // The order of an instant and a relative time depends on the present.
        (Some(When::At(start)), When::At(time)) => time <= start,
        (Some(start @ When::At(_)), When::After(_)) => expiry.instant(now) <= start.instant(now),
        (Some(When::After(_)), When::At(_)) => false,
    };
    match never_runs {
        true => Err("is not after the job's start: the job could never run".to_owned()),
        false => Ok(()),
    }
}

/// Checks a deadline, by the rules of an expiry.
pub(crate) fn deadline(deadline: When, start: Option<When>, now: Timestamp) -> RuleResult {
    expiry(deadline, start, now)
}

pub(crate) fn request_id(text: &str) -> RuleResult {
    if text.starts_with(RESERVED_PREFIX) {
        return Err(format!("begins with `{RESERVED_PREFIX}`, which is reserved for jobs of schedules: use another one"));
    }
    if text.len() <= REQUEST_ID_MAX_BYTES && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(format!("must be at most {REQUEST_ID_MAX_BYTES} bytes without control characters"))
}

/// Returns a caller's text, truncated and escaped for a message.
pub(crate) fn shown(text: &str) -> String {
    const SHOWN_MAX_BYTES: usize = 64;
    let cut = &text[..text.floor_char_boundary(SHOWN_MAX_BYTES)];
    if cut.len() < text.len() { format!("{cut:?}…") } else { format!("{cut:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::PayloadInfo;

    fn draft() -> JobDraft {
        JobDraft { queue: "default".into(), kind: "mail".into(), ..JobDraft::default() }
    }

    #[test]
    fn all_faults_are_found_at_once_and_named() {
        let now = Timestamp::from_micros(0);
        assert_eq!(check(&draft(), "", now), []);
        let retry = PartialRetryPolicy {
            multiplier: Some(f64::NAN),
            initial_delay: Some(Duration::from_secs(1)),
            max_delay: Some(Duration::ZERO),
            delays: Some(vec![Duration::ZERO].into()),
            ..PartialRetryPolicy::default()
        };
        let bad = JobDraft {
            queue: "..".into(),
            kind: "jobmill/closure".into(),
            payload: vec![0; PAYLOAD_MAX_BYTES + 1].into(),
            payload_info: PayloadInfo {
                media_type: "é".into(),
                metadata: BTreeMap::from([("a b".into(), String::new())]),
            },
            labels: BTreeMap::from([(String::new(), "x".repeat(257))]),
            headers: BTreeMap::from([("grpc-timeout".into(), "1\r\nx: y".into())]),
            priority: Some(101),
            max_attempts: Some(1_001),
            retry: Some(retry),
            attempt_timeout: Some(Duration::ZERO),
            start: Some(When::At(Timestamp::MAX)),
            expiry: Some(When::At(Timestamp::MAX)),
            deadline: Some(When::At(Timestamp::MAX)),
            max_snoozes: Some(1_000_001),
            max_process_losses: Some(0),
            unique: Some(Box::default()),
            weights: BTreeMap::from([("x".into(), 0)]),
            depends_on: Vec::new(),
            closure: String::new(),
        };
        let fields: Vec<_> = check(&bad, "a\nb", now).into_iter().map(|fault| fault.field).collect();
        let what = ["queue", "kind", "payload", "payload_type", "payload_metadata", "labels", "labels"];
        assert_eq!(fields[..7], what);
        assert_eq!(fields[7..11], ["headers", "headers", "priority", "max_attempts"]);
        let retry = ["retry", "retry", "retry", "attempt_timeout"];
        assert_eq!(fields[11..15], retry);
        let when = ["run_time", "unique_key", "weights", "expire_time", "deadline_time", "max_snoozes", "max_process_losses"];
        assert_eq!(fields[15..22], when);
        assert_eq!(fields[22..], ["request_id"]);
    }

    #[test]
    fn listed_delays_are_bounded_and_stand_alone() {
        let listed = |delays: &[u64]| PartialRetryPolicy {
            delays: Some(delays.iter().map(|seconds| Duration::from_secs(*seconds)).collect()),
            ..PartialRetryPolicy::default()
        };
        let days = 24 * 3_600;
        assert_eq!(retry_policy(&listed(&[0, 5, 30 * days])), []);
        assert_eq!(retry_policy(&listed(&[0; 100])), []);
        for bad in [
            listed(&[30 * days + 1]),
            listed(&[0; 101]),
            PartialRetryPolicy { multiplier: Some(2.0), ..listed(&[1]) },
        ] {
            let faults: Vec<_> = retry_policy(&bad).into_iter().map(|(field, _)| field).collect();
            assert_eq!(faults, ["delays"], "{bad:?}");
        }
    }

    #[test]
    fn entries_have_a_number_and_bytes() {
        let many = |count: usize, bytes: usize| -> BTreeMap<String, String> {
            (0..count).map(|number| (format!("k{number:02}"), "v".repeat(bytes))).collect()
        };
        assert_eq!((headers(&many(32, 253)).len(), headers(&many(33, 0)).len()), (0, 1));
        assert_eq!((headers(&many(32, 254)).len(), metadata(&many(16, 253)).len()), (1, 0));
        assert_eq!((metadata(&many(17, 0)).len(), metadata(&many(16, 254)).len()), (1, 1));
    }

    #[test]
    fn a_job_expires_after_its_start() {
        let now = Timestamp::from_micros(1_000_000_000);
        let seconds = |seconds| When::After(Duration::from_secs(seconds));
        let at = |seconds| When::At(now.after(Duration::from_secs(seconds)));
        for (expiry, start, fits) in [
            (seconds(5), None, true),
            (seconds(0), None, false),
            (seconds(5), Some(seconds(5)), false),
            (seconds(6), Some(seconds(5)), true),
            (at(5), Some(at(5)), false),
            (at(6), Some(at(5)), true),
            (seconds(5), Some(at(5)), false),
            (seconds(6), Some(at(5)), true),
            // A late repeat must find its job.
            (at(0), Some(seconds(5)), true),
        ] {
            assert_eq!(super::expiry(expiry, start, now).is_ok(), fits, "{expiry:?} {start:?}");
        }
    }
}
