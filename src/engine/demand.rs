//! The demand of remote workers: pools with credits, and the choice of the pool that gets the next job.
//!
//! Sessions of workers put their changes on a shared board, and the committer takes them over before each batch. A
//! credit is used by a claim. Among the pools that could take a job, the one that was given a job least recently gets it,
//! so that no pool starves beside one that asks for more.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    job::{Job, WorkerProcess},
    settings::QueuePattern,
    store::NameTable,
};

/// Identifier of a worker's session within this process: a stream, or one call of LeaseJobs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(u64);

/// A pool of a session, by its index.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PoolId {
    /// The session.
    pub session: SessionId,
    /// Index of the pool in the session.
    pub index: usize,
}

/// The queues from which a pool takes jobs.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct QueueScope {
    /// The queues' names; empty for all that are permitted.
    pub names: BTreeSet<Box<str>>,
    /// Patterns of the permitted queues; absent if all are.
    pub permitted: Option<Arc<[QueuePattern]>>,
}

impl QueueScope {
    /// Returns whether the pool takes jobs from a queue.
    #[must_use]
    pub fn covers(&self, queue: &str) -> bool {
        let permitted = |patterns: &Arc<[QueuePattern]>| patterns.iter().any(|pattern| pattern.fits(queue));
        (self.names.is_empty() || self.names.contains(queue)) && self.permitted.as_ref().is_none_or(permitted)
    }

    fn add_to_key(&self, key: &mut String) {
        for name in &self.names {
            key.push_str(name);
            key.push(' ');
        }
        key.push('/');
        for pattern in self.permitted.iter().flat_map(|patterns| patterns.iter()) {
            key.push_str(&pattern.to_string());
            key.push(' ');
        }
        key.push(if self.permitted.is_some() { '!' } else { '*' });
    }
}

/// A pool of a new session.
#[derive(Clone, Debug)]
pub struct NewPool {
    /// The kinds that it runs.
    pub kinds: Vec<String>,
    /// The queues from which it takes jobs.
    pub scope: QueueScope,
}

/// A change of the demand.
#[derive(Debug)]
enum DemandChange {
    Open { session: SessionId, worker: Arc<WorkerProcess>, pools: Vec<NewPool>, room: i64 },
    Credit(PoolId, u32),
    Room(SessionId, i64),
    Void(SessionId),
    Close(SessionId),
}

/// The board on which sessions note changes of their demand.
#[derive(Debug, Default)]
pub struct DemandBoard {
    last_session: AtomicU64,
    changes: Mutex<Vec<DemandChange>>,
    told: Notify,
}

impl DemandBoard {
    /// Opens a session of a registered worker, without credits. `room` is the limit of the bytes that are assigned and
    /// not received; the last job may exceed it.
    pub fn open(&self, worker: Arc<WorkerProcess>, pools: Vec<NewPool>, room: u64) -> SessionId {
        let session = SessionId(self.last_session.fetch_add(1, Ordering::Relaxed) + 1);
        self.put(DemandChange::Open { session, worker, pools, room: room as i64 });
        session
    }

    /// Grants credits.
    pub fn credit(&self, pool: PoolId, count: u32) {
        self.put(DemandChange::Credit(pool, count));
    }

    /// Gives room back: these bytes were received.
    pub fn received(&self, session: SessionId, bytes: u64) {
        self.put(DemandChange::Room(session, bytes as i64));
    }

    /// Takes all credits of a session back.
    pub fn void(&self, session: SessionId) {
        self.put(DemandChange::Void(session));
    }

    /// Closes a session.
    pub fn close(&self, session: SessionId) {
        self.put(DemandChange::Close(session));
    }

    fn put(&self, change: DemandChange) {
        self.changes.lock().push(change);
        self.told.notify_one();
    }

    /// Returns once there are changes that the committer has not taken over.
    pub async fn told(&self) {
        self.told.notified().await;
    }
}

/// The right to take one job, which a claim uses.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The pool that takes the job.
    pub pool: PoolId,
    /// The pool's worker.
    pub worker: Arc<WorkerProcess>,
}

