//! What goes into a store in one transaction, and what comes out.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::Space;
use crate::{
    clock::{Present, Timestamp, Wake},
    job::{
        Change, Extras, Failure, Job, JobId, LeaseToken, Output, Position, Progress, RequestId, RetryPolicy,
        StateName,
    },
    settings::{QueueInfo, QueueSettings},
    transition::Refusal,
};

/// What is to be applied in one transaction, in this order: controls, reports, the end of expired jobs, the next bites
/// of purges and of retention, the promotion of due jobs, offers, and then one claim step over stored and new jobs together.
#[derive(Debug, Default)]
pub struct Batch {
    /// The present.
    pub present: Present,
    /// What people want changed.
    pub controls: Vec<Control>,
    /// What attempts tell.
    pub reports: Vec<Report>,
    /// New jobs.
    pub offers: Vec<Offer>,
    /// Whether to claim jobs for free slots. False while draining.
    pub claim: bool,
    /// What there is room for. With less than enough, jobs that are new are refused; on a full disk nothing is done but
    /// reports and controls.
    pub space: Space,
}

/// What people want changed.
#[derive(Clone, Debug)]
pub enum Control {
    /// Cancel a job.
    Cancel(JobId),
    /// Run a job again, or now.
    Retry {
        /// Which job.
        id: JobId,
        /// Makes a repeat safe.
        request: Option<RequestId>,
    },
    /// Delete a job.
    Delete(JobId),
    /// Create a queue.
    CreateQueue {
        /// Its name.
        name: String,
        /// How it is set up.
        settings: QueueSettings,
    },
    /// Replace a queue's settings.
    UpdateQueue {
        /// Its name.
        name: String,
        /// How it is set up from now on.
        settings: QueueSettings,
    },
    /// Delete a queue.
    DeleteQueue {
        /// Its name.
        name: String,
    },
    /// Pause or resume a queue.
    SetPaused {
        /// Its name.
        name: String,
        /// Whether it starts no jobs from now on.
        paused: bool,
    },
    /// Delete all jobs that wait in a queue now. Done in bites over several batches.
    Purge {
        /// The queue's name.
        name: String,
    },
}

/// What became of a control.
#[derive(Clone, Debug)]
pub enum ControlDone {
    /// The job after it.
    Job(Arc<Job>),
    /// The job is gone.
    JobDeleted,
    /// The queue after it.
    Queue(QueueInfo),
    /// The queue is gone.
    QueueDeleted,
    /// The purge with this number has begun; [`Applied::purged`] tells its end.
    PurgeBegun(i64),
}

/// Why a control was refused. Nothing changed.
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

/// What an attempt tells.
#[derive(Debug)]
pub struct Report {
    /// Of which job.
    pub id: JobId,
    /// Under which lease.
    pub lease: LeaseToken,
    /// What.
    pub body: ReportBody,
}

/// What an attempt tells of itself.
#[derive(Clone, Debug)]
pub enum ReportBody {
    /// How far it is.
    Progress(Arc<Progress>),
    /// It did the work.
    Succeeded {
        /// What it returned.
        output: Output,
        /// The end of what it wrote.
        tail: String,
    },
    /// It did not do the work.
    Failed {
        /// Why.
        failure: Arc<Failure>,
        /// Its own wish for the delay to the next attempt.
        delay: Option<Duration>,
        /// The end of what it wrote.
        tail: String,
    },
    /// It never started.
    Released {
        /// How long its job is not ready again, if it is not at once.
        delay: Option<Duration>,
    },
}

/// New jobs, all or none.
#[derive(Debug)]
pub struct Offer {
    /// Makes a repeat safe.
    pub request: Option<RequestId>,
    /// The jobs: at least one.
    pub jobs: Vec<NewJob>,
    /// Whether others already wait for room in its queue, so that it must wait behind them unless it is a repeat.
    pub behind_waiters: bool,
}

/// A job that may be accepted.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// The queue's name.
    pub queue: Arc<str>,
    /// The kind's name.
    pub kind: Arc<str>,
    /// −100 to 100.
    pub priority: i8,
    /// How many attempts may start.
    pub max_attempts: u32,
    /// How long to wait between them.
    pub retry: RetryPolicy,
    /// How long one may take.
    pub attempt_timeout: Duration,
    /// Not to be run before this instant.
    pub run_time: Option<Timestamp>,
    /// Over if no attempt has started by then.
    pub expires: Option<Timestamp>,
    /// What few jobs have.
    pub extras: Option<Box<Extras>>,
    /// The handler's input.
    pub payload: Bytes,
}

