//! Settings of traces.

/// Settings of traces.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, PartialEq, Debug)]
pub struct TracesSettings {
    /// URL of the collector, which takes OTLP over gRPC: `http://host:port` or `https://host:port`. Absent: no traces
    /// are recorded. Needs the cargo feature `otel`.
    pub endpoint: Option<String>,
    /// Share of submissions without a trace context that begin a trace: 0 to 1, and at most 100 jobs a second. A
    /// submission with a trace context is recorded if the context says so.
    pub sample_ratio: f64,
}

impl Default for TracesSettings {
    fn default() -> Self {
        TracesSettings { endpoint: None, sample_ratio: 1.0 }
    }
}
