//! Attempts: from an assignment to a call of the handler, and from its end to the final report.

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tracing::Instrument;

use super::control::{Control, payload};
use crate::{
    client::{from_wire_duration, from_wire_timestamp, to_wire_duration},
    clock::Timestamp,
    execute::{Attempt, ErrorKind, Handler, HandlerError, StopCause, cut},
    job::{
        Extras, FailureReason, Job, JobId, LeaseToken, Name, Output, PayloadInfo, Position, Progress, Rare,
        Remote, RetryPolicy, Spec, State, worker_limits::MESSAGE_MAX_BYTES,
    },
    proto::v1,
};

/// Byte limit of a result. A larger one fails the job.
const RESULT_MAX_BYTES: usize = 1 << 20;
/// Byte limit of a result's media type; a longer one is cut.
const RESULT_TYPE_MAX_BYTES: usize = 128;

/// A kind's handler, with what the worker's thread needs of it.
pub(super) struct Registered {
    pub(super) kind: Arc<Name>,
    pub(super) pool: usize,
    pub(super) handler: Arc<dyn Handler>,
    /// The handler's grace period between the request to stop and the drop of its future.
    pub(super) grace: Duration,
    pub(super) stops_on_silence: bool,
}

impl Registered {
    pub(super) fn new(kind: &str, pool: usize, handler: Arc<dyn Handler>) -> Arc<Self> {
        let (grace, stops_on_silence) = (handler.stop_grace(), handler.stops_on_silence());
        Arc::new(Registered { kind: Name::new(0, kind), pool, handler, grace, stops_on_silence })
    }
}

/// An attempt that may start.
pub(super) struct Start {
    pub(super) id: JobId,
    pub(super) assignment: v1::Assignment,
    pub(super) registered: Arc<Registered>,
    pub(super) control: Arc<Control>,
}

/// Runs an attempt, and passes its final report to the worker's thread.
pub(super) async fn run(start: Start) {
    let Start { id, assignment, registered, control } = start;
    // Reports also if this future is dropped, with the runtime that it runs on.
    let mut end = End { control: &control, report: Some(failed(dropped())) };
    let log = tracing::debug_span!("attempt", job = %id, kind = registered.kind.as_str());
    let report = carry_out(id, assignment, &registered, &control).instrument(log).await;
    end.report = Some(report);
}

/// Passes the report on when it is dropped.
struct End<'a> {
    control: &'a Control,
    report: Option<v1::report::Report>,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        if let Some(report) = self.report.take() {
            self.control.ended(report);
        }
    }
}

async fn carry_out(
    id: JobId,
    assignment: v1::Assignment,
    registered: &Registered,
    control: &Arc<Control>,
) -> v1::report::Report {
    let handler = Arc::clone(&registered.handler);
    let kind = Arc::clone(&registered.kind);
    let attempt = attempt(id, assignment, kind, control);
    // A handler may also panic before it has returned its future, and when that is dropped.
    let run = AssertUnwindSafe(async {
        let run = handler.run(attempt);
        tokio::select! {
            biased;
            result = run => Some(result),
            () = control.cut.cancelled() => None,
        }
    });
    let report = match run.catch_unwind().await {
        Ok(Some(Ok(output))) => return completed(output),
        Ok(Some(Err(error))) => refused(error, control.cause()),
        Ok(None) => cut_off(control.cause()),
        Err(panic) => failed(panicked(&*panic)),
    };
    let stopped = control.cause().map(StopCause::as_str);
    // Neither the payload nor the handler's message, which may quote it.
    tracing::warn!(job = %id, kind = registered.kind.as_str(), stopped, "the attempt failed");
    report
}

fn completed(output: Output) -> v1::report::Report {
    let mut output = output;
    if output.bytes.len() > RESULT_MAX_BYTES {
        // What the server needs to see that the result is too large, and no more, as a message has a limit, too.
        output.bytes.truncate(RESULT_MAX_BYTES + 1);
    }
    output.info.media_type.truncate(cut(&output.info.media_type, RESULT_TYPE_MAX_BYTES).len());
    v1::report::Report::Completed(v1::Completed { result: (!output.is_empty()).then(|| payload(output)) })
}

/// Reports a handler's error, as the same error in the server's own process would count.
fn refused(error: HandlerError, cause: Option<StopCause>) -> v1::report::Report {
    let HandlerError { failure: ref why, delay, kind, ref pause } = error;
    match kind {
        ErrorKind::NeverStarted => return released(&why.message, true, delay),
        ErrorKind::Snoozed if cause.is_none_or(|cause| cause == StopCause::Shutdown) => {
            let delay = delay.map(to_wire_duration);
            return v1::report::Report::Snoozed(v1::Snoozed {
                delay,
                pause_limit: pause.as_deref().unwrap_or_default().to_owned(),
            });
        }
        ErrorKind::Snoozed | ErrorKind::ProcessDied | ErrorKind::Failed => {}
    }
    if cause == Some(StopCause::Shutdown) && why.retryable {
        // Most likely the attempt failed because it was asked to stop.
        return released(&why.message, false, delay);
    }
    match cause {
        None => failed(error),
        // A process that was asked to stop ends by the worker's own signals.
        Some(_) => failed(HandlerError { kind: ErrorKind::Failed, ..error }),
    }
}

