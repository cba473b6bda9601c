//! Metrics of batches: the changes of jobs in the change feed, and the duration of a batch.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

use super::factory::{
    self, COUNTS, DISK_SECONDS, JOB_SECONDS, KINDS_MAX, MetricFactory, MetricsError, OTHER,
};
use crate::job::{FailureReason, Job, Name, State, StateName};

/// Metrics that the committer records.
#[derive(Debug)]
pub(super) struct BatchCounters {
    pub(super) commit_seconds: Histogram,
    pub(super) flush_seconds: Histogram,
    pub(super) changes: Histogram,
    pub(super) repeated: IntCounter,
    pub(super) existing: IntCounter,
    pub(super) replaced: IntCounter,
    pub(super) deleted: IntCounter,
    pub(super) refused_reports: IntCounter,
    pub(super) checkpoints: IntCounter,
    pub(super) checkpoint_bytes: IntCounter,
    /// Ordered by name; the last one is for all other kinds.
    kinds: Vec<KindCounters>,
    /// The index in `kinds` of each kind with metrics of its own.
    places: HashMap<String, usize>,
}

/// Metrics of a kind.
#[derive(Debug)]
pub(super) struct KindCounters {
    name: String,
    submitted: IntCounter,
    pub(super) started: IntCounter,
    pub(super) retries: IntCounter,
    pub(super) wait_seconds: Histogram,
    run_seconds: Histogram,
    succeeded_attempts: IntCounter,
    /// In the order of [`REASONS`].
    failed_attempts: [IntCounter; REASONS.len()],
    not_started: IntCounter,
    snoozed: IntCounter,
    succeeded: IntCounter,
    failed: IntCounter,
    cancelled: IntCounter,
    expired: IntCounter,
}

const REASONS: [FailureReason; 12] = [
    FailureReason::HandlerError,
    FailureReason::Panic,
    FailureReason::Timeout,
    FailureReason::Lost,
    FailureReason::Cancelled,
    FailureReason::StartFailed,
    FailureReason::ResultTooLarge,
    FailureReason::Released,
    FailureReason::Deadline,
    FailureReason::SnoozedOut,
    FailureReason::Poison,
    FailureReason::Dependency,
];

/// Returns a reason's label value, and its index in [`REASONS`].
const fn label(reason: FailureReason) -> (&'static str, usize) {
    match reason {
        FailureReason::HandlerError => ("handler_error", 0),
        FailureReason::Panic => ("panic", 1),
        FailureReason::Timeout => ("timeout", 2),
        FailureReason::Lost => ("lost", 3),
        FailureReason::Cancelled => ("cancelled", 4),
        FailureReason::StartFailed => ("start_failed", 5),
        FailureReason::ResultTooLarge => ("result_too_large", 6),
        FailureReason::Released => ("released", 7),
        FailureReason::Deadline => ("deadline", 8),
        FailureReason::SnoozedOut => ("snoozed_out", 9),
        FailureReason::Poison => ("poison", 10),
        FailureReason::Dependency => ("dependency", 11),
    }
}

/// The metrics with the label `kind`.
struct KindFamilies {
    submitted: IntCounterVec,
    started: IntCounterVec,
    retries: IntCounterVec,
    wait_seconds: HistogramVec,
    run_seconds: HistogramVec,
    attempts: IntCounterVec,
    ended: IntCounterVec,
}

impl KindFamilies {
    fn new(factory: &MetricFactory) -> Result<Self, MetricsError> {
        let by_kind = |name, help| factory.counters(name, help, &["kind"]);
        let submitted = by_kind("jobmill_jobs_submitted_total", "Accepted jobs, which are on disk.")?;
        let started = by_kind("jobmill_attempts_started_total", "Started attempts.")?;
        let retries = by_kind("jobmill_retries_total", "Started attempts after a job's first one.")?;
        let wait_seconds = factory.histograms(
            "jobmill_wait_seconds",
            "Time from a job being ready to the start of its attempt.",
            JOB_SECONDS,
            "kind",
        )?;
        let run_seconds = factory.histograms(
            "jobmill_run_seconds",
            "Time from the start of an attempt to the commit of its end.",
            JOB_SECONDS,
            "kind",
        )?;
        let attempts = factory.counters(
            "jobmill_attempts_total",
            "Ended attempts, by result: succeeded, snoozed, not_started, or the reason of the failure.",
            &["kind", "result"],
        )?;
        let ended = factory.counters(
            "jobmill_jobs_ended_total",
            "Ended jobs, by state. A job that is retried by hand ends again.",
            &["kind", "state"],
        )?;
        Ok(KindFamilies { submitted, started, retries, wait_seconds, run_seconds, attempts, ended })
    }