/// Number of a class of pools.
pub(super) type ClassId = u32;

/// Pools that take the same jobs.
#[derive(Debug)]
struct Class {
    key: String,
    kinds: BTreeSet<u32>,
    scope: QueueScope,
    /// Whether the class takes jobs from a queue, by the queue's number.
    covers: HashMap<u32, bool>,
    /// Pools that can take a job now, least recently given first.
    ready: BTreeSet<(u64, PoolId)>,
    /// Credits of these pools.
    credits: u64,
    /// Number of all pools.
    pools: usize,
}

#[derive(Debug)]
struct Session {
    worker: Arc<WorkerProcess>,
    pools: Vec<Pool>,
    /// Bytes that may still be assigned.
    room: i64,
}

#[derive(Debug)]
struct Pool {
    class: ClassId,
    credits: u32,
    /// The turn at which it was last given a job.
    last_given: u64,
}

/// All demand of remote workers.
#[derive(Debug, Default)]
pub(super) struct Demand {
    board: Arc<DemandBoard>,
    sessions: HashMap<SessionId, Session>,
    classes: BTreeMap<ClassId, Class>,
    class_ids: HashMap<String, ClassId>,
    by_kind: HashMap<u32, BTreeSet<ClassId>>,
    last_class: ClassId,
    turn: u64,
    /// The queue whose jobs are offered first: the one after the last that was given a credit.
    next_queue: u32,
    /// Credits and bytes that the batch has used.
    used: Vec<Used>,
    /// Sessions that end with the batch.
    ending: Vec<SessionId>,
}

/// Credits and bytes of a pool that the batch has used.
#[derive(Debug)]
struct Used {
    pool: PoolId,
    credits: u32,
    bytes: i64,
}

impl Demand {
    pub(super) fn new(board: Arc<DemandBoard>) -> Self {
        Demand { board, ..Demand::default() }
    }

    /// Returns the board, for the sessions.
    pub(super) fn board(&self) -> &Arc<DemandBoard> {
        &self.board
    }

    /// Takes over the changes on the board, apart from sessions of workers that are not registered any more. Returns the
    /// workers of closed sessions.
    pub(super) fn take_changes(
        &mut self,
        kinds: &NameTable,
        is_registered: impl Fn(u32) -> bool,
    ) -> Vec<u32> {
        let changes = std::mem::take(&mut *self.board.changes.lock());
        let mut closed = Vec::new();
        for change in changes {
            match change {
                DemandChange::Open { worker, .. } if !is_registered(worker.number) => {}
                DemandChange::Open { session, worker, pools, room } => {
                    let pools = pools.into_iter().map(|pool| self.add_pool(pool, kinds)).collect();
                    self.sessions.insert(session, Session { worker, pools, room });
                }
                DemandChange::Credit(pool, count) => self.change(pool, |state| {
                    state.credits = state.credits.saturating_add(count);
                }),
                DemandChange::Room(session, bytes) => self.give_room(session, bytes),
                DemandChange::Void(session) => {
                    for pool in self.pools_of(session) {
                        self.change(pool, |state| state.credits = 0);
                    }
                }
                DemandChange::Close(session) => {
                    closed.extend(self.sessions.get(&session).map(|session| session.worker.number));
                    self.close(session);
                }
            }
        }
        closed
    }

    fn pools_of(&self, session: SessionId) -> Vec<PoolId> {
        let count = self.sessions.get(&session).map_or(0, |session| session.pools.len());
        (0..count).map(|index| PoolId { session, index }).collect()
    }

