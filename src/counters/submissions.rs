//! Metrics of refused submissions.

use std::collections::HashMap;

use prometheus::IntCounter;

use super::factory::{MetricFactory, MetricsError, OTHER};

/// The reason codes with a label value of their own.
const REASONS: &[&str] = &[
    "INVALID_REQUEST",
    "QUEUE_NOT_FOUND",
    "UNKNOWN_KIND",
    "QUEUE_FULL",
    "TOO_MANY_WAITERS",
    "LARGER_THAN_QUEUE",
    "REQUEST_ID_REUSED",
    "TOO_MANY_KINDS",
    "LIMIT_NOT_FOUND",
    "TOO_HEAVY",
    "DISK_FULL",
    "STORE_LOCKED",
    "STOPPING",
];

#[derive(Debug)]
pub(super) struct SubmissionCounters {
    rejected: HashMap<&'static str, IntCounter>,
    other: IntCounter,
}

impl SubmissionCounters {
    pub(super) fn new(factory: &MetricFactory) -> Result<Self, MetricsError> {
        let rejected = factory.counters(
            "jobmill_submissions_rejected_total",
            "Refused submissions, by the error's reason. A batch is one submission.",
            &["reason"],
        )?;
        let counter = |reason: &str| rejected.with_label_values(&[reason]);
        Ok(SubmissionCounters {
            rejected: REASONS.iter().map(|reason| (*reason, counter(reason))).collect(),
            other: counter(OTHER),
        })
    }

    pub(super) fn rejected(&self, reason: &str) {
        self.rejected.get(reason).unwrap_or(&self.other).inc();
    }
}
