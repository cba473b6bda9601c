//! Access to a running server from the program that embeds it.
//!
//! A [`Handle`] submits, watches and cancels without a network hop, by the same path as an RPC: the same rules, limits,
//! transaction and feed. Clients see its jobs, and it can watch theirs.

mod closures;
mod error;
mod request;
mod watch;

use std::{fmt, future::Future, sync::Arc};

use tokio_util::sync::CancellationToken;

pub(crate) use closures::follow;
pub use error::{CancelError, OutcomeError, SubmitError, Unsuccessful};
pub use request::{JobRequest, SpawnRequest};
pub use watch::{JobEvent, JobWatch, Outcome};

pub use crate::{
    admission::FieldFault,
    engine::{AdmissionError, ControlRefusal, OfferRefusal, QueueFull, Stopped},
    metrics::PageError,
    store::{ErrorClass, Missing, StoreError, WholeJob},
    watch::{OutputLine, WatchError},
};

use crate::{
    admission::rules,
    clock::Clock,
    engine::{Action, Control},
    execute::{Attempt, HandlerError, closures::Closures},
    intake::{Intake, SubmissionOptions, SubmitMethod},
    job::{AtLeastOne, Job, JobId, Output, SubmitOutcome},
    metrics::Page,
    settings::DEFAULT_QUEUE,
    shard::Shard,
    watch::{Tail, TokenIssuer},
};

/// A handle to a running server in the same process. Clones refer to the same server.
///
/// A handle does not keep the server running: after the server's end, calls return an error.
#[derive(Clone)]
pub struct Handle {
    parts: Arc<Parts>,
}

/// The parts of a server that a handle uses.
pub(crate) struct Parts {
    pub(crate) intake: Intake,
    pub(crate) shard: Shard,
    pub(crate) issuer: Arc<TokenIssuer>,
    pub(crate) clock: Clock,
    pub(crate) closures: Arc<Closures>,
    pub(crate) page: Page,
    /// Cancelled when the drain begins: no further attempts start in this process.
    pub(crate) draining: CancellationToken,
}

/// A job that was accepted: it is on disk, and survives this process.
#[derive(Clone, Debug)]
pub struct Submitted {
    id: JobId,
    fate: SubmitOutcome,
    job: Option<Arc<Job>>,
    handle: Handle,
}

impl Submitted {
    /// The job's id.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.id
    }

    /// The job as it was when it was accepted, or, for a repeat or one that holds the unique key, when it was found. `None`
    /// if it has been deleted meanwhile.
    #[must_use]
    pub fn job(&self) -> Option<&Job> {
        self.job.as_deref()
    }

    /// The outcome of the submission.
    #[must_use]
    pub fn fate(&self) -> SubmitOutcome {
        self.fate
    }

    /// Whether this submission created the job; false if its `request_id` was used before, or another job holds its unique
    /// key.
    #[must_use]
    pub fn created(&self) -> bool {
        self.fate == SubmitOutcome::Created
    }

    /// Watches the job until it ends.
    #[must_use]
    pub fn watch(&self) -> JobWatch {
        self.handle.watch(self.id)
    }

    /// Waits for the job's end, and returns the job with its result.
    ///
    /// # Errors
    /// When the job is deleted, or the server stops before the job has ended: the job then continues at the next start.
    pub async fn outcome(&self) -> Result<Outcome, OutcomeError> {
        self.watch().outcome().await
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("closures", &self.parts.closures).finish_non_exhaustive()
    }
}

impl Handle {
    pub(crate) fn new(parts: Parts) -> Self {
        Handle { parts: Arc::new(parts) }
    }

    /// Submits a job. When this returns, the job is on disk.
    ///
    /// If the queue is full this waits for room, unless the queue's or the request's settings say otherwise: this is
    /// the backpressure of a bounded queue. If the future is dropped while it waits for room, nothing is submitted.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was submitted, except possibly with [`Stopped::Unknown`].
    pub async fn submit(&self, request: JobRequest) -> Result<Submitted, SubmitError> {
        self.offer(request).await
    }

