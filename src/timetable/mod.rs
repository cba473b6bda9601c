//! The instants of a schedule: from cron expressions, a fixed distance, a time zone and excluded dates to points in time.
//!
//! Everything here is computed from what is given, and from the time zone database, which is read once. There is no clock:
//! callers say after which instant they look. Each search is bounded to 50 years.
//!
//! - `parse.rs`, `cron.rs`: a cron expression and the local times that it names.
//! - `every.rs`: instants at a fixed distance.
//! - `stretch.rs`: what happens where clocks are set.
//! - `days.rs`: calendar dates. `zones.rs`: time zones by name.

mod checks;
mod cron;
mod days;
mod every;
mod parse;
mod spec;
mod stretch;
#[cfg(test)]
mod tests;
mod zones;

use std::{fmt, time::Duration};

use jiff::tz::TimeZone;

use crate::clock::Timestamp;

use self::{
    cron::{Cron, Hours},
    days::{DAY, date_of},
    every::Every,
    stretch::Stretch,
    zones::Zones,
};
pub use self::{
    days::{DateRange, Excluded},
    spec::{CRON_BYTES_MAX, CRONS_MAX, EVERY_MAX, EVERY_MIN, TimetableFault, TimetableSpec},
};

/// How far a search goes, in seconds: 50 years. The longest wait of an expression that runs at all is shorter: 29
/// February on a certain weekday may be 40 years away.
const HORIZON_S: i64 = 50 * 366 * DAY;

const SECOND: i64 = 1_000_000;

/// The year 1, in microseconds: the earliest instant of the protocol.
const EARLIEST: i64 = -62_135_596_800 * SECOND;

/// Returns the version of the time zone database in use, and where it is from: `2026b (built in)`.
#[must_use]
pub fn time_zone_database() -> String {
    Zones::of_process().version()
}

/// One time of a schedule.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Instant {
    /// The instant that the schedule names. It identifies the run.
    pub nominal: Timestamp,
    /// When to run: the nominal instant plus a jitter that is always the same for this instant.
    pub fires: Timestamp,
}

/// What the clocks of the zone do at an instant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClockChange {
    /// Clocks are set forward, and the schedule runs in place of a time of day that does not exist.
    InPlaceOf(String),
    /// The time of day comes twice, and this is the first time.
    FirstTime,
    /// The time of day comes twice, and this is the second time.
    SecondTime,
}

impl fmt::Display for ClockChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClockChange::InPlaceOf(time) => write!(f, "in place of {time}, which clocks skip"),
            ClockChange::FirstTime => f.write_str("the first of two, clocks go back"),
            ClockChange::SecondTime => f.write_str("the second of two, clocks went back"),
        }
    }
}

/// The compiled times of a schedule.
#[derive(Clone, Debug)]
pub struct Timetable {
    crons: Box<[Cron]>,
    every: Option<Every>,
    zone: TimeZone,
    excluded: Excluded,
    /// The earliest instant, in microseconds.
    start: i64,
    /// The latest instant, in microseconds.
    end: i64,
    /// Microseconds; each delay is less.
    jitter: u64,
    seed: u64,
}

impl Timetable {
    /// Returns the first instant whose nominal time is after `after`. Without one, there is none in the next 50 years, or
    /// before the schedule's end.
    #[must_use]
    pub fn next(&self, after: Timestamp) -> Option<Instant> {
        self.after(after).next()
    }

    /// Returns the newest instant whose nominal time is after `after` and not after `until`, by a search back from
    /// `until` of at most 50 years.
    #[must_use]
    pub fn latest(&self, after: Timestamp, until: Timestamp) -> Option<Instant> {
        let until = until.as_micros().min(self.end);
        let from = self.from(after).max(until.saturating_sub(HORIZON_S * SECOND));
        let mut before = until.saturating_add(1);
        while from < before {
            let stretch = Stretch::around(&self.zone, (before - 1).div_euclid(SECOND));
            let lower = from.max(stretch.start.saturating_mul(SECOND));
            if let Some(found) = self.last_in(&stretch, lower, before) {
                return Some(self.instant(found));
            }
            before = lower;
        }
        None
    }

    /// Returns how many instants have a nominal time after `after` and not after `until`. It stops at `at_most`.
    #[must_use]
    pub fn count(&self, after: Timestamp, until: Timestamp, at_most: u64) -> u64 {
        if let (Some(every), [], true) = (self.every, &*self.crons, self.excluded.is_empty()) {
            let first = every.at_or_after(self.from(after));
            let last = every.before(until.as_micros().clamp(EARLIEST, self.end) + 1);
            let count = if first > last { 0 } else { (last - first) / every.interval + 1 };
            return u64::try_from(count).unwrap_or(0).min(at_most);
        }
        let at_most = usize::try_from(at_most).unwrap_or(usize::MAX);
        let instants = self.after(after).take_while(|instant| instant.nominal <= until).take(at_most);
        instants.fold(0, |count, _| count + 1)
    }

