//! The result of a committed batch: what is to start, to publish and to answer.

use std::sync::Arc;

use super::{
    AnswerSink, CalendarDone, Claim, ControlRefusal, Grant, InstantCounts, JobDone, KeyDone, LimitDone, OfferError, QueueDone,
    Registered, ReportAnswer, ScheduleDone, Submitted,
    ask::ReadyReply,
};
use crate::{
    clock::WakeTime,
    engine::transition::Refusal,
    job::{Change, JobId, LeaseToken, Position},
    store::sets::PurgeCounts,
};

/// The result of a committed batch.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Attempts to start now.
    pub claims: Vec<Claim>,
    /// Leases of the attempts to cancel now.
    pub cancelling: Vec<LeaseToken>,
    /// Changes of the leases of remote workers.
    pub remote: RemoteChanges,
    /// Checkpoints that were written.
    pub checkpoints: WrittenCheckpoints,
    /// Changes of jobs, in order.
    pub changes: Vec<Change>,
    /// The last position of the change feed.
    pub position: Position,
    /// Next time at which there is work without any input: a waiting job is due, or retention has something to delete.
    pub wake: WakeTime,
    /// Whether there is more work at once that did not fit into this batch.
    pub more: bool,
    /// Whether a queue was created, changed or deleted.
    pub queues_changed: bool,
    /// Whether a queue has gained free capacity.
    pub gained_room: bool,
    /// What became of instants of schedules.
    pub instants: InstantCounts,
    /// Number of submissions whose request id was seen before.
    pub repeats: usize,
    /// Jobs that were not created, because another job holds their unique key.
    pub met: Met,
    /// Reports that were refused because their lease was no longer valid.
    pub late_reports: Vec<(JobId, LeaseToken, Refusal)>,
    /// Replies to send to callers.
    pub(crate) answers: Vec<Reply>,
}

/// Number and size of the checkpoints that a batch has written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WrittenCheckpoints {
    /// Number of checkpoints.
    pub count: u64,
    /// Size of their states in bytes.
    pub bytes: u64,
}

/// Number of jobs that were not created, because another job holds their unique key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Met {
    /// Those that were answered with the holder.
    pub existing: usize,
    /// Those whose input another job took over.
    pub replaced: usize,
}

/// Changes of the leases of remote workers, which are named by their numbers.
#[derive(Debug, Default)]
pub struct RemoteChanges {
    /// Jobs to assign.
    pub assigned: Vec<(Grant, Claim)>,
    /// Leases of attempts to cancel.
    pub cancelling: Vec<(u32, LeaseToken)>,
    /// Leases that have ended.
    pub ended: Vec<(u32, LeaseToken)>,
    /// Checkpoints that are written: worker, lease and number.
    pub checkpoints: Vec<(u32, LeaseToken, i64)>,
    /// Answers to reports.
    pub answers: Vec<(Arc<dyn AnswerSink>, ReportAnswer)>,
    /// Workers that newer processes have taken over.
    pub superseded: Vec<u32>,
    /// Workers that are not remembered any more.
    pub forgotten: Vec<u32>,
}

impl RemoteChanges {
    /// Returns whether nothing has changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let RemoteChanges { assigned, cancelling, ended, checkpoints, answers, superseded, forgotten } = self;
        assigned.is_empty()
            && cancelling.is_empty()
            && ended.is_empty()
            && checkpoints.is_empty()
            && answers.is_empty()
            && superseded.is_empty()
            && forgotten.is_empty()
    }
}

/// A reply whose verdict is committed, ready to be sent to its caller.
#[derive(Debug)]
pub(crate) enum Reply {
    /// Reply to a submission.
    Submitted(ReadyReply<Submitted, OfferError>),
    /// Reply to a change of a job.
    Job(ReadyReply<JobDone, ControlRefusal>),
    /// Reply to the release of a unique key.
    Key(ReadyReply<KeyDone, ControlRefusal>),
    /// Reply to a deletion.
    Gone(ReadyReply<(), ControlRefusal>),
    /// Reply to a change of a queue.
    Queue(ReadyReply<QueueDone, ControlRefusal>),
    /// Reply to a purge.
    Purged(ReadyReply<PurgeCounts, ControlRefusal>),
    /// Reply to a report.
    Reported(ReadyReply<(), Refusal>),
    /// Reply to a change of a schedule.
    Schedule(ReadyReply<ScheduleDone, ControlRefusal>),
    /// Reply to a change of a calendar.
    Calendar(ReadyReply<CalendarDone, ControlRefusal>),
    /// Reply to a change of a limit.
    Limit(ReadyReply<LimitDone, ControlRefusal>),
    /// Reply to a worker's introduction.
    Registered(ReadyReply<Registered, ControlRefusal>),
}

impl Reply {
    /// Sends the reply, which wakes the caller.
    pub(crate) fn send(self) {
        match self {
            Reply::Submitted(told) => told.send(),
            Reply::Job(told) => told.send(),
            Reply::Key(told) => told.send(),
            Reply::Gone(told) => told.send(),
            Reply::Queue(told) => told.send(),
            Reply::Purged(told) => told.send(),
            Reply::Reported(told) => told.send(),
            Reply::Schedule(told) => told.send(),
            Reply::Calendar(told) => told.send(),
            Reply::Limit(told) => told.send(),
            Reply::Registered(told) => told.send(),
        }
    }
}

impl Outcome {
    /// Sends all replies.
    pub fn answer(&mut self) {
        self.answers.drain(..).for_each(Reply::send);
    }
}
