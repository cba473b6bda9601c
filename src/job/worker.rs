//! Remote workers, and their part in a job.

use std::sync::Arc;

use super::ids::LeaseToken;

/// A process of a remote worker: the owner of leases.
#[derive(PartialEq, Eq, Hash, Debug)]
pub struct WorkerProcess {
    /// Number of the process in the store.
    pub(crate) number: u32,
    /// Name of the token or certificate by which it is authenticated; empty if the server requires none.
    pub(crate) subject: Box<str>,
    /// The worker's name.
    pub(crate) instance: Box<str>,
    /// The random name of the process.
    pub(crate) process: Box<str>,
}

impl WorkerProcess {
    /// Creates a process with a number of the store.
    #[must_use]
    pub fn new(number: u32, subject: &str, instance: &str, process: &str) -> Self {
        let [subject, instance, process] = [subject, instance, process].map(Into::into);
        WorkerProcess { number, subject, instance, process }
    }

    /// Returns the number of the process in the store.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Returns the worker's name.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.instance
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
    /// Lease of the latest attempt that its worker has ended by a report.
    pub reported: Option<LeaseToken>,
}

impl Remote {
    /// The value of a job in which remote workers have had no part.
    pub const NONE: Remote = Remote { worker: None, reported: None };

    /// Returns the process that runs the present attempt.
    #[must_use]
    pub fn worker(&self) -> Option<&Arc<WorkerProcess>> {
        self.worker.as_ref()
    }
}

/// State of an attempt for the next one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// Number that the attempt gave it.
    pub number: i64,
    /// The state.
    pub state: super::Output,
}