    /// Returns the instants whose nominal time is after `after`, in order.
    pub fn after(&self, after: Timestamp) -> Instants<'_> {
        Instants { timetable: self, stretch: None, from: self.from(after) }
    }

    /// Returns an instant in the local time of the schedule's zone, such as `2026-03-29 03:00:00+02:00`.
    #[must_use]
    pub fn local(&self, instant: Timestamp) -> String {
        let second = instant.as_micros().div_euclid(SECOND);
        let local = Stretch::around(&self.zone, second).local(second);
        let offset = (local - second) / 60;
        let sign = if offset < 0 { '-' } else { '+' };
        let (date, time) = (date_of(local.div_euclid(DAY)), local.rem_euclid(DAY));
        format!(
            "{:04}-{:02}-{:02} {}{sign}{:02}:{:02}",
            date.year,
            date.month,
            date.day,
            time_of_day(time, true),
            offset.abs() / 60,
            offset.abs() % 60
        )
    }

    /// Returns what the clocks do at an instant of the schedule, if they change how or when it runs.
    #[must_use]
    pub fn clock_change(&self, instant: Timestamp) -> Option<ClockChange> {
        let second = instant.as_micros().div_euclid(SECOND);
        let stretch = Stretch::around(&self.zone, second);
        if second == stretch.start {
            let local = stretch.local(second);
            let by_itself = self
                .crons
                .iter()
                .any(|cron| cron.next(Hours::All, local, local + 1, &self.excluded).is_some());
            let in_gap = self.crons.iter().filter_map(|cron| stretch.in_gap(cron, &self.excluded)).max();
            if let Some(time) = in_gap.filter(|_| !by_itself) {
                let time = time.rem_euclid(DAY);
                return Some(ClockChange::InPlaceOf(time_of_day(time, time % 60 != 0)));
            }
        }
        if stretch.is_second_pass(second) {
            return Some(ClockChange::SecondTime);
        }
        // The next stretch shows the same local time again.
        let again = (stretch.end != i64::MAX).then(|| Stretch::around(&self.zone, stretch.end))?;
        (again.local(again.start) <= stretch.local(second)).then_some(ClockChange::FirstTime)
    }

    /// Returns the earliest instant that may be after `after`, in microseconds.
    fn from(&self, after: Timestamp) -> i64 {
        after.as_micros().clamp(self.start - 1, Timestamp::MAX.as_micros()) + 1
    }

    /// Returns the first instant in `from..before` of a stretch, in microseconds.
    fn first_in(&self, stretch: &Stretch, from: i64, before: i64) -> Option<i64> {
        // Cron's instants are whole seconds: the first at or after `from`.
        let (from_s, before_s) = (-(-from).div_euclid(SECOND), -(-before).div_euclid(SECOND));
        let crons = self.crons.iter().filter_map(|cron| {
            let found = stretch.next(cron, from_s, before_s, &self.excluded)?;
            Some(found * SECOND)
        });
        let every = self.every.and_then(|every| every.next(stretch, from, before, &self.excluded));
        crons.chain(every).min()
    }

    /// Returns the last instant in `from..before` of a stretch, in microseconds.
    fn last_in(&self, stretch: &Stretch, from: i64, before: i64) -> Option<i64> {
        let (from_s, before_s) = (-(-from).div_euclid(SECOND), -(-before).div_euclid(SECOND));
        let crons = self.crons.iter().filter_map(|cron| {
            let found = stretch.previous(cron, from_s, before_s, &self.excluded)?;
            Some(found * SECOND)
        });
        let every = self.every.and_then(|every| every.previous(stretch, from, before, &self.excluded));
        crons.chain(every).max()
    }

    fn instant(&self, nominal: i64) -> Instant {
        let delay = if self.jitter == 0 { 0 } else { draw(self.seed, nominal) % self.jitter };
        let nominal = Timestamp::from_micros(nominal);
        Instant { nominal, fires: nominal.after(Duration::from_micros(delay)) }
    }
}

/// The instants of a timetable, in order.
#[derive(Clone, Debug)]
pub struct Instants<'a> {
    timetable: &'a Timetable,
    /// The stretch that contains `from`, once it is known.
    stretch: Option<Stretch>,
    /// The earliest next instant, in microseconds.
    from: i64,
}

impl Iterator for Instants<'_> {
    type Item = Instant;

    fn next(&mut self) -> Option<Instant> {
        let end = self.timetable.end + 1;
        let before = end.min(self.from.saturating_add(HORIZON_S * SECOND));
        while self.from < before {
            let second = self.from.div_euclid(SECOND);
            let stretch = self.stretch.get_or_insert_with(|| Stretch::around(&self.timetable.zone, second));
            let until = before.min(stretch.end.saturating_mul(SECOND));
            if let Some(found) = self.timetable.first_in(stretch, self.from, until) {
                self.from = found + 1;
                if self.from >= stretch.end.saturating_mul(SECOND) {
                    self.stretch = None;
                }
                return Some(self.timetable.instant(found));
            }
            self.from = until;
            self.stretch = None;
        }
        None
    }
}

/// Formats the seconds of a day.
fn time_of_day(time: i64, with_seconds: bool) -> String {
    let (hour, minute, second) = (time / 3_600, time / 60 % 60, time % 60);
    if with_seconds { format!("{hour:02}:{minute:02}:{second:02}") } else { format!("{hour:02}:{minute:02}") }
}

/// Returns a number that looks random and is always the same for a seed and an instant (SplitMix64).
fn draw(seed: u64, instant: i64) -> u64 {
    let mut mixed = seed ^ instant.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
