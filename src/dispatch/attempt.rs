//! An attempt as a pipeline: find the handler, load the payload, run, classify the result, report.
//!
//! Code outside Jobmill takes part in it: handlers, their destructors, and subscribers of logs and spans. If any of
//! that panics, the attempt still ends and reports, so that its slot is freed.

use std::{
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{Dispatch, output::AttemptReporter};
use crate::{
    engine::{Claim, Report, ReportBody},
    execute::{Attempt, ErrorKind, HandlerError, command::RESULT_MAX_BYTES, cut},
    job::{Failure, FailureReason, Job, Output, PayloadInfo},
    timeouts,
};

/// Byte limit of a result's media type; a longer one is truncated. A payload's has the same limit.
const RESULT_TYPE_MAX_BYTES: usize = 128;

/// The reason for which an attempt was asked to stop.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StopReason {
    No,
    Cancelled,
    TimedOut,
    Draining,
}

/// The end of a handler's run.
enum RunEnd {
    /// The handler returned or panicked.
    Ended(Result<Output, HandlerError>, StopReason),
    /// The handler was aborted.
    CutOff(StopReason),
}

impl Dispatch {
    /// Runs an attempt from its claim to its report.
    pub(super) async fn attempt(self: Arc<Self>, claim: Claim, cancelled: CancellationToken) {
        let (id, lease) = (claim.job.id, claim.lease);
        let (hub, stopping) = (Arc::clone(&self.hub), self.stopping.clone());
        let reporter = Arc::new(AttemptReporter::new(id, claim.job.attempt, lease, hub, stopping));
        let mut body = None;
        // Futures are built where they are awaited: one in a variable of its own would take its place twice.
        let ran =
            AssertUnwindSafe(self.carry_out(claim, &reporter, cancelled, &mut body)).catch_unwind().await;
        if let Err(panic) = ran {
            let HandlerError { failure, delay, .. } = panicked("the attempt", &*panic);
            let failed = || ReportBody::Failed {
                failure: Arc::new(failure),
                delay,
                process_died: false,
                tail: String::new(),
            };
            body.get_or_insert_with(failed);
        }
        self.forget(lease);
        let checkpoint = reporter.end();
        if let Some(body) = body {
            // A success needs no checkpoint.
            let checkpoint = checkpoint.filter(|_| !matches!(body, ReportBody::Succeeded { .. }));
            self.reports.ended(Report { checkpoint, ..Report::of_server(id, lease, body) });
        }
    }

    /// Runs an attempt and sets `body`, the report. It is set before the end is logged, so that a panic in logging does
    /// not lose it.
    async fn carry_out(
        &self,
        claim: Claim,
        reporter: &Arc<AttemptReporter>,
        cancelled: CancellationToken,
        body: &mut Option<ReportBody>,
    ) {
        let Claim { job, lease, payload, ready } = claim;
        if self.stopping.is_cancelled() {
            // The attempt never started: its job is released, and it does not count.
            *body = Some(ReportBody::Released { delay: None });
            return;
        }
        // A span for the handlers' log lines. For the fastest handlers it costs as much as the rest of an attempt, so
        // it exists only at level debug.
        let log = tracing::debug_span!(
            "attempt",
            job = %job.id,
            queue = job.spec.queue.as_str(),
            kind = job.spec.kind.as_str(),
            attempt = job.attempt
        );
        let mut span = self.traces.attempt(&job, ready);
        async {
            let traceparent = span.traceparent().to_owned();
            let ran = self.run_handler(&job, payload, lease, reporter, cancelled, traceparent).await;
            match judge(&job, ran) {
                Ok(output) => *body = Some(ReportBody::Succeeded { output, tail: reporter.tail() }),
                Err(HandlerError { failure, delay, kind: ErrorKind::NeverStarted, .. }) => {
                    *body = Some(ReportBody::Released { delay });
                    log_release(&job, &failure);
                }
                Err(HandlerError { delay, pause, kind: ErrorKind::Snoozed, .. }) => {
                    let (delay, pause) = (delay.unwrap_or_default(), pause.map(Into::into));
                    *body = Some(ReportBody::Snoozed { delay, pause, tail: reporter.tail() });
                }
                Err(HandlerError {
                    failure,
                    delay,
                    kind: kind @ (ErrorKind::Failed | ErrorKind::ProcessDied),
                    ..
                }) => {
                    let failure = Arc::new(failure);
                    let told = Arc::clone(&failure);
                    let process_died = kind == ErrorKind::ProcessDied;
                    *body = Some(ReportBody::Failed { failure, delay, process_died, tail: reporter.tail() });
                    log_failure(&job, &told);
                    span.failed(told.reason);
                }
            }
        }
        .instrument(log)
        .await;
    }

