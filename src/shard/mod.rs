//! A shard: everything of one store. Its only writer, the inbox to it, the offers that wait, the feed of changes, the
//! reads, and the registry of queues. A process can have several.
//!
//! The writer, the *committer*, is a thread of its own. It drains what has come in, reports before submissions, applies
//! it to the store in one transaction, and only then answers callers, publishes changes and hands out claims. It waits
//! for nothing but input and the disk: reports have room for every slot, claims have their slots already, and watchers
//! pull.

mod answer;
mod committer;
mod held;
mod inbox;
mod ledger;
mod linger;
mod locked;
mod pending;
mod reports;

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::inbox::Entry;
pub use self::ledger::{Applied, Ledger, Obstacle, Unapplied};
pub(crate) use self::{
    answer::Answer,
    committer::{Committing, Parts},
    reports::Reports,
};
use crate::{
    clock::Uptime,
    engine::{
        Ask, Caller, Claim, Control, ControlError, ControlRefusal, Departures, NewJob, NotAdmitted, Offer,
        OfferError, Patience, Queues, Stopped, Submitted,
    },
    job::{AtLeastOne, Job, LeaseToken, Position, RequestId},
    store::Reads,
    watch::Hub,
};

/// A shard, for those who call it.
#[derive(Clone)]
pub(crate) struct Shard {
    /// Its queues.
    pub(crate) queues: Arc<Queues>,
    /// Its feed of changes.
    pub(crate) hub: Arc<Hub>,
    /// What it has kept.
    pub(crate) reads: Reads,
    entries: mpsc::Sender<Entry>,
    departures: Arc<Departures>,
    /// Once cancelled, the committer does what has come in and ends.
    ending: CancellationToken,
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard").field("queues", &self.queues).finish_non_exhaustive()
    }
}

/// New jobs, all or none, as a caller offers them.
pub(crate) struct Submission {
    /// Makes a repeat safe.
    pub(crate) request: Option<RequestId>,
    /// The jobs.
    pub(crate) jobs: AtLeastOne<NewJob>,
    /// Why the jobs can't enter, unless the request has come before.
    pub(crate) obstacle: Option<NotAdmitted>,
    /// Until when the caller waits.
    pub(crate) patience: Patience,
}

impl Shard {
    /// Offers jobs. A caller who gives up while waiting leaves nothing behind.
    ///
    /// # Errors
    /// When there is no room, the engine refuses them, or the server stops.
    pub(crate) async fn submit(&self, submission: Submission) -> Result<Submitted, OfferError> {
        let caller = self.caller();
        let answer = self.offer(&caller, submission).await?.decided().await;
        caller.disarm();
        answer
    }

    /// A caller of its own. As long as it is there, all that is offered for it counts as one where those who wait are
    /// counted; what still waits when it is dropped is let go of.
    pub(crate) fn caller(&self) -> Caller {
        self.departures.caller()
    }

    /// Hands an offer to the committer, without waiting for its answer. What is handed over first is decided first.
    ///
    /// # Errors
    /// When the server stops.
    pub(crate) async fn offer(&self, caller: &Caller, submission: Submission) -> Result<Answer, Stopped> {
        let Submission { request, jobs, obstacle, patience: Patience { room, store } } = submission;
        let (ask, answer) = Ask::new(store);
        let offer = Offer::new(request, jobs, caller.id(), room, ask).with_obstacle(obstacle);
        self.entries.send(Entry::Offer(offer)).await.map_err(|_| Stopped::Refused)?;
        Ok(Answer(answer))
    }

    /// Has something changed. While the store takes nothing, it waits until `give_up`.
    ///
    /// # Errors
    /// When the engine refuses it, or the server stops.
    pub(crate) async fn control<T>(
        &self,
        give_up: Uptime,
        make: impl FnOnce(Ask<T, ControlRefusal>) -> Control,
    ) -> Result<T, ControlError> {
        let (ask, answer) = Ask::new(give_up);
        self.entries.send(Entry::Control(make(ask))).await.map_err(|_| Stopped::Refused)?;
        Ok(answer.await.map_err(|_| Stopped::Unknown)??)
    }

    /// Returns when a batch that began after the call is done, or the committer has ended.
    pub(crate) async fn flush(&self) {
        let (reply, done) = oneshot::channel();
        if self.entries.send(Entry::Flush(reply)).await.is_ok() {
            let _ = done.await;
        }
    }

    /// Has the committer do what has come in, and end.
    pub(crate) fn end(&self) {
        self.ending.cancel();
    }
}

/// What the committer hands to dispatch after a commit.
#[derive(Debug)]
pub(crate) struct Handout {
    pub(crate) claims: Vec<Claim>,
    pub(crate) cancelling: Vec<LeaseToken>,
}

/// The feed's position of a submission's answer: nothing of these jobs is told after it that the answer does not tell.
#[must_use]
pub(crate) fn position_of<'a>(jobs: impl IntoIterator<Item = &'a Arc<Job>>) -> Position {
    jobs.into_iter().map(|job| job.position).max().unwrap_or_default()
}

/// How long before a caller's deadline an answer should be on its way.
#[must_use]
pub(crate) fn answer_margin(left: Duration) -> Duration {
    (left / 10).min(Duration::from_millis(100))
}

#[cfg(test)]
mod tests;
