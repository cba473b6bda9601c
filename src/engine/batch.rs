//! The input of one transaction: controls, reports and offers.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    Control, NotAdmitted, OfferError, ReplySlot,
    callers::{CallerId, Seat},
};
use crate::{
    clock::{ClockReading, Timestamp, Uptime},
    engine::transition::Refusal,
    job::{
        AtLeastOne, Checkpoint, Dependency, Extras, Failure, Job, JobId, LeaseToken, Output, Progress, RequestId, RetryPolicy,
        ScheduleId, StateName, SubmitOutcome, When, WorkerProcess,
    },
    settings::QueueInfo,
    store::Space,
};

/// The input of one transaction, applied in this order: controls, reports, expiry of jobs, the next steps of
/// operations, promotion of due jobs, offers, and then one claim step over stored and new jobs together.
#[derive(Debug, Default)]
pub struct Batch {
    /// The present time.
    pub present: ClockReading,
    /// Mutations of jobs and queues requested by callers.
    pub controls: Vec<Control>,
    /// Reports of attempts.
    pub reports: Vec<Report>,
    /// Submissions of new jobs.
    pub offers: Vec<Offer>,
    /// Whether to claim jobs for free slots. False while draining, when no offer waits for room either.
    pub claim: bool,
    /// Free disk space. With less than enough, new jobs are refused; on a full disk only reports and controls are
    /// applied.
    pub space: Space,
}

/// A report of an attempt.
#[derive(Debug)]
pub struct Report {
    /// The job.
    pub id: JobId,
    /// The lease under which the attempt runs.
    pub lease: LeaseToken,
    /// The content.
    pub body: ReportBody,
    /// The reporter.
    pub from: Reporter,
    /// State for the job's next attempt. It is kept unless the attempt has succeeded.
    pub checkpoint: Option<Box<Checkpoint>>,
    /// Reply channel: whether the report applied.
    pub ask: ReplySlot<(), Refusal>,
}

/// The reporter of an attempt.
#[derive(Clone, Debug)]
pub enum Reporter {
    /// The server, which runs the attempt itself, or takes a lease back from a worker.
    Server,
    /// A process of a remote worker, and the sink of the answer.
    Worker(Arc<WorkerProcess>, Arc<dyn AnswerSink>),
}

/// Receiver of the answers to a remote worker's reports. It is called on the committer's thread, and must not wait.
pub trait AnswerSink: Send + Sync + std::fmt::Debug {
    /// Takes the answer to a report, which is on disk.
    fn answer(&self, answer: ReportAnswer);
}

/// The answer to a remote worker's report.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReportAnswer {
    /// The job.
    pub id: JobId,
    /// The lease.
    pub lease: LeaseToken,
    /// Whether the report was a final one.
    pub is_final: bool,
    /// Number of the checkpoint that came with the report.
    pub checkpoint: Option<i64>,
    /// Whether the report applied.
    pub result: Result<(), Refusal>,
}

impl Report {
    /// Creates a report of the server, which gets no answer.
    #[must_use]
    pub fn of_server(id: JobId, lease: LeaseToken, body: ReportBody) -> Self {
        Report { id, lease, body, from: Reporter::Server, checkpoint: None, ask: ReplySlot::unheard() }
    }

    /// Adds a reply channel, and returns its receiver: whether the report applied, once that is on disk. The sender is
    /// dropped where the report did not fit on a full disk.
    pub(crate) fn with_answer(self) -> (Self, oneshot::Receiver<Result<(), Refusal>>) {
        let (ask, answer) = ReplySlot::new(Uptime::MAX);
        (Report { ask, ..self }, answer)
    }

    /// Returns whether the report ends its attempt.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match &self.body {
            ReportBody::Progress(_) | ReportBody::Checkpoint => false,
            ReportBody::Succeeded { .. }
            | ReportBody::Failed { .. }
            | ReportBody::Snoozed { .. }
            | ReportBody::Released { .. } => true,
        }
    }

    /// Returns the size of its contents in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        let bytes = match &self.body {
            ReportBody::Progress(progress) => progress.text.len() + progress.step.len(),
            ReportBody::Succeeded { output, tail } => output.bytes.len() + output.info.bytes() + tail.len(),
            ReportBody::Failed { failure, tail, .. } => failure.message.len() + tail.len(),
            ReportBody::Snoozed { tail, .. } => tail.len(),
            ReportBody::Released { .. } | ReportBody::Checkpoint => 0,
        };
        let checkpoint = self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.bytes());
        (bytes + checkpoint) as u64
    }
}

