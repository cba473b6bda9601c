//! The store: the only truth, and the scheduler's index.
//!
//! A [`Store`] is spoken to in sets: a batch is one [`Store::fetch`] of all that it reads and one [`Store::write`] of
//! all that it writes, both in one transaction. It decides nothing. Reading goes through [`Reader`]s, which never wait
//! for a writer.

mod error;
mod leftover;
pub mod memory;
mod names;
mod reads;
pub mod sets;
pub mod sqlite;
mod steps;

use std::sync::Arc;

pub use error::{Cause, ErrorClass, Missing, StoreError};
pub use leftover::Leftover;
pub use names::{NameTable, Names};
pub use reads::Reads;
use sets::{Committed, Found, Loaded, Wants, Writes};
pub use steps::{Step, Steps};

use crate::{
    clock::Timestamp,
    job::{AttemptRecord, Changes, Identity, Job, JobFilter, JobId, Name, Output, Position, Tally},
    settings::QueueInfo,
};

/// Keeps jobs.
///
/// Each call may block for as long as a disk or a network takes: the one thread that calls has nothing else to do
/// meanwhile. A store across a network makes one round trip of each; it needs no runtime but its own.
pub trait Store: Send {
    /// The names that rows mention by number. Shared with the store's readers.
    fn names(&self) -> Arc<Names>;

    /// Reads what the engine keeps in memory, and the names.
    ///
    /// # Errors
    /// When the store can't be read.
    fn load(&mut self) -> Result<Loaded, StoreError>;

    /// Begins a batch's transaction, and reads all that the batch wants.
    ///
    /// # Errors
    /// Where the error is [`ErrorClass::Retryable`], nothing was begun. After any other one the process must end.
    fn fetch(&mut self, wants: &Wants) -> Result<Found, StoreError>;

    /// Writes all that the batch has decided, and ends its transaction: when the call returns, all of it is on disk.
    ///
    /// # Errors
    /// After [`StoreError::DiskFull`] nothing of the batch is on disk, and the transaction is over. After any other
    /// error nothing is known about the batch: the process must end, and the next start recovers.
    fn write(&mut self, writes: &Writes) -> Result<Committed, StoreError>;

    /// Whether there are rows that could not be read and are not set aside yet.
    fn has_unreadable(&self) -> bool {
        false
    }

    /// Checks that the store is still where it was opened. To be called every few seconds.
    ///
    /// # Errors
    /// The files at the store's paths are others than those in use: the process must end.
    fn check(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// What there is room for. To be asked before each batch.
    fn space(&mut self) -> Space {
        Space::Enough
    }

    /// A handle that reads what is committed.
    fn reader(&self) -> Arc<dyn Reader>;
}

/// The name with this number, which a row mentions.
fn named(table: &NameTable, number: u32) -> Result<Arc<Name>, StoreError> {
    let unknown = || StoreError::Corrupt(format!("a row names the unknown queue or kind number {number}"));
    table.get(number).ok_or_else(unknown)
}

/// What a store has room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Space {
    /// Everything.
    #[default]
    Enough,
    /// The disk is nearly full: everything but new jobs.
    Low,
    /// The disk is full: the ends of attempts, cancels and deletes only, as far as possible.
    Full,
}

/// Reads what is committed. Every call is short: no read holds a transaction beyond one page.
pub trait Reader: Send + Sync {
    /// Which store this is, for resume tokens.
    fn identity(&self) -> Identity;

    /// One job.
    ///
    /// # Errors
    /// When the disk fails.
    fn job(&self, id: JobId) -> Result<Option<Job>, StoreError>;

    /// Some jobs at one moment, in the order asked, and the feed's end at that moment.
    ///
    /// # Errors
    /// When the disk fails.
    fn jobs(&self, ids: &[JobId]) -> Result<(Vec<Option<Job>>, Position), StoreError>;

    /// One job with all that belongs to it.
    ///
    /// # Errors
    /// When the disk fails.
    fn whole_job(&self, id: JobId) -> Result<Option<WholeJob>, StoreError>;

