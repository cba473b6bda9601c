//! Metrics of gRPC calls, by method and code.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::factory::{MetricFactory, MetricsError, OTHER};

/// Histogram buckets of a call's duration, in seconds. A submission may wait 10 minutes for room.
const CALL_SECONDS: &[f64] =
    &[0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0];

/// The gRPC status codes, by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
const UNKNOWN: usize = 2;

/// Returns the name of a gRPC status code, as the protocol's specification writes it.
pub(crate) fn grpc_code(number: usize) -> &'static str {
    CODES.get(number).copied().unwrap_or(CODES[UNKNOWN])
}

/// Metrics of gRPC calls.
#[derive(Debug)]
pub(crate) struct CallCounters {
    calls: IntCounterVec,
    open: IntGaugeVec,
    seconds: HistogramVec,
    untaken: IntGauge,
    cut: IntCounter,
    other: Arc<MethodCounters>,
}

/// Metrics of a method.
#[derive(Debug)]
pub(crate) struct MethodCounters {
    name: String,
    calls: IntCounterVec,
    /// Created when the first call ends with the code, so that unused codes expose no rows of zeros.
    by_code: [OnceLock<IntCounter>; CODES.len()],
    open: IntGauge,
    /// Absent for streams, whose duration means nothing.
    seconds: Option<Histogram>,
}

/// The methods with metrics of their own, by the path of their calls.
pub(crate) type Methods = HashMap<String, Arc<MethodCounters>>;

impl CallCounters {
    pub(super) fn new(factory: &MetricFactory) -> Result<Self, MetricsError> {
        let calls = factory.counters(
            "jobmill_grpc_calls_total",
            "Ended gRPC calls, by method and code. CANCELLED includes calls whose client disconnected.",
            &["method", "code"],
        )?;
        let open = factory.gauges("jobmill_grpc_calls_open", "gRPC calls in progress.", &["method"])?;
        let seconds = factory.histograms(
            "jobmill_grpc_call_seconds",
            "Duration of a unary gRPC call, from its headers to the end of its response.",
            CALL_SECONDS,
            "method",
        )?;
        let untaken = factory.register(IntGauge::new(
            "jobmill_grpc_untaken_bytes",
            "Buffered bytes of large responses that clients have not read.",
        ))?;
        let cut = factory.counter(
            "jobmill_grpc_answers_cut_total",
            "Large responses that were aborted, because the client read nothing while others waited.",
        )?;
        let other = Arc::new(MethodCounters::new(OTHER, false, &calls, &open, &seconds));
        Ok(CallCounters { calls, open, seconds, untaken, cut, other })
    }

    /// Creates the metrics of these methods, each given as `package.Service/Method` and whether it streams.
    pub(crate) fn methods(&self, names: impl IntoIterator<Item = (String, bool)>) -> Methods {
        let methods = names.into_iter().map(|(name, streams)| {
            let counters = MethodCounters::new(&name, !streams, &self.calls, &self.open, &self.seconds);
            (format!("/{name}"), Arc::new(counters))
        });
        methods.collect()
    }

    /// Adds to the buffered bytes of large answers, or subtracts from them.
    pub(crate) fn untaken(&self, bytes: i64) {
        self.untaken.add(bytes);
    }

    /// Counts a large answer that was aborted.
    pub(crate) fn answer_cut(&self) {
        self.cut.inc();
    }

    /// Returns the metrics of all other methods.
    pub(crate) fn other(&self) -> &Arc<MethodCounters> {
        &self.other
    }
}

impl MethodCounters {
    fn new(
        name: &str,
        unary: bool,
        calls: &IntCounterVec,
        open: &IntGaugeVec,
        seconds: &HistogramVec,
    ) -> Self {
        MethodCounters {
            name: name.to_owned(),
            calls: calls.clone(),
            by_code: Default::default(),
            open: open.with_label_values(&[name]),
            seconds: unary.then(|| seconds.with_label_values(&[name])),
        }
    }

    /// Counts the start of a call.
    pub(crate) fn begins(&self) {
        self.open.inc();
    }

    /// Counts the end of a call with this code, after `seconds`.
    pub(crate) fn ended(&self, code: usize, seconds: f64) {
        self.open.dec();
        let code = if code < CODES.len() { code } else { UNKNOWN };
        let counter = self.by_code[code]
            .get_or_init(|| self.calls.with_label_values(&[self.name.as_str(), grpc_code(code)]));
        counter.inc();
        if let Some(histogram) = &self.seconds {
            histogram.observe(seconds);
        }
    }
}
