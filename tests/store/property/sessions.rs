//! The workers of a running program: what they say, the sessions that they open, and their credits.

use std::collections::BTreeSet;

use jobmill::{
    engine::{DemandBoard, NewPool, PoolId, QueueScope, SessionId, WorkerHello},
    job::{JobId, LeaseToken},
};

use super::{
    batch::{Gathered, Told},
    ledger::{Violation, promise},
    machine::Machine,
    program::{AttemptReport, HelloPlan, INSTANCES, KINDS, ListPlan, PoolPlan, ProcessPlan, QUEUES, Teller},
    workers::Pool,
};
use crate::store::batch::{Applied, Control, ControlDone};

/// Room of a session in which all payloads of a program fit.
const ROOM_BYTES: u64 = 1 << 40;

impl Machine {
    /// Adds a report to the next batch.
    pub(super) fn report(
        &mut self,
        id: JobId,
        lease: LeaseToken,
        told: AttemptReport,
        by: Teller,
        checkpoint: Option<i64>,
    ) {
        let workers = &self.ledger.workers;
        let worker = match by {
            Teller::Owner => workers.owners.get(&lease).copied().flatten(),
            Teller::Server => None,
            Teller::Worker(instance) => Some(workers.number(INSTANCES[instance]).unwrap_or(99)),
        };
        match worker {
            Some(worker) => {
                self.gathered.worker_reports.push(Told { worker, id, lease, told, checkpoint });
            }
            None => self.gathered.reports.push((id, lease, told, checkpoint)),
        }
    }

    /// Adds a worker's introduction to the next batch. The same process closes its earlier session first.
    pub(super) fn hello(&mut self, plan: &HelloPlan) {
        let instance = INSTANCES[plan.instance];
        let workers = &self.ledger.workers;
        let present = workers.process(instance).map(str::to_owned);
        let earlier = workers.earlier(instance);
        let process = match (plan.process, present) {
            (ProcessPlan::Same, Some(present)) => {
                let sessions = workers.number(instance).map(|number| workers.sessions_of(number));
                for session in sessions.unwrap_or_default() {
                    self.close(session);
                }
                present
            }
            (ProcessPlan::Earlier(pick), Some(_)) if !earlier.is_empty() => {
                earlier[pick % earlier.len()].clone()
            }
            (ProcessPlan::Same | ProcessPlan::New | ProcessPlan::Earlier(_), _) => {
                self.processes += 1;
                format!("process {}", self.processes)
            }
        };
        let hello = WorkerHello {
            subject: String::new(),
            instance: instance.to_owned(),
            process: process.clone(),
            kinds: KINDS.map(str::to_owned).into(),
            leases: self.listed(instance, plan.lists),
        };
        self.openings.insert((instance.to_owned(), process), plan.pools.clone());
        self.gathered.controls.push(Control::RegisterWorker(hello));
    }

    fn listed(&self, instance: &str, lists: ListPlan) -> Option<Vec<(JobId, LeaseToken)>> {
        let ListPlan::Held { without, others } = lists else { return None };
        let number = self.ledger.workers.number(instance);
        let held = self
            .ledger
            .running()
            .into_iter()
            .filter(|(id, _)| number.is_some() && self.ledger.jobs[id].worker == number);
        let listed = held.enumerate().filter(|(index, _)| without >> (index % 64) & 1 == 0);
        let others = self.ledger.leases.iter().rev().take(others).copied();
        Some(listed.map(|(_, lease)| lease).chain(others).collect())
    }

    /// Opens the sessions of the workers that a batch has registered, and closes those of replaced ones.
    pub(super) fn connect(&mut self, gathered: &Gathered, applied: &Applied) -> Result<(), Violation> {
        for (control, done) in gathered.controls.iter().zip(&applied.controls) {
            let (Control::RegisterWorker(hello), Ok(ControlDone::Registered(registered))) = (control, done)
            else {
                continue;
            };
            self.done.hellos += 1;
            let key = (hello.instance.clone(), hello.process.clone());
            let pools = self.openings.get(&key).cloned().unwrap_or_default();
            let new: Vec<NewPool> = pools.iter().map(new_pool).collect();
            let open = |board: &DemandBoard| {
                let session = board.open(registered.worker.clone(), new.clone(), ROOM_BYTES);
                for (index, pool) in pools.iter().enumerate() {
                    board.credit(PoolId { session, index }, pool.credits);
                }
                session
            };
            let sessions: Vec<_> = self.subjects.iter().map(|subject| open(subject.board())).collect();
            promise!(sessions.iter().all(|session| *session == sessions[0]), "sessions have other numbers");
            let pools = new.into_iter().zip(pools).map(|(new, plan)| Pool {
                kinds: new.kinds.into_iter().collect(),
                queues: new.scope.names.iter().map(|name| name.to_string()).collect(),
                credits: u64::from(plan.credits),
            });
            self.ledger.workers.open(sessions[0], registered.worker.number(), pools.collect());
        }
        Ok(())
    }

    /// Gives credits to a pool of one of the open sessions.
    pub(super) fn credit(&mut self, pick: usize, index: usize, count: u32) {
        let Some(session) = self.picked(pick) else { return };
        for subject in &self.subjects {
            subject.board().credit(PoolId { session, index }, count);
        }
        let pools = self.ledger.workers.sessions.get_mut(&session).map(|session| &mut session.pools);
        if let Some(pool) = pools.and_then(|pools| pools.get_mut(index)) {
            pool.credits += u64::from(count);
        }
    }

    /// Ends one of the open sessions, or takes its credits back.
    pub(super) fn leave(&mut self, pick: usize, closes: bool) {
        let Some(session) = self.picked(pick) else { return };
        if closes {
            self.close(session);
            return;
        }
        for subject in &self.subjects {
            subject.board().void(session);
        }
        if let Some(session) = self.ledger.workers.sessions.get_mut(&session) {
            session.pools.iter_mut().for_each(|pool| pool.credits = 0);
        }
    }

    fn close(&mut self, session: SessionId) {
        for subject in &self.subjects {
            subject.board().close(session);
        }
        self.ledger.workers.sessions.remove(&session);
    }

    fn picked(&self, pick: usize) -> Option<SessionId> {
        let sessions = &self.ledger.workers.sessions;
        sessions.keys().nth(pick % sessions.len().max(1)).copied()
    }
}

fn new_pool(plan: &PoolPlan) -> NewPool {
    let chosen = |names: [&'static str; 3], bits: u8| {
        names.into_iter().enumerate().filter(move |(index, _)| bits >> index & 1 == 1).map(|(_, name)| name)
    };
    let names: BTreeSet<Box<str>> = chosen(QUEUES, plan.queues).map(Into::into).collect();
    let kinds = chosen(KINDS, plan.kinds).map(str::to_owned).collect();
    NewPool { kinds, scope: QueueScope { names, permitted: None } }
}
