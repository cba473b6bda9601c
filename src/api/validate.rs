//! Validation of requests. All faults of a request are reported, each with its field and limit, before any work starts.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
    mem,
    ops::RangeInclusive,
    time::Duration,
};

use bytes::Bytes;
use tonic::Status;

use super::errors::{self, Faults};
use crate::{
    admission::{
        rules::{self, RuleResult, shown},
        unique,
    },
    clock::Timestamp,
    job::{JobDraft, JobFilter, JobId, PartialRetryPolicy, PayloadInfo, StateName, When, names},
    proto::v1,
    settings::{WhenFull, limits},
    watch::Detail,
};

pub(super) const FILTER_QUEUES_MAX: usize = 32;
pub(super) const FILTER_KINDS_MAX: usize = 32;
const FILTER_STATES_MAX: usize = 16;
/// Job limit of a batch.
pub(super) const BATCH_MAX: usize = 1_000;
pub(super) const WATCHED_IDS_MAX: usize = 1_000;
/// Allowed range of GetJob's `wait`.
pub(super) const WAIT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(600);
const PAGE_SIZE_DEFAULT: usize = 100;
pub(super) const PAGE_SIZE_MAX: i32 = 1_000;

/// The path of a request field. It is formatted lazily, as most fields have no fault.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    pub(super) of: &'a dyn Display,
    pub(super) name: &'a str,
}

impl Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.of, self.name)
    }
}

/// Validator of one request.
pub(super) struct Validator {
    faults: Faults,
    /// A namespace that does not exist. Reported only if there is no other fault.
    missing_namespace: Option<String>,
    now: Timestamp,
}

impl Validator {
    /// Creates the validator of a request in a namespace.
    pub(super) fn new(now: Timestamp, namespace: &str) -> Self {
        let mut validator = Validator { faults: Faults::default(), missing_namespace: None, now };
        if !namespace.is_empty() && namespace != names::NAMESPACE {
            validator.hold("namespace", rules::queue(namespace));
            validator.missing_namespace = Some(namespace.to_owned());
        }
        validator
    }

    /// Returns an error with all faults, if there are any.
    pub(super) fn finish(self) -> Result<(), Status> {
        self.faults.check()?;
        match self.missing_namespace {
            Some(name) => Err(errors::namespace_not_found(&name)),
            None => Ok(()),
        }
    }

    /// Returns the time of the request.
    pub(super) fn now(&self) -> Timestamp {
        self.now
    }

    /// Adds a fault after which validation can't go on, and returns the error.
    pub(super) fn failed(mut self, field: impl Display, description: impl Into<String>) -> Status {
        self.fault(field, description);
        self.faults.into_status()
    }

    pub(super) fn fault(&mut self, field: impl Display, description: impl Into<String>) {
        self.faults.add(field.to_string(), description);
    }

    pub(super) fn hold(&mut self, field: impl Display, verdict: RuleResult) {
        if let Err(problem) = verdict {
            self.fault(field, problem);
        }
    }

    /// Validates a job and takes its fields. It stays where it is: a batch has up to a thousand of them, and `own` is its
    /// index there, with their number.
    pub(super) fn job_spec(
        &mut self,
        field: &dyn Display,
        spec: Option<&mut v1::JobSpec>,
        own: Option<(usize, usize)>,
    ) -> JobDraft {
        let Some(spec) = spec else {
            self.fault(field, "is required");
            return JobDraft::default();
        };
        let at = |name| Field { of: field, name };
        self.queue_name(at("queue"), &spec.queue);
        self.hold(at("kind"), rules::kind(&spec.kind));
        self.labels(at("labels"), &spec.labels);
        self.hold(at("max_attempts"), rules::max_attempts(i64::from(spec.max_attempts)));
        let retry = spec.retry_policy.as_ref().map(|policy| self.retry_policy(at("retry_policy"), policy));
        let attempt_timeout = spec
            .attempt_timeout
            .and_then(|timeout| self.duration(at("attempt_timeout"), &timeout, &limits::ATTEMPT_TIMEOUT));
        if let Some(snoozes) = spec.max_snoozes {
            self.hold(at("max_snoozes"), rules::max_snoozes(i64::from(snoozes)));
        }
        self.hold(at("max_process_losses"), rules::max_process_losses(i64::from(spec.max_process_losses)));
        for problem in
            rules::weights(spec.weights.iter().map(|(limit, weight)| (&**limit, i64::from(*weight))))
        {
            self.fault(at("weights"), problem);
        }
        let depends_on = self.dependencies(field, &mem::take(&mut spec.depends_on), own);
        let mut draft = self.job_input(field, spec);
        draft.depends_on = depends_on;
        draft.queue = mem::take(&mut spec.queue);
        draft.kind = mem::take(&mut spec.kind);
        draft.labels = mem::take(&mut spec.labels);
        let weights = mem::take(&mut spec.weights).into_iter();
        draft.weights =
            weights.filter_map(|(limit, weight)| Some((limit, u32::try_from(weight).ok()?))).collect();
        draft.max_attempts = u32::try_from(spec.max_attempts).ok().filter(|attempts| *attempts > 0);
        draft.max_snoozes = spec.max_snoozes.and_then(|snoozes| u32::try_from(snoozes).ok());
        draft.max_process_losses = u32::try_from(spec.max_process_losses).ok().filter(|losses| *losses > 0);
        draft.retry = retry;
        draft.attempt_timeout = attempt_timeout;
        draft.deadline =
            spec.deadline.take().and_then(|deadline| self.deadline(field, deadline, draft.start));
        draft
    }

