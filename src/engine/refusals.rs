//! Refusals of the engine. A refused request has changed nothing.

use super::{limits::LimitRefusal, schedules::ScheduleRefusal};
use crate::{
    clock::Timestamp,
    job::{DependencyTarget, JobId, StateName},
};

/// Reason for the refusal of a control.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum ControlRefusal {
    /// No job has this id.
    #[error("no job has the id {0}")]
    JobNotFound(JobId),
    /// No queue has this name.
    #[error("no queue is named `{0}`")]
    QueueNotFound(String),
    /// The name is in use.
    #[error("a queue named `{0}` exists already")]
    QueueExists(String),
    /// The queue is declared in the configuration file, and can't be changed by RPC.
    #[error("the queue `{0}` is declared in the configuration file: change it there and restart")]
    QueueDeclared(String),
    /// The queue has jobs that have not ended.
    #[error(
        "the queue `{queue}` has {jobs} jobs that have not ended: wait for them, or purge the queue first"
    )]
    QueueNotEmpty {
        /// The queue's name.
        queue: String,
        /// Number of jobs that have not ended.
        jobs: u64,
    },
    /// The number of queues is at its limit.
    #[error("there are {0} queues already, and no more are allowed: delete one that is not used")]
    TooManyQueues(usize),
    /// The total number of consumers of all queues would exceed its limit.
    #[error("all queues together would have {actual} consumers; at most {max} are allowed")]
    TooManyConsumers {
        /// The total that was requested.
        actual: u64,
        /// The limit.
        max: u64,
    },
    /// The number of different retention times of all queues would exceed its limit.
    #[error(
        "all queues together would keep ended jobs for more than {0} different times: use one that another queue uses"
    )]
    TooManyRetentionTimes(usize),
    /// The job's state does not allow it.
    #[error("the job {id} is {state}: {way_out}")]
    WrongState {
        /// The job.
        id: JobId,
        /// Its state.
        state: StateName,
        /// What the caller can do instead.
        way_out: &'static str,
    },
    /// The job's deadline has passed, so that no further attempt may start.
    #[error("the deadline of the job {id}, {deadline}, has passed: submit its spec again, with another deadline")]
    DeadlinePassed {
        /// The job.
        id: JobId,
        /// Its deadline.
        deadline: Timestamp,
    },
    /// Another job holds the unique key of the job.
    #[error(
        "the job {id} can't start again: its unique key {key:?} is held by the job {holder}{}: cancel that job or wait for \
         its end, or release the key",
        told_state(*.state)
    )]
    KeyHeld {
        /// The job.
        id: JobId,
        /// Its key.
        key: String,
        /// The job that holds the key, or held it last.
        holder: JobId,
        /// The state of that job; absent if it is deleted.
        state: Option<StateName>,
    },
    /// The end of the job has not reached all jobs that depend on it.
    #[error("jobs that depend on the job {0} are still being told of its end: repeat the call in a moment")]
    ChildrenAreTold(JobId),
    /// Other jobs depend on the job.
    #[error(
        "the job {child} depends on the job {id}, and has not ended: delete that one first or wait for its end, or use `force`, \
         with which it is told that the job was unsuccessful, unless it is told of its end already"
    )]
    HasDependents {
        /// The job.
        id: JobId,
        /// A job that depends on it.
        child: JobId,
    },
    /// Nothing holds the unique key.
    #[error("nothing holds the unique key {0:?} in this scope: list the keys with ListUniqueKeys")]
    KeyNotFound(String),
    /// The job has changed since the caller read it.
    #[error(
        "the job {id} is at revision {revision}, and not at {expected}: look at it again, and decide anew"
    )]
    RevisionMismatch {
        /// The job.
        id: JobId,
        /// The revision that the caller expected.
        expected: u64,
        /// The job's present revision.
        revision: u64,
    },
    /// The queue has changed since the caller read it.
    #[error(
        "the queue `{queue}` has changed since: get it again, or send its present etag, {etag}, or `*` to change it all \
         the same"
    )]
    EtagMismatch {
        /// The queue's name.
        queue: String,
        /// The queue's present etag.
        etag: String,
    },
    /// The request id was used for a different request before.
    #[error("this request_id came with another request before: use a new one for a new request")]
    RequestMismatch,
    /// The disk has no space for the change.
    #[error(
        "the server's disk is full, and takes only cancels and deletes until there is space: try again later"
    )]
    DiskFull,
    /// The store was locked by another program until the caller's deadline.
    #[error("{LOCKED}")]
    Locked,
    /// The queue has no room.
    #[error(transparent)]
    QueueFull(QueueFull),
    /// The number of kinds is at its limit.
    #[error("{}", too_many_kinds(*.0))]
    TooManyKinds(usize),
    /// A job can't be admitted, independent of the queue's room.
    #[error(transparent)]
    NotAdmitted(NotAdmitted),
    /// A job exceeds the limits of an empty queue.
    #[error(transparent)]
    NeverFits(OfferRefusal),
    /// The change concerns a schedule or a calendar.
    #[error(transparent)]
    Schedule(#[from] ScheduleRefusal),
    /// The change concerns a limit.
    #[error(transparent)]
    Limit(#[from] LimitRefusal),
    /// The number of workers is at its limit.
    #[error("there are {0} workers already, and no more are allowed: end some, or give workers that restart a fixed \
             instance")]
    TooManyWorkers(usize),
    /// A newer process has taken over the worker's instance.
    #[error(
        "a newer process has taken over the instance `{0}`: end this one, and give each worker that runs at the same \
         time an instance of its own"
    )]
    WorkerSuperseded(String),
}

