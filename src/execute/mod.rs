//! The [`Handler`] trait, the [`Attempt`] that it gets, and the errors that it may return.

#[cfg(feature = "server")]
mod callbacks;
mod checkpoint;
#[cfg(feature = "server")]
pub(crate) mod closures;
#[cfg(feature = "server")]
pub mod command;
#[cfg(feature = "server")]
pub(crate) mod configured;
#[cfg(feature = "server")]
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

#[cfg(feature = "server")]
#[doc(hidden)]
pub use callbacks::Callbacks;
#[cfg(feature = "server")]
pub(crate) use callbacks::CalledAttempt;
#[cfg(feature = "http")]
pub(crate) use callbacks::OpenCallback;
pub use checkpoint::{CheckpointError, Committed, StopCause};
pub(crate) use checkpoint::{WrittenNumbers, checked_state};
#[cfg(feature = "server")]
pub use configured::SetupError;
#[cfg(all(feature = "internals", feature = "worker"))]
#[doc(hidden)]
pub use configured::configured_handler;
#[cfg(feature = "server")]
pub use detached::DetachedReport;

use crate::{
    clock::Timestamp,
    job::{Extras, Failure, FailureReason, Job, JobId, LeaseToken, Output, PayloadInfo, Progress},
};

/// The future of one attempt.
pub type HandlerFuture = Pin<Box<dyn Future<Output = Result<Output, HandlerError>> + Send>>;

/// Runs the attempts of one kind.
///
/// Every `Fn(Attempt) -> impl Future<Output = Result<Output, HandlerError>>` is a handler.
pub trait Handler: Send + Sync + 'static {
    /// Runs one attempt. Once [`Attempt::cancelled`] resolves (cancellation, timeout, or drain), the future has
    /// [`Handler::stop_grace`] to return and is then dropped, or earlier when the drain has run out of time. Cleanup
    /// for that case belongs in a `Drop`.
    fn run(&self, attempt: Attempt) -> HandlerFuture;

    /// The grace period between [`Attempt::cancelled`] and the drop of the attempt's future.
    fn stop_grace(&self) -> Duration {
        Duration::from_secs(5)
    }

    /// Whether a remote worker stops an attempt before its lease is over, when the server has not been heard of for
    /// too long. By default the attempt goes on, and its end is reported when the server is back. The server itself
    /// has no use for this.
    fn stops_on_silence(&self) -> bool {
        false
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

/// The input of a handler: the job as it was when the attempt started, and methods to report progress and output.
pub struct Attempt {
    pub(crate) job: Arc<Job>,
    pub(crate) lease: LeaseToken,
    pub(crate) payload: Bytes,
    pub(crate) cancelled: CancellationToken,
    pub(crate) traceparent: String,
    pub(crate) reports: Arc<dyn ReportSink>,
}

/// Sink for an attempt's progress and output. Both are best effort and never wait.
pub(crate) trait ReportSink: Send + Sync + 'static {
    /// Reports progress. At most one report each 500 ms is kept.
    fn progress(&self, progress: Progress);
    /// Adds a line to the job's output. Bytes that are not UTF-8 are replaced; a long line is cut.
    fn output_line(&self, line: &[u8]);
    /// Pauses the attempt's timeout while it waits for a resource before it starts. Returns whether it may still start.
    fn waits_to_start(&self, waits: bool) -> bool;
    /// Keeps a state for the next attempt.
    fn checkpoint(&self, state: Output, commit_now: bool) -> Committed;
    /// Returns the state that earlier attempts have left.
    fn earlier_checkpoint(&self) -> Option<&Output>;
    /// Returns why the attempt is to stop.
    fn stop_cause(&self) -> Option<StopCause> {
        None
    }
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

    /// The number of this attempt among the job's attempts, from 1.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.job.attempt
    }

    /// The attempt's lease token. It grows with every attempt in the store: a system that remembers the largest token
    /// it has seen for a job can reject stale attempts (fencing).
    #[must_use]
    pub fn lease(&self) -> LeaseToken {
        self.lease
    }

    /// The job's payload.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The payload's media type and metadata (such as an encoding), as the client declared them.
    #[must_use]
    pub fn payload_info(&self) -> &PayloadInfo {
        self.extras(|extras| &extras.payload)
    }

    /// The job's labels: names and values from the client, by which jobs can be searched.
    #[must_use]
    pub fn labels(&self) -> &BTreeMap<String, String> {
        self.extras(|extras| &extras.labels)
    }

    /// The job's headers: names and values from the client for the handler, beside the payload.
    #[must_use]
    pub fn headers(&self) -> &BTreeMap<String, String> {
        self.extras(|extras| &extras.headers)
    }

    /// The submission's request id; empty if the client set none.
    #[must_use]
    pub fn request_id(&self) -> &str {
        self.extras(|extras| &extras.request_id)
    }

    /// The time at which the attempt's timeout expires, by the server's clock. It is later if the attempt first waits
    /// for a resource.
    #[must_use]
    pub fn deadline(&self) -> Timestamp {
        let started = self.job.started.unwrap_or(self.job.updated);
        started.after(self.job.attempt_timeout())
    }

    fn extras<T: ?Sized>(&self, part: impl Fn(&Extras) -> &T) -> &T {
        static NONE: LazyLock<Extras> = LazyLock::new(Extras::default);
        part(self.job.spec.extras.as_deref().unwrap_or(&NONE))
    }

    /// The W3C trace state of the submission, for the header `tracestate` of outgoing calls. `None` if there is none.
    #[must_use]
    pub fn tracestate(&self) -> Option<&str> {
        let state = self.extras(|extras| extras.tracestate.as_str());
        (!state.is_empty() && !self.traceparent.is_empty()).then_some(state)
    }

    /// The W3C trace context of the attempt, for the header `traceparent` of outgoing calls: that of the attempt's own
    /// span, or the submission's if the server records no spans. `None` if there is no trace.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        (!self.traceparent.is_empty()).then_some(&*self.traceparent)
    }

    /// Resolves when the attempt should stop: it was cancelled, has timed out, or the server is shutting down. If the
    /// handler then returns a success, it is kept; so is a permanent failure if the server is shutting down. Otherwise
    /// the job becomes CANCELLED, or the attempt counts as timed out or lost.
    pub async fn cancelled(&self) {
        self.cancelled.cancelled().await;
    }

    /// The token behind [`Attempt::cancelled`], to pass to other code.
    #[must_use]
    pub fn cancellation_token(&self) -> &CancellationToken {
        &self.cancelled
    }

    /// Reports progress to watchers. `fraction` is optional and clamped to 0 to 1; `text` and `step` are cut to 256
    /// bytes.
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

    /// Waits for a resource that the attempt needs before it can start; the attempt's timeout counts from then on.
    /// Returns `None` if the attempt is to stop before it starts: the handler then returns
    /// [`HandlerError::not_started`]. A handler calls this before it waits for anything else.
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
        // The resource may have become free only because the server is shutting down.
        needed.filter(|_| self.reports.waits_to_start(false))
    }

    /// Adds a line to the job's output. Watchers see it at once, and the tail of the output is kept with the job.
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

