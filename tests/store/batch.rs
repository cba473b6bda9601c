//! Batches and their results as the tests see them: plain values, whatever form the store takes them in.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use jobmill::{
    clock::{Present, Timestamp, Wake},
    engine::{ControlRefusal, NewJob, OfferRefusal, QueueFull, ReportBody, transition::Refusal},
    job::{Change, Job, JobId, LeaseToken, Position, RequestId, StateName},
    settings::{QueueInfo, QueueSettings, Retention},
    store::Space,
};

/// The start of a store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setup {
    pub(crate) present: Present,
    /// The seed of the random part of retry delays.
    pub(crate) seed: u64,
    /// The kinds that have a handler.
    pub(crate) served_kinds: Vec<String>,
    /// The queues that the configuration file declares.
    pub(crate) declared_queues: BTreeMap<String, QueueSettings>,
    pub(crate) retention: Retention,
}

/// The input of one transaction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    pub(crate) present: Present,
    pub(crate) controls: Vec<Control>,
    pub(crate) reports: Vec<Report>,
    pub(crate) offers: Vec<Offer>,
    /// Whether free slots take jobs.
    pub(crate) claim: bool,
    pub(crate) space: Space,
}

/// A report of an attempt.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) id: JobId,
    pub(crate) lease: LeaseToken,
    pub(crate) body: ReportBody,
}

/// A change of a job or a queue.
#[derive(Clone, Debug)]
pub(crate) enum Control {
    Cancel(JobId),
    Retry {
        id: JobId,
        request: Option<RequestId>,
    },
    Delete(JobId),
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
    /// As another one, with what makes a repeat safe.
    Repeatable(RequestId, Box<Control>),
    /// As another one, of a caller that was not asked whether it may, and may on this queue only.
    OnlyRepeat(&'static str, Box<Control>),
    /// As another one, if the job is at this revision.
    AtRevision(u64, Box<Control>),
    /// As [`Control::UpdateQueue`], if the queue has this etag.
    UpdateQueueOf {
        name: String,
        settings: QueueSettings,
        etag: String,
    },
}

/// New jobs, all or none.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) request: Option<RequestId>,
    pub(crate) jobs: Vec<NewJob>,
    /// Whether it waits for room, for as long as it takes.
    pub(crate) waits: bool,
}

/// The result of a batch, in the order of its input.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    pub(crate) controls: Vec<Result<ControlDone, ControlRefusal>>,
    pub(crate) reports: Vec<Result<(), Refusal>>,
    pub(crate) offers: Vec<Receipt>,
    pub(crate) claims: Vec<Claim>,
    /// The attempts that are to stop.
    pub(crate) cancelling: Vec<LeaseToken>,
    pub(crate) changes: Vec<Change>,
    /// The end of the feed.
    pub(crate) position: Position,
    /// The next time at which there is something to do without any input.
    pub(crate) wake: Wake,
    /// Whether there is more to do at once.
    pub(crate) more: bool,
    /// Whether a queue has gained room.
    pub(crate) room: bool,
    /// All queues, if one was created, changed or deleted.
    pub(crate) queues: Option<Vec<QueueInfo>>,
    /// The purges that ended: their numbers, and how many jobs they deleted.
    pub(crate) purged: Vec<(i64, u64)>,
    /// The results of offers of earlier batches that waited for room.
    pub(crate) offers_that_waited: Vec<Receipt>,
}

/// The result of a control.
#[derive(Clone, Debug)]
pub(crate) enum ControlDone {
    /// The job after it.
    Job(Arc<Job>),
    JobDeleted,
    /// The queue after it.
    Queue(QueueInfo),
    QueueDeleted,
    /// What a request that came before had done to a job.
    JobRepeated {
        state: StateName,
        revision: u64,
        job: Option<Arc<Job>>,
    },
    /// The queue of a request that came before, unless it is deleted.
    QueueRepeated(Option<QueueInfo>),
    /// The number of a purge that has begun; [`Applied::purged`] tells its end.
    PurgeBegun(i64),
}

/// The result of an offer.
#[derive(Debug)]
pub(crate) enum Receipt {
    Created {
        /// The jobs, in the order of the offer.
        jobs: Vec<Arc<Job>>,
    },
    /// A repeat.
    Seen {
        /// The first job of the request as it is now.
        first: Arc<Job>,
        count: u32,
    },
    /// A repeat whose first job is deleted.
    Gone {
        /// How many of its jobs are not.
        live: u32,
    },
    /// A queue has no room for it.
    Full(QueueFull),
    /// A queue has no room for it, and it waits.
    Waits,
    Refused(OfferRefusal),
}

/// An attempt that is to start.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) job: Arc<Job>,
    pub(crate) lease: LeaseToken,
    /// The payload, unless it is large and has to be read.
    pub(crate) payload: Option<Bytes>,
    /// Since when the job could have run, by the wall clock as it is now.
    pub(crate) ready: Timestamp,
}
