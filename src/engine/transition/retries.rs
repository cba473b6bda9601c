//! What becomes of a job after an attempt that did not succeed: another one later, or the end; and reasons for ends.

use std::{sync::Arc, time::Duration};

use super::Moment;
use crate::{
    clock::Timestamp,
    job::{DependencyCondition, Failure, FailureReason, Job, JobId, ParentEnd, Rare, Spec, State},
};

/// The cause of a failed attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailCause {
    /// The process that ran the attempt died by itself, which counts as a process loss.
    ProcessDied,
    /// Any other cause.
    Other,
}

/// The next state of a job, and the reason where it differs from the attempt's own failure.
pub(super) type Next = (State, Option<Arc<Failure>>);

/// Returns what follows a failed attempt of a job that is not cancelled. `rare` has the counts after the failure.
pub(super) fn after_failure(
    job: &Job,
    rare: &Rare,
    failure: &Failure,
    (delay, cause): (Option<Duration>, FailCause),
    moment: Moment,
) -> Next {
    let losses = recent_losses(rare, moment);
    let limit = job.spec.max_process_losses();
    // Deaths from before a retry of the job don't make another failure one.
    if cause == FailCause::ProcessDied && failure.retryable && losses >= limit as usize {
        let hours = Spec::PROCESS_LOSS_WINDOW.as_secs() / 3_600;
        let message = format!(
            "the process that ran the job died {losses} times within {hours} h, of which {limit} are too many; \
             the last time: {}",
            failure.message
        );
        return ended(FailureReason::Poison, message, failure);
    }
    if !failure.retryable || job.counted_attempts() >= job.max_attempts {
        return (State::Failed, None);
    }
    let delay = match delay {
        Some(delay) => job.spec.retry.at_least(delay, moment.random),
        None => job.spec.retry.delay(job.failures() + 1, moment.random),
    };
    wait(job, delay, moment, failure)
}

/// Returns what follows an attempt that asks to be run again later, of a job that is not cancelled.
pub(super) fn after_snooze(job: &Job, delay: Duration, moment: Moment) -> Next {
    let limit = job.spec.max_snoozes();
    let none = Failure {
        reason: FailureReason::SnoozedOut,
        message: String::new(),
        code: String::new(),
        exit_code: None,
        retryable: false,
        parent: None,
    };
    if job.rare().snoozes >= limit {
        let message = format!("the handler asked to be run later once more than the limit of {limit} times");
        return ended(FailureReason::SnoozedOut, message, &none);
    }
    wait(job, delay, moment, &none)
}

/// Returns the wait for another attempt, or the end of a job whose deadline comes first.
fn wait(job: &Job, delay: Duration, moment: Moment, last: &Failure) -> Next {
    let due = moment.backoffs.after(delay);
    match job.spec.deadline() {
        Some(deadline) if due >= deadline => {
            let (state, failure) = missed_deadline(deadline, moment.now, last);
            (state, Some(failure))
        }
        Some(_) | None => (State::BackingOff { due }, None),
    }
}

/// Returns the end of a job whose deadline leaves no time for another attempt. `last` is the failure of the attempt
/// before, if it had one.
pub(super) fn missed_deadline(deadline: Timestamp, now: Timestamp, last: &Failure) -> (State, Arc<Failure>) {
    let left = match deadline <= now {
        true => "has passed",
        false => "leaves no time for another attempt",
    };
    let last = match last.message.as_str() {
        "" => String::new(),
        message => format!("; the last failure: {message}"),
    };
    let message = format!("the deadline {deadline} {left}{last}");
    (State::Failed, failed(FailureReason::Deadline, message))
}

/// Returns the failure of a waiting job whose deadline has passed.
#[must_use]
pub fn deadline_passed(deadline: Timestamp) -> Arc<Failure> {
    failed(FailureReason::Deadline, format!("the deadline {deadline} has passed"))
}

fn ended(reason: FailureReason, message: String, last: &Failure) -> Next {
    let Failure { code, exit_code, .. } = last;
    let failure = Failure { reason, message, code: code.clone(), exit_code: *exit_code, retryable: false, parent: None };
    (State::Failed, Some(Arc::new(failure)))
}

fn failed(reason: FailureReason, message: String) -> Arc<Failure> {
    Arc::new(Failure { reason, message, code: String::new(), exit_code: None, retryable: false, parent: None })
}

/// Returns the failure of an attempt whose server stopped or died while it ran.
#[must_use]
pub fn lost(message: &str) -> Arc<Failure> {
    Arc::new(Failure {
        reason: FailureReason::Lost,
        message: message.to_owned(),
        code: String::new(),
        exit_code: None,
        retryable: true,
        parent: None,
    })
}

/// Returns the failure as not retryable, for an attempt that was cancelled.
pub(super) fn for_good(failure: &Arc<Failure>) -> Arc<Failure> {
    Arc::new(Failure { retryable: false, ..Failure::clone(failure) })
}

/// Returns the failure of a job that depended on another one in vain.
#[must_use]
pub(crate) fn forsaken(parent: JobId, end: ParentEnd, condition: DependencyCondition) -> Arc<Failure> {
    let message = format!("the job {parent}, which had to be {}, {end}", condition.as_str());
    let failure = failed(FailureReason::Dependency, message);
    Arc::new(Failure { parent: Some(parent), ..Arc::unwrap_or_clone(failure) })
}

/// Records a process loss.
pub(super) fn count_loss(job: &Job, rare: &mut Rare, moment: Moment) {
    rare.process_losses += 1;
    rare.loss_times.push(moment.elapsed);
    let kept = job.spec.max_process_losses() as usize;
    let over = rare.loss_times.len().saturating_sub(kept);
    rare.loss_times.drain(..over);
}

/// Returns the number of process losses that are counted together with the present.
fn recent_losses(rare: &Rare, moment: Moment) -> usize {
    let since = moment.elapsed.before(Spec::PROCESS_LOSS_WINDOW);
    rare.loss_times.iter().filter(|time| **time > since).count()
}
