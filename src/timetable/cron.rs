//! A parsed cron expression, and the local times that it names. It knows no time zone.

use super::days::{DAY, Excluded, date_of, month_length, weekday};

/// All hours of a day.
const ALL_HOURS: u32 = (1 << 24) - 1;

/// The local times that a cron expression names. Sets are bits: bit *n* stands for the value *n*.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Cron {
    pub(super) seconds: u64,
    pub(super) minutes: u64,
    pub(super) hours: u32,
    /// Whether the minutes are given with a `*` or a step, as in `*/10`.
    pub(super) minutes_step: bool,
    pub(super) months: u16,
    pub(super) days: Days,
}

/// The days of a month that an expression names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Days {
    /// Days of the month: bit 0 is the 1st.
    pub(super) of_month: u32,
    /// `L-3` is bit 3, `L` is bit 0.
    pub(super) before_last: u32,
    /// `15W`: the working day nearest to the 15th. Bit 0 is the 1st.
    pub(super) nearest: u32,
    /// `L-3W`: the working day nearest to three days before the last is bit 3, `LW` is bit 0.
    pub(super) nearest_last: u32,
    /// Weekdays: bit 0 is Sunday.
    pub(super) weekdays: u8,
    /// `FRI#2` is bit 5 of the second set.
    pub(super) nth: [u8; 5],
    /// `FRI#L`.
    pub(super) last: u8,
    /// Whether a day has to be named by either of the two fields, instead of by both.
    pub(super) either: bool,
}

/// Which hours of an expression are meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hours {
    /// All that it names.
    All,
    /// Those through which it repeats: its times follow elapsed time where clocks are set.
    Repeating,
    /// The others: each of their times comes once on each of its days.
    Fixed,
}

impl Cron {
    /// Returns the hours of a kind.
    ///
    /// An expression repeats through all hours if it names all hours. Otherwise it repeats through an hour if its
    /// minutes are given with a `*` or a step and it goes on in the next hour.
    fn hours(&self, which: Hours) -> u32 {
        let repeating = || {
            if self.hours == ALL_HOURS {
                return ALL_HOURS;
            }
            let next_too = self.hours & ((self.hours >> 1) | (self.hours << 23));
            if self.minutes_step { next_too & ALL_HOURS } else { 0 }
        };
        match which {
            Hours::All => self.hours,
            Hours::Repeating => repeating(),
            Hours::Fixed => self.hours & !repeating(),
        }
    }

    /// Returns the earliest local time in `from..before` on a date that is not excluded. Local times are seconds of a
    /// clock that was never set, from 1970-01-01 00:00 on.
    pub(super) fn next(&self, hours: Hours, from: i64, before: i64, excluded: &Excluded) -> Option<i64> {
        let hours = Some(self.hours(hours)).filter(|hours| *hours != 0)?;
        let (mut day, mut time) = (from.div_euclid(DAY), from.rem_euclid(DAY));
        let days_before = (before - 1).div_euclid(DAY) + 1;
        loop {
            let found = self.next_day(day, days_before, excluded)?;
            let from_time = if found == day { time } else { 0 };
            if let Some(time) = self.time_from(hours, from_time) {
                return Some(found * DAY + time).filter(|found| *found < before);
            }
            (day, time) = (found + 1, 0);
        }
    }

    /// Returns the latest local time in `from..before` on a date that is not excluded.
    pub(super) fn previous(&self, hours: Hours, from: i64, before: i64, excluded: &Excluded) -> Option<i64> {
        let hours = Some(self.hours(hours)).filter(|hours| *hours != 0)?;
        let (mut day, mut time) = ((before - 1).div_euclid(DAY), (before - 1).rem_euclid(DAY));
        loop {
            let found = self.previous_day(day, from.div_euclid(DAY), excluded)?;
            let to_time = if found == day { time } else { DAY - 1 };
            if let Some(time) = self.time_to(hours, to_time) {
                return Some(found * DAY + time).filter(|found| *found >= from);
            }
            (day, time) = (found - 1, DAY - 1);
        }
    }

    /// Returns the first time of a day, in seconds, that is not before `from`.
    fn time_from(&self, hours: u32, from: i64) -> Option<i64> {
        let (hour, minute, second) = (from / 3_600, from / 60 % 60, from % 60);
        let here = is_in(u64::from(hours), hour);
        if here
            && is_in(self.minutes, minute)
            && let Some(second) = lowest(self.seconds, second)
        {
            return Some(hour * 3_600 + minute * 60 + second);
        }
        let first_second = lowest(self.seconds, 0)?;
        if here && let Some(minute) = lowest(self.minutes, minute + 1) {
            return Some(hour * 3_600 + minute * 60 + first_second);
        }
        let hour = lowest(u64::from(hours), hour + 1)?;
        Some(hour * 3_600 + lowest(self.minutes, 0)? * 60 + first_second)
    }

