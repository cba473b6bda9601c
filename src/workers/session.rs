//! A session of a remote worker: its stream, or one call of LeaseJobs.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    core::Workers,
    entry::{Introduction, PoolInfo, WorkerEntry},
    outbox::{Outbox, WorkerEvent},
    reports::{Notice, WorkerReport},
};
use crate::{
    engine::{LeaseFate, NewPool, PoolId, QueueScope, Registered, SessionId},
    job::{Job, JobId, LeaseToken, StoredCheckpoint},
    settings::QueuePattern,
};

/// Limit of the bytes that are assigned to a session and not received; the last job may exceed it.
const ROOM_BYTES: u64 = 4 << 20;
/// Limit of a pool's unused credits.
pub(crate) const CREDITS_MAX: i64 = 10_000;
/// Number of a worker's named calls of LeaseJobs that are remembered.
const CALLS_MAX: usize = 64;

/// An open session. When it is dropped, jobs that it has not received go back to their queues.
pub(crate) struct WorkerSession {
    workers: Workers,
    pub(crate) entry: Arc<WorkerEntry>,
    id: SessionId,
    pub(crate) outbox: Arc<Outbox>,
    pools: Vec<PoolInfo>,
    /// Whether jobs that were not received go back when the session is dropped.
    gives_up: bool,
}

/// What is said of a lease in the welcome.
pub(crate) type Welcome = (JobId, LeaseToken, Notice);

impl Workers {
    /// Opens the stream of a registered worker. `leases` are those of its hello.
    pub(crate) fn open_stream(
        &self,
        registered: &Registered,
        leases: &[(JobId, LeaseToken)],
        about: Introduction,
        permitted: Option<&Arc<[QueuePattern]>>,
    ) -> (WorkerSession, Vec<Welcome>) {
        let session = self.open(registered, about.pools.clone(), permitted);
        self.roster.open_stream(session.id, &session.entry, &session.outbox, about);
        let now = self.roster.active.observe();
        let mut state = session.entry.state.lock();
        let said = leases.iter().zip(&registered.leases).map(|(&(id, lease), fate)| {
            let notice = match fate {
                LeaseFate::Held => match state.leases.get_mut(&lease) {
                    Some(held) => {
                        // The worker lists only what it has received.
                        held.is_received = true;
                        self.renewed(held, now)
                    }
                    None => Notice::Lost,
                },
                LeaseFate::Reported => Notice::Ended,
                LeaseFate::Lost => Notice::Lost,
            };
            (id, lease, notice)
        });
        let said = said.collect();
        if let Some(until) = state.drains_until {
            session.outbox.push(WorkerEvent::Drain(until.since(now)));
        }
        drop(state);
        (session, said)
    }

    /// Opens a session of a registered worker.
    pub(crate) fn open(
        &self,
        registered: &Registered,
        pools: Vec<PoolInfo>,
        permitted: Option<&Arc<[QueuePattern]>>,
    ) -> WorkerSession {
        let entry = self.roster.entry(&registered.worker);
        let new = |pool: &PoolInfo| NewPool {
            kinds: pool.kinds.clone(),
            scope: QueueScope {
                names: pool.queues.iter().map(|queue| Box::from(queue.as_str())).collect::<BTreeSet<_>>(),
                permitted: permitted.cloned(),
            },
        };
        let new_pools = pools.iter().map(new).collect();
        let outbox = Arc::<Outbox>::default();
        let id = self.roster.board.open(Arc::clone(&registered.worker), new_pools, ROOM_BYTES);
        self.roster.open(id, &entry, &outbox);
        WorkerSession { workers: self.clone(), entry, id, outbox, pools, gives_up: true }
    }

    /// Returns whether a worker was asked to end.
    pub(crate) fn is_draining(&self, entry: &WorkerEntry) -> bool {
        entry.state.lock().is_draining
    }

