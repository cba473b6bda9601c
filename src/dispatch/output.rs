//! Reports of a running attempt: progress and checkpoints to the store, and output lines to watchers.

use std::{
    convert::Infallible,
    future,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    engine::{Report, ReportBody},
    execute::{CheckpointError, Committed, ReportSink, WrittenNumbers, checked_state},
    job::{Checkpoint, JobId, LeaseToken, Output, OutputTail, Progress},
    shard::Reports,
    timeouts,
    watch::{Hub, OutputLine},
};

/// Shortest interval between two writes of an attempt's progress and of checkpoints that are not asked for at once.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// Reporter of one attempt.
pub(super) struct AttemptReporter {
    id: JobId,
    attempt: u32,
    lease: LeaseToken,
    hub: Arc<Hub>,
    output: Mutex<AttemptOutput>,
    /// Notified when there is something to write.
    news: Notify,
    /// The state that earlier attempts have left.
    earlier: OnceLock<Box<Output>>,
    waits_to_start: AtomicBool,
    started: Notify,
    /// The server's token; once cancelled, no attempt may start its work.
    stopping: CancellationToken,
}

#[derive(Default)]
struct AttemptOutput {
    progress: Option<Progress>,
    tail: OutputTail,
    /// Absent in attempts without checkpoints.
    checkpoints: Option<Box<Checkpoints>>,
    /// Whether the attempt's end is known, after which no checkpoint is taken.
    is_over: bool,
}

/// The checkpoints of an attempt.
#[derive(Default)]
struct Checkpoints {
    last: i64,
    /// The latest one, until it is on its way to the disk.
    pending: Option<Checkpoint>,
    /// Whether it is to be written at once.
    is_urgent: bool,
    /// The one on its way to the disk.
    sent: Option<Checkpoint>,
    written: WrittenNumbers,
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
            news: Notify::new(),
            earlier: OnceLock::new(),
            waits_to_start: AtomicBool::new(false),
            started: Notify::new(),
            stopping,
        }
    }

    /// Sets the checkpoint of the job's earlier attempts, before the handler starts.
    pub(super) fn set_earlier(&self, state: Output) {
        // Set once.
        let _ = self.earlier.set(Box::new(state));
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

    /// Sends progress and checkpoints to the committer: the latest of each, at most once in 500 ms, and a checkpoint at
    /// once if that is asked for. Only one checkpoint at a time is on its way. Never returns.
    pub(super) async fn send_reports(&self, reports: &Reports) -> Infallible {
        loop {
            self.news.notified().await;
            // Boxed, because most attempts report nothing.
            Box::pin(self.send_all(reports)).await;
        }
    }

    /// Sends what is due, until there has been nothing for a pause.
    async fn send_all(&self, reports: &Reports) {
        let mut pause = pin!(sleep(Duration::ZERO));
        let mut is_pausing = false;
        loop {
            while let Some(report) = self.due_report(is_pausing) {
                self.send(reports, report).await;
                pause.set(sleep(PROGRESS_EVERY));
                is_pausing = true;
            }
            if !is_pausing {
                return;
            }
            tokio::select! {
                () = self.news.notified() => {}
                () = &mut pause => is_pausing = false,
            }
        }
    }

    /// Returns the report that is due. In a pause that is only a checkpoint that is to be written at once.
    fn due_report(&self, is_pausing: bool) -> Option<Report> {
        let mut output = self.output.lock();
        let is_urgent = output.checkpoints.as_ref().is_some_and(|checkpoints| checkpoints.is_urgent);
        if is_pausing && !is_urgent {
            return None;
        }
        let checkpoint = output.checkpoints.as_mut().and_then(|checkpoints| {
            let latest = checkpoints.pending.take()?;
            checkpoints.is_urgent = false;
            checkpoints.sent = Some(latest.clone());
            Some(Box::new(latest))
        });
        let body = match output.progress.take() {
            Some(progress) => ReportBody::Progress(Arc::new(progress)),
            None => ReportBody::Checkpoint,
        };
        let is_empty = checkpoint.is_none() && matches!(body, ReportBody::Checkpoint);
        (!is_empty).then(|| Report { checkpoint, ..Report::of_server(self.id, self.lease, body) })
    }

    async fn send(&self, reports: &Reports, report: Report) {
        let Some(number) = report.checkpoint.as_ref().map(|checkpoint| checkpoint.number) else {
            return reports.progress(report);
        };
        let (report, answer) = report.with_answer();
        if !reports.checkpoint(report).await {
            // The committer has ended, and the server ends.
            return future::pending().await;
        }
        let answer = answer.await;
        let is_dropped = answer.is_err();
        if let Some(checkpoints) = &mut self.output.lock().checkpoints {
            let sent = checkpoints.sent.take();
            match answer {
                Ok(Ok(())) => checkpoints.written.up_to(number),
                Ok(Err(_)) => checkpoints.written.over(),
                // There was no room on the disk.
                Err(_) => checkpoints.pending = checkpoints.pending.take().or(sent),
            }
        }
        if is_dropped {
            self.news.notify_one();
            sleep(PROGRESS_EVERY).await;
        }
    }

    /// Returns the tail of the output.
    pub(super) fn tail(&self) -> String {
        self.output.lock().tail.text()
    }

    /// Ends the attempt's checkpoints. Returns the latest one, unless it is known to be on disk.
    pub(super) fn end(&self) -> Option<Box<Checkpoint>> {
        let mut output = self.output.lock();
        output.is_over = true;
        let checkpoints = output.checkpoints.as_mut()?;
        checkpoints.written.over();
        checkpoints.pending.take().or_else(|| checkpoints.sent.take()).map(Box::new)
    }
}

impl ReportSink for AttemptReporter {
    fn progress(&self, progress: Progress) {
        self.output.lock().progress = Some(progress);
        self.news.notify_one();
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

    fn checkpoint(&self, state: Output, commit_now: bool) -> Committed {
        let state = match checked_state(state) {
            Ok(state) => state,
            Err(error) => return Committed::refused(error),
        };
        let mut output = self.output.lock();
        if output.is_over {
            return Committed::refused(CheckpointError::Over);
        }
        let checkpoints = output.checkpoints.get_or_insert_default();
        checkpoints.last += 1;
        let number = checkpoints.last;
        checkpoints.pending = Some(Checkpoint { number, state });
        // A request to write at once holds for what replaces the state, too.
        checkpoints.is_urgent |= commit_now;
        let committed = checkpoints.written.when(number);
        drop(output);
        self.news.notify_one();
        committed
    }

    fn earlier_checkpoint(&self) -> Option<&Output> {
        self.earlier.get().map(|state| &**state)
    }
}