/// The content of an attempt's report.
#[derive(Clone, Debug)]
pub enum ReportBody {
    /// The attempt's progress.
    Progress(Arc<Progress>),
    /// Nothing but the report's checkpoint.
    Checkpoint,
    /// The attempt succeeded.
    Succeeded {
        /// Its result.
        output: Output,
        /// The tail of its output.
        tail: String,
    },
    /// The attempt failed.
    Failed {
        /// The failure.
        failure: Arc<Failure>,
        /// Retry delay requested by the handler.
        delay: Option<Duration>,
        /// Whether the process that ran the attempt died by itself.
        process_died: bool,
        /// The tail of its output.
        tail: String,
    },
    /// The handler asked to be run again later.
    Snoozed {
        /// Delay until then.
        delay: Duration,
        /// Name of a limit that starts nothing until then under the job's value.
        pause: Option<Arc<str>>,
        /// The tail of its output.
        tail: String,
    },
    /// The attempt was claimed but never started.
    Released {
        /// Delay until the job is ready again; absent if it is at once.
        delay: Option<Duration>,
    },
}

/// A submission of new jobs, accepted all or none.
#[derive(Debug)]
pub struct Offer {
    /// The request id, which makes a repeat idempotent.
    pub request: Option<RequestId>,
    /// The jobs.
    pub jobs: AtLeastOne<NewJob>,
    /// The caller. All its waiting offers count as one against the queue's limit of waiting callers.
    pub caller: CallerId,
    /// Deadline of the wait for room; absent if the offer does not wait.
    pub wait: Option<Uptime>,
    /// Admission error, if known already. It is checked after the request id.
    pub obstacle: Option<NotAdmitted>,
    /// Its place in a waiting line, if it has waited already.
    pub(crate) seat: Option<Seat>,
    /// The schedule whose instant it is. When its turn comes, the schedule is decided anew, and not this offer.
    pub(crate) schedule: Option<ScheduleId>,
    /// Reply channel: the jobs.
    pub ask: ReplySlot<Submitted, OfferError>,
}

impl Offer {
    /// Creates an offer that has not waited yet.
    #[must_use]
    pub fn new(
        request: Option<RequestId>,
        jobs: AtLeastOne<NewJob>,
        caller: CallerId,
        wait: Option<Uptime>,
        ask: ReplySlot<Submitted, OfferError>,
    ) -> Self {
        Offer { request, jobs, caller, wait, obstacle: None, seat: None, schedule: None, ask }
    }

    /// Sets the admission error that is known already.
    #[must_use]
    pub fn with_obstacle(self, obstacle: Option<NotAdmitted>) -> Self {
        Offer { obstacle, ..self }
    }

    /// Returns the bytes that its jobs count against their queues' limits.
    pub(crate) fn bytes(&self) -> u64 {
        self.jobs.iter().map(NewJob::bytes).sum()
    }
}

/// A job to be accepted.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// The queue's name.
    pub queue: Arc<str>,
    /// The kind's name.
    pub kind: Arc<str>,
    /// The priority, −100 to 100.
    pub priority: i8,
    /// Limit of the attempts.
    pub max_attempts: u32,
    /// Backoff between attempts.
    pub retry: RetryPolicy,
    /// Timeout of an attempt.
    pub attempt_timeout: Duration,
    /// Earliest start.
    pub run_time: Option<When>,
    /// Expiry of the job if no attempt has started by then.
    pub expires: Option<When>,
    /// Time by which the job must have ended.
    pub deadline: Option<When>,
    /// Fields that few jobs set.
    pub extras: Option<Box<Extras>>,
    /// The jobs that the job waits for, each at most once.
    pub depends_on: Vec<Dependency>,
    /// The handler's input.
    pub payload: Bytes,
}

impl NewJob {
    /// Returns the bytes that the job counts against its queue's limit.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let extras = self.extras.as_ref().map_or(0, |extras| extras.bytes());
        self.payload.len() as u64 + extras + self.depends_on.len() as u64 * Dependency::BYTES + Job::FIXED_BYTES
    }
}

/// The answer to a submission.
#[derive(Clone, Debug)]
pub enum Submitted {
    /// The submission was accepted.
    Accepted {
        /// The outcome of each job, in the order of the offer.
        jobs: AtLeastOne<SubmittedJob>,
    },
    /// The request id was seen before.
    Seen {
        /// The ids of its jobs.
        ids: SeenIds,
        /// Number of those that it created and that are not deleted.
        live: u32,
        /// The first job's present state, if it is not deleted and is readable.
        job: Option<Arc<Job>>,
    },
}

/// The outcome of a submitted job.
#[derive(Clone, Debug)]
pub struct SubmittedJob {
    /// The id of the job: the new one, or the one that holds its unique key.
    pub id: JobId,
    /// The outcome: CREATED, EXISTING or REPLACED.
    pub outcome: SubmitOutcome,
    /// The job; absent if it holds the key after its end, and is deleted or unreadable.
    pub job: Option<Arc<Job>>,
}

/// The ids of a request's jobs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeenIds {
    /// The first job that the request created; the others have the ids after it.
    pub first: JobId,
    /// Number of jobs that it created.
    pub count: u32,
    /// Items that created no job, each with its index and the job that held its unique key; absent if there are none.
    pub found: Option<Arc<[(u32, JobId)]>>,
}

