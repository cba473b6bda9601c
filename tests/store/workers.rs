//! Remote workers of a rig.

use std::{collections::BTreeSet, sync::Arc};

use jobmill::{
    engine::{
        ControlRefusal, LeaseFate, NewPool, PoolId, QueueScope, Registered, ReportAnswer, ReportBody,
        SessionId, WorkerHello, transition::Refusal,
    },
    job::{AttemptRecord, Checkpoint, Job, JobId, LeaseToken, Output, StateName, WorkerProcess},
};

use super::{
    batch::{Applied, Batch, Control, ControlDone, WorkerReport},
    rig::{Rig, lease},
};

/// Room of a session in which every payload of the tests fits.
const ROOM_BYTES: u64 = 1 << 20;

/// A registered worker with an open session.
#[derive(Clone, Debug)]
pub(crate) struct Connected {
    pub(crate) process: Arc<WorkerProcess>,
    pub(crate) session: SessionId,
}

impl Connected {
    pub(crate) fn number(&self) -> u32 {
        self.process.number()
    }

    pub(crate) fn pool(&self, index: usize) -> PoolId {
        PoolId { session: self.session, index }
    }
}

impl Rig {
    /// Registers a worker in a batch that claims nothing.
    pub(crate) fn register(&mut self, hello: WorkerHello) -> Result<Registered, ControlRefusal> {
        let batch = Batch { controls: vec![Control::RegisterWorker(hello)], ..Batch::default() };
        match self.apply(batch).controls.pop().unwrap()? {
            ControlDone::Registered(registered) => Ok(registered),
            other => panic!("no registration: {other:?}"),
        }
    }

    /// Opens a session with these pools.
    pub(crate) fn open(&mut self, process: &Arc<WorkerProcess>, pools: Vec<NewPool>, room: u64) -> Connected {
        let session = self.board().open(Arc::clone(process), pools, room);
        Connected { process: Arc::clone(process), session }
    }

    /// Registers the process `1` of an instance, and opens a session with one pool for these kinds in all queues.
    pub(crate) fn worker(&mut self, instance: &str, kinds: &[&str]) -> Connected {
        let registered = self.register(hello(instance, "1", kinds)).unwrap();
        self.open(&registered.worker, vec![pool(kinds, &[])], ROOM_BYTES)
    }

    /// Registers a worker that serves these kinds, and gives it credits.
    pub(crate) fn worker_with(&mut self, instance: &str, kinds: &[&str], credits: u32) -> Connected {
        let worker = self.worker(instance, kinds);
        self.credit(worker.pool(0), credits);
        worker
    }

    pub(crate) fn credit(&mut self, pool: PoolId, count: u32) {
        *self.credits.entry(pool).or_default() += u64::from(count);
        self.board().credit(pool, count);
    }

    pub(crate) fn void(&mut self, session: SessionId) {
        self.credits.retain(|pool, _| pool.session != session);
        self.board().void(session);
    }

    pub(crate) fn close(&mut self, session: SessionId) {
        self.credits.retain(|pool, _| pool.session != session);
        self.board().close(session);
    }

    /// Refreshes what is known of workers.
    pub(crate) fn review(&mut self) -> Applied {
        self.apply(Batch { controls: vec![Control::ReviewWorkers], ..Batch::default() })
    }

    /// Applies reports of workers in a batch that claims nothing, and returns their answers.
    pub(crate) fn tell_all(&mut self, worker_reports: Vec<WorkerReport>) -> Vec<ReportAnswer> {
        let told: Vec<_> = worker_reports.iter().map(|report| (report.id, report.lease)).collect();
        let answers = self.apply(Batch { worker_reports, ..Batch::default() }).answers;
        let answered: Vec<_> = answers.iter().map(|answer| (answer.id, answer.lease)).collect();
        assert_eq!(answered, told, "each report has an answer");
        answers
    }

