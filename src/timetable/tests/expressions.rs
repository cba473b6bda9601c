//! What expressions mean. In 2026, January began on a Thursday.

use super::*;

const START: &str = "2026-01-01T00:00:00Z";

#[test]
fn five_fields_are_minute_hour_day_month_and_weekday() {
    assert_eq!(times("30 2 * * *", "", START, 2), ["01-01 02:30:00+00:00", "01-02 02:30:00+00:00"]);
    assert_eq!(times("5 4 3 2 *", "", START, 2), ["02-03 04:05:00+00:00", "02-03 04:05:00+00:00"]);
    assert_eq!(times("  5\t4  3 2 * ", "", START, 1), ["02-03 04:05:00+00:00"]);
}

#[test]
fn a_sixth_field_before_the_others_is_the_second() {
    assert_eq!(
        times("*/20 30 2 * * *", "", START, 4),
        ["01-01 02:30:00+00:00", "01-01 02:30:20+00:00", "01-01 02:30:40+00:00", "01-02 02:30:00+00:00"]
    );
}

#[test]
fn lists_ranges_and_steps_combine() {
    let minutes = |field: &str| {
        let times = times(&format!("{field} 0 1 1 *"), "", "2026-12-31T00:00:00Z", 60);
        let of_hour = times.iter().filter(|time| time.starts_with("01-01 00:"));
        let mut minutes: Vec<u32> = of_hour.map(|time| time[9..11].parse().unwrap()).collect();
        // The years after repeat it.
        minutes.sort_unstable();
        minutes.dedup();
        minutes
    };
    assert_eq!(minutes("7"), [7]);
    assert_eq!(minutes("07"), [7]);
    assert_eq!(minutes("30,7,7"), [7, 30]);
    assert_eq!(minutes("7-10"), [7, 8, 9, 10]);
    assert_eq!(minutes("7-7"), [7]);
    assert_eq!(minutes("*/20"), [0, 20, 40]);
    assert_eq!(minutes("5-30/10"), [5, 15, 25]);
    assert_eq!(minutes("45/5"), [45, 50, 55]);
    assert_eq!(minutes("1,10-12,50-59/4"), [1, 10, 11, 12, 50, 54, 58]);
    assert_eq!(minutes("*/7").last(), Some(&56));
}

#[test]
fn names_of_months_and_weekdays_are_read_in_any_case() {
    assert_eq!(dates("0 0 1 JAN,jul *", START, 2), ["07-01", "01-01"]);
    assert_eq!(dates("0 0 1 Feb-Apr *", START, 3), ["02-01", "03-01", "04-01"]);
    assert_eq!(dates("0 0 * * mon", START, 2), ["01-05", "01-12"]);
    assert_eq!(dates("0 0 * * MON-Wed", START, 4), ["01-05", "01-06", "01-07", "01-12"]);
}

#[test]
fn seven_is_sunday_as_zero_is() {
    for field in ["7", "0", "SUN", "0,7"] {
        assert_eq!(dates(&format!("0 0 * * {field}"), START, 2), ["01-04", "01-11"]);
    }
    for field in ["5-7", "FRI-SUN", "FRI-7"] {
        assert_eq!(dates(&format!("0 0 * * {field}"), START, 4), ["01-02", "01-03", "01-04", "01-09"]);
    }
    for field in ["0-2", "SUN-TUE"] {
        assert_eq!(dates(&format!("0 0 * * {field}"), START, 4), ["01-04", "01-05", "01-06", "01-11"]);
    }
    assert_eq!(dates("0 0 * * 7#1", START, 2), ["01-04", "02-01"]);
    assert_eq!(dates("0 0 * * 7L", START, 2), ["01-25", "02-22"]);
    assert_eq!(dates("0 0 * * */2", START, 4), ["01-03", "01-04", "01-06", "01-08"]);
}

