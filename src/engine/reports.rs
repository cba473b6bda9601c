//! Reports of attempts.

use std::sync::Arc;

use bytes::Bytes;

use super::{Report, ReportBody, Reporter, decision::Decision};
use crate::{
    engine::transition::{Event, FailCause, Refusal, check_lease, transition},
    job::{Checkpoint, Job, JobId, LeaseOwner, LeaseToken, Output, ReportedEnd, StateName, StoredCheckpoint},
    store::sets::OutcomeRow,
};

impl Decision<'_> {
    /// Applies an attempt's report if its lease is still the job's.
    pub(super) fn report(&mut self, report: &Report) -> Result<(), Refusal> {
        let Report { id, lease, body, from, checkpoint, .. } = report;
        let lease = *lease;
        let reporter = match from {
            Reporter::Server => None,
            Reporter::Worker(process, _) => Some(process),
        };
        if let Some(reporter) = reporter {
            self.engine.workers.saw(reporter.number, self.present.uptime);
        }
        let Some(job) = self.job(*id) else {
            return Err(Refusal::LeaseLost(StateName::Cancelled));
        };
        if let Some(reporter) = reporter
            && (job.remote.worker().is_none_or(|worker| worker.number != reporter.number)
                || check_lease(&job, lease).is_err())
        {
            // The worker may have the job again: its earlier attempt may still be reported once more.
            return if report.is_final() && self.has_reported(reporter.owner(), &job, lease) {
                Ok(())
            } else {
                Err(Refusal::LeaseLost(job.state.name()))
            };
        }
        let event = match body {
            ReportBody::Checkpoint => {
                check_lease(&job, lease)?;
                self.keep_checkpoint(&job, lease, checkpoint.as_deref());
                return Ok(());
            }
            ReportBody::Progress(progress) => Event::Progress { lease, progress: Arc::clone(progress) },
            ReportBody::Succeeded { output, .. } => Event::Succeed { lease, result: output.summary() },
            ReportBody::Failed { failure, delay, process_died, .. } => {
                let cause = if *process_died { FailCause::ProcessDied } else { FailCause::Other };
                Event::Fail { lease, failure: Arc::clone(failure), delay: *delay, cause }
            }
            ReportBody::Snoozed { delay, .. } => Event::Snooze { lease, delay: *delay },
            ReportBody::Released { delay } => {
                Event::Release { lease, delay: *delay, order: self.engine.leases.order(*id) }
            }
        };
        let mut changed = transition(&job, &event, self.moment(&job))?;
        if let Some(reporter) = reporter
            && report.is_final()
        {
            // A repeat of the report is answered as the first one.
            let owner = Arc::clone(reporter.owner());
            changed.job.remote.reported = Some(Arc::new(ReportedEnd { lease, attempt: job.attempt, owner }));
            if let Some(attempt) = &mut changed.ended_attempt {
                attempt.reported = Some(lease);
            }
        }
        self.keep_outcome(&job, body);
        if !matches!(body, ReportBody::Succeeded { .. }) {
            self.keep_checkpoint(&job, lease, checkpoint.as_deref());
        }
        self.change(&job, changed);
        if let ReportBody::Snoozed { delay, pause: Some(limit), .. } = body {
            self.engine.limits.pause(limit, &job, *delay);
        }
        Ok(())
    }

    /// Returns whether a worker's process has ended the attempt under this lease by a report of its own.
    pub(super) fn has_reported(&self, owner: &LeaseOwner, job: &Job, lease: LeaseToken) -> bool {
        let latest = job.remote.reported.as_ref().filter(|reported| reported.lease == lease);
        let earlier = self.found.reported.get(&lease);
        latest.map(|reported| &reported.owner).or(earlier).is_some_and(|reporter| **reporter == *owner)
    }

    fn keep_checkpoint(&mut self, job: &Job, lease: LeaseToken, checkpoint: Option<&Checkpoint>) {
        let Some(Checkpoint { number, state }) = checkpoint else { return };
        self.sealed.checkpoints.count += 1;
        self.sealed.checkpoints.bytes += state.bytes.len() as u64;
        if let Some(worker) = job.remote.worker() {
            self.sealed.remote.checkpoints.push((worker.number, lease, *number));
        }
        let stored = StoredCheckpoint { number: *number, state: state.clone(), written: self.now() };
        self.writes.checkpoints.push((job.id, stored));
    }

    /// Removes the output of the attempt before, which a lost attempt without output must not be shown with.
    pub(super) fn forget_output(&mut self, job: &Job) {
        if job.attempt > 1 {
            self.put_outcome_row(job.id, None, "");
        }
    }

    fn keep_outcome(&mut self, job: &Job, body: &ReportBody) {
        match body {
            ReportBody::Succeeded { output, tail } => {
                self.put_outcome(job, Some(output).filter(|output| !output.is_empty()), tail);
            }
            ReportBody::Failed { tail, .. } | ReportBody::Snoozed { tail, .. } => {
                self.put_outcome(job, None, tail);
            }
            ReportBody::Progress(_) | ReportBody::Checkpoint | ReportBody::Released { .. } => {}
        }
    }

    fn put_outcome(&mut self, job: &Job, output: Option<&Output>, tail: &str) {
        // A later attempt without output must not be shown with the output of an earlier one.
        if output.is_some() || !tail.is_empty() || job.attempt > 1 {
            self.put_outcome_row(job.id, output.map(|output| output.bytes.clone()), tail);
        }
    }

    pub(super) fn put_outcome_row(&mut self, id: JobId, result: Option<Bytes>, tail: &str) {
        self.writes.outcomes.push(OutcomeRow { id, result, tail: tail.to_owned() });
    }
}
