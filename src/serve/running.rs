//! A server that runs, to its end.

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
};

/// Attempts are asked to stop so long before a drain's deadline, or a quarter of the drain if that is shorter.
const STOP_GRACE_MAX: Duration = Duration::from_secs(5);
/// How long answers may take to reach their callers once nothing is left to do.
const FAREWELL_MAX: Duration = Duration::from_secs(2);
/// What a drain that is forced has for the disk, if its deadline is not nearer.
const FORCED_MAX: Duration = Duration::from_secs(2);
/// What the disk has after the deadline for the ends of attempts that were cut off there, and the audit at the very end.
const CUT_MAX: Duration = Duration::from_secs(1);

/// The parts of a running server.
pub(super) struct Running {
    pub(super) serving: JoinHandle<Result<(), ServeError>>,
    pub(super) dispatching: JoinHandle<()>,
    pub(super) shard: Shard,
    pub(super) reports: Reports,
    /// How the committer ends.
    pub(super) ended: oneshot::Receiver<Result<(), StoreError>>,
    /// Ends the committer where the runtime is shut down under the server.
    pub(super) ends_with_this: DropGuard,
    pub(super) audit: Arc<Audit>,
    pub(super) dispatch: Arc<Dispatch>,
    pub(super) attempts: TaskTracker,
    pub(super) closures: Arc<Closures>,
    /// Lets go of closures that are of no use any more.
    pub(super) following: JoinHandle<Infallible>,
    /// Shows metrics and health, until all else has ended.
    pub(super) showing: Option<JoinHandle<Infallible>>,
    pub(super) traces: Traces,
    /// Nothing more is claimed.
    pub(super) draining: CancellationToken,
    /// What was claimed before that has started.
    pub(super) claims: Claims,
    /// No more calls are taken.
    pub(super) farewell: CancellationToken,
    pub(super) stopper: Stopper,
    pub(super) drain_timeout: Duration,
}

/// How the committer ended.
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
            // What ends before the drain has panicked, and must not leave a server behind that looks well. This one ends
            // with the committer, too, whose error says more.
            Err(_) = &mut self.dispatching => unexpected("what starts attempts"),
            _ = &mut self.following => unexpected("what lets go of closures"),
            () = ended(&mut self.showing) => unexpected("the metrics endpoint"),
        };
        if reason.is_err() {
            // No caller can be reached any more: no time is given.
            self.stopper.force();
        }
        let times = Times::default();
        let countdown = times.clone().count_down(self.drain_timeout, self.stopper.force.clone());
        let drained = tokio::select! {
            biased;
            drained = self.drain(&times, ended) => drained,
            never = countdown => match never {},
        };
        reason.and(drained)
    }

    /// Ends at the deadline, give or take the moment that a cut takes. `ended` is how the committer ended, if it has.
    async fn drain(self, times: &Times, mut ended: Option<Ended>) -> Result<(), ServeError> {
        let Running { mut serving, dispatching, dispatch, attempts, claims, stopper, .. } = self;
        let Running { traces, audit, shard, reports, ended: mut committer, ends_with_this: _guard, .. } =
            self;
        self.draining.cancel();
        shard.hub.close();
        self.farewell.cancel();

        let attempts_end = async {
            // After an empty batch nothing more is claimed; what was claimed before is on its way to dispatch. A disk
            // that hangs must not hold up the drain.
            until(shard.flush(), &times.last_call).await;
            claims.over.cancel();
            until(claims.started.cancelled(), &times.last_call).await;
            attempts.close();
            if until(attempts.wait(), &times.last_call).await.is_none() {
                tracing::info!(attempts = attempts.len(), "asking running attempts to stop");
                dispatch.stop();
                until(attempts.wait(), &times.is_up).await;
            }
        };
        unless_ended(attempts_end, &mut committer, &mut ended).await;
        if ended.is_some() {
            // Nothing can be kept any more: no time is given.
            stopper.force();
        }
        cut_off(&dispatch, &attempts, times).await;
        // What has ended goes to the disk, however long that takes, and those who called hear of it.
        let written = async {
            until(reports.are_written(), &times.are_over).await;
            until(shard.flush(), &times.are_over).await;
        };
        unless_ended(written, &mut committer, &mut ended).await;
        // Handles may outlive the server; what closures own must not.
        self.closures.close();
        shard.end();
        // Dropping the store ends its checkpoint thread, too.
        let closing = async {
            if ended.is_none() {
                ended = until(&mut committer, &times.are_over).await;
            }
        };
        // Not one after the other: a client that does not read must not take the store's time.
        tokio::join!(closing, say_farewell(&mut serving, &stopper, times));
        serving.abort();
        self.following.abort();
        dispatching.abort();
        if !dispatching.is_finished() {
            let _ = dispatching.await;
        }
        drop(dispatch);
        flush_audit(&audit, times).await;
        finish(traces, times).await;
        if let Some(showing) = self.showing {
            showing.abort();
        }
        if ended.is_none() && reports.are_over() {
            // All is written: only closing takes long.
            ended = Some(Ok(Ok(())));
        }
        told(ended, reports.unwritten())
    }
}

