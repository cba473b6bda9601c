//! From a schedule's times as they are given to compiled ones, with all that may be wrong with them.

use jiff::tz::TimeZone;

use crate::clock::Timestamp;

use super::{
    EARLIEST, HORIZON_S, Instant, SECOND, Timetable,
    cron::{Cron, Hours},
    days::Excluded,
    every::Every,
    parse,
    spec::{CRONS_MAX, EVERY_MAX, EVERY_MIN, TimetableFault, TimetableSpec, fault, told},
    zones::Zones,
};

/// How many instants are looked at to find the shortest distance between two.
const LOOK_MAX: usize = 1_000;

impl Timetable {
    /// Compiles the times of a schedule.
    ///
    /// `every` counts from `anchor`: the schedule's start, or the time at which the schedule was made. It must stay the
    /// same for all of the schedule's life. Jitter depends on `seed` and on the instant.
    ///
    /// # Errors
    ///
    /// The first of the faults that [`Timetable::checked`] returns.
    pub fn new(
        spec: &TimetableSpec,
        excluded: &Excluded,
        anchor: Timestamp,
        seed: u64,
    ) -> Result<Timetable, TimetableFault> {
        Timetable::checked(spec, excluded, anchor, seed).map_err(first)
    }

    /// Compiles the times of a schedule, and reports all of their faults at once.
    ///
    /// # Errors
    ///
    /// Fields are invalid. If none is, the only fault may be that the schedule would never run from `anchor` on, or that its
    /// jitter is longer than the distance of two of its first 1,000 instants. There is at least one fault.
    pub fn checked(
        spec: &TimetableSpec,
        excluded: &Excluded,
        anchor: Timestamp,
        seed: u64,
    ) -> Result<Timetable, Vec<TimetableFault>> {
        let timetable = Timetable::in_zone(spec, zone(spec), excluded, anchor, seed)?;
        timetable.runs(spec, anchor).map_err(|fault| vec![fault])
    }

    /// Compiles the times of a schedule that has been accepted before, without a look at its instants: it may have
    /// ended since.
    ///
    /// # Errors
    ///
    /// A field is invalid; for instance, the time zone database lacks the zone by now.
    pub fn compile(
        spec: &TimetableSpec,
        excluded: &Excluded,
        anchor: Timestamp,
        seed: u64,
    ) -> Result<Timetable, TimetableFault> {
        Timetable::in_zone(spec, zone(spec), excluded, anchor, seed).map_err(first)
    }

    /// Compiles the times of a schedule with the rules of a zone, whatever the name of its own zone.
    pub(super) fn in_zone(
        spec: &TimetableSpec,
        zone: Result<TimeZone, TimetableFault>,
        excluded: &Excluded,
        anchor: Timestamp,
        seed: u64,
    ) -> Result<Timetable, Vec<TimetableFault>> {
        let mut faults = Vec::new();
        let crons = parse_all(&spec.crons, &mut faults);
        if let Some(every) = spec.every.filter(|every| !(EVERY_MIN..=EVERY_MAX).contains(every)) {
            let (min, max) = (told(EVERY_MIN), told(EVERY_MAX));
            faults.push(fault("every", format!("{} is out of range: from {min} to {max}", told(every))));
        }
        if spec.crons.is_empty() && spec.every.is_none() {
            let problem =
                "a schedule needs times: give a cron expression here, such as `30 2 * * *`, or `every`";
            faults.push(fault("crons", problem));
        }
        let zone = zone.map_err(|fault| faults.push(fault));
        if let (Some(start), Some(end)) = (spec.start, spec.end)
            && end < start
        {
            faults.push(fault("end_time", format!("{end} is before the start, {start}")));
        }
        let (Ok(zone), true) = (zone, faults.is_empty()) else { return Err(faults) };
        let interval = spec.every.map(|every| i64::try_from(every.as_micros()).unwrap_or(i64::MAX));
        let jitter = spec.jitter.unwrap_or_default();
        Ok(Timetable {
            crons,
            every: interval.map(|interval| Every { interval, anchor: within_calendar(anchor).as_micros() }),
            zone,
            excluded: excluded.clone(),
            start: spec.start.map_or(EARLIEST, |start| start.as_micros().max(EARLIEST)),
            end: spec.end.unwrap_or(Timestamp::MAX).min(Timestamp::MAX).as_micros(),
            jitter: u64::try_from(jitter.as_micros()).unwrap_or(u64::MAX),
            seed,
        })
    }

