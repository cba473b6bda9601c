//! How many jobs there are.

use std::sync::Arc;

use super::{ids::Name, state::StateName};

/// How many jobs of a queue and kind are in a state.
#[derive(Clone, PartialEq, Debug)]
pub struct Tally {
    /// The queue.
    pub queue: Arc<Name>,
    /// The kind.
    pub kind: Arc<Name>,
    /// The state.
    pub state: StateName,
    /// How many jobs.
    pub jobs: u64,
    /// What they count in bytes.
    pub bytes: u64,
}
