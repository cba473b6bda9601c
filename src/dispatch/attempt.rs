//! One attempt as a pipeline: find the handler, get the payload, run, judge, report.
//!
//! What is not ours takes part in it: handlers, their destructors, and what listens to the log and to spans. Wherever
//! that panics, the attempt ends and reports, so that its slot is free again.

use std::{panic::AssertUnwindSafe, sync::Arc};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{Dispatch, output::AttemptVoice};
use crate::{
    engine::{Ask, Claim, Report, ReportBody},
    execute::{Attempt, HandlerError, command::RESULT_MAX_BYTES, cut},
    job::{Failure, FailureReason, Job, Output, PayloadInfo},
    timeouts,
};

/// A longer media type of a result is cut, as a payload's may not be longer either.
const RESULT_TYPE_MAX_BYTES: usize = 128;

/// Why an attempt was asked to stop.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stopped {
    No,
    Cancelled,
    TimedOut,
    Draining,
}

/// How the run of a handler ended.
enum Ran {
    /// It returned, or panicked.
    Ended(Result<Output, HandlerError>, Stopped),
    /// It was cut off.
    CutOff(Stopped),
}

impl Dispatch {
    /// One attempt from its claim to its report.
    pub(super) async fn attempt(self: Arc<Self>, claim: Claim, cancelled: CancellationToken) {
        let (id, lease) = (claim.job.id, claim.lease);
        let mut body = None;
        let ran = AssertUnwindSafe(self.carry_out(claim, cancelled, &mut body)).catch_unwind().await;
        if let Err(panic) = ran {
            let HandlerError { failure, delay, .. } = panicked("the attempt", &*panic);
            let failed = || ReportBody::Failed { failure: Arc::new(failure), delay, tail: String::new() };
            body.get_or_insert_with(failed);
        }
        self.forget(lease);
        if let Some(body) = body {
            self.reports.ended(Report { id, lease, body, ask: Ask::unheard() });
        }
    }

    /// Runs an attempt. `body` is what to report: it is there before anything is told of it, so that it stands even
    /// where telling panics.
    async fn carry_out(&self, claim: Claim, cancelled: CancellationToken, body: &mut Option<ReportBody>) {
        let Claim { job, lease, payload, ready } = claim;
        if self.stopping.is_cancelled() {
            // It never started: it goes back uncounted.
            *body = Some(ReportBody::Released { delay: None });
            return;
        }
        // For what handlers log. On the fastest path it costs as much as the rest of an attempt, so that only those
        // get it who ask for that much.
        let log = tracing::debug_span!(
            "attempt",
            job = %job.id,
            queue = job.spec.queue.as_str(),
            kind = job.spec.kind.as_str(),
            attempt = job.attempt
        );
        let mut span = self.traces.attempt(&job, ready);
        let hub = Arc::clone(&self.hub);
        let voice = Arc::new(AttemptVoice::new(job.id, job.attempt, lease, hub, self.stopping.clone()));
        let run = async {
            let traceparent = span.traceparent().to_owned();
            let ran = self.run_handler(&job, payload, lease, &voice, cancelled, traceparent).await;
            match judge(&job, ran) {
                Ok(output) => *body = Some(ReportBody::Succeeded { output, tail: voice.tail() }),
                Err(HandlerError { failure, delay, never_started: true }) => {
                    *body = Some(ReportBody::Released { delay });
                    log_release(&job, &failure);
                }
                Err(HandlerError { failure, delay, never_started: false }) => {
                    let failure = Arc::new(failure);
                    let told = Arc::clone(&failure);
                    *body = Some(ReportBody::Failed { failure, delay, tail: voice.tail() });
                    log_failure(&job, &told);
                    span.failed(told.reason);
                }
            }
        };
        run.instrument(log).await;
    }

