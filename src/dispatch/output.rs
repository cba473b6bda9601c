//! Reports of a running attempt: progress to the store, and output lines to watchers.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    engine::{ReplySlot, Report, ReportBody},
    execute::{ReportSink, command::OUTPUT_LINE_MAX_BYTES},
    job::{JobId, LeaseToken, Progress},
    shard::Reports,
    timeouts,
    watch::{Hub, OutputLine},
};

/// Byte limit of the tail of an attempt's output, which is kept with its job.
const TAIL_MAX_BYTES: usize = 64 << 10;
/// Shortest interval between two writes of an attempt's progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// Reporter of one attempt.
pub(super) struct AttemptReporter {
    id: JobId,
    attempt: u32,
    lease: LeaseToken,
    hub: Arc<Hub>,
    output: Mutex<AttemptOutput>,
    progressed: Notify,
    waits_to_start: AtomicBool,
    started: Notify,
    /// The server's token; once cancelled, no attempt may start its work.
    stopping: CancellationToken,
}

#[derive(Default)]
struct AttemptOutput {
    progress: Option<Progress>,
    tail: VecDeque<Arc<str>>,
    tail_bytes: usize,
    cut: bool,
}

impl AttemptReporter {
    pub(super) fn new(
        id: JobId,
        attempt: u32,
        lease: LeaseToken,
        hub: Arc<Hub>,
        stopping: CancellationToken,
    ) -> Self {
        AttemptReporter {
            id,
            attempt,
            lease,
            hub,
            output: Mutex::default(),
            progressed: Notify::new(),
            waits_to_start: AtomicBool::new(false),
            started: Notify::new(),
            stopping,
        }
    }

    /// Returns once the attempt has worked for `timeout`. Time that it waits before its start does not count.
    pub(super) async fn has_worked_for(&self, timeout: Duration) {
        while self.waits_to_start.load(Ordering::Acquire) {
            self.started.notified().await;
        }
        timeouts::active(timeout).await;
    }

    /// Sends the latest progress to the committer, at most once in 500 ms. Never returns.
    pub(super) async fn send_progress(&self, reports: &Reports) -> std::convert::Infallible {
        loop {
            self.progressed.notified().await;
            let latest = self.output.lock().progress.take();
            if let Some(progress) = latest {
                let body = ReportBody::Progress(Arc::new(progress));
                reports.progress(Report { id: self.id, lease: self.lease, body, ask: ReplySlot::unheard() });
            }
            tokio::time::sleep(PROGRESS_EVERY).await;
        }
    }

    /// Returns the tail of the output.
    pub(super) fn tail(&self) -> String {
        let output = self.output.lock();
        let mut tail = String::with_capacity(output.tail_bytes + 32);
        if output.cut {
            tail.push_str("[earlier output was cut]\n");
        }
        for line in &output.tail {
            tail.push_str(line);
            tail.push('\n');
        }
        tail
    }
}

impl ReportSink for AttemptReporter {
    fn progress(&self, progress: Progress) {
        self.output.lock().progress = Some(progress);
        self.progressed.notify_one();
    }

    fn waits_to_start(&self, waits: bool) -> bool {
        self.waits_to_start.store(waits, Ordering::Release);
        if !waits {
            self.started.notify_one();
        }
        !self.stopping.is_cancelled()
    }

    fn output_line(&self, line: &[u8]) {
        let line = &line[..line.len().min(OUTPUT_LINE_MAX_BYTES)];
        let text: Arc<str> = String::from_utf8_lossy(line).into();
        {
            let mut output = self.output.lock();
            output.tail_bytes += text.len() + 1;
            output.tail.push_back(Arc::clone(&text));
            while output.tail_bytes > TAIL_MAX_BYTES {
                output.cut = true;
                match output.tail.pop_front() {
                    Some(oldest) => output.tail_bytes -= oldest.len() + 1,
                    None => break,
                }
            }
        }
        self.hub.output(&OutputLine { id: self.id, attempt: self.attempt, text });
    }
}
