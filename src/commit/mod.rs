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
mod room;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

pub(crate) use answer::Answer;
pub(crate) use committer::{Committer, Committing};

use crate::{
    admission::{
        Patience,
        waiters::{Caller, CallerKey},
    },
    clock::Uptime,
    job::{FailureReason, Job, LeaseToken, Position},
    store::{
        Claim, Control, ControlDone, ControlRefusal, Offer, OfferRefusal, Report, ReportBody,
        batch::QueueFull,
    },
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
        reply: oneshot::Sender<Result<SubmitAnswer, Stopped>>,
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

/// A call that came to nothing because the server stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// Nothing was changed: the call came too late, or it still waited for room.
    #[error("the server stops, and the call changed nothing: repeat it later")]
    Refused,
    /// The server ended before it could answer.
    #[error(
        "the server stopped, and whether the call took effect is unknown: repeat it with the same request_id"
    )]
    Unknown,
}

impl Stopped {
    /// The stable reason that errors carry. STOPPING is a definite refusal.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Stopped::Refused => "STOPPING",
            Stopped::Unknown => "OUTCOME_UNKNOWN",
        }
    }
}

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
        let entry = Entry::Control { control, give_up, reply };
        self.entries.send(entry).await.map_err(|_| Stopped::Refused)?;
        answer.await.map_err(|_| Stopped::Unknown)
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
    unwritten: Arc<Unwritten>,
}

impl Reports {
    /// Tells the end of an attempt.
    pub(crate) fn ended(&self, report: Report) {
        let is_outcome = is_outcome(&report);
        // Before the committer can have it.
        self.unwritten.outcomes.fetch_add(u64::from(is_outcome), Ordering::Relaxed);
        if let Err(error) = self.reports.try_send(report) {
            self.unwritten.were_written(usize::from(is_outcome));
            // There is room for every slot, so that the channel can only be closed: the next start counts it as lost.
            tracing::debug!(%error, "an attempt ended after the server");
        }
    }

    /// Outcomes that were told here and are not kept yet.
    pub(crate) fn unwritten(&self) -> u64 {
        self.unwritten.outcomes.load(Ordering::Relaxed)
    }

    /// Whether the committer has come to its end, but for closing the store.
    pub(crate) fn are_over(&self) -> bool {
        self.unwritten.is_over.load(Ordering::Relaxed)
    }

    /// Returns once all outcomes that were told here are kept.
    pub(crate) async fn are_written(&self) {
        loop {
            let written = self.unwritten.written.notified();
            if self.unwritten() == 0 {
                return;
            }
            written.await;
        }
    }

    /// Tells how far an attempt is, if there is room.
    pub(crate) fn progress(&self, report: Report) {
        if self.reports.capacity() > REPORTS_RESERVED {
            let _ = self.reports.try_send(report);
        }
    }
}

/// The count of outcomes that attempts have told and that are not kept yet.
#[derive(Debug, Default)]
struct Unwritten {
    outcomes: AtomicU64,
    /// Nothing more is on its way to the store; it only has to be closed.
    is_over: AtomicBool,
    /// Told when some were written.
    written: Notify,
}

impl Unwritten {
    fn were_written(&self, count: usize) {
        if count > 0 {
            self.outcomes.fetch_sub(count as u64, Ordering::Relaxed);
            self.written.notify_waiters();
        }
    }
}

/// Whether a report says more of an attempt than the next start would assume of one that it finds unfinished.
fn is_outcome(report: &Report) -> bool {
    match &report.body {
        ReportBody::Succeeded { .. } | ReportBody::Released { .. } => true,
        ReportBody::Failed { failure, .. } => failure.reason != FailureReason::Lost,
        ReportBody::Progress(_) => false,
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
