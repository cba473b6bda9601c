//! A running server, used from the program that embeds it.
//!
//! A [`Handle`] submits, watches and cancels without a network hop, and takes the same way as a call: the same rules,
//! bounds, transaction and feed. What it submits, clients see; what clients submit, it can watch.

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

use crate::{
    admission::rules,
    clock::Clock,
    engine::{Action, Control, ControlRefusal, Stopped},
    execute::{Attempt, HandlerError, closures::Closures},
    intake::{Call, Intake, Terms},
    job::{AtLeastOne, Job, JobId, Output, SubmitOutcome},
    metrics::{Page, PageError},
    settings::DEFAULT_QUEUE,
    shard::Shard,
    store::{StoreError, WholeJob},
    watch::{Tail, TokenIssuer},
};

/// Uses a running server from its own process. Clones are of the same server.
///
/// A handle does not keep the server running: after its end, calls return that it has stopped.
#[derive(Clone)]
pub struct Handle {
    parts: Arc<Parts>,
}

/// What a handle works with.
pub(crate) struct Parts {
    pub(crate) intake: Intake,
    pub(crate) shard: Shard,
    pub(crate) issuer: Arc<TokenIssuer>,
    pub(crate) clock: Clock,
    pub(crate) closures: Arc<Closures>,
    pub(crate) page: Page,
    /// Once cancelled, nothing that has not started will start in this process.
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

    /// The job as it was when it was accepted, or, for a repeat, when it was found. `None` where it has been deleted
    /// since.
    #[must_use]
    pub fn job(&self) -> Option<&Job> {
        self.job.as_deref()
    }

    /// What became of the submission.
    #[must_use]
    pub fn fate(&self) -> SubmitOutcome {
        self.fate
    }

    /// Whether this submission created the job; false where its `request_id` had come before.
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
    /// When the job is deleted, or the server stops before the job has ended: the job goes on at the next start.
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
    /// Where the queue is full it waits for room, unless the queue or the request says otherwise: that is how a bounded
    /// queue slows its producers down. Whoever drops the future while it waits for room leaves nothing behind.
    ///
    /// # Errors
    /// [`SubmitError`]; nothing was submitted then, unless it is [`Stopped::Unknown`].
    pub async fn submit(&self, request: JobRequest) -> Result<Submitted, SubmitError> {
        self.offer(request).await
    }

    /// Runs a closure in the background, as a job of its own with one attempt: its queue's bounds and slots hold for
    /// it, clients see it, and it can be watched and cancelled. Where the queue is full this waits, as
    /// [`Handle::submit`] does; where it returns an error, or its future is dropped, the closure is dropped.
    ///
    /// A closure lives in this process only. If the process ends before the closure does, the job is FAILED at the next
    /// start, with the reason LOST; if somebody retries the job, it fails so again. Work that has to survive a restart
    /// is a handler's, with a payload: see [`crate::serve::ServerBuilder::handler`].
    ///
    /// The closure gets the attempt, with its cancellation token. After a cancel it has 5 s before it is cut off.
    ///
    /// # Errors
    /// [`SubmitError`]; the closure will not run then.
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
        // Before the job is offered: it may start before this call hears of it.
        let offered = self.parts.closures.offer(closure, Tail::end_of(&self.parts.shard.hub));
        let Some(offered) = offered else {
            return Err(Stopped::Refused.into());
        };
        request.draft.closure = offered.name().to_owned();
        let submitted = self.offer(request).await?;
        offered.accepted();
        Ok(submitted)
    }

    /// Watches a job until it ends. A job that has ended is told once.
    #[must_use]
    pub fn watch(&self, id: JobId) -> JobWatch {
        JobWatch::new(self.clone(), id)
    }

    /// A job with its payload, result and attempts; `None` if no job has this id.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn get(&self, id: JobId) -> Result<Option<WholeJob>, StoreError> {
        self.parts.shard.reads.read(move |reader| reader.whole_job(id)).await
    }

    /// Cancels a job: one that waits is CANCELLED at once; one that runs is asked to stop. To cancel it again is no
    /// error. Returns the job after that.
    ///
    /// # Errors
    /// When no job has this id, it has ended, or the server has stopped.
    pub async fn cancel(&self, id: JobId) -> Result<Arc<Job>, CancelError> {
        let Parts { clock, shard, .. } = &*self.parts;
        let give_up = shard.queues.give_up(DEFAULT_QUEUE, clock.uptime(), None);
        let cancel = |ask| Control::once(Action::Cancel { id, expected_revision: None, ask });
        let done = shard.control(give_up, cancel).await?;
        // Of one that is no repeat, the engine tells the job.
        done.job.ok_or(CancelError::Refused(ControlRefusal::JobNotFound(id)))
    }

    /// The server's metrics in Prometheus' text format, as its own endpoint would serve them.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn metrics(&self) -> Result<String, PageError> {
        self.parts.page.text().await
    }

    /// Offers a job, and counts it where it is refused.
    async fn offer(&self, request: JobRequest) -> Result<Submitted, SubmitError> {
        let JobRequest { draft, request_id, when_full, max_wait, traceparent, tracestate } = request;
        let Parts { intake, shard, clock, page, .. } = &*self.parts;
        let now = clock.uptime();
        let terms = Terms {
            call: Call::Submit,
            request_id: &request_id,
            traceparent: &traceparent,
            tracestate: &tracestate,
            when_full,
            deadline: max_wait.map(|wait| now.after(wait)),
        };
        let faults = rules::check(&draft, &request_id, clock.now());
        let drafts = AtLeastOne::one(draft);
        let mut span = intake.span(&drafts, &terms);
        let offered = async {
            if !faults.is_empty() {
                return Err(SubmitError::Invalid(faults));
            }
            let submission = intake.submission(drafts, &terms, &span)?;
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
