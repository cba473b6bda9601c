//! The state machine of a job: one function decides every change.
//!
//! The function is pure: the same job, event and moment give the same result, so that every store and every test agrees
//! on what is allowed. Each state is matched by name: code does not compile with a new state until every event handles
//! it.

mod retries;

use std::{sync::Arc, time::Duration};

pub(crate) use self::retries::forsaken;
pub use self::retries::{FailCause, deadline_passed, lost};
use self::retries::for_good;
use crate::{
    clock::{StoreTime, Timestamp},
    job::{
        AttemptRecord, Failure, FailureReason, Job, LeaseToken, Participant, Position, Progress, Rare, ResultInfo,
        Spec, State, StateName, WorkerProcess,
    },
};

/// An event that can change a job.
#[derive(Clone, Debug)]
pub enum Event {
    /// A waiting job is due.
    Due,
    /// A waiting job's expiry has passed and no attempt has started, or its deadline has passed.
    Lapse,
    /// A consumer slot claims the job.
    Start {
        /// Lease of the new attempt.
        lease: LeaseToken,
        /// The remote worker that runs it; absent if this server does.
        worker: Option<Arc<WorkerProcess>>,
    },
    /// The attempt reports progress.
    Progress {
        /// Lease of the attempt.
        lease: LeaseToken,
        /// The progress.
        progress: Arc<Progress>,
    },
    /// The attempt has succeeded.
    Succeed {
        /// Lease of the attempt.
        lease: LeaseToken,
        /// Metadata of its result.
        result: Option<Arc<ResultInfo>>,
    },
    /// The attempt has failed.
    Fail {
        /// Lease of the attempt.
        lease: LeaseToken,
        /// The failure.
        failure: Arc<Failure>,
        /// Retry delay requested by the handler. The policy's jitter makes it longer.
        delay: Option<Duration>,
        /// Whether the failure counts as a process loss.
        cause: FailCause,
    },
    /// The handler asked to be run again later.
    Snooze {
        /// Lease of the attempt.
        lease: LeaseToken,
        /// Delay until then.
        delay: Duration,
    },
    /// The attempt was claimed but never started.
    Release {
        /// Lease of the attempt.
        lease: LeaseToken,
        /// Delay until the job is ready again; absent if it is at once. The policy's jitter makes it longer.
        delay: Option<Duration>,
        /// The job's order key in its lane when it was claimed.
        order: Position,
    },
    /// A caller cancels the job.
    Cancel,
    /// A caller retries an ended job, or runs a waiting one now.
    Retry {
        /// Whether the attempts so far no longer count: those of the maximum, the backoff, and the other limits.
        reset: bool,
    },
    /// A caller changes the input of a job that has never started.
    Update {
        /// The spec after the change.
        spec: Arc<Spec>,
        /// The new start time, if that changes; `Some(None)` is at once.
        start: Option<Option<Timestamp>>,
        /// Whether the input is that of another submission with the job's unique key.
        replaces: bool,
    },
    /// The job that held the unique key has ended.
    Unblock {
        /// The earliest start; absent if the job's own is early enough.
        not_before: Option<Timestamp>,
    },
    /// A dependency of a blocked job can't hold any more.
    Forsake {
        /// The reason.
        failure: Arc<Failure>,
    },
}

/// The times, feed position and random number of a change.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The wall-clock time.
    pub now: Timestamp,
    /// The present by which backoffs end: the wall-clock time without its drift of less than one second against the
    /// elapsed time.
    pub backoffs: Timestamp,
    /// The present on the timeline of backoffs.
    pub elapsed: StoreTime,
    /// The change's feed position.
    pub position: Position,
    /// Random number from 0 to 1, for jitter.
    pub random: f64,
    /// The job's participant in the turns of its queue.
    pub participant: Participant,
}

impl Moment {
    /// Returns the state of a job that is ready, with its place in line.
    fn queued(self, order: Position) -> State {
        State::Queued { order, participant: self.participant }
    }
}

/// Reason why an event does not apply. The job does not change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The reporter's lease is not, or no longer, the job's lease.
    #[error("the lease is lost: the job is {0} under another attempt or none")]
    LeaseLost(StateName),
    /// The job's state does not allow the event.
    #[error("the job is {0}")]
    WrongState(StateName),
    /// The job's deadline has passed, so that no further attempt may start.
    #[error("the job's deadline {0} has passed")]
    DeadlinePassed(Timestamp),
}

