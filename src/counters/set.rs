//! All counters of a server.

use std::sync::Arc;

use prometheus::{Registry, proto::MetricFamily};

use super::{
    batches::BatchCounters,
    calls::CallCounters,
    factory::{MetricFactory, MetricsError},
    health::Health,
    schedules::ScheduleCounters,
    submissions::SubmissionCounters,
    workers::WorkerCounters,
};

/// The counters of a server.
#[derive(Debug)]
pub(crate) struct Counters {
    registry: Registry,
    pub(super) batches: BatchCounters,
    pub(super) schedules: ScheduleCounters,
    submissions: SubmissionCounters,
    /// Metrics of gRPC calls.
    pub(crate) calls: CallCounters,
    /// Metrics of remote workers.
    pub(crate) workers: Arc<WorkerCounters>,
    /// Readiness of the server.
    pub(crate) health: Health,
}

impl Counters {
    /// Creates the counters, for the kinds that have a handler.
    pub(crate) fn new<'a>(
        kinds: impl IntoIterator<Item = &'a str>,
        health: Health,
    ) -> Result<Self, MetricsError> {
        let factory = MetricFactory(Registry::new());
        #[cfg(target_os = "linux")]
        super::process::register(&factory)?;
        let build = factory.gauges("jobmill_build_info", "The server's version; always 1.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Counters {
            batches: BatchCounters::new(&factory, kinds)?,
            schedules: ScheduleCounters::new(&factory)?,
            submissions: SubmissionCounters::new(&factory)?,
            calls: CallCounters::new(&factory)?,
            workers: Arc::new(WorkerCounters::new(&factory)?),
            health,
            registry: factory.0,
        })
    }

    /// Returns all counters with their present values.
    pub(crate) fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    /// Counts a refused submission, by the reason code of its error.
    pub(crate) fn rejected(&self, reason: &str) {
        self.submissions.rejected(reason);
    }
}
