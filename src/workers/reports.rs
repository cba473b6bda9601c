//! Reports of remote workers: what each means for its lease, and what goes on to the committer.

use std::{sync::Arc, time::Duration};

use super::{
    clock::ActiveTime,
    core::Workers,
    entry::{HeldLease, WorkerEntry},
    outbox::Outbox,
    stop::StopCause,
};
use crate::{
    engine::{Report, ReportBody, Reporter},
    execute::command::RESULT_MAX_BYTES,
    job::{Checkpoint, Failure, FailureReason, Job, JobId, LeaseToken, Output, Progress},
    watch::OutputLine,
};

/// Shortest interval between two writes of an attempt's progress, and of checkpoints that are not asked for at once.
pub(super) const PROGRESS_EVERY: Duration = Duration::from_millis(500);
/// Size of a checkpoint above which it is written at once, so that few bytes are kept for later.
const CHECKPOINT_KEPT_MAX_BYTES: usize = 4 << 10;

/// A remote worker's report on a lease.
#[derive(Debug)]
pub(crate) enum WorkerReport {
    /// The assignment has arrived.
    Received,
    /// The attempt runs.
    Heartbeat {
        /// Its progress, if that has changed.
        progress: Option<Progress>,
        /// State for the next attempt, and whether it is to be written at once.
        checkpoint: Option<(Checkpoint, bool)>,
    },
    /// The attempt has succeeded.
    Completed(Output),
    /// The attempt has failed.
    Failed {
        /// Why.
        failure: Failure,
        /// Shortest delay until the next attempt.
        delay: Option<Duration>,
        /// Whether its process was ended by a signal that is not the worker's.
        process_died: bool,
    },
    /// The attempt asks to be run again later.
    Snoozed {
        /// The delay until then.
        delay: Duration,
        /// Name of a limit that starts nothing until then under the job's value.
        pause: Option<String>,
    },
    /// The job is handed back.
    Released {
        /// Why.
        reason: String,
        /// Whether the attempt certainly has not started.
        never_started: bool,
        /// Shortest delay until the job may be assigned again.
        delay: Option<Duration>,
    },
    /// Lines of output.
    Output(Vec<String>),
}

/// What is said about a lease at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Notice {
    /// It is held for this long.
    Held(Duration),
    /// The attempt is to stop, within this time.
    Stop(StopCause, Duration),
    /// It is over by the worker's own final report.
    Ended,
    /// It is not, or no longer, the worker's.
    Lost,
    /// The checkpoint's number is not larger than this one, which came before.
    CheckpointNotNewer(i64),
}

impl Workers {
    /// Takes a report. Returns the answer, or `None` if the committer gives it to the outbox.
    pub(crate) async fn report(
        &self,
        entry: &WorkerEntry,
        (id, lease): (JobId, LeaseToken),
        report: WorkerReport,
        outbox: &Arc<Outbox>,
    ) -> Option<Notice> {
        let body = match report {
            WorkerReport::Received => return Some(self.received(entry, id, lease)),
            WorkerReport::Heartbeat { progress, checkpoint } => {
                let (notice, due) = self.heartbeat(entry, (id, lease), progress, checkpoint, outbox);
                match due {
                    Some((report, true)) => {
                        self.reports.remote(report).await;
                    }
                    Some((report, false)) => {
                        // Where there is no room, progress comes again with the next heartbeat.
                        let is_passed_on = self.reports.remote_progress(report);
                        if !is_passed_on && let Some(held) = entry.state.lock().held(id, lease) {
                            held.put_back();
                        }
                    }
                    None => {}
                }
                return Some(notice);
            }
            WorkerReport::Output(lines) => return Some(self.output(entry, id, lease, &lines)),
            WorkerReport::Completed(output) if output.bytes.len() > RESULT_MAX_BYTES => {
                let message = format!(
                    "the result has {} bytes; at most {RESULT_MAX_BYTES} are kept",
                    output.bytes.len()
                );
                failed(failure(FailureReason::ResultTooLarge, message, false), None)
            }
            WorkerReport::Completed(output) => ReportBody::Succeeded { output, tail: String::new() },
            WorkerReport::Failed { failure, delay, process_died } => {
                ReportBody::Failed { failure: Arc::new(failure), delay, process_died, tail: String::new() }
            }
            WorkerReport::Snoozed { delay, pause } => {
                ReportBody::Snoozed { delay, pause: pause.map(Into::into), tail: String::new() }
            }
            WorkerReport::Released { reason, never_started: true, delay } => {
                tracing::debug!(job = %id, lease = lease.as_i64(), reason, "a worker handed back a job unstarted");
                ReportBody::Released { delay }
            }
            WorkerReport::Released { reason, never_started: false, delay } => {
                let message = match reason.as_str() {
                    "" => "the worker handed the job back after it had started".to_owned(),
                    reason => format!("the worker handed the job back after it had started: {reason}"),
                };
                failed(failure(FailureReason::Released, message, true), Some(delay.unwrap_or_default()))
            }
        };
        self.final_report(entry, id, lease, outbox, body).await;
        None
    }