/// The job after an event, and the attempt that the event ended without success.
#[derive(Clone, Debug)]
pub struct Changed {
    /// The job after the event.
    pub job: Job,
    /// The ended attempt, for the job's history.
    pub ended_attempt: Option<AttemptRecord>,
}

/// Returns the state in which a new job waits.
#[must_use]
pub fn waiting_state(run_time: Option<Timestamp>, moment: Moment) -> State {
    match run_time {
        Some(due) if due > moment.now => State::Scheduled { due },
        Some(_) | None => moment.queued(moment.position),
    }
}

/// Applies `event` to `job` and returns the changed job.
///
/// # Errors
/// A [`Refusal`] if the event does not apply. The caller must then change nothing.
pub fn transition(job: &Job, event: &Event, moment: Moment) -> Result<Changed, Refusal> {
    let refused = Refusal::WrongState(job.state.name());
    match event {
        Event::Due => match job.state {
            State::Scheduled { .. } | State::BackingOff { .. } if is_due(job, moment) => {
                Ok(changed(job, moment.queued(moment.position), moment))
            }
            State::Scheduled { .. }
            | State::Blocked { .. }
            | State::BackingOff { .. }
            | State::Queued { .. }
            | State::Running { .. }
            | State::Cancelling { .. }
            | State::Succeeded
            | State::Failed
            | State::Cancelled
            | State::Expired => Err(refused),
        },
        Event::Lapse => match job.state {
            State::Scheduled { .. }
            | State::Blocked { .. }
            | State::Queued { .. }
            | State::BackingOff { .. }
                if lapsed(job, moment.now) =>
            {
                Ok(lapse(job, moment))
            }
            State::Scheduled { .. }
            | State::Blocked { .. }
            | State::Queued { .. }
            | State::BackingOff { .. }
            | State::Running { .. }
            | State::Cancelling { .. }
            | State::Succeeded
            | State::Failed
            | State::Cancelled
            | State::Expired => Err(refused),
        },
        Event::Start { lease, worker } => match job.state {
            State::Queued { .. } => Ok(started(job, *lease, worker.as_ref(), moment)),
            State::Scheduled { .. } | State::BackingOff { .. } if is_due(job, moment) => {
                Ok(started(job, *lease, worker.as_ref(), moment))
            }
            State::Scheduled { .. }
            | State::Blocked { .. }
            | State::BackingOff { .. }
            | State::Running { .. }
            | State::Cancelling { .. }
            | State::Succeeded
            | State::Failed
            | State::Cancelled
            | State::Expired => Err(refused),
        },
        Event::Progress { lease, progress } => {
            check_lease(job, *lease)?;
            let mut next = changed(job, job.state, moment);
            next.job.progress = Some(Arc::clone(progress));
            Ok(next)
        }
        Event::Succeed { lease, result } => {
            check_lease(job, *lease)?;
            let mut next = changed(job, State::Succeeded, moment);
            next.job.failure = None;
            next.job.result.clone_from(result);
            Ok(next)
        }
        Event::Fail { lease, failure, delay, cause } => {
            let cancelling = check_lease(job, *lease)? == LeaseState::Cancelling;
            let mut counts = job.rare.clone();
            if !cancelling && *cause == FailCause::ProcessDied {
                retries::count_loss(job, counts.get_or_insert_default(), moment);
            }
            let rare = counts.as_deref().unwrap_or(Rare::NONE);
            let (state, end) = match cancelling {
                true => (State::Cancelled, None),
                false => retries::after_failure(job, rare, failure, (*delay, *cause), moment),
            };
            let failure = if cancelling { for_good(failure) } else { Arc::clone(failure) };
            let mut next = changed(job, state, moment);
            next.job.rare = counts;
            next.job.failure = Some(end.unwrap_or_else(|| Arc::clone(&failure)));
            next.ended_attempt = Some(AttemptRecord {
                number: job.attempt,
                started: job.started.unwrap_or(moment.now),
                ended: Some(moment.now),
                failure: Some(Failure::clone(&failure)),
                worker: job.remote.worker().map(|worker| Arc::clone(worker.owner())),
                reported: None,
            });
            Ok(next)
        }
        Event::Snooze { lease, delay } => {
            let (state, end) = match check_lease(job, *lease)? {
                LeaseState::Cancelling => (State::Cancelled, None),
                LeaseState::Running => retries::after_snooze(job, *delay, moment),
            };
            let mut next = changed(job, state, moment);
            if let Some(failure) = end {
                next.job.failure = Some(failure);
            }
            next.job.change_rare(|rare| {
                rare.uncounted += 1;
                rare.unfailed += 1;
                rare.snoozes += 1;
                rare.snoozed = !state.is_done();
            });
            Ok(next)
        }
        Event::Release { lease, delay, order } => {
            let delay = delay.filter(|delay| !delay.is_zero());
            let state = match (check_lease(job, *lease)?, delay) {
                (LeaseState::Cancelling, _) => State::Cancelled,
                (LeaseState::Running, None) => moment.queued(*order),
                (LeaseState::Running, Some(delay)) => {
                    let delay = job.spec.retry.at_least(delay, moment.random);
                    State::BackingOff { due: moment.backoffs.after(delay) }
                }
            };
            let mut next = changed(job, state, moment);
            next.job.change_rare(|rare| {
                rare.never_started += 1;
                rare.uncounted += 1;
                rare.unfailed += 1;
            });
            // The history has the start of the attempt before this one.
            next.job.started = None;
            Ok(next)
        }
        Event::Cancel => match job.state {
            State::Scheduled { .. }
            | State::Blocked { .. }
            | State::Queued { .. }
            | State::BackingOff { .. } => Ok(changed(job, State::Cancelled, moment)),
            State::Running { lease } => Ok(changed(job, State::Cancelling { lease }, moment)),
            State::Cancelling { .. }
            | State::Succeeded
            | State::Failed
            | State::Cancelled
            | State::Expired => Err(refused),
        },
        Event::Retry { reset } => match job.state {
            State::Failed | State::Cancelled | State::Scheduled { .. } | State::BackingOff { .. } => {
                if let Some(deadline) = job.spec.deadline().filter(|deadline| *deadline <= moment.now) {
                    return Err(Refusal::DeadlinePassed(deadline));
                }
                let mut next = changed(job, moment.queued(moment.position), moment);
                next.job.ended = None;
                // Its dependencies are of no interest any more.
                next.job.failure = next.job.failure.filter(|last| last.reason != FailureReason::Dependency);
                if *reset {
                    next.job.change_rare(|rare| {
                        rare.uncounted = job.attempt;
                        rare.unfailed = job.attempt;
                        rare.snoozes = 0;
                        rare.loss_times.clear();
                    });
                }
                if job.state.is_done() {
                    next.job.max_attempts = job.max_attempts.max(next.job.counted_attempts() + 1);
                }
                Ok(next)
            }
            State::Blocked { .. }
            | State::Queued { .. }
            | State::Running { .. }
            | State::Cancelling { .. }
            | State::Succeeded
            | State::Expired => Err(refused),
        },
        Event::Update { spec, start, replaces } => match job.state {
            State::Scheduled { .. }
            | State::Blocked { .. }
            | State::Queued { .. }
            | State::BackingOff { .. }
                if !job.has_started() =>
            {
                let mut next = changed(job, state_with_start(job.state, *start, moment), moment);
                if let State::Queued { order, .. } = next.job.state {
                    // Its participant may be of a former label, and the renewal past its new place.
                    next.job.state = moment.queued(order);
                }
                next.job.spec = Arc::clone(spec);
                if *replaces {
                    next.job.change_rare(|rare| rare.replaced += 1);
                }
                Ok(next)
            }
            State::Scheduled { .. }
            | State::Blocked { .. }
            | State::Queued { .. }
            | State::BackingOff { .. }
            | State::Running { .. }
            | State::Cancelling { .. }
            | State::Succeeded
            | State::Failed
            | State::Cancelled
            | State::Expired => Err(refused),
        },
        Event::Unblock { not_before } => {
            let due = check_blocked(job)?;
            let start = not_before.map_or(due, |earliest| earliest.max(due));
            Ok(changed(job, waiting_state(Some(start), moment), moment))
        }
        Event::Forsake { failure } => {
            check_blocked(job)?;
            let mut next = changed(job, State::Cancelled, moment);
            next.job.failure = Some(Arc::clone(failure));
            Ok(next)
        }
    }
}

