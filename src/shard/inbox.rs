//! What comes to the committer from callers and attempts.

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Uptime,
    engine::{Asked, Control, Offer, Report},
};

/// Capacity of the committer's inbox.
pub(super) const INBOX_ENTRIES: usize = 1_024;
/// Capacity of the channel for reports. All queues together have at most 100,000 slots: each can end and tell its
/// progress without waiting.
pub(super) const REPORTS_MAX: usize = 200_000;
/// Limit of the entries that a batch takes of each channel; with 1,000 jobs in each they are still one transaction.
pub(super) const ENTRIES_MAX: usize = 1_024;
/// Job limit of a batch.
const JOBS_MAX: usize = 4_096;
/// Byte limit of a batch's new jobs, and that of its reports, but for the last one that it takes. A disk takes some 15
/// ms for as much, for which all other callers wait.
const BYTES_MAX: u64 = 1 << 20;
/// Size of the reports of a batch from which on it takes long: callers who came meanwhile are served before the next
/// reports.
const LARGE_BYTES: u64 = 256 << 10;

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
    /// How many jobs it is about, and what they count in bytes.
    pub(super) fn size(&self) -> (usize, u64) {
        match self {
            Entry::Offer(offer) => (offer.jobs.count(), offer.bytes()),
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
    /// The last batch had large reports.
    had_large: bool,
}

impl Inbox {
    pub(super) fn new(
        entries: mpsc::Receiver<Entry>,
        reports: mpsc::Receiver<Report>,
        ending: CancellationToken,
    ) -> Self {
        Inbox { entries, reports, ending, had_large: false }
    }

    /// Whether the next batch is the callers' alone.
    pub(super) fn callers_first(&self) -> bool {
        self.had_large && !self.entries.is_empty()
    }

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
        let callers_first = self.had_large && !(entries.is_empty() && self.entries.is_empty());
        self.take_entries(entries);
        let mut bytes: u64 = reports.iter().map(Report::bytes).sum();
        while !callers_first && reports.len() < ENTRIES_MAX && bytes < BYTES_MAX {
            let Ok(report) = self.reports.try_recv() else { break };
            bytes += report.bytes();
            reports.push(report);
        }
        self.had_large = bytes >= LARGE_BYTES;
    }

    fn take_entries(&mut self, entries: &mut Vec<Entry>) {
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        engine::{Ask, ReportBody},
        job::{JobId, LeaseToken, Output},
    };

    fn report(bytes: usize) -> Report {
        let output = Output { bytes: Bytes::from(vec![0; bytes]), ..Output::default() };
        let body = ReportBody::Succeeded { output, tail: String::new() };
        Report { id: JobId::from_raw(1), lease: LeaseToken::from_raw(1), body, ask: Ask::unheard() }
    }

    #[test]
    fn after_a_batch_with_large_reports_callers_come_first() {
        let (entry_sender, entry_receiver) = mpsc::channel(8);
        let (report_sender, report_receiver) = mpsc::channel(8);
        let mut inbox = Inbox::new(entry_receiver, report_receiver, CancellationToken::new());
        let mut take = || {
            let (mut entries, mut reports) = (Vec::new(), Vec::new());
            inbox.take(&mut entries, &mut reports);
            (entries.len(), reports.len(), inbox.callers_first())
        };
        (0..3).for_each(|_| report_sender.try_send(report(1 << 20)).unwrap());
        let call = || entry_sender.try_send(Entry::Flush(oneshot::channel().0)).unwrap();
        call();
        assert_eq!(take(), (1, 1, false), "a large report and who is there share a batch");
        call();
        assert_eq!(take(), (1, 0, false), "then callers alone");
        call();
        assert_eq!(take(), (1, 1, false), "and reports again: neither starves the other");
        assert_eq!(take(), (0, 1, false), "where nobody else is there, reports go on");
        report_sender.try_send(report(10)).unwrap();
        assert_eq!(take(), (0, 1, false));
        call();
        report_sender.try_send(report(10)).unwrap();
        assert_eq!(take(), (1, 1, false), "small ones make nobody wait");
    }
}
