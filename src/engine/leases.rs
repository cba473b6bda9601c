//! The jobs that run: what reports are checked against, and the places in line that released ones get back.

use std::{collections::HashMap, sync::Arc};

use crate::job::{Job, JobId, Position, State};

/// A job that runs.
#[derive(Clone, Debug)]
struct Lease {
    job: Arc<Job>,
    /// The place in line that the job had when its attempt was claimed.
    order: Position,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Leases {
    kept: HashMap<JobId, Lease>,
    /// What the batch changes, in order. `None` ends a lease.
    changes: Vec<(JobId, Option<Lease>)>,
}

impl Leases {
    /// Takes up the jobs that run at a start. Each was at the head of its line when it was claimed.
    pub(super) fn load(jobs: &[Arc<Job>]) -> Self {
        let lease = |job: &Arc<Job>| (job.id, Lease { job: Arc::clone(job), order: Position::default() });
        Leases { kept: jobs.iter().map(lease).collect(), changes: Vec::new() }
    }

    /// The running job with this id, as it was when the batch began.
    pub(super) fn get(&self, id: JobId) -> Option<&Arc<Job>> {
        self.kept.get(&id).map(|lease| &lease.job)
    }

    /// The jobs that ran when the batch began, by id.
    pub(super) fn all(&self) -> Vec<Arc<Job>> {
        let mut jobs: Vec<_> = self.kept.values().map(|lease| Arc::clone(&lease.job)).collect();
        jobs.sort_by_key(|job| job.id);
        jobs
    }

    /// The place in line that a running job had when its attempt was claimed.
    pub(super) fn order(&self, id: JobId) -> Position {
        self.kept.get(&id).map_or(Position::default(), |lease| lease.order)
    }

    /// A job has changed.
    pub(super) fn changed(&mut self, before: Option<&Job>, job: &Arc<Job>) {
        let ran = before.is_some_and(|before| before.state.lease().is_some());
        match (ran, job.state.lease()) {
            (_, Some(_)) => {
                let order = match before.map(|before| before.state) {
                    Some(State::Queued { order }) => order,
                    Some(State::Running { .. } | State::Cancelling { .. }) => self.order(job.id),
                    // It never stood in line: the place is the one that it would have taken.
                    Some(_) | None => job.position,
                };
                self.changes.push((job.id, Some(Lease { job: Arc::clone(job), order })));
            }
            (true, None) => self.changes.push((job.id, None)),
            (false, None) => {}
        }
    }

    /// A running job's row was set aside.
    pub(super) fn lost(&mut self, id: JobId) {
        self.changes.push((id, None));
    }

    /// The batch is on disk.
    pub(super) fn commit(&mut self) {
        for (id, lease) in self.changes.drain(..) {
            match lease {
                Some(lease) => {
                    self.kept.insert(id, lease);
                }
                None => {
                    self.kept.remove(&id);
                }
            }
        }
    }

    /// The batch came to nothing.
    pub(super) fn discard(&mut self) {
        self.changes.clear();
    }
}
