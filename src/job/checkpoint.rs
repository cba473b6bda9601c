//! State that an attempt leaves for the next one.

use super::payload::Output;
use crate::clock::Timestamp;

/// Byte limit of a checkpoint's state.
pub(crate) const CHECKPOINT_MAX_BYTES: usize = 256 << 10;

/// State of an attempt for the next one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Number that the attempt gave it.
    pub number: i64,
    /// The state.
    pub state: Output,
}

impl Checkpoint {
    /// Returns its size in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.state.bytes.len() + self.state.info.bytes()
    }
}

/// A checkpoint that is on disk.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredCheckpoint {
    /// Number that its attempt gave it.
    pub number: i64,
    /// The state.
    pub state: Output,
    /// Time at which it was written.
    pub written: Timestamp,
}
