//! What a submission may say, field by field. Whoever takes one in, over the wire or from this process, holds it to
//! these rules; what is wrong with the encoding of a request is not known here.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive, time::Duration};

use super::JobDraft;
use crate::{
    clock::Timestamp,
    job::{RequestId, RetryPolicy, names},
    settings::limits,
};

const PAYLOAD_MAX_BYTES: usize = 1 << 20;
const PAYLOAD_TYPE_MAX_BYTES: usize = 128;
const LABELS_MAX: usize = 32;
const LABEL_KEY_MAX_BYTES: usize = 63;
const LABEL_VALUE_MAX_BYTES: usize = 256;
const PRIORITY: RangeInclusive<i32> = -100..=100;
const REQUEST_ID_MAX_BYTES: usize = 128;
const RUN_TIME_MAX_AHEAD: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// A rule's verdict: what is wrong, with the limit.
pub(crate) type Verdict = Result<(), String>;

/// What is wrong with a field of a submission.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FieldFault {
    /// Which field.
    pub field: &'static str,
    /// What is wrong with it, with the limit.
    pub problem: String,
}

impl fmt::Display for FieldFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

/// Every fault of a submission whose fields have their types already.
pub(crate) fn check(draft: &JobDraft, request_id: &str, now: Timestamp) -> Vec<FieldFault> {
    let mut faults = Vec::new();
    let mut hold = |field, verdict: Verdict| {
        if let Err(problem) = verdict {
            faults.push(FieldFault { field, problem });
        }
    };
    hold("queue", queue(&draft.queue));
    // The kind of a closure is Jobmill's own.
    if draft.closure.is_empty() {
        hold("kind", kind(&draft.kind));
    }
    hold("payload", payload(&draft.payload));
    hold("payload_type", payload_type(&draft.payload_type));
    for problem in labels(&draft.labels) {
        hold("labels", Err(problem));
    }
    hold("priority", priority(i32::from(draft.priority)));
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
    if let Some(time) = draft.run_time {
        hold("run_time", run_time(time, now));
    }
    if let Some(time) = draft.expire_time {
        hold("expire_time", expire_time(time, draft.run_time, now));
    }
    hold("request_id", self::request_id(request_id));
    faults
}

pub(crate) fn queue(name: &str) -> Verdict {
    names::check_queue_name(name).map_err(|error| error.to_string())
}

pub(crate) fn kind(name: &str) -> Verdict {
    names::check_free_kind_name(name).map_err(|error| error.to_string())
}

pub(crate) fn payload(payload: &[u8]) -> Verdict {
    if payload.len() <= PAYLOAD_MAX_BYTES {
        return Ok(());
    }
    Err(format!(
        "has {} bytes; at most {PAYLOAD_MAX_BYTES} are allowed: store large input elsewhere and send a reference to \
         it",
        payload.len()
    ))
}

pub(crate) fn payload_type(media_type: &str) -> Verdict {
    let visible = media_type.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    if media_type.len() <= PAYLOAD_TYPE_MAX_BYTES && visible {
        return Ok(());
    }
    Err(format!("must be at most {PAYLOAD_TYPE_MAX_BYTES} visible ASCII characters"))
}

/// Every fault of some labels.
pub(crate) fn labels(labels: &BTreeMap<String, String>) -> Vec<String> {
    if labels.len() > LABELS_MAX {
        return vec![format!("has {} entries; at most {LABELS_MAX} are allowed", labels.len())];
    }
    let mut faults = Vec::new();
    for (key, value) in labels {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
        if key.is_empty() || key.len() > LABEL_KEY_MAX_BYTES || !key.bytes().all(allowed) {
            let shown = shown(key);
            faults.push(format!("the key {shown} must be 1 to 63 of a-z, A-Z, 0-9, `-`, `_`, `.`, `/`"));
        }
        if value.len() > LABEL_VALUE_MAX_BYTES {
            let (shown, bytes) = (shown(key), value.len());
            faults.push(format!("the value of {shown} has {bytes} bytes; at most 256 are allowed"));
        }
    }
    faults
}

pub(crate) fn priority(priority: i32) -> Verdict {
    if PRIORITY.contains(&priority) {
        return Ok(());
    }
    Err(format!("is {priority}; it must be from -100 to 100"))
}

/// Zero stands for the kind's default.
pub(crate) fn max_attempts(attempts: i64) -> Verdict {
    if attempts == 0 || u32::try_from(attempts).is_ok_and(|some| limits::MAX_ATTEMPTS.contains(&some)) {
        return Ok(());
    }
    Err(format!("is {attempts}; it must be from 1 to 1000, or 0 for the default"))
}

/// Every fault of a retry policy, with the part that has it.
pub(crate) fn retry_policy(policy: &RetryPolicy) -> Vec<(&'static str, String)> {
    let number = |value: f64, allowed: &RangeInclusive<f64>| {
        // NaN is in no range.
        if allowed.contains(&value) {
            return Ok(());
        }
        Err(format!("is {value}; it must be from {} to {}", allowed.start(), allowed.end()))
    };
    let order = || match policy.max_delay < policy.initial_delay {
        true => Err("is shorter than initial_delay".to_owned()),
        false => Ok(()),
    };
    let verdicts = [
        ("initial_delay", duration(policy.initial_delay, &limits::RETRY_DELAY)),
        ("max_delay", duration(policy.max_delay, &limits::RETRY_DELAY).and_then(|()| order())),
        ("multiplier", number(policy.multiplier, &limits::RETRY_MULTIPLIER)),
        ("jitter", number(policy.jitter, &limits::RETRY_JITTER)),
    ];
    verdicts.into_iter().filter_map(|(part, verdict)| Some((part, verdict.err()?))).collect()
}