    async fn run_handler(
        &self,
        job: &Arc<Job>,
        payload: Option<Bytes>,
        lease: crate::job::LeaseToken,
        voice: &Arc<AttemptVoice>,
        cancelled: CancellationToken,
        traceparent: String,
    ) -> Ran {
        let Some(handler) = self.handlers.get(job.spec.kind.as_str()) else {
            let message = format!("no handler here runs the kind `{}`", job.spec.kind);
            return Ran::Ended(
                Err(HandlerError::new(FailureReason::StartFailed, message, true)),
                Stopped::No,
            );
        };
        let payload = match payload {
            Some(payload) => payload,
            None => match self.payload(job).await {
                Ok(payload) => payload,
                Err(error) => return Ran::Ended(Err(error), Stopped::No),
            },
        };
        // The handler sees one token, whatever the reason for it to stop.
        let stop = CancellationToken::new();
        let attempt = Attempt {
            job: Arc::clone(job),
            lease,
            payload,
            cancelled: stop.clone(),
            traceparent,
            reports: Arc::clone(voice) as Arc<_>,
        };
        let handler = Arc::clone(handler);
        let grace = handler.stop_grace();
        // A handler may panic before it has returned its future, too.
        let run = AssertUnwindSafe(async move { handler.run(attempt).await }).catch_unwind();
        let run = async {
            tokio::select! {
                result = run => result.unwrap_or_else(|panic| Err(panicked("the handler", &*panic))),
                never = voice.send_progress(&self.reports) => match never {},
            }
        };
        tokio::pin!(run);
        let time_is_up = voice.has_worked_for(job.spec.attempt_timeout);
        tokio::pin!(time_is_up);
        let mut stopped = tokio::select! {
            biased;
            result = &mut run => return Ran::Ended(result, Stopped::No),
            () = cancelled.cancelled() => Stopped::Cancelled,
            () = self.stopping.cancelled() => Stopped::Draining,
            () = &mut time_is_up => Stopped::TimedOut,
        };
        stop.cancel();
        let patience = timeouts::active(grace);
        tokio::pin!(patience);
        loop {
            tokio::select! {
                biased;
                result = &mut run => return Ran::Ended(result, stopped),
                () = cancelled.cancelled(), if stopped != Stopped::Cancelled => stopped = Stopped::Cancelled,
                // A drain takes no attempt's timeout away: the job has had its time all the same.
                () = &mut time_is_up, if stopped == Stopped::Draining => stopped = Stopped::TimedOut,
                () = self.cutting_off.cancelled() => return Ran::CutOff(stopped),
                () = &mut patience => return Ran::CutOff(stopped),
            }
        }
    }

    async fn payload(&self, job: &Job) -> Result<Bytes, HandlerError> {
        let id = job.id;
        match self.reads.read(move |reader| reader.payload(id)).await {
            Ok(Some(payload)) => Ok(payload),
            Ok(None) => Err(HandlerError::new(FailureReason::StartFailed, "its payload is gone", false)),
            Err(error) => Err(HandlerError::new(
                FailureReason::StartFailed,
                format!("its payload can't be read: {error}"),
                true,
            )),
        }
    }
}

/// What the end of a run means for the job.
fn judge(job: &Job, ran: Ran) -> Result<Output, HandlerError> {
    let timeout = || {
        let limit = humantime::format_duration(job.spec.attempt_timeout);
        HandlerError::new(
            FailureReason::Timeout,
            format!("the attempt took longer than its timeout of {limit}"),
            true,
        )
    };
    let lost = |what: &str| HandlerError::new(FailureReason::Lost, what, true);
    match ran {
        Ran::Ended(Ok(output), _) if output.bytes.len() > RESULT_MAX_BYTES => {
            let message =
                format!("the result has {} bytes; at most {RESULT_MAX_BYTES} are kept", output.bytes.len());
            Err(HandlerError::new(FailureReason::ResultTooLarge, message, false))
        }
        // A success counts however late it comes: the work is done.
        Ran::Ended(Ok(output), _) => {
            let media_type = cut(&output.info.media_type, RESULT_TYPE_MAX_BYTES).to_owned();
            Ok(Output { info: PayloadInfo { media_type, ..output.info }, ..output })
        }
        // Where it had no time to start, it counts: it would never have any.
        Ran::Ended(Err(_), Stopped::TimedOut) | Ran::CutOff(Stopped::TimedOut) => Err(timeout()),
        // What never started was not stopped either.
        Ran::Ended(Err(error), _) if error.never_started => Err(error),
        Ran::Ended(Err(error), Stopped::No) => Err(error),
        Ran::Ended(Err(error), Stopped::Cancelled) => Err(HandlerError {
            failure: Failure { reason: FailureReason::Cancelled, ..error.failure },
            delay: None,
            never_started: false,
        }),
        // What no other attempt would mend is the handler's own word, and no effect of the server's stop.
        Ran::Ended(Err(error), Stopped::Draining) if !error.failure.retryable => Err(error),
        // It was asked to stop, and most likely failed for that. The delay is the handler's own wish.
        Ran::Ended(Err(error), Stopped::Draining) => {
            let what =
                format!("the server stopped, and the attempt, asked to stop, failed: {}", error.message());
            Err(HandlerError { delay: error.delay, ..lost(&what) })
        }
        Ran::CutOff(Stopped::Draining | Stopped::No) => {
            Err(lost("the server stopped before the attempt had ended"))
        }
        Ran::CutOff(Stopped::Cancelled) => Err(HandlerError::new(
            FailureReason::Cancelled,
            "cut off, because it did not stop when it was cancelled",
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

/// The message is one of this program's own.
fn log_release(job: &Job, failure: &Failure) {
    tracing::warn!(
        job = %job.id,
        queue = job.spec.queue.as_str(),
        kind = job.spec.kind.as_str(),
        reason = failure.message,
        "the attempt never started and does not count"
    );
}

/// Never the payload, the result, or the handler's message, which may quote them.
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
