//! What a request must look like. Every fault is found, named and told with its limit; nothing is done before.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    ops::RangeInclusive,
    time::Duration,
};

use tonic::Status;

use super::{convert::KEEP_FOREVER_SECONDS, errors::Faults};
pub(super) use crate::admission::rules::request;
use crate::{
    admission::{
        JobDraft,
        rules::{self, Verdict, shown},
    },
    clock::Timestamp,
    job::{JobFilter, JobId, RetryPolicy, StateName, names},
    proto::v1,
    settings::{Keep, QueueRetention, QueueSettings, WhenFull, limits},
    watch::Detail,
};

const FILTER_KINDS_MAX: usize = 32;
const FILTER_STATES_MAX: usize = 16;
/// A batch has at most so many jobs.
pub(super) const BATCH_MAX: usize = 1_000;
const WATCHED_IDS_MAX: usize = 1_000;
const PAGE_SIZE_DEFAULT: usize = 100;
const PAGE_SIZE_MAX: i32 = 1_000;

/// A field of a message in a request. Most of them have no fault, and their names are never written out.
#[derive(Clone, Copy)]
struct Field<'a> {
    of: &'a dyn Display,
    name: &'a str,
}

impl Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.of, self.name)
    }
}

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

    /// The error of a request that can't be read further.
    pub(super) fn failed(mut self, field: impl Display, description: impl Into<String>) -> Status {
        self.fault(field, description);
        self.faults.into_status()
    }

    pub(super) fn fault(&mut self, field: impl Display, description: impl Into<String>) {
        self.faults.add(field.to_string(), description);
    }

    fn hold(&mut self, field: impl Display, verdict: Verdict) {
        if let Err(problem) = verdict {
            self.fault(field, problem);
        }
    }

    pub(super) fn job_spec(&mut self, field: &dyn Display, spec: Option<v1::JobSpec>) -> JobDraft {
        let Some(spec) = spec else {
            self.fault(field, "is required");
            return JobDraft::default();
        };
        let at = |name| Field { of: field, name };
        self.queue_name(at("queue"), &spec.queue);
        self.hold(at("kind"), rules::kind(&spec.kind));
        self.hold(at("payload"), rules::payload(&spec.payload));
        self.hold(at("payload_type"), rules::payload_type(&spec.payload_type));
        self.labels(at("labels"), &spec.labels);
        self.hold(at("priority"), rules::priority(spec.priority));
        self.hold(at("max_attempts"), rules::max_attempts(i64::from(spec.max_attempts)));
        let max_attempts = u32::try_from(spec.max_attempts).ok().filter(|attempts| *attempts > 0);
        let retry = spec.retry_policy.map(|policy| self.retry_policy(at("retry_policy"), &policy));
        let attempt_timeout = spec
            .attempt_timeout
            .and_then(|timeout| self.duration(at("attempt_timeout"), &timeout, &limits::ATTEMPT_TIMEOUT));
        let run_time = spec.run_time.and_then(|time| self.timestamp(at("run_time"), &time));
        if let Some(time) = run_time {
            self.hold(at("run_time"), rules::run_time(time, self.now));
        }
        let expire_time = spec.expire_time.and_then(|time| self.timestamp(at("expire_time"), &time));
        if let Some(time) = expire_time {
            self.hold(at("expire_time"), rules::expire_time(time, run_time, self.now));
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
            expire_time,
            closure: String::new(),
        }
    }

    fn retry_policy(&mut self, field: Field<'_>, policy: &v1::RetryPolicy) -> RetryPolicy {
        let default = RetryPolicy::DEFAULT;
        let mut delay = |name: &str, value: Option<prost_types::Duration>, default: Duration| {
            value
                .and_then(|value| self.duration(Field { of: &field, name }, &value, &limits::RETRY_DELAY))
                .unwrap_or(default)
        };
        let initial_delay = delay("initial_delay", policy.initial_delay, default.initial_delay);
        let max_delay = delay("max_delay", policy.max_delay, default.max_delay.max(initial_delay));
        let multiplier = if policy.multiplier == 0.0 { default.multiplier } else { policy.multiplier };
        let jitter = policy.jitter.unwrap_or(default.jitter);
        let policy = RetryPolicy { initial_delay, max_delay, multiplier, jitter };
        for (part, problem) in rules::retry_policy(&policy) {
            self.fault(Field { of: &field, name: part }, problem);
        }
        policy
    }

    pub(super) fn queue_name(&mut self, field: impl Display, name: &str) {
        self.hold(field, rules::queue(name));
    }

    fn labels(&mut self, field: impl Display + Copy, labels: &BTreeMap<String, String>) {
        for problem in rules::labels(labels) {
            self.fault(field, problem);
        }
    }

    /// A duration within its limits.
    pub(super) fn duration(
        &mut self,
        field: impl Display,
        value: &prost_types::Duration,
        allowed: &RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let limits = || rules::duration_limits(allowed);
        if !(-999_999_999..=999_999_999).contains(&value.nanos)
            || (value.seconds > 0 && value.nanos < 0)
            || (value.seconds < 0 && value.nanos > 0)
        {
            self.fault(
                field,
                format!("is no valid duration: seconds and nanos disagree in sign or size; {}", limits()),
            );
            return None;
        }
        let (Ok(seconds), Ok(nanos)) = (u64::try_from(value.seconds), u32::try_from(value.nanos)) else {
            self.fault(field, format!("is negative; {}", limits()));
            return None;
        };
        let duration = Duration::new(seconds, nanos);
        let verdict = rules::duration(duration, allowed);
        let fits = verdict.is_ok();
        self.hold(field, verdict);
        fits.then_some(duration)
    }

    /// An instant between the years 1 and 9999.
    pub(super) fn timestamp(
        &mut self,
        field: impl Display,
        value: &prost_types::Timestamp,
    ) -> Option<Timestamp> {
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
        self.hold("request_id", rules::request_id(text));
    }

    pub(super) fn job_id(&mut self, field: impl Display, text: &str) -> JobId {
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
            .map(|(index, text)| self.job_id(format_args!("{field}[{index}]"), text))
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
        let retention = settings.retention.map(|retention| self.retention(&retention)).unwrap_or_default();
        QueueSettings {
            max_jobs,
            max_bytes,
            consumers,
            when_full,
            max_wait,
            max_waiters,
            accept_unknown_kinds: settings.accept_unknown_kinds.unwrap_or(default.accept_unknown_kinds),
            retention,
        }
    }

    fn retention(&mut self, retention: &v1::Retention) -> QueueRetention {
        let mut keep = |state: &str, time: Option<prost_types::Duration>| {
            let time = time?;
            if time.seconds == KEEP_FOREVER_SECONDS && time.nanos == 0 {
                return Some(Keep::Forever);
            }
            self.duration(format_args!("settings.retention.{state}"), &time, &limits::KEEP).map(Keep::For)
        };
        QueueRetention {
            succeeded: keep("succeeded", retention.succeeded),
            failed: keep("failed", retention.failed),
            cancelled: keep("cancelled", retention.cancelled),
            expired: keep("expired", retention.expired),
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

    pub(super) fn when_full(&mut self, field: &str, number: i32) -> Option<WhenFull> {
        match self.known(field, number) {
            v1::WhenFull::Unspecified => None,
            v1::WhenFull::Wait => Some(WhenFull::Wait),
            v1::WhenFull::Reject => Some(WhenFull::Reject),
        }
    }
}
