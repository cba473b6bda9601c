//! Data of schedules that the engine exchanges with a store.

use std::sync::Arc;

use crate::{
    clock::Timestamp,
    job::ScheduleId,
    settings::{CalendarInfo, ScheduleInfo},
};

/// Read of a schedule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ScheduleWant {
    /// The schedule with this id.
    Id(ScheduleId),
    /// The schedule with this name.
    Named(String),
}

/// Changes of schedules and calendars.
#[derive(Debug, Default)]
pub struct ScheduleWrites {
    /// New and changed schedules.
    pub rows: Vec<ScheduleRow>,
    /// Schedules to delete, with all of their data.
    pub deleted: Vec<ScheduleId>,
    /// New and changed calendars.
    pub calendars: Vec<CalendarInfo>,
    /// Names of calendars to delete.
    pub deleted_calendars: Vec<Arc<str>>,
    /// The version of the time zone database by which all next instants are computed, if it has changed.
    pub zones: Option<String>,
}

impl ScheduleWrites {
    /// Returns whether nothing is written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let ScheduleWrites { rows, deleted, calendars, deleted_calendars, zones } = self;
        rows.is_empty()
            && deleted.is_empty()
            && calendars.is_empty()
            && deleted_calendars.is_empty()
            && zones.is_none()
    }
}

/// A new or changed schedule.
#[derive(Clone, Debug)]
pub struct ScheduleRow {
    /// Generation and last decided instant of the stored schedule; absent for a new one. The write fails if the store
    /// has others: each instant of each generation is decided once.
    pub before: Option<(u64, Timestamp)>,
    /// The schedule to store.
    pub after: Arc<ScheduleInfo>,
    /// Whether more has changed than how far it has come.
    pub is_defined: bool,
}

/// What the engine keeps in memory of a schedule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ScheduleEntry {
    /// The schedule.
    pub id: ScheduleId,
    /// Time of the next thing to do.
    pub wake: Option<Timestamp>,
    /// The instant up to which everything is decided.
    pub cursor: Timestamp,
    /// Size of the payload of its jobs in bytes.
    pub bytes: u32,
    /// Whether its state depends on more than the time: the end of a job, or what an instant waits for.
    pub is_unsettled: bool,
    /// Whether it is paused.
    pub is_paused: bool,
}

/// Schedules and calendars, as read at a start.
#[derive(Debug, Default)]
pub struct LoadedSchedules {
    /// Every schedule.
    pub entries: Vec<ScheduleEntry>,
    /// The schedules that the configuration file declared at the last start, with their payloads.
    pub declared: Vec<ScheduleInfo>,
    /// Which calendars schedules use: name of the calendar, and schedule.
    pub uses: Vec<(String, ScheduleId)>,
    /// All calendars.
    pub calendars: Vec<CalendarInfo>,
    /// The version of the time zone database by which the next instants were computed.
    pub zones: Option<String>,
}

impl ScheduleEntry {
    /// Returns the entry of a schedule.
    #[must_use]
    pub fn of(info: &ScheduleInfo) -> Self {
        ScheduleEntry {
            id: info.id,
            wake: info.wake(),
            cursor: info.run.cursor,
            bytes: u32::try_from(info.settings.job.payload.len()).unwrap_or(u32::MAX),
            is_unsettled: info.is_unsettled(),
            is_paused: info.paused.is_some(),
        }
    }
}
