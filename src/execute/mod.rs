//! One attempt: what a handler is, what it is given, and what it may return.

pub(crate) mod closures;
pub mod command;
pub(crate) mod configured;
mod detached;
#[cfg(feature = "http")]
pub mod http;

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, LazyLock},
    time::Duration,
};

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

pub use configured::SetupError;
pub use detached::Report;

use crate::{
    clock::Timestamp,
    job::{Extras, Failure, FailureReason, Job, JobId, LeaseToken, Output, PayloadInfo, Progress},
};

/// The future of one attempt.
pub type HandlerFuture = Pin<Box<dyn Future<Output = Result<Output, HandlerError>> + Send>>;

/// Runs the attempts of one kind.
///
/// Every `Fn(Attempt) -> impl Future<Output = Result<Output, HandlerError>>` is one.
pub trait Handler: Send + Sync + 'static {
    /// Runs one attempt. The future is dropped when the attempt's timeout has passed or the server's drain has run
    /// out of time, a grace period after [`Attempt::cancelled`] was told; whatever must be undone then belongs into
    /// a `Drop`.
    fn run(&self, attempt: Attempt) -> HandlerFuture;

    /// How long an attempt may go on after [`Attempt::cancelled`] was told, before its future is dropped.
    fn stop_grace(&self) -> Duration {
        Duration::from_secs(5)
    }
}

impl<F, Fut> Handler for F
where
    F: Fn(Attempt) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Output, HandlerError>> + Send + 'static,
{
    fn run(&self, attempt: Attempt) -> HandlerFuture {
        Box::pin(self(attempt))
    }
}

/// What a handler is given: the job as it was when the attempt started, and the means to report.
pub struct Attempt {
    pub(crate) job: Arc<Job>,
    pub(crate) lease: LeaseToken,
    pub(crate) payload: Bytes,
    pub(crate) cancelled: CancellationToken,
    pub(crate) traceparent: String,
    pub(crate) reports: Arc<dyn AttemptReports>,
}

/// Where an attempt's progress and output go. Both are best effort and never wait.
pub(crate) trait AttemptReports: Send + Sync + 'static {
    /// Tells how far the attempt is. At most one such report each 500 ms is kept.
    fn progress(&self, progress: Progress);
    /// Adds a line to the job's output. Bytes that are not UTF-8 are replaced; a long line is cut.
    fn output_line(&self, line: &[u8]);
    /// Holds the attempt's timeout while it waits for something before it starts. Returns whether it may start still.
    fn waits_to_start(&self, waits: bool) -> bool;
}

impl Attempt {
    /// The job's id.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.job.id
    }

    /// The job as it was when the attempt started.
    #[must_use]
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// Counts the job's attempts, from 1.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.job.attempt
    }

    /// The attempt's token. It grows with every attempt in the store, so that a system that remembers the largest one
    /// it has seen for a job can turn away an attempt that is over without knowing it.
    #[must_use]
    pub fn lease(&self) -> LeaseToken {
        self.lease
    }

    /// The job's payload.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// What the client said of the payload: its media type, and metadata such as an encoding.
    #[must_use]
    pub fn payload_info(&self) -> &PayloadInfo {
        self.extras(|extras| &extras.payload)
    }

    /// The client's names and values by which jobs are found.
    #[must_use]
    pub fn labels(&self) -> &BTreeMap<String, String> {
        self.extras(|extras| &extras.labels)
    }

    /// What the client has to say to the handler beside the payload.
    #[must_use]
    pub fn headers(&self) -> &BTreeMap<String, String> {
        self.extras(|extras| &extras.headers)
    }

    /// The id that the client gave the submission; empty where it gave none.
    #[must_use]
    pub fn request_id(&self) -> &str {
        self.extras(|extras| &extras.request_id)
    }

    /// When the attempt's timeout is over, by the server's clock, unless the attempt first has to wait for its turn.
    #[must_use]
    pub fn deadline(&self) -> Timestamp {
        let started = self.job.started.unwrap_or(self.job.updated);
        started.after(self.job.spec.attempt_timeout)
    }

    fn extras<T: ?Sized>(&self, part: impl Fn(&Extras) -> &T) -> &T {
        static NONE: LazyLock<Extras> = LazyLock::new(Extras::default);
        part(self.job.spec.extras.as_deref().unwrap_or(&NONE))
    }

    /// The W3C trace state that came with the submission, for the header `tracestate` of calls to others. `None` where
    /// there is none.
    #[must_use]
    pub fn tracestate(&self) -> Option<&str> {
        let state = self.extras(|extras| extras.tracestate.as_str());
        (!state.is_empty() && !self.traceparent.is_empty()).then_some(state)
    }

    /// The W3C trace context of what the attempt does, for the header `traceparent` of calls to others: that of the
    /// attempt's own span, or the submission's where the server records none. `None` where there is no trace.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        (!self.traceparent.is_empty()).then_some(&*self.traceparent)
    }

    /// Ends when the attempt should stop: it was cancelled, has timed out, or the server is about to stop. What it
    /// returns then is kept if it is a success, or, in a server that stops, a failure for good; else the job is
    /// CANCELLED, or the attempt counts as timed out or lost.
    pub async fn cancelled(&self) {
        self.cancelled.cancelled().await;
    }

    /// The token behind [`Attempt::cancelled`], to hand on.
    #[must_use]
    pub fn cancellation_token(&self) -> &CancellationToken {
        &self.cancelled
    }

    /// Tells watchers how far the attempt is. `fraction` is cut to 0 to 1, and may be left out; `text` and `step` are
    /// cut to 256 bytes.
    pub fn progress(&self, fraction: impl Into<Option<f64>>, text: &str, step: &str) {
        self.reports.progress(Progress {
            fraction: fraction
                .into()
                .filter(|fraction| !fraction.is_nan())
                .map(|fraction| fraction.clamp(0.0, 1.0)),
            text: cut(text, PROGRESS_TEXT_MAX_BYTES).to_owned(),
            step: cut(step, PROGRESS_TEXT_MAX_BYTES).to_owned(),
        });
    }

    /// Waits for what the work needs before it can start; its timeout counts from then on. `None` where the attempt is
    /// to stop before: then it ends with [`HandlerError::not_started`]. Called before a handler waits for anything
    /// else.
    #[cfg_attr(
        not(feature = "http"),
        expect(dead_code, reason = "only calls of endpoints wait before they start")
    )]
    pub(crate) async fn start_after<T>(&self, needed: impl Future<Output = T>) -> Option<T> {
        self.reports.waits_to_start(true);
        let needed = tokio::select! {
            biased;
            () = self.cancelled() => None,
            needed = needed => Some(needed),
        };
        // What is needed may come free just because the server stops.
        needed.filter(|_| self.reports.waits_to_start(false))
    }

    /// Adds a line to the job's output: watchers see it at once, and the end of the output is kept with the job.
    pub fn output_line(&self, line: impl AsRef<[u8]>) {
        self.reports.output_line(line.as_ref());
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt")
            .field("id", &self.job.id)
            .field("number", &self.job.attempt)
            .finish_non_exhaustive()
    }
}

