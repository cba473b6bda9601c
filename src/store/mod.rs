//! The store: the only source of truth, and the scheduler's index.
//!
//! A batch calls a [`Store`] twice, in one transaction: [`Store::fetch`] reads everything that the batch needs, and
//! [`Store::write`] writes everything that it has decided. The store decides nothing. All other reads go through
//! [`Reader`]s, which never wait for a writer.

mod counters;
mod dependencies;
mod error;
mod leftover;
mod limits;
pub mod memory;
mod names;
mod reads;
mod requests;
mod rows;
mod schedules;
pub mod sets;
pub mod sqlite;
mod steps;
mod turns;

use std::sync::Arc;

pub use error::{Cause, ErrorClass, Missing, StoreError};
pub use leftover::Leftover;
pub use names::{NameTable, Names, WorkerTable};
pub use reads::Reads;
use sets::{Committed, Loaded, ReadResults, ReadSet, WriteSet};
pub use steps::{ClockStep, ClockSteps};

use crate::{
    clock::Timestamp,
    job::{
        AttemptRecord, Changes, Edge, StoredCheckpoint, Identity, Job, JobFilter, JobId, KeyHash, KeyName, KeyRow, Name, Output,
        Position, Tally,
    },
    settings::{CalendarInfo, QueueInfo, ScheduleInfo},
};

/// Number of participants in the turns of a lane that are asked for their oldest ready job.
const OLDEST_PARTICIPANTS_MAX: usize = 1_000;

/// Durable storage of jobs.
///
/// Each call may block for as long as a disk or a network takes, because its thread has nothing else to do meanwhile. A
/// store across a network makes one round trip for each call, and needs no runtime but its own.
pub trait Store: Send {
    /// Returns the names that rows refer to by number. They are shared with the store's readers.
    fn names(&self) -> Arc<Names>;

    /// Reads the names, and the state that the engine keeps in memory.
    ///
    /// # Errors
    /// When the store can't be read.
    fn load(&mut self) -> Result<Loaded, StoreError>;

    /// Begins a batch's transaction, and reads everything that the batch needs.
    ///
    /// # Errors
    /// After an [`ErrorClass::Retryable`] error, no transaction has begun. After any other error the process must end.
    fn fetch(&mut self, wants: &ReadSet) -> Result<ReadResults, StoreError>;

    /// Writes everything that the batch has decided, and commits. When the call returns, all of it is on disk.
    ///
    /// # Errors
    /// After [`StoreError::DiskFull`] nothing of the batch is on disk, and the transaction is over. After any other
    /// error the fate of the batch is unknown: the process must end, and the next start recovers.
    fn write(&mut self, writes: &WriteSet) -> Result<Committed, StoreError>;

    /// Returns whether there are unreadable rows that are not set aside yet.
    fn has_unreadable(&self) -> bool {
        false
    }

    /// Checks that the store's files are still at their paths. To be called every few seconds.
    ///
    /// # Errors
    /// The files at the store's paths are not the ones in use: the process must end.
    fn check(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Returns what the store has room for. To be called before each batch.
    fn space(&mut self) -> Space {
        Space::Enough
    }

    /// Returns a handle that reads committed data.
    fn reader(&self) -> Arc<dyn Reader>;
}

/// Returns the name with this number, which a row refers to.
fn named(table: &NameTable, number: u32) -> Result<Arc<Name>, StoreError> {
    let unknown = || StoreError::Corrupt(format!("a row names the unknown queue or kind number {number}"));
    table.get(number).ok_or_else(unknown)
}

/// Room in a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Space {
    /// Room for everything.
    #[default]
    Enough,
    /// Room for everything but new jobs: the disk is nearly full.
    Low,
    /// Room only for the ends of attempts, cancels and deletes, as far as possible: the disk is full.
    Full,
}

/// Reader of committed data. Every call is short: no read holds a transaction for longer than one page.
pub trait Reader: Send + Sync {
    /// Returns the store's identity, for resume tokens.
    fn identity(&self) -> Identity;

