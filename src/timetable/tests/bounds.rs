//! Start, end, jitter, excluded dates, and the bounds of a search.

use super::*;
use crate::timetable::Instant;

fn nominal(instants: impl Iterator<Item = Instant>) -> Vec<Timestamp> {
    instants.map(|instant| instant.nominal).collect()
}

#[test]
fn start_and_end_are_the_first_and_last_instants_that_may_be() {
    let spec = TimetableSpec {
        start: Some(at("2026-02-01T00:00:00Z")),
        end: Some(at("2026-02-03T00:00:00Z")),
        ..cron("0 0 * * *", "")
    };
    let timetable = made(&spec);
    let all = ["2026-02-01T00:00:00Z", "2026-02-02T00:00:00Z", "2026-02-03T00:00:00Z"].map(at);
    assert_eq!(nominal(timetable.after(at(MADE))), all);
    assert_eq!(timetable.latest(at(MADE), at("2027-01-01T00:00:00Z")).unwrap().nominal, all[2]);
    assert_eq!(timetable.latest(at(MADE), at("2026-01-31T00:00:00Z")), None);
    assert_eq!(timetable.count(at(MADE), at("2027-01-01T00:00:00Z"), 100), 3);
    assert_eq!(timetable.next(all[2]), None);
    // A moment later, and a moment earlier.
    let spec = TimetableSpec {
        start: Some(at("2026-02-01T00:00:00.000001Z")),
        end: Some(at("2026-02-02T23:59:59.999999Z")),
        ..spec
    };
    assert_eq!(nominal(made(&spec).after(at(MADE))), [all[1]]);
}

#[test]
fn every_with_a_start_runs_at_the_start() {
    let start = at("2026-02-01T00:00:00Z");
    let spec = TimetableSpec {
        every: Some(seconds(3600)),
        start: Some(start),
        end: Some(at("2026-02-01T02:30:00Z")),
        ..TimetableSpec::default()
    };
    let timetable = Timetable::new(&spec, &Excluded::default(), start, 0).unwrap();
    let all = [start, at("2026-02-01T01:00:00Z"), at("2026-02-01T02:00:00Z")];
    assert_eq!(nominal(timetable.after(at(MADE))), all);
    assert_eq!(timetable.count(at(MADE), at("2026-03-01T00:00:00Z"), 100), 3);
    assert_eq!(timetable.count(at(MADE), at("2026-03-01T00:00:00Z"), 2), 2);
    assert_eq!(timetable.count(at("2026-02-01T00:00:00Z"), at("2026-02-01T01:00:00Z"), 100), 1);
    assert_eq!(timetable.count(at("2026-02-01T02:00:00Z"), at("2026-02-01T01:00:00Z"), 100), 0);
}

#[test]
fn jitter_is_drawn_once_for_an_instant_and_never_reaches_its_length() {
    let spec = TimetableSpec { jitter: Some(seconds(60)), ..cron("* * * * *", "") };
    let timetable = made(&spec);
    let instants: Vec<_> = timetable.after(at(MADE)).take(1_000).collect();
    let again: Vec<_> = made(&spec).after(at(MADE)).take(1_000).collect();
    assert_eq!(instants, again);
    let delays: Vec<_> = instants.iter().map(|instant| instant.fires.since(instant.nominal)).collect();
    assert!(delays.iter().all(|delay| *delay < seconds(60)));
    // Spread over the whole minute.
    for tenth in 0..10 {
        let within = delays.iter().filter(|delay| delay.as_secs() / 6 == tenth).count();
        assert!((60..140).contains(&within), "{within} of 1,000 in the {tenth}. tenth");
    }
    assert!(instants.windows(2).all(|pair| pair[0].fires < pair[1].fires));
    // However the instant is found, its delay is the same.
    assert_eq!(timetable.latest(at(MADE), instants[99].nominal), Some(instants[99]));
    assert_eq!(timetable.next(instants[98].nominal), Some(instants[99]));
    // Another schedule draws others.
    let other = Timetable::new(&spec, &Excluded::default(), at(MADE), 8).unwrap();
    let same = other.after(at(MADE)).zip(&instants).take(100).filter(|(one, two)| one == *two).count();
    assert_eq!(same, 0);
}

