//! Starts the attempts that the committer hands out, and sees each of them to its end.

mod attempt;
mod output;

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    execute::Handler,
    job::LeaseToken,
    shard::{Handout, Reports},
    store::Reads,
    traces::Traces,
    watch::Hub,
};

/// The handlers by kind.
pub(crate) type Handlers = HashMap<Box<str>, Arc<dyn Handler>>;

/// How far a drain is with what was claimed before it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims {
    /// Cancelled by the drain: nothing more is claimed.
    pub(crate) over: CancellationToken,
    /// Cancelled by the dispatch: all that was claimed has started.
    pub(crate) started: CancellationToken,
}

/// Starts attempts and sees them to their end.
pub(crate) struct Dispatch {
    pub(crate) handlers: Handlers,
    pub(crate) reports: Reports,
    pub(crate) hub: Arc<Hub>,
    pub(crate) reads: Reads,
    pub(crate) traces: Traces,
    /// Once cancelled, running attempts are asked to stop.
    pub(crate) stopping: CancellationToken,
    /// Once cancelled, running attempts are cut off.
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

    /// Starts and cancels what is handed out, until the committer has ended. Attempts belong to `attempts`. Once no more
    /// is claimed and all that was has started, it says so: cancels go on reaching their attempts after that.
    pub(crate) async fn run(
        self: Arc<Self>,
        mut handouts: mpsc::Receiver<Handout>,
        attempts: TaskTracker,
        claims: Claims,
    ) {
        loop {
            tokio::select! {
                biased;
                handout = handouts.recv() => match handout {
                    Some(handout) => Arc::clone(&self).start(handout, &attempts),
                    None => break,
                },
                () = claims.over.cancelled(), if !claims.started.is_cancelled() => claims.started.cancel(),
            }
        }
        claims.started.cancel();
    }

    fn start(self: Arc<Self>, handout: Handout, attempts: &TaskTracker) {
        for claim in handout.claims {
            let token = CancellationToken::new();
            self.running.lock().insert(claim.lease, token.clone());
            attempts.spawn(Arc::clone(&self).attempt(claim, token));
        }
        // After the claims: a job that was claimed in an earlier batch may be cancelled in the same message.
        for lease in handout.cancelling {
            if let Some(token) = self.running.lock().get(&lease) {
                token.cancel();
            }
        }
    }

    /// Has all running attempts asked to stop.
    pub(crate) fn stop(&self) {
        self.stopping.cancel();
    }

    /// Cuts all running attempts off.
    pub(crate) fn cut_off(&self) {
        self.stopping.cancel();
        self.cutting_off.cancel();
    }

    fn forget(&self, lease: LeaseToken) {
        self.running.lock().remove(&lease);
    }
}