    /// Notes a call of LeaseJobs, after which the worker counts as connected for a lease's time.
    pub(crate) fn note_call(&self, entry: &WorkerEntry, pool: &PoolInfo) {
        let now = self.roster.active.observe();
        let mut state = entry.state.lock();
        state.last_call = Some(now);
        if state.stream.is_none() {
            state.about.pools = vec![pool.clone()];
        }
    }

    /// Remembers the leases that a named call of LeaseJobs has returned.
    pub(crate) fn remember_call(&self, entry: &WorkerEntry, name: &str, leases: Vec<LeaseToken>) {
        if name.is_empty() || leases.is_empty() {
            return;
        }
        let mut state = entry.state.lock();
        if state.calls.len() >= CALLS_MAX {
            state.calls.pop_front();
        }
        state.calls.push_back((name.to_owned(), leases));
    }

    /// Returns the leases that a named call of LeaseJobs has returned and that are not received yet.
    pub(crate) fn remembered_call(&self, entry: &WorkerEntry, name: &str) -> Vec<(LeaseToken, Arc<Job>)> {
        let state = entry.state.lock();
        let leases = state.calls.iter().rev().find(|(call, _)| call == name).map(|(_, leases)| leases);
        let unreceived = |lease: &LeaseToken| {
            let held = state.leases.get(lease).filter(|held| !held.is_received)?;
            Some((*lease, Arc::clone(&held.job)))
        };
        leases.into_iter().flatten().filter_map(unreceived).collect()
    }

    /// Returns the checkpoint that a job's earlier attempts have left.
    pub(crate) async fn checkpoint(
        &self,
        job: &Job,
    ) -> Result<Option<StoredCheckpoint>, crate::store::StoreError> {
        // A first attempt has none. An attempt that was lost uncounted leaves none either.
        if job.attempt <= 1 {
            return Ok(None);
        }
        let id = job.id;
        self.shard.reads.read(move |reader| reader.checkpoint(id)).await
    }
}

impl WorkerSession {
    /// Returns the index of the pool with this name.
    pub(crate) fn pool(&self, name: &str) -> Option<usize> {
        self.pools.iter().position(|pool| pool.name == name)
    }

    /// Returns the name of a pool.
    pub(crate) fn pool_name(&self, index: usize) -> &str {
        self.pools.get(index).map_or("", |pool| &pool.name)
    }

    /// Grants credits of a pool. Returns the number of its credits if these would exceed the limit.
    pub(crate) fn credit(&self, index: usize, count: u32) -> Result<(), i64> {
        let mut state = self.entry.state.lock();
        if state.is_draining {
            return Ok(());
        }
        if let Some(stream) = state.stream.as_mut().filter(|stream| stream.session == self.id)
            && let Some(credits) = stream.credits.get_mut(index)
        {
            if *credits + i64::from(count) > CREDITS_MAX {
                return Err(*credits);
            }
            *credits += i64::from(count);
        }
        drop(state);
        self.workers.roster.board.credit(PoolId { session: self.id, index }, count);
        Ok(())
    }

    /// Takes all credits back: the worker takes no more jobs.
    pub(crate) fn void(&self) {
        self.workers.roster.board.void(self.id);
    }

    /// Notes that the worker finishes what it runs and takes no more jobs.
    pub(crate) fn drain(&self) {
        self.entry.state.lock().is_draining = true;
        self.void();
    }

    /// Keeps the jobs assigned when the session is dropped: the worker has time to receive them.
    pub(crate) fn keep_assigned(mut self) {
        self.gives_up = false;
    }

    /// Takes a report; see [`Workers::report`].
    pub(crate) async fn report(&self, lease: (JobId, LeaseToken), report: WorkerReport) -> Option<Notice> {
        self.workers.report(&self.entry, lease, report, &self.outbox).await
    }

    /// Takes all events.
    pub(crate) fn events(&self) -> Vec<WorkerEvent> {
        self.outbox.take()
    }

    /// Returns once there may be events.
    pub(crate) async fn told(&self) {
        self.outbox.told().await;
    }
}

impl Drop for WorkerSession {
    fn drop(&mut self) {
        self.workers.roster.close(self.id, &self.entry, self.gives_up);
    }
}