impl NewJob {
    /// What every job counts against its queue's bytes, beside payload and labels.
    pub const FIXED_BYTES: u64 = 256;

    /// What it counts against its queue's bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let labels = self.extras.as_ref().map_or(0, |extras| {
            extras.labels.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>()
        });
        (self.payload.len() + labels) as u64 + Self::FIXED_BYTES
    }
}

/// What became of an offer.
#[derive(Debug)]
pub enum Receipt {
    /// The jobs are kept.
    Created {
        /// The jobs, in the order of the offer.
        jobs: Vec<Arc<Job>>,
    },
    /// The request was seen before: these are its jobs, with consecutive ids.
    Seen {
        /// The first job as it is now.
        first: Arc<Job>,
        /// How many there are.
        count: u32,
    },
    /// A queue has no room. The offer comes back, for those who wait.
    Full {
        /// The offer.
        offer: Offer,
        /// Which bound was met.
        full: QueueFull,
    },
    /// Refused for good.
    Refused(OfferRefusal),
}

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

/// Why an offer was refused for good. Nothing changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OfferRefusal {
    /// The request id came with another request before.
    #[error("this request_id came with another request before: use a new one for a new request")]
    RequestMismatch,
    /// The request was seen before, and its job has been deleted since.
    #[error("the job that this request_id created has been deleted")]
    JobDeleted,
    /// No queue has this name.
    #[error("no queue is named `{0}`")]
    QueueNotFound(String),
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
    #[error("there are {0} kinds already, and no more are allowed")]
    TooManyKinds(usize),
}

impl OfferRefusal {
    /// The stable reason that errors carry.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            OfferRefusal::RequestMismatch => "REQUEST_ID_REUSED",
            OfferRefusal::JobDeleted => "JOB_DELETED",
            OfferRefusal::QueueNotFound(_) => "QUEUE_NOT_FOUND",
            OfferRefusal::LargerThanQueue { .. } => "LARGER_THAN_QUEUE",
            OfferRefusal::DiskFull => "DISK_FULL",
            OfferRefusal::Locked => "STORE_LOCKED",
            OfferRefusal::TooManyKinds(_) => "TOO_MANY_KINDS",
        }
    }
}

/// What a batch came to.
#[derive(Debug, Default)]
pub struct Applied {
    /// What became of the controls, in their order.
    pub controls: Vec<Result<ControlDone, ControlRefusal>>,
    /// What became of the reports, in their order.
    pub reports: Vec<Result<(), Refusal>>,
    /// What became of the offers, in their order.
    pub offers: Vec<Receipt>,
    /// The attempts that are to start now.
    pub claims: Vec<Claim>,
    /// The attempts that are to stop now.
    pub cancelling: Vec<LeaseToken>,
    /// What changed, in order.
    pub changes: Vec<Change>,
    /// The feed's end.
    pub position: Position,
    /// When there is something to do next without any input: a waiting job is due, or something is to be deleted.
    pub wake: Wake,
    /// Whether there is more to do at once that did not fit into this batch.
    pub more: bool,
    /// Whether a queue has got more room.
    pub room: bool,
    /// The queues, if one was created, changed or deleted.
    pub queues: Option<Vec<QueueInfo>>,
    /// The purges that have ended, with the number of deleted jobs.
    pub purged: Vec<(i64, u64)>,
    /// Nothing of the batch is kept, and the store goes on.
    pub unapplied: Option<Box<Unapplied>>,
    /// What it took to make the batch durable.
    pub flush: Duration,
}

/// A batch of which nothing is kept.
#[derive(Debug)]
pub struct Unapplied {
    /// The batch, as far as the obstacle leaves it.
    pub batch: Batch,
    /// What was in the way.
    pub obstacle: Obstacle,
}

/// What keeps a store from taking a batch for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Obstacle {
    /// The disk is full. The batch's offers are gone; its reports and controls are as they were.
    DiskFull,
    /// Another program holds the database's lock. The batch is whole.
    Locked,
}

/// An attempt that is to start: its job is RUNNING, and that is on disk.
#[derive(Debug)]
pub struct Claim {
    /// The job.
    pub job: Arc<Job>,
    /// Its lease.
    pub lease: LeaseToken,
    /// Its payload; absent where it is large and has to be read.
    pub payload: Option<Bytes>,
    /// Since when it could have run, as the wall clock as it is now would have said it.
    pub ready: Timestamp,
}
