//! What the ledger knows of remote workers: their processes, sessions and credits, and the ends that they reported.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use jobmill::{
    engine::{ControlRefusal, LeaseFate, PoolId, Registered, SessionId, WorkerHello},
    job::{JobId, LeaseToken},
};

use super::ledger::{Causes, Ledger, Violation, promise};
use crate::store::batch::{Applied, ControlDone};

/// Number of starts in a row that keep a worker's leases without a hello.
const STARTS_MAX: u32 = 3;
/// The number of a worker whose own number is another one's now.
const FORGOTTEN: u32 = 0;

/// Everything that is known of workers.
#[derive(Default)]
pub(crate) struct Workers {
    instances: BTreeMap<String, Instance>,
    /// The open sessions.
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    /// The workers of all leases that ever existed; absent where the server ran the attempt.
    pub(crate) owners: HashMap<LeaseToken, Option<u32>>,
    /// The ends that workers have reported.
    pub(super) finals: HashMap<LeaseToken, Final>,
    /// The latest checkpoint of each job; absent once it was dropped.
    pub(super) checkpoints: BTreeMap<JobId, Option<i64>>,
    /// Number of the repeats that were answered as the first report.
    pub(crate) repeats: usize,
}

/// A name of workers, of which one process at a time is alive.
#[derive(Default)]
struct Instance {
    process: String,
    number: u32,
    /// The processes that were replaced.
    earlier: Vec<String>,
    /// Those of them that the store may have forgotten.
    uncertain: Vec<String>,
    /// Starts of the server since the last hello, while it held leases. A start counts with the first review after it.
    starts: u32,
    /// Whether the latest start does not count yet.
    may_count: bool,
    /// Whether the store may have forgotten the process, because it held nothing when workers were reviewed.
    may_be_forgotten: bool,
}

/// An open session.
pub(crate) struct Session {
    worker: u32,
    pub(crate) pools: Vec<Pool>,
}

/// A pool of a session.
pub(crate) struct Pool {
    pub(crate) kinds: BTreeSet<String>,
    /// Empty for all queues.
    pub(crate) queues: BTreeSet<String>,
    pub(crate) credits: u64,
}

/// The end of an attempt that its worker has reported.
#[derive(Clone, Debug)]
pub(super) struct Final {
    pub(super) id: JobId,
    /// The instance and process that have reported it, which a number does not name for ever.
    pub(super) owner: Option<(String, String)>,
    /// Whether the attempt was released, which is not recorded beyond the job's next attempt.
    pub(super) released: bool,
}

impl Pool {
    fn covers(&self, queue: &str, kind: &str) -> bool {
        (self.queues.is_empty() || self.queues.contains(queue)) && self.kinds.contains(kind)
    }
}

impl Workers {
    /// Returns the present process of an instance.
    pub(crate) fn process(&self, instance: &str) -> Option<&str> {
        self.instances.get(instance).map(|instance| &*instance.process)
    }

    /// Returns the processes of an instance that were replaced.
    pub(crate) fn earlier(&self, instance: &str) -> &[String] {
        self.instances.get(instance).map_or(&[], |instance| &instance.earlier)
    }

    /// Returns the number of the present process of an instance.
    pub(crate) fn number(&self, instance: &str) -> Option<u32> {
        self.instances.get(instance).map(|instance| instance.number)
    }

    /// Returns the instance and present process with this number.
    pub(super) fn named(&self, number: u32) -> Option<(String, String)> {
        let (name, known) = self.instances.iter().find(|(_, known)| known.number == number)?;
        Some((name.clone(), known.process.clone()))
    }

    /// Returns whether the store knows the process with this number for certain.
    pub(super) fn is_known(&self, number: u32) -> bool {
        self.instances.values().any(|known| known.number == number && !known.may_be_forgotten)
    }

    /// Returns whether a worker is the present process of its instance.
    pub(crate) fn is_present(&self, number: u32) -> bool {
        self.instances.values().any(|instance| instance.number == number)
    }

    /// Records an open session, if its process is still the present one.
    pub(crate) fn open(&mut self, session: SessionId, worker: u32, pools: Vec<Pool>) {
        if self.is_present(worker) {
            self.sessions.insert(session, Session { worker, pools });
        }
    }

    /// Returns the sessions of a worker.
    pub(crate) fn sessions_of(&self, worker: u32) -> Vec<SessionId> {
        let sessions = self.sessions.iter().filter(|(_, session)| session.worker == worker);
        sessions.map(|(session, _)| *session).collect()
    }

