//! The roster of remote workers, which the committer keeps up to date.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use super::{
    clock::{ActiveClock, ActiveTime},
    entry::{HeldLease, Introduction, Stop, Stream, WorkerEntry},
    outbox::{Outbox, WorkerEvent},
    stop::StopCause,
};
use crate::{
    clock::{Clock, Timestamp},
    counters::WorkerCounters,
    engine::{Claim, DemandBoard, Grant, RemoteChanges, SessionId},
    job::{Job, JobId, LeaseToken, State, WorkerProcess},
    settings::WorkerSettings,
    shard::RemoteLeases,
};

/// Bounds of the interval at which leases are looked through.
const STEP: std::ops::RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(1);

/// The workers that are connected or hold leases.
pub(crate) struct Roster {
    pub(super) settings: WorkerSettings,
    pub(super) clock: Clock,
    pub(super) active: ActiveClock,
    pub(super) board: Arc<DemandBoard>,
    pub(super) counters: Arc<WorkerCounters>,
    workers: RwLock<HashMap<u32, Arc<WorkerEntry>>>,
    /// Open sessions, with the worker and the outbox of each.
    sessions: RwLock<HashMap<SessionId, (u32, Arc<Outbox>)>>,
    /// The lease of each job that a worker runs.
    leased: Mutex<HashMap<JobId, LeaseToken>>,
    /// Tracks the open streams.
    pub(super) streams: TaskTracker,
    /// Whether leases are not looked at, because there are none.
    pub(super) is_asleep: AtomicBool,
    /// Notified when a lease may end earlier than the next look.
    pub(super) hurry: Notify,
    /// Whether there were leases from before the start.
    pub(super) has_inherited: AtomicBool,
}

impl fmt::Debug for Roster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roster").field("workers", &self.workers.read().len()).finish_non_exhaustive()
    }
}

impl Roster {
    /// Creates an empty roster.
    pub(crate) fn new(settings: WorkerSettings, clock: Clock, counters: Arc<WorkerCounters>) -> Self {
        let shortest = settings.lease.min(settings.receive_within).min(settings.stop_grace);
        let step = (shortest / 8).clamp(*STEP.start(), *STEP.end());
        Roster {
            settings,
            active: ActiveClock::new(clock.clone(), step),
            clock,
            board: Arc::default(),
            counters,
            workers: RwLock::default(),
            sessions: RwLock::default(),
            leased: Mutex::default(),
            streams: TaskTracker::new(),
            is_asleep: AtomicBool::new(true),
            hurry: Notify::new(),
            has_inherited: AtomicBool::new(false),
        }
    }

    /// Returns the board for the demand of the workers.
    pub(crate) fn board(&self) -> &Arc<DemandBoard> {
        &self.board
    }

    pub(super) fn settings(&self) -> &WorkerSettings {
        &self.settings
    }

    /// Returns a token of an open stream, which the server's end waits for.
    pub(crate) fn stream_token(&self) -> TaskTrackerToken {
        self.streams.token()
    }

    /// Returns once all streams have ended.
    pub(crate) async fn streams_ended(&self) {
        self.streams.close();
        self.streams.wait().await;
    }

    /// Returns the entry of a worker.
    pub(super) fn find(&self, worker: u32) -> Option<Arc<WorkerEntry>> {
        self.workers.read().get(&worker).cloned()
    }

    /// Returns whether a newer process has taken over the instance of a worker.
    pub(crate) fn is_superseded(&self, entry: &WorkerEntry) -> bool {
        entry.state.lock().is_superseded
    }

    /// Returns whether a worker has registered since the start of the server.
    pub(crate) fn is_registered(&self, entry: &WorkerEntry) -> bool {
        entry.state.lock().is_registered
    }

    /// Returns all entries.
    pub(super) fn all(&self) -> Vec<Arc<WorkerEntry>> {
        self.workers.read().values().cloned().collect()
    }

    /// Returns the entry of a worker, and creates it if there is none.
    pub(crate) fn entry(&self, worker: &Arc<WorkerProcess>) -> Arc<WorkerEntry> {
        if let Some(entry) = self.find(worker.number) {
            return entry;
        }
        let mut workers = self.workers.write();
        let new = || Arc::new(WorkerEntry::new(Arc::clone(worker)));
        Arc::clone(workers.entry(worker.number).or_insert_with(new))
    }

    /// Returns the entry of a process by its names, if something is known of it.
    pub(crate) fn named(&self, subject: &str, instance: &str, process: &str) -> Option<Arc<WorkerEntry>> {
        let workers = self.workers.read();
        let is_same = |entry: &&Arc<WorkerEntry>| {
            let known = &entry.process.owner;
            *known.subject == *subject && *known.instance == *instance && *known.process == *process
        };
        workers.values().find(is_same).cloned()
    }