#[test]
fn without_jitter_an_instant_fires_at_its_nominal_time() {
    for jitter in [None, Some(Duration::ZERO)] {
        let timetable = made(&TimetableSpec { jitter, ..cron("* * * * *", "") });
        assert!(timetable.after(at(MADE)).take(10).all(|instant| instant.fires == instant.nominal));
    }
}

#[test]
fn excluded_dates_are_those_of_the_schedules_zone() {
    let holidays = excluded(&["2026-12-25..2026-12-26", "2026-12-31"]);
    let run = |spec: &TimetableSpec, after, count| {
        let timetable = Timetable::new(spec, &holidays, at(MADE), 0).unwrap();
        local_times(&timetable, after, count)
    };
    assert_eq!(
        run(&cron("0 9 * * *", "Asia/Tokyo"), "2026-12-23T12:00:00Z", 4),
        ["12-24 09:00:00+09:00", "12-27 09:00:00+09:00", "12-28 09:00:00+09:00", "12-29 09:00:00+09:00"]
    );
    // Tokyo's 25 December begins at 15:00 UTC on the 24th.
    let every = TimetableSpec {
        every: Some(seconds(8 * 3600)),
        time_zone: "Asia/Tokyo".into(),
        ..TimetableSpec::default()
    };
    assert_eq!(
        run(&every, "2026-12-24T00:00:00Z", 4),
        ["12-24 17:00:00+09:00", "12-27 01:00:00+09:00", "12-27 09:00:00+09:00", "12-27 17:00:00+09:00"]
    );
    let timetable = Timetable::new(&every, &holidays, at(MADE), 0).unwrap();
    let latest = timetable.latest(at(MADE), at("2026-12-26T14:59:59Z")).unwrap();
    assert_eq!(timetable.local(latest.nominal), "2026-12-24 17:00:00+09:00");
    assert_eq!(timetable.count(at("2026-12-24T00:00:00Z"), at("2026-12-26T16:00:00Z"), 9), 2);
}

#[test]
fn excluded_years_are_skipped_and_not_walked() {
    let years = excluded(&["2026-01-02..2070-12-31"]);
    let spec = TimetableSpec { every: Some(seconds(1)), ..TimetableSpec::default() };
    let timetable = Timetable::new(&spec, &years, at(MADE), 0).unwrap();
    assert_eq!(timetable.next(at("2026-01-01T23:59:59Z")).unwrap().nominal, at("2071-01-01T00:00:00Z"));
    assert_eq!(
        timetable.latest(at(MADE), at("2070-12-31T00:00:00Z")).unwrap().nominal,
        at("2026-01-01T23:59:59Z")
    );
}

#[test]
fn a_run_in_place_of_a_skipped_time_counts_for_both_dates() {
    let run = |dates: &[&str]| {
        let spec = cron("0 12 * * *", "Pacific/Apia");
        let timetable = Timetable::new(&spec, &excluded(dates), at(MADE), 0).unwrap();
        local_times(&timetable, "2011-12-30T00:00:00Z", 2)
    };
    assert_eq!(run(&[]), ["12-31 00:00:00+14:00", "12-31 12:00:00+14:00"]);
    assert_eq!(run(&["2011-12-30"]), ["12-31 12:00:00+14:00", "01-01 12:00:00+14:00"]);
    assert_eq!(run(&["2011-12-31"]), ["01-01 12:00:00+14:00", "01-02 12:00:00+14:00"]);
}

