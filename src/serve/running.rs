//! A running server, and its shutdown.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use tokio::{sync::oneshot, task::JoinHandle};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{ServeError, Stopper};
use crate::{
    audit::Audit,
    dispatch::{Claims, Dispatch},
    execute::closures::Closures,
    shard::{Reports, Shard},
    store::StoreError,
    timeouts,
    traces::Traces,
    workers::Roster,
};

/// Time before a drain's deadline at which attempts are asked to stop, or a quarter of the drain if that is shorter.
const STOP_GRACE_MAX: Duration = Duration::from_secs(5);
/// Time limit for the last responses to reach their callers.
const LAST_RESPONSES_MAX: Duration = Duration::from_secs(2);
/// Time limit for writes to disk in a forced drain, if its deadline is not sooner.
const FORCED_MAX: Duration = Duration::from_secs(2);
/// Time limit after the deadline for writing the ends of dropped attempts, and for the audit at the very end.
const CUT_MAX: Duration = Duration::from_secs(1);

/// The parts of a running server.
pub(super) struct Running {
    pub(super) serving: JoinHandle<Result<(), ServeError>>,
    pub(super) dispatching: JoinHandle<()>,
    pub(super) shard: Shard,
    pub(super) reports: Reports,
    /// Receives the committer's result.
    pub(super) ended: oneshot::Receiver<Result<(), StoreError>>,
    /// Ends the committer if the runtime is shut down before the server.
    pub(super) ends_with_this: DropGuard,
    pub(super) audit: Arc<Audit>,
    pub(super) dispatch: Arc<Dispatch>,
    pub(super) attempts: TaskTracker,
    pub(super) closures: Arc<Closures>,
    /// The task that removes closures of ended jobs.
    pub(super) following: JoinHandle<Infallible>,
    /// The remote workers, whose last reports a drain waits for.
    pub(super) workers: Arc<Roster>,
    /// The task that ends leases of remote workers by time.
    pub(super) keeping: JoinHandle<Infallible>,
    /// The metrics and health endpoint, which ends last.
    pub(super) showing: Option<JoinHandle<Infallible>>,
    pub(super) traces: Traces,
    /// Cancelled when no more jobs may be claimed.
    pub(super) draining: CancellationToken,
    /// Tracks whether all claimed jobs have been handed to dispatch.
    pub(super) claims: Claims,
    /// Cancelled when no more calls are accepted.
    pub(super) stop_accepting: CancellationToken,
    pub(super) stopper: Stopper,
    pub(super) drain_timeout: Duration,
}

/// The result of the committer.
type Ended = Result<Result<(), StoreError>, oneshot::error::RecvError>;

impl Running {
    pub(super) async fn until_the_end(mut self) -> Result<(), ServeError> {
        let unexpected = |what: &str| (Err(ServeError::Ended(what.into())), None);
        let (reason, ended) = tokio::select! {
            () = self.stopper.drain.cancelled() => (Ok(()), None),
            ended = &mut self.ended => match ended {
                Ok(Ok(())) => (Err(ServeError::Ended("the committer".into())), Some(ended)),
                Ok(Err(_)) | Err(_) => (Ok(()), Some(ended)),
            },
            ended = &mut self.serving => match ended {
                Ok(Err(error)) => (Err(error), None),
                Ok(Ok(())) | Err(_) => unexpected("the gRPC server"),
            },
            // A task that ends before the drain has panicked, and the server must not look healthy without it. This
            // task also ends without a panic when the committer ends, whose error says more.
            Err(_) = &mut self.dispatching => unexpected("dispatch"),
            _ = &mut self.following => unexpected("the removal of closures"),
            _ = &mut self.keeping => unexpected("the keeper of leases"),
            () = ended(&mut self.showing) => unexpected("the metrics endpoint"),
        };
        if reason.is_err() {
            // The server has failed, so the drain has no grace period.
            self.stopper.force();
        }
        let deadlines = DrainDeadlines::default();
        let countdown = deadlines.clone().count_down(self.drain_timeout, self.stopper.force.clone());
        let drained = tokio::select! {
            biased;
            drained = self.drain(&deadlines, ended) => drained,
            never = countdown => match never {},
        };
        reason.and(drained)
    }