    /// Removes entries that nothing is known of any more.
    pub(super) fn tidy(&self) {
        let now = self.active.observe();
        self.workers.write().retain(|_, entry| {
            let state = entry.state.lock();
            state.is_here(now, self.settings.lease) || !state.leases.is_empty()
        });
    }

    /// Adds an open session.
    pub(super) fn open(&self, session: SessionId, entry: &WorkerEntry, outbox: &Arc<Outbox>) {
        self.sessions.write().insert(session, (entry.process.number, Arc::clone(outbox)));
    }

    /// Makes a session the worker's stream. An earlier stream of the process is told that it is replaced.
    pub(super) fn open_stream(
        &self,
        session: SessionId,
        entry: &WorkerEntry,
        outbox: &Arc<Outbox>,
        about: Introduction,
    ) {
        let credits = vec![0; about.pools.len()];
        let stream = Stream { session, outbox: Arc::clone(outbox), credits };
        let mut state = entry.state.lock();
        state.about = about;
        state.since = self.clock.now();
        if let Some(earlier) = state.stream.replace(stream) {
            earlier.outbox.push(WorkerEvent::Replaced);
        }
    }

    /// Removes a session. Jobs that were assigned to it and never received go back to their queues, unless they still
    /// have time.
    pub(super) fn close(&self, session: SessionId, entry: &WorkerEntry, gives_up: bool) {
        self.board.close(session);
        self.sessions.write().remove(&session);
        let mut state = entry.state.lock();
        if state.stream.as_ref().is_some_and(|stream| stream.session == session) {
            state.stream = None;
            state.since = self.clock.now();
        }
        if gives_up {
            for lease in state.leases.values_mut() {
                if lease.session == Some(session) && !lease.is_received {
                    lease.expires = ActiveTime::default();
                }
            }
        }
        drop(state);
        self.hurry.notify_one();
    }

    fn assign(&self, grant: &Grant, claim: Claim) {
        let Claim { job, lease, .. } = &claim;
        let (id, lease) = (job.id, *lease);
        let entry = self.entry(&grant.worker);
        let now = self.active.observe();
        let session = grant.pool.session;
        let outbox = self.sessions.read().get(&session).map(|(_, outbox)| Arc::clone(outbox));
        // Without a session the job goes back at once.
        let expires = match outbox {
            Some(_) => now.after(self.settings.receive_within),
            None => ActiveTime::default(),
        };
        let held = HeldLease {
            job: Arc::clone(job),
            session: Some(session),
            assigned: self.clock.now(),
            assigned_at: now,
            is_received: false,
            is_reported: false,
            is_ended: false,
            expires,
            timeout: ActiveTime::MAX,
            stop: None,
            rest: None,
        };
        if self.leased.lock().insert(id, lease).is_some() {
            self.counters.never.double_leases.inc();
            tracing::error!(job = %id, lease = lease.as_i64(), "a job was assigned while it was leased");
        }
        let mut state = entry.state.lock();
        if state.leases.insert(lease, held).is_some() {
            self.counters.never.overwritten_leases.inc();
            tracing::error!(job = %id, lease = lease.as_i64(), "a lease was written over a live one");
        }
        if let Some(stream) = state.stream.as_mut().filter(|stream| stream.session == session)
            && let Some(credits) = stream.credits.get_mut(grant.pool.index)
        {
            *credits -= 1;
            if *credits < 0 {
                self.counters.never.exceeded_credits.inc();
                tracing::error!(job = %id, worker = grant.worker.instance(), "more jobs than credits were assigned");
            }
        }
        drop(state);
        let hurries = outbox.is_none() || self.is_asleep.swap(false, Ordering::Relaxed);
        if let Some(outbox) = outbox {
            outbox.push(WorkerEvent::Assigned(grant.pool.index, Box::new(claim)));
        }
        if hurries {
            self.hurry.notify_one();
        }
    }

    fn cancel(&self, worker: u32, lease: LeaseToken) {
        let Some(entry) = self.find(worker) else { return };
        let mut state = entry.state.lock();
        let stream = state.stream.as_ref().map(|stream| Arc::clone(&stream.outbox));
        if let Some(held) = state.leases.get_mut(&lease) {
            self.stop(held, lease, StopCause::Cancelled, stream.as_deref());
            self.hurry.notify_one();
        }
    }

    /// Asks an attempt to stop. A worker without a stream is told by the answer to its next heartbeat.
    pub(super) fn stop(
        &self,
        held: &mut HeldLease,
        lease: LeaseToken,
        cause: StopCause,
        stream: Option<&Outbox>,
    ) {
        let until = held.stop.and_then(|stop| stop.until);
        held.stop = Some(Stop { cause, until });
        if let Some(outbox) = stream
            && let Some((cause, grace)) = held.tell_stop(self.active.observe(), self.settings.stop_grace)
        {
            outbox.push(WorkerEvent::Stop(held.job.id, lease, cause, grace));
        }
    }