    fn received(&self, entry: &WorkerEntry, id: JobId, lease: LeaseToken) -> Notice {
        let roster = &self.roster;
        let now = roster.active.observe();
        let mut state = entry.state.lock();
        let Some(held) = state.held(id, lease) else {
            return Notice::Lost;
        };
        if !held.is_received {
            held.is_received = true;
            let timeout = held.job.attempt_timeout_from(roster.clock.now());
            held.timeout = now.after(timeout);
            roster.counters.received_seconds.observe(now.since(held.assigned_at).as_secs_f64());
            if let Some(session) = held.session {
                roster.board.received(session, held.job.spec.bytes);
            }
            if timeout < roster.active.step() {
                roster.hurry.notify_one();
            }
        }
        self.renewed(held, now)
    }

    /// Renews a lease, and returns what is said of it.
    pub(super) fn renewed(&self, held: &mut HeldLease, now: ActiveTime) -> Notice {
        held.renew(now, self.roster.settings.lease);
        self.said_of(held, now)
    }

    fn said_of(&self, held: &mut HeldLease, now: ActiveTime) -> Notice {
        match held.tell_stop(now, self.roster.settings.stop_grace) {
            Some((cause, grace)) => Notice::Stop(cause, grace),
            None => Notice::Held(held.end().since(now)),
        }
    }

    /// Takes a heartbeat. Returns the answer, and what has to be written now: with whether that was asked for.
    fn heartbeat(
        &self,
        entry: &WorkerEntry,
        (id, lease): (JobId, LeaseToken),
        progress: Option<Progress>,
        checkpoint: Option<(Checkpoint, bool)>,
        outbox: &Arc<Outbox>,
    ) -> (Notice, Option<(Report, bool)>) {
        let now = self.roster.active.observe();
        let mut state = entry.state.lock();
        let Some(held) = state.held(id, lease) else {
            return (Notice::Lost, None);
        };
        let mut is_asked_for = false;
        if let Some((checkpoint, commit_now)) = checkpoint {
            let rest = held.rest();
            if checkpoint.number <= rest.checkpoint_number {
                return (Notice::CheckpointNotNewer(rest.checkpoint_number), None);
            }
            rest.checkpoint_number = checkpoint.number;
            is_asked_for = commit_now || checkpoint.state.bytes.len() > CHECKPOINT_KEPT_MAX_BYTES;
            rest.checkpoint = Some(Box::new(checkpoint));
        }
        if progress.is_some() {
            held.rest().progress = progress;
        }
        let notice = self.renewed(held, now);
        let from = Reporter::Worker(Arc::clone(&entry.process), Arc::clone(outbox) as Arc<_>);
        let due = due_report(held, lease, now, is_asked_for, from);
        (notice, due.map(|report| (report, is_asked_for)))
    }

