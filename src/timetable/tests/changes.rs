//! What happens where clocks are set.

use super::*;
use crate::timetable::ClockChange;

#[test]
fn a_fixed_time_in_the_gap_runs_once_right_after_it() {
    assert_eq!(
        times("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", 3),
        ["03-28 02:30:00+01:00", "03-29 03:00:00+02:00", "03-30 02:30:00+02:00"]
    );
    // Several of them are one run, and one with what runs then anyway.
    assert_eq!(
        times("0,30 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 3),
        ["03-29 03:00:00+02:00", "03-29 03:30:00+02:00", "03-30 02:00:00+02:00"]
    );
    assert_eq!(
        times("*/10 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2),
        ["03-29 03:00:00+02:00", "03-30 02:00:00+02:00"]
    );
    // Every second hour, and not less on this day.
    assert_eq!(
        times("30 */2 * * *", "Europe/Berlin", "2026-03-28T22:00:00Z", 3),
        ["03-29 00:30:00+01:00", "03-29 03:00:00+02:00", "03-29 04:30:00+02:00"]
    );
}

#[test]
fn a_fixed_time_in_the_fold_runs_once_the_first_time() {
    assert_eq!(
        times("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
        ["10-25 02:30:00+02:00", "10-26 02:30:00+01:00"]
    );
    assert_eq!(
        times("0 2,3 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 3),
        ["10-25 02:00:00+02:00", "10-25 03:00:00+01:00", "10-26 02:00:00+01:00"]
    );
    assert_eq!(
        times("*/30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 3),
        ["10-25 02:00:00+02:00", "10-25 02:30:00+02:00", "10-26 02:00:00+01:00"]
    );
    // A look from within the second pass finds the next day.
    assert_eq!(times("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", 1), ["10-26 02:30:00+01:00"]);
}

#[test]
fn what_repeats_through_the_hour_follows_elapsed_time() {
    assert_eq!(
        times("*/20 * * * *", "Europe/Berlin", "2026-03-29T00:30:00Z", 3),
        ["03-29 01:40:00+01:00", "03-29 03:00:00+02:00", "03-29 03:20:00+02:00"]
    );
    let after = at("2026-10-24T23:59:00Z");
    for (expression, distance) in
        [("*/20 * * * *", 20), ("7-59/20 * * * *", 20), ("30 * * * *", 60), ("*/20 0-6 * * *", 20)]
    {
        let timetable = made(&cron(expression, "Europe/Berlin"));
        let instants: Vec<_> = timetable.after(after).take(9).map(|instant| instant.nominal).collect();
        let distances = instants.windows(2).map(|pair| pair[1].since(pair[0]));
        assert!(
            distances.clone().take(3).all(|found| found == seconds(distance * 60)),
            "{expression}: {instants:?}"
        );
    }
    let spec = TimetableSpec {
        every: Some(seconds(20 * 60)),
        time_zone: "Europe/Berlin".into(),
        ..TimetableSpec::default()
    };
    for day in ["2026-03-28T23:00:00Z", "2026-10-24T22:00:00Z"] {
        let timetable = made(&spec);
        let instants: Vec<_> = timetable.after(at(day)).take(20).map(|instant| instant.nominal).collect();
        assert!(instants.windows(2).all(|pair| pair[1].since(pair[0]) == seconds(20 * 60)));
    }
}

#[test]
fn a_range_of_hours_repeats_with_a_step_and_is_fixed_without() {
    // Polling at night goes on through both passes ...
    assert_eq!(
        times("*/30 0-6 * * *", "Europe/Berlin", "2026-10-24T23:50:00Z", 5),
        [
            "10-25 02:00:00+02:00",
            "10-25 02:30:00+02:00",
            "10-25 02:00:00+01:00",
            "10-25 02:30:00+01:00",
            "10-25 03:00:00+01:00"
        ]
    );
    // ... and no run is added after the gap.
    assert_eq!(
        times("5-59/30 0-6 * * *", "Europe/Berlin", "2026-03-29T00:30:00Z", 2),
        ["03-29 01:35:00+01:00", "03-29 03:05:00+02:00"]
    );
    // One time in each of these hours is a fixed time.
    assert_eq!(
        times("30 0-6 * * *", "Europe/Berlin", "2026-10-24T23:50:00Z", 2),
        ["10-25 02:30:00+02:00", "10-25 03:30:00+01:00"]
    );
    // The last hour of the range is no longer run through.
    assert_eq!(
        times("*/30 0-2 * * *", "Europe/Berlin", "2026-10-24T23:50:00Z", 3),
        ["10-25 02:00:00+02:00", "10-25 02:30:00+02:00", "10-26 00:00:00+01:00"]
    );
}

#[test]
fn midnight_in_santiago_runs_at_one_on_the_day_without_it() {
    assert_eq!(
        times("0 0 * * *", "America/Santiago", "2026-09-05T12:00:00Z", 2),
        ["09-06 01:00:00-03:00", "09-07 00:00:00-03:00"]
    );
    assert_eq!(times("@daily", "America/Santiago", "2026-09-05T12:00:00Z", 1), ["09-06 01:00:00-03:00"]);
    // In April the hour before midnight comes twice.
    assert_eq!(
        times("30 23 * * *", "America/Santiago", "2026-04-04T12:00:00Z", 2),
        ["04-04 23:30:00-03:00", "04-05 23:30:00-04:00"]
    );
    assert_eq!(
        times("0 0 * * *", "America/Santiago", "2026-04-04T12:00:00Z", 2),
        ["04-05 00:00:00-04:00", "04-06 00:00:00-04:00"]
    );
}

#[test]
fn lord_howe_shifts_by_half_an_hour() {
    assert_eq!(
        times("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", 2),
        ["10-04 02:30:00+11:00", "10-05 02:15:00+11:00"]
    );
    assert_eq!(
        times("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00:00Z", 2),
        ["04-05 01:45:00+11:00", "04-06 01:45:00+10:30"]
    );
    assert_eq!(
        times("*/10 * * * *", "Australia/Lord_Howe", "2026-10-03T15:15:00Z", 3),
        ["10-04 01:50:00+10:30", "10-04 02:30:00+11:00", "10-04 02:40:00+11:00"]
    );
    assert_eq!(
        times("*/10 * * * *", "Australia/Lord_Howe", "2026-04-04T14:35:00Z", 6),
        [
            "04-05 01:40:00+11:00",
            "04-05 01:50:00+11:00",
            "04-05 01:30:00+10:30",
            "04-05 01:40:00+10:30",
            "04-05 01:50:00+10:30",
            "04-05 02:00:00+10:30"
        ]
    );
}

#[test]
fn the_day_that_apia_skipped_runs_at_the_start_of_the_next() {
    // 30 December 2011 did not exist.
    let after = "2011-12-29T12:00:00Z";
    assert_eq!(
        times("0 12 * * *", "Pacific/Apia", after, 4),
        ["12-29 12:00:00-10:00", "12-31 00:00:00+14:00", "12-31 12:00:00+14:00", "01-01 12:00:00+14:00"]
    );
    // Midnight of the skipped day and of the next one are one run.
    assert_eq!(
        times("0 0 * * *", "Pacific/Apia", after, 2),
        ["12-31 00:00:00+14:00", "01-01 00:00:00+14:00"]
    );
    // That Friday's run.
    assert_eq!(
        times("0 9 * * FRI", "Pacific/Apia", after, 2),
        ["12-31 00:00:00+14:00", "01-06 09:00:00+14:00"]
    );
    assert_eq!(
        times("0 * * * *", "Pacific/Apia", "2011-12-30T08:30:00Z", 3),
        ["12-29 23:00:00-10:00", "12-31 00:00:00+14:00", "12-31 01:00:00+14:00"]
    );
    let spec = TimetableSpec {
        every: Some(seconds(6 * 3600)),
        time_zone: "Pacific/Apia".into(),
        ..TimetableSpec::default()
    };
    assert_eq!(
        local_times(&made(&spec), "2011-12-30T05:00:00Z", 3),
        ["12-29 20:00:00-10:00", "12-31 02:00:00+14:00", "12-31 08:00:00+14:00"]
    );
}

#[test]
fn a_fold_across_midnight_keeps_the_order_of_time() {
    // Until 2011 Newfoundland went from 00:01 back to 23:01 of the day before.
    let timetable = made(&cron("*/30 * * * *", "America/St_Johns"));
    assert_eq!(
        local_times(&timetable, "2010-11-07T01:55:00Z", 4),
        ["11-06 23:30:00-02:30", "11-07 00:00:00-02:30", "11-06 23:30:00-03:30", "11-07 00:00:00-03:30"]
    );
    assert_eq!(
        times("0 0 * * *", "America/St_Johns", "2010-11-06T12:00:00Z", 2),
        ["11-07 00:00:00-02:30", "11-08 00:00:00-03:30"]
    );
}

#[test]
fn instants_follow_the_rules_of_today_whatever_they_were_when_the_schedule_was_made() {
    let spec = cron("30 2 * * *", "");
    let summer_time = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
    let abolished = TimeZone::posix("CET-1").unwrap();
    let before = in_zone(&spec, summer_time);
    let after = in_zone(&spec, abolished);
    let noon = "2026-06-01T12:00:00Z";
    assert_eq!(local_times(&before, noon, 1), ["06-02 02:30:00+02:00"]);
    assert_eq!(local_times(&after, noon, 1), ["06-02 02:30:00+01:00"]);
    assert_eq!(after.next(at(noon)).unwrap().nominal, at("2026-06-02T01:30:00Z"));
    // The run of the night before keeps its instant, and is not found again by the new rules.
    let ran = before.latest(at("2026-06-01T00:00:00Z"), at(noon)).unwrap().nominal;
    assert_eq!(ran, at("2026-06-01T00:30:00Z"));
    assert_eq!(after.next(ran).unwrap().nominal, at("2026-06-01T01:30:00Z"));
}

#[test]
fn the_preview_tells_what_clocks_do() {
    let change = |expression, zone, at_instant| made(&cron(expression, zone)).clock_change(at(at_instant));
    let berlin = |expression, at_instant| change(expression, "Europe/Berlin", at_instant);
    let in_place = berlin("30 2 * * *", "2026-03-29T01:00:00Z").unwrap();
    assert_eq!(in_place, ClockChange::InPlaceOf("02:30".into()));
    assert_eq!(in_place.to_string(), "in place of 02:30, which clocks skip");
    assert_eq!(berlin("30 2 * * *", "2026-03-30T00:30:00Z"), None);
    assert_eq!(berlin("0 3 * * *", "2026-03-29T01:00:00Z"), None);
    assert_eq!(berlin("*/30 * * * *", "2026-03-29T01:00:00Z"), None);
    assert_eq!(berlin("30 2 * * *", "2026-10-25T00:30:00Z"), Some(ClockChange::FirstTime));
    assert_eq!(berlin("*/30 * * * *", "2026-10-25T01:30:00Z"), Some(ClockChange::SecondTime));
    assert_eq!(berlin("0 3 * * *", "2026-10-25T02:00:00Z"), None);
    assert_eq!(berlin("30 1 * * *", "2026-10-24T23:30:00Z"), None);
    assert_eq!(change("30 2 * * *", "", "2026-03-29T02:30:00Z"), None);
}
