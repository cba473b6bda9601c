//! Where traces go.

/// Where traces go, and which.
#[derive(Clone, PartialEq, Debug)]
pub struct TracesSettings {
    /// The collector's URL, which takes OTLP over gRPC: `http://host:port` or `https://host:port`. Without one nothing
    /// is recorded. Needs the cargo feature `otel`.
    pub endpoint: Option<String>,
    /// Of the submissions that come without a trace context, so many begin a trace: 0 to 1, and of at most 100 jobs
    /// a second.
    /// Those that come with one are recorded if it says so.
    pub sample_ratio: f64,
}

impl Default for TracesSettings {
    fn default() -> Self {
        TracesSettings { endpoint: None, sample_ratio: 1.0 }
    }
}