    fn add_pool(&mut self, pool: NewPool, names: &NameTable) -> Pool {
        let NewPool { kinds, scope } = pool;
        let kinds: BTreeSet<u32> =
            kinds.iter().filter_map(|kind| names.find(kind).map(|name| name.number)).collect();
        let mut key = String::new();
        for kind in &kinds {
            key.push_str(&kind.to_string());
            key.push(' ');
        }
        scope.add_to_key(&mut key);
        let class = match self.class_ids.get(&key) {
            Some(class) => *class,
            None => {
                self.last_class = self.last_class.wrapping_add(1);
                let class = self.last_class;
                for kind in &kinds {
                    self.by_kind.entry(*kind).or_default().insert(class);
                }
                self.class_ids.insert(key.clone(), class);
                let (covers, ready) = (HashMap::new(), BTreeSet::new());
                let new = Class { key, kinds, scope, covers, ready, credits: 0, pools: 0 };
                self.classes.insert(class, new);
                class
            }
        };
        if let Some(class) = self.classes.get_mut(&class) {
            class.pools += 1;
        }
        Pool { class, credits: 0, last_given: 0 }
    }

    /// Changes a pool, and keeps its class's list of ready pools in step.
    fn change(&mut self, id: PoolId, change: impl FnOnce(&mut Pool)) {
        let Some(session) = self.sessions.get_mut(&id.session) else { return };
        let has_room = session.room > 0;
        let Some(pool) = session.pools.get_mut(id.index) else { return };
        let Some(class) = self.classes.get_mut(&pool.class) else { return };
        if class.ready.remove(&(pool.last_given, id)) {
            class.credits -= u64::from(pool.credits);
        }
        change(pool);
        if has_room && pool.credits > 0 {
            class.ready.insert((pool.last_given, id));
            class.credits += u64::from(pool.credits);
        }
    }