    /// Metrics of a kind.
    fn of(&self, kind: &str) -> KindCounters {
        let ended = |state| self.ended.with_label_values(&[kind, &*factory::label(state)]);
        KindCounters {
            name: kind.to_owned(),
            submitted: self.submitted.with_label_values(&[kind]),
            started: self.started.with_label_values(&[kind]),
            retries: self.retries.with_label_values(&[kind]),
            wait_seconds: self.wait_seconds.with_label_values(&[kind]),
            run_seconds: self.run_seconds.with_label_values(&[kind]),
            succeeded_attempts: self.attempts.with_label_values(&[kind, "succeeded"]),
            failed_attempts: REASONS.map(|reason| self.attempts.with_label_values(&[kind, label(reason).0])),
            not_started: self.attempts.with_label_values(&[kind, "not_started"]),
            snoozed: self.attempts.with_label_values(&[kind, "snoozed"]),
            succeeded: ended(StateName::Succeeded),
            failed: ended(StateName::Failed),
            cancelled: ended(StateName::Cancelled),
            expired: ended(StateName::Expired),
        }
    }
}

impl BatchCounters {
    pub(super) fn new<'a>(
        factory: &MetricFactory,
        kinds: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, MetricsError> {
        let families = KindFamilies::new(factory)?;
        let met = factory.counters(
            "jobmill_submissions_met_key_total",
            "Submitted jobs that were not created, because another job holds their unique key, by outcome.",
            &["outcome"],
        )?;
        let named: BTreeSet<&str> = kinds.into_iter().filter(|kind| *kind != OTHER).collect();
        let kinds: Vec<_> =
            named.into_iter().take(KINDS_MAX).chain([OTHER]).map(|kind| families.of(kind)).collect();
        let places = kinds.iter().enumerate().map(|(place, kind)| (kind.name.clone(), place)).collect();
        Ok(BatchCounters {
            kinds,
            places,
            commit_seconds: factory.histogram(
                "jobmill_commit_seconds",
                "Duration of applying a batch, its commit included.",
                DISK_SECONDS,
            )?,
            flush_seconds: factory.histogram(
                "jobmill_flush_seconds",
                "Duration of committing a batch: writing the write-ahead log and flushing it to disk.",
                DISK_SECONDS,
            )?,
            changes: factory.histogram(
                "jobmill_batch_changes",
                "Number of job changes in a batch, which share a flush.",
                COUNTS,
            )?,
            repeated: factory.counter(
                "jobmill_submissions_repeated_total",
                "Repeated submissions, whose request_id was seen before.",
            )?,
            existing: met.with_label_values(&["existing"]),
            replaced: met.with_label_values(&["replaced"]),
            deleted: factory.counter("jobmill_jobs_deleted_total", "Deleted jobs.")?,
            refused_reports: factory.counter(
                "jobmill_reports_refused_total",
                "Reports of attempts that were refused, because their lease was no longer valid.",
            )?,
            checkpoints: factory
                .counter("jobmill_checkpoints_total", "Checkpoints of attempts that were written.")?,
            checkpoint_bytes: factory
                .counter("jobmill_checkpoint_bytes_total", "Bytes of the states of these checkpoints.")?,
        })
    }
}

impl BatchCounters {
    /// Metrics of a kind.
    pub(super) fn of(&self, kind: &Name) -> &KindCounters {
        let place = self.places.get(kind.as_str()).copied();
        &self.kinds[place.unwrap_or(self.kinds.len() - 1)]
    }
}

impl KindCounters {
    /// Counts a change of a job. `ran` is the duration of the attempt that the change ends, if it ends one.
    pub(super) fn changed(&self, job: &Job, before: Option<StateName>, ran: Option<Duration>) {
        if before.is_none() {
            self.submitted.inc();
        }
        if before == Some(job.state.name()) {
            return;
        }
        let ended = match job.state {
            State::Succeeded => Some(&self.succeeded),
            State::Failed => Some(&self.failed),
            State::Cancelled => Some(&self.cancelled),
            State::Expired => Some(&self.expired),
            State::Scheduled { .. }
            | State::Blocked { .. }
            | State::Queued { .. }
            | State::Running { .. }
            | State::BackingOff { .. }
            | State::Cancelling { .. } => None,
        };
        if let Some(ended) = ended {
            ended.inc();
        }
        let Some(ran) = ran else { return };
        if job.started.is_none() {
            self.not_started.inc();
            return;
        }
        let counter = match (job.state, &job.failure) {
            (State::BackingOff { .. }, _) if job.rare().snoozed => &self.snoozed,
            (State::Succeeded, _) => &self.succeeded_attempts,
            (State::Failed | State::Cancelled | State::BackingOff { .. }, Some(failure)) => {
                &self.failed_attempts[label(failure.reason).1]
            }
            _ => return,
        };
        counter.inc();
        self.run_seconds.observe(ran.as_secs_f64());
    }
}