    /// Drains the server, until shortly after the deadline at most. `ended` is the committer's result, if it has ended.
    async fn drain(self, deadlines: &DrainDeadlines, mut ended: Option<Ended>) -> Result<(), ServeError> {
        let Running { mut serving, dispatching, dispatch, attempts, claims, stopper, .. } = self;
        let Running { traces, audit, shard, reports, ended: mut committer, ends_with_this: _guard, .. } =
            self;
        self.draining.cancel();
        shard.hub.close();
        self.stop_accepting.cancel();

        let attempts_end = async {
            // After this flush no more jobs are claimed, and those claimed before are on their way to dispatch. The
            // time limit keeps a hanging disk from delaying the drain.
            until(shard.flush(), &deadlines.stop_attempts).await;
            claims.over.cancel();
            until(claims.started.cancelled(), &deadlines.stop_attempts).await;
            attempts.close();
            if until(attempts.wait(), &deadlines.stop_attempts).await.is_none() {
                tracing::info!(attempts = attempts.len(), "asking running attempts to stop");
                dispatch.stop();
                until(attempts.wait(), &deadlines.drop_attempts).await;
            }
        };
        unless_ended(attempts_end, &mut committer, &mut ended).await;
        if ended.is_some() {
            // Without a committer nothing can be stored, so the drain has no grace period.
            stopper.force();
        }
        cut_off(&dispatch, &attempts, deadlines).await;
        // Remote workers were told that the server stops, and report what has ended.
        let streams_end = async {
            until(self.workers.streams_ended(), &deadlines.drop_attempts).await;
        };
        unless_ended(streams_end, &mut committer, &mut ended).await;
        // The ends of attempts are written to disk, until the time limit, and callers get their responses.
        let written = async {
            until(reports.are_written(), &deadlines.end).await;
            until(shard.flush(), &deadlines.end).await;
        };
        unless_ended(written, &mut committer, &mut ended).await;
        // Handles may outlive the server, but the values that closures captured must not.
        self.closures.close();
        shard.end();
        // Dropping the store also ends its checkpoint thread.
        let closing = async {
            if ended.is_none() {
                ended = until(&mut committer, &deadlines.end).await;
            }
        };
        // Both run concurrently, so that a client that does not read takes no time from the store.
        tokio::join!(closing, await_last_responses(&mut serving, &stopper, deadlines));
        serving.abort();
        self.following.abort();
        self.keeping.abort();
        dispatching.abort();
        if !dispatching.is_finished() {
            let _ = dispatching.await;
        }
        drop(dispatch);
        flush_audit(&audit, deadlines).await;
        finish(traces, deadlines).await;
        if let Some(showing) = self.showing {
            showing.abort();
        }
        if ended.is_none() && reports.are_over() {
            // Everything is written; only closing the store takes long.
            ended = Some(Ok(Ok(())));
        }
        server_result(ended, reports.unwritten())
    }
}

/// Drops the attempts that still run.
async fn cut_off(dispatch: &Dispatch, attempts: &TaskTracker, deadlines: &DrainDeadlines) {
    attempts.close();
    if !attempts.is_empty() {
        tracing::warn!(
            attempts = attempts.len(),
            "cutting off running attempts; their jobs are retried later"
        );
    }
    dispatch.cut_off();
    // A handler that never yields can't be dropped; it ends with the process.
    until(attempts.wait(), &deadlines.end).await;
}

/// Waits until all calls have their responses, up to a time limit for slow clients.
async fn await_last_responses(
    serving: &mut JoinHandle<Result<(), ServeError>>,
    stopper: &Stopper,
    deadlines: &DrainDeadlines,
) {
    if !serving.is_finished() && !stopper.force.is_cancelled() {
        let answered = timeouts::within(LAST_RESPONSES_MAX, serving);
        tokio::select! {
            biased;
            _ = until(answered, &deadlines.end) => {}
            () = stopper.force.cancelled() => {}
        }
    }
}

