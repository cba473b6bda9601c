//! The one function that decides every change of a job.
//!
//! It is pure: the same job, event and moment give the same answer, so that every store and every test agrees on what
//! may happen. Each state is matched by name; a new one does not compile until every event has been thought through.

use std::{sync::Arc, time::Duration};

use crate::{
    clock::Timestamp,
    job::{
        AttemptRecord, Failure, FailureReason, Job, LeaseToken, Position, Progress, ResultInfo, State,
        StateName,
    },
};

/// What happens to a job.
#[derive(Clone, Debug)]
pub enum Event {
    /// A waiting job's time has come.
    Due,
    /// A waiting job's time is over, and no attempt has started.
    Expire,
    /// A consumer slot takes it.
    Start {
        /// The new attempt's right to report.
        lease: LeaseToken,
    },
    /// Its attempt tells how far it is.
    Progress {
        /// The attempt's right to report.
        lease: LeaseToken,
        /// How far it is.
        progress: Arc<Progress>,
    },
    /// Its attempt did the work.
    Succeed {
        /// The attempt's right to report.
        lease: LeaseToken,
        /// What is known of its result.
        result: Option<Arc<ResultInfo>>,
    },
    /// Its attempt did not do the work.
    Fail {
        /// The attempt's right to report.
        lease: LeaseToken,
        /// Why.
        failure: Arc<Failure>,
        /// The handler's own wish for the delay to the next attempt. The policy's jitter makes it longer.
        delay: Option<Duration>,
    },
    /// Its attempt was claimed but never started.
    Release {
        /// The attempt's right to report.
        lease: LeaseToken,
        /// How long the job is not ready again, if it is not at once. The policy's jitter makes it longer.
        delay: Option<Duration>,
        /// The place in line that it had when it was claimed.
        order: Position,
    },
    /// Somebody wants it stopped.
    Cancel,
    /// Somebody wants it run again, or now.
    Retry,
}

/// When and where a change happens.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// What the wall clock says.
    pub now: Timestamp,
    /// The present by which backoffs end: what the wall clock says, but for less than a second by which it has gone
    /// astray from the time that has passed.
    pub backoffs: Timestamp,
    /// The change's place in the feed.
    pub position: Position,
    /// From 0 to 1, for jitter.
    pub random: f64,
}

/// Why an event does not apply. Nothing changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The reporter's lease is no longer (or never was) the job's.
    #[error("the lease is lost: the job is {0} under another attempt or none")]
    LeaseLost(StateName),
    /// The job's state does not allow it.
    #[error("the job is {0}")]
    WrongState(StateName),
}

/// A job after an event, and the attempt that the event ended without success.
#[derive(Clone, Debug)]
pub struct Changed {
    /// The job after the event.
    pub job: Job,
    /// The ended attempt, for the job's history.
    pub ended_attempt: Option<AttemptRecord>,
}

/// The state in which a new job, or one run anew, waits.
#[must_use]
pub fn waiting_state(run_time: Option<Timestamp>, moment: Moment) -> State {
    match run_time {
        Some(due) if due > moment.now => State::Scheduled { due },
        Some(_) | None => State::Queued { order: moment.position },
    }
}

