//! Why the engine refuses what it is asked for. Nothing was changed then.

use crate::job::{JobId, StateName};

/// Why a control was refused.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum ControlRefusal {
    /// No job has this id.
    #[error("no job has the id {0}")]
    JobNotFound(JobId),
    /// No queue has this name.
    #[error("no queue is named `{0}`")]
    QueueNotFound(String),
    /// The name is taken.
    #[error("a queue named `{0}` exists already")]
    QueueExists(String),
    /// The configuration file declares the queue.
    #[error("the queue `{0}` is declared in the configuration file: change it there and restart")]
    QueueDeclared(String),
    /// The queue has jobs that have not ended.
    #[error(
        "the queue `{queue}` has {jobs} jobs that have not ended: wait for them, or purge the queue first"
    )]
    QueueNotEmpty {
        /// Its name.
        queue: String,
        /// How many.
        jobs: u64,
    },
    /// There are as many queues as may be.
    #[error("there are {0} queues already, and no more are allowed: delete one that is not used")]
    TooManyQueues(usize),
    /// All queues together have as many slots as may be.
    #[error("all queues together would have {actual} consumers; at most {max} are allowed")]
    TooManyConsumers {
        /// How many there would be.
        actual: u64,
        /// How many may be.
        max: u64,
    },
    /// All queues together name as many different times of retention as may be.
    #[error(
        "all queues together would keep ended jobs for more than {0} different times: use one that another queue uses"
    )]
    TooManyRetentionTimes(usize),
    /// The job's state does not allow it.
    #[error("the job {id} is {state}: {way_out}")]
    WrongState {
        /// Which job.
        id: JobId,
        /// Its state.
        state: StateName,
        /// What would be possible.
        way_out: &'static str,
    },
    /// The job has changed since the caller looked at it.
    #[error(
        "the job {id} is at revision {revision}, and not at {expected}: look at it again, and decide anew"
    )]
    RevisionMismatch {
        /// Which job.
        id: JobId,
        /// The revision that the caller expected.
        expected: u64,
        /// The revision that it has.
        revision: u64,
    },
    /// The queue has changed since the caller looked at it.
    #[error(
        "the queue `{queue}` has changed since: get it again, or send its present etag, {etag}, or `*` to change it all \
         the same"
    )]
    EtagMismatch {
        /// Its name.
        queue: String,
        /// Its etag.
        etag: String,
    },
    /// The request id came with another request before.
    #[error("this request_id came with another request before: use a new one for a new request")]
    RequestMismatch,
    /// There is no space to write it down.
    #[error(
        "the server's disk is full, and takes only cancels and deletes until there is space: try again later"
    )]
    DiskFull,
    /// The store took nothing in time.
    #[error("{LOCKED}")]
    Locked,
    /// The queue has no room.
    #[error(transparent)]
    QueueFull(QueueFull),
}

/// What callers hear of a lock that another program holds.
const LOCKED: &str = "the server's store could not take the call in time, because another program holds the database's \
                      lock: repeat the call with the same request_id";

/// A queue has no room.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the queue `{queue}` is full: it holds {jobs} of {max_jobs} jobs and {bytes} of {max_bytes} bytes")]
pub struct QueueFull {
    /// Its name.
    pub queue: String,
    /// The jobs it holds.
    pub jobs: u64,
    /// The jobs it may hold.
    pub max_jobs: u64,
    /// The bytes it holds.
    pub bytes: u64,
    /// The bytes it may hold.
    pub max_bytes: u64,
}

/// A job that can't enter, whatever room there is.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}{error}", .index.map_or_else(String::new, |index| format!("jobs[{index}]: ")))]
pub struct NotAdmitted {
    /// Why.
    pub error: AdmissionError,
    /// Which job of a batch.
    pub index: Option<usize>,
}

/// Why a job can't enter, whatever room there is.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AdmissionError {
    /// No queue has this name.
    #[error(
        "no queue is named `{0}`: create it with QueueService.CreateQueue, or declare it in the configuration file"
    )]
    QueueNotFound(String),
    /// Nothing runs the kind.
    #[error(
        "no handler here runs the kind `{kind}` (known: {known}): map it to a handler in the configuration file, or \
         set accept_unknown_kinds on the queue `{queue}`"
    )]
    UnknownKind {
        /// The kind.
        kind: String,
        /// The queue.
        queue: String,
        /// The kinds that are run here, cut short where they are many.
        known: String,
    },
}

impl AdmissionError {
    /// The stable reason that errors carry.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            AdmissionError::QueueNotFound(_) => "QUEUE_NOT_FOUND",
            AdmissionError::UnknownKind { .. } => "UNKNOWN_KIND",
        }
    }
}

/// Why an offer was refused for good.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OfferRefusal {
    /// The request id came with another request before.
    #[error("this request_id came with another request before: use a new one for a new request")]
    RequestMismatch,
    /// A job can't enter, whatever room there is.
    #[error(transparent)]
    NotAdmitted(#[from] NotAdmitted),
    /// The offer would not fit into an empty queue.
    #[error(
        "{jobs} jobs with {bytes} bytes never fit into the queue `{queue}`, which holds at most {max_jobs} jobs and \
         {max_bytes} bytes: split the batch"
    )]
    LargerThanQueue {
        /// The queue's name.
        queue: String,
        /// The offer's jobs for it.
        jobs: u64,
        /// The offer's bytes for it.
        bytes: u64,
        /// The jobs it may hold.
        max_jobs: u64,
        /// The bytes it may hold.
        max_bytes: u64,
    },
    /// There is no space for more.
    #[error(
        "the server's disk is full, or nearly so, and takes no new jobs until there is space: try again later"
    )]
    DiskFull,
    /// The store took nothing in time.
    #[error("{LOCKED}")]
    Locked,
    /// There are as many kinds as may be.
    #[error(
        "there are jobs of {0} kinds already, and no more are allowed: end and delete those of one kind first"
    )]
    TooManyKinds(usize),
}

impl OfferRefusal {
    /// The stable reason that errors carry.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            OfferRefusal::RequestMismatch => "REQUEST_ID_REUSED",
            OfferRefusal::NotAdmitted(refused) => refused.error.reason(),
            OfferRefusal::LargerThanQueue { .. } => "LARGER_THAN_QUEUE",
            OfferRefusal::DiskFull => "DISK_FULL",
            OfferRefusal::Locked => "STORE_LOCKED",
            OfferRefusal::TooManyKinds(_) => "TOO_MANY_KINDS",
        }
    }
}

/// A call that came to nothing because the server stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// Nothing was changed: the call came too late, or it still waited for room.
    #[error("the server stops, and the call changed nothing: repeat it later")]
    Refused,
    /// The server ended before it could answer.
    #[error(
        "the server stopped, and whether the call took effect is unknown: repeat it with the same request_id"
    )]
    Unknown,
}

impl Stopped {
    /// The stable reason that errors carry. STOPPING is a definite refusal.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Stopped::Refused => "STOPPING",
            Stopped::Unknown => "OUTCOME_UNKNOWN",
        }
    }
}

/// Why a submission has no jobs.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OfferError {
    /// There was no room.
    #[error("{full}")]
    Full {
        /// The bound that was met.
        full: QueueFull,
        /// Whether it was not even possible to wait, because too many do.
        too_many_waiters: bool,
    },
    /// It was refused for good.
    #[error(transparent)]
    Refused(#[from] OfferRefusal),
    /// The server stops.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Why a control was not carried out.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum ControlError {
    /// It was refused.
    #[error(transparent)]
    Refused(#[from] ControlRefusal),
    /// The server stops.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}
