//! Counters and times of a store.

use crate::{
    clock::{StoreTime, Timestamp},
    job::Position,
};

/// Counters, which only grow, and times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counters {
    /// End of the feed.
    pub position: Position,
    /// Id of the newest job.
    pub last_id: i64,
    /// The newest lease.
    pub last_lease: i64,
    /// Position up to which deletions have been forgotten.
    pub floor: Position,
    /// Times as of the latest change. Absent in a new store.
    pub times: Option<StoredTimes>,
}

/// Times as of the store's latest change: see `engine/times.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredTimes {
    /// Wall-clock time.
    pub wall: Timestamp,
    /// Time by which backoffs are counted.
    pub backoffs: StoreTime,
    /// Time by which retention is counted.
    pub retention: StoreTime,
    /// Wall-clock time up to which retention has counted.
    pub counted: Timestamp,
}
