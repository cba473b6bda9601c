//! Random schedules beside a model that looks at each minute of a few days.

use std::collections::BTreeSet;

use jiff::{civil::DateTime, tz::AmbiguousOffset};
use proptest::prelude::*;

use super::*;

/// Days around a change of clocks.
const WINDOWS: &[(&str, &str)] = &[
    ("Europe/Berlin", "2026-03-28"),
    ("Europe/Berlin", "2026-10-24"),
    ("America/Santiago", "2026-09-05"),
    ("America/Santiago", "2026-04-04"),
    ("Australia/Lord_Howe", "2026-10-03"),
    ("Australia/Lord_Howe", "2026-04-04"),
    ("Pacific/Apia", "2011-12-29"),
    ("America/St_Johns", "2010-11-06"),
    ("America/Havana", "2026-11-01"),
    ("Asia/Kathmandu", "1985-12-31"),
    ("Antarctica/Troll", "2026-03-28"),
    ("UTC", "2026-01-31"),
];

#[derive(Clone, Debug)]
struct Case {
    window: usize,
    minutes: (u32, u32, Option<u32>),
    hours: (u32, u32, u32),
    weekdays: Option<(u32, u32)>,
    excluded: Option<u32>,
}

fn cases() -> impl Strategy<Value = Case> {
    let minutes = (0..60_u32, 0..60_u32, prop_oneof![Just(None), (1..60_u32).prop_map(Some)]);
    let hours = (0..24_u32, 0..24_u32, prop_oneof![3 => Just(1), 1 => 1..6_u32]);
    let weekdays = prop_oneof![3 => Just(None), 1 => (0..7_u32, 0..7_u32).prop_map(Some)];
    let excluded = prop_oneof![3 => Just(None), 1 => (0..5_u32).prop_map(Some)];
    (0..WINDOWS.len(), minutes, hours, weekdays, excluded).prop_map(
        |(window, minutes, hours, weekdays, excluded)| Case { window, minutes, hours, weekdays, excluded },
    )
}

impl Case {
    fn expression(&self) -> String {
        let range = |from: u32, to: u32| format!("{}-{}", from.min(to), from.max(to));
        let (from, to, step) = self.minutes;
        let minutes = step.map_or_else(|| from.to_string(), |step| format!("{}/{step}", range(from, to)));
        let (from, to, step) = self.hours;
        let hours = match (from.min(to), from.max(to)) {
            (0, 20..) => "*".to_owned(),
            _ if step == 1 => range(from, to),
            _ => format!("{}/{step}", range(from, to)),
        };
        let weekdays = self.weekdays.map_or_else(|| "*".to_owned(), |(from, to)| range(from, to));
        format!("{minutes} {hours} * * {weekdays}")
    }

    fn names_hour(&self, hour: u32) -> bool {
        let (from, to, step) = self.hours;
        let (from, to) = (from.min(to), from.max(to));
        (from == 0 && to >= 20) || ((from..=to).contains(&hour) && (hour - from).is_multiple_of(step))
    }

    fn names(&self, local: DateTime) -> bool {
        let (from, to, step) = self.minutes;
        let minute = local.minute() as u32;
        let minute_fits = match step {
            None => minute == from,
            Some(step) => {
                (from.min(to)..=from.max(to)).contains(&minute)
                    && (minute - from.min(to)).is_multiple_of(step)
            }
        };
        let weekday = local.weekday().to_sunday_zero_offset() as u32;
        let weekday_fits =
            self.weekdays.is_none_or(|(from, to)| (from.min(to)..=from.max(to)).contains(&weekday));
        minute_fits && weekday_fits && self.names_hour(local.hour() as u32)
    }

    /// Whether a time follows elapsed time.
    fn repeats(&self, local: DateTime) -> bool {
        let hour = local.hour() as u32;
        (0..24).all(|hour| self.names_hour(hour))
            || (self.minutes.2.is_some() && self.names_hour((hour + 1) % 24))
    }
}