    /// Returns a job.
    ///
    /// # Errors
    /// When the disk fails.
    fn job(&self, id: JobId) -> Result<Option<Job>, StoreError>;

    /// Returns jobs as of one moment, in the order of `ids`, and the feed's end at that moment.
    ///
    /// # Errors
    /// When the disk fails.
    fn jobs(&self, ids: &[JobId]) -> Result<(Vec<Option<Job>>, Position), StoreError>;

    /// Returns a job with all of its data.
    ///
    /// # Errors
    /// When the disk fails.
    fn whole_job(&self, id: JobId) -> Result<Option<WholeJob>, StoreError>;

    /// Returns the bytes of a job's result; `None` if the handler returned nothing, or the job does not exist.
    ///
    /// # Errors
    /// When the disk fails.
    fn result(&self, id: JobId) -> Result<Option<bytes::Bytes>, StoreError>;

    /// Returns the payload of a job.
    ///
    /// # Errors
    /// When the disk fails.
    fn payload(&self, id: JobId) -> Result<Option<bytes::Bytes>, StoreError>;

    /// Returns the edges of a job to those that it depends on, in the order of the parents.
    ///
    /// # Errors
    /// When the disk fails.
    fn dependencies(&self, child: JobId) -> Result<Vec<Edge>, StoreError>;

    /// Returns the edges of the jobs that depend on a job, in the order of the children, from above `after`.
    ///
    /// # Errors
    /// When the disk fails.
    fn dependents(&self, parent: JobId, after: Option<JobId>, limit: usize) -> Result<Vec<Edge>, StoreError>;

    /// Returns the checkpoint that a job's attempts have left.
    ///
    /// # Errors
    /// When the disk fails.
    fn checkpoint(&self, id: JobId) -> Result<Option<StoredCheckpoint>, StoreError>;

    /// Returns a unique key that is held.
    ///
    /// # Errors
    /// When the disk fails.
    fn unique_key(&self, hash: KeyHash) -> Result<Option<HeldKey>, StoreError>;

    /// Returns the unique keys that are held, in the order of their identities, from above `after`. Those whose time is
    /// over may be among them.
    ///
    /// # Errors
    /// When the disk fails.
    fn unique_keys(&self, after: Option<KeyHash>, limit: usize) -> Result<Vec<(KeyHash, HeldKey)>, StoreError>;

    /// Returns the matching jobs, in the scan's order. Examines no more jobs than the scan's budget, and may therefore
    /// return few jobs, or none, although there are more.
    ///
    /// # Errors
    /// When the disk fails.
    fn scan(&self, filter: &JobFilter, scan: Scan) -> Result<Page, StoreError>;

    /// Returns the changes after a position, oldest first: jobs in their latest state, and deletions.
    ///
    /// # Errors
    /// When the disk fails.
    fn changes(&self, after: Position, limit: usize) -> Result<Changes, StoreError>;

    /// Returns all queues, by name.
    ///
    /// # Errors
    /// When the disk fails.
    fn queues(&self) -> Result<Vec<QueueInfo>, StoreError>;

    /// Returns schedules after a name, by name, without their jobs' payloads.
    ///
    /// # Errors
    /// When the disk fails.
    fn schedules(&self, after: Option<&str>, limit: usize) -> Result<Vec<ScheduleInfo>, StoreError>;

    /// Returns the schedule with this name, with its job's payload.
    ///
    /// # Errors
    /// When the disk fails.
    fn schedule(&self, name: &str) -> Result<Option<ScheduleInfo>, StoreError>;

    /// Returns all calendars, by name.
    ///
    /// # Errors
    /// When the disk fails.
    fn calendars(&self) -> Result<Vec<CalendarInfo>, StoreError>;

    /// Returns the number of jobs of each queue, kind and state.
    ///
    /// # Errors
    /// When the disk fails.
    fn tallies(&self) -> Result<Vec<Tally>, StoreError>;

