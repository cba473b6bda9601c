//! What a request must look like. Every fault is found, named and told with its limit; nothing is done before.

use std::{collections::BTreeMap, fmt::Display, ops::RangeInclusive, time::Duration};

use tonic::Status;

use super::errors::Faults;
use crate::{
    admission::JobDraft,
    clock::Timestamp,
    config::{self, QueueSettings, limits, names},
    job::{JobId, RetryPolicy, StateName},
    proto::v1,
    store::{JobFilter, RequestId},
    watch::Detail,
};

const PAYLOAD_MAX_BYTES: usize = 1 << 20;
const PAYLOAD_TYPE_MAX_BYTES: usize = 128;
const LABELS_MAX: usize = 32;
const LABEL_KEY_MAX_BYTES: usize = 63;
const LABEL_VALUE_MAX_BYTES: usize = 256;
const PRIORITY: RangeInclusive<i32> = -100..=100;
const REQUEST_ID_MAX_BYTES: usize = 128;
const RUN_TIME_MAX_AHEAD: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
const FILTER_KINDS_MAX: usize = 32;
const FILTER_STATES_MAX: usize = 16;
/// A batch has at most so many jobs.
pub(super) const BATCH_MAX: usize = 1_000;
const WATCHED_IDS_MAX: usize = 1_000;
const PAGE_SIZE_DEFAULT: usize = 100;
const PAGE_SIZE_MAX: i32 = 1_000;

/// Finds the faults of one request.
pub(super) struct Validator {
    faults: Faults,
    now: Timestamp,
}

impl Validator {
    pub(super) fn new(now: Timestamp) -> Self {
        Validator { faults: Faults::default(), now }
    }

    /// The end: an error with every fault that was found.
    pub(super) fn finish(self) -> Result<(), Status> {
        self.faults.check()
    }

    pub(super) fn fault(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.faults.add(field, description);
    }

    pub(super) fn job_spec(&mut self, field: &str, spec: Option<v1::JobSpec>) -> JobDraft {
        let Some(spec) = spec else {
            self.fault(field, "is required");
            return JobDraft::default();
        };
        let at = |name: &str| format!("{field}.{name}");
        self.queue_name(&at("queue"), &spec.queue);
        if let Err(error) = names::check_kind_name(&spec.kind) {
            self.fault(at("kind"), error.to_string());
        }
        if spec.payload.len() > PAYLOAD_MAX_BYTES {
            let message = format!(
                "has {} bytes; at most {PAYLOAD_MAX_BYTES} are allowed: store large input elsewhere and send a \
                 reference to it",
                spec.payload.len()
            );
            self.fault(at("payload"), message);
        }
        let type_ok = spec.payload_type.bytes().all(|byte| (0x20..0x7f).contains(&byte));
        if spec.payload_type.len() > PAYLOAD_TYPE_MAX_BYTES || !type_ok {
            let message = format!("must be at most {PAYLOAD_TYPE_MAX_BYTES} visible ASCII characters");
            self.fault(at("payload_type"), message);
        }
        self.labels(&at("labels"), &spec.labels);
        if !PRIORITY.contains(&spec.priority) {
            self.fault(at("priority"), format!("is {}; it must be from -100 to 100", spec.priority));
        }
        let max_attempts = match u32::try_from(spec.max_attempts) {
            Ok(0) => None,
            Ok(attempts) if limits::MAX_ATTEMPTS.contains(&attempts) => Some(attempts),
            Ok(_) | Err(_) => {
                let message =
                    format!("is {}; it must be from 1 to 1000, or 0 for the default", spec.max_attempts);
                self.fault(at("max_attempts"), message);
                None
            }
        };
        let retry = spec.retry_policy.map(|policy| self.retry_policy(&at("retry_policy"), &policy));
        let attempt_timeout = spec
            .attempt_timeout
            .and_then(|timeout| self.duration(&at("attempt_timeout"), &timeout, &limits::ATTEMPT_TIMEOUT));
        let run_time = spec.run_time.and_then(|time| self.timestamp(&at("run_time"), &time));
        if run_time.is_some_and(|time| time > self.now.after(RUN_TIME_MAX_AHEAD)) {
            self.fault(at("run_time"), "is more than 10 years ahead");
        }
        JobDraft {
            queue: spec.queue,
            kind: spec.kind,
            payload: spec.payload,
            payload_type: spec.payload_type,
            labels: spec.labels,
            priority: spec.priority as i8,
            max_attempts,
            retry,
            attempt_timeout,
            run_time,
        }
    }

