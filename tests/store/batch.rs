//! Batches and their results as plain values, independent of the product's types.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use jobmill::{
    clock::{ClockReading, Timestamp, WakeTime},
    engine::{
        CalendarAction, CalendarDone, ControlRefusal, KeyDone, LimitAction, LimitDone, NewJob, OfferRefusal,
        PoolId, QueueFull, Registered, ReportAnswer, ReportBody, ScheduleAction, ScheduleDone, ScheduleSetup,
        SubmittedJob, WorkerHello, transition::Refusal,
    },
    job::{Change, Checkpoint, Job, JobId, JobUpdate, KeyHash, LeaseToken, Position, RequestId, StateName},
    settings::{LimitSpec, QueueInfo, QueueSettings, Retention},
    store::Space,
};

/// The setup with which a store is opened.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setup {
    pub(crate) present: ClockReading,
    /// The seed of the random part of retry delays.
    pub(crate) seed: u64,
    /// The kinds that have a handler.
    pub(crate) served_kinds: Vec<String>,
    pub(crate) native_kinds: Vec<String>,
    /// The queues that the configuration file declares.
    pub(crate) declared_queues: BTreeMap<String, QueueSettings>,
    pub(crate) retention: Retention,
    pub(crate) schedules: ScheduleSetup,
    /// The limits that the configuration file declares.
    pub(crate) limits: BTreeMap<String, LimitSpec>,
}

/// The input of one transaction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    pub(crate) present: ClockReading,
    pub(crate) controls: Vec<Control>,
    pub(crate) reports: Vec<Report>,
    /// Reports of remote workers, which come after those of the server.
    /// Further reports of the server, after the ones above, each with a checkpoint if it brings one.
    pub(crate) reports_with: Vec<(Report, Option<Checkpoint>)>,
    pub(crate) worker_reports: Vec<WorkerReport>,
    pub(crate) offers: Vec<Offer>,
    /// Whether free slots claim jobs.
    pub(crate) claim: bool,
    pub(crate) space: Space,
}

/// A report of the server on an attempt.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) id: JobId,
    pub(crate) lease: LeaseToken,
    pub(crate) body: ReportBody,
}

/// A report of a remote worker on an attempt.
#[derive(Clone, Debug)]
pub(crate) struct WorkerReport {
    /// The worker's number.
    pub(crate) worker: u32,
    pub(crate) id: JobId,
    pub(crate) lease: LeaseToken,
    pub(crate) body: ReportBody,
    pub(crate) checkpoint: Option<Checkpoint>,
}

/// A change of a job or a queue.
#[derive(Clone, Debug)]
pub(crate) enum Control {
    Cancel(JobId),
    Retry {
        id: JobId,
        request: Option<RequestId>,
    },
    /// New input for a job that has never started.
    Update(JobId, Box<JobUpdate>),
    /// Retries a job, and counts its attempts no longer.
    Reset(JobId),
    /// A retry that deletes the checkpoint.
    RetryAnew(JobId),
    Delete(JobId),
    /// A deletion although jobs depend on the job.
    ForceDelete(JobId),
    ReleaseKey(KeyHash),
    CreateQueue {
        name: String,
        settings: QueueSettings,
    },
    UpdateQueue {
        name: String,
        settings: QueueSettings,
    },
    DeleteQueue {
        name: String,
    },
    SetPaused {
        name: String,
        paused: bool,
    },
    Purge {
        name: String,
    },
    Schedule {
        name: String,
        action: ScheduleAction,
    },
    Calendar {
        name: String,
        action: CalendarAction,
    },
    Limit {
        name: String,
        action: LimitAction,
    },
    RegisterWorker(WorkerHello),
    ReviewWorkers,
    /// Another control under a request id, which makes a repeat safe.
    Repeatable(RequestId, Box<Control>),
    /// Another control by a caller that may act on this queue only and whose role was not checked before: only a repeat
    /// is answered.
    OnlyRepeat(&'static str, Box<Control>),
    /// Another control that expects this revision of the job.
    AtRevision(u64, Box<Control>),
    /// [`Control::UpdateQueue`] that expects this etag of the queue.
    UpdateQueueOf {
        name: String,
        settings: QueueSettings,
        etag: String,
    },
}

/// New jobs, accepted all or none.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) request: Option<RequestId>,
    pub(crate) jobs: Vec<NewJob>,
    /// Whether the offer waits for room, without a deadline.
    pub(crate) waits: bool,
}