    /// Runs a closure in the background, as its own job with one attempt: the queue's limits and slots apply, clients
    /// see it, and it can be watched and cancelled. If the queue is full this waits, as [`Handle::submit`] does; if it
    /// returns an error, or its future is dropped, the closure is dropped.
    ///
    /// A closure exists only in this process. If the process ends before the closure does, the job becomes FAILED at
    /// the next start, with the reason LOST; a retry of the job fails in the same way. Work that must survive a restart
    /// needs a handler and a payload: see [`crate::serve::ServerBuilder::handler`].
    ///
    /// The closure gets the attempt, with its cancellation token. After a cancellation it has a grace period of 5 s
    /// before its future is dropped.
    ///
    /// # Errors
    /// [`SubmitError`]; the closure then does not run.
    pub async fn spawn<F, Fut>(
        &self,
        request: impl Into<SpawnRequest>,
        closure: F,
    ) -> Result<Submitted, SubmitError>
    where
        F: FnOnce(Attempt) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Output, HandlerError>> + Send + 'static,
    {
        let SpawnRequest(mut request) = request.into();
        if self.parts.draining.is_cancelled() {
            return Err(Stopped::Refused.into());
        }
        let closure =
            Box::new(move |attempt| -> crate::execute::HandlerFuture { Box::pin(closure(attempt)) });
        // Stored before the job is submitted, as the attempt may start before the submission returns.
        let offered = self.parts.closures.offer(closure, Tail::end_of(&self.parts.shard.hub));
        let Some(offered) = offered else {
            return Err(Stopped::Refused.into());
        };
        request.draft.closure = offered.name().to_owned();
        let submitted = self.offer(request).await?;
        offered.accepted();
        Ok(submitted)
    }

    /// Watches a job until it ends. A job that has already ended is reported once.
    #[must_use]
    pub fn watch(&self, id: JobId) -> JobWatch {
        JobWatch::new(self.clone(), id)
    }

    /// Returns a job with its payload, result and attempts; `None` if no job has this id.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn get(&self, id: JobId) -> Result<Option<WholeJob>, StoreError> {
        self.parts.shard.reads.read(move |reader| reader.whole_job(id)).await
    }

    /// Cancels a job, and returns the job after the change. A waiting job becomes CANCELLED at once; a running one is
    /// asked to stop. A repeated cancellation is not an error.
    ///
    /// # Errors
    /// When no job has this id, it has ended, or the server has stopped.
    pub async fn cancel(&self, id: JobId) -> Result<Arc<Job>, CancelError> {
        let Parts { clock, shard, .. } = &*self.parts;
        let store_deadline = shard.queues.store_deadline(DEFAULT_QUEUE, clock.uptime(), None);
        let cancel = |ask| Control::once(Action::Cancel { id, expected_revision: None, ask });
        let done = shard.control(store_deadline, cancel).await?;
        // The engine returns the job unless the request is a repeat, which this one can't be.
        done.job.ok_or(CancelError::Refused(ControlRefusal::JobNotFound(id)))
    }

    /// Returns the server's metrics in the Prometheus text format, as the metrics endpoint serves them.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn metrics(&self) -> Result<String, PageError> {
        self.parts.page.text().await
    }

    /// Submits a job, and counts it if it is refused.
    async fn offer(&self, request: JobRequest) -> Result<Submitted, SubmitError> {
        let JobRequest { draft, request_id, when_full, max_wait, traceparent, tracestate } = request;
        let Parts { intake, shard, clock, page, .. } = &*self.parts;
        let now = clock.uptime();
        let options = SubmissionOptions {
            call: SubmitMethod::Submit,
            request_id: &request_id,
            traceparent: &traceparent,
            tracestate: &tracestate,
            when_full,
            deadline: max_wait.map(|wait| now.after(wait)),
        };
        let faults = rules::check(&draft, &request_id, clock.now());
        let drafts = AtLeastOne::one(draft);
        let mut span = intake.span(&drafts, &options);
        let offered = async {
            if !faults.is_empty() {
                return Err(SubmitError::Invalid(faults));
            }
            let submission = intake.submission(drafts, &options, &span)?;
            Ok(shard.submit(submission).await?)
        };
        match offered.await {
            Ok(answer) => {
                let (id, fate, job) = (answer.first(), answer.outcome(), answer.first_job().cloned());
                span.accepted(id, 1, answer.is_new());
                Ok(Submitted { id, fate, job, handle: self.clone() })
            }
            Err(error) => {
                page.counters.rejected(error.reason());
                span.failed(error.reason());
                Err(error)
            }
        }
    }
}
