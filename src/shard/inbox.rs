//! What comes to the committer from callers and attempts.

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Uptime,
    engine::{Asked, Control, Offer, Report},
};

/// Capacity of the committer's inbox.
pub(super) const INBOX_ENTRIES: usize = 1_024;
/// Capacity of the channel for reports. All queues together have at most 100,000 slots: each can end and tell its progress
/// without waiting.
pub(super) const REPORTS_MAX: usize = 200_000;
/// Limit of the entries that a batch takes of each channel; with 1,000 jobs in each they are still one transaction.
pub(super) const ENTRIES_MAX: usize = 1_024;
/// Job limit of a batch.
const JOBS_MAX: usize = 4_096;
/// Byte limit of a batch's new jobs, and that of its reports, but for the last one that it takes. A disk takes some 15 ms for
/// as much, for which all other callers wait.
const BYTES_MAX: u64 = 1 << 20;

/// What comes from callers.
pub(super) enum Entry {
    /// New jobs.
    Offer(Offer),
    /// A change.
    Control(Control),
    /// Answered after the batch that takes it.
    Flush(oneshot::Sender<()>),
}

impl Entry {
    /// How many jobs it is about, and the bytes of their payloads.
    pub(super) fn size(&self) -> (usize, u64) {
        match self {
            Entry::Offer(offer) => {
                (offer.jobs.count(), offer.jobs.iter().map(|job| job.payload.len() as u64).sum())
            }
            Entry::Control(_) | Entry::Flush(_) => (1, 0),
        }
    }

    /// Until when its caller waits for the store.
    pub(super) fn give_up(&self) -> Option<Uptime> {
        match self {
            Entry::Offer(offer) => Some(offer.ask.give_up()),
            Entry::Control(control) => Some(control.ask().give_up()),
            Entry::Flush(_) => None,
        }
    }
}

/// The committer's ends of its channels.
pub(super) struct Inbox {
    pub(super) entries: mpsc::Receiver<Entry>,
    pub(super) reports: mpsc::Receiver<Report>,
    pub(super) ending: CancellationToken,
}

impl Inbox {
    /// How much is there.
    pub(super) fn len(&self) -> usize {
        self.reports.len() + self.entries.len()
    }

    /// Nothing more is taken in.
    pub(super) fn close(&mut self) {
        self.entries.close();
        self.reports.close();
    }

    /// Takes a batch's worth of what is there, beside what was taken before.
    pub(super) fn take(&mut self, entries: &mut Vec<Entry>, reports: &mut Vec<Report>) {
        let mut bytes: u64 = reports.iter().map(Report::bytes).sum();
        while reports.len() < ENTRIES_MAX && bytes < BYTES_MAX {
            let Ok(report) = self.reports.try_recv() else { break };
            bytes += report.bytes();
            reports.push(report);
        }
        let (mut jobs, mut bytes) = entries.iter().fold((0, 0), |(jobs, bytes), entry| {
            let (more_jobs, more_bytes) = entry.size();
            (jobs + more_jobs, bytes + more_bytes)
        });
        while entries.len() < ENTRIES_MAX && jobs < JOBS_MAX && bytes < BYTES_MAX {
            let Ok(entry) = self.entries.try_recv() else { break };
            let (more_jobs, more_bytes) = entry.size();
            (jobs, bytes) = (jobs + more_jobs, bytes + more_bytes);
            entries.push(entry);
        }
    }
}