    fn give_room(&mut self, session: SessionId, bytes: i64) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        let had_room = state.room > 0;
        state.room += bytes;
        if had_room != (state.room > 0) {
            // Refreshes the lists of ready pools.
            for pool in self.pools_of(session) {
                self.change(pool, |_| {});
            }
        }
    }

    fn close(&mut self, session: SessionId) {
        for pool in self.pools_of(session) {
            self.change(pool, |state| state.credits = 0);
        }
        let Some(closed) = self.sessions.remove(&session) else { return };
        for Pool { class: id, .. } in closed.pools {
            let Some(class) = self.classes.get_mut(&id) else { continue };
            class.pools -= 1;
            if class.pools == 0
                && let Some(class) = self.classes.remove(&id)
            {
                self.class_ids.remove(&class.key);
                for kind in &class.kinds {
                    if let Some(classes) = self.by_kind.get_mut(kind) {
                        classes.remove(&id);
                        if classes.is_empty() {
                            self.by_kind.remove(kind);
                        }
                    }
                }
            }
        }
    }

    /// Forgets which queues the classes cover, because queues were created or deleted.
    pub(super) fn queues_changed(&mut self) {
        for class in self.classes.values_mut() {
            class.covers.clear();
        }
    }

    /// Returns whether a session serves a kind at present, with or without credits.
    pub(super) fn is_served(&self, kind: u32) -> bool {
        self.by_kind.contains_key(&kind)
    }

    /// Returns the numbers of the workers that have sessions.
    pub(super) fn workers(&self) -> HashSet<u32> {
        self.sessions.values().map(|session| session.worker.number).collect()
    }

    /// Returns the queue whose jobs are offered first.
    pub(super) fn next_queue(&self) -> u32 {
        self.next_queue
    }

    /// Ends the sessions of a worker with the batch. None of them gets a job of it.
    pub(super) fn end_sessions_of(&mut self, worker: u32) {
        let of_worker = self.sessions.iter().filter(|(_, session)| session.worker.number == worker);
        let ending: Vec<SessionId> = of_worker.map(|(session, _)| *session).collect();
        let pools: Vec<_> = ending.iter().flat_map(|session| self.pools_of(*session)).collect();
        for pool in pools {
            let mut credits = 0;
            self.change(pool, |state| credits = std::mem::take(&mut state.credits));
            self.used.push(Used { pool, credits, bytes: 0 });
        }
        self.ending.extend(ending);
    }

    /// Returns the classes that can take a job of the queue now, by kind, and the number of jobs that each can take.
    pub(super) fn takers(&mut self, queue: u32, name: &str) -> Takers {
        let mut takers = Takers::default();
        for (id, class) in &mut self.classes {
            if class.credits == 0 {
                continue;
            }
            let Class { scope, covers, .. } = class;
            if *covers.entry(queue).or_insert_with(|| scope.covers(name)) {
                takers.credits.insert(*id, class.credits);
            }
        }
        takers
    }

    /// Returns the classes among the takers that run a kind.
    pub(super) fn takers_of(&self, takers: &Takers, kind: u32) -> Vec<ClassId> {
        let classes = self.by_kind.get(&kind).into_iter().flatten();
        classes.filter(|class| takers.credits.contains_key(class)).copied().collect()
    }

    /// Uses a credit for a job of one of the classes. Returns `None` if none of them has any left.
    pub(super) fn take(&mut self, classes: &[ClassId], job: &Job) -> Option<Grant> {
        let first = |class: &ClassId| self.classes.get(class).and_then(|class| class.ready.first().copied());
        let (_, pool) = classes.iter().filter_map(first).min()?;
        let worker = Arc::clone(&self.sessions.get(&pool.session)?.worker);
        let bytes = job.spec.bytes as i64;
        self.turn += 1;
        let turn = self.turn;
        self.change(pool, |state| {
            state.credits = state.credits.saturating_sub(1);
            state.last_given = turn;
        });
        self.give_room(pool.session, -bytes);
        self.used.push(Used { pool, credits: 1, bytes });
        self.next_queue = job.spec.queue.number.wrapping_add(1);
        Some(Grant { pool, worker })
    }

    /// Gives a credit back that the batch has used for a job which does not start after all.
    pub(super) fn give_back(&mut self, grant: &Grant, job: &Job) {
        let bytes = job.spec.bytes as i64;
        let of_job = |used: &Used| used.pool == grant.pool && used.credits == 1 && used.bytes == bytes;
        if let Some(index) = self.used.iter().rposition(of_job) {
            let used = self.used.swap_remove(index);
            self.restore(&used);
        }
    }

    fn restore(&mut self, Used { pool, credits, bytes }: &Used) {
        self.give_room(pool.session, *bytes);
        self.change(*pool, |state| state.credits = state.credits.saturating_add(*credits));
    }

    /// Returns whether any of the classes can take a job.
    pub(super) fn can_take(&self, classes: &[ClassId]) -> bool {
        classes.iter().any(|class| self.classes.get(class).is_some_and(|class| class.credits > 0))
    }

    /// Keeps the credits used: the batch is on disk.
    pub(super) fn commit(&mut self) {
        self.used.clear();
        for session in std::mem::take(&mut self.ending) {
            self.close(session);
        }
    }

    /// Gives the credits back that the batch has used, because it was not committed.
    pub(super) fn discard(&mut self) {
        for used in std::mem::take(&mut self.used) {
            self.restore(&used);
        }
        self.ending.clear();
        // The batch may have looked at queues that it was to create.
        self.queues_changed();
    }

    /// Returns the credits of a session's pools, by index.
    #[cfg(test)]
    fn credits(&self, session: SessionId) -> Vec<u32> {
        self.sessions
            .get(&session)
            .map_or_else(Vec::new, |session| session.pools.iter().map(|pool| pool.credits).collect())
    }
}

/// The classes of pools that can take a job of one queue.
#[derive(Debug, Default)]
pub(super) struct Takers {
    credits: HashMap<ClassId, u64>,
}

impl Takers {
    /// Returns whether no pool can take a job of the queue.
    pub(super) fn is_empty(&self) -> bool {
        self.credits.is_empty()
    }

    /// Returns the number of jobs that all classes can take together.
    pub(super) fn all_credits(&self) -> u64 {
        self.credits.values().sum()
    }

    /// Returns the number of jobs that these classes can take together.
    pub(super) fn credits(&self, classes: &[ClassId]) -> u64 {
        classes.iter().filter_map(|class| self.credits.get(class)).sum()
    }
}

#[cfg(test)]
#[path = "demand/tests.rs"]
mod tests;