    fn retry_policy(&mut self, field: &str, policy: &v1::RetryPolicy) -> RetryPolicy {
        let default = RetryPolicy::DEFAULT;
        let mut delay = |name: &str, value: Option<prost_types::Duration>, default: Duration| {
            value
                .and_then(|value| self.duration(&format!("{field}.{name}"), &value, &limits::RETRY_DELAY))
                .unwrap_or(default)
        };
        let initial_delay = delay("initial_delay", policy.initial_delay, default.initial_delay);
        let max_delay = delay("max_delay", policy.max_delay, default.max_delay.max(initial_delay));
        if max_delay < initial_delay {
            self.fault(format!("{field}.max_delay"), "is shorter than initial_delay");
        }
        let multiplier = if policy.multiplier == 0.0 { default.multiplier } else { policy.multiplier };
        self.number(&format!("{field}.multiplier"), multiplier, &limits::RETRY_MULTIPLIER);
        let jitter = policy.jitter.unwrap_or(default.jitter);
        self.number(&format!("{field}.jitter"), jitter, &limits::RETRY_JITTER);
        RetryPolicy { initial_delay, max_delay, multiplier, jitter }
    }

    fn number(&mut self, field: &str, value: f64, allowed: &RangeInclusive<f64>) {
        // NaN is in no range.
        if !allowed.contains(&value) {
            self.fault(
                field,
                format!("is {value}; it must be from {} to {}", allowed.start(), allowed.end()),
            );
        }
    }

    pub(super) fn queue_name(&mut self, field: &str, name: &str) {
        if let Err(error) = names::check_queue_name(name) {
            self.fault(field, error.to_string());
        }
    }

    fn labels(&mut self, field: &str, labels: &BTreeMap<String, String>) {
        if labels.len() > LABELS_MAX {
            self.fault(field, format!("has {} entries; at most {LABELS_MAX} are allowed", labels.len()));
            return;
        }
        for (key, value) in labels {
            let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
            if key.is_empty() || key.len() > LABEL_KEY_MAX_BYTES || !key.bytes().all(allowed) {
                let shown = shown(key);
                let message = format!("the key {shown} must be 1 to 63 of a-z, A-Z, 0-9, `-`, `_`, `.`, `/`");
                self.fault(field, message);
            }
            if value.len() > LABEL_VALUE_MAX_BYTES {
                let message =
                    format!("the value of {} has {} bytes; at most 256 are allowed", shown(key), value.len());
                self.fault(field, message);
            }
        }
    }

    /// A duration within its limits.
    pub(super) fn duration(
        &mut self,
        field: &str,
        value: &prost_types::Duration,
        allowed: &RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let limits = format!(
            "it must be from {} to {}",
            shown_duration(allowed.start()),
            shown_duration(allowed.end())
        );
        if !(-999_999_999..=999_999_999).contains(&value.nanos)
            || (value.seconds > 0 && value.nanos < 0)
            || (value.seconds < 0 && value.nanos > 0)
        {
            self.fault(
                field,
                format!("is no valid duration: seconds and nanos disagree in sign or size; {limits}"),
            );
            return None;
        }
        let (Ok(seconds), Ok(nanos)) = (u64::try_from(value.seconds), u32::try_from(value.nanos)) else {
            self.fault(field, format!("is negative; {limits}"));
            return None;
        };
        let duration = Duration::new(seconds, nanos);
        if !allowed.contains(&duration) {
            self.fault(field, format!("is {}; {limits}", shown_duration(&duration)));
            return None;
        }
        Some(duration)
    }

