//! A worker's entry in the roster: its session, and the leases that it holds.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;

use super::{clock::ActiveTime, outbox::Outbox, stop::StopCause};
use crate::{
    clock::Timestamp,
    engine::SessionId,
    job::{Checkpoint, Job, JobId, LeaseToken, OutputTail, Progress, WorkerProcess},
};

/// A worker's description of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Introduction {
    /// Name and version of its library.
    pub(crate) client_version: String,
    /// Names and values by which operators select workers.
    pub(crate) labels: BTreeMap<String, String>,
    /// The peer's address.
    pub(crate) address: String,
    /// Its pools.
    pub(crate) pools: Vec<PoolInfo>,
}

/// A worker's description of a pool.
#[derive(Clone, Debug, Default)]
pub(crate) struct PoolInfo {
    pub(crate) name: String,
    pub(crate) kinds: Vec<String>,
    pub(crate) queues: Vec<String>,
}

/// A worker of which something is known.
#[derive(Debug)]
pub(crate) struct WorkerEntry {
    pub(crate) process: Arc<WorkerProcess>,
    pub(super) state: Mutex<EntryState>,
}

#[derive(Debug, Default)]
pub(super) struct EntryState {
    pub(super) leases: HashMap<LeaseToken, HeldLease>,
    /// The worker's stream, if one is open.
    pub(super) stream: Option<Stream>,
    pub(super) about: Introduction,
    /// Time at which the stream was opened or has ended.
    pub(super) since: Timestamp,
    /// The latest call of LeaseJobs.
    pub(super) last_call: Option<ActiveTime>,
    /// Whether the worker was asked to end, or has said that it ends.
    pub(super) is_draining: bool,
    /// The time by which it was asked to end.
    pub(super) drains_until: Option<ActiveTime>,
    /// Whether a newer process has taken over its instance.
    pub(super) is_superseded: bool,
    /// Whether it has registered since the start of the server, and does not only hold leases from before.
    pub(super) is_registered: bool,
    /// The latest named calls of LeaseJobs, and the leases of each.
    pub(super) calls: VecDeque<(String, Vec<LeaseToken>)>,
}

/// An open stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) session: SessionId,
    pub(super) outbox: Arc<Outbox>,
    /// Credits of each pool that are not used yet.
    pub(super) credits: Vec<i64>,
}

/// A lease that a worker holds.
#[derive(Debug)]
pub(super) struct HeldLease {
    pub(super) job: Arc<Job>,
    /// The session that got the job; absent if an earlier process of the server had assigned it.
    pub(super) session: Option<SessionId>,
    pub(super) assigned: Timestamp,
    pub(super) assigned_at: ActiveTime,
    /// Whether the worker may have started the attempt: its *received* was answered.
    pub(super) is_received: bool,
    /// Whether a final report is on its way to the disk. The lease does not end by time then.
    pub(super) is_reported: bool,
    /// Whether the server's own end of the lease is on its way to the disk.
    pub(super) is_ended: bool,
    pub(super) expires: ActiveTime,
    /// The time at which the attempt's timeout is over.
    pub(super) timeout: ActiveTime,
    pub(super) stop: Option<Stop>,
    /// What few attempts have.
    pub(super) rest: Option<Box<Rest>>,
}

/// A request to stop an attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stop {
    pub(super) cause: StopCause,
    /// The end of the grace, which begins when the worker is told.
    pub(super) until: Option<ActiveTime>,
}

/// Progress and output of an attempt.
#[derive(Debug, Default)]
pub(super) struct Rest {
    pub(super) tail: OutputTail,
    /// Progress that is not written yet.
    pub(super) progress: Option<Progress>,
    /// Time at which progress or a checkpoint was last written.
    pub(super) written: ActiveTime,
    /// Number of the latest checkpoint.
    pub(super) checkpoint_number: i64,
    /// The checkpoint that is written with the next heartbeat or at the attempt's end.
    pub(super) checkpoint: Option<Box<Checkpoint>>,
    /// The checkpoint on its way to the disk, which the attempt's end may overtake.
    pub(super) sent_checkpoint: Option<Box<Checkpoint>>,
}

impl EntryState {
    /// Returns a lease that the worker holds, if it is one of this job.
    pub(super) fn held(&mut self, id: JobId, lease: LeaseToken) -> Option<&mut HeldLease> {
        self.leases.get_mut(&lease).filter(|held| held.job.id == id)
    }

    /// Returns whether a stream is open, or LeaseJobs was called less than a lease's time ago.
    pub(super) fn is_here(&self, now: ActiveTime, lease: Duration) -> bool {
        self.stream.is_some() || self.last_call.is_some_and(|call| now.since(call) < lease)
    }
}

impl HeldLease {
    pub(super) fn rest(&mut self) -> &mut Rest {
        self.rest.get_or_insert_default()
    }

    /// Returns the end of the lease, if nothing is heard of it.
    pub(super) fn end(&self) -> ActiveTime {
        let stop = self.stop.and_then(|stop| stop.until).unwrap_or(ActiveTime::MAX);
        self.expires.min(stop)
    }

    /// Renews the lease, but not beyond the grace of a request to stop.
    pub(super) fn renew(&mut self, now: ActiveTime, lease: Duration) {
        self.expires = now.after(lease);
    }

    /// Returns the request to stop with the rest of its grace, which begins now if the worker was not told before.
    pub(super) fn tell_stop(&mut self, now: ActiveTime, grace: Duration) -> Option<(StopCause, Duration)> {
        let stop = self.stop.as_mut()?;
        let until = *stop.until.get_or_insert(now.after(grace));
        Some((stop.cause, until.since(now)))
    }
}

impl WorkerEntry {
    pub(super) fn new(process: Arc<WorkerProcess>) -> Self {
        WorkerEntry { process, state: Mutex::default() }
    }
}
