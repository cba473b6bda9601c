//! What a server tells about itself in numbers, and whether it is ready.
//!
//! [`Metrics`] is always there and costs atomics: the committer counts what the change feed says, once a batch, the API
//! counts calls. What can be read when somebody asks, such as how many jobs are in which state, is read then
//! ([`page`]). [`endpoint`] serves all of it over HTTP. docs/metrics.md lists every metric; a test compares.

mod batches;
mod calls;
pub(crate) mod endpoint;
mod health;
mod page;
mod submissions;

use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry,
    core::Collector,
};

pub use self::page::PageError;
use self::{batches::BatchMetrics, submissions::SubmissionMetrics};
pub(crate) use self::{
    batches::Recorder,
    calls::{CallMetrics, MethodMetrics, Methods, grpc_code},
    health::Health,
    page::Page,
};
use crate::{job::StateName, lines::LostLines};

/// The label of a queue, a kind or a reason beyond those that have one of their own.
const OTHER: &str = "other";
/// So many kinds have figures of their own: the first ones by name of those that have a handler.
const KINDS_MAX: usize = 100;

/// Limits of buckets for what takes as long as a write to a disk does, in seconds.
const DISK_SECONDS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
/// Limits of buckets for waits and runs of jobs, in seconds: from a millisecond to an hour.
const JOB_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0,
    3600.0,
];
/// Limits of buckets for numbers of things in a batch.
const COUNTS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0];

/// What the parts of a server count into.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    batches: BatchMetrics,
    submissions: SubmissionMetrics,
    /// Calls over gRPC.
    pub(crate) calls: CallMetrics,
    /// Whether the server is ready for more.
    pub(crate) health: Health,
}

impl Metrics {
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
        Ok(Metrics {
            batches: BatchMetrics::new(&maker, kinds)?,
            submissions: SubmissionMetrics::new(&maker)?,
            calls: CallMetrics::new(&maker)?,
            health,
            registry: maker.0,
        })
    }

    /// Counts a submission that was refused, by the reason that its error carries.
    pub(crate) fn rejected(&self, reason: &str) {
        self.submissions.rejected(reason);
    }
}

/// A metric could not be made. Their names are constants: a build that has this error has it at every start.
#[derive(Debug, thiserror::Error)]
#[error("a metric could not be made")]
pub struct MetricsError(#[from] prometheus::Error);

/// Makes metrics and adds them to a registry.
struct Maker(Registry);

impl Maker {
    fn made<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> Result<C, MetricsError> {
        let collector = made?;
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, MetricsError> {
        self.made(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, MetricsError> {
        self.made(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, MetricsError> {
        self.made(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram, MetricsError> {
        self.made(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
        label: &str,
    ) -> Result<HistogramVec, MetricsError> {
        self.made(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), &[label]))
    }
}

/// A state as a label's value.
fn label(state: StateName) -> String {
    state.as_str().to_ascii_lowercase()
}

/// Lines beside the store that were lost.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lost {
    /// Of the log, where the program has told of its count.
    pub(crate) log: LostLines,
    /// Of the audit.
    pub(crate) audit: LostLines,
}

impl Lost {
    /// A line for each kind of lines of which some were lost.
    pub(crate) fn details(&self) -> String {
        let lost = |what, count: u64| match count {
            0 => String::new(),
            count => format!("{what}: {count} lines lost since the start\n"),
        };
        lost("log", self.log.get()) + &lost("audit", self.audit.get())
    }
}

/// What a batch took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchTimes {
    /// Applying it, from its begin to its commit.
    pub(crate) commit: Duration,
    /// The part of it in which the store made it durable.
    pub(crate) flush: Duration,
}