    /// Returns the timetable, unless it would never run or its jitter is too long.
    fn runs(self, spec: &TimetableSpec, anchor: Timestamp) -> Result<Timetable, TimetableFault> {
        let anchor = within_calendar(anchor);
        let from_s = anchor.as_micros().div_euclid(SECOND);
        for (at, cron) in self.crons.iter().enumerate() {
            let none = Excluded::default();
            if cron.next(Hours::All, from_s, from_s + HORIZON_S, &none).is_none() {
                let problem = format!(
                    "`{}` never comes: no month that it names has such a day (looked for 50 years ahead)",
                    spec.crons[at].escape_debug()
                );
                return Err(fault("crons", problem));
            }
        }
        // An instant at the very anchor counts if that is the schedule's start.
        let after = if spec.start.is_some() { anchor.just_before() } else { anchor };
        if self.next(after).is_none() {
            return Err(self.why_never(after));
        }
        self.check_jitter(after)?;
        Ok(self)
    }

    fn why_never(&self, after: Timestamp) -> TimetableFault {
        let without = Timetable { excluded: Excluded::default(), ..self.clone() };
        if let Some(first) = without.next(after) {
            let first = self.local(first.nominal);
            let problem = format!("all times of the schedule, from {first} on, fall on excluded dates");
            return fault("exclude", problem);
        }
        let endless = Timetable { end: Timestamp::MAX.as_micros(), ..without };
        let end = self.local(Timestamp::from_micros(self.end));
        fault(
            "end_time",
            match endless.next(after) {
                Some(first) => {
                    format!("{end} is before the schedule's first time, {}", self.local(first.nominal))
                }
                None => format!("there is no time of the schedule up to {end}"),
            },
        )
    }

    fn check_jitter(&self, after: Timestamp) -> Result<(), TimetableFault> {
        if self.jitter == 0 {
            return Ok(());
        }
        let plain = Timetable { jitter: 0, ..self.clone() };
        let instants: Vec<Instant> = plain.after(after).take(LOOK_MAX).collect();
        let pairs = instants.windows(2).map(|pair| (pair[1].nominal.since(pair[0].nominal), pair));
        let Some((shortest, pair)) = pairs.min_by_key(|(distance, _)| *distance) else { return Ok(()) };
        if u128::from(self.jitter) <= shortest.as_micros() {
            return Ok(());
        }
        let problem = format!(
            "{} is longer than the shortest distance between two times of the schedule, {} (from {} to {}): at most that",
            told(std::time::Duration::from_micros(self.jitter)),
            told(shortest),
            self.local(pair[0].nominal),
            self.local(pair[1].nominal),
        );
        Err(fault("jitter", problem))
    }
}

/// Returns an instant, or the calendar's end that is next to it.
fn within_calendar(instant: Timestamp) -> Timestamp {
    instant.clamp(Timestamp::from_micros(EARLIEST), Timestamp::MAX)
}

fn zone(spec: &TimetableSpec) -> Result<TimeZone, TimetableFault> {
    Zones::of_process().zone(&spec.time_zone).map_err(|problem| fault("time_zone", problem))
}

fn first(faults: Vec<TimetableFault>) -> TimetableFault {
    faults.into_iter().next().unwrap_or_else(|| fault("crons", "the times are not valid"))
}

fn parse_all(crons: &[String], faults: &mut Vec<TimetableFault>) -> Box<[Cron]> {
    if crons.len() > CRONS_MAX {
        let problem = format!("{} expressions are too many: at most {CRONS_MAX}", crons.len());
        faults.push(fault("crons", problem));
        return Box::default();
    }
    let parsed = crons.iter().map(|cron| parse::parse(cron).map_err(|problem| fault("crons", problem)));
    parsed.filter_map(|cron| cron.map_err(|fault| faults.push(fault)).ok()).collect()
}
