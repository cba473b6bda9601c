//! Dispatch: starts the claimed attempts, and runs each of them to its end.

mod attempt;
mod output;

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    execute::Handler,
    job::LeaseToken,
    shard::{Dispatches, Reports},
    store::Reads,
    traces::Traces,
    watch::Hub,
};

/// Handlers by kind.
pub(crate) type Handlers = HashMap<Box<str>, Arc<dyn Handler>>;

/// Progress of a drain with the jobs that were claimed before it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    /// Cancelled by the drain once no more jobs are claimed.
    pub(crate) over: CancellationToken,
    /// Cancelled by dispatch once all claimed attempts have started.
    pub(crate) started: CancellationToken,
}

/// Starts attempts and runs them to their end.
pub(crate) struct Dispatch {
    pub(crate) handlers: Handlers,
    pub(crate) reports: Reports,
    pub(crate) hub: Arc<Hub>,
    pub(crate) reads: Reads,
    pub(crate) traces: Traces,
    /// Cancelled to ask running attempts to stop.
    pub(crate) stopping: CancellationToken,
    /// Cancelled to abort running attempts.
    pub(crate) cutting_off: CancellationToken,
    running: Mutex<HashMap<LeaseToken, CancellationToken>>,
}

impl Dispatch {
    pub(crate) fn new(
        handlers: Handlers,
        reports: Reports,
        hub: Arc<Hub>,
        reads: Reads,
        traces: Traces,
    ) -> Self {
        Dispatch {
            handlers,
            reports,
            hub,
            reads,
            traces,
            stopping: CancellationToken::new(),
            cutting_off: CancellationToken::new(),
            running: Mutex::default(),
        }
    }

    /// Starts and cancels attempts until the committer has ended. Their tasks belong to `attempts`. During a drain,
    /// cancels `claims.started` once all claimed attempts have started; cancels still reach their attempts after that.
    pub(crate) async fn run(
        self: Arc<Self>,
        mut dispatches: mpsc::Receiver<Dispatches>,
        attempts: TaskTracker,
        claims: Claims,
    ) {
        loop {
            tokio::select! {
                biased;
                batch = dispatches.recv() => match batch {
                    Some(batch) => Arc::clone(&self).start(batch, &attempts),
                    None => break,
                },
                () = claims.over.cancelled(), if !claims.started.is_cancelled() => claims.started.cancel(),
            }
        }
        claims.started.cancel();
    }

    fn start(self: Arc<Self>, batch: Dispatches, attempts: &TaskTracker) {
        for claim in batch.claims {
            let token = CancellationToken::new();
            self.running.lock().insert(claim.lease, token.clone());
            attempts.spawn(Arc::clone(&self).attempt(claim, token));
        }
        // A message cancels only attempts that were claimed in earlier batches.
        for lease in batch.cancelling {
            if let Some(token) = self.running.lock().get(&lease) {
                token.cancel();
            }
        }
    }

    /// Asks all running attempts to stop.
    pub(crate) fn stop(&self) {
        self.stopping.cancel();
    }

    /// Aborts all running attempts.
    pub(crate) fn cut_off(&self) {
        self.stopping.cancel();
        self.cutting_off.cancel();
    }

    fn forget(&self, lease: LeaseToken) {
        self.running.lock().remove(&lease);
    }
}
