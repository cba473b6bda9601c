//! Settings of remote workers.

use std::time::Duration;

/// Settings of remote workers and their leases.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WorkerSettings {
    /// Time for which a lease lasts without a heartbeat. Heartbeats are expected three times as often.
    pub lease: Duration,
    /// Time in which a worker must answer that it has received a job.
    pub receive_within: Duration,
    /// Time between the request to stop an attempt and the end of its lease.
    pub stop_grace: Duration,
    /// Interval at which workers prove that they live.
    pub ping_every: Duration,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        WorkerSettings {
            lease: Duration::from_secs(30),
            receive_within: Duration::from_secs(10),
            stop_grace: Duration::from_secs(30),
            ping_every: Duration::from_secs(10),
        }
    }
}

impl WorkerSettings {
    /// Returns the interval at which heartbeats are expected.
    #[must_use]
    pub fn heartbeat_every(&self) -> Duration {
        self.lease / 3
    }
}