pub(crate) fn duration(value: Duration, allowed: &RangeInclusive<Duration>) -> Verdict {
    if allowed.contains(&value) {
        return Ok(());
    }
    Err(format!("is {}; {}", humantime::format_duration(value), duration_limits(allowed)))
}

/// The limits of a duration, as messages tell them.
pub(crate) fn duration_limits(allowed: &RangeInclusive<Duration>) -> String {
    let [from, to] = [allowed.start(), allowed.end()].map(|limit| humantime::format_duration(*limit));
    format!("it must be from {from} to {to}")
}

pub(crate) fn run_time(time: Timestamp, now: Timestamp) -> Verdict {
    if time <= now.after(RUN_TIME_MAX_AHEAD) {
        return Ok(());
    }
    Err(too_far_ahead(now))
}

fn too_far_ahead(now: Timestamp) -> String {
    format!("is more than 10 years ahead of what this server's clock says, {now}")
}

/// One in the past is no fault: a repeat of a submission may come late, and must find its job.
pub(crate) fn expire_time(time: Timestamp, run_time: Option<Timestamp>, now: Timestamp) -> Verdict {
    if time > now.after(RUN_TIME_MAX_AHEAD) {
        return Err(too_far_ahead(now));
    }
    if run_time.is_some_and(|run_time| time <= run_time) {
        return Err("is not after run_time: the job could never run".to_owned());
    }
    Ok(())
}

pub(crate) fn request_id(text: &str) -> Verdict {
    if text.len() <= REQUEST_ID_MAX_BYTES && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(format!("must be at most {REQUEST_ID_MAX_BYTES} bytes without control characters"))
}

/// A caller's text, short enough and safe to be shown in a message.
pub(crate) fn shown(text: &str) -> String {
    const SHOWN_MAX_BYTES: usize = 64;
    let cut = &text[..text.floor_char_boundary(SHOWN_MAX_BYTES)];
    if cut.len() < text.len() { format!("{cut:?}…") } else { format!("{cut:?}") }
}

/// The key and digest of a request that may be repeated. The digest is of what the client said, not of the defaults,
/// so that a repeat is known again after the defaults have changed.
pub(crate) fn request<'a>(
    request_id: &str,
    operation: &str,
    jobs: impl IntoIterator<Item = &'a JobDraft>,
) -> Option<RequestId> {
    if request_id.is_empty() {
        return None;
    }
    let mut parts: Vec<Vec<u8>> = vec![operation.as_bytes().to_vec()];
    for job in jobs {
        parts.push(job.queue.as_bytes().to_vec());
        parts.push(job.kind.as_bytes().to_vec());
        parts.push(job.payload.to_vec());
        parts.push(job.payload_type.as_bytes().to_vec());
        for (key, value) in &job.labels {
            parts.push(key.as_bytes().to_vec());
            parts.push(value.as_bytes().to_vec());
        }
        let rest = (job.priority, job.max_attempts, job.retry, job.attempt_timeout, job.run_time);
        parts.push(format!("{rest:?}").into_bytes());
        if let Some(time) = job.expire_time {
            parts.push(format!("expires {time:?}").into_bytes());
        }
    }
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    Some(RequestId { key: RequestId::key_of(request_id), digest: RequestId::hash(&parts) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft() -> JobDraft {
        JobDraft { queue: "default".into(), kind: "mail".into(), ..JobDraft::default() }
    }

    #[test]
    fn all_faults_are_found_at_once_and_named() {
        let now = Timestamp::from_micros(0);
        assert_eq!(check(&draft(), "", now), []);
        let retry = RetryPolicy { multiplier: f64::NAN, max_delay: Duration::ZERO, ..RetryPolicy::DEFAULT };
        let bad = JobDraft {
            queue: "..".into(),
            kind: "jobmill/closure".into(),
            payload: vec![0; PAYLOAD_MAX_BYTES + 1].into(),
            payload_type: "é".into(),
            labels: BTreeMap::from([(String::new(), "x".repeat(257))]),
            priority: 101,
            max_attempts: Some(1_001),
            retry: Some(retry),
            attempt_timeout: Some(Duration::ZERO),
            run_time: Some(Timestamp::MAX),
            expire_time: Some(Timestamp::MAX),
            closure: String::new(),
        };
        let fields: Vec<_> = check(&bad, "a\nb", now).into_iter().map(|fault| fault.field).collect();
        let all =
            ["queue", "kind", "payload", "payload_type", "labels", "labels", "priority", "max_attempts"];
        assert_eq!(fields[..8], all);
        assert_eq!(
            fields[8..],
            ["retry", "retry", "attempt_timeout", "run_time", "expire_time", "request_id"]
        );
    }

    #[test]
    fn the_digest_is_of_every_field_that_a_client_can_say() {
        let digest = |job: JobDraft| request("id", "submit", &[job]).unwrap().digest;
        let plain = digest(draft());
        assert_eq!(plain, digest(draft()));
        for other in [
            JobDraft { payload: "x".into(), ..draft() },
            JobDraft { priority: 1, ..draft() },
            JobDraft { max_attempts: Some(5), ..draft() },
            JobDraft { expire_time: Some(Timestamp::MAX), ..draft() },
            JobDraft { labels: BTreeMap::from([("a".into(), "b".into())]), ..draft() },
        ] {
            assert_ne!(plain, digest(other));
        }
    }
}
