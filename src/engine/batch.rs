//! What goes into a store in one transaction.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    Ask, Control, NotAdmitted, OfferError,
    callers::{CallerId, Seat},
};
use crate::{
    clock::{Present, Timestamp, Uptime},
    engine::transition::Refusal,
    job::{
        AtLeastOne, Extras, Failure, Job, JobId, LeaseToken, Output, Progress, RequestId, RetryPolicy,
        StateName, SubmitOutcome, When,
    },
    settings::QueueInfo,
    store::Space,
};

/// What is to be applied in one transaction, in this order: controls, reports, the end of expired jobs, the next steps
/// of operations, the promotion of due jobs, offers, and then one claim step over stored and new jobs together.
#[derive(Debug, Default)]
pub struct Batch {
    /// The present.
    pub present: Present,
    /// Changes of jobs and queues that callers asked for.
    pub controls: Vec<Control>,
    /// Reports of attempts.
    pub reports: Vec<Report>,
    /// New jobs.
    pub offers: Vec<Offer>,
    /// Whether to claim jobs for free slots. False while draining; no offer then waits for room.
    pub claim: bool,
    /// What there is room for. With less than enough, jobs that are new are refused; on a full disk nothing is done but
    /// reports and controls.
    pub space: Space,
}

/// What an attempt tells.
#[derive(Debug)]
pub struct Report {
    /// The job.
    pub id: JobId,
    /// The lease under which the attempt runs.
    pub lease: LeaseToken,
    /// The message.
    pub body: ReportBody,
    /// Answered with whether the report applied.
    pub ask: Ask<(), Refusal>,
}

impl Report {
    /// The bytes that it brings.
    pub(crate) fn bytes(&self) -> u64 {
        let bytes = match &self.body {
            ReportBody::Progress(progress) => progress.text.len() + progress.step.len(),
            ReportBody::Succeeded { output, tail } => output.bytes.len() + output.info.bytes() + tail.len(),
            ReportBody::Failed { failure, tail, .. } => failure.message.len() + tail.len(),
            ReportBody::Released { .. } => 0,
        };
        bytes as u64
    }
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
    /// The jobs.
    pub jobs: AtLeastOne<NewJob>,
    /// The caller, of whom all offers count as one where waiting callers are counted.
    pub caller: CallerId,
    /// Until when it waits for room; absent where it does not wait.
    pub wait: Option<Uptime>,
    /// Why its jobs can't enter, if that is known already: asked after the request.
    pub obstacle: Option<NotAdmitted>,
    /// Its place among those that wait for room, if it has waited already.
    pub(crate) seat: Option<Seat>,
    /// Answered with the jobs.
    pub ask: Ask<Submitted, OfferError>,
}

impl Offer {
    /// An offer that has not waited yet.
    #[must_use]
    pub fn new(
        request: Option<RequestId>,
        jobs: AtLeastOne<NewJob>,
        caller: CallerId,
        wait: Option<Uptime>,
        ask: Ask<Submitted, OfferError>,
    ) -> Self {
        Offer { request, jobs, caller, wait, obstacle: None, seat: None, ask }
    }

    /// With what is known already of why its jobs can't enter.
    #[must_use]
    pub fn with_obstacle(self, obstacle: Option<NotAdmitted>) -> Self {
        Offer { obstacle, ..self }
    }

    /// What its jobs count against queues' bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.jobs.iter().map(NewJob::bytes).sum()
    }
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
    pub run_time: Option<When>,
    /// Over if no attempt has started by then.
    pub expires: Option<When>,
    /// What few jobs have.
    pub extras: Option<Box<Extras>>,
    /// The handler's input.
    pub payload: Bytes,
}

impl NewJob {
    /// What it counts against its queue's bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let extras = self.extras.as_ref().map_or(0, |extras| extras.bytes());
        self.payload.len() as u64 + extras + Job::FIXED_BYTES
    }
}

/// The jobs of a submission.
#[derive(Clone, Debug)]
pub enum Submitted {
    /// They are new.
    Created {
        /// The jobs, in the order of the offer.
        jobs: AtLeastOne<Arc<Job>>,
    },
    /// The request was seen before: these are its jobs, with consecutive ids.
    Seen {
        /// The first job.
        first: JobId,
        /// How many there were.
        count: u32,
        /// How many of them are not deleted.
        live: u32,
        /// The first job as it is now, if it is not deleted and can be read.
        job: Option<Arc<Job>>,
    },
}

impl Submitted {
    /// The id of the first job.
    #[must_use]
    pub fn first(&self) -> JobId {
        match self {
            Submitted::Created { jobs } => jobs.first.id,
            Submitted::Seen { first, .. } => *first,
        }
    }

    /// How many jobs there are, or were.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Submitted::Created { jobs } => jobs.count(),
            Submitted::Seen { count, .. } => *count as usize,
        }
    }

    /// The first job, unless it is deleted.
    #[must_use]
    pub fn first_job(&self) -> Option<&Arc<Job>> {
        match self {
            Submitted::Created { jobs } => Some(&jobs.first),
            Submitted::Seen { job, .. } => job.as_ref(),
        }
    }

    /// What became of the submission's first job.
    #[must_use]
    pub fn outcome(&self) -> SubmitOutcome {
        match self {
            Submitted::Created { .. } => SubmitOutcome::Created,
            Submitted::Seen { live: 0, .. } => SubmitOutcome::Gone,
            Submitted::Seen { count: 2.., job: None, .. } => SubmitOutcome::Gone,
            Submitted::Seen { .. } => SubmitOutcome::Repeated,
        }
    }

    /// Whether some of the jobs are deleted.
    #[must_use]
    pub fn lacks_jobs(&self) -> bool {
        match self {
            Submitted::Created { .. } => false,
            Submitted::Seen { count, live, .. } => live < count,
        }
    }

    /// Whether the jobs are new.
    #[must_use]
    pub fn is_new(&self) -> bool {
        match self {
            Submitted::Created { .. } => true,
            Submitted::Seen { .. } => false,
        }
    }
}

/// What became of a job that was to be changed.
#[derive(Clone, PartialEq, Debug)]
pub struct JobDone {
    /// The job.
    pub id: JobId,
    /// Its state after the change.
    pub state: StateName,
    /// Its revision after the change.
    pub revision: u64,
    /// Whether the request had come before: state and revision are those of that time.
    pub is_repeat: bool,
    /// The job as it is now; absent where it has been deleted since, or can't be read.
    pub job: Option<Arc<Job>>,
}

impl JobDone {
    pub(super) fn now(job: &Arc<Job>) -> Self {
        JobDone {
            id: job.id,
            state: job.state.name(),
            revision: job.revision,
            is_repeat: false,
            job: Some(Arc::clone(job)),
        }
    }
}

/// What became of a queue that was to be changed.
#[derive(Clone, PartialEq, Debug)]
pub struct QueueDone {
    /// The queue as it is now; absent where it has been deleted since the request came first.
    pub info: Option<QueueInfo>,
    /// Whether the request had come before.
    pub is_repeat: bool,
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
