//! Entries of the change feed.

use std::sync::Arc;

use super::{
    ids::{JobId, Position},
    record::{Job, Spec},
    state::StateName,
};
use crate::clock::StoreTime;

/// An entry of the change feed.
#[derive(Clone, Debug)]
pub enum Change {
    /// A job changed.
    Job {
        /// The job after the change.
        job: Arc<Job>,
        /// The state before the change. Absent for a new job, and where only the latest state is known.
        before: Option<StateName>,
    },
    /// A job was deleted.
    Deleted(Tombstone),
}

impl Change {
    /// Returns the entry's position in the feed.
    #[must_use]
    pub fn position(&self) -> Position {
        match self {
            Change::Job { job, .. } => job.position,
            Change::Deleted(tombstone) => tombstone.position,
        }
    }

    /// Returns the id of the job.
    #[must_use]
    pub fn id(&self) -> JobId {
        match self {
            Change::Job { job, .. } => job.id,
            Change::Deleted(tombstone) => tombstone.id,
        }
    }

    /// Returns the immutable part of the job.
    #[must_use]
    pub fn spec(&self) -> &Arc<Spec> {
        match self {
            Change::Job { job, .. } => &job.spec,
            Change::Deleted(tombstone) => &tombstone.spec,
        }
    }
}

/// Tombstone of a deleted job.
#[derive(Clone, PartialEq, Debug)]
pub struct Tombstone {
    /// The deleted job.
    pub id: JobId,
    /// Position of the deletion in the feed.
    pub position: Position,
    /// Time of the deletion.
    pub deleted: StoreTime,
    /// The immutable part of the job, as far as it is kept.
    pub spec: Arc<Spec>,
}

/// A page of the change feed.
#[derive(Clone, Debug)]
pub struct Changes {
    /// The entries, in order.
    pub entries: Vec<Change>,
    /// Position that the page reaches: the page has every entry up to here.
    pub up_to: Position,
    /// Whether the page reached the feed's end: all later changes were made after the page was read.
    pub reaches_end: bool,
    /// Position up to which deletions have been forgotten. A reader that has seen less may miss deletions.
    pub floor: Position,
}