    /// Validates the fields of a job that can be changed as long as it has not started, and takes them. All others are
    /// left out.
    pub(super) fn job_input(&mut self, field: &dyn Display, spec: &mut v1::JobSpec) -> JobDraft {
        let at = |name| Field { of: field, name };
        let (payload, payload_info) = self.payload(at("payload"), spec.payload.take());
        for problem in rules::headers(&spec.headers) {
            self.fault(at("headers"), problem);
        }
        if let Some(priority) = spec.priority {
            self.hold(at("priority"), rules::priority(priority));
        }
        let start = spec.start.take().and_then(|start| self.start(field, start));
        let unique = self.unique_key(field, spec.unique_key.take(), start);
        let starts = unique::start(unique.as_deref(), start);
        let expiry = spec.expiry.take().and_then(|expiry| self.expiry(field, expiry, starts));
        JobDraft {
            payload,
            payload_info,
            headers: mem::take(&mut spec.headers),
            priority: spec.priority.map(|priority| priority as i8),
            start,
            expiry,
            unique,
            ..JobDraft::default()
        }
    }

    fn payload(&mut self, field: Field<'_>, payload: Option<v1::Payload>) -> (Bytes, PayloadInfo) {
        let (bytes, info) = self.payload_of_any_size(field, payload);
        self.hold(field, rules::payload(&bytes));
        (bytes, info)
    }

    /// Validates a payload apart from its size.
    pub(super) fn payload_of_any_size(
        &mut self,
        field: Field<'_>,
        payload: Option<v1::Payload>,
    ) -> (Bytes, PayloadInfo) {
        let Some(v1::Payload { body, mut media_type, metadata, size_bytes }) = payload else {
            return (Bytes::new(), PayloadInfo::default());
        };
        if size_bytes > 0 && body.is_none() {
            // A job from a response, submitted again without its bytes: to accept it would lose the payload.
            self.fault(
                field,
                format!("has no bytes, but size_bytes is {size_bytes}: read the job in JOB_VIEW_FULL"),
            );
        }
        let bytes = match body {
            Some(v1::payload::Body::Data(data)) => data,
            Some(v1::payload::Body::Text(text)) => {
                if media_type.is_empty() {
                    PayloadInfo::TEXT.clone_into(&mut media_type);
                }
                Bytes::from(text)
            }
            None => Bytes::new(),
        };
        self.hold(Field { of: &field, name: "media_type" }, rules::media_type(&media_type));
        for problem in rules::metadata(&metadata) {
            self.fault(Field { of: &field, name: "metadata" }, problem);
        }
        (bytes, PayloadInfo { media_type, metadata })
    }

    fn start(&mut self, field: &dyn Display, start: v1::job_spec::Start) -> Option<When> {
        match start {
            v1::job_spec::Start::RunTime(time) => {
                let at = Field { of: field, name: "run_time" };
                let time = self.timestamp(at, &time)?;
                self.hold(at, rules::run_time(time, self.now));
                Some(When::At(time))
            }
            v1::job_spec::Start::Delay(delay) => {
                let at = Field { of: field, name: "delay" };
                self.duration(at, &delay, &rules::DELAY).map(When::After)
            }
        }
    }

    fn expiry(
        &mut self,
        field: &dyn Display,
        expiry: v1::job_spec::Expiry,
        start: Option<When>,
    ) -> Option<When> {
        let (at, expiry) = match expiry {
            v1::job_spec::Expiry::ExpireTime(time) => {
                let at = Field { of: field, name: "expire_time" };
                (at, When::At(self.timestamp(at, &time)?))
            }
            v1::job_spec::Expiry::ExpireAfter(time) => {
                let at = Field { of: field, name: "expire_after" };
                (at, When::After(self.duration(at, &time, &rules::EXPIRE_AFTER)?))
            }
        };
        self.hold(at, rules::expiry(expiry, start, self.now));
        Some(expiry)
    }

