//! Refusals of changes of schedules and calendars.

use crate::timetable::TimetableFault;

/// Reason for the refusal of a change of a schedule or a calendar.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ScheduleRefusal {
    /// No schedule has this name.
    #[error("no schedule is named `{0}`: list the schedules with ScheduleService.ListSchedules")]
    NotFound(String),
    /// The name is in use.
    #[error("a schedule named `{0}` exists already: update it, or choose another name")]
    Exists(String),
    /// The schedule is declared in the configuration file, and can't be changed by RPC.
    #[error("the schedule `{0}` is declared in the configuration file: change it there and restart")]
    Declared(String),
    /// The schedule has changed since the caller read it.
    #[error(
        "the schedule `{schedule}` has changed since: get it again, or send its present etag, {etag}, or `*` to change \
         it all the same"
    )]
    EtagMismatch {
        /// The schedule's name.
        schedule: String,
        /// The schedule's present etag.
        etag: String,
    },
    /// The times of the schedule are invalid.
    #[error("{}", listed(.0))]
    Times(Vec<TimetableFault>),
    /// The number of schedules is at its limit.
    #[error("there are {0} schedules already, and no more are allowed: delete one that is not used")]
    TooMany(usize),
    /// A backfill of the schedule has not ended.
    #[error("the schedule `{0}` has a backfill that has not ended: wait for its end, or cancel it")]
    BackfillRunning(String),
    /// The backfill has too many instants.
    #[error("more than {at_most} instants of the schedule `{schedule}` would run: choose a shorter range, or raise at_most")]
    BackfillTooLarge {
        /// The schedule's name.
        schedule: String,
        /// The limit.
        at_most: u32,
    },
    /// No calendar has this name.
    #[error("no calendar is named `{0}`: list the calendars with ScheduleService.ListCalendars")]
    CalendarNotFound(String),
    /// The name is in use.
    #[error("a calendar named `{0}` exists already: update it, or choose another name")]
    CalendarExists(String),
    /// The calendar is declared in the configuration file, and can't be changed by RPC.
    #[error("the calendar `{0}` is declared in the configuration file: change it there and restart")]
    CalendarDeclared(String),
    /// Schedules use the calendar.
    #[error("{schedules} schedules use the calendar `{calendar}`: take it off them first")]
    CalendarInUse {
        /// The calendar's name.
        calendar: String,
        /// Number of schedules that use it.
        schedules: usize,
    },
    /// The calendar has changed since the caller read it.
    #[error(
        "the calendar `{calendar}` has changed since: get it again, or send its present etag, {etag}, or `*` to change \
         it all the same"
    )]
    CalendarEtagMismatch {
        /// The calendar's name.
        calendar: String,
        /// The calendar's present etag.
        etag: String,
    },
    /// The number of calendars is at its limit.
    #[error("there are {0} calendars already, and no more are allowed: delete one that is not used")]
    TooManyCalendars(usize),
}

fn listed(faults: &[TimetableFault]) -> String {
    let faults: Vec<_> = faults.iter().map(|fault| format!("schedule.spec.{fault}")).collect();
    faults.join("; ")
}