fn told_state(state: Option<StateName>) -> String {
    state.map_or_else(|| ", which is deleted".to_owned(), |state| format!(", which is {state}"))
}

fn told_index(index: Option<usize>) -> String {
    index.map_or_else(String::new, |index| format!("jobs[{index}]: "))
}

fn told_party(holder: Option<JobId>) -> String {
    holder.map_or_else(|| "an earlier job of the batch".to_owned(), |holder| format!("the job {holder}"))
}

fn told_holder(holder: Option<JobId>, state: Option<StateName>) -> String {
    match holder {
        Some(holder) => format!("the job {holder}{}", told_state(state)),
        None => "an earlier job of the batch".to_owned(),
    }
}

fn told_missing(on: DependencyTarget) -> String {
    match on {
        DependencyTarget::Job(id) => format!(
            "no job has the id {id}; it may be deleted, as retention does some time after the end: leave the dependency out"
        ),
        DependencyTarget::Item(index) => format!("the batch has no job with the index {index}"),
    }
}

/// Limit of the jobs of a cycle that its error shows.
const CYCLE_SHOWN: usize = 20;

fn told_cycle(path: &[usize]) -> String {
    let mut told: Vec<String> = path.iter().take(CYCLE_SHOWN).map(|index| format!("jobs[{index}]")).collect();
    match path.len() - told.len() {
        0 => told.extend(told.first().cloned()),
        more => told.push(format!("{more} more")),
    }
    told.join(" depends on ")
}

fn too_many_kinds(limit: usize) -> String {
    format!(
        "there are jobs of {limit} kinds already, and no more are allowed: end and delete those of one kind first"
    )
}

/// Error text for a lock that another program holds on the database.
const LOCKED: &str = "the server's store could not take the call in time, because another program holds the database's \
                      lock: repeat the call with the same request_id";

/// A full queue, with its usage and limits.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the queue `{queue}` is full: it holds {jobs} of {max_jobs} jobs and {bytes} of {max_bytes} bytes")]
pub struct QueueFull {
    /// The queue's name.
    pub queue: String,
    /// Jobs in the queue that have not ended.
    pub jobs: u64,
    /// Job limit of the queue.
    pub max_jobs: u64,
    /// Bytes of these jobs.
    pub bytes: u64,
    /// Byte limit of the queue.
    pub max_bytes: u64,
}

/// The error of a job that can't be admitted, independent of the queue's room.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}{error}", .index.map_or_else(String::new, |index| format!("jobs[{index}]: ")))]
pub struct NotAdmitted {
    /// The error.
    pub error: Box<AdmissionError>,
    /// Index of the job in a batch.
    pub index: Option<usize>,
}