    /// The bytes of what a job's handler returned; absent where it returned nothing, or the job is not there.
    ///
    /// # Errors
    /// When the disk fails.
    fn result(&self, id: JobId) -> Result<Option<bytes::Bytes>, StoreError>;

    /// The payload of a job.
    ///
    /// # Errors
    /// When the disk fails.
    fn payload(&self, id: JobId) -> Result<Option<bytes::Bytes>, StoreError>;

    /// The jobs that fit, in the scan's order, from its start on. Looks at no more than the scan's budget of jobs and
    /// may therefore return few jobs, or none, while there are more.
    ///
    /// # Errors
    /// When the disk fails.
    fn scan(&self, filter: &JobFilter, scan: Scan) -> Result<Page, StoreError>;

    /// The jobs that changed after a position, each with its latest state, oldest change first, and those deleted.
    ///
    /// # Errors
    /// When the disk fails.
    fn changes(&self, after: Position, limit: usize) -> Result<Changes, StoreError>;

    /// All queues, by name.
    ///
    /// # Errors
    /// When the disk fails.
    fn queues(&self) -> Result<Vec<QueueInfo>, StoreError>;

    /// How many jobs of each queue, kind and state there are.
    ///
    /// # Errors
    /// When the disk fails.
    fn tallies(&self) -> Result<Vec<Tally>, StoreError>;

    /// When the job that is next in line in a queue became ready, as the wall clock as it is now would have said it.
    ///
    /// # Errors
    /// When the disk fails.
    fn oldest_ready(&self, queue: &Name) -> Result<Option<Timestamp>, StoreError>;

    /// What the store takes on disk.
    ///
    /// # Errors
    /// When the disk fails.
    fn size(&self) -> Result<StoreSize, StoreError>;
}

/// What a store takes on disk; nothing where it has none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StoreSize {
    /// The database.
    pub database_bytes: u64,
    /// The log of what is not in the database yet.
    pub log_bytes: u64,
    /// Rows that could not be read, and were set aside.
    pub set_aside_rows: u64,
}

/// A job with all that belongs to it.
#[derive(Clone, PartialEq, Debug)]
pub struct WholeJob {
    /// The job.
    pub job: Job,
    /// Its input.
    pub payload: bytes::Bytes,
    /// The bytes of what its handler returned; none where it returned nothing.
    pub result: bytes::Bytes,
    /// The end of what its latest finished attempt wrote.
    pub output_tail: String,
    /// Its attempts, oldest first.
    pub attempts: Vec<AttemptRecord>,
}

impl WholeJob {
    /// What its handler returned.
    #[must_use]
    pub fn output(&self) -> Option<Output> {
        let info = self.job.result.as_ref()?.info.clone();
        Some(Output { bytes: self.result.clone(), info })
    }
}

/// Where and how far to scan.
#[derive(Clone, Copy, Debug)]
pub struct Scan {
    /// Which way.
    pub order: ScanOrder,
    /// At most so many jobs.
    pub limit: usize,
    /// Look at no more than so many.
    pub budget: usize,
}

/// Which way to scan, and from where.
#[derive(Clone, Copy, Debug)]
pub enum ScanOrder {
    /// Newest first, from below this id.
    NewestFirst {
        /// Where the page before ended.
        before: Option<JobId>,
    },
    /// Oldest first, from above `after` up to `last`.
    OldestFirst {
        /// Where the page before ended.
        after: Option<JobId>,
        /// The last id of interest.
        last: Option<JobId>,
    },
}

/// Some jobs, as they were at one moment.
#[derive(Clone, Debug)]
pub struct Page {
    /// The jobs.
    pub jobs: Vec<Arc<Job>>,
    /// Where the next page starts; absent on the last one.
    pub next: Option<JobId>,
    /// The feed's end at that moment.
    pub position: Position,
    /// The newest id at that moment.
    pub newest: JobId,
}