/// What `event` makes of `job`.
///
/// # Errors
/// A [`Refusal`] where the event does not apply: the caller must then change nothing.
pub fn transition(job: &Job, event: &Event, moment: Moment) -> Result<Changed, Refusal> {
    let refused = Refusal::WrongState(job.state.name());
    match event {
        Event::Due => match job.state {
            State::Scheduled { .. } | State::BackingOff { .. } if is_due(job, moment) => {
                Ok(changed(job, State::Queued { order: moment.position }, moment))
            }
            State::Scheduled { .. }
            | State::BackingOff { .. }
            | State::Queued { .. }
            | State::Running { .. }
            | State::Cancelling { .. }
            | State::Succeeded
            | State::Failed
            | State::Cancelled
            | State::Expired => Err(refused),
        },
        Event::Expire => match job.state {
            State::Scheduled { .. } | State::Queued { .. } | State::BackingOff { .. }
                if expired(job, moment.now) =>
            {
                Ok(changed(job, State::Expired, moment))
            }
            State::Scheduled { .. }
            | State::Queued { .. }
            | State::BackingOff { .. }
            | State::Running { .. }
            | State::Cancelling { .. }
            | State::Succeeded
            | State::Failed
            | State::Cancelled
            | State::Expired => Err(refused),
        },
        Event::Start { lease } => match job.state {
            State::Queued { .. } => Ok(started(job, *lease, moment)),
            State::Scheduled { .. } | State::BackingOff { .. } if is_due(job, moment) => {
                Ok(started(job, *lease, moment))
            }
            State::Scheduled { .. }
            | State::BackingOff { .. }
            | State::Running { .. }
            | State::Cancelling { .. }
            | State::Succeeded
            | State::Failed
            | State::Cancelled
            | State::Expired => Err(refused),
        },
        Event::Progress { lease, progress } => {
            held(job, *lease)?;
            let mut next = changed(job, job.state, moment);
            next.job.progress = Some(Arc::clone(progress));
            Ok(next)
        }
        Event::Succeed { lease, result } => {
            held(job, *lease)?;
            let mut next = changed(job, State::Succeeded, moment);
            next.job.failure = None;
            next.job.result.clone_from(result);
            Ok(next)
        }
        Event::Fail { lease, failure, delay } => {
            let cancelling = held(job, *lease)? == Held::Cancelling;
            let state = if cancelling {
                State::Cancelled
            } else if failure.retryable && job.attempt < job.max_attempts {
                let delay = match delay {
                    Some(delay) => job.spec.retry.at_least(*delay, moment.random),
                    None => job.spec.retry.delay(job.attempt, moment.random),
                };
                State::BackingOff { due: moment.backoffs.after(delay) }
            } else {
                State::Failed
            };
            let failure = if cancelling { for_good(failure) } else { Arc::clone(failure) };
            let mut next = changed(job, state, moment);
            next.job.failure = Some(Arc::clone(&failure));
            next.ended_attempt = Some(AttemptRecord {
                number: job.attempt,
                started: job.started.unwrap_or(moment.now),
                ended: Some(moment.now),
                failure: Some(Failure::clone(&failure)),
            });
            Ok(next)
        }
        Event::Release { lease, delay, order } => {
            let delay = delay.filter(|delay| !delay.is_zero());
            let state = match (held(job, *lease)?, delay) {
                (Held::Cancelling, _) => State::Cancelled,
                (Held::Running, None) => State::Queued { order: *order },
                (Held::Running, Some(delay)) => {
                    let delay = job.spec.retry.at_least(delay, moment.random);
                    State::BackingOff { due: moment.backoffs.after(delay) }
                }
            };
            let mut next = changed(job, state, moment);
            next.job.attempt = job.attempt.saturating_sub(1);
            // Of the attempt before it, the history has the start.
            next.job.started = None;
            Ok(next)
        }
        Event::Cancel => match job.state {
            State::Scheduled { .. } | State::Queued { .. } | State::BackingOff { .. } => {
                Ok(changed(job, State::Cancelled, moment))
            }
            State::Running { lease } => Ok(changed(job, State::Cancelling { lease }, moment)),
            State::Cancelling { .. }
            | State::Succeeded
            | State::Failed
            | State::Cancelled
            | State::Expired => Err(refused),
        },
        Event::Retry => match job.state {
            State::Failed | State::Cancelled => {
                let mut next = changed(job, State::Queued { order: moment.position }, moment);
                next.job.max_attempts = job.max_attempts.max(job.attempt + 1);
                next.job.ended = None;
                Ok(next)
            }
            State::Scheduled { .. } | State::BackingOff { .. } => {
                Ok(changed(job, State::Queued { order: moment.position }, moment))
            }
            State::Queued { .. }
            | State::Running { .. }
            | State::Cancelling { .. }
            | State::Succeeded
            | State::Expired => Err(refused),
        },
    }
}

/// Whether the time has come for which a job waits: an instant of the wall clock, or the end of a backoff.
fn is_due(job: &Job, moment: Moment) -> bool {
    match job.state {
        State::Scheduled { due } => due <= moment.now,
        State::BackingOff { due } => due <= moment.backoffs,
        State::Queued { .. }
        | State::Running { .. }
        | State::Cancelling { .. }
        | State::Succeeded
        | State::Failed
        | State::Cancelled
        | State::Expired => false,
    }
}

/// Whether a waiting job's time is over: no attempt has started, and none should any more.
#[must_use]
pub fn expired(job: &Job, now: Timestamp) -> bool {
    job.attempt == 0 && job.spec.expires.is_some_and(|expires| expires <= now)
}

/// The failure of an attempt whose server stopped or died while it ran.
#[must_use]
pub fn lost(message: &str) -> Arc<Failure> {
    Arc::new(Failure {
        reason: FailureReason::Lost,
        message: message.to_owned(),
        code: String::new(),
        exit_code: None,
        retryable: true,
    })
}

/// A failure of an attempt that was cancelled: no other attempt follows.
fn for_good(failure: &Arc<Failure>) -> Arc<Failure> {
    Arc::new(Failure { retryable: false, ..Failure::clone(failure) })
}

#[derive(PartialEq, Eq)]
enum Held {
    Running,
    Cancelling,
}

/// Whether `lease` is the one under which the job runs.
fn held(job: &Job, lease: LeaseToken) -> Result<Held, Refusal> {
    match job.state {
        State::Running { lease: held } if held == lease => Ok(Held::Running),
        State::Cancelling { lease: held } if held == lease => Ok(Held::Cancelling),
        State::Running { .. }
        | State::Cancelling { .. }
        | State::Scheduled { .. }
        | State::Queued { .. }
        | State::BackingOff { .. }
        | State::Succeeded
        | State::Failed
        | State::Cancelled
        | State::Expired => Err(Refusal::LeaseLost(job.state.name())),
    }
}

fn changed(job: &Job, state: State, moment: Moment) -> Changed {
    let mut next = job.clone();
    next.state = state;
    next.revision += 1;
    next.position = moment.position;
    next.updated = moment.now;
    if state.is_done() {
        next.ended = Some(moment.now);
    }
    Changed { job: next, ended_attempt: None }
}

fn started(job: &Job, lease: LeaseToken, moment: Moment) -> Changed {
    let mut next = changed(job, State::Running { lease }, moment);
    next.job.attempt += 1;
    next.job.started = Some(moment.now);
    next.job.progress = None;
    next
}

#[cfg(test)]
mod tests;