    fn deadline(
        &mut self,
        field: &dyn Display,
        deadline: v1::job_spec::Deadline,
        start: Option<When>,
    ) -> Option<When> {
        let (at, deadline) = match deadline {
            v1::job_spec::Deadline::DeadlineTime(time) => {
                let at = Field { of: field, name: "deadline_time" };
                (at, When::At(self.timestamp(at, &time)?))
            }
            v1::job_spec::Deadline::DeadlineAfter(time) => {
                let at = Field { of: field, name: "deadline_after" };
                (at, When::After(self.duration(at, &time, &limits::DEADLINE)?))
            }
        };
        self.hold(at, rules::deadline(deadline, start, self.now));
        Some(deadline)
    }

    fn retry_policy(&mut self, field: Field<'_>, policy: &v1::RetryPolicy) -> PartialRetryPolicy {
        let mut delay = |name: &str, value: Option<prost_types::Duration>| {
            value.and_then(|value| self.duration(Field { of: &field, name }, &value, &limits::RETRY_DELAY))
        };
        let (initial_delay, max_delay) =
            (delay("initial_delay", policy.initial_delay), delay("max_delay", policy.max_delay));
        let listed = policy.delays.iter().take(limits::RETRY_DELAYS_MAX + 1).enumerate();
        let delays: Vec<Duration> =
            listed.filter_map(|(index, value)| delay(&format!("delays[{index}]"), Some(*value))).collect();
        let policy = PartialRetryPolicy {
            initial_delay,
            max_delay,
            multiplier: policy.multiplier,
            jitter: policy.jitter,
            delays: (!delays.is_empty()).then(|| delays.into()),
        };
        for (part, problem) in rules::retry_policy(&policy) {
            self.fault(Field { of: &field, name: part }, problem);
        }
        policy
    }

    pub(super) fn queue_name(&mut self, field: impl Display, name: &str) {
        self.hold(field, rules::queue(name));
    }

    pub(super) fn labels(&mut self, field: impl Display + Copy, labels: &BTreeMap<String, String>) {
        for problem in rules::labels(labels) {
            self.fault(field, problem);
        }
    }

    /// Validates a duration.
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

    /// Validates a time between the years 1 and 9999.
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
        if filter.queues.len() > FILTER_QUEUES_MAX {
            let message =
                format!("has {} entries; at most {FILTER_QUEUES_MAX} are allowed", filter.queues.len());
            self.fault("filter.queues", message);
        }
        for (index, queue) in filter.queues.iter().take(FILTER_QUEUES_MAX).enumerate() {
            self.queue_name(format_args!("filter.queues[{index}]"), queue);
        }
        if filter.kinds.len() > FILTER_KINDS_MAX {
            let message =
                format!("has {} entries; at most {FILTER_KINDS_MAX} are allowed", filter.kinds.len());
            self.fault("filter.kinds", message);
        }
        for (index, kind) in filter.kinds.iter().take(FILTER_KINDS_MAX).enumerate() {
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
            queues: filter.queues,
            kinds: filter.kinds,
            states,
            labels: filter.labels,
            created_after,
            created_before,
            done: filter.done,
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

    /// Validates a limit from 1 to `max`. Zero means the default.
    pub(super) fn limit(&mut self, field: &str, number: i32, max: u32, default: u32) -> u32 {
        match u32::try_from(number) {
            Ok(0) => default,
            Ok(limit) if limit <= max => limit,
            Ok(_) | Err(_) => {
                self.fault(field, format!("is {number}; it must be from 1 to {max}, or 0 for {default}"));
                default
            }
        }
    }

    /// Validates the view of jobs in the response.
    pub(super) fn view(&mut self, field: &str, number: i32, default: v1::JobView) -> v1::JobView {
        match self.known(field, number) {
            v1::JobView::Unspecified => default,
            view @ (v1::JobView::Basic | v1::JobView::Result | v1::JobView::Full) => view,
        }
    }

    /// Validates the value of an enum: it must be known to this version.
    pub(super) fn known<E: TryFrom<i32> + Default>(&mut self, field: &str, number: i32) -> E {
        E::try_from(number).unwrap_or_else(|_| {
            self.fault(field, format!("{number} is no value of this enum; 0 means the default"));
            E::default()
        })
    }

    /// Validates the revision that a job is expected to have.
    pub(super) fn expected_revision(&mut self, revision: Option<i64>) -> Option<u64> {
        let number = revision?;
        match u64::try_from(number) {
            Ok(revision @ 1..) => Some(revision),
            Ok(0) | Err(_) => {
                self.fault("expected_revision", format!("is {number}; a job's revisions count from 1"));
                None
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
