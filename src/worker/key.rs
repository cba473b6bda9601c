//! The name of a lease.

use crate::{job::JobId, proto::v1};

/// Identifies a lease.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct LeaseKey {
    job: JobId,
    token: i64,
}

impl LeaseKey {
    /// Reads a lease. `None` if the job's id is not one that this version knows.
    pub(super) fn of(lease: Option<&v1::Lease>) -> Option<Self> {
        let lease = lease?;
        Some(LeaseKey { job: lease.job_id.parse().ok()?, token: lease.token })
    }

    /// Returns the lease as the protocol has it.
    pub(super) fn to_wire(self) -> v1::Lease {
        v1::Lease { job_id: self.job.to_string(), token: self.token }
    }

    pub(super) fn job(self) -> JobId {
        self.job
    }
}