    async fn run_handler(
        &self,
        job: &Arc<Job>,
        payload: Option<Bytes>,
        lease: crate::job::LeaseToken,
        reporter: &Arc<AttemptReporter>,
        cancelled: CancellationToken,
        traceparent: String,
    ) -> RunEnd {
        let Some(handler) = self.handlers.get(job.spec.kind.as_str()) else {
            let message = format!("no handler here runs the kind `{}`", job.spec.kind);
            return RunEnd::Ended(
                Err(HandlerError::new(FailureReason::StartFailed, message, true)),
                StopReason::No,
            );
        };
        let payload = match payload {
            // A first attempt has no checkpoint, so that most jobs cost no read.
            Some(payload) if job.attempt <= 1 => payload,
            payload => match Box::pin(self.load_input(job, payload, reporter)).await {
                Ok(payload) => payload,
                Err(error) => return RunEnd::Ended(Err(error), StopReason::No),
            },
        };
        // The handler sees a single token for every reason to stop.
        let stop = CancellationToken::new();
        let attempt = Attempt {
            job: Arc::clone(job),
            lease,
            payload,
            cancelled: stop.clone(),
            traceparent,
            reports: Arc::clone(reporter) as Arc<_>,
        };
        let handler = Arc::clone(handler);
        let grace = handler.stop_grace();
        // A handler may also panic before it has returned its future.
        let mut run = pin!(async {
            tokio::select! {
                result = AssertUnwindSafe(async move { handler.run(attempt).await }).catch_unwind() => {
                    result.unwrap_or_else(|panic| Err(panicked("the handler", &*panic)))
                }
                never = reporter.send_reports(&self.reports) => match never {},
            }
        });
        // Many attempts end at their first poll. Each of them is moved into its task, and so is kept small: timers are in
        // a box that only the others need.
        if let Poll::Ready(result) = futures_util::poll!(run.as_mut()) {
            return RunEnd::Ended(result, StopReason::No);
        }
        Box::pin(self.supervise(run, job, reporter, cancelled, stop, grace)).await
    }

    /// Waits for the end of a handler's run, and asks it to stop if it must end before.
    async fn supervise(
        &self,
        mut run: Pin<&mut impl Future<Output = Result<Output, HandlerError>>>,
        job: &Job,
        reporter: &AttemptReporter,
        cancelled: CancellationToken,
        stop: CancellationToken,
        grace: Duration,
    ) -> RunEnd {
        let time_is_up = reporter.has_worked_for(job.spec.attempt_timeout, time_to_deadline(job));
        tokio::pin!(time_is_up);
        let mut stopped = tokio::select! {
            biased;
            result = &mut run => return RunEnd::Ended(result, StopReason::No),
            () = cancelled.cancelled() => StopReason::Cancelled,
            () = self.stopping.cancelled() => StopReason::Draining,
            () = &mut time_is_up => StopReason::TimedOut,
        };
        stop.cancel();
        let grace_over = timeouts::active(grace);
        tokio::pin!(grace_over);
        loop {
            tokio::select! {
                biased;
                result = &mut run => return RunEnd::Ended(result, stopped),
                () = cancelled.cancelled(), if stopped != StopReason::Cancelled => stopped = StopReason::Cancelled,
                // The attempt's timeout applies during a drain, too.
                () = &mut time_is_up, if stopped == StopReason::Draining => stopped = StopReason::TimedOut,
                () = self.cutting_off.cancelled() => return RunEnd::CutOff(stopped),
                () = &mut grace_over => return RunEnd::CutOff(stopped),
            }
        }
    }

    /// Reads what the claim has not brought: a large payload, and the checkpoint of earlier attempts.
    async fn load_input(
        &self,
        job: &Job,
        payload: Option<Bytes>,
        reporter: &AttemptReporter,
    ) -> Result<Bytes, HandlerError> {
        let payload = match payload {
            Some(payload) => payload,
            None => self.payload(job).await?,
        };
        if job.attempt > 1
            && let Some(earlier) = self.checkpoint(job).await?
        {
            reporter.set_earlier(earlier);
        }
        Ok(payload)
    }

    /// Returns the checkpoint of the job's earlier attempts.
    async fn checkpoint(&self, job: &Job) -> Result<Option<Output>, HandlerError> {
        let id = job.id;
        match self.reads.read(move |reader| reader.checkpoint(id)).await {
            Ok(stored) => Ok(stored.map(|stored| stored.state)),
            Err(error) => Err(HandlerError::new(
                FailureReason::StartFailed,
                format!("the checkpoint of the attempt before can't be read: {error}"),
                true,
            )),
        }
    }

