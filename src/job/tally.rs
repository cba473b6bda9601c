//! Counts of jobs.

use std::sync::Arc;

use super::{ids::Name, state::StateName};

/// Count of the jobs of a queue and kind in one state.
#[derive(Clone, PartialEq, Debug)]
pub struct Tally {
    /// The queue.
    pub queue: Arc<Name>,
    /// The kind.
    pub kind: Arc<Name>,
    /// The state.
    pub state: StateName,
    /// Number of jobs.
    pub jobs: u64,
    /// Bytes that the jobs count against their queue's limit.
    pub bytes: u64,
}