/// Reason why a job can't be admitted, independent of the queue's room.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AdmissionError {
    /// No queue has this name.
    #[error(
        "no queue is named `{0}`: create it with QueueService.CreateQueue, or declare it in the configuration file"
    )]
    QueueNotFound(String),
    /// No handler is registered for the kind.
    #[error(
        "no handler here and no worker runs the kind `{kind}` (known: {known}): map it to a handler in the \
         configuration file, start a worker that runs it, or set accept_unknown_kinds on the queue `{queue}`"
    )]
    UnknownKind {
        /// The kind.
        kind: String,
        /// The queue.
        queue: String,
        /// The kinds with a handler here, shortened if they are many.
        known: String,
    },
    /// The submission asks for more than the kind allows.
    #[error("the kind `{kind}` allows a {field} of at most {bound}, and this is {value}: ask for less, or have the operator \
             raise the kind's bounds")]
    OverBound {
        /// The kind.
        kind: String,
        /// The field.
        field: &'static str,
        /// The largest value.
        bound: String,
        /// The value of the submission.
        value: String,
    },
}

impl AdmissionError {
    /// Returns the stable reason code of the API's error.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            AdmissionError::QueueNotFound(_) => "QUEUE_NOT_FOUND",
            AdmissionError::UnknownKind { .. } => "UNKNOWN_KIND",
            AdmissionError::OverBound { .. } => "OVER_BOUND",
        }
    }
}

/// Reason for the final refusal of an offer.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OfferRefusal {
    /// The request id was used for a different request before.
    #[error("this request_id came with another request before: use a new one for a new request")]
    RequestMismatch,
    /// A job can't be admitted, independent of the queue's room.
    #[error(transparent)]
    NotAdmitted(#[from] NotAdmitted),
    /// The offer exceeds the limits of an empty queue.
    #[error(
        "{jobs} jobs with {bytes} bytes never fit into the queue `{queue}`, which holds at most {max_jobs} jobs and \
         {max_bytes} bytes: split the batch"
    )]
    LargerThanQueue {
        /// The queue's name.
        queue: String,
        /// Number of the offer's jobs for the queue.
        jobs: u64,
        /// Bytes of these jobs.
        bytes: u64,
        /// Job limit of the queue.
        max_jobs: u64,
        /// Byte limit of the queue.
        max_bytes: u64,
    },
    /// The disk has no space for new jobs.
    #[error(
        "the server's disk is full, or nearly so, and takes no new jobs until there is space: try again later"
    )]
    DiskFull,
    /// The store was locked by another program until the caller's deadline.
    #[error("{LOCKED}")]
    Locked,
    /// The number of kinds is at its limit.
    #[error("{}", too_many_kinds(*.0))]
    TooManyKinds(usize),
    /// A job has a weight under a limit that does not exist.
    #[error(
        "{}weights[{limit:?}]: no limit has this name: leave the weight out, or create the limit with LimitService.CreateLimit",
        told_index(*.index)
    )]
    WeightOfUnknownLimit {
        /// The limit's name.
        limit: String,
        /// Index of the job in a batch.
        index: Option<usize>,
    },
    /// A job weighs more than a limit allows.
    #[error(
        "{}weights[{limit:?}]: the job weighs {weight}, and the limit `{limit}` allows its value {value:?} at most {max}: split \
         the job, or raise the limit",
        told_index(*.index)
    )]
    TooHeavy {
        /// The limit's name.
        limit: String,
        /// The value of the limit.
        value: String,
        /// The job's weight.
        weight: u32,
        /// The largest weight that could start.
        max: u32,
        /// Index of the job in a batch.
        index: Option<usize>,
    },
    /// Another job holds the unique key.
    #[error(
        "{}the unique key {key:?} is held by {}: wait for its end, or submit with another policy than REJECT",
        told_index(*.index),
        told_holder(*.holder, *.state)
    )]
    KeyHeld {
        /// The key.
        key: String,
        /// The job that holds it, or held it last; absent if it is a job of the same offer.
        holder: Option<JobId>,
        /// The state of that job; absent if it is deleted, or of the same offer.
        state: Option<StateName>,
        /// Index of the refused job in a batch.
        index: Option<usize>,
    },
    /// The job that holds the unique key, or follows the holder, can't take over the input.
    #[error(
        "{}the unique key {key:?} is held by {}, which can't take over the input, because its {field} is another one: give both \
         the same {field}, or another key",
        told_index(*.index),
        told_party(*.holder)
    )]
    KeyConflict {
        /// The key.
        key: String,
        /// The job; absent if it is a job of the same offer.
        holder: Option<JobId>,
        /// The field that differs.
        field: &'static str,
        /// Index of the refused job in a batch.
        index: Option<usize>,
    },
    /// Another job holds the unique key, and jobs of the offer have dependencies.
    #[error(
        "{}the unique key {key:?} is held by {}, and jobs with `depends_on`, and those beside them, have to be new ones: wait \
         for its end, or leave the key out",
        told_index(*.index),
        told_holder(*.holder, *.state)
    )]
    KeyHeldBesideDependencies {
        /// The key.
        key: String,
        /// The job that holds it, or held it last; absent if it is a job of the same offer.
        holder: Option<JobId>,
        /// The state of that job; absent if it is deleted, or of the same offer.
        state: Option<StateName>,
        /// Index of the refused job in a batch.
        index: Option<usize>,
    },
    /// A job depends on one that does not exist.
    #[error("{}depends_on[{place}]: {}", told_index(*.index), told_missing(*.on))]
    DependencyNotFound {
        /// Index of the job in a batch.
        index: Option<usize>,
        /// Index of the dependency.
        place: usize,
        /// The missing job.
        on: DependencyTarget,
    },
    /// Jobs of a batch wait for each other in a circle.
    #[error("{}: none of these jobs could ever start: leave one of these dependencies out", told_cycle(.0))]
    DependencyCycle(Vec<usize>),
}

