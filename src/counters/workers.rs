//! Metrics of remote workers.

use prometheus::{Histogram, IntCounter, IntCounterVec};

use super::factory::{DISK_SECONDS, MetricFactory, MetricsError};

/// Metrics of remote workers.
#[derive(Debug)]
pub(crate) struct WorkerCounters {
    /// Time from the commit of a claim to the worker's *received*.
    pub(crate) received_seconds: Histogram,
    /// Leases that ended without a report of their worker, by cause.
    pub(crate) lost: IntCounterVec,
    /// What never happens.
    pub(crate) never: NeverCounters,
}

/// Counts of what never happens; all are 0.
#[derive(Debug)]
pub(crate) struct NeverCounters {
    pub(crate) overwritten_leases: IntCounter,
    pub(crate) double_leases: IntCounter,
    pub(crate) exceeded_credits: IntCounter,
}

impl WorkerCounters {
    pub(super) fn new(factory: &MetricFactory) -> Result<Self, MetricsError> {
        let lost = factory.counters(
            "jobmill_worker_leases_lost_total",
            "Leases that ended without a final report of their worker, by cause.",
            &["cause"],
        )?;
        for cause in ["silence", "superseded", "cancelled", "timeout"] {
            lost.with_label_values(&[cause]);
        }
        let never = factory.counters(
            "jobmill_worker_faults_total",
            "Violations of the rules of leases and credits; always 0.",
            &["fault"],
        )?;
        Ok(WorkerCounters {
            received_seconds: factory.histogram(
                "jobmill_worker_received_seconds",
                "Time from the commit of a claim until the remote worker had received the job.",
                DISK_SECONDS,
            )?,
            lost,
            never: NeverCounters {
                overwritten_leases: never.with_label_values(&["lease_overwritten"]),
                double_leases: never.with_label_values(&["job_leased_twice"]),
                exceeded_credits: never.with_label_values(&["credits_exceeded"]),
            },
        })
    }
}
