//! Remote workers, and their part in a job.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ids::LeaseToken;

/// The owner of a lease: what identifies a process of a remote worker for ever, unlike its number in the store, which
/// another process may get once it is forgotten.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct LeaseOwner {
    /// Name of the token or certificate by which it is authenticated; empty if the server requires none.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub(crate) subject: Box<str>,
    /// The worker's name.
    pub(crate) instance: Box<str>,
    /// The random name of the process.
    pub(crate) process: Box<str>,
}

impl LeaseOwner {
    /// Returns the worker's name.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.instance
    }
}

/// A process of a remote worker.
#[derive(PartialEq, Eq, Hash, Debug)]
pub struct WorkerProcess {
    /// Number of the process in the store.
    pub(crate) number: u32,
    /// The process as the owner of leases.
    pub(crate) owner: Arc<LeaseOwner>,
}

impl WorkerProcess {
    /// Creates a process with a number of the store.
    #[must_use]
    pub fn new(number: u32, subject: &str, instance: &str, process: &str) -> Self {
        let [subject, instance, process] = [subject, instance, process].map(Into::into);
        WorkerProcess { number, owner: Arc::new(LeaseOwner { subject, instance, process }) }
    }

    /// Returns the number of the process in the store.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Returns the worker's name.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.owner.instance
    }

    /// Returns the process as the owner of leases.
    #[must_use]
    pub fn owner(&self) -> &Arc<LeaseOwner> {
        &self.owner
    }
}

/// A registered remote worker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorkerRow {
    /// The worker's present process.
    pub process: Arc<WorkerProcess>,
    /// Names of earlier processes of the instance, which may not come back.
    pub predecessors: Vec<String>,
    /// Number of starts of the server since the worker's last hello.
    pub starts: u32,
}

/// The part of remote workers in a job.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Remote {
    /// The process that runs the present attempt; absent if this server runs it, or none runs.
    pub worker: Option<Arc<WorkerProcess>>,
    /// The latest attempt that its worker has ended by a report.
    pub reported: Option<Arc<ReportedEnd>>,
}

/// An attempt that its worker has ended by a report.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReportedEnd {
    /// The attempt's lease.
    pub lease: LeaseToken,
    /// The attempt's number.
    pub attempt: u32,
    /// The worker's process, whose repeats of the report are answered as the first one.
    pub owner: Arc<LeaseOwner>,
}

impl Remote {
    /// The value of a job in which remote workers have had no part.
    pub const NONE: Remote = Remote { worker: None, reported: None };

    /// Returns the process that runs the present attempt.
    #[must_use]
    pub fn worker(&self) -> Option<&Arc<WorkerProcess>> {
        self.worker.as_ref()
    }

    /// Returns the owner of the attempt with this number, if a remote worker runs it now or has ended it by a report.
    #[must_use]
    pub fn owner_of(&self, attempt: u32) -> Option<&Arc<LeaseOwner>> {
        let reported = self.reported.as_ref().filter(|reported| reported.attempt == attempt);
        self.worker.as_ref().map(|worker| worker.owner()).or(reported.map(|reported| &reported.owner))
    }
}