fn cut_off(cause: Option<StopCause>) -> v1::report::Report {
    match cause {
        Some(StopCause::Shutdown) | None => {
            released("the worker stopped before the attempt had ended", false, None)
        }
        Some(StopCause::Client | StopCause::Timeout | StopCause::LeaseLost) => failed(HandlerError::new(
            FailureReason::Lost,
            "the attempt was aborted, because it did not stop when it was asked to",
            true,
        )),
    }
}

fn dropped() -> HandlerError {
    HandlerError::new(FailureReason::Lost, "the worker's runtime ended before the attempt", true)
}

fn failed(error: HandlerError) -> v1::report::Report {
    v1::report::Report::Failed(v1::Failed {
        message: error.failure.message,
        code: error.failure.code,
        retryable: Some(error.failure.retryable),
        retry_delay: error.delay.map(to_wire_duration),
        reason: match error.failure.reason {
            reason @ (FailureReason::Panic | FailureReason::StartFailed) => reason as i32,
            // The server decides on the others.
            FailureReason::HandlerError
            | FailureReason::Timeout
            | FailureReason::Lost
            | FailureReason::Cancelled
            | FailureReason::ResultTooLarge
            | FailureReason::Released
            | FailureReason::Deadline
            | FailureReason::SnoozedOut
            | FailureReason::Poison
            | FailureReason::Dependency => FailureReason::HandlerError as i32,
        },
        exit_code: error.failure.exit_code,
        process_died: error.kind == ErrorKind::ProcessDied,
    })
}

/// The report of a job that is handed back.
pub(super) fn released(reason: &str, never_started: bool, delay: Option<Duration>) -> v1::report::Report {
    v1::report::Report::Released(v1::Released {
        reason: cut(reason, MESSAGE_MAX_BYTES).to_owned(),
        never_started,
        retry_delay: delay.map(to_wire_duration),
    })
}

fn panicked(panic: &(dyn Any + Send)) -> HandlerError {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    HandlerError::new(FailureReason::Panic, format!("the handler panicked: {message}"), true)
}

/// Converts an assignment to the input of a handler.
fn attempt(id: JobId, assignment: v1::Assignment, kind: Arc<Name>, control: &Arc<Control>) -> Attempt {
    let v1::Assignment { lease, job, checkpoint, attempt_timeout, .. } = assignment;
    let lease = LeaseToken::from_raw(lease.map_or(0, |lease| lease.token));
    if let Some(state) = checkpoint.and_then(|checkpoint| checkpoint.state) {
        control.set_earlier(output(state));
    }
    let mut job = job.unwrap_or_default();
    let mut spec = job.spec.take().unwrap_or_default();
    let Output { bytes: payload, info } = output(spec.payload.take().unwrap_or_default());
    let traceparent = std::mem::take(&mut job.traceparent);
    let instant = |time: Option<&prost_types::Timestamp>| time.map(from_wire_timestamp);
    let updated = instant(job.update_time.as_ref()).unwrap_or_default();
    let timeout =
        attempt_timeout.or(job.attempt_timeout).as_ref().map(from_wire_duration).unwrap_or_default();
    let spec = Spec {
        queue: Name::new(0, &spec.queue),
        kind,
        priority: i8::try_from(spec.priority.unwrap_or_default()).unwrap_or_default(),
        retry: job.retry_policy.as_ref().map_or(RetryPolicy::DEFAULT, retry_policy),
        attempt_timeout: timeout,
        bytes: Job::FIXED_BYTES + payload.len() as u64,
        created: instant(job.create_time.as_ref()).unwrap_or_default(),
        expires: instant(job.expire_time.as_ref()),
        extras: extras(&mut job, &mut spec, info, &traceparent),
    };
    let job = job_of(id, lease, updated, spec, job);
    Attempt {
        job: Arc::new(job),
        lease,
        payload,
        cancelled: control.cancelled.clone(),
        traceparent,
        reports: Arc::clone(control) as Arc<_>,
    }
}

