//! Creation and registration of metrics: types, labels and buckets.

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    core::Collector,
};

use crate::job::StateName;

/// Label value of kinds, methods and reasons without a value of their own.
pub(super) const OTHER: &str = "other";
/// Limit of the kinds with metrics of their own: the first by name of those with a handler.
pub(super) const KINDS_MAX: usize = 100;

/// Histogram buckets of disk writes, in seconds.
pub(super) const DISK_SECONDS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// Histogram buckets of waits and runs of jobs, in seconds: from a millisecond to an hour.
pub(super) const JOB_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0,
    3600.0,
];
/// Histogram buckets of numbers of items in a batch.
pub(super) const COUNTS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0];

/// A metric could not be created. The names are constants: a build with this error has it at every start.
#[derive(Debug, thiserror::Error)]
#[error("a metric could not be created")]
pub struct MetricsError(#[from] prometheus::Error);

/// Creates metrics and adds them to a registry.
pub(crate) struct MetricFactory(pub(crate) Registry);

impl MetricFactory {
    pub(crate) fn register<C: Collector + Clone + 'static>(
        &self,
        made: prometheus::Result<C>,
    ) -> Result<C, MetricsError> {
        let collector = made?;
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    pub(crate) fn counter(&self, name: &str, help: &str) -> Result<IntCounter, MetricsError> {
        self.register(IntCounter::new(name, help))
    }

    pub(crate) fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, MetricsError> {
        self.register(IntCounterVec::new(Opts::new(name, help), labels))
    }

    pub(crate) fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, MetricsError> {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    pub(crate) fn histogram(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
    ) -> Result<Histogram, MetricsError> {
        self.register(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }

    pub(crate) fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
        label: &str,
    ) -> Result<HistogramVec, MetricsError> {
        self.register(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), &[label]))
    }
}

/// Returns a state as a label value.
pub(crate) fn label(state: StateName) -> String {
    state.as_str().to_ascii_lowercase()
}