#[test]
fn nicknames_stand_for_five_fields() {
    let same = [
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("@monthly", "0 0 1 * *"),
        ("@weekly", "0 0 * * 0"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@Hourly ", "0 * * * *"),
    ];
    for (nickname, fields) in same {
        assert_eq!(times(nickname, "", START, 3), times(fields, "", START, 3), "{nickname}");
    }
}

#[test]
fn l_is_the_last_day_of_the_month() {
    assert_eq!(dates("0 0 L * *", START, 4), ["01-31", "02-28", "03-31", "04-30"]);
    assert_eq!(dates("0 0 L 12 *", START, 1), ["12-31"]);
    assert_eq!(dates("0 0 L 2 *", "2028-01-01T00:00:00Z", 1), ["02-29"]);
    assert_eq!(dates("0 0 15,L * *", START, 3), ["01-15", "01-31", "02-15"]);
}

#[test]
fn l_minus_three_is_three_days_before_the_last() {
    assert_eq!(dates("0 0 L-3 * *", START, 4), ["01-28", "02-25", "03-28", "04-27"]);
    assert_eq!(dates("0 0 L-3,L * *", START, 3), ["01-28", "01-31", "02-25"]);
    // In a shorter month there is no such day.
    assert_eq!(dates("0 0 L-30 * *", "2026-01-02T00:00:00Z", 2), ["03-01", "05-01"]);
}

#[test]
fn w_is_the_nearest_working_day_of_the_same_month() {
    // 15 August is a Saturday, 15 March and 15 November are Sundays.
    assert_eq!(dates("0 0 15W 3,4,8,11 *", START, 4), ["03-16", "04-15", "08-14", "11-16"]);
    // 1 August is a Saturday, 1 February a Sunday.
    assert_eq!(dates("0 0 1W 2,8 *", START, 2), ["02-02", "08-03"]);
    // 31 January is a Saturday, 31 May a Sunday; April has no 31st.
    assert_eq!(dates("0 0 31W 1,4,5 *", START, 2), ["01-30", "05-29"]);
    assert_eq!(dates("0 0 1W,15w 8 *", START, 2), ["08-03", "08-14"]);
}

#[test]
fn lw_is_the_last_working_day() {
    assert_eq!(dates("0 0 LW * *", START, 5), ["01-30", "02-27", "03-31", "04-30", "05-29"]);
    // 28 March, three days before the last, is a Saturday.
    assert_eq!(dates("0 0 L-3W * *", START, 3), ["01-28", "02-25", "03-27"]);
    // `L` beside it keeps its own meaning.
    assert_eq!(dates("0 0 LW,L * *", START, 4), ["01-30", "01-31", "02-27", "02-28"]);
}

#[test]
fn a_hash_is_the_nth_weekday_of_the_month() {
    assert_eq!(dates("0 0 * * FRI#2", START, 3), ["01-09", "02-13", "03-13"]);
    assert_eq!(dates("0 0 * * 5#2", START, 3), ["01-09", "02-13", "03-13"]);
    assert_eq!(dates("0 0 * * THU#1,MON#3", START, 3), ["01-19", "02-05", "02-16"]);
    // February, March and April have four Thursdays each or five.
    assert_eq!(dates("0 0 * * THU#5", START, 3), ["01-29", "04-30", "07-30"]);
}

#[test]
fn fri_hash_l_and_fri_l_are_the_last_friday() {
    for field in ["FRI#L", "FRIL", "5L", "5#L", "fri#l"] {
        assert_eq!(dates(&format!("0 0 * * {field}"), START, 3), ["01-30", "02-27", "03-27"], "{field}");
        assert_eq!(dates(&format!("0 0 * 12 {field}"), START, 1), ["12-25"], "{field}");
    }
    assert_eq!(dates("0 0 * * MON,FRI#L", "2026-01-26T12:00:00Z", 3), ["01-30", "02-02", "02-09"]);
}

#[test]
fn of_two_restricted_day_fields_either_is_enough() {
    assert_eq!(dates("0 0 13 * FRI", START, 5), ["01-02", "01-09", "01-13", "01-16", "01-23"]);
    assert_eq!(dates("0 0 1-7 * MON", START, 7).last().unwrap(), "01-12");
}

#[test]
fn a_day_field_that_begins_with_a_star_restricts_the_other() {
    // As in Vixie's cron: odd days that are Mondays.
    assert_eq!(dates("0 0 */2 * MON", START, 4), ["01-05", "01-19", "02-09", "02-23"]);
    assert_eq!(dates("0 0 1-7 * */6", START, 3), ["01-03", "01-04", "02-01"]);
    assert_eq!(dates("0 0 * * MON", START, 2), ["01-05", "01-12"]);
    assert_eq!(dates("0 0 13 * *", START, 2), ["01-13", "02-13"]);
    assert_eq!(dates("0 0 ? * MON", START, 2), ["01-05", "01-12"]);
    assert_eq!(dates("0 0 13 * ?", START, 2), ["01-13", "02-13"]);
}

#[test]
fn a_plus_before_the_weekdays_asks_for_both() {
    assert_eq!(dates("0 0 13 * +FRI", START, 3), ["02-13", "03-13", "11-13"]);
    assert_eq!(dates("0 0 L * +MON-FRI", START, 3), ["03-31", "04-30", "06-30"]);
}

#[test]
fn a_leap_day_is_found_across_a_year_without_one() {
    assert_eq!(dates("0 0 29 2 *", START, 1), ["02-29"]);
    let timetable = made(&cron("0 0 29 2 *", ""));
    assert_eq!(timetable.next(at("2096-03-01T00:00:00Z")).unwrap().nominal, at("2104-02-29T00:00:00Z"));
    // 29 February as a Monday, 40 years away across 2100.
    let timetable = made(&cron("0 0 29 2 +MON", ""));
    assert_eq!(timetable.next(at("2072-02-29T00:00:00Z")).unwrap().nominal, at("2112-02-29T00:00:00Z"));
}

#[test]
fn several_expressions_are_one_schedule_that_runs_once_where_they_meet() {
    let spec = TimetableSpec {
        crons: ["0 6 * * *", "0 */6 * * *", "30 6 * * *"].map(str::to_owned).to_vec(),
        ..TimetableSpec::default()
    };
    let hours = local_times(&made(&spec), START, 6);
    let hours: Vec<_> = hours.iter().map(|time| &time[..11]).collect();
    assert_eq!(
        hours,
        ["01-01 06:00", "01-01 06:30", "01-01 12:00", "01-01 18:00", "01-02 00:00", "01-02 06:00"]
    );
}

#[test]
fn every_counts_from_its_fixed_start_and_does_not_drift() {
    let spec = TimetableSpec { every: Some(seconds(10)), ..TimetableSpec::default() };
    let anchor = at("2026-01-01T00:00:03.25Z");
    let timetable = Timetable::new(&spec, &Excluded::default(), anchor, 0).unwrap();
    let next = |after: &str| timetable.next(at(after)).unwrap().nominal;
    assert_eq!(next("2026-01-01T00:00:03.25Z"), at("2026-01-01T00:00:13.25Z"));
    // However late the look is, and years later, its instants are those of the first day.
    assert_eq!(next("2026-01-01T00:00:19Z"), at("2026-01-01T00:00:23.25Z"));
    assert_eq!(next("2031-06-01T12:00:00Z"), at("2031-06-01T12:00:03.25Z"));
    // A backfill may reach behind the start.
    assert_eq!(next("2025-12-31T23:59:59Z"), at("2026-01-01T00:00:03.25Z"));
    assert_eq!(next("2025-12-31T23:59:43.25Z"), at("2025-12-31T23:59:53.25Z"));
}

#[test]
fn every_may_stand_beside_expressions() {
    let spec = TimetableSpec { every: Some(seconds(45 * 60)), ..cron("0 * * * *", "") };
    let times = local_times(&made(&spec), START, 5);
    let times: Vec<_> = times.iter().map(|time| &time[6..11]).collect();
    assert_eq!(times, ["00:45", "01:00", "01:30", "02:00", "02:15"]);
}
