//! Days as numbers, and the days on which a schedule does not run.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Seconds of a day of 24 hours.
pub(super) const DAY: i64 = 86_400;

/// A date of the Gregorian calendar.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Date {
    pub(super) year: i64,
    /// From 1 to 12.
    pub(super) month: u32,
    /// From 1 to 31.
    pub(super) day: u32,
}

/// Returns the date of a day, which is counted from 1970-01-01.
///
/// The year is taken to begin in March, so that the leap day is its last day and months have a regular pattern.
pub(super) fn date_of(day: i64) -> Date {
    let from_march_0 = day + 719_468;
    let era = from_march_0.div_euclid(146_097);
    let of_era = from_march_0.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    Date { year, month: u32::try_from(month).unwrap_or(1), day: u32::try_from(day).unwrap_or(1) }
}

/// Returns the day of a date, counted from 1970-01-01.
pub(super) fn day_of(date: Date) -> i64 {
    let year = date.year - i64::from(date.month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month = i64::from(date.month);
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * month_from_march + 2) / 5 + i64::from(date.day) - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468
}

/// Returns the number of days of a month.
pub(super) fn month_length(year: i64, month: u32) -> u32 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Returns the weekday of a day, from 0 (Sunday) to 6.
pub(super) fn weekday(day: i64) -> u32 {
    // 1970-01-01 was a Thursday.
    u32::try_from((day + 4).rem_euclid(7)).unwrap_or(0)
}

/// One or more successive dates, both ends included: `2026-12-25` or `2026-12-24..2027-01-06`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DateRange {
    first: i64,
    last: i64,
}

impl FromStr for DateRange {
    type Err = String;

    /// Parses a date or a range.
    ///
    /// # Errors
    ///
    /// The text is not one, with what was expected.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, last) = text.split_once("..").unwrap_or((text, text));
        let range = DateRange { first: parse_date(first, text)?, last: parse_date(last, text)? };
        if range.last < range.first {
            return Err(format!("`{text}` ends before it begins: the earlier date comes first"));
        }
        Ok(range)
    }
}

fn parse_date(date: &str, text: &str) -> Result<i64, String> {
    let digits = |from: usize, to: usize| {
        let part = date.get(from..to).filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()))?;
        part.parse::<u32>().ok()
    };
    let parsed = || {
        let bytes = date.as_bytes();
        if date.len() != 10 || bytes.get(4) != Some(&b'-') || bytes.get(7) != Some(&b'-') {
            return None;
        }
        let date = Date { year: i64::from(digits(0, 4)?), month: digits(5, 7)?, day: digits(8, 10)? };
        let exists =
            (1..=12).contains(&date.month) && (1..=month_length(date.year, date.month)).contains(&date.day);
        exists.then(|| day_of(date))
    };
    parsed().ok_or_else(|| {
        let text: String = text.chars().take(40).collect();
        format!(
            "`{text}` is no date: expected one like `2026-12-25`, or a range like `2026-12-24..2027-01-06`"
        )
    })
}

impl fmt::Display for DateRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let write = |f: &mut fmt::Formatter<'_>, day| {
            let date = date_of(day);
            write!(f, "{:04}-{:02}-{:02}", date.year, date.month, date.day)
        };
        write(f, self.first)?;
        if self.last != self.first {
            f.write_str("..")?;
            write(f, self.last)?;
        }
        Ok(())
    }
}

impl Serialize for DateRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DateRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The dates, in a schedule's time zone, on which it does not run. Clones share their memory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Excluded {
    /// Ranges in order; there is at least one day between two of them.
    ranges: Option<Arc<[DateRange]>>,
}

impl Excluded {
    /// Takes ranges in any order; they may overlap.
    #[must_use]
    pub fn new(ranges: impl IntoIterator<Item = DateRange>) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().collect();
        ranges.sort_unstable();
        let mut merged: Vec<DateRange> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match merged.last_mut().filter(|last| range.first <= last.last + 1) {
                Some(last) => last.last = last.last.max(range.last),
                None => merged.push(range),
            }
        }
        Excluded { ranges: (!merged.is_empty()).then(|| merged.into()) }
    }

    /// Returns whether no date is excluded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_none()
    }

    /// Returns the first and the last day of the range that contains a day.
    pub(super) fn around(&self, day: i64) -> Option<(i64, i64)> {
        let ranges = self.ranges.as_deref()?;
        let range = ranges.get(ranges.partition_point(|range| range.last < day))?;
        (range.first <= day).then_some((range.first, range.last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_are_those_of_the_calendar() {
        let start = jiff::civil::date(1969, 1, 1);
        let mut date = start;
        for day in -365..150_000 {
            let ours = date_of(day);
            let (year, month, of_month) = (i64::from(date.year()), date.month(), date.day());
            assert_eq!((ours.year, ours.month as i8, ours.day as i8), (year, month, of_month));
            assert_eq!(day_of(ours), day);
            assert_eq!(weekday(day) as i8, date.weekday().to_sunday_zero_offset());
            assert_eq!(month_length(ours.year, ours.month) as i8, date.days_in_month());
            date = date.tomorrow().unwrap();
        }
    }

    #[test]
    fn ranges_are_read_and_written_alike() {
        for text in ["2026-12-25", "2024-02-29", "2026-12-24..2027-01-06"] {
            assert_eq!(text.parse::<DateRange>().unwrap().to_string(), text);
        }
        let json = serde_json::to_string(&"2026-12-24..2027-01-06".parse::<DateRange>().unwrap()).unwrap();
        assert_eq!(json, "\"2026-12-24..2027-01-06\"");
        assert_eq!(serde_json::from_str::<DateRange>(&json).unwrap().to_string(), "2026-12-24..2027-01-06");
    }

    #[test]
    fn what_is_no_date_is_refused_with_what_was_expected() {
        for text in [
            "",
            "2026-02-30",
            "2026-13-01",
            "2026-1-1",
            "+026-01-01",
            "25.12.2026",
            "2026-01-01..",
            "é026-01-01",
        ] {
            let fault = text.parse::<DateRange>().unwrap_err();
            assert!(fault.contains("expected one like `2026-12-25`"), "{fault}");
        }
        let fault = "2026-12-25..2026-12-24".parse::<DateRange>().unwrap_err();
        assert!(fault.contains("ends before it begins"), "{fault}");
    }

    #[test]
    fn ranges_that_touch_or_overlap_are_one() {
        let range = |text: &str| text.parse::<DateRange>().unwrap();
        let excluded = Excluded::new([
            range("2026-12-26"),
            range("2026-12-20..2026-12-24"),
            range("2026-12-25"),
            range("2026-12-22..2026-12-23"),
            range("2027-01-06"),
        ]);
        let day = |text: &str| range(text).first;
        assert_eq!(excluded.around(day("2026-12-22")), Some((day("2026-12-20"), day("2026-12-26"))));
        assert_eq!(excluded.around(day("2026-12-27")), None);
        assert_eq!(excluded.around(day("2026-12-19")), None);
        assert_eq!(excluded.around(day("2027-01-06")), Some((day("2027-01-06"), day("2027-01-06"))));
        assert_eq!(excluded.around(day("2027-01-07")), None);
        assert!(Excluded::new([]).is_empty() && !excluded.is_empty());
    }
}