    fn output(&self, entry: &WorkerEntry, id: JobId, lease: LeaseToken, lines: &[String]) -> Notice {
        let now = self.roster.active.observe();
        let mut state = entry.state.lock();
        let Some(held) = state.held(id, lease) else {
            return Notice::Lost;
        };
        let attempt = held.job.attempt;
        let texts: Vec<_> = lines.iter().map(|line| held.rest().tail.push(line.as_bytes())).collect();
        let notice = self.said_of(held, now);
        drop(state);
        for text in texts {
            self.hub.output(&OutputLine { id, attempt, text });
        }
        notice
    }

    /// Passes the end of an attempt on, with the end of its output and its last checkpoint. The committer decides
    /// whether the lease is the worker's: the report may be the repeat of one that has ended it.
    async fn final_report(
        &self,
        entry: &WorkerEntry,
        id: JobId,
        lease: LeaseToken,
        outbox: &Arc<Outbox>,
        mut body: ReportBody,
    ) {
        let mut checkpoint = None;
        if let Some(held) = entry.state.lock().held(id, lease) {
            held.is_reported = true;
            checkpoint = held.take_rest(&mut body);
        }
        let from = Reporter::Worker(Arc::clone(&entry.process), Arc::clone(outbox) as Arc<_>);
        let report = Report { checkpoint, from, ..Report::of_server(id, lease, body) };
        self.reports.remote(report).await;
    }
}

/// Returns the report of progress and of a checkpoint that is due, or that is to be written now.
pub(super) fn due_report(
    held: &mut HeldLease,
    lease: LeaseToken,
    now: ActiveTime,
    is_asked_for: bool,
    from: Reporter,
) -> Option<Report> {
    let rest = held.rest.as_mut()?;
    let has_news = rest.progress.is_some() || rest.checkpoint.is_some();
    let is_due = has_news && now.since(rest.written) >= PROGRESS_EVERY;
    if !is_asked_for && !is_due {
        return None;
    }
    rest.written = now;
    let checkpoint = rest.checkpoint.take();
    if checkpoint.is_some() {
        rest.sent_checkpoint.clone_from(&checkpoint);
    }
    let body = match rest.progress.take() {
        Some(progress) => ReportBody::Progress(Arc::new(progress)),
        None => ReportBody::Checkpoint,
    };
    Some(Report { checkpoint, from, ..Report::of_server(held.job.id, lease, body) })
}

pub(super) fn failed(failure: Failure, delay: Option<Duration>) -> ReportBody {
    ReportBody::Failed { failure: Arc::new(failure), delay, process_died: false, tail: String::new() }
}

impl HeldLease {
    /// Adds the end of the attempt's output to its final report, and takes the checkpoint that is not written yet.
    pub(super) fn take_rest(&mut self, body: &mut ReportBody) -> Option<Box<Checkpoint>> {
        let rest = self.rest.as_mut()?;
        match body {
            ReportBody::Succeeded { tail, .. }
            | ReportBody::Failed { tail, .. }
            | ReportBody::Snoozed { tail, .. } => *tail = rest.tail.text(),
            ReportBody::Released { .. } | ReportBody::Progress(_) | ReportBody::Checkpoint => {}
        }
        rest.checkpoint.take().or_else(|| rest.sent_checkpoint.take())
    }

    /// Takes back the checkpoint of a report that could not be passed on, unless there is a later one.
    fn put_back(&mut self) {
        if let Some(rest) = &mut self.rest {
            rest.checkpoint = rest.checkpoint.take().or_else(|| rest.sent_checkpoint.take());
        }
    }
}

pub(super) fn failure(reason: FailureReason, message: impl Into<String>, retryable: bool) -> Failure {
    Failure { reason, message: message.into(), code: String::new(), exit_code: None, retryable, parent: None }
}

/// Logs the end of a lease without a report.
pub(super) fn log_lost(job: &Job, worker: &str, why: &str) {
    tracing::warn!(
        job = %job.id,
        queue = job.spec.queue.as_str(),
        kind = job.spec.kind.as_str(),
        attempt = job.attempt,
        worker,
        why,
        "a remote attempt was ended by the server"
    );
}
