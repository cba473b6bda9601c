//! The errors of calls about schedules and calendars.

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use super::status::{DOMAIN, about, quota, resource, status};
use crate::{engine::ScheduleRefusal, timetable::TimetableFault};

/// Returns the status of a refusal that concerns schedules or calendars.
pub(super) fn of(refusal: &ScheduleRefusal) -> Status {
    let precondition =
        |reason: &str, kind: &str, (key, name): (&'static str, &str), etag: Option<&String>| {
            status(Code::FailedPrecondition, reason, refusal, |details| {
                match etag {
                    Some(etag) => about(details, [(key, name.to_owned()), ("etag", etag.clone())]),
                    None => about(details, [(key, name.to_owned())]),
                }
                details.add_precondition_failure_violation(kind, name, refusal.to_string());
            })
        };
    match refusal {
        ScheduleRefusal::NotFound(name) => schedule_not_found(name),
        ScheduleRefusal::CalendarNotFound(name) => calendar_not_found(name),
        ScheduleRefusal::Exists(name) => {
            status(Code::AlreadyExists, "SCHEDULE_EXISTS", refusal, resource("schedule", name))
        }
        ScheduleRefusal::CalendarExists(name) => {
            status(Code::AlreadyExists, "CALENDAR_EXISTS", refusal, resource("calendar", name))
        }
        ScheduleRefusal::Times(faults) => {
            let violation = |TimetableFault { field, problem }: &TimetableFault| {
                FieldViolation::new(format!("schedule.spec.{field}"), problem)
            };
            let mut details =
                ErrorDetails::with_bad_request(faults.iter().map(violation).collect::<Vec<_>>());
            details.set_error_info("INVALID_REQUEST", DOMAIN, std::collections::HashMap::new());
            Status::with_error_details(Code::InvalidArgument, refusal.to_string(), details)
        }
        ScheduleRefusal::Declared(name) => {
            precondition("SCHEDULE_DECLARED", "DECLARED", ("schedule", name), None)
        }
        ScheduleRefusal::CalendarDeclared(name) => {
            precondition("CALENDAR_DECLARED", "DECLARED", ("calendar", name), None)
        }
        ScheduleRefusal::EtagMismatch { schedule, etag } => {
            precondition("ETAG_MISMATCH", "ETAG", ("schedule", schedule), Some(etag))
        }
        ScheduleRefusal::CalendarEtagMismatch { calendar, etag } => {
            precondition("ETAG_MISMATCH", "ETAG", ("calendar", calendar), Some(etag))
        }
        ScheduleRefusal::CalendarInUse { calendar, .. } => {
            precondition("CALENDAR_IN_USE", "IN_USE", ("calendar", calendar), None)
        }
        ScheduleRefusal::BackfillRunning(name) => {
            precondition("BACKFILL_RUNNING", "RUNNING", ("schedule", name), None)
        }
        ScheduleRefusal::BackfillTooLarge { at_most, .. } => {
            quota("BACKFILL_TOO_LARGE", refusal, "instants of a backfill", at_most)
        }
        ScheduleRefusal::TooMany(max) => quota("TOO_MANY_SCHEDULES", refusal, "schedules", max),
        ScheduleRefusal::TooManyCalendars(max) => quota("TOO_MANY_CALENDARS", refusal, "calendars", max),
    }
}

/// No schedule has this name.
pub(super) fn schedule_not_found(name: &str) -> Status {
    let message =
        format!("no schedule is named `{name}`: list the schedules with ScheduleService.ListSchedules");
    status(Code::NotFound, "SCHEDULE_NOT_FOUND", message, resource("schedule", name))
}

/// No calendar has this name.
pub(super) fn calendar_not_found(name: &str) -> Status {
    let message =
        format!("no calendar is named `{name}`: list the calendars with ScheduleService.ListCalendars");
    status(Code::NotFound, "CALENDAR_NOT_FOUND", message, resource("calendar", name))
}
