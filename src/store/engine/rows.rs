//! What the engine needs of a place that keeps rows.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{
    clock::{StoreTime, Timestamp},
    job::{AttemptRecord, Job, JobId, Name, Output, Position, Spec, Tally, Tombstone},
    settings::{QueueInfo, Retention},
    store::{StoreError, steps::Step},
};

/// Keeps rows, and nothing but rows: every rule is the engine's. All calls between [`Rows::begin`] and
/// [`Rows::commit`] are one transaction.
pub(crate) trait Rows: Send {
    /// Reads what the engine keeps in memory.
    fn load(&mut self) -> Result<Loaded, StoreError>;
    fn begin(&mut self) -> Result<(), StoreError>;
    /// Returns once the transaction is on disk.
    fn commit(&mut self) -> Result<(), StoreError>;
    /// Undoes what has been done since [`Rows::begin`].
    fn rollback(&mut self) -> Result<(), StoreError>;

    /// Whether there are rows that could not be read and are not set aside yet.
    fn has_unreadable(&self) -> bool {
        false
    }
    /// Moves the rows that could not be read to where nothing looks for them but an operator; counts all jobs anew.
    /// `None` where there is nothing to do.
    fn set_aside(&mut self, now: Timestamp) -> Result<Option<SetAside>, StoreError> {
        let _ = now;
        Ok(None)
    }

    /// A job. Where its row can't be read, there is none, and [`Rows::has_unreadable`] says so.
    fn job(&mut self, id: JobId) -> Result<Option<Job>, StoreError>;
    /// A job with its payload, unless that is kept apart because it is large.
    fn job_and_payload(&mut self, id: JobId) -> Result<Option<(Job, Option<Bytes>)>, StoreError>;
    fn insert_job(&mut self, job: &Job, payload: &Bytes) -> Result<(), StoreError>;
    /// Replaces `before`, which must be what is kept.
    fn update_job(&mut self, before: &Job, after: &Job) -> Result<(), StoreError>;
    fn insert_tombstone(&mut self, tombstone: &Tombstone) -> Result<(), StoreError>;
    /// Removes a job and all that belongs to it, and keeps the tombstone.
    fn delete_job(&mut self, job: &Job, tombstone: &Tombstone) -> Result<(), StoreError>;
    fn insert_attempt(&mut self, id: JobId, attempt: &AttemptRecord) -> Result<(), StoreError>;
    fn put_outcome(&mut self, id: JobId, output: Option<&Output>, tail: &str) -> Result<(), StoreError>;

    /// The first jobs in line in a lane, from above `after` on.
    fn ready(
        &mut self,
        lane: Lane,
        after: Option<Place>,
        limit: usize,
        found: &mut Vec<Place>,
    ) -> Result<(), StoreError>;
    /// Waiting jobs whose time has come, in the order of their times: scheduled ones by the wall clock, others by the
    /// time by which backoffs count.
    fn due(&mut self, now: Timestamp, backoffs: StoreTime, limit: usize) -> Result<Vec<Job>, StoreError>;
    fn next_due(&mut self) -> Result<NextDue, StoreError>;
    /// Waiting jobs whose time is over without an attempt, in the order of their times.
    fn expiring(&mut self, now: Timestamp, limit: usize) -> Result<Vec<Job>, StoreError>;
    fn next_expiry(&mut self) -> Result<Option<Timestamp>, StoreError>;
    /// The jobs whose latest change comes after the place `after`, in the feed's order up to the first that is not old by
    /// the place and the wall-clock time of its change; looks at no more than `limit` jobs, and returns those that have
    /// ended.
    fn unchanged(
        &mut self,
        after: Position,
        is_old: &dyn Fn(Position, Timestamp) -> bool,
        limit: usize,
    ) -> Result<Unchanged, StoreError>;
    /// Jobs of a queue that neither run nor have ended, by id, from above `after` up to `last`; looks at no more than
    /// `budget` jobs.
    fn waiting(
        &mut self,
        queue: u32,
        after: JobId,
        last: JobId,
        budget: usize,
    ) -> Result<Waiting, StoreError>;

    fn request(&mut self, key: &[u8; 16]) -> Result<Option<RequestRow>, StoreError>;
    fn insert_request(&mut self, key: &[u8; 16], row: &RequestRow) -> Result<(), StoreError>;
    /// Whether any of `count` jobs with consecutive ids is there.
    fn any_job(&mut self, first: JobId, count: u32) -> Result<bool, StoreError>;
    /// Remembers since when a request's jobs have been gone.
    fn request_gone(&mut self, key: &[u8; 16], at: StoreTime) -> Result<(), StoreError>;
    /// Forgets requests whose jobs have been gone since before `before`, at most `limit`.
    fn prune_requests(&mut self, before: StoreTime, limit: usize) -> Result<Pruned, StoreError>;
    /// Forgets tombstones from before `before`, at most `limit`.
    fn prune_tombstones(&mut self, before: StoreTime, limit: usize) -> Result<Pruned, StoreError>;