    /// Reports on a running job as a worker.
    pub(crate) fn tell(&mut self, worker: u32, job: &Job, body: ReportBody) -> Result<(), Refusal> {
        self.tell_all(vec![report(worker, job, body)]).pop().unwrap().result
    }

    /// Submits a job that a worker gets at once, and returns the running job.
    pub(crate) fn assigned(&mut self, worker: &Connected, job: jobmill::engine::NewJob) -> Job {
        self.credit(worker.pool(0), 1);
        let id = self.submit(job).id;
        let running = self.job(id);
        assert_eq!(running.remote.worker(), Some(&worker.process), "{running:?}");
        running
    }

    pub(crate) fn kinds_of_workers(&mut self) -> Vec<String> {
        self.subject_mut().kinds_of_workers().unwrap()
    }

    /// Returns the checkpoint of a job as its number and state.
    pub(crate) fn checkpoint(&self, id: JobId) -> Option<(i64, String)> {
        let kept = self.reader().checkpoint(id).unwrap()?;
        Some((kept.number, String::from_utf8(kept.state.bytes.to_vec()).unwrap()))
    }
}

/// Returns the name of the worker that ran an attempt.
pub(crate) fn worker_of(attempt: &AttemptRecord) -> Option<&str> {
    attempt.worker.as_ref().map(|worker| worker.instance())
}

/// Returns the introduction of a process, which does not say what it holds.
pub(crate) fn hello(instance: &str, process: &str, kinds: &[&str]) -> WorkerHello {
    WorkerHello {
        subject: "token".into(),
        instance: instance.into(),
        process: process.into(),
        kinds: kinds.iter().map(|kind| (*kind).to_owned()).collect(),
        leases: None,
    }
}

/// Returns the introduction of a process that lists what it holds.
pub(crate) fn hello_with(instance: &str, process: &str, jobs: &[&Job]) -> WorkerHello {
    let leases = jobs.iter().map(|job| (job.id, lease(job))).collect();
    WorkerHello { leases: Some(leases), ..hello(instance, process, &["far"]) }
}

/// Returns a pool for these kinds and queues; no queues are all queues.
pub(crate) fn pool(kinds: &[&str], queues: &[&str]) -> NewPool {
    let names: BTreeSet<Box<str>> = queues.iter().map(|queue| (*queue).into()).collect();
    let kinds = kinds.iter().map(|kind| (*kind).to_owned()).collect();
    NewPool { kinds, scope: QueueScope { names, permitted: None } }
}

/// Returns a worker's report on a running job.
pub(crate) fn report(worker: u32, job: &Job, body: ReportBody) -> WorkerReport {
    WorkerReport { worker, id: job.id, lease: lease(job), body, checkpoint: None }
}

/// Returns a checkpoint.
pub(crate) fn checkpoint(number: i64, state: &str) -> Option<Checkpoint> {
    Some(Checkpoint { number, state: Output { bytes: state.to_owned().into(), ..Output::default() } })
}

/// Returns the jobs that a batch assigned to remote workers, in its order.
pub(crate) fn assigned(applied: &Applied) -> Vec<JobId> {
    applied.assigned.iter().map(|assignment| assignment.claim.job.id).collect()
}

/// Returns the numbers of the workers that got jobs, in the batch's order.
pub(crate) fn takers(applied: &Applied) -> Vec<u32> {
    applied.assigned.iter().map(|assignment| assignment.worker).collect()
}

/// Returns the refusal of a report whose lease is over.
pub(crate) fn lost(state: StateName) -> Result<(), Refusal> {
    Err(Refusal::LeaseLost(state))
}

pub(crate) fn released() -> ReportBody {
    ReportBody::Released { delay: None }
}

/// Returns the fates of the leases of a registration.
pub(crate) fn fates(registered: Result<Registered, ControlRefusal>) -> Vec<LeaseFate> {
    registered.unwrap().leases
}

/// Returns the lease of a job that ran, as a lister of leases names it.
pub(crate) fn named(job: &Job) -> (JobId, LeaseToken) {
    (job.id, lease(job))
}
