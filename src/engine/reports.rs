//! Reports of attempts.

use std::sync::Arc;

use bytes::Bytes;

use super::{Report, ReportBody, decision::Decision};
use crate::{
    engine::transition::{Event, Refusal, transition},
    job::{Job, JobId, Output, StateName},
    store::sets::OutcomeRow,
};

impl Decision<'_> {
    /// Applies an attempt's report if its lease is still the job's.
    pub(super) fn report(&mut self, report: &Report) -> Result<(), Refusal> {
        let Report { id, lease, body, .. } = report;
        let lease = *lease;
        let Some(job) = self.job(*id) else {
            return Err(Refusal::LeaseLost(StateName::Cancelled));
        };
        let event = match body {
            ReportBody::Progress(progress) => Event::Progress { lease, progress: Arc::clone(progress) },
            ReportBody::Succeeded { output, .. } => Event::Succeed { lease, result: output.summary() },
            ReportBody::Failed { failure, delay, .. } => {
                Event::Fail { lease, failure: Arc::clone(failure), delay: *delay }
            }
            ReportBody::Released { delay } => {
                Event::Release { lease, delay: *delay, order: self.engine.leases.order(*id) }
            }
        };
        let changed = transition(&job, &event, self.moment(&job))?;
        self.keep_outcome(&job, body);
        self.change(&job, changed);
        Ok(())
    }

    fn keep_outcome(&mut self, job: &Job, body: &ReportBody) {
        match body {
            ReportBody::Succeeded { output, tail } => {
                self.put_outcome(job, Some(output).filter(|output| !output.is_empty()), tail);
            }
            ReportBody::Failed { tail, .. } => self.put_outcome(job, None, tail),
            ReportBody::Progress(_) | ReportBody::Released { .. } => {}
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