#[test]
fn extreme_instants_end_a_search_and_nothing_else() {
    let ends = [i64::MIN, i64::MIN + 1, -62_135_596_800_000_001, 0, Timestamp::MAX.as_micros(), i64::MAX];
    let specs = [
        cron("* * * * * *", "Europe/Berlin"),
        TimetableSpec { every: Some(seconds(1)), ..TimetableSpec::default() },
        TimetableSpec { every: Some(super::super::EVERY_MAX), ..cron("0 0 29 2 *", "Asia/Tokyo") },
    ];
    for timetable in specs.iter().map(made) {
        for (after, until) in ends.iter().flat_map(|after| ends.iter().map(move |until| (*after, *until))) {
            let (after, until) = (Timestamp::from_micros(after), Timestamp::from_micros(until));
            let next = timetable.next(after);
            assert!(next.is_none_or(|next| next.nominal > after && next.fires <= Timestamp::MAX));
            let latest = timetable.latest(after, until);
            assert!(latest.is_none_or(|latest| latest.nominal > after && latest.nominal <= until));
            assert!(timetable.count(after, until, 5) <= 5);
            let _ = (timetable.local(after), timetable.clock_change(after));
        }
    }
}

#[test]
fn extreme_anchors_are_taken_as_ends_of_the_calendar() {
    let spec = TimetableSpec { every: Some(seconds(7)), ..cron("0 0 1 1 *", "Europe/Berlin") };
    for anchor in [i64::MIN, i64::MAX] {
        let anchor = Timestamp::from_micros(anchor);
        let timetable = Timetable::compile(&spec, &Excluded::default(), anchor, 0).unwrap();
        assert!(timetable.next(at(MADE)).unwrap().nominal <= at("2026-01-01T00:00:07Z"));
        // From the end of the calendar on there is nothing.
        assert_eq!(Timetable::new(&spec, &Excluded::default(), anchor, 0).is_ok(), anchor < at(MADE));
    }
}

#[test]
fn the_latest_of_many_instants_is_found_without_a_walk() {
    let timetable = made(&cron("* * * * * *", "Europe/Berlin"));
    let latest = timetable.latest(at("1990-01-01T00:00:00Z"), at("2026-06-01T12:00:00.5Z")).unwrap();
    assert_eq!(latest.nominal, at("2026-06-01T12:00:00Z"));
    assert_eq!(timetable.latest(at("2026-06-01T12:00:00Z"), at("2026-06-01T12:00:00.5Z")), None);
}

#[test]
fn a_search_goes_fifty_years_ahead_or_back() {
    let spec = TimetableSpec { every: Some(seconds(86_400)), ..TimetableSpec::default() };
    let without = |years: &str| Timetable::compile(&spec, &excluded(&[years]), at(MADE), 0).unwrap();
    let long = without("2026-01-01..2075-12-31");
    assert_eq!(long.next(at(MADE)).unwrap().nominal, at("2076-01-01T00:00:00Z"));
    assert_eq!(
        long.latest(at("2000-01-01T00:00:00Z"), at("2075-12-31T00:00:00Z")).unwrap().nominal,
        at("2025-12-31T00:00:00Z")
    );
    let too_long = without("2026-01-01..2076-12-31");
    assert_eq!(too_long.next(at(MADE)), None);
    assert_eq!(too_long.latest(at("2000-01-01T00:00:00Z"), at("2076-12-31T00:00:00Z")), None);
}

#[test]
fn specs_are_written_as_short_json() {
    let spec = TimetableSpec {
        every: Some(seconds(90)),
        jitter: Some(Duration::from_millis(1500)),
        ..cron("@daily", "Europe/Berlin")
    };
    let json = serde_json::to_string(&spec).unwrap();
    assert_eq!(
        json,
        r#"{"crons":["@daily"],"every_us":90000000,"time_zone":"Europe/Berlin","jitter_us":1500000}"#
    );
    assert_eq!(serde_json::from_str::<TimetableSpec>(&json).unwrap(), spec);
    assert_eq!(serde_json::from_str::<TimetableSpec>("{}").unwrap(), TimetableSpec::default());
}
