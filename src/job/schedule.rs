//! The part of schedules in jobs.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::JobId;
use crate::clock::Timestamp;

/// Id of a schedule, unique in its store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ScheduleId(i64);

impl ScheduleId {
    pub(crate) const fn from_raw(raw: i64) -> Self {
        ScheduleId(raw)
    }

    pub(crate) const fn raw(self) -> i64 {
        self.0
    }
}

impl From<JobId> for ScheduleId {
    /// A schedule takes its id from the numbers of jobs, which are never used again.
    fn from(id: JobId) -> Self {
        ScheduleId(id.raw())
    }
}

impl fmt::Display for ScheduleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        JobId::from_raw(self.0).fmt(f)
    }
}

/// How a schedule came to create a job.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleOrigin {
    /// An instant of its times has come.
    Scheduled,
    /// A caller asked for it.
    Triggered,
    /// A backfill came to an instant of the past.
    Backfilled,
}

impl ScheduleOrigin {
    /// Returns the origin as in headers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ScheduleOrigin::Scheduled => "scheduled",
            ScheduleOrigin::Triggered => "triggered",
            ScheduleOrigin::Backfilled => "backfilled",
        }
    }
}

/// The schedule that created a job.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ScheduledBy {
    /// The schedule's id.
    pub id: ScheduleId,
    /// Its name.
    pub name: String,
    /// The instant; of a triggered job, the time of the call.
    pub instant: Timestamp,
    /// How the schedule came to create the job.
    pub origin: ScheduleOrigin,
}

/// Prefix of the labels, and of the request ids, that are reserved for Jobmill.
pub const RESERVED_PREFIX: &str = "jobmill/";
/// Label with the name of the schedule that created a job.
pub const SCHEDULE_LABEL: &str = "jobmill/schedule";
/// Label with the instant for which a schedule created a job.
pub const INSTANT_LABEL: &str = "jobmill/instant";
/// Headers with the schedule, the instant, and how the schedule came to create the job.
pub const SCHEDULE_HEADERS: [&str; 3] =
    ["jobmill-schedule", "jobmill-schedule-instant", "jobmill-schedule-origin"];
