//! The task that ends leases by time: those that were never received go back, those of silent workers are lost, and
//! attempts that take too long are asked to stop.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    clock::ActiveTime,
    core::Workers,
    entry::{HeldLease, WorkerEntry},
    reports::{due_report, failed, failure, log_lost},
    stop::StopCause,
};
use crate::{
    clock::Uptime,
    engine::{Action, Control, Report, ReportBody, Reporter},
    job::{FailureReason, LeaseToken},
};

/// Interval at which the engine reviews what it knows of workers and their kinds.
const REVIEW_EVERY: Duration = Duration::from_secs(3_600);

impl Workers {
    /// Ends leases by time, for as long as the server runs.
    pub(crate) async fn keep(self) -> Infallible {
        let roster = Arc::clone(&self.roster);
        let mut reviewed = roster.clock.uptime();
        let started = roster.active.observe();
        // The first review counts the start for the workers that are still away.
        let mut was_reviewed = false;
        loop {
            let (reports, next) = self.look();
            for report in reports {
                self.reports.remote(report).await;
            }
            let now = roster.clock.uptime();
            let is_first = !was_reviewed
                && roster.has_inherited.load(Ordering::Relaxed)
                && roster.active.observe().since(started) >= roster.settings.lease / 2;
            if is_first || now.since(reviewed) >= REVIEW_EVERY {
                (reviewed, was_reviewed) = (now, true);
                let _ =
                    self.shard.control(Uptime::MAX, |ask| Control::once(Action::ReviewWorkers { ask })).await;
                roster.tidy();
            }
            let wake = now.after(next).min(reviewed.after(REVIEW_EVERY));
            tokio::select! {
                () = roster.clock.sleep_until(wake) => {}
                () = roster.hurry.notified() => {}
            }
        }
    }

    /// Looks through all leases. Returns the reports of those that end now, and the time until the next look.
    fn look(&self) -> (Vec<Report>, Duration) {
        let roster = &self.roster;
        // Set before the look, so that a lease that it does not see wakes this task.
        roster.is_asleep.store(true, Ordering::Relaxed);
        let now = roster.active.observe();
        let mut reports = Vec::new();
        let mut next = ActiveTime::MAX;
        for entry in roster.all() {
            let mut state = entry.state.lock();
            let stream = state.stream.as_ref().map(|stream| Arc::clone(&stream.outbox));
            for (lease, held) in &mut state.leases {
                if held.is_reported || held.is_ended {
                    continue;
                }
                if held.timeout <= now && held.stop.is_none() {
                    roster.stop(held, *lease, StopCause::TimedOut, stream.as_deref());
                }
                if held.end() <= now {
                    // A final report of the worker that comes later finds the lease lost.
                    held.is_ended = true;
                    reports.push(ended_by_time(&entry, held, *lease));
                    continue;
                }
                reports.extend(due_report(held, *lease, now, false, Reporter::Server));
                let timeout = if held.stop.is_none() { held.timeout } else { ActiveTime::MAX };
                next = next.min(held.end()).min(timeout);
            }
        }
        // While there are leases, the time is observed often enough to notice a pause of this process.
        let is_asleep = next == ActiveTime::MAX;
        if !is_asleep {
            roster.is_asleep.store(false, Ordering::Relaxed);
        }
        let wait = if is_asleep { REVIEW_EVERY } else { next.since(now).min(roster.active.step()) };
        (reports, wait)
    }
}

/// Returns the report with which the server ends a lease.
fn ended_by_time(entry: &WorkerEntry, held: &mut HeldLease, lease: LeaseToken) -> Report {
    let worker = entry.process.instance();
    let mut body = if held.is_received {
        let limit = humantime::format_duration(held.job.attempt_timeout());
        let failure = match held.stop.filter(|stop| stop.until.is_some()).map(|stop| stop.cause) {
            Some(StopCause::Cancelled) => failure(
                FailureReason::Cancelled,
                format!("the worker `{worker}` did not end the attempt in time after its cancellation"),
                false,
            ),
            Some(StopCause::TimedOut) => failure(
                FailureReason::Timeout,
                format!("the attempt took longer than its timeout of {limit}"),
                true,
            ),
            None => failure(
                FailureReason::Lost,
                format!("nothing was heard of the worker `{worker}` for as long as the lease lasts"),
                true,
            ),
        };
        log_lost(&held.job, worker, &failure.message);
        failed(failure, None)
    } else {
        tracing::info!(job = %held.job.id, worker, "a job was not received in time, and goes back to its queue");
        ReportBody::Released { delay: None }
    };
    let checkpoint = held.take_rest(&mut body);
    Report { checkpoint, ..Report::of_server(held.job.id, lease, body) }
}