    /// Returns when the longest ready of the jobs at the heads of a queue's lanes became ready, by the wall clock's
    /// present setting.
    ///
    /// # Errors
    /// When the disk fails.
    fn oldest_ready(&self, queue: &Name) -> Result<Option<Timestamp>, StoreError>;

    /// Returns the store's size on disk.
    ///
    /// # Errors
    /// When the disk fails.
    fn size(&self) -> Result<StoreSize, StoreError>;
}

/// Size of a store on disk; zero for a store without files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoreSize {
    /// Size of the database.
    pub database_bytes: u64,
    /// Size of the write-ahead log.
    pub log_bytes: u64,
    /// Number of rows that could not be read and were set aside.
    pub set_aside_rows: u64,
}

/// A job with all of its data.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, PartialEq, Debug)]
pub struct WholeJob {
    /// The job.
    pub job: Job,
    /// The job's payload.
    pub payload: bytes::Bytes,
    /// The bytes of the job's result; empty if the handler returned nothing.
    pub result: bytes::Bytes,
    /// End of the output of the latest finished attempt.
    pub output_tail: String,
    /// The job's attempts, oldest first.
    pub attempts: Vec<AttemptRecord>,
    /// The checkpoint for the next attempt.
    pub checkpoint: Option<StoredCheckpoint>,
    /// The edges to the jobs that it depends on, in the order of the parents.
    pub dependencies: Vec<Edge>,
}

impl WholeJob {
    /// Returns the result with its description; `None` if the handler returned nothing.
    #[must_use]
    pub fn output(&self) -> Option<Output> {
        let info = self.job.result.as_ref()?.info.clone();
        Some(Output { bytes: self.result.clone(), info })
    }
}

/// A unique key that is held.
#[derive(Clone, PartialEq, Debug)]
pub struct HeldKey {
    /// The row.
    pub row: KeyRow,
    /// The text of the key; absent if the job that holds it can't be read.
    pub name: Option<KeyName>,
    /// Whether the holder has ended, so that the key is held by time.
    pub has_ended: bool,
    /// End of that time, by the wall clock's present setting.
    pub held_until: Option<Timestamp>,
}

impl HeldKey {
    /// Creates it from a row, and the holder if that exists.
    fn of(row: KeyRow, holder: Option<&Job>, names: &Names) -> Self {
        let has_ended = holder.is_none_or(|holder| holder.state.is_done());
        let name = match &row.name {
            Some(name) => Some(KeyName::clone(name)),
            None => holder.and_then(|holder| holder.spec.key_name()),
        };
        let held_until = row.until.filter(|_| has_ended).map(|until| names.steps.wall_of_backoff(until));
        HeldKey { row, name, has_ended, held_until }
    }
}

/// Start, direction and limits of a scan.
#[derive(Clone, Copy, Debug)]
pub struct Scan {
    /// Direction and start.
    pub order: ScanOrder,
    /// Maximum number of jobs to return.
    pub limit: usize,
    /// Maximum number of jobs to examine.
    pub budget: usize,
}

/// Direction and start of a scan.
#[derive(Clone, Copy, Debug)]
pub enum ScanOrder {
    /// Newest first, from below `before`.
    NewestFirst {
        /// Id at which the page before ended.
        before: Option<JobId>,
    },
    /// Oldest first, from above `after` up to `last`.
    OldestFirst {
        /// Id at which the page before ended.
        after: Option<JobId>,
        /// The last id to scan.
        last: Option<JobId>,
    },
}

/// A page of jobs, as of one moment.
#[derive(Clone, Debug)]
pub struct Page {
    /// The jobs.
    pub jobs: Vec<Arc<Job>>,
    /// Id after which the next page continues; absent on the last page.
    pub next: Option<JobId>,
    /// The feed's end at that moment.
    pub position: Position,
    /// The newest id at that moment.
    pub newest: JobId,
}
