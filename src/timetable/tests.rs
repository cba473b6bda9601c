//! Unit tests of the instants of a schedule.

mod bounds;
mod changes;
mod expressions;
mod faults;
mod model;
mod page;
mod year;

use std::time::Duration;

use jiff::tz::TimeZone;

use super::{Excluded, Timetable, TimetableFault, TimetableSpec};
use crate::clock::Timestamp;

/// Reads an instant such as `2026-03-29T01:00:00Z`.
fn at(text: &str) -> Timestamp {
    let instant: jiff::Timestamp = text.parse().unwrap();
    Timestamp::from_micros(instant.as_microsecond())
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn excluded(ranges: &[&str]) -> Excluded {
    Excluded::new(ranges.iter().map(|range| range.parse().unwrap()))
}

fn cron(expression: &str, time_zone: &str) -> TimetableSpec {
    TimetableSpec {
        crons: vec![expression.to_owned()],
        time_zone: time_zone.to_owned(),
        ..TimetableSpec::default()
    }
}

const MADE: &str = "2026-01-01T00:00:00Z";

fn made(spec: &TimetableSpec) -> Timetable {
    Timetable::new(spec, &Excluded::default(), at(MADE), 7).unwrap()
}

fn fault(spec: &TimetableSpec) -> TimetableFault {
    Timetable::new(spec, &Excluded::default(), at(MADE), 7).unwrap_err()
}

/// Returns the first local times after an instant, without the year.
fn local_times(timetable: &Timetable, after: &str, count: usize) -> Vec<String> {
    let instants = timetable.after(at(after)).take(count);
    instants.map(|instant| timetable.local(instant.nominal)[5..].to_owned()).collect()
}

/// Returns the first local times of an expression after an instant, without the year.
fn times(expression: &str, time_zone: &str, after: &str, count: usize) -> Vec<String> {
    local_times(&made(&cron(expression, time_zone)), after, count)
}

/// Returns the first dates of an expression in UTC on which it runs after an instant, without the year.
fn dates(expression: &str, after: &str, count: usize) -> Vec<String> {
    times(expression, "", after, count).into_iter().map(|time| time[..5].to_owned()).collect()
}

/// Compiles times with the rules of a zone.
fn in_zone(spec: &TimetableSpec, zone: TimeZone) -> Timetable {
    Timetable::in_zone(spec, Ok(zone), &Excluded::default(), at(MADE), 7).unwrap()
}
