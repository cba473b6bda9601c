//! All counters of a server.

use prometheus::{Registry, proto::MetricFamily};

use super::{
    batches::BatchCounters,
    calls::CallCounters,
    health::Health,
    maker::{Maker, MetricsError},
    submissions::SubmissionCounters,
};

/// What the parts of a server count into.
#[derive(Debug)]
pub(crate) struct Counters {
    registry: Registry,
    pub(super) batches: BatchCounters,
    submissions: SubmissionCounters,
    /// Calls over gRPC.
    pub(crate) calls: CallCounters,
    /// Whether the server is ready for more.
    pub(crate) health: Health,
}

impl Counters {
    /// For the kinds that have a handler.
    pub(crate) fn new<'a>(
        kinds: impl IntoIterator<Item = &'a str>,
        health: Health,
    ) -> Result<Self, MetricsError> {
        let maker = Maker(Registry::new());
        #[cfg(target_os = "linux")]
        maker.0.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let build = maker.gauges("jobmill_build_info", "The version that runs; always 1.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Counters {
            batches: BatchCounters::new(&maker, kinds)?,
            submissions: SubmissionCounters::new(&maker)?,
            calls: CallCounters::new(&maker)?,
            health,
            registry: maker.0,
        })
    }

    /// All that has been counted so far.
    pub(crate) fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    /// Counts a submission that was refused, by the reason that its error carries.
    pub(crate) fn rejected(&self, reason: &str) {
        self.submissions.rejected(reason);
    }
}