    fn end(&self, worker: u32, lease: LeaseToken, is_superseded: bool) {
        let Some(entry) = self.find(worker) else { return };
        let mut state = entry.state.lock();
        let Some(held) = state.leases.remove(&lease) else { return };
        if let Entry::Occupied(leased) = self.leased.lock().entry(held.job.id)
            && *leased.get() == lease
        {
            leased.remove();
        }
        if let Some(session) = held.session.filter(|_| !held.is_received) {
            self.board.received(session, held.job.spec.bytes);
        }
        if held.is_received && !held.is_reported {
            let cause = if is_superseded { "superseded" } else { lost_cause(&held) };
            self.counters.lost.with_label_values(&[cause]).inc();
            if let Some(stream) = &state.stream {
                stream.outbox.push(WorkerEvent::Lost(held.job.id, lease));
            }
        }
    }

    /// Forgets a checkpoint that is on disk now.
    fn checkpoint_written(&self, worker: u32, lease: LeaseToken, number: i64) {
        let Some(entry) = self.find(worker) else { return };
        let mut state = entry.state.lock();
        if let Some(rest) = state.leases.get_mut(&lease).and_then(|held| held.rest.as_mut()) {
            rest.sent_checkpoint.take_if(|sent| sent.number <= number);
        }
    }

    /// Tells a worker that a newer process has taken over its instance.
    fn supersede(&self, worker: u32) {
        let Some(entry) = self.find(worker) else { return };
        let mut state = entry.state.lock();
        state.is_superseded = true;
        if let Some(stream) = &state.stream {
            stream.outbox.push(WorkerEvent::Superseded);
        }
    }

    /// Returns whether a worker that serves the kind in this queue is connected.
    pub(crate) fn serves(&self, kind: &str, queue: &str) -> bool {
        let now = self.active.observe();
        self.workers.read().values().any(|entry| {
            let state = entry.state.lock();
            state.is_here(now, self.settings.lease)
                && !state.is_draining
                && state.about.pools.iter().any(|pool| {
                    pool.kinds.iter().any(|served| served == kind)
                        && (pool.queues.is_empty() || pool.queues.iter().any(|served| served == queue))
                })
        })
    }
}

/// Returns the reason for which a lease ended without a report, as a label.
fn lost_cause(held: &HeldLease) -> &'static str {
    match held.stop.map(|stop| stop.cause) {
        Some(StopCause::Cancelled) => "cancelled",
        Some(StopCause::TimedOut) => "timeout",
        None => "silence",
    }
}

impl RemoteLeases for Roster {
    fn inherit(&self, jobs: Vec<(Arc<Job>, Timestamp)>) {
        let now = self.active.observe();
        let wall = self.clock.now();
        for (job, started) in jobs {
            let (Some(worker), Some(lease)) = (job.remote.worker(), job.state.lease()) else { continue };
            let is_cancelling = matches!(job.state, State::Cancelling { .. });
            let cancelled = || Stop { cause: StopCause::Cancelled, until: None };
            let left = job.attempt_timeout().saturating_sub(wall.since(started));
            let held = HeldLease {
                session: None,
                assigned: started,
                assigned_at: now,
                is_received: true,
                is_reported: false,
                is_ended: false,
                expires: now.after(self.settings.lease),
                timeout: now.after(left),
                stop: is_cancelling.then(cancelled),
                rest: None,
                job: Arc::clone(&job),
            };
            self.has_inherited.store(true, Ordering::Relaxed);
            self.leased.lock().insert(job.id, lease);
            let entry = self.entry(worker);
            entry.state.lock().leases.insert(lease, held);
        }
    }

    fn apply(&self, changes: RemoteChanges) {
        let RemoteChanges { assigned, cancelling, ended, checkpoints, answers, superseded, forgotten } =
            changes;
        for (worker, lease, number) in checkpoints {
            self.checkpoint_written(worker, lease, number);
        }
        // Ends first: a job that was released may be assigned again by the same batch.
        for (worker, lease) in ended {
            self.end(worker, lease, superseded.contains(&worker));
        }
        for (grant, claim) in assigned {
            self.assign(&grant, claim);
        }
        for (worker, lease) in cancelling {
            self.cancel(worker, lease);
        }
        for worker in superseded {
            self.supersede(worker);
        }
        if !forgotten.is_empty() {
            // Each comes back under another number.
            let mut workers = self.workers.write();
            for worker in forgotten {
                workers.remove(&worker);
            }
        }
        for (sink, answer) in answers {
            sink.answer(answer);
        }
    }
}
