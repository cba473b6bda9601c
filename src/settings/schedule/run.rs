//! How far a schedule has come.

use serde::{Deserialize, Serialize};

use super::ran::Ran;
use crate::{
    clock::Timestamp,
    job::{JobId, StateName},
    timetable::Instant,
};

/// How far a schedule has come.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ScheduleRun {
    /// Every instant up to this one is decided: it has run, is deferred, or is counted.
    pub cursor: Timestamp,
    /// The latest value that `cursor` has had, where the clock was set back since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high: Option<Timestamp>,
    /// The next instant to come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<FutureInstant>,
    /// The instant that waits for the end of the last scheduled job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deferred: Option<Deferred>,
    /// The last scheduled job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<LastRun>,
    /// Number of scheduled jobs that have failed since the last one that succeeded.
    #[serde(skip_serializing_if = "is_zero")]
    pub failures: u32,
    /// Numbers of instants by what became of them.
    pub counts: ScheduleCounts,
    /// Why an instant that has come does not run yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits: Option<Waits>,
    /// The instants that have run.
    pub ran: Ran,
    /// The latest time at which the clock was found to have been set back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_back: Option<SetBack>,
    /// The latest backfill.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backfill: Option<Backfill>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// An instant to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FutureInstant {
    /// The instant by the schedule's times.
    pub nominal: Timestamp,
    /// The instant plus its jitter.
    pub fires: Timestamp,
}

impl From<Instant> for FutureInstant {
    fn from(Instant { nominal, fires }: Instant) -> Self {
        FutureInstant { nominal, fires }
    }
}

/// An instant that waits for the end of the last scheduled job.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Deferred {
    /// The instant.
    pub instant: FutureInstant,
    /// Time from which it is missed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// The last scheduled job.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LastRun {
    /// The job.
    pub job: JobId,
    /// Its instant.
    pub instant: Timestamp,
    /// Time at which it was created.
    pub fired: Timestamp,
    /// The state in which it ended; absent until then. A job that was deleted before has ended as CANCELLED.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<StateName>,
}

/// A pause of a schedule.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pause {
    /// Its start.
    pub since: Timestamp,
    /// The reason that was given; empty where none was.
    pub reason: String,
    /// Whether failed jobs have caused it.
    pub by_failures: bool,
}

/// Numbers of instants by what became of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ScheduleCounts {
    /// Those that have run.
    #[serde(skip_serializing_if = "SkipCount::is_none")]
    pub fired: SkipCount,
    /// Those that were too late.
    #[serde(skip_serializing_if = "SkipCount::is_none")]
    pub missed: SkipCount,
    /// Late ones of which a newer one ran instead.
    #[serde(skip_serializing_if = "SkipCount::is_none")]
    pub superseded: SkipCount,
    /// Those that were left out because the last scheduled job had not ended.
    #[serde(skip_serializing_if = "SkipCount::is_none")]
    pub overlapped: SkipCount,
    /// Those that could not be accepted in time: no room in the queue, no such queue or kind, no disk space.
    #[serde(skip_serializing_if = "SkipCount::is_none")]
    pub no_room: SkipCount,
}

/// A number of instants, and the latest one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SkipCount {
    /// The number.
    pub number: u64,
    /// The latest of them.
    pub last: Timestamp,
    /// Whether there were more than could be counted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_least: bool,
}

impl SkipCount {
    /// Returns whether nothing is counted.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.number == 0
    }

    /// Counts instants of which `last` is the latest.
    pub fn add(&mut self, number: u64, last: Timestamp) {
        if number > 0 {
            self.number = self.number.saturating_add(number);
            self.last = last;
        }
    }
}

/// Why an instant that has come does not run yet.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Waits {
    /// The oldest instant that waits.
    pub instant: Timestamp,
    /// Time since which it waits.
    pub since: Timestamp,
    /// The reason.
    pub reason: String,
    /// Time from which the oldest one is missed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// A clock that was found to have been set back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SetBack {
    /// The time by the clock as it was set.
    pub to: Timestamp,
    /// The instant up to which the schedule had come before.
    pub from: Timestamp,
}

/// A backfill: instants of a range of the past, run one after the other.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Backfill {
    /// Start of the range.
    pub from: Timestamp,
    /// End of the range, included.
    pub until: Timestamp,
    /// Limit of the instants that it runs.
    pub at_most: u32,
    /// Whether it also runs instants that have run already.
    pub again: bool,
    /// Every instant up to this one is decided.
    pub cursor: Timestamp,
    /// Number of jobs created so far.
    pub created: u32,
    /// Its job that has not ended yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<JobId>,
    /// Time of the call.
    pub started: Timestamp,
    /// Why its next job is not created yet; empty if it only waits for its last one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub waits: String,
    /// Its end; absent while it goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<BackfillEnd>,
}

/// The end of a backfill.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackfillEnd {
    /// The time.
    pub at: Timestamp,
    /// Whether it was cancelled.
    pub cancelled: bool,
}
