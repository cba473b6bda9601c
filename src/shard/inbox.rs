//! The committer's inbox for callers and attempts.

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Uptime,
    engine::{Control, Offer, Refusable, Report},
};

/// Capacity of the committer's inbox.
pub(super) const INBOX_ENTRIES: usize = 1_024;
/// Capacity of the channel for reports. All queues together have at most 100,000 slots: each can report an end and
/// progress without waiting.
pub(super) const REPORTS_MAX: usize = 200_000;
/// Limit of the entries that a batch takes from each channel.
pub(super) const ENTRIES_MAX: usize = 1_024;
/// Job limit of a batch.
const JOBS_MAX: usize = 4_096;
/// Byte limit of a batch's new jobs, and of its reports; the last one taken may exceed it. Writing this much takes a
/// disk about 15 ms, during which all other callers wait.
const BYTES_MAX: u64 = 1 << 20;
/// Capacity of the channel for reports of remote workers; further ones wait in their connections.
pub(super) const REMOTE_REPORTS_MAX: usize = 4_096;
/// Byte limit of a batch's checkpoints; the last one taken may exceed it.
const CHECKPOINT_BYTES_MAX: u64 = 256 << 10;
/// Size of a batch's reports above which it counts as slow: the next batch then serves callers before further reports.
const LARGE_BYTES: u64 = 256 << 10;

/// An entry of a caller.
pub(super) enum InboxEntry {
    /// A submission of new jobs.
    Offer(Offer),
    /// A mutation of a job or queue.
    Control(Control),
    /// A flush request, answered after the batch that takes it.
    Flush(oneshot::Sender<()>),
}

impl InboxEntry {
    /// Returns the number of its jobs, at least 1, and the bytes of those that are new.
    pub(super) fn size(&self) -> (usize, u64) {
        match self {
            InboxEntry::Offer(offer) => (offer.jobs.count(), offer.bytes()),
            // A worker's hello may name many jobs, each of which is read.
            InboxEntry::Control(control) => (control.action.leases().len().max(1), 0),
            InboxEntry::Flush(_) => (1, 0),
        }
    }

    /// Returns the deadline of its caller's wait for a locked store.
    pub(super) fn store_deadline(&self) -> Option<Uptime> {
        match self {
            InboxEntry::Offer(offer) => Some(offer.ask.store_deadline()),
            InboxEntry::Control(control) => Some(control.action.ask().store_deadline()),
            InboxEntry::Flush(_) => None,
        }
    }
}

/// The receiving ends of the committer's channels.
pub(super) struct Inbox {
    pub(super) entries: mpsc::Receiver<InboxEntry>,
    pub(super) reports: mpsc::Receiver<Report>,
    /// Final reports of remote workers.
    pub(super) remote: mpsc::Receiver<Report>,
    /// Checkpoints of all attempts, and progress of remote workers.
    pub(super) checkpoints: mpsc::Receiver<Report>,
    pub(super) ending: CancellationToken,
    /// Whether the last batch had large reports.
    had_large: bool,
}

impl Inbox {
    pub(super) fn new(
        entries: mpsc::Receiver<InboxEntry>,
        reports: mpsc::Receiver<Report>,
        [remote, checkpoints]: [mpsc::Receiver<Report>; 2],
        ending: CancellationToken,
    ) -> Self {
        Inbox { entries, reports, remote, checkpoints, ending, had_large: false }
    }

    /// Returns whether the next batch takes entries of callers only.
    pub(super) fn callers_first(&self) -> bool {
        self.had_large && !self.entries.is_empty()
    }

    /// Returns the number of pending entries and reports.
    pub(super) fn len(&self) -> usize {
        self.reports.len() + self.remote.len() + self.checkpoints.len() + self.entries.len()
    }

    /// Closes the channels to new input.
    pub(super) fn close(&mut self) {
        self.entries.close();
        self.reports.close();
        self.remote.close();
        self.checkpoints.close();
    }

    /// Takes pending input up to a batch's limits, in addition to the input taken before.
    pub(super) fn take(&mut self, entries: &mut Vec<InboxEntry>, reports: &mut Vec<Report>) {
        let callers_first = self.had_large && !(entries.is_empty() && self.entries.is_empty());
        self.take_entries(entries);
        let mut bytes: u64 = reports.iter().map(Report::bytes).sum();
        if !callers_first {
            bytes += take_reports(&mut self.reports, reports, BYTES_MAX.saturating_sub(bytes));
            // They have a share of their own, so that neither kind of attempts starves the other.
            bytes += take_reports(&mut self.remote, reports, BYTES_MAX);
            bytes += take_reports(&mut self.checkpoints, reports, CHECKPOINT_BYTES_MAX);
        }
        self.had_large = bytes >= LARGE_BYTES;
    }

    fn take_entries(&mut self, entries: &mut Vec<InboxEntry>) {
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

/// Takes pending reports up to a batch's limits, and returns their bytes.
fn take_reports(pending: &mut mpsc::Receiver<Report>, reports: &mut Vec<Report>, bytes_max: u64) -> u64 {
    let (mut count, mut bytes) = (0, 0);
    while count < ENTRIES_MAX && bytes < bytes_max {
        let Ok(report) = pending.try_recv() else { break };
        bytes += report.bytes();
        count += 1;
        reports.push(report);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        engine::ReportBody,
        job::{JobId, LeaseToken, Output},
    };

    fn report(bytes: usize) -> Report {
        let output = Output { bytes: Bytes::from(vec![0; bytes]), ..Output::default() };
        let body = ReportBody::Succeeded { output, tail: String::new() };
        Report::of_server(JobId::from_raw(1), LeaseToken::from_raw(1), body)
    }

    #[test]
    fn after_a_batch_with_large_reports_callers_come_first() {
        let (entry_sender, entry_receiver) = mpsc::channel(8);
        let (report_sender, report_receiver) = mpsc::channel(8);
        let remote = [mpsc::channel(1).1, mpsc::channel(1).1];
        let mut inbox = Inbox::new(entry_receiver, report_receiver, remote, CancellationToken::new());
        let mut take = || {
            let (mut entries, mut reports) = (Vec::new(), Vec::new());
            inbox.take(&mut entries, &mut reports);
            (entries.len(), reports.len(), inbox.callers_first())
        };
        (0..3).for_each(|_| report_sender.try_send(report(1 << 20)).unwrap());
        let call = || entry_sender.try_send(InboxEntry::Flush(oneshot::channel().0)).unwrap();
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
