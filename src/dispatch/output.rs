//! Reports of a running attempt: progress to the store, and output lines to watchers.

use std::{
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
    engine::{Report, ReportBody},
    execute::ReportSink,
    job::{JobId, LeaseToken, OutputTail, Progress},
    shard::Reports,
    timeouts,
    watch::{Hub, OutputLine},
};

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
    tail: OutputTail,
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

    /// Returns once the attempt has worked for `timeout`, apart from the time for which it waits to start; or once
    /// `at_most` is over, which is none if it is absent.
    pub(super) async fn has_worked_for(&self, timeout: Duration, at_most: Option<Duration>) {
        let worked = async {
            while self.waits_to_start.load(Ordering::Acquire) {
                self.started.notified().await;
            }
            timeouts::active(timeout).await;
        };
        match at_most {
            Some(at_most) => tokio::select! {
                () = worked => {}
                () = timeouts::active(at_most) => {}
            },
            None => worked.await,
        }
    }

    /// Sends the latest progress to the committer, at most once in 500 ms. Never returns.
    pub(super) async fn send_progress(&self, reports: &Reports) -> std::convert::Infallible {
        loop {
            self.progressed.notified().await;
            let latest = self.output.lock().progress.take();
            if let Some(progress) = latest {
                let body = ReportBody::Progress(Arc::new(progress));
                reports.progress(Report::of_server(self.id, self.lease, body));
            }
            tokio::time::sleep(PROGRESS_EVERY).await;
        }
    }

    /// Returns the tail of the output.
    pub(super) fn tail(&self) -> String {
        self.output.lock().tail.text()
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
        let text = self.output.lock().tail.push(line);
        self.hub.output(&OutputLine { id: self.id, attempt: self.attempt, text });
    }
}
