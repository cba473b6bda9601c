//! The remote workers of a shard.

use std::sync::Arc;

use super::roster::Roster;
use crate::{
    clock::Uptime,
    engine::{Action, Control, ControlError, Registered, WorkerHello},
    settings::WorkerSettings,
    shard::{Reports, Shard},
    watch::Hub,
};

/// The remote workers of a shard.
#[derive(Clone)]
pub(crate) struct Workers {
    pub(crate) roster: Arc<Roster>,
    pub(super) shard: Shard,
    pub(super) reports: Reports,
    pub(super) hub: Arc<Hub>,
}

impl Workers {
    /// Creates the remote workers of a shard, whose committer uses the same roster.
    pub(crate) fn new(roster: Arc<Roster>, shard: Shard, reports: Reports) -> Self {
        let hub = Arc::clone(&shard.hub);
        Workers { roster, shard, reports, hub }
    }

    /// Returns the settings.
    pub(crate) fn settings(&self) -> &WorkerSettings {
        self.roster.settings()
    }

    /// Registers a worker's process.
    ///
    /// # Errors
    /// When a newer process has taken over its instance, a limit is reached, or the server stops.
    pub(crate) async fn register(
        &self,
        hello: WorkerHello,
        deadline: Uptime,
    ) -> Result<Registered, ControlError> {
        let hello = Box::new(hello);
        let registered =
            self.shard.control(deadline, |ask| Control::once(Action::RegisterWorker { hello, ask })).await?;
        self.roster.entry(&registered.worker).state.lock().is_registered = true;
        Ok(registered)
    }
}