/// Returns the state of a waiting job with another start time. A ready job that stays ready keeps its order, and one
/// whose attempts could not start waits for the end of its backoff.
fn state_with_start(state: State, start: Option<Option<Timestamp>>, moment: Moment) -> State {
    match (start, waiting_state(start.flatten(), moment)) {
        (None, _) => state,
        (Some(start), _) if matches!(state, State::Blocked { .. }) => {
            State::Blocked { due: start.unwrap_or(moment.now) }
        }
        (Some(_), State::Queued { .. }) if !matches!(state, State::Scheduled { .. }) => state,
        (Some(_), waiting) => waiting,
    }
}

/// Returns whether a waiting job is due, by the wall clock if scheduled or by the end of its backoff.
fn is_due(job: &Job, moment: Moment) -> bool {
    match job.state {
        State::Scheduled { due } => due <= moment.now,
        State::BackingOff { due } => due <= moment.backoffs,
        State::Blocked { .. }
        | State::Queued { .. }
        | State::Running { .. }
        | State::Cancelling { .. }
        | State::Succeeded
        | State::Failed
        | State::Cancelled
        | State::Expired => false,
    }
}

/// Returns whether a waiting job's expiry or deadline has passed.
#[must_use]
pub fn lapsed(job: &Job, now: Timestamp) -> bool {
    job.waits_until().is_some_and(|until| until <= now)
}

