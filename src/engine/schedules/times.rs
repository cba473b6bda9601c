//! The instants of a schedule that have come: which are missed, and which run.

use std::time::Duration;

use crate::{
    clock::Timestamp,
    settings::{Calendars, FutureInstant, ScheduleInfo},
    timetable::{Instant, Timetable, TimetableFault},
};

/// Limit of the late instants that run where each is to run; older ones are missed.
pub(super) const LATE_MAX: u64 = 1_000;
/// Limit of the instants that are counted at once.
pub(super) const COUNTED_MAX: u64 = 10_000;

/// The instants of a schedule as of the present.
pub(super) struct Coming {
    pub(super) table: Timetable,
    pub(super) now: Timestamp,
    /// Lateness above which an instant is missed.
    pub(super) catch_up: Option<Duration>,
}

impl Coming {
    pub(super) fn of(
        info: &ScheduleInfo,
        calendars: &Calendars,
        now: Timestamp,
    ) -> Result<Self, TimetableFault> {
        let table = info.settings.times.table(calendars, info.since, info.id)?;
        Ok(Coming { table, now, catch_up: info.settings.catch_up })
    }

    /// Returns whether an instant that fires at `fires` is missed.
    pub(super) fn is_missed(&self, fires: Timestamp) -> bool {
        self.catch_up.is_some_and(|longest| self.now.since(fires) > longest)
    }

    /// Returns the time from which an instant that fires at `fires` is missed.
    pub(super) fn missed_from(&self, fires: Timestamp) -> Option<Timestamp> {
        self.catch_up.map(|longest| fires.after(longest).after(Timestamp::TICK))
    }

    /// Returns the newest instant after `after` that fires at `until` at the latest.
    fn newest_by(&self, after: Timestamp, mut until: Timestamp) -> Option<Instant> {
        let latest = until;
        loop {
            let instant = self.table.latest(after, until)?;
            if instant.fires <= latest {
                return Some(instant);
            }
            // Its jitter has not passed. The one before it comes before that.
            until = instant.nominal.just_before();
        }
    }

    /// Returns the newest instant that has come.
    pub(super) fn newest(&self, after: Timestamp) -> Option<Instant> {
        self.newest_by(after, self.now)
    }

    /// Returns the oldest instant that has come.
    pub(super) fn oldest(&self, after: Timestamp) -> Option<Instant> {
        self.table.next(after).filter(|instant| instant.fires <= self.now)
    }

    /// Returns the newest instant that is missed.
    pub(super) fn newest_missed(&self, after: Timestamp) -> Option<Instant> {
        self.newest_by(after, self.now.before(self.catch_up?).just_before())
    }

    /// Returns the number of instants after `after` up to `until`, at most [`COUNTED_MAX`].
    pub(super) fn count(&self, after: Timestamp, until: Timestamp) -> u64 {
        self.table.count(after, until, COUNTED_MAX)
    }

    /// Returns the last instant before the newest [`LATE_MAX`] that have come, if there are more than these.
    pub(super) fn last_before_limit(&self, after: Timestamp) -> Option<Timestamp> {
        let newest = self.newest(after)?.nominal;
        let are_too_many = |from| self.table.count(from, newest, LATE_MAX + 1) > LATE_MAX;
        if !are_too_many(after) {
            return None;
        }
        // The limit is met between two times that come closer to each other.
        let (mut early, mut late) = (after.as_micros(), newest.as_micros());
        while late - early > 1 {
            let middle = early + (late - early) / 2;
            if are_too_many(Timestamp::from_micros(middle)) { early = middle } else { late = middle }
        }
        Some(Timestamp::from_micros(late))
    }

    /// Returns the next instant after `after` that has not run.
    pub(super) fn future(&self, info: &ScheduleInfo, after: Timestamp) -> Option<FutureInstant> {
        let mut next = self.table.next(after)?;
        while let Some(end) = info.run.ran.end_of(next.nominal) {
            next = self.table.next(end)?;
        }
        Some(next.into())
    }

    /// Returns the instant that follows another one.
    pub(super) fn following(&self, instant: Timestamp) -> Option<Timestamp> {
        self.table.next(instant).map(|next| next.nominal)
    }
}
