//! Distributed traces: from a caller's context through submission, wait and attempt to the handler.
//!
//! A job keeps the context of its submission, which is the parent of each of its attempts. Without a collector, or if a
//! trace is not sampled, no span is created; contexts are still passed on.

mod context;
#[cfg(feature = "otel")]
mod export;
mod sampler;

use std::{sync::Arc, time::Duration};

pub(crate) use context::TraceContext;

/// Returns whether text is a valid value of the W3C header `traceparent`.
pub(crate) fn is_context(text: &str) -> bool {
    TraceContext::parse(text).is_some()
}
use sampler::Sampler;

use crate::{
    clock::Timestamp,
    job::{FailureReason, Job, JobId},
    settings::TracesSettings,
};

#[cfg(not(feature = "otel"))]
use without as export;

/// Creation of spans, if there is a collector.
#[derive(Clone, Debug)]
pub(crate) struct Traces {
    collected: Option<Arc<Collected>>,
}

#[derive(Debug)]
struct Collected {
    exporter: export::Exporter,
    sampler: Sampler,
}

/// Reason why traces can't be exported.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// The exporter can't be set up.
    #[error("traces can't be exported to {endpoint}")]
    Exporter {
        /// The collector's address.
        endpoint: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The program was built without the export.
    #[error(
        "this program was built without trace export (the cargo feature `otel`): remove the endpoint {0}"
    )]
    NotBuilt(String),
}

impl Traces {
    /// Sets up the export if a collector is configured. It connects once there is something to send.
    pub(crate) fn start(settings: &TracesSettings) -> Result<Self, TracesError> {
        let collected = match &settings.endpoint {
            Some(endpoint) => Some(Arc::new(Collected {
                exporter: export::Exporter::new(endpoint)?,
                sampler: Sampler::new(settings.sample_ratio),
            })),
            None => None,
        };
        Ok(Traces { collected })
    }

    /// Begins the span of a submission of `jobs` jobs, of which the first has this queue and kind. `parent` is the
    /// caller's `traceparent`, or empty.
    pub(crate) fn submission(
        &self,
        parent: &str,
        (queue, kind): (&str, &str),
        jobs: usize,
        now: Timestamp,
    ) -> SubmissionSpan {
        let parent = TraceContext::parse(parent);
        let span = self.collected.as_ref().and_then(|collected| {
            let recorded = match parent {
                Some(parent) => parent.sampled,
                None => collected.sampler.begins_a_trace(jobs, now),
            };
            recorded.then(|| {
                let mut span = collected.exporter.begin(SpanRole::Submit, kind, parent, None);
                span.describe(queue, kind);
                span
            })
        });
        let traceparent = span.as_ref().map(export::Span::context).or(parent);
        SubmissionSpan {
            span,
            traceparent: traceparent.map(|context| context.to_string()).unwrap_or_default(),
        }
    }

    /// Begins the span of an attempt, and records the wait since `ready` as a span of its own.
    pub(crate) fn attempt(&self, job: &Job, ready: Timestamp) -> AttemptSpan {
        let Some(kept) = job.spec.extras.as_ref().map(|extras| extras.traceparent.as_str()) else {
            return AttemptSpan { span: None, traceparent: String::new() };
        };
        let span = self.collected.as_ref().zip(TraceContext::parse(kept)).and_then(|(collected, parent)| {
            if !parent.sampled {
                return None;
            }
            let (queue, kind) = (job.spec.queue.as_str(), job.spec.kind.as_str());
            let started = job.started.unwrap_or(ready);
            let mut wait = collected.exporter.begin(SpanRole::Wait, kind, Some(parent), Some(ready));
            wait.describe(queue, kind);
            wait.job(job.id);
            wait.end_at(started);
            let mut span = collected.exporter.begin(SpanRole::Run, kind, Some(parent), Some(started));
            span.describe(queue, kind);
            span.job(job.id);
            span.attempt(job.attempt, job.max_attempts);
            Some(span)
        });
        let traceparent = match &span {
            Some(span) => span.context().to_string(),
            None => kept.to_owned(),
        };
        AttemptSpan { span, traceparent }
    }

