//! A shard: all that belongs to one store, namely its only writer with its inbox, the waiting offers, the change feed,
//! the reads, and the registry of queues. A process can have several.
//!
//! The writer, the *committer*, is a thread of its own. It takes all pending input, reports before submissions, applies
//! it to the store in one transaction, and only then replies to callers, publishes changes and dispatches claims. It
//! blocks on nothing but input and the disk: the channel for reports has room for every slot, each claim has its slot
//! already, and watchers pull.

mod answer;
mod committer;
mod disk_full;
mod inbox;
mod ledger;
mod linger;
mod locked;
mod pending;
mod reports;

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::inbox::InboxEntry;
pub use self::ledger::{Applied, Ledger, StoreObstacle, Unapplied};
pub(crate) use self::{
    answer::PendingAnswer,
    committer::{Committing, Parts},
    reports::Reports,
};
use crate::{
    clock::{Timestamp, Uptime},
    engine::{
        DemandBoard, RemoteChanges, WorkerKinds,
        Caller, Claim, Control, ControlError, ControlRefusal, Departures, NewJob, NotAdmitted, Offer,
        OfferError, Queues, ReplySlot, ScheduleFeed, LimitBoard, Stopped, Submitted, WaitDeadlines,
    },
    job::{AtLeastOne, Job, LeaseToken, Position, RequestId},
    store::Reads,
    watch::Hub,
};

/// A handle to a shard.
#[derive(Clone)]
pub(crate) struct Shard {
    /// The registry of queues.
    pub(crate) queues: Arc<Queues>,
    /// The change feed.
    pub(crate) hub: Arc<Hub>,
    /// Reads of the store.
    pub(crate) reads: Reads,
    /// The board for the demand of remote workers.
    pub(crate) demand: Arc<DemandBoard>,
    /// The changes and numbers of schedules.
    pub(crate) schedule_feed: Arc<ScheduleFeed>,
    /// The limits, and what runs under them.
    pub(crate) limits: Arc<LimitBoard>,
    /// The registry of the kinds that remote workers serve.
    pub(crate) worker_kinds: Arc<WorkerKinds>,
    entries: mpsc::Sender<InboxEntry>,
    departures: Arc<Departures>,
    /// Cancelled to make the committer finish its pending input and end.
    ending: CancellationToken,
}

impl fmt::Debug for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shard").field("queues", &self.queues).finish_non_exhaustive()
    }
}

/// A caller's submission of new jobs, accepted all or none.
pub(crate) struct Submission {
    /// The request id, which makes a repeat idempotent.
    pub(crate) request: Option<RequestId>,
    /// The jobs.
    pub(crate) jobs: AtLeastOne<NewJob>,
    /// Admission error of the jobs, which does not matter to a repeat.
    pub(crate) obstacle: Option<NotAdmitted>,
    /// Deadlines of the caller's waits.
    pub(crate) wait_deadlines: WaitDeadlines,
}

impl Shard {
    /// Submits jobs. If this future is dropped while the offer waits for room, the offer is removed.
    ///
    /// # Errors
    /// When there is no room, the engine refuses the jobs, or the server stops.
    pub(crate) async fn submit(&self, submission: Submission) -> Result<Submitted, OfferError> {
        let caller = self.caller();
        let answer = self.offer(&caller, submission).await?.decided().await;
        caller.disarm();
        answer
    }

    /// Creates a caller. All its offers count as one against the limit of waiting callers; dropping it removes the
    /// offers that still wait.
    pub(crate) fn caller(&self) -> Caller {
        self.departures.caller()
    }

    /// Sends an offer to the committer, without waiting for the reply. Offers are decided in the order in which they
    /// are sent.
    ///
    /// # Errors
    /// When the server stops.
    pub(crate) async fn offer(
        &self,
        caller: &Caller,
        submission: Submission,
    ) -> Result<PendingAnswer, Stopped> {
        let Submission { request, jobs, obstacle, wait_deadlines: WaitDeadlines { room, store } } =
            submission;
        let (ask, answer) = ReplySlot::new(store);
        let offer = Offer::new(request, jobs, caller.id(), room, ask).with_obstacle(obstacle);
        self.entries.send(InboxEntry::Offer(offer)).await.map_err(|_| Stopped::Refused)?;
        Ok(PendingAnswer(answer))
    }

    /// Requests a mutation and waits for the reply. `store_deadline` is the deadline of the wait for a locked store.
    ///
    /// # Errors
    /// When the engine refuses the mutation, or the server stops.
    pub(crate) async fn control<T>(
        &self,
        store_deadline: Uptime,
        make: impl FnOnce(ReplySlot<T, ControlRefusal>) -> Control,
    ) -> Result<T, ControlError> {
        let (ask, answer) = ReplySlot::new(store_deadline);
        self.entries.send(InboxEntry::Control(make(ask))).await.map_err(|_| Stopped::Refused)?;
        Ok(answer.await.map_err(|_| Stopped::Unknown)??)
    }

    /// Returns once a batch that began after the call is applied, or the committer has ended.
    pub(crate) async fn flush(&self) {
        let (reply, done) = oneshot::channel();
        if self.entries.send(InboxEntry::Flush(reply)).await.is_ok() {
            let _ = done.await;
        }
    }

    /// Makes the committer finish its pending input and end.
    pub(crate) fn end(&self) {
        self.ending.cancel();
    }
}

/// Keeper of the leases of remote workers. The committer calls it on its own thread; it must not wait.
pub(crate) trait RemoteLeases: Send + Sync {
    /// Takes over the leases that have outlived a start, each with the start of its attempt.
    fn inherit(&self, jobs: Vec<(Arc<Job>, Timestamp)>);

    /// Takes the changes of a batch, which is on disk.
    fn apply(&self, changes: RemoteChanges);
}

/// The attempts to start and to cancel after a commit.
#[derive(Debug)]
pub(crate) struct Dispatches {
    pub(crate) claims: Vec<Claim>,
    pub(crate) cancelling: Vec<LeaseToken>,
}

/// Returns the feed position of a submission's answer: the answer has every change of these jobs up to it.
#[must_use]
pub(crate) fn position_of<'a>(jobs: impl IntoIterator<Item = &'a Arc<Job>>) -> Position {
    jobs.into_iter().map(|job| job.position).max().unwrap_or_default()
}

/// Returns how long before a caller's deadline its answer should be sent.
#[must_use]
pub(crate) fn answer_margin(left: Duration) -> Duration {
    (left / 10).min(Duration::from_millis(100))
}

#[cfg(test)]
mod tests;
