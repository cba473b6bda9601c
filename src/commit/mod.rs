//! Group commit: the one place that writes.
//!
//! A thread of its own drains what has come in, reports before submissions, applies it to the store in one
//! transaction, and only then answers callers, publishes changes and hands out claims. It waits for nothing but input
//! and the disk: reports have room for every slot, claims have their slots already, and watchers pull.

mod answer;
mod committer;
mod held;
mod linger;
mod locked;
mod pending;

use std::{sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub(crate) use answer::Answer;
pub(crate) use committer::{Committer, Committing};

use crate::{
    admission::{
        Patience,
        waiters::{Caller, CallerKey},
    },
    clock::Uptime,
    job::{Job, LeaseToken, Position},
    store::{Claim, Control, ControlDone, ControlRefusal, Offer, OfferRefusal, Report, batch::QueueFull},
};

/// Progress is let go once less room than this is left for the ends of attempts.
const REPORTS_RESERVED: usize = 100_000;

/// What comes to the committer from callers.
enum Entry {
    Offer {
        offer: Offer,
        caller: CallerKey,
        /// Until when it waits for room, if it does.
        wait: Option<Uptime>,
        /// Until when it waits for the store.
        give_up: Uptime,
        reply: oneshot::Sender<SubmitAnswer>,
    },
    Control {
        control: Control,
        give_up: Uptime,
        reply: oneshot::Sender<ControlAnswer>,
    },
    /// Answered after the batch that takes it.
    Flush {
        reply: oneshot::Sender<()>,
    },
}

impl Entry {
    /// How many jobs it is about, and the bytes of their payloads.
    fn size(&self) -> (usize, u64) {
        match self {
            Entry::Offer { offer, .. } => {
                (offer.jobs.len(), offer.jobs.iter().map(|job| job.payload.len() as u64).sum())
            }
            Entry::Control { .. } | Entry::Flush { .. } => (1, 0),
        }
    }
}

/// What became of a submission.
#[derive(Debug)]
pub enum SubmitAnswer {
    /// The jobs are kept.
    Created {
        /// The jobs, in their order.
        jobs: Vec<Arc<Job>>,
    },
    /// The request was seen before: these are its jobs, with consecutive ids.
    Seen {
        /// The first job as it is now.
        first: Arc<Job>,
        /// How many there are.
        count: u32,
    },
    /// There was no room.
    Full {
        /// Which bound was met.
        full: QueueFull,
        /// Whether it was not even possible to wait, because too many do.
        too_many_waiters: bool,
    },
    /// Refused for good.
    Refused(OfferRefusal),
}

/// What became of a control.
#[derive(Debug)]
pub enum ControlAnswer {
    /// It was decided at once.
    Decided(Result<ControlDone, ControlRefusal>),
    /// A purge has come to its end.
    Purged {
        /// How many jobs it deleted.
        deleted: u64,
    },
}

/// The server ended before it could answer: the outcome is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server stops; whether the call took effect is unknown: repeat it with the same request_id")]
pub struct Stopped;

/// The way to the committer.
#[derive(Clone)]
pub struct Commit {
    entries: mpsc::Sender<Entry>,
    /// Once cancelled, the committer does what has come in and ends.
    ending: CancellationToken,
}

impl Commit {
    /// Offers jobs. A caller who gives up while waiting leaves nothing behind.
    ///
    /// # Errors
    /// When the server stops.
    pub async fn submit(&self, offer: Offer, patience: Patience) -> Result<SubmitAnswer, Stopped> {
        let caller = Caller::default();
        self.offer(&caller, offer, patience).await?.decided().await
    }

    /// Has something changed. While the store takes nothing, it waits until `give_up`.
    ///
    /// # Errors
    /// When the server stops.
    pub async fn control(&self, control: Control, give_up: Uptime) -> Result<ControlAnswer, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.entries.send(Entry::Control { control, give_up, reply }).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// Returns when a batch that began after the call is done, or the committer has ended.
    pub(crate) async fn flush(&self) {
        let (reply, done) = oneshot::channel();
        if self.entries.send(Entry::Flush { reply }).await.is_ok() {
            let _ = done.await;
        }
    }

    /// Has the committer do what has come in, and end.
    pub(crate) fn end(&self) {
        self.ending.cancel();
    }
}

/// The way for attempts to report.
#[derive(Clone)]
pub(crate) struct Reports {
    reports: mpsc::Sender<Report>,
}

impl Reports {
    /// Tells the end of an attempt.
    pub(crate) fn ended(&self, report: Report) {
        if let Err(error) = self.reports.try_send(report) {
            // There is room for every slot, so that the channel can only be closed: the next start counts it as lost.
            tracing::debug!(%error, "an attempt ended after the server");
        }
    }

    /// Tells how far an attempt is, if there is room.
    pub(crate) fn progress(&self, report: Report) {
        if self.reports.capacity() > REPORTS_RESERVED {
            let _ = self.reports.try_send(report);
        }
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
pub fn position_of(jobs: &[Arc<Job>]) -> Position {
    jobs.iter().map(|job| job.position).max().unwrap_or_default()
}

/// How long before a caller's deadline an answer should be on its way.
#[must_use]
pub fn answer_margin(left: Duration) -> Duration {
    (left / 10).min(Duration::from_millis(100))
}
