//! From the committed change feed to watchers.
//!
//! A watcher is a cursor. While it keeps up, it reads the latest changes from memory ([`Hub`]): those of its jobs, or
//! those that concern its filter, which watchers with equal filters share (`topics`). When it falls behind, it reads from the store, which gives each changed job's latest state. So a slow watcher costs a cursor, not a buffer.

mod by_filter;
mod by_ids;
mod hub;
mod tail;
mod token;
mod topics;

use std::sync::Arc;

pub use by_filter::{FilterWatch, Start};
pub use by_ids::IdsWatch;
pub use hub::Hub;
pub(crate) use tail::Tail;
pub use token::{InvalidToken, ResumeToken, TokenIssuer};

use crate::{
    job::{Job, JobId, StateName},
    store::StoreError,
};

/// Something that a watcher is told.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    /// A job as it was when the watch started or resynced.
    Snapshot(Arc<Job>),
    /// The snapshot is complete.
    Synced,
    /// A job changed.
    Updated {
        /// The job after the change.
        job: Arc<Job>,
        /// How many earlier changes are folded into this one; absent where that is not known, after a resume or a
        /// catch-up.
        merged: Option<u64>,
    },
    /// A job changed and no longer fits.
    Left {
        /// Which job.
        id: JobId,
        /// The state it went to.
        state: StateName,
    },
    /// A job was deleted.
    Deleted(JobId),
    /// No job has this id.
    NotFound(JobId),
    /// Nothing was missed up to here.
    Bookmark,
    /// The server stops.
    Closing,
    /// The token was too old: a fresh snapshot follows.
    Resync,
    /// A line that an attempt wrote.
    Output(OutputLine),
}

/// A line that an attempt wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputLine {
    /// Of which job.
    pub id: JobId,
    /// Of which attempt.
    pub attempt: u32,
    /// The line, without its end.
    pub text: Arc<str>,
}

/// Some events, and the token to resume after them.
#[derive(Clone, Debug)]
pub struct WatchMessage {
    /// What happened, in order.
    pub events: Vec<WatchEvent>,
    /// Resumes after the last of them.
    pub token: Vec<u8>,
}

/// Which changes a watch tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detail {
    /// Each changed job's latest state.
    Latest,
    /// Every change, while the watcher keeps up.
    EveryTransition,
}

/// Why a watch ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The server stops; *closing* was told before.
    #[error("the server stops: resume with the last token")]
    Closing,
    /// The token is too old, and the watcher did not want a fresh snapshot.
    #[error("the resume token is too old: deletions after it have been forgotten; start again without it")]
    TooOld,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A message has at most so many events.
const EVENTS_MAX: usize = 256;