impl OfferRefusal {
    /// Returns the stable reason code of the API's error.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            OfferRefusal::RequestMismatch => "REQUEST_ID_REUSED",
            OfferRefusal::NotAdmitted(refused) => refused.error.reason(),
            OfferRefusal::LargerThanQueue { .. } => "LARGER_THAN_QUEUE",
            OfferRefusal::DiskFull => "DISK_FULL",
            OfferRefusal::Locked => "STORE_LOCKED",
            OfferRefusal::TooManyKinds(_) => "TOO_MANY_KINDS",
            OfferRefusal::WeightOfUnknownLimit { .. } => "LIMIT_NOT_FOUND",
            OfferRefusal::TooHeavy { .. } => "TOO_HEAVY",
            OfferRefusal::KeyHeld { .. } => "KEY_HELD",
            OfferRefusal::KeyConflict { .. } => "KEY_CONFLICT",
            OfferRefusal::KeyHeldBesideDependencies { .. } => "KEY_HELD",
            OfferRefusal::DependencyNotFound { .. } => "DEPENDENCY_NOT_FOUND",
            OfferRefusal::DependencyCycle(_) => "DEPENDENCY_CYCLE",
        }
    }
}

/// Failure of a call because the server stops.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// The call changed nothing: it came too late, or still waited for room.
    #[error("the server is stopping, and the call changed nothing: repeat it later")]
    Refused,
    /// The server ended before it could answer.
    #[error(
        "the server stopped, and whether the call took effect is unknown: repeat it with the same request_id"
    )]
    Unknown,
}

impl Stopped {
    /// Returns the stable reason code of the API's error. STOPPING means that nothing was changed.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Stopped::Refused => "STOPPING",
            Stopped::Unknown => "OUTCOME_UNKNOWN",
        }
    }
}

/// Reason for the failure of a submission.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OfferError {
    /// The queue had no room.
    #[error("{full}")]
    Full {
        /// The queue's usage and limits.
        full: QueueFull,
        /// Whether waiting was refused, too, because too many callers wait.
        too_many_waiters: bool,
    },
    /// The submission was refused.
    #[error(transparent)]
    Refused(#[from] OfferRefusal),
    /// The server stops.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Reason for the failure of a control.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum ControlError {
    /// It was refused.
    #[error(transparent)]
    Refused(#[from] ControlRefusal),
    /// The server stops.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}
