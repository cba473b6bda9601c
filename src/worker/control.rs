//! What a running attempt and the worker's thread share: requests to stop in one direction, reports in the other.

use std::{
    collections::VecDeque,
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{key::LeaseKey, mailbox::Mailbox};
use crate::{
    execute::{Committed, ReportSink, StopCause, WrittenNumbers, checked_state},
    job::{Output, Progress},
    proto::v1,
};

/// Byte limit of a line of output. What exceeds it is cut off.
const LINE_MAX_BYTES: usize = 4 << 10;
/// Byte limit of the lines that wait to be sent. The server keeps no more of an attempt's output; older lines are
/// dropped.
const LINES_MAX_BYTES: usize = 64 << 10;

/// Input of the worker's thread.
#[derive(Debug)]
pub(super) enum Event {
    /// An attempt's handler has ended.
    Ended {
        /// The attempt's lease.
        key: LeaseKey,
        /// The pool whose place is free again.
        pool: usize,
        /// The final report.
        report: Box<v1::report::Report>,
    },
    /// An attempt has something to report.
    Reports(LeaseKey),
    /// The worker is to end in an orderly way.
    Drain,
    /// The worker is to end at once.
    Force,
}

/// How soon reports are to be sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
enum Urgency {
    /// There are none.
    #[default]
    None,
    /// With the next progress.
    Soon,
    /// At once.
    Now,
}

/// The reports of a running attempt that are not sent yet.
#[derive(Debug, Default)]
pub(super) struct Pending {
    pub(super) progress: Option<v1::Progress>,
    pub(super) checkpoint: Option<Checkpoint>,
    pub(super) lines: VecDeque<String>,
    line_bytes: usize,
    /// The urgency of the reports that the worker's thread knows of.
    told: Urgency,
}

/// A state for the next attempt.
#[derive(Clone, Debug)]
pub(super) struct Checkpoint {
    /// The number, from 1, as the attempt counts.
    pub(super) number: i64,
    pub(super) state: v1::Payload,
    pub(super) commit_now: bool,
}

/// The shared part of an attempt.
#[derive(Debug)]
pub(super) struct Control {
    key: LeaseKey,
    pub(super) pool: usize,
    /// The request to stop.
    pub(super) cancelled: CancellationToken,
    /// The order to drop the handler's future.
    pub(super) cut: CancellationToken,
    cause: OnceLock<StopCause>,
    earlier: OnceLock<Output>,
    pending: Mutex<Pending>,
    checkpoints: OnceLock<Checkpoints>,
    mailbox: Arc<Mailbox<Event>>,
}

#[derive(Debug, Default)]
struct Checkpoints {
    last: Mutex<i64>,
    written: WrittenNumbers,
}

impl Control {
    pub(super) fn new(key: LeaseKey, pool: usize, mailbox: Arc<Mailbox<Event>>) -> Arc<Self> {
        Arc::new(Control {
            key,
            pool,
            cancelled: CancellationToken::new(),
            cut: CancellationToken::new(),
            cause: OnceLock::new(),
            earlier: OnceLock::new(),
            pending: Mutex::default(),
            checkpoints: OnceLock::new(),
            mailbox,
        })
    }

    /// Asks the attempt to stop. The first cause counts.
    pub(super) fn stop(&self, cause: StopCause) {
        // A cause that is set already stays.
        let _ = self.cause.set(cause);
        self.cancelled.cancel();
    }

    /// Returns why the attempt is to stop.
    pub(super) fn cause(&self) -> Option<StopCause> {
        self.cause.get().copied()
    }

    /// Sets the checkpoint of the job's earlier attempts.
    pub(super) fn set_earlier(&self, state: Output) {
        // Set once, before the handler starts.
        let _ = self.earlier.set(state);
    }

    /// Passes the final report to the worker's thread.
    pub(super) fn ended(&self, report: v1::report::Report) {
        self.mailbox.push(Event::Ended { key: self.key, pool: self.pool, report: Box::new(report) });
    }

    /// Takes the reports that are not sent yet.
    pub(super) fn take_pending(&self) -> Pending {
        std::mem::take(&mut *self.pending.lock())
    }

    /// Returns whether there are reports, and whether they are urgent.
    pub(super) fn pending(&self) -> (bool, bool) {
        let pending = self.pending.lock();
        let urgent = pending.checkpoint.as_ref().is_some_and(|checkpoint| checkpoint.commit_now)
            || !pending.lines.is_empty();
        (urgent || pending.progress.is_some() || pending.checkpoint.is_some(), urgent)
    }

    /// Puts back a checkpoint that may not have arrived, unless there is a later one.
    pub(super) fn put_back(&self, checkpoint: Checkpoint) {
        self.pending.lock().checkpoint.get_or_insert(checkpoint);
    }

    /// Wakes those who wait for checkpoints up to this number.
    pub(super) fn written(&self, number: i64) {
        if let Some(checkpoints) = self.checkpoints.get() {
            checkpoints.written.up_to(number);
        }
    }

    /// Fails all waits for checkpoints: the lease is lost.
    pub(super) fn lost(&self) {
        if let Some(checkpoints) = self.checkpoints.get() {
            checkpoints.written.over();
        }
    }

    /// Adds to the reports, and tells the worker's thread, unless it knows of others that are as urgent.
    fn report(&self, urgency: Urgency, add: impl FnOnce(&mut Pending)) {
        let is_news = {
            let mut pending = self.pending.lock();
            add(&mut pending);
            let is_news = urgency > pending.told;
            pending.told = pending.told.max(urgency);
            is_news
        };
        if is_news {
            self.mailbox.push(Event::Reports(self.key));
        }
    }
}

impl ReportSink for Control {
    fn progress(&self, progress: Progress) {
        let Progress { fraction, text, step } = progress;
        self.report(Urgency::Soon, |pending| pending.progress = Some(v1::Progress { fraction, text, step }));
    }

    fn output_line(&self, line: &[u8]) {
        let line = String::from_utf8_lossy(&line[..line.len().min(LINE_MAX_BYTES)]).into_owned();
        self.report(Urgency::Now, |pending| {
            pending.line_bytes += line.len() + 1;
            pending.lines.push_back(line);
            while pending.line_bytes > LINES_MAX_BYTES {
                match pending.lines.pop_front() {
                    Some(oldest) => pending.line_bytes -= oldest.len() + 1,
                    None => break,
                }
            }
        });
    }

    fn waits_to_start(&self, _: bool) -> bool {
        !self.cancelled.is_cancelled()
    }

    fn checkpoint(&self, state: Output, commit_now: bool) -> Committed {
        let state = match checked_state(state) {
            Ok(state) => state,
            Err(error) => return Committed::refused(error),
        };
        let checkpoints = self.checkpoints.get_or_init(Checkpoints::default);
        let number = {
            // Held until the checkpoint is in its place, so that a later one can't be overwritten.
            let mut last = checkpoints.last.lock();
            *last += 1;
            let number = *last;
            let urgency = if commit_now { Urgency::Now } else { Urgency::Soon };
            self.report(urgency, |pending| {
                // A request to write at once holds for what replaces it, too.
                let commit_now =
                    commit_now || pending.checkpoint.as_ref().is_some_and(|earlier| earlier.commit_now);
                pending.checkpoint = Some(Checkpoint { number, state: payload(state), commit_now });
            });
            number
        };
        checkpoints.written.when(number)
    }

    fn earlier_checkpoint(&self) -> Option<&Output> {
        self.earlier.get()
    }

    fn stop_cause(&self) -> Option<StopCause> {
        self.cause()
    }
}

/// Converts a handler's output to the protocol's type. The bytes are shared.
pub(super) fn payload(output: Output) -> v1::Payload {
    let Output { bytes, info } = output;
    v1::Payload { media_type: info.media_type, metadata: info.metadata, ..v1::Payload::of(bytes) }
}
