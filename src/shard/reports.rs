//! The way for attempts to report, and the count of what they have told that is not kept yet.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::sync::{Notify, mpsc};

use crate::{
    engine::{Report, ReportBody},
    job::FailureReason,
};

/// Progress is let go once less room than this is left for the ends of attempts.
const REPORTS_RESERVED: usize = 100_000;

/// The way for attempts to report.
#[derive(Clone)]
pub(crate) struct Reports {
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) unwritten: Arc<Unwritten>,
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
pub(super) struct Unwritten {
    outcomes: AtomicU64,
    /// Nothing more is on its way to the store; it only has to be closed.
    pub(super) is_over: AtomicBool,
    /// Told when some were written.
    written: Notify,
}

impl Unwritten {
    pub(super) fn were_written(&self, count: usize) {
        if count > 0 {
            self.outcomes.fetch_sub(count as u64, Ordering::Relaxed);
            self.written.notify_waiters();
        }
    }
}

/// Whether a report says more of an attempt than the next start would assume of one that it finds unfinished.
pub(super) fn is_outcome(report: &Report) -> bool {
    match &report.body {
        ReportBody::Succeeded { .. } | ReportBody::Released { .. } => true,
        ReportBody::Failed { failure, .. } => failure.reason != FailureReason::Lost,
        ReportBody::Progress(_) => false,
    }
}
