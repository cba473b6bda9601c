//! Jobs that ran as code of the server's own process when that crashed, any of which may have caused it. The server runs
//! one of them at a time, so that the next crash names its cause.

use std::collections::HashSet;

use crate::job::{Job, JobId};

/// The suspects, and which of them runs here.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    kept: HashSet<JobId>,
    running: Option<JobId>,
    /// Changes of the batch: the jobs that become suspects, or no longer are.
    changes: Vec<(JobId, bool)>,
    /// The suspect that runs once the batch is committed, if the batch changes that.
    runs_next: Option<Option<JobId>>,
    /// The suspect that the claim step of the batch has chosen.
    chosen: Option<JobId>,
}

impl Suspects {
    pub(super) fn load(kept: &[JobId]) -> Self {
        Suspects { kept: kept.iter().copied().collect(), ..Suspects::default() }
    }

    /// Returns whether there were no suspects when the batch began.
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Returns whether a job is a suspect, and the batch has not ended that.
    pub(super) fn has(&self, id: JobId) -> bool {
        self.kept.contains(&id) && !self.changes.contains(&(id, false))
    }

    /// Makes a job a suspect.
    pub(super) fn add(&mut self, id: JobId) {
        self.changes.push((id, true));
    }

    /// Returns whether the claim step may start a job in this server. Of the suspects it starts one, if none runs.
    pub(super) fn may_start(&mut self, id: JobId) -> bool {
        if self.is_empty() || !self.has(id) {
            return true;
        }
        if self.runs_next.unwrap_or(self.running).is_some() || self.chosen.is_some() {
            return false;
        }
        self.chosen = Some(id);
        true
    }

    /// Records a change of a job. A suspect stops being one once an attempt that had started has ended, or the job has.
    pub(super) fn changed(&mut self, before: Option<&Job>, job: &Job) {
        if self.is_empty() || !self.has(job.id) {
            return;
        }
        let ran = before.is_some_and(|before| before.state.lease().is_some());
        let runs = job.state.lease().is_some();
        if runs && job.remote.worker().is_none() {
            self.runs_next = Some(Some(job.id));
        } else if job.state.is_done() || (ran && !runs && job.started.is_some()) {
            self.clear(job.id);
        } else if ran && !runs {
            self.runs_no_longer(job.id);
        }
    }

    /// Records the deletion of a job, or the removal of its unreadable row.
    pub(super) fn deleted(&mut self, id: JobId) {
        if self.has(id) {
            self.clear(id);
        }
    }

    fn clear(&mut self, id: JobId) {
        self.changes.push((id, false));
        self.runs_no_longer(id);
    }

    fn runs_no_longer(&mut self, id: JobId) {
        if self.runs_next.unwrap_or(self.running) == Some(id) {
            self.runs_next = Some(None);
        }
    }

    /// Returns the rows to write: suspects that are new, and those that no longer are.
    pub(super) fn rows(&self) -> Vec<(JobId, bool)> {
        self.changes.clone()
    }

    /// Takes over the changes of the batch, which is on disk.
    pub(super) fn commit(&mut self) {
        for (id, is_new) in self.changes.drain(..) {
            match is_new {
                true => self.kept.insert(id),
                false => self.kept.remove(&id),
            };
        }
        self.running = self.runs_next.take().unwrap_or(self.running);
        self.chosen = None;
    }

    /// Drops the changes of the batch, which was not committed.
    pub(super) fn discard(&mut self) {
        self.changes.clear();
        (self.runs_next, self.chosen) = (None, None);
    }
}