    async fn payload(&self, job: &Job) -> Result<Bytes, HandlerError> {
        let id = job.id;
        match self.reads.read(move |reader| reader.payload(id)).await {
            Ok(Some(payload)) => Ok(payload),
            Ok(None) => Err(HandlerError::new(FailureReason::StartFailed, "the payload is missing", false)),
            Err(error) => Err(HandlerError::new(
                FailureReason::StartFailed,
                format!("the payload can't be read: {error}"),
                true,
            )),
        }
    }
}

/// Returns the time from an attempt's start to its job's deadline, if that has one.
fn time_to_deadline(job: &Job) -> Option<Duration> {
    let started = job.started.unwrap_or(job.updated);
    job.spec.deadline().map(|deadline| deadline.since(started))
}

/// Classifies the end of a run: the job's result or its failure.
fn judge(job: &Job, ran: RunEnd) -> Result<Output, HandlerError> {
    let timeout = || {
        let limit = humantime::format_duration(job.attempt_timeout());
        HandlerError::new(
            FailureReason::Timeout,
            format!("the attempt took longer than its timeout of {limit}"),
            true,
        )
    };
    let lost = |what: &str| HandlerError::new(FailureReason::Lost, what, true);
    match ran {
        RunEnd::Ended(Ok(output), _) if output.bytes.len() > RESULT_MAX_BYTES => {
            let message =
                format!("the result has {} bytes; at most {RESULT_MAX_BYTES} are kept", output.bytes.len());
            Err(HandlerError::new(FailureReason::ResultTooLarge, message, false))
        }
        // A success counts even after a request to stop, because the work is done.
        RunEnd::Ended(Ok(output), _) => {
            let media_type = cut(&output.info.media_type, RESULT_TYPE_MAX_BYTES).to_owned();
            Ok(Output { info: PayloadInfo { media_type, ..output.info }, ..output })
        }
        // An attempt that timed out before its start counts, because later ones would time out as well.
        RunEnd::Ended(Err(_), StopReason::TimedOut) | RunEnd::CutOff(StopReason::TimedOut) => Err(timeout()),
        // An attempt that never started was not stopped either.
        RunEnd::Ended(Err(error), _) if error.kind == ErrorKind::NeverStarted => Err(error),
        RunEnd::Ended(Err(error), StopReason::No) => Err(error),
        RunEnd::Ended(Err(error), StopReason::Cancelled) => Err(HandlerError {
            failure: Failure { reason: FailureReason::Cancelled, ..error.failure },
            delay: None,
            kind: ErrorKind::Failed,
            pause: None,
        }),
        // To be run later is the handler's own decision, too.
        RunEnd::Ended(Err(error), StopReason::Draining) if error.kind == ErrorKind::Snoozed => Err(error),
        // A failure that is not retryable is the handler's own decision, not an effect of the drain.
        RunEnd::Ended(Err(error), StopReason::Draining) if !error.failure.retryable => Err(error),
        // Most likely the attempt failed because it was asked to stop. The handler's retry delay is kept.
        RunEnd::Ended(Err(error), StopReason::Draining) => {
            let what = format!(
                "the attempt failed after the stopping server had asked it to stop: {}",
                error.message()
            );
            Err(HandlerError { delay: error.delay, ..lost(&what) })
        }
        RunEnd::CutOff(StopReason::Draining | StopReason::No) => {
            Err(lost("the server stopped before the attempt had ended"))
        }
        RunEnd::CutOff(StopReason::Cancelled) => Err(HandlerError::new(
            FailureReason::Cancelled,
            "the attempt was aborted, because it did not stop after its cancellation",
            false,
        )),
    }
}

fn panicked(what: &str, panic: &(dyn std::any::Any + Send)) -> HandlerError {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    HandlerError::new(FailureReason::Panic, format!("{what} panicked: {message}"), true)
}

/// Logs a release. The message is one of this program's own, and quotes no secrets.
fn log_release(job: &Job, failure: &Failure) {
    tracing::warn!(
        job = %job.id,
        queue = job.spec.queue.as_str(),
        kind = job.spec.kind.as_str(),
        reason = failure.message,
        "the attempt never started and does not count"
    );
}

/// Logs a failure, without the payload, the result, or the handler's message, which may quote them.
fn log_failure(job: &Job, failure: &Failure) {
    tracing::warn!(
        job = %job.id,
        queue = job.spec.queue.as_str(),
        kind = job.spec.kind.as_str(),
        attempt = job.attempt,
        reason = failure.reason.as_str(),
        exit_code = failure.exit_code,
        retryable = failure.retryable,
        max_attempts = job.max_attempts,
        "the attempt failed"
    );
}