    /// Sends the remaining spans within `timeout`. Blocks.
    pub(crate) fn finish(&self, timeout: Duration) {
        if let Some(collected) = &self.collected {
            collected.exporter.finish(timeout);
        }
    }

    /// Returns whether a collector is configured.
    pub(crate) fn are_collected(&self) -> bool {
        self.collected.is_some()
    }
}

/// The part of a job's life that a span covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SpanRole {
    /// From a submission's arrival to its answer.
    Submit,
    /// From a job being ready to its attempt.
    Wait,
    /// From an attempt's start to its report.
    Run,
}

/// A submission in progress. Its span ends when this is dropped. An invalid submission has no span.
#[derive(Debug, Default)]
pub(crate) struct SubmissionSpan {
    span: Option<export::Span>,
    traceparent: String,
}

impl SubmissionSpan {
    /// Returns the context that the jobs keep: that of the span or else the caller's; empty without either.
    pub(crate) fn traceparent(&self) -> &str {
        &self.traceparent
    }

    /// Records the jobs of an accepted submission.
    pub(crate) fn accepted(&mut self, first: JobId, count: usize, created: bool) {
        if let Some(span) = &mut self.span {
            span.job(first);
            span.submitted(count, created);
        }
    }

    /// Records that the submission was refused, or that its outcome is unknown.
    pub(crate) fn failed(&mut self, reason: &str) {
        if let Some(span) = &mut self.span {
            span.fail(reason);
        }
    }
}

/// An attempt in progress. Its span ends when this is dropped.
#[derive(Debug)]
pub(crate) struct AttemptSpan {
    span: Option<export::Span>,
    traceparent: String,
}

impl AttemptSpan {
    /// Returns the context for the handler; empty if there is none.
    pub(crate) fn traceparent(&self) -> &str {
        &self.traceparent
    }

    /// Records the failure of the attempt, without the handler's message, which may quote secrets.
    pub(crate) fn failed(&mut self, reason: FailureReason) {
        if let Some(span) = &mut self.span {
            span.fail(reason.as_str());
        }
    }
}

/// Stand-in for the exporter in a build without it. Its types have no values.
#[cfg(not(feature = "otel"))]
mod without {
    use std::{convert::Infallible, time::Duration};

    use super::{JobId, SpanRole, Timestamp, TraceContext, TracesError};

    #[derive(Debug)]
    pub(super) struct Exporter(Infallible);

    #[derive(Debug)]
    pub(super) struct Span(Infallible);

    impl Exporter {
        pub(super) fn new(endpoint: &str) -> Result<Self, TracesError> {
            Err(TracesError::NotBuilt(endpoint.to_owned()))
        }

        pub(super) fn begin(
            &self,
            _: SpanRole,
            _: &str,
            _: Option<TraceContext>,
            _: Option<Timestamp>,
        ) -> Span {
            match self.0 {}
        }

        pub(super) fn finish(&self, _: Duration) {
            match self.0 {}
        }
    }

    impl Span {
        pub(super) fn context(&self) -> TraceContext {
            match self.0 {}
        }

        pub(super) fn describe(&mut self, _: &str, _: &str) {
            match self.0 {}
        }

        pub(super) fn job(&mut self, _: JobId) {
            match self.0 {}
        }

        pub(super) fn attempt(&mut self, _: u32, _: u32) {
            match self.0 {}
        }

        pub(super) fn submitted(&mut self, _: usize, _: bool) {
            match self.0 {}
        }

        pub(super) fn fail(&mut self, _: &str) {
            match self.0 {}
        }

        pub(super) fn end_at(self, _: Timestamp) {
            match self.0 {}
        }
    }
}
