//! A server that runs, to its end.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{ServeError, Stopper};
use crate::{
    audit::Audit, commit::Committing, dispatch::Dispatch, execute::closures::Closures, traces::Traces,
    watch::Hub,
};

/// Attempts are asked to stop so long before a drain's deadline, or a quarter of the drain if that is shorter.
const STOP_GRACE_MAX: Duration = Duration::from_secs(5);
/// How long answers may take to reach their callers once nothing is left to do,
const FAREWELL_MAX: Duration = Duration::from_secs(2);
/// and how long they have even where the deadline has come.
const FAREWELL_MIN: Duration = Duration::from_millis(250);

/// The parts of a running server.
pub(super) struct Running {
    pub(super) serving: JoinHandle<Result<(), ServeError>>,
    pub(super) dispatching: JoinHandle<()>,
    pub(super) committing: Committing,
    pub(super) audit: Arc<Audit>,
    pub(super) dispatch: Arc<Dispatch>,
    pub(super) attempts: TaskTracker,
    pub(super) hub: Arc<Hub>,
    pub(super) closures: Arc<Closures>,
    /// Lets go of closures that are of no use any more.
    pub(super) following: JoinHandle<Infallible>,
    /// Shows metrics and health, until all else has ended.
    pub(super) showing: Option<JoinHandle<Infallible>>,
    pub(super) traces: Traces,
    /// Nothing more is claimed.
    pub(super) draining: CancellationToken,
    /// Nothing more is handed out.
    pub(super) dispatched: CancellationToken,
    /// No more calls are taken.
    pub(super) farewell: CancellationToken,
    pub(super) stopper: Stopper,
    pub(super) drain_timeout: Duration,
}

impl Running {
    pub(super) async fn until_the_end(mut self) -> Result<(), ServeError> {
        let reason = tokio::select! {
            () = self.stopper.drain.cancelled() => Ok(()),
            ended = &mut self.committing.ended => Err(match ended {
                Ok(Err(error)) => error.into(),
                Ok(Ok(())) | Err(_) => ServeError::Ended("the committer".into()),
            }),
            ended = &mut self.serving => Err(match ended {
                Ok(Err(error)) => error,
                Ok(Ok(())) | Err(_) => ServeError::Ended("the gRPC server".into()),
            }),
            // What ends before the drain has panicked, and must not leave a server behind that looks well. This one ends
            // with the committer, too, whose error says more.
            Err(_) = &mut self.dispatching => Err(ServeError::Ended("what starts attempts".into())),
            _ = &mut self.following => Err(ServeError::Ended("what lets go of closures".into())),
            () = ended(&mut self.showing) => Err(ServeError::Ended("the metrics endpoint".into())),
        };
        if reason.is_err() {
            // Nothing can be kept any more, or nobody can be reached: no time is given.
            self.stopper.force();
        }
        self.drain().await;
        reason
    }

    /// Ends at the deadline, give or take the moment that a cut takes.
    async fn drain(self) {
        let Running { mut serving, mut dispatching, committing, dispatch, attempts, hub, stopper, .. } = self;
        let (closures, following, showing) = (self.closures, self.following, self.showing);
        let (audit, traces) = (self.audit, self.traces);
        let Committing { commit, reports, mut ended, .. } = committing;
        let deadline = tokio::time::sleep(self.drain_timeout).deadline();
        let stop_at = deadline - STOP_GRACE_MAX.min(self.drain_timeout / 4);
        self.draining.cancel();
        hub.close();
        self.farewell.cancel();
        let force = &stopper.force;

        // After an empty batch nothing more is claimed; what was claimed before is on its way to dispatch. A disk that
        // hangs must not hold up the drain.
        tokio::select! {
            () = commit.flush() => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = force.cancelled() => {}
        }
        self.dispatched.cancel();
        if !dispatching.is_finished() {
            let _ = (&mut dispatching).await;
        }
        attempts.close();
        tokio::select! {
            () = attempts.wait() => {}
            () = tokio::time::sleep_until(stop_at) => {
                tracing::info!(attempts = attempts.len(), "asking running attempts to stop");
                dispatch.stop();
                tokio::select! {
                    () = attempts.wait() => {}
                    () = tokio::time::sleep_until(deadline) => {}
                    () = force.cancelled() => {}
                }
            }
            () = force.cancelled() => {}
        }
        if !attempts.is_empty() {
            tracing::warn!(
                attempts = attempts.len(),
                "cutting off running attempts; their jobs are retried later"
            );
        }
        dispatch.cut_off();
        // A handler that never yields can't be cut off; it ends with the process.
        let _ = tokio::time::timeout_at(farewell_until(deadline), attempts.wait()).await;
        let farewell = async {
            if !serving.is_finished() {
                let _ = (&mut serving).await;
            }
        };
        tokio::select! {
            _ = tokio::time::timeout_at(farewell_until(deadline), farewell) => {}
            () = force.cancelled() => {}
        }
        serving.abort();
        following.abort();
        // Handles may outlive the server; what closures own must not.
        closures.close();
        drop((dispatch, reports));
        commit.end();
        // Dropping the store ends its checkpoint thread, too.
        if !ended.is_terminated() {
            let _ = tokio::time::timeout_at(farewell_until(deadline), &mut ended).await;
        }
        // A file that takes nothing must not hold up the end.
        let lines = audit.waiting();
        if tokio::time::timeout_at(farewell_until(deadline), audit.flush()).await.is_err() {
            tracing::error!(
                lines,
                "the audit takes no lines: up to this many are lost with the end of the server"
            );
        }
        finish(traces, farewell_until(deadline)).await;
        if let Some(showing) = showing {
            showing.abort();
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
async fn finish(traces: Traces, until: Instant) {
    if traces.are_collected() {
        let patience = until.duration_since(tokio::time::sleep(Duration::ZERO).deadline());
        let _ = tokio::task::spawn_blocking(move || traces.finish(patience)).await;
    }
}

/// When to stop waiting for the last answers: soon, and before the deadline if that leaves them any time.
fn farewell_until(deadline: Instant) -> Instant {
    let least = tokio::time::sleep(FAREWELL_MIN).deadline();
    let most = tokio::time::sleep(FAREWELL_MAX).deadline();
    deadline.clamp(least, most)
}
