//! The channel for reports of attempts, and the count of reported outcomes that are not written yet.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::sync::{Notify, mpsc};

use crate::{
    engine::{Report, ReportBody},
    job::FailureReason,
};

/// Capacity reserved for the ends of attempts. With less room than this left, progress is dropped.
const REPORTS_RESERVED: usize = 100_000;

/// Sender of the reports of attempts.
#[derive(Clone)]
pub(crate) struct Reports {
    pub(super) reports: mpsc::Sender<Report>,
    /// Final reports of remote workers.
    pub(super) remote: mpsc::Sender<Report>,
    /// Checkpoints of all attempts, and progress of remote workers.
    pub(super) checkpoints: mpsc::Sender<Report>,
    pub(super) unwritten: Arc<Unwritten>,
}

impl Reports {
    /// Reports the end of an attempt.
    pub(crate) fn ended(&self, report: Report) {
        let is_outcome = is_outcome(&report);
        // Counted before the committer can receive the report.
        self.unwritten.outcomes.fetch_add(u64::from(is_outcome), Ordering::Relaxed);
        if let Err(error) = self.reports.try_send(report) {
            self.unwritten.were_written(usize::from(is_outcome));
            // The channel has room for every slot, so it can only be closed. The next start counts the attempt as lost.
            tracing::debug!(%error, "an attempt ended after the committer; the next start counts it as lost");
        }
    }

    /// Passes a remote worker's report on, and waits while too many are pending. Returns whether the committer has taken
    /// it: not after its end.
    pub(crate) async fn remote(&self, report: Report) -> bool {
        if !report.is_final() {
            return self.checkpoint(report).await;
        }
        let is_outcome = is_outcome(&report);
        let Ok(permit) = self.remote.reserve().await else { return false };
        // Counted before the committer can receive the report.
        self.unwritten.outcomes.fetch_add(u64::from(is_outcome), Ordering::Relaxed);
        permit.send(report);
        true
    }

    /// Passes a checkpoint on, and waits while too many are pending. Returns whether the committer has taken it: not after
    /// its end.
    pub(crate) async fn checkpoint(&self, report: Report) -> bool {
        self.checkpoints.send(report).await.is_ok()
    }

    /// Passes a remote worker's progress on, if there is room. Returns whether there was.
    pub(crate) fn remote_progress(&self, report: Report) -> bool {
        self.checkpoints.try_send(report).is_ok()
    }

    /// Returns the number of reported outcomes that are not written yet.
    pub(crate) fn unwritten(&self) -> u64 {
        self.unwritten.outcomes.load(Ordering::Relaxed)
    }

    /// Returns whether the committer has ended without an error, apart from closing the store.
    pub(crate) fn are_over(&self) -> bool {
        self.unwritten.is_over.load(Ordering::Relaxed)
    }

    /// Returns once all reported outcomes are written.
    pub(crate) async fn are_written(&self) {
        loop {
            let written = self.unwritten.written.notified();
            if self.unwritten() == 0 {
                return;
            }
            written.await;
        }
    }

    /// Reports progress of an attempt, if there is room.
    pub(crate) fn progress(&self, report: Report) {
        if self.reports.capacity() > REPORTS_RESERVED {
            let _ = self.reports.try_send(report);
        }
    }
}

/// The count of reported outcomes that are not written yet.
#[derive(Debug, Default)]
pub(super) struct Unwritten {
    outcomes: AtomicU64,
    /// Whether the committer has ended without an error, apart from closing the store.
    pub(super) is_over: AtomicBool,
    /// Notified when outcomes were written.
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

/// Returns whether a report differs from a lost attempt, which the next start assumes for an unfinished one.
pub(super) fn is_outcome(report: &Report) -> bool {
    match &report.body {
        ReportBody::Succeeded { .. } | ReportBody::Snoozed { .. } | ReportBody::Released { .. } => true,
        ReportBody::Failed { failure, .. } => failure.reason != FailureReason::Lost,
        ReportBody::Progress(_) | ReportBody::Checkpoint => false,
    }
}