    /// An instant between the years 1 and 9999.
    pub(super) fn timestamp(&mut self, field: &str, value: &prost_types::Timestamp) -> Option<Timestamp> {
        const YEAR_1_SECONDS: i64 = -62_135_596_800;
        const YEAR_9999_SECONDS: i64 = 253_402_300_799;
        if !(YEAR_1_SECONDS..=YEAR_9999_SECONDS).contains(&value.seconds)
            || !(0..1_000_000_000).contains(&value.nanos)
        {
            self.fault(field, "is no instant between the years 1 and 9999");
            return None;
        }
        Some(Timestamp::from_micros(value.seconds * 1_000_000 + i64::from(value.nanos) / 1_000))
    }

    pub(super) fn request_id(&mut self, text: &str) {
        if text.len() > REQUEST_ID_MAX_BYTES || text.chars().any(char::is_control) {
            let message = format!("must be at most {REQUEST_ID_MAX_BYTES} bytes without control characters");
            self.fault("request_id", message);
        }
    }

    pub(super) fn job_id(&mut self, field: &str, text: &str) -> JobId {
        match text.parse() {
            Ok(id) => id,
            Err(_) if text.is_empty() => {
                self.fault(field, "is required");
                JobId::from_raw(0)
            }
            Err(error) => {
                self.fault(field, format!("{} is {error}", shown(text)));
                JobId::from_raw(0)
            }
        }
    }

    pub(super) fn job_ids(&mut self, field: &str, texts: &[String]) -> Vec<JobId> {
        if texts.len() > WATCHED_IDS_MAX {
            let message =
                format!("has {} entries; at most {WATCHED_IDS_MAX} are allowed: use a filter", texts.len());
            self.fault(field, message);
            return Vec::new();
        }
        texts
            .iter()
            .enumerate()
            .map(|(index, text)| self.job_id(&format!("{field}[{index}]"), text))
            .collect()
    }

    pub(super) fn filter(&mut self, filter: Option<v1::JobFilter>) -> JobFilter {
        let Some(filter) = filter else {
            return JobFilter::default();
        };
        if !filter.queue.is_empty() {
            self.queue_name("filter.queue", &filter.queue);
        }
        if filter.kinds.len() > FILTER_KINDS_MAX {
            let message =
                format!("has {} entries; at most {FILTER_KINDS_MAX} are allowed", filter.kinds.len());
            self.fault("filter.kinds", message);
        }
        for (index, kind) in filter.kinds.iter().enumerate() {
            if let Err(error) = names::check_kind_name(kind) {
                self.fault(format!("filter.kinds[{index}]"), error.to_string());
            }
        }
        if filter.states.len() > FILTER_STATES_MAX {
            let message =
                format!("has {} entries; at most {FILTER_STATES_MAX} are allowed", filter.states.len());
            self.fault("filter.states", message);
        }
        let mut states = Vec::new();
        for (index, number) in filter.states.iter().take(FILTER_STATES_MAX).enumerate() {
            match StateName::from_number(i64::from(*number)) {
                Some(state) => states.push(state),
                None => {
                    self.fault(format!("filter.states[{index}]"), format!("{number} is no state of a job"))
                }
            }
        }
        self.labels("filter.labels", &filter.labels);
        let created_after = filter.created_after.and_then(|at| self.timestamp("filter.created_after", &at));
        let created_before =
            filter.created_before.and_then(|at| self.timestamp("filter.created_before", &at));
        JobFilter {
            queue: (!filter.queue.is_empty()).then_some(filter.queue),
            kinds: filter.kinds,
            states,
            labels: filter.labels,
            created_after,
            created_before,
        }
    }