fn job_of(id: JobId, lease: LeaseToken, updated: Timestamp, spec: Spec, job: v1::Job) -> Job {
    let count = |number: i32| u32::try_from(number).unwrap_or_default();
    let attempt = count(job.attempt);
    let rare = Rare {
        uncounted: attempt.saturating_sub(count(job.counted_attempts)),
        // The attempt that runs has not failed.
        unfailed: attempt.saturating_sub(count(job.failures).saturating_add(1)),
        snoozes: count(job.snoozes),
        process_losses: count(job.process_losses),
        ..Rare::default()
    };
    let progress = job.progress.map(|progress| {
        let v1::Progress { fraction, text, step } = progress;
        Arc::new(Progress { fraction, text, step })
    });
    Job {
        id,
        spec: Arc::new(spec),
        state: State::Running { lease },
        revision: u64::try_from(job.revision).unwrap_or_default(),
        position: Position::default(),
        attempt,
        max_attempts: count(job.max_attempts),
        updated,
        started: job.start_time.as_ref().map(from_wire_timestamp),
        ended: None,
        progress,
        failure: None,
        result: None,
        remote: Remote::NONE,
        rare: (rare != Rare::default()).then(|| Box::new(rare)),
    }
}

fn extras(
    job: &mut v1::Job,
    spec: &mut v1::JobSpec,
    payload: PayloadInfo,
    trace: &str,
) -> Option<Box<Extras>> {
    let extras = Extras {
        labels: std::mem::take(&mut spec.labels),
        headers: std::mem::take(&mut spec.headers),
        payload,
        request_id: std::mem::take(&mut job.request_id),
        traceparent: trace.to_owned(),
        tracestate: std::mem::take(&mut job.tracestate),
        deadline: job.deadline_time.as_ref().map(from_wire_timestamp),
        ..Extras::default()
    };
    (extras != Extras::default()).then(|| Box::new(extras))
}

fn retry_policy(policy: &v1::RetryPolicy) -> RetryPolicy {
    let default = RetryPolicy::DEFAULT;
    let or =
        |delay: &Option<prost_types::Duration>, default| delay.as_ref().map_or(default, from_wire_duration);
    RetryPolicy {
        initial_delay: or(&policy.initial_delay, default.initial_delay),
        max_delay: or(&policy.max_delay, default.max_delay),
        multiplier: policy.multiplier.unwrap_or(default.multiplier),
        jitter: policy.jitter.unwrap_or(default.jitter),
        delays: None,
    }
    .delays(policy.delays.iter().map(from_wire_duration))
}

/// Converts bytes of the protocol. They are shared.
fn output(payload: v1::Payload) -> Output {
    let v1::Payload { body, media_type, metadata, .. } = payload;
    let bytes = match body {
        Some(v1::payload::Body::Data(data)) => data,
        Some(v1::payload::Body::Text(text)) => text.into(),
        None => bytes::Bytes::new(),
    };
    Output { bytes, info: PayloadInfo { media_type, metadata } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::to_wire_timestamp;

    #[test]
    fn only_a_process_that_was_not_asked_to_stop_has_died() {
        for (cause, is_loss) in
            [(None, true), (Some(StopCause::Timeout), false), (Some(StopCause::Client), false)]
        {
            let error = HandlerError { kind: ErrorKind::ProcessDied, ..HandlerError::retryable("killed") };
            let report = refused(error, cause);
            let v1::report::Report::Failed(failed) = report else { panic!("{cause:?}: {report:?}") };
            assert_eq!(failed.process_died, is_loss, "{cause:?}");
        }
    }

    #[test]
    fn a_handler_sees_the_counts_and_the_deadline_of_its_job() {
        let mut job = v1::Job {
            attempt: 7,
            counted_attempts: 5,
            failures: 3,
            snoozes: 2,
            process_losses: 1,
            deadline_time: Some(to_wire_timestamp(Timestamp::from_micros(9_000_000))),
            ..v1::Job::default()
        };
        let mut spec = v1::JobSpec::default();
        let extras = extras(&mut job, &mut spec, PayloadInfo::default(), "");
        assert_eq!(extras.and_then(|extras| extras.deadline), Some(Timestamp::from_micros(9_000_000)));
        let shown = job_of(JobId::from_raw(1), LeaseToken::from_raw(1), Timestamp::default(), plain(), job);
        assert_eq!((shown.attempt, shown.counted_attempts(), shown.failures()), (7, 5, 3));
        assert_eq!((shown.rare().snoozes, shown.rare().process_losses), (2, 1));
        let first = v1::Job { attempt: 1, counted_attempts: 1, ..v1::Job::default() };
        let shown = job_of(JobId::from_raw(1), LeaseToken::from_raw(1), Timestamp::default(), plain(), first);
        assert_eq!((shown.rare, shown.attempt), (None, 1));
    }

    fn plain() -> Spec {
        Spec {
            queue: Name::new(0, "q"),
            kind: Name::new(0, "k"),
            priority: 0,
            retry: RetryPolicy::DEFAULT,
            attempt_timeout: Duration::from_secs(1),
            bytes: 0,
            created: Timestamp::default(),
            expires: None,
            extras: None,
        }
    }
}
