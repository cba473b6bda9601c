//! A lease as its worker sees it.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::{
    control::{Checkpoint, Control},
    handlers::Start,
};
use crate::{clock::Uptime, execute::StopCause, proto::v1};

/// The part of its grace period that an attempt, stopped for silence, does not get, so that it has ended before its
/// lease is over.
const MARGIN: u32 = 8;

/// How far the attempt of a lease is.
pub(super) enum Phase {
    /// The worker has the assignment, and waits for the answer to `received`.
    Offered(Box<Start>),
    /// The handler runs.
    Running,
    /// The handler has ended, or never started. The final report is kept until it is answered.
    Ended(Box<v1::report::Report>),
}

/// The state of a lease.
pub(super) struct Lease {
    pub(super) phase: Phase,
    pub(super) control: Arc<Control>,
    /// The grace period of the handler.
    pub(super) grace: Duration,
    /// Whether the attempt is stopped before the lease is over for lack of answers.
    pub(super) stops_on_silence: bool,
    /// When the unanswered `received` and heartbeats were sent, oldest first. Answers come in this order.
    pub(super) sent: VecDeque<Uptime>,
    /// The end of the lease, counted from when the last answered report was sent.
    pub(super) until: Option<Uptime>,
    /// How long the lease was at its last renewal.
    pub(super) duration: Duration,
    pub(super) next_heartbeat: Uptime,
    /// The earliest time for the next report of progress alone.
    pub(super) next_progress: Uptime,
    /// Whether a heartbeat is in the queue of frames.
    pub(super) heartbeat_queued: bool,
    /// When the handler's future is dropped, once it was asked to stop.
    pub(super) cut_at: Option<Uptime>,
    /// A checkpoint that was sent and is not known to be written.
    pub(super) unwritten: Option<Checkpoint>,
    /// What is added to the attempt's own numbers of checkpoints. A checkpoint that is sent again needs a new number.
    pub(super) renumbered: i64,
}

impl Lease {
    pub(super) fn new(phase: Phase, control: Arc<Control>, grace: Duration, stops_on_silence: bool) -> Self {
        Lease {
            phase,
            control,
            grace,
            stops_on_silence,
            sent: VecDeque::new(),
            until: None,
            duration: Duration::ZERO,
            next_heartbeat: Uptime::MAX,
            next_progress: Uptime::default(),
            heartbeat_queued: false,
            cut_at: None,
            unwritten: None,
            renumbered: 0,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running)
    }

    /// Renews the lease from when the oldest unanswered report was sent.
    pub(super) fn renew(&mut self, duration: Duration) {
        if let Some(sent) = self.sent.pop_front() {
            self.until = Some(sent.after(duration));
            self.duration = duration;
        }
    }

    /// Asks the attempt to stop, and sets when its future is dropped.
    pub(super) fn stop(&mut self, cause: StopCause, cut_at: Uptime) {
        self.control.stop(cause);
        self.cut_at = Some(self.cut_at.map_or(cut_at, |earlier| earlier.min(cut_at)));
    }

    /// Returns when an attempt that stops for silence is asked to, and when its future is dropped: both before the
    /// end of the lease. The grace period is at most a quarter of the lease, so that one lost heartbeat stops nothing.
    pub(super) fn silence(&self) -> Option<(Uptime, Uptime)> {
        let until = self.until.filter(|_| self.stops_on_silence && self.is_running())?;
        let grace = self.grace.min(self.duration / 4).max(Duration::from_millis(1));
        Some((until.before(grace), until.before(grace / MARGIN)))
    }

    /// Returns the next time at which something is to be done.
    pub(super) fn wake(&self, beats: bool) -> Uptime {
        let mut wake = Uptime::MAX;
        if self.is_running() {
            if beats && !self.heartbeat_queued {
                wake = wake.min(self.next_heartbeat);
                let (has_reports, _) = self.control.pending();
                if has_reports {
                    wake = wake.min(self.next_progress);
                }
            }
            match (self.cut_at, self.silence()) {
                (Some(cut_at), _) if !self.control.cut.is_cancelled() => wake = wake.min(cut_at),
                (None, Some((stop_at, _))) => wake = wake.min(stop_at),
                (Some(_), _) | (None, None) => {}
            }
        }
        wake
    }
}
