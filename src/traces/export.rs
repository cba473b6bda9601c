//! Export of spans to a collector, over OTLP.

use std::time::{Duration, SystemTime};

use opentelemetry::{
    Context, Key, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{
        Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, TraceState, Tracer,
        TracerProvider,
    },
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider},
};

use super::{JobId, SpanRole, Timestamp, TraceContext, TracesError};

/// Capacity of the queue of ended spans. Further spans are dropped, and a log line says so.
const QUEUE_SPANS: usize = 8_192;
/// Limit of the spans of one export.
const BATCH_SPANS: usize = 512;
/// Interval of exports of fewer spans.
const SEND_EVERY: Duration = Duration::from_secs(1);
/// Timeout of one export, after which its spans are given up.
const SEND_MAX: Duration = Duration::from_secs(5);
/// The service name, unless `OTEL_SERVICE_NAME` is set.
const SERVICE: &str = "jobmill";

/// Exporter of spans to a collector, with a thread of its own.
#[derive(Debug)]
pub(super) struct Exporter {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// An open span, which ends when it is dropped. It is large, and most jobs have none.
#[derive(Debug)]
pub(super) struct Span(Box<opentelemetry_sdk::trace::Span>);

impl Exporter {
    /// Creates an exporter. Must be called within a runtime, which does the sending for the exporter's thread.
    pub(super) fn new(endpoint: &str) -> Result<Self, TracesError> {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(SEND_MAX)
            .build()
            .map_err(|error| TracesError::Exporter { endpoint: endpoint.to_owned(), source: error.into() })?;
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_SPANS)
            .with_max_export_batch_size(BATCH_SPANS)
            .with_scheduled_delay(SEND_EVERY)
            .build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(config).build())
            // The sampling decision was made before: only sampled spans get here.
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(resource())
            .build();
        let tracer = provider.tracer(SERVICE);
        Ok(Exporter { provider, tracer })
    }

    /// Begins a span, now unless `start` says otherwise.
    pub(super) fn begin(
        &self,
        role: SpanRole,
        kind: &str,
        parent: Option<TraceContext>,
        start: Option<Timestamp>,
    ) -> Span {
        let (verb, span_kind) = match role {
            SpanRole::Submit => ("submit", SpanKind::Producer),
            SpanRole::Wait => ("wait", SpanKind::Internal),
            SpanRole::Run => ("run", SpanKind::Consumer),
        };
        let mut builder = SpanBuilder::from_name(format!("{verb} {kind}")).with_kind(span_kind);
        builder.start_time = start.map(system_time);
        let context = match parent {
            Some(parent) => Context::new().with_remote_span_context(remote(parent)),
            None => Context::new(),
        };
        Span(Box::new(self.tracer.build_with_context(builder, &context)))
    }

    /// Sends the remaining spans within `timeout`. Blocks.
    pub(super) fn finish(&self, timeout: Duration) {
        if let Err(error) = self.provider.shutdown_with_timeout(timeout) {
            tracing::warn!(%error, "the last spans could not be sent");
        }
    }
}

impl Span {
    /// Returns the trace context for children of this span.
    pub(super) fn context(&self) -> TraceContext {
        let context = self.0.span_context();
        TraceContext {
            trace_id: u128::from_be_bytes(context.trace_id().to_bytes()),
            span_id: u64::from_be_bytes(context.span_id().to_bytes()),
            sampled: context.is_sampled(),
        }
    }

    /// Adds the attributes that all spans of a job have.
    pub(super) fn describe(&mut self, queue: &str, kind: &str) {
        self.add("messaging.system", SERVICE);
        self.add("messaging.destination.name", queue.to_owned());
        self.add("jobmill.kind", kind.to_owned());
    }

    pub(super) fn job(&mut self, id: JobId) {
        self.add("messaging.message.id", id.to_string());
    }

    pub(super) fn attempt(&mut self, number: u32, of: u32) {
        self.add("jobmill.attempt", i64::from(number));
        self.add("jobmill.max_attempts", i64::from(of));
    }

    pub(super) fn submitted(&mut self, count: usize, created: bool) {
        self.add("messaging.batch.message_count", i64::try_from(count).unwrap_or(i64::MAX));
        self.add("jobmill.created", created);
    }

    pub(super) fn fail(&mut self, reason: &str) {
        self.add("error.type", reason.to_owned());
        self.0.set_status(Status::error(reason.to_owned()));
    }

    pub(super) fn end_at(mut self, instant: Timestamp) {
        self.0.end_with_timestamp(system_time(instant));
    }

    fn add(&mut self, key: &'static str, value: impl Into<opentelemetry::Value>) {
        self.0.set_attribute(KeyValue::new(key, value));
    }
}

/// Returns the resource attributes of this process. `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` take precedence.
fn resource() -> Resource {
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let named = Resource::builder().build().get(&Key::new("service.name"));
    let builder = Resource::builder().with_attribute(version);
    match named {
        Some(name) if !name.as_str().starts_with("unknown_service") => builder.build(),
        Some(_) | None => builder.with_service_name(SERVICE).build(),
    }
}

fn remote(context: TraceContext) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(context.trace_id.to_be_bytes()),
        SpanId::from_bytes(context.span_id.to_be_bytes()),
        if context.sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED },
        true,
        TraceState::default(),
    )
}

fn system_time(instant: Timestamp) -> SystemTime {
    let micros = u64::try_from(instant.as_micros()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_micros(micros)
}