    fn close_all_of(&mut self, worker: u32) {
        self.sessions.retain(|_, session| session.worker != worker);
    }

    fn pool_mut(&mut self, pool: PoolId) -> Option<&mut Pool> {
        self.sessions.get_mut(&pool.session)?.pools.get_mut(pool.index)
    }

    /// Returns the pools that take jobs of a kind from a queue, with their credits.
    pub(super) fn pools_for(&self, queue: &str, kind: &str) -> Vec<(PoolId, u64)> {
        let mut found = Vec::new();
        for (session, Session { pools, .. }) in &self.sessions {
            for (index, pool) in pools.iter().enumerate().filter(|(_, pool)| pool.covers(queue, kind)) {
                found.push((PoolId { session: *session, index }, pool.credits));
            }
        }
        found
    }

    /// Records the start of an attempt.
    pub(super) fn hear_attempt(&mut self, lease: LeaseToken, owner: Option<u32>) {
        self.owners.insert(lease, owner);
    }

    /// Records a review: the start counts for processes that have not come back, and those that hold nothing may be
    /// forgotten.
    pub(super) fn hear_review(&mut self, holders: &HashSet<u32>) {
        let connected: HashSet<u32> = self.sessions.values().map(|session| session.worker).collect();
        for instance in self.instances.values_mut() {
            let holds = holders.contains(&instance.number) || connected.contains(&instance.number);
            instance.may_be_forgotten |= !holds;
            if std::mem::take(&mut instance.may_count) && holders.contains(&instance.number) {
                instance.starts += 1;
            }
        }
    }

    /// Records a start of the server. Returns the workers that lose their leases.
    pub(super) fn hear_start(&mut self, holders: &HashSet<u32>) -> HashSet<u32> {
        self.sessions.clear();
        let mut lost = HashSet::new();
        for instance in self.instances.values_mut() {
            let holds = holders.contains(&instance.number);
            instance.may_count = holds && instance.starts < STARTS_MAX;
            if holds && !instance.may_count {
                lost.insert(instance.number);
            }
        }
        lost
    }
}

impl Ledger {
    /// Returns the workers that hold leases.
    pub(super) fn holders(&self) -> HashSet<u32> {
        self.jobs.values().filter_map(|job| job.worker).collect()
    }

    /// Takes in the answer to a hello, which comes before all reports of the batch.
    pub(super) fn hear_hello(
        &mut self,
        hello: &WorkerHello,
        answer: &Result<ControlDone, ControlRefusal>,
        causes: &mut Causes,
    ) -> Result<(), Violation> {
        let WorkerHello { instance: name, process, leases, .. } = hello;
        let known = self.workers.instances.get(name);
        let was_replaced = known.is_some_and(|known| known.earlier.contains(process));
        let is_uncertain = known.is_some_and(|known| known.uncertain.contains(process));
        let may_be_forgotten = known.is_some_and(|known| known.may_be_forgotten);
        let Registered { worker, leases: fates } = match answer {
            Ok(ControlDone::Registered(registered)) => registered,
            Err(ControlRefusal::WorkerSuperseded(_)) => {
                promise!(
                    was_replaced || is_uncertain,
                    "the process {process} of {name} was refused and was not replaced"
                );
                return Ok(());
            }
            other => return Err(format!("{hello:?} was answered {other:?}")),
        };
        promise!(!was_replaced || may_be_forgotten, "{process} of {name} was replaced and is back");
        let number = worker.number();
        for (other, one) in &mut self.workers.instances {
            if other != name && one.number == number {
                promise!(one.may_be_forgotten, "{name} got the number {number} of {other}");
                // A number is free again once its worker is forgotten.
                one.number = FORGOTTEN;
            }
        }
        match self.workers.instances.get_mut(name) {
            Some(known) if known.process == *process => {
                promise!(known.number == number || may_be_forgotten, "{process} of {name} got a new number");
                if may_be_forgotten {
                    known.uncertain.append(&mut known.earlier);
                }
                (known.number, known.starts) = (number, 0);
                (known.may_count, known.may_be_forgotten) = (false, false);
            }
            Some(known) => {
                let old = known.number;
                known.earlier.push(std::mem::replace(&mut known.process, process.clone()));
                if may_be_forgotten {
                    // The store may have forgotten the list of earlier processes, too.
                    known.uncertain.append(&mut known.earlier);
                } else {
                    causes.superseded.push(old);
                }
                known.uncertain.retain(|uncertain| uncertain != process);
                (known.number, known.starts) = (number, 0);
                (known.may_count, known.may_be_forgotten) = (false, false);
                causes.may_be_superseded.push(old);
                self.workers.close_all_of(old);
                let held = self.jobs.iter().filter(|(_, job)| job.worker == Some(old));
                causes.ended.extend(held.map(|(id, _)| *id));
            }
            None => {
                let known = Instance { process: process.clone(), number, ..Instance::default() };
                self.workers.instances.insert(name.clone(), known);
            }
        }
        let listed = leases.as_deref().unwrap_or_default();
        promise!(fates.len() == listed.len(), "{} leases have {} fates", listed.len(), fates.len());
        for ((id, lease), fate) in listed.iter().zip(fates) {
            let held = self.jobs.get(id).is_some_and(|job| {
                job.state.lease() == Some(*lease) && job.worker == Some(number) && !causes.ended.contains(id)
            });
            let said_by = Some((name.clone(), process.clone()));
            let ended =
                self.workers.finals.get(lease).is_some_and(|end| end.id == *id && end.owner == said_by);
            let is_right = match fate {
                LeaseFate::Held => held,
                LeaseFate::Reported => ended && self.jobs.contains_key(id),
                // The job may be gone.
                LeaseFate::Lost => !held && (!ended || !self.is_certain(*id, causes)),
            };
            promise!(is_right, "{lease:?} of {id} is {fate:?} for {name}; held {held}, ended {ended}");
        }
        if leases.is_some() {
            for (id, job) in self.jobs.iter().filter(|(_, job)| job.worker == Some(number)) {
                let is_listed = listed.iter().any(|(_, lease)| job.state.lease() == Some(*lease));
                if !is_listed && causes.ended.insert(*id) {
                    causes.released.insert(*id);
                }
            }
        }
        Ok(())
    }

