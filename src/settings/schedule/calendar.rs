//! Calendars: named lists of dates that schedules leave out.

use std::sync::Arc;

use crate::timetable::DateRange;

/// A calendar.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CalendarInfo {
    /// The calendar's name.
    pub name: Arc<str>,
    /// Its dates, in order.
    pub dates: Vec<DateRange>,
    /// Number that grows with each change of the calendar.
    pub revision: i64,
    /// Whether the configuration file declares it.
    pub declared: bool,
}

impl CalendarInfo {
    /// Returns a tag that no other state of the calendar has.
    #[must_use]
    pub fn etag(&self) -> String {
        format!("{:x}", self.revision)
    }
}
