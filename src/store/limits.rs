//! Data of limits that the engine exchanges with a store.

use std::sync::Arc;

use crate::{
    clock::StoreTime,
    job::Participant,
    settings::{LimitInfo, LimitRule},
};

/// Read of the first jobs of a lane of jobs that wait for limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LaneWant {
    /// The queue's number.
    pub queue: u32,
    /// The kind's number.
    pub kind: u32,
    /// The lane.
    pub lane: Participant,
    /// Whether suspects are left out.
    pub leaves_suspects_out: bool,
    /// Maximum number of jobs.
    pub limit: usize,
}

/// Changes of limits.
#[derive(Clone, Debug, Default)]
pub struct LimitWrites {
    /// New and changed limits.
    pub limits: Vec<LimitInfo>,
    /// Numbers of limits to delete, with all of their data, before anything else is written.
    pub deleted: Vec<u32>,
    /// Overrides that have changed: the number of the limit, the value and its rule; `None` for those to delete.
    pub overrides: Vec<(u32, Arc<str>, Option<LimitRule>)>,
    /// Values whose times have changed.
    pub values: Vec<LimitValueRow>,
}

impl LimitWrites {
    /// Returns whether nothing is written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let LimitWrites { limits, deleted, overrides, values } = self;
        limits.is_empty() && deleted.is_empty() && overrides.is_empty() && values.is_empty()
    }
}

/// The times of a value of a limit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LimitValueRow {
    /// The number of the limit.
    pub limit: u32,
    /// The value.
    pub value: Arc<str>,
    /// When all tokens of its rate are back, in nanoseconds of the time by which backoffs are counted, and the end of its
    /// pause in that time; absent once both are over.
    pub times: Option<(i64, StoreTime)>,
}

/// Limits, as read at a start.
#[derive(Clone, Debug, Default)]
pub struct LoadedLimits {
    /// All limits.
    pub limits: Vec<LimitInfo>,
    /// All overrides: the number of the limit, the value and its rule.
    pub overrides: Vec<(u32, Arc<str>, LimitRule)>,
    /// The values with spent tokens or a pause.
    pub values: Vec<LimitValueRow>,
    /// The lanes that have jobs: the numbers of queue and kind, and the lane.
    pub lanes: Vec<(u32, u32, Participant)>,
}