const PROGRESS_TEXT_MAX_BYTES: usize = 256;

/// The longest prefix of `text` that has at most `max` bytes and ends between characters.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// Why a handler did not do its work.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HandlerError {
    pub(crate) failure: Failure,
    pub(crate) delay: Option<Duration>,
    /// Whether the attempt certainly did not begin: unless its time is over, it does not count.
    pub(crate) never_started: bool,
}

impl HandlerError {
    /// A failure that another attempt could mend.
    pub fn retryable(message: impl fmt::Display) -> Self {
        Self::new(FailureReason::HandlerError, message, true)
    }

    /// A failure that no other attempt would mend: the job is FAILED at once.
    pub fn permanent(message: impl fmt::Display) -> Self {
        Self::new(FailureReason::HandlerError, message, false)
    }

    pub(crate) fn new(reason: FailureReason, message: impl fmt::Display, retryable: bool) -> Self {
        const MESSAGE_MAX_BYTES: usize = 1024;
        let message = message.to_string();
        HandlerError {
            failure: Failure {
                reason,
                message: cut(&message, MESSAGE_MAX_BYTES).to_owned(),
                code: String::new(),
                exit_code: None,
                retryable,
            },
            delay: None,
            never_started: false,
        }
    }

    /// The end of an attempt that certainly did not begin. It does not count, unless its time is over, and its job is
    /// ready again, after `delay` if there is one.
    pub(crate) fn not_started(message: impl fmt::Display, delay: Option<Duration>) -> Self {
        let error = Self::new(FailureReason::StartFailed, message, true);
        HandlerError { delay, never_started: true, ..error }
    }

    /// Adds the application's own code. It is cut to 128 bytes.
    #[must_use]
    pub fn with_code(mut self, code: impl AsRef<str>) -> Self {
        const CODE_MAX_BYTES: usize = 128;
        self.failure.code = cut(code.as_ref(), CODE_MAX_BYTES).to_owned();
        self
    }

    pub(crate) fn with_exit_code(mut self, exit_code: i32) -> Self {
        self.failure.exit_code = Some(exit_code);
        self
    }

    /// Sets the delay to the next attempt, in place of that of the job's retry policy. The policy's jitter makes it
    /// longer, and never shorter.
    #[must_use]
    pub fn with_delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// What went wrong, for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.failure.message
    }

    /// What is kept with the job: the message with its class, its codes, and whether another attempt could help.
    #[must_use]
    pub fn failure(&self) -> &Failure {
        &self.failure
    }
}

impl<E: std::error::Error> From<E> for HandlerError {
    /// Any error is retryable unless the handler says otherwise.
    fn from(error: E) -> Self {
        Self::retryable(error)
    }
}