/// Cuts off the attempts that still run.
async fn cut_off(dispatch: &Dispatch, attempts: &TaskTracker, times: &Times) {
    attempts.close();
    if !attempts.is_empty() {
        tracing::warn!(
            attempts = attempts.len(),
            "cutting off running attempts; their jobs are retried later"
        );
    }
    dispatch.cut_off();
    // A handler that never yields can't be cut off; it ends with the process.
    until(attempts.wait(), &times.are_over).await;
}

/// Waits until all calls are answered, as far as their clients take the answers in time.
async fn say_farewell(serving: &mut JoinHandle<Result<(), ServeError>>, stopper: &Stopper, times: &Times) {
    if !serving.is_finished() && !stopper.force.is_cancelled() {
        let answered = timeouts::within(FAREWELL_MAX, serving);
        tokio::select! {
            biased;
            _ = until(answered, &times.are_over) => {}
            () = stopper.force.cancelled() => {}
        }
    }
}

/// Waits until the audit is written. A file that takes nothing must not hold up the end; one that does has a moment even
/// after the deadline.
async fn flush_audit(audit: &Audit, times: &Times) {
    let lines = audit.waiting();
    if lines > 0
        && until(audit.flush(), &times.are_over).await.is_none()
        && timeouts::within(CUT_MAX, audit.flush()).await.is_none()
    {
        tracing::error!(
            lines,
            "the audit takes no lines: up to this many are lost with the end of the server"
        );
    }
}

/// What the end of the committer means for the server's; `None` where it has not come to its end.
fn told(ended: Option<Ended>, outcomes: u64) -> Result<(), ServeError> {
    if outcomes > 0 || ended.is_none() {
        tracing::error!(
            outcomes,
            "not everything was written: these attempts' jobs are taken up as interrupted"
        );
    }
    match ended {
        Some(Ok(Ok(()))) if outcomes == 0 => Ok(()),
        Some(Ok(Ok(()))) | None => Err(ServeError::Unwritten { outcomes }),
        Some(Ok(Err(error))) => Err(error.into()),
        Some(Err(_)) => Err(ServeError::Ended("the committer".into())),
    }
}

/// What the time of a drain has come to.
#[derive(Clone, Default)]
struct Times {
    /// Attempts are asked to stop.
    last_call: CancellationToken,
    /// Attempts are cut off.
    is_up: CancellationToken,
    /// Nothing is waited for any more.
    are_over: CancellationToken,
}

impl Times {
    /// Counts the time of a drain. Time in which this process is paused does not count: what was finished meanwhile must
    /// have time to be heard of.
    async fn count_down(self, drain_timeout: Duration, force: CancellationToken) -> Infallible {
        let grace = STOP_GRACE_MAX.min(drain_timeout / 4);
        let mut deadline = pin!(async {
            timeouts::active(drain_timeout - grace).await;
            self.last_call.cancel();
            timeouts::active(grace).await;
        });
        let forced = tokio::select! {
            biased;
            () = force.cancelled() => true,
            () = &mut deadline => false,
        };
        self.last_call.cancel();
        self.is_up.cancel();
        if !forced || timeouts::within(FORCED_MAX, deadline).await.is_some() {
            timeouts::active(CUT_MAX).await;
        }
        self.are_over.cancel();
        std::future::pending().await
    }
}

/// The result of `work`, unless `time` comes first.
async fn until<T>(work: impl Future<Output = T>, time: &CancellationToken) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = time.cancelled() => None,
    }
}

/// Returns when `work` is done, or there is no committer any more; keeps how that ended.
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

/// Returns when a task has ended that never should; not at all where there is none.
async fn ended(task: &mut Option<JoinHandle<Infallible>>) {
    match task {
        Some(task) => {
            let _ = task.await;
        }
        None => std::future::pending().await,
    }
}

/// Sends the last spans, as far as the collector takes them in time.
async fn finish(traces: Traces, times: &Times) {
    if traces.are_collected() {
        let patience = if times.is_up.is_cancelled() { CUT_MAX } else { FAREWELL_MAX };
        let sent = tokio::task::spawn_blocking(move || traces.finish(patience));
        let _ = until(sent, &times.are_over).await;
    }
}