impl SeenIds {
    /// Returns the number of the request's items.
    #[must_use]
    pub fn items(&self) -> usize {
        self.count as usize + self.found.as_ref().map_or(0, |found| found.len())
    }

    /// Returns the id of each item, and whether the request created that job.
    pub fn iter(&self) -> impl Iterator<Item = (JobId, bool)> {
        let mut found = self.found.as_deref().unwrap_or_default().iter().peekable();
        let mut next = self.first;
        (0..self.items() as u32).map(move |index| match found.next_if(|(at, _)| *at == index) {
            Some((_, id)) => (*id, false),
            None => {
                let id = next;
                next = next.plus(1);
                (id, true)
            }
        })
    }

    /// Returns the id of the first item, and whether the request created that job.
    #[must_use]
    pub fn first(&self) -> (JobId, bool) {
        self.iter().next().unwrap_or((self.first, true))
    }
}

impl Submitted {
    /// Returns the id of the first job.
    #[must_use]
    pub fn first(&self) -> JobId {
        match self {
            Submitted::Accepted { jobs } => jobs.first.id,
            Submitted::Seen { ids, .. } => ids.first().0,
        }
    }

    /// Returns the number of the submission's items.
    #[must_use]
    pub fn count(&self) -> usize {
        match self {
            Submitted::Accepted { jobs } => jobs.count(),
            Submitted::Seen { ids, .. } => ids.items(),
        }
    }

    /// Returns the first job, unless it is deleted.
    #[must_use]
    pub fn first_job(&self) -> Option<&Arc<Job>> {
        match self {
            Submitted::Accepted { jobs } => jobs.first.job.as_ref(),
            Submitted::Seen { job, .. } => job.as_ref(),
        }
    }

    /// Returns whether the first job has the submission's own input, now or when the request id was first seen.
    #[must_use]
    pub fn is_own(&self) -> bool {
        match self {
            Submitted::Accepted { jobs } => jobs.first.outcome != SubmitOutcome::Existing,
            Submitted::Seen { ids, .. } => ids.first().1,
        }
    }

    /// Returns the outcome for the submission's first job.
    #[must_use]
    pub fn outcome(&self) -> SubmitOutcome {
        match self {
            Submitted::Accepted { jobs } => jobs.first.outcome,
            Submitted::Seen { ids, live, job } => {
                let is_created = ids.first().1;
                let is_gone = match (is_created, job) {
                    (true, _) if *live == 0 => true,
                    // That of a single job may be unreadable.
                    (true, None) => ids.items() > 1,
                    (false, None) => true,
                    (_, Some(_)) => false,
                };
                if is_gone { SubmitOutcome::Gone } else { SubmitOutcome::Repeated }
            }
        }
    }

    /// Returns whether some of the jobs may be deleted.
    #[must_use]
    pub fn lacks_jobs(&self) -> bool {
        match self {
            Submitted::Accepted { .. } => false,
            Submitted::Seen { ids, live, .. } => *live < ids.count || ids.found.is_some(),
        }
    }

    /// Returns whether the request id, if any, is new.
    #[must_use]
    pub fn is_new(&self) -> bool {
        match self {
            Submitted::Accepted { .. } => true,
            Submitted::Seen { .. } => false,
        }
    }
}

/// The answer to a change of a job.
#[derive(Clone, PartialEq, Debug)]
pub struct JobDone {
    /// The job.
    pub id: JobId,
    /// Its state after the change.
    pub state: StateName,
    /// Its revision after the change.
    pub revision: u64,
    /// Whether the request id was seen before. State and revision are then those of the first answer.
    pub is_repeat: bool,
    /// The job's present state; absent if it has been deleted since or is unreadable.
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

/// The answer to the release of a unique key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyDone {
    /// The job that held the key, or held it last; absent in a repeat.
    pub holder: Option<JobId>,
    /// The job that holds it now, if any; absent in a repeat.
    pub successor: Option<JobId>,
    /// Whether the request id was seen before.
    pub is_repeat: bool,
}

/// The answer to a change of a queue.
#[derive(Clone, PartialEq, Debug)]
pub struct QueueDone {
    /// The queue's present state; absent if it has been deleted since the request was first seen.
    pub info: Option<QueueInfo>,
    /// Whether the request id was seen before.
    pub is_repeat: bool,
}

/// An attempt to start. Its job is RUNNING on disk.
#[derive(Debug)]
pub struct Claim {
    /// The job.
    pub job: Arc<Job>,
    /// Its lease.
    pub lease: LeaseToken,
    /// Its payload; absent if it is large and has to be read from the store.
    pub payload: Option<Bytes>,
    /// Time at which the job became ready, in terms of the present wall clock.
    pub ready: Timestamp,
}