/// Ends a waiting job whose expiry or deadline has passed.
fn lapse(job: &Job, moment: Moment) -> Changed {
    let expired = !job.has_started() && job.spec.expires.is_some_and(|expires| expires <= moment.now);
    match job.spec.deadline().filter(|_| !expired) {
        None => changed(job, State::Expired, moment),
        Some(deadline) => {
            let mut next = changed(job, State::Failed, moment);
            next.job.failure = Some(deadline_passed(deadline));
            next
        }
    }
}

#[derive(PartialEq, Eq)]
pub(super) enum LeaseState {
    Running,
    Cancelling,
}

/// Checks that the job runs under `lease`.
pub(super) fn check_lease(job: &Job, lease: LeaseToken) -> Result<LeaseState, Refusal> {
    match job.state {
        State::Running { lease: held } if held == lease => Ok(LeaseState::Running),
        State::Cancelling { lease: held } if held == lease => Ok(LeaseState::Cancelling),
        State::Running { .. }
        | State::Cancelling { .. }
        | State::Scheduled { .. }
        | State::Blocked { .. }
        | State::Queued { .. }
        | State::BackingOff { .. }
        | State::Succeeded
        | State::Failed
        | State::Cancelled
        | State::Expired => Err(Refusal::LeaseLost(job.state.name())),
    }
}

/// Checks that the job is blocked, and returns its start time.
fn check_blocked(job: &Job) -> Result<Timestamp, Refusal> {
    match job.state {
        State::Blocked { due } => Ok(due),
        State::Scheduled { .. }
        | State::Queued { .. }
        | State::BackingOff { .. }
        | State::Running { .. }
        | State::Cancelling { .. }
        | State::Succeeded
        | State::Failed
        | State::Cancelled
        | State::Expired => Err(Refusal::WrongState(job.state.name())),
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
    if state.lease().is_none() {
        next.remote.worker = None;
    }
    if next.rare().snoozed {
        next.change_rare(|rare| rare.snoozed = false);
    }
    Changed { job: next, ended_attempt: None }
}

fn started(
    job: &Job,
    lease: LeaseToken,
    worker: Option<&Arc<WorkerProcess>>,
    moment: Moment,
) -> Changed {
    let mut next = changed(job, State::Running { lease }, moment);
    next.job.attempt += 1;
    next.job.started = Some(moment.now);
    next.job.progress = None;
    next.job.remote.worker = worker.cloned();
    next
}

#[cfg(test)]
mod tests;