/// Waits until the audit is written. The wait is limited, so that a blocked file does not delay the shutdown; a file
/// that accepts writes has [`CUT_MAX`] even after the deadline.
async fn flush_audit(audit: &Audit, deadlines: &DrainDeadlines) {
    let lines = audit.waiting();
    if lines > 0
        && until(audit.flush(), &deadlines.end).await.is_none()
        && timeouts::within(CUT_MAX, audit.flush()).await.is_none()
    {
        tracing::error!(
            lines,
            "the audit log can't be written: up to this many lines are lost when the server ends"
        );
    }
}

/// Returns the server's result, from the committer's result (`None` if it has not ended) and the number of lost
/// results.
fn server_result(ended: Option<Ended>, outcomes: u64) -> Result<(), ServeError> {
    if outcomes > 0 || ended.is_none() {
        tracing::error!(
            outcomes,
            "not everything was written: the jobs of these attempts are treated as interrupted at the next start"
        );
    }
    match ended {
        Some(Ok(Ok(()))) if outcomes == 0 => Ok(()),
        Some(Ok(Ok(()))) | None => Err(ServeError::Unwritten { outcomes }),
        Some(Ok(Err(error))) => Err(error.into()),
        Some(Err(_)) => Err(ServeError::Ended("the committer".into())),
    }
}

/// The deadlines of a drain, each cancelled when it is reached.
#[derive(Clone, Default)]
struct DrainDeadlines {
    /// The time at which attempts are asked to stop.
    stop_attempts: CancellationToken,
    /// The time at which attempts are dropped.
    drop_attempts: CancellationToken,
    /// The time at which all waits end.
    end: CancellationToken,
}

impl DrainDeadlines {
    /// Runs the timers of a drain. Time in which this process is paused does not count, so that work that finished
    /// meanwhile can still be reported.
    async fn count_down(self, drain_timeout: Duration, force: CancellationToken) -> Infallible {
        let grace = STOP_GRACE_MAX.min(drain_timeout / 4);
        let mut deadline = pin!(async {
            timeouts::active(drain_timeout - grace).await;
            self.stop_attempts.cancel();
            timeouts::active(grace).await;
        });
        let forced = tokio::select! {
            biased;
            () = force.cancelled() => true,
            () = &mut deadline => false,
        };
        self.stop_attempts.cancel();
        self.drop_attempts.cancel();
        if !forced || timeouts::within(FORCED_MAX, deadline).await.is_some() {
            timeouts::active(CUT_MAX).await;
        }
        self.end.cancel();
        std::future::pending().await
    }
}

/// Returns the result of `work`, unless `time` is cancelled first.
async fn until<T>(work: impl Future<Output = T>, time: &CancellationToken) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = time.cancelled() => None,
    }
}

/// Waits for `work`, or for the end of the committer, whose result is stored in `ended`.
async fn unless_ended(
    work: impl Future<Output = ()>,
    committer: &mut oneshot::Receiver<Result<(), StoreError>>,
    ended: &mut Option<Ended>,
) {
    if ended.is_none() {
        tokio::select! {
            biased;
            early = committer => *ended = Some(early),
            () = work => {}
        }
    }
}

/// Waits for the unexpected end of a task; never returns if there is none.
async fn ended(task: &mut Option<JoinHandle<Infallible>>) {
    match task {
        Some(task) => {
            let _ = task.await;
        }
        None => std::future::pending().await,
    }
}

/// Sends the last spans, up to a time limit for the collector.
async fn finish(traces: Traces, deadlines: &DrainDeadlines) {
    if traces.are_collected() {
        let time_limit = if deadlines.drop_attempts.is_cancelled() { CUT_MAX } else { LAST_RESPONSES_MAX };
        let sent = tokio::task::spawn_blocking(move || traces.finish(time_limit));
        let _ = until(sent, &deadlines.end).await;
    }
}
