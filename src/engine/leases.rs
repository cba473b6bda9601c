//! Running jobs: the leases that reports are checked against, and the order keys that released jobs get back.

use std::{collections::HashMap, sync::Arc};

use crate::job::{Job, JobId, Position, State};

/// A running job.
#[derive(Clone, Debug)]
struct Lease {
    job: Arc<Job>,
    /// The job's order key in its lane when its attempt was claimed.
    order: Position,
}

/// All running jobs.
#[derive(Debug, Default)]
pub(super) struct Leases {
    kept: HashMap<JobId, Lease>,
    /// The batch's changes, in order. `None` ends a lease.
    changes: Vec<(JobId, Option<Lease>)>,
}

impl Leases {
    /// Loads the jobs that ran before a start. Each was at the head of its lane when it was claimed.
    pub(super) fn load(jobs: &[Arc<Job>]) -> Self {
        let lease = |job: &Arc<Job>| (job.id, Lease { job: Arc::clone(job), order: Position::default() });
        Leases { kept: jobs.iter().map(lease).collect(), changes: Vec::new() }
    }

    /// Returns the running job with this id, as it was when the batch began.
    pub(super) fn get(&self, id: JobId) -> Option<&Arc<Job>> {
        self.kept.get(&id).map(|lease| &lease.job)
    }

    /// Returns the jobs that ran when the batch began, by id.
    pub(super) fn all(&self) -> Vec<Arc<Job>> {
        let mut jobs: Vec<_> = self.kept.values().map(|lease| Arc::clone(&lease.job)).collect();
        jobs.sort_by_key(|job| job.id);
        jobs
    }

    /// Returns a running job's order key in its lane when its attempt was claimed.
    pub(super) fn order(&self, id: JobId) -> Position {
        self.kept.get(&id).map_or(Position::default(), |lease| lease.order)
    }

    /// Records the start, renewal or end of a lease by a job's change.
    pub(super) fn changed(&mut self, before: Option<&Job>, job: &Arc<Job>) {
        let ran = before.is_some_and(|before| before.state.lease().is_some());
        match (ran, job.state.lease()) {
            (_, Some(_)) => {
                let order = match before.map(|before| before.state) {
                    Some(State::Queued { order }) => order,
                    Some(State::Running { .. } | State::Cancelling { .. }) => self.order(job.id),
                    // The job was never QUEUED: it gets the order key that it would have had.
                    Some(_) | None => job.position,
                };
                self.changes.push((job.id, Some(Lease { job: Arc::clone(job), order })));
            }
            (true, None) => self.changes.push((job.id, None)),
            (false, None) => {}
        }
    }

    /// Ends the lease of a job whose row was set aside.
    pub(super) fn lost(&mut self, id: JobId) {
        self.changes.push((id, None));
    }

    /// Takes over the changes of the batch, which is on disk.
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

    /// Drops the changes of the batch, which was not committed.
    pub(super) fn discard(&mut self) {
        self.changes.clear();
    }
}