/// Longest delay of a snooze: 30 days.
const SNOOZE_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);

/// Returns the longest prefix of `text` that has at most `max` bytes and ends between characters.
pub(crate) fn cut(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// The failure of a handler.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HandlerError {
    pub(crate) failure: Failure,
    pub(crate) delay: Option<Duration>,
    pub(crate) kind: ErrorKind,
    /// Name of a limit that starts nothing until the end of a snooze.
    pub(crate) pause: Option<Box<str>>,
}

/// What an error of a handler means for its job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ErrorKind {
    /// The attempt failed.
    Failed,
    /// The attempt failed, because its process was ended by a signal that is not the server's.
    ProcessDied,
    /// The attempt certainly did not start: it does not count, unless it has timed out.
    NeverStarted,
    /// The attempt asks to be run again later, and does not count.
    Snoozed,
}

impl HandlerError {
    /// Creates a failure after which the job may be retried.
    pub fn retryable(message: impl fmt::Display) -> Self {
        Self::new(FailureReason::HandlerError, message, true)
    }

    /// Creates a permanent failure: the job becomes FAILED at once, without a retry.
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
                parent: None,
            },
            delay: None,
            kind: ErrorKind::Failed,
            pause: None,
        }
    }

    /// Creates the end of an attempt that asks to be run again after `delay`, at most 30 days. The attempt does not count
    /// against the job's maximum, and the delay of its next retry does not grow. The job stays where it is: it keeps its
    /// checkpoint, and gives up its slot. A job may do so 1,000 times, unless its submission or its kind says otherwise.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use jobmill::{Attempt, HandlerError, Output};
    /// # fn is_ready() -> bool { true }
    /// async fn collect(attempt: Attempt) -> Result<Output, HandlerError> {
    ///     if !is_ready() {
    ///         return Err(HandlerError::snooze(Duration::from_secs(60)));
    ///     }
    ///     // …
    ///     Ok(Output::default())
    /// }
    /// ```
    #[must_use]
    pub fn snooze(delay: Duration) -> Self {
        let error = Self::new(FailureReason::HandlerError, "the handler asked to be run later", true);
        HandlerError { delay: Some(delay.min(SNOOZE_MAX)), kind: ErrorKind::Snoozed, ..error }
    }

    /// Adds that a limit starts nothing until the end of the snooze: nothing of the job's own value, if the limit has a
    /// place for each value. For an API that has answered that it is called too often. A limit that does not exist, or
    /// does not concern the job, is left alone. Of other errors it means nothing.
    #[must_use]
    pub fn pausing(self, limit: impl Into<String>) -> Self {
        HandlerError { pause: Some(limit.into().into()), ..self }
    }

    /// Marks the failure as the death of the process that ran the attempt.
    #[cfg_attr(
        not(feature = "server"),
        expect(dead_code, reason = "only commands have a process of their own")
    )]
    pub(crate) fn of_dead_process(self) -> Self {
        HandlerError { kind: ErrorKind::ProcessDied, ..self }
    }

    /// Creates the error of an attempt that certainly did not start. The attempt does not count, unless it has timed
    /// out, and its job is ready again, after `delay` if there is one.
    pub(crate) fn not_started(message: impl fmt::Display, delay: Option<Duration>) -> Self {
        let error = Self::new(FailureReason::StartFailed, message, true);
        HandlerError { delay, kind: ErrorKind::NeverStarted, ..error }
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

    /// Sets the delay before the next attempt, in place of the retry policy's backoff. The policy's jitter can lengthen
    /// it, but not shorten it.
    #[must_use]
    pub fn with_delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// The failure's message, for humans.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.failure.message
    }

    /// The failure as it is kept with the job: message, reason, codes, and whether it is retryable.
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
