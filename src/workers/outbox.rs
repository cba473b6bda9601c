//! What has to be told to a worker's session.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::stop::StopCause;
use crate::{
    engine::{AnswerSink, Claim, ReportAnswer},
    job::{JobId, LeaseToken},
};

/// An event for a worker's session.
#[derive(Debug)]
pub(crate) enum WorkerEvent {
    /// A job was assigned, on a credit of the pool with this index.
    Assigned(usize, Box<Claim>),
    /// A report is on disk, or was refused.
    Answer(ReportAnswer),
    /// An attempt is to stop, within this time.
    Stop(JobId, LeaseToken, StopCause, Duration),
    /// A lease was ended by the server.
    Lost(JobId, LeaseToken),
    /// The worker is to end, within this time.
    Drain(Duration),
    /// A newer process has taken over the worker's instance.
    Superseded,
    /// A newer stream of the same process has taken over.
    Replaced,
}

/// Events for one session, in order. Their number is bounded by the worker's credits and reports.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    events: Mutex<Vec<WorkerEvent>>,
    told: Notify,
}

impl Outbox {
    pub(super) fn push(&self, event: WorkerEvent) {
        self.events.lock().push(event);
        self.told.notify_one();
    }

    /// Takes all events.
    pub(crate) fn take(&self) -> Vec<WorkerEvent> {
        std::mem::take(&mut *self.events.lock())
    }

    /// Returns once there may be events.
    pub(crate) async fn told(&self) {
        self.told.notified().await;
    }
}

impl AnswerSink for Outbox {
    fn answer(&self, answer: ReportAnswer) {
        self.push(WorkerEvent::Answer(answer));
    }
}
