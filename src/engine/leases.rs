//! Running jobs: the leases that reports are checked against, and the order keys that released jobs get back.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

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
    /// Number of the jobs that remote workers run, by queue.
    remote: HashMap<u32, i64>,
    /// The jobs that remote workers run, by the number of the worker.
    by_worker: HashMap<u32, BTreeSet<JobId>>,
    /// The batch's changes, in order. `None` ends a lease.
    changes: Vec<(JobId, Option<Lease>)>,
    /// The differences that the batch makes to `remote`.
    remote_by: HashMap<u32, i64>,
}

impl Leases {
    /// Loads the jobs that ran before a start. Each was at the head of its lane when it was claimed.
    pub(super) fn load(jobs: &[Arc<Job>]) -> Self {
        let mut leases = Leases::default();
        for job in jobs {
            leases.changes.push((job.id, Some(Lease { job: Arc::clone(job), order: Position::default() })));
            if job.remote.worker().is_some() {
                *leases.remote_by.entry(job.spec.queue.number).or_default() += 1;
            }
        }
        leases.commit();
        leases
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

    /// Returns the jobs that a remote worker ran when the batch began, by id.
    pub(super) fn of_worker(&self, worker: u32) -> Vec<Arc<Job>> {
        let ids = self.by_worker.get(&worker).into_iter().flatten();
        ids.filter_map(|id| self.get(*id).cloned()).collect()
    }

    /// Returns whether a remote worker runs any job.
    pub(super) fn has_any(&self, worker: u32) -> bool {
        self.by_worker.contains_key(&worker)
    }

    /// Returns the number of a queue's jobs that remote workers run.
    pub(super) fn remote(&self, queue: u32) -> i64 {
        let of = |counts: &HashMap<u32, i64>| counts.get(&queue).copied().unwrap_or_default();
        of(&self.remote) + of(&self.remote_by)
    }

    /// Returns a running job's order key in its lane when its attempt was claimed.
    pub(super) fn order(&self, id: JobId) -> Position {
        self.kept.get(&id).map_or(Position::default(), |lease| lease.order)
    }

    /// Records the start, renewal or end of a lease by a job's change.
    pub(super) fn changed(&mut self, before: Option<&Job>, job: &Arc<Job>) {
        let ran = before.is_some_and(|before| before.state.lease().is_some());
        let ran_remotely = before.is_some_and(|before| before.remote.worker().is_some());
        let by = i64::from(job.remote.worker().is_some()) - i64::from(ran_remotely);
        if by != 0 {
            *self.remote_by.entry(job.spec.queue.number).or_default() += by;
        }
        match (ran, job.state.lease()) {
            (_, Some(_)) => {
                let order = match before.map(|before| before.state) {
                    Some(State::Queued { order, .. }) => order,
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
        if let Some(job) = self.get(id)
            && job.remote.worker().is_some()
        {
            let queue = job.spec.queue.number;
            *self.remote_by.entry(queue).or_default() -= 1;
        }
        self.changes.push((id, None));
    }

    /// Takes over the changes of the batch, which is on disk.
    pub(super) fn commit(&mut self) {
        for (id, lease) in self.changes.drain(..) {
            let worker = |lease: &Lease| lease.job.remote.worker().map(|worker| worker.number);
            let new = lease.as_ref().and_then(worker);
            let old = match lease {
                Some(lease) => self.kept.insert(id, lease),
                None => self.kept.remove(&id),
            };
            let old = old.as_ref().and_then(worker);
            if old == new {
                continue;
            }
            if let Some(old) = old
                && let Some(jobs) = self.by_worker.get_mut(&old)
            {
                jobs.remove(&id);
                if jobs.is_empty() {
                    self.by_worker.remove(&old);
                }
            }
            if let Some(new) = new {
                self.by_worker.entry(new).or_default().insert(id);
            }
        }
        for (queue, by) in self.remote_by.drain() {
            let count = self.remote.entry(queue).or_default();
            *count += by;
            if *count == 0 {
                self.remote.remove(&queue);
            }
        }
    }

    /// Drops the changes of the batch, which was not committed.
    pub(super) fn discard(&mut self) {
        self.changes.clear();
        self.remote_by.clear();
    }
}