    fn put_kind(&mut self, kind: &Name) -> Result<(), StoreError>;
    fn put_queue(&mut self, queue: &QueueInfo, deleted: bool) -> Result<(), StoreError>;
    fn put_tally(
        &mut self,
        queue: u32,
        kind: u32,
        state: u8,
        jobs: i64,
        bytes: i64,
    ) -> Result<(), StoreError>;
    fn put_counters(&mut self, counters: &Counters) -> Result<(), StoreError>;
    /// Replaces all notes of how the clock was set.
    fn put_steps(&mut self, steps: &[Step]) -> Result<(), StoreError>;
    fn put_purge(&mut self, purge: &Purge) -> Result<(), StoreError>;
    fn delete_purge(&mut self, number: i64) -> Result<(), StoreError>;
    /// Remembers how far the sweep for what is kept for `keep` has come.
    fn put_sweep(&mut self, keep: Duration, cursor: Position) -> Result<(), StoreError>;
    fn delete_sweep(&mut self, keep: Duration) -> Result<(), StoreError>;
    /// Remembers the server's own times, under which the sweeps have come so far.
    fn put_retention(&mut self, retention: &Retention) -> Result<(), StoreError>;
}

/// What the engine keeps in memory.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) queues: Vec<(QueueInfo, bool)>,
    pub(crate) tallies: Vec<Tally>,
    pub(crate) counters: Counters,
    pub(crate) leased: Vec<Job>,
    pub(crate) purges: Vec<Purge>,
    pub(crate) sweeps: Vec<(Duration, Position)>,
    pub(crate) retention: Option<Retention>,
    pub(crate) steps: Vec<Step>,
}

/// What has been set aside.
#[derive(Debug, Default)]
pub(crate) struct SetAside {
    /// The jobs among it, with what watchers know them by, where that could be read.
    pub(crate) jobs: Vec<(JobId, Option<Arc<Spec>>)>,
    /// How many jobs are left, and where.
    pub(crate) tallies: Vec<Tally>,
}

/// When the first of those that wait is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct NextDue {
    pub(crate) scheduled: Option<Timestamp>,
    pub(crate) backoff: Option<StoreTime>,
}

/// Numbers that only grow, but for what the clock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Counters {
    pub(crate) position: i64,
    pub(crate) last_id: i64,
    pub(crate) last_lease: i64,
    pub(crate) floor: i64,
    pub(crate) last_purge: i64,
    /// Absent in a new store.
    pub(crate) times: Option<KeptTimes>,
}

/// What was known of time when the store was last changed: see `engine/times.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeptTimes {
    /// What the clock said.
    pub(crate) wall: Timestamp,
    /// The time by which backoffs count.
    pub(crate) backoffs: StoreTime,
    /// The time by which retention counts.
    pub(crate) retention: StoreTime,
    /// Up to when, by the clock, retention has counted.
    pub(crate) counted: Timestamp,
}

/// The jobs of one kind in one queue, in their own order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Lane {
    pub(crate) queue: u32,
    pub(crate) kind: u32,
}

/// A job's place in its lane: the smaller runs first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Place {
    /// The negated priority.
    pub(crate) rank: i8,
    pub(crate) order: Position,
    pub(crate) id: JobId,
}

/// Some waiting jobs.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pub(crate) jobs: Vec<Job>,
    /// How many jobs were looked at for them.
    pub(crate) seen: usize,
    /// The last job that was looked at; absent where there are no more.
    pub(crate) next: Option<JobId>,
}

/// Some jobs that have not changed for a while.
#[derive(Debug)]
pub(crate) struct Unchanged {
    /// Those that have ended.
    pub(crate) ended: Vec<Job>,
    /// How many jobs were looked at for them.
    pub(crate) seen: usize,
    /// The place of the last job that was looked at; `after` where there was none.
    pub(crate) reached: Position,
    /// Where and when the first job changed that comes after those and is not old.
    pub(crate) next: Option<(Position, Timestamp)>,
}

/// What has been forgotten.
#[derive(Debug, Default)]
pub(crate) struct Pruned {
    /// How much.
    pub(crate) count: usize,
    /// The last place in the feed, of tombstones.
    pub(crate) last: Option<Position>,
    /// Since when the oldest of the others has been there.
    pub(crate) next: Option<StoreTime>,
}

/// What is kept of a request that may be repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RequestRow {
    pub(crate) digest: [u8; 16],
    pub(crate) first: JobId,
    pub(crate) count: u32,
}

/// A purge under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Purge {
    pub(crate) number: i64,
    pub(crate) queue: u32,
    /// How far it has come.
    pub(crate) cursor: JobId,
    /// The last job that was there when it began.
    pub(crate) last: JobId,
    pub(crate) deleted: u64,
}

pub(crate) fn corrupt<T>(what: impl Into<String>) -> Result<T, StoreError> {
    Err(StoreError::Corrupt(what.into()))
}

/// The name with this number, which a row mentions.
pub(crate) fn named(table: &crate::store::NameTable, number: u32) -> Result<Arc<Name>, StoreError> {
    match table.get(number) {
        Some(name) => Ok(name),
        None => corrupt(format!("a row names the unknown queue or kind number {number}")),
    }
}