    pub(super) fn page_size(&mut self, page_size: i32) -> usize {
        match page_size {
            0 => PAGE_SIZE_DEFAULT,
            1.. => page_size.min(PAGE_SIZE_MAX) as usize,
            _ => {
                self.fault("page_size", format!("is {page_size}; it must not be negative"));
                PAGE_SIZE_DEFAULT
            }
        }
    }

    /// An enum's value, as far as this version knows it.
    pub(super) fn known<E: TryFrom<i32> + Default>(&mut self, field: &str, number: i32) -> E {
        E::try_from(number).unwrap_or_else(|_| {
            self.fault(field, format!("{number} is no value of this enum; 0 means the default"));
            E::default()
        })
    }

    pub(super) fn queue_settings(&mut self, settings: Option<v1::QueueSettings>) -> QueueSettings {
        let default = QueueSettings::default();
        let Some(settings) = settings else {
            return default;
        };
        let max_jobs = self.setting("max_jobs", settings.max_jobs, &limits::QUEUE_JOBS, default.max_jobs);
        let max_bytes =
            self.setting("max_bytes", settings.max_bytes, &limits::QUEUE_BYTES, default.max_bytes);
        let consumers =
            self.setting("consumers", settings.consumers, &limits::QUEUE_CONSUMERS, default.consumers);
        let max_waiters = self.setting(
            "max_waiters",
            settings.max_waiters,
            &limits::QUEUE_MAX_WAITERS,
            default.max_waiters,
        );
        let max_wait = settings
            .max_wait
            .and_then(|wait| self.duration("settings.max_wait", &wait, &limits::QUEUE_MAX_WAIT))
            .unwrap_or(default.max_wait);
        let when_full = self.when_full("settings.when_full", settings.when_full).unwrap_or(default.when_full);
        QueueSettings {
            max_jobs,
            max_bytes,
            consumers,
            when_full,
            max_wait,
            max_waiters,
            accept_unknown_kinds: settings.accept_unknown_kinds.unwrap_or(default.accept_unknown_kinds),
        }
    }

    fn setting<W: Copy + Display, T: TryFrom<W> + PartialOrd + Display + Copy>(
        &mut self,
        name: &str,
        value: Option<W>,
        allowed: &RangeInclusive<T>,
        default: T,
    ) -> T {
        match value.map(|value| (value, T::try_from(value))) {
            None => default,
            Some((_, Ok(value))) if allowed.contains(&value) => value,
            Some((value, _)) => {
                let message = format!("is {value}; it must be from {} to {}", allowed.start(), allowed.end());
                self.fault(format!("settings.{name}"), message);
                default
            }
        }
    }

    pub(super) fn detail(&mut self, number: i32) -> Detail {
        match self.known("detail", number) {
            v1::WatchDetail::Unspecified | v1::WatchDetail::Latest => Detail::Latest,
            v1::WatchDetail::EveryTransition => Detail::EveryTransition,
        }
    }

    pub(super) fn when_full(&mut self, field: &str, number: i32) -> Option<config::WhenFull> {
        match self.known(field, number) {
            v1::WhenFull::Unspecified => None,
            v1::WhenFull::Wait => Some(config::WhenFull::Wait),
            v1::WhenFull::Reject => Some(config::WhenFull::Reject),
        }
    }
}

/// A client's text, short enough and safe to be shown in a message.
fn shown(text: &str) -> String {
    const SHOWN_MAX_BYTES: usize = 64;
    let cut = crate::execute::cut(text, SHOWN_MAX_BYTES);
    if cut.len() < text.len() { format!("{cut:?}…") } else { format!("{cut:?}") }
}

fn shown_duration(duration: &Duration) -> String {
    humantime::format_duration(*duration).to_string()
}

/// The key and digest of a request that may be repeated. The digest is of what the client said, not of the defaults,
/// so that a repeat is known again after the defaults have changed.
pub(super) fn request(request_id: &str, operation: &str, jobs: &[JobDraft]) -> Option<RequestId> {
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
    }
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    Some(RequestId { key: RequestId::key_of(request_id), digest: RequestId::hash(&parts) })
}
