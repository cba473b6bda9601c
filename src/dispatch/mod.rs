//! Starts the attempts that the committer hands out, and sees each of them to its end.

mod attempt;
mod output;

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    commit::{Handout, Reports},
    execute::Handler,
    job::LeaseToken,
    watch::{Hub, Reads},
};

/// The handlers by kind.
pub(crate) type Handlers = HashMap<Box<str>, Arc<dyn Handler>>;

/// Starts attempts and sees them to their end.
pub(crate) struct Dispatch {
    pub(crate) handlers: Handlers,
    pub(crate) reports: Reports,
    pub(crate) hub: Arc<Hub>,
    pub(crate) reads: Reads,
    /// Once cancelled, running attempts are asked to stop.
    pub(crate) stopping: CancellationToken,
    /// Once cancelled, running attempts are cut off.
    pub(crate) cutting_off: CancellationToken,
    running: Mutex<HashMap<LeaseToken, CancellationToken>>,
}

impl Dispatch {
    pub(crate) fn new(handlers: Handlers, reports: Reports, hub: Arc<Hub>, reads: Reads) -> Self {
        Dispatch {
            handlers,
            reports,
            hub,
            reads,
            stopping: CancellationToken::new(),
            cutting_off: CancellationToken::new(),
            running: Mutex::default(),
        }
    }

    /// Starts what is handed out until the committer has ended. Attempts belong to `attempts`.
    pub(crate) async fn run(self: Arc<Self>, mut handouts: mpsc::Receiver<Handout>, attempts: TaskTracker) {
        while let Some(Handout { claims, cancelling }) = handouts.recv().await {
            for claim in claims {
                let token = CancellationToken::new();
                self.running.lock().insert(claim.lease, token.clone());
                attempts.spawn(Arc::clone(&self).attempt(claim, token));
            }
            // After the claims: a job that was claimed and cancelled in one batch is in both.
            for lease in cancelling {
                if let Some(token) = self.running.lock().get(&lease) {
                    token.cancel();
                }
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