/// Returns what the written rule says, by a look at each local minute of the days.
fn expected(
    case: &Case,
    zone: &TimeZone,
    first: DateTime,
    minutes: i64,
    excluded: Option<jiff::civil::Date>,
) -> BTreeSet<i64> {
    let mut found = BTreeSet::new();
    let is_excluded = |local: DateTime| excluded == Some(local.date());
    for minute in 0..minutes {
        let local = first.checked_add(jiff::SignedDuration::from_mins(minute)).unwrap();
        if !case.names(local) || is_excluded(local) {
            continue;
        }
        let instant = zone.to_ambiguous_timestamp(local);
        match instant.offset() {
            AmbiguousOffset::Unambiguous { .. } => {
                found.insert(instant.unambiguous().unwrap().as_second());
            }
            AmbiguousOffset::Fold { .. } => {
                found.insert(instant.earlier().unwrap().as_second());
                if case.repeats(local) {
                    found.insert(instant.later().unwrap().as_second());
                }
            }
            AmbiguousOffset::Gap { before, .. } if !case.repeats(local) => {
                // By the offset before the gap, the instant lies after the change.
                let as_if = before.to_timestamp(local).unwrap();
                let change = zone.preceding(as_if).next().unwrap().timestamp();
                // A time at the very start of the gap is the change itself.
                let change =
                    if zone.preceding(as_if + jiff::SignedDuration::from_secs(1)).next().unwrap().timestamp()
                        == as_if
                    {
                        as_if
                    } else {
                        change
                    };
                if !is_excluded(zone.to_datetime(change)) {
                    found.insert(change.as_second());
                }
            }
            AmbiguousOffset::Gap { .. } => {}
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn instants_are_those_of_a_look_at_each_minute(case in cases()) {
        let (zone_name, date) = WINDOWS[case.window];
        let zone = super::super::zones::Zones::of_process().zone(zone_name).unwrap();
        let first: jiff::civil::Date = date.parse().unwrap();
        let dates = |excluded: u32| first.checked_add(jiff::Span::new().days(excluded)).unwrap();
        let left_out = case.excluded.map(dates);
        let texts: Vec<_> = left_out.iter().map(ToString::to_string).collect();
        let texts: Vec<_> = texts.iter().map(String::as_str).collect();
        let spec = cron(&case.expression(), zone_name);
        let timetable = Timetable::in_zone(&spec, Ok(zone.clone()), &excluded(&texts), at(MADE), 0).unwrap();
        // The middle days of a longer look, so that no instant of a change is cut off.
        let expected = expected(&case, &zone, first.checked_sub(jiff::Span::new().days(3)).unwrap().at(0, 0, 0, 0), 10 * 1440, left_out);
        let from = zone.to_timestamp(first.checked_sub(jiff::Span::new().days(1)).unwrap().at(0, 0, 0, 0)).unwrap().as_second();
        let to = from + 5 * 86_400;
        let expected: Vec<_> = expected.range(from..=to).copied().collect();
        let (after, until) = (Timestamp::from_micros(from * 1_000_000 - 1), Timestamp::from_micros(to * 1_000_000));
        let found: Vec<_> = timetable.after(after).map(|instant| instant.nominal.as_micros() / 1_000_000)
            .take_while(|instant| *instant <= to).collect();
        prop_assert_eq!(&found, &expected, "{} {}", case.expression(), zone_name);
        // Backward, one by one.
        let mut backward = Vec::new();
        let mut before = until;
        while let Some(instant) = timetable.latest(after, before) {
            backward.push(instant.nominal.as_micros() / 1_000_000);
            before = Timestamp::from_micros(instant.nominal.as_micros() - 1);
        }
        backward.reverse();
        prop_assert_eq!(&backward, &expected, "{} {}", case.expression(), zone_name);
        prop_assert_eq!(timetable.count(after, until, u64::MAX), expected.len() as u64);
        // And each from the one before.
        let mut forward = Vec::new();
        let mut last = after;
        while let Some(instant) = timetable.next(last).filter(|instant| instant.nominal <= until) {
            forward.push(instant.nominal.as_micros() / 1_000_000);
            last = instant.nominal;
        }
        prop_assert_eq!(&forward, &expected);
    }
}