    /// Returns the last time of a day, in seconds, that is not after `to`.
    fn time_to(&self, hours: u32, to: i64) -> Option<i64> {
        let (hour, minute, second) = (to / 3_600, to / 60 % 60, to % 60);
        let here = is_in(u64::from(hours), hour);
        if here
            && is_in(self.minutes, minute)
            && let Some(second) = highest(self.seconds, second)
        {
            return Some(hour * 3_600 + minute * 60 + second);
        }
        let last_second = highest(self.seconds, 59)?;
        if here && let Some(minute) = highest(self.minutes, minute - 1) {
            return Some(hour * 3_600 + minute * 60 + last_second);
        }
        let hour = highest(u64::from(hours), hour - 1)?;
        Some(hour * 3_600 + highest(self.minutes, 59)? * 60 + last_second)
    }

    /// Returns the first day in `from..before` that is named and not excluded.
    fn next_day(&self, from: i64, before: i64, excluded: &Excluded) -> Option<i64> {
        let mut day = from;
        'month: while day < before {
            let date = date_of(day);
            let first = day - i64::from(date.day - 1);
            let length = month_length(date.year, date.month);
            let mut left = self.month(date.month, length, first) & (u32::MAX << (date.day - 1));
            while left != 0 {
                let found = first + i64::from(left.trailing_zeros());
                if found >= before {
                    return None;
                }
                let Some((_, last)) = excluded.around(found) else { return Some(found) };
                day = last + 1;
                if day >= first + i64::from(length) {
                    continue 'month;
                }
                left &= u32::MAX << (day - first);
            }
            day = first + i64::from(length);
        }
        None
    }

    /// Returns the last day in `from..=to` that is named and not excluded.
    fn previous_day(&self, to: i64, from: i64, excluded: &Excluded) -> Option<i64> {
        let mut day = to;
        'month: while day >= from {
            let date = date_of(day);
            let first = day - i64::from(date.day - 1);
            let length = month_length(date.year, date.month);
            let mut left = self.month(date.month, length, first) & (u32::MAX >> (32 - date.day));
            while left != 0 {
                let found = first + i64::from(31 - left.leading_zeros());
                if found < from {
                    return None;
                }
                let Some((excluded_first, _)) = excluded.around(found) else { return Some(found) };
                day = excluded_first - 1;
                if day < first {
                    continue 'month;
                }
                left &= u32::MAX >> (31 - (day - first));
            }
            day = first - 1;
        }
        None
    }

    /// Returns the days of a month that are named; bit 0 is the 1st, which is the day `first`.
    fn month(&self, month: u32, length: u32, first: i64) -> u32 {
        if self.months & (1 << month) == 0 { 0 } else { self.days.of(length, weekday(first)) }
    }
}

impl Days {
    /// Returns the days of a month that are named; bit 0 is the 1st, which is the weekday `first`.
    fn of(&self, length: u32, first: u32) -> u32 {
        let whole = u32::MAX >> (32 - length);
        let (by_date, by_weekday) = (self.by_date(length, first), self.by_weekday(length, first));
        whole & if self.either { by_date | by_weekday } else { by_date & by_weekday }
    }

    fn by_date(&self, length: u32, first: u32) -> u32 {
        let mut days = self.of_month;
        for before in bits(self.before_last).filter(|before| *before < length) {
            days |= 1 << (length - 1 - before);
        }
        for day in bits(self.nearest).filter(|day| *day < length) {
            days |= 1 << nearest_working_day(day, length, first);
        }
        for before in bits(self.nearest_last).filter(|before| *before < length) {
            days |= 1 << nearest_working_day(length - 1 - before, length, first);
        }
        days
    }

    fn by_weekday(&self, length: u32, first: u32) -> u32 {
        let each = |weekdays: u8| {
            // The week as the month's first seven days have it.
            let week = u32::from(weekdays);
            let week = ((week >> first) | (week << (7 - first))) & 0x7f;
            week | week << 7 | week << 14 | week << 21 | week << 28
        };
        let mut days = each(self.weekdays);
        for (week, weekdays) in (0_u32..).zip(self.nth) {
            days |= each(weekdays) & (0x7f << (7 * week));
        }
        days | each(self.last) & (0x7f << (length - 7))
    }
}

/// Returns the working day, Monday to Friday, that is nearest to a day of the same month. Days count from 0.
fn nearest_working_day(day: u32, length: u32, first: u32) -> u32 {
    match (first + day) % 7 {
        6 if day == 0 => day + 2,
        6 => day - 1,
        0 if day + 1 == length => day - 2,
        0 => day + 1,
        _ => day,
    }
}

fn bits(mut set: u32) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let lowest = (set != 0).then(|| set.trailing_zeros())?;
        set &= set - 1;
        Some(lowest)
    })
}

fn is_in(set: u64, value: i64) -> bool {
    set >> value & 1 == 1
}

/// Returns the lowest value of a set that is at least `from`, which is at most 63.
fn lowest(set: u64, from: i64) -> Option<i64> {
    let set = set >> from;
    (set != 0).then(|| from + i64::from(set.trailing_zeros()))
}

/// Returns the highest value of a set that is at most `to`, which is less than 63 and may be -1.
fn highest(set: u64, to: i64) -> Option<i64> {
    let set = set & ((1 << (to + 1)) - 1);
    (set != 0).then(|| i64::from(63 - set.leading_zeros()))
}