/// The results of a batch, in the order of its input.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    pub(crate) controls: Vec<Result<ControlDone, ControlRefusal>>,
    pub(crate) reports: Vec<Result<(), Refusal>>,
    /// The answers to the reports of remote workers.
    pub(crate) answers: Vec<ReportAnswer>,
    pub(crate) offers: Vec<Receipt>,
    pub(crate) claims: Vec<Claim>,
    /// Jobs for remote workers.
    pub(crate) assigned: Vec<Assignment>,
    /// The leases of attempts that are to stop.
    pub(crate) cancelling: Vec<LeaseToken>,
    /// The leases of remote attempts that are to stop, each with its worker.
    pub(crate) remote_cancelling: Vec<(u32, LeaseToken)>,
    /// The leases of remote attempts that have ended, each with its worker.
    pub(crate) remote_ended: Vec<(u32, LeaseToken)>,
    /// The workers that newer processes have taken over.
    pub(crate) superseded: Vec<u32>,
    pub(crate) changes: Vec<Change>,
    /// The position of the end of the feed.
    pub(crate) position: Position,
    /// The next time at which the store has work without any input.
    pub(crate) wake: WakeTime,
    /// Whether the store has more work at once.
    pub(crate) more: bool,
    /// Whether a queue has gained room.
    pub(crate) room: bool,
    /// All queues, if one of them was created, changed or deleted.
    pub(crate) queues: Option<Vec<QueueInfo>>,
    /// The purges that ended: their numbers, and how many jobs each deleted.
    pub(crate) purged: Vec<(i64, u64)>,
    /// The purges that ended: their numbers, and how many jobs each left for the sake of others.
    pub(crate) skipped: Vec<(i64, u64)>,
    /// The results of offers of earlier batches that had waited for room.
    pub(crate) offers_that_waited: Vec<Receipt>,
}

/// The result of a control.
#[derive(Clone, Debug)]
pub(crate) enum ControlDone {
    /// The job after the control.
    Job(Arc<Job>),
    JobDeleted,
    Key(KeyDone),
    /// The queue after the control.
    Queue(QueueInfo),
    QueueDeleted,
    /// A repeat: what the first request had done to the job.
    JobRepeated {
        state: StateName,
        revision: u64,
        job: Option<Arc<Job>>,
    },
    /// A repeat: the queue of the first request, unless it is deleted.
    QueueRepeated(Option<QueueInfo>),
    Schedule(Box<ScheduleDone>),
    Calendar(CalendarDone),
    Limit(LimitDone),
    Registered(Registered),
    WorkersReviewed,
    /// The number of a purge that has begun; [`Applied::purged`] reports its end.
    PurgeBegun(i64),
}

/// The result of an offer.
#[derive(Debug)]
pub(crate) enum Receipt {
    Created {
        /// The created jobs, in the order of the offer.
        jobs: Vec<Arc<Job>>,
    },
    /// The offer was accepted, and some of its jobs met unique keys that are held.
    Met {
        /// The outcome of each job.
        jobs: Vec<SubmittedJob>,
    },
    /// A repeat of a request.
    Seen {
        /// The request's first job as it is now.
        first: Arc<Job>,
        count: u32,
    },
    /// A repeat of a request whose first job is deleted.
    Gone {
        /// The number of the request's jobs that still exist.
        live: u32,
    },
    /// A queue has no room for the offer.
    Full(QueueFull),
    /// A queue has no room for the offer, which waits.
    Waits,
    Refused(OfferRefusal),
}

/// A claimed attempt, which is to start.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) job: Arc<Job>,
    pub(crate) lease: LeaseToken,
    /// The payload, unless it is large and has to be read separately.
    pub(crate) payload: Option<Bytes>,
    /// When the job became ready, by the wall clock as it is now.
    pub(crate) ready: Timestamp,
}

/// A claimed attempt for a remote worker.
#[derive(Debug)]
pub(crate) struct Assignment {
    pub(crate) pool: PoolId,
    /// The worker's number.
    pub(crate) worker: u32,
    pub(crate) claim: Claim,
}
