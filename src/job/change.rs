//! Entries of the change feed.

use std::sync::Arc;

use super::{
    ids::{JobId, Position},
    record::{Job, Spec},
    state::StateName,
};
use crate::clock::StoreTime;

/// One entry of the change feed.
#[derive(Clone, Debug)]
pub enum Change {
    /// A job changed.
    Job {
        /// The job after the change.
        job: Arc<Job>,
        /// Its state before. Absent for a new job, and where only the latest state is known.
        before: Option<StateName>,
    },
    /// A job was deleted.
    Deleted(Tombstone),
}

impl Change {
    /// Where in the feed it is.
    #[must_use]
    pub fn position(&self) -> Position {
        match self {
            Change::Job { job, .. } => job.position,
            Change::Deleted(tombstone) => tombstone.position,
        }
    }

    /// Which job changed.
    #[must_use]
    pub fn id(&self) -> JobId {
        match self {
            Change::Job { job, .. } => job.id,
            Change::Deleted(tombstone) => tombstone.id,
        }
    }

    /// What never changes of that job.
    #[must_use]
    pub fn spec(&self) -> &Arc<Spec> {
        match self {
            Change::Job { job, .. } => &job.spec,
            Change::Deleted(tombstone) => &tombstone.spec,
        }
    }
}

/// What is left of a deleted job.
#[derive(Clone, PartialEq, Debug)]
pub struct Tombstone {
    /// Which job.
    pub id: JobId,
    /// Where in the feed it was deleted.
    pub position: Position,
    /// When.
    pub deleted: StoreTime,
    /// What it was.
    pub spec: Arc<Spec>,
}

/// A page of the change feed.
#[derive(Clone, Debug)]
pub struct Changes {
    /// The entries, in order.
    pub entries: Vec<Change>,
    /// How far this page reaches: there is nothing else up to here.
    pub up_to: Position,
    /// Whether that was the feed's end: all later changes are of a later moment than this page.
    pub reaches_end: bool,
    /// Nothing before this is known: deletions up to here have been forgotten.
    pub floor: Position,
}
