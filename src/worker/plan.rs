//! What a worker runs, as its session needs it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use super::handlers::Registered;

/// What a worker runs, and who it is.
pub(super) struct Plan {
    pub(super) instance: String,
    pub(super) process: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) pools: Vec<PlannedPool>,
    /// The handlers, by kind.
    pub(super) handlers: HashMap<String, Arc<Registered>>,
    /// How long attempts may go on after the worker was asked to end.
    pub(super) drain_timeout: Duration,
    /// The number of attempts after which the worker ends.
    pub(super) max_jobs: Option<u64>,
    /// The time without a job after which the worker ends.
    pub(super) until_idle: Option<Duration>,
}

/// Kinds that share places.
pub(super) struct PlannedPool {
    pub(super) name: String,
    pub(super) kinds: Vec<String>,
    pub(super) queues: Vec<String>,
    pub(super) concurrency: usize,
}