    /// Returns whether a job is there for certain when a batch decides on reports.
    pub(super) fn is_certain(&self, id: JobId, causes: &Causes) -> bool {
        self.jobs.contains_key(&id) && !causes.may_be_gone.contains(&id)
    }

    /// Takes in the jobs that a batch assigned: to sessions that are open, and for credits that they have.
    pub(super) fn hear_assigned(&mut self, applied: &Applied) -> Result<(), Violation> {
        for assignment in &applied.assigned {
            let (id, pool) = (assignment.claim.job.id, assignment.pool);
            let Some(session) = self.workers.sessions.get(&pool.session) else {
                return Err(format!("{id} was assigned to a session that is over: {pool:?}"));
            };
            promise!(session.worker == assignment.worker, "{id} was assigned to the wrong worker");
            let job = &self.jobs[&id];
            promise!(job.worker == Some(assignment.worker), "{id} is run by {:?}", job.worker);
            let Some(pool) = self.workers.pool_mut(pool) else { return Err(format!("{pool:?} is no pool")) };
            promise!(pool.covers(&job.queue, &job.kind), "{id} is not for the pool {:?}", assignment.pool);
            promise!(pool.credits > 0, "{id} exceeds the credits of {:?}", assignment.pool);
            pool.credits -= 1;
        }
        Ok(())
    }

    /// Checks what workers are told of their leases.
    pub(super) fn check_told(&self, applied: &Applied, causes: &Causes) -> Result<(), Violation> {
        let sorted = |list: &[(u32, LeaseToken)]| {
            let mut list = list.to_vec();
            list.sort_unstable();
            list
        };
        let (told, expected) = (sorted(&applied.remote_ended), sorted(&causes.remote_ended));
        promise!(told == expected, "these leases are told to have ended: {told:?}; it is {expected:?}");
        let told = sorted(&applied.remote_cancelling);
        let expected = sorted(&causes.remote_cancelling);
        promise!(told == expected, "these leases are told to stop: {told:?}; it is {expected:?}");
        let told = &applied.superseded;
        let all = causes.superseded.iter().all(|number| told.contains(number));
        let none_else = told.iter().all(|number| causes.may_be_superseded.contains(number));
        promise!(all && none_else, "these are told to be replaced: {told:?}; it is {:?}", causes.superseded);
        for id in &causes.ended {
            let ended = |lease| causes.remote_ended.iter().all(|(_, ended)| *ended != lease);
            let lease = self.jobs.get(id).and_then(|job| job.state.lease());
            let is_new = lease.is_none_or(|lease| causes.started.contains(&(*id, lease)) && ended(lease));
            promise!(is_new, "the attempt of {id} was ended and runs on");
        }
        Ok(())
    }
}
