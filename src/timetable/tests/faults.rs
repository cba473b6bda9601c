//! What is refused, and what the refusal says.

use proptest::prelude::*;

use super::*;
use crate::timetable::{CRONS_MAX, EVERY_MAX};

/// Asserts that an expression is refused at a character (from 1), with words about what was expected and what was found.
#[track_caller]
fn refused(expression: &str, character: usize, expected: &str, found: &str) {
    let fault = fault(&cron(expression, ""));
    assert_eq!(fault.field, "crons");
    let problem = fault.problem;
    let start = format!("`{}`, character {character}: expected ", expression.escape_debug());
    assert!(problem.starts_with(&start), "{problem}");
    assert!(problem.contains(expected), "{problem}");
    assert!(problem.ends_with(&format!("; found {found}")), "{problem}");
}

#[test]
fn a_fault_in_an_expression_has_its_position_and_what_was_expected() {
    refused("0 25 * * *", 3, "hours: 0-23, `*`, a range or a step", "`25`");
    refused("60 * * * *", 1, "minutes: 0-59", "`60`");
    refused("99999999999999999999 * * * *", 1, "minutes: 0-59", "`99999999999999999999`");
    refused("0 0 0 * *", 5, "days of the month: 1-31, `L`", "`0`");
    refused("0 0 32 * *", 5, "days of the month: 1-31", "`32`");
    refused("0 0 1 13 *", 7, "months: 1-12 or JAN-DEC", "`13`");
    refused("0 0 1 JANUARY *", 7, "months: 1-12 or JAN-DEC", "`JANUARY`");
    refused("0 0 * * MOON", 9, "days of the week: 0-7 or SUN-SAT", "`MOON`");
    refused("0 0 * * MONDAY", 9, "days of the week: 0-7 or SUN-SAT", "`MONDAY`");
    refused("0 0 * * 8", 9, "days of the week: 0-7", "`8`");
    refused("0 5,,6 * * *", 5, "hours: 0-23", "`,`");
    refused("0 5, * * *", 5, "hours: 0-23", "the end of the field");
    refused("0 ,5 * * *", 3, "hours: 0-23", "`,`");
    refused("0 5- * * *", 5, "hours: 0-23", "the end of the field");
    refused("0 5-7-9 * * *", 6, "`,` or the end of the field", "`-9`");
    refused("0 5x * * *", 4, "`,` or the end of the field", "`x`");
    refused("0 ** * * *", 4, "`,` or the end of the field", "`*`");
    refused("0 -5 * * *", 3, "hours: 0-23", "`-5`");
    refused("0 ? * * *", 3, "hours: 0-23", "`?`");
    refused("0 0 * * ,", 9, "days of the week", "`,`");
    refused("0 0 * * 5,", 11, "days of the week", "the end");
    refused("0 0 é * *", 5, "days of the month", "`é`");
    refused("é 0 0 * * x", 1, "seconds: 0-59", "`é`");
    refused("0 0 * * \u{202e}", 9, "days of the week", "`\\u{202e}`");
}

#[test]
fn a_step_is_one_or_more_and_stays_within_its_field() {
    refused("*/0 * * * *", 3, "a step of 1-59", "`0`");
    refused("*/ * * * *", 3, "a step of 1-59", "the end of the field");
    refused("*/x * * * *", 3, "a step of 1-59", "`x`");
    refused("/5 * * * *", 1, "minutes: 0-59", "`/5`");
    refused("*/90 * * * *", 3, "for a longer distance give `every`", "`90`");
    refused("0 */36 * * *", 5, "a step counts within the hours and begins anew", "`36`");
}

#[test]
fn a_range_goes_upward_and_the_fault_says_what_to_write() {
    refused("0 22-2 * * *", 3, "write `22-23,0-2`", "`22-2`");
    refused("0 0 * * FRI-MON", 9, "write `FRI-SAT,SUN-MON`", "`FRI-MON`");
    refused("0 0 * * 6-0", 9, "write `SAT,SUN`", "`6-0`");
    refused("0 0 1 NOV-FEB *", 7, "write `NOV-DEC,JAN-FEB`", "`NOV-FEB`");
    refused("0 0 30-2 * *", 5, "write `30-31,1-2`", "`30-2`");
}

#[test]
fn special_days_stand_alone_in_an_item() {
    refused("0 0 L-0 * *", 7, "how many days before the month's last day, 1-30", "`0`");
    refused("0 0 L-31 * *", 7, "1-30", "`31`");
    refused("0 0 L- * *", 7, "1-30", "the end of the field");
    refused("0 0 W * *", 5, "`15W` is the working day nearest to the 15th", "`W`");
    refused("0 0 1-5W * *", 5, "one day before `W`", "`1-5W`");
    refused("0 0 1,LL * *", 8, "`,` or the end of the field", "`L`");
    refused("0 0 * * MON-FRI#2", 9, "one weekday before `#` or `L`, such as `FRI#2`", "`MON-FRI#2`");
    refused("0 0 * * FRI#6", 13, "which one of the month, 1-5, or `L`", "`6`");
    refused("0 0 * * FRI#0", 13, "which one of the month, 1-5", "`0`");
    refused("0 0 * * FRI#", 13, "which one of the month, 1-5", "the end");
    refused("0 0 * L *", 7, "months: 1-12", "`L`");
    refused("0 L * * *", 3, "hours: 0-23", "`L`");
}

#[test]
fn l_alone_among_the_weekdays_is_refused_since_programs_disagree_on_it() {
    refused(
        "0 0 * * L",
        9,
        "`L` alone is Saturday in Quartz and nothing in cron: write `SAT`, or `FRI#L`",
        "`L`",
    );
}

#[test]
fn quartz_numbers_of_weekdays_are_refused_beside_its_question_mark() {
    refused("0 0 12 ? * 2-6", 12, "in Quartz, weekdays are numbered from 1 (SUN), and here from 0", "`2-6`");
    assert_eq!(
        times("0 0 12 ? * MON-FRI", "", "2026-01-01T13:00:00Z", 2),
        ["01-02 12:00:00+00:00", "01-05 12:00:00+00:00"]
    );
    assert_eq!(times("0 0 12 1 * ?", "", MADE, 1), ["01-01 12:00:00+00:00"]);
}

#[test]
fn the_number_of_fields_is_told() {
    refused("", 1, "five or six fields, such as `30 2 * * *`", "nothing");
    refused("   ", 1, "five or six fields", "nothing");
    refused("* * * *", 8, "five fields (minute, hour, day of month, month, day of week)", "the end after 4");
    refused("0 0 12 * * ? 2027", 14, "there is no field for years: give a start and an end", "`2027`");
    refused("1 2 3 4 5 6 7 8", 13, "the end after six fields", "8 fields");
}

#[test]
fn other_nicknames_are_refused_with_the_way_out() {
    refused("@every 10s", 1, "give it as `every`", "`@every`");
    refused("@reboot", 1, "a schedule does not run at a start", "`@reboot`");
    refused(" @fortnightly", 2, "@yearly, @annually, @monthly", "`@fortnightly`");
}

#[test]
fn expressions_are_bounded_in_length_and_number() {
    let long = fault(&cron(&format!("{} 0 * * *", "1,".repeat(200)), ""));
    assert!(long.problem.contains("at most 256"), "{long}");
    let crons = vec!["* * * * *".to_owned(); CRONS_MAX + 1];
    let many = fault(&TimetableSpec { crons, ..TimetableSpec::default() });
    assert_eq!((many.field, &*many.problem), ("crons", "33 expressions are too many: at most 32"));
    let crons = vec!["* * * * *".to_owned(); CRONS_MAX];
    made(&TimetableSpec { crons, ..TimetableSpec::default() });
}

#[test]
fn a_schedule_without_times_is_refused() {
    let none = fault(&TimetableSpec::default());
    assert_eq!(none.field, "crons");
    assert!(none.problem.contains("`every`"), "{none}");
}

#[test]
fn an_expression_that_never_comes_is_refused() {
    for expression in [
        "0 0 30 2 *",
        "0 0 31 4,6,9,11 *",
        "0 0 L-30 2,4 *",
        "0 0 30W 2 *",
        "0 0 31 2-4/2 *",
        "0 0 8 * +MON#1",
    ] {
        let spec = TimetableSpec { every: Some(seconds(60)), ..cron(expression, "") };
        let fault = fault(&spec);
        assert_eq!(fault.field, "crons");
        assert!(fault.problem.starts_with(&format!("`{expression}` never comes: no month")), "{fault}");
    }
}

#[test]
fn a_schedule_whose_end_is_before_its_first_time_is_refused() {
    let ended = fault(&TimetableSpec { end: Some(at("2026-02-28T00:00:00Z")), ..cron("0 0 1 3 *", "") });
    assert_eq!(ended.field, "end_time");
    assert_eq!(
        ended.problem,
        "2026-02-28 00:00:00+00:00 is before the schedule's first time, 2026-03-01 00:00:00+00:00"
    );
}

#[test]
fn an_end_before_the_start_is_refused() {
    let start = at("2026-02-01T00:00:00Z");
    let spec = |end: &str| TimetableSpec { start: Some(start), end: Some(at(end)), ..cron("0 0 * * *", "") };
    let fault = fault(&spec("2026-01-31T23:59:59Z"));
    assert_eq!(fault.field, "end_time");
    assert_eq!(fault.problem, "2026-01-31T23:59:59Z is before the start, 2026-02-01T00:00:00Z");
    // A schedule of one instant.
    Timetable::new(&spec("2026-02-01T00:00:00Z"), &Excluded::default(), start, 0).unwrap();
}

#[test]
fn a_schedule_whose_times_are_all_excluded_is_refused() {
    let spec = TimetableSpec { end: Some(at("2030-01-01T00:00:00Z")), ..cron("0 9 25 12 *", "") };
    let holidays = excluded(&["2026-12-25", "2027-12-24..2027-12-26", "2028-12-25", "2029-12-25"]);
    let fault = Timetable::new(&spec, &holidays, at(MADE), 0).unwrap_err();
    assert_eq!(fault.field, "exclude");
    assert!(fault.problem.contains("from 2026-12-25 09:00:00+00:00 on, fall on excluded dates"), "{fault}");
    let always = excluded(&["2000-01-01..2200-01-01"]);
    for spec in
        [cron("* * * * * *", ""), TimetableSpec { every: Some(seconds(1)), ..TimetableSpec::default() }]
    {
        assert_eq!(Timetable::new(&spec, &always, at(MADE), 0).unwrap_err().field, "exclude");
    }
}

#[test]
fn a_distance_is_from_one_second_to_ten_years() {
    let every = |every| TimetableSpec { every: Some(every), ..TimetableSpec::default() };
    for bad in
        [Duration::ZERO, Duration::from_millis(999), EVERY_MAX + Duration::from_micros(1), Duration::MAX]
    {
        let fault = fault(&every(bad));
        assert_eq!(fault.field, "every");
        assert!(fault.problem.ends_with("is out of range: from 1 s to 3660 d"), "{fault}");
    }
    made(&every(seconds(1)));
    made(&every(EVERY_MAX));
}

#[test]
fn an_unknown_zone_is_refused_by_its_field() {
    let fault = fault(&cron("0 0 * * *", "Europe/Berln"));
    assert_eq!(fault.field, "time_zone");
    assert!(fault.problem.contains("Europe/Berlin"), "{fault}");
}

#[test]
fn jitter_longer_than_the_shortest_distance_is_refused_with_the_two_times() {
    let jitter = |jitter, spec| TimetableSpec { jitter: Some(jitter), ..spec };
    let spec =
        TimetableSpec { crons: vec!["0 9 * * *".into(), "30 9 * * FRI".into()], ..TimetableSpec::default() };
    let half_an_hour = seconds(30 * 60);
    made(&jitter(half_an_hour, spec.clone()));
    let fault = fault(&jitter(half_an_hour + Duration::from_micros(1), spec));
    assert_eq!(fault.field, "jitter");
    assert!(
        fault.problem.contains(
            "two times of the schedule, 30 min (from 2026-01-02 09:00:00+00:00 to 2026-01-02 09:30:00+00:00)"
        ),
        "{fault}"
    );
    let every = TimetableSpec { every: Some(seconds(10)), ..TimetableSpec::default() };
    made(&jitter(seconds(10), every.clone()));
    assert_eq!(super::fault(&jitter(seconds(11), every.clone())).field, "jitter");
    assert_eq!(super::fault(&jitter(Duration::MAX, every)).field, "jitter");
    // A schedule of one instant may be as late as it likes.
    let once = TimetableSpec { end: Some(at("2027-01-02T00:00:00Z")), ..cron("0 0 1 1 *", "") };
    made(&jitter(seconds(90 * 86_400), once));
}

#[test]
fn all_faults_are_told_at_once() {
    let spec = TimetableSpec {
        crons: ["0 25 * * *", "@daily", "0 0 32 * *"].map(str::to_owned).to_vec(),
        every: Some(Duration::ZERO),
        time_zone: "Nowhere".into(),
        start: Some(at("2026-02-01T00:00:00Z")),
        end: Some(at("2026-01-01T00:00:00Z")),
        jitter: None,
    };
    let faults = Timetable::checked(&spec, &Excluded::default(), at(MADE), 0).unwrap_err();
    let fields: Vec<_> = faults.iter().map(|fault| fault.field).collect();
    assert_eq!(fields, ["crons", "crons", "every", "time_zone", "end_time"]);
    assert_eq!(Timetable::new(&spec, &Excluded::default(), at(MADE), 0).unwrap_err(), faults[0]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Text that is close to an expression, and text that is not.
    #[test]
    fn any_text_is_an_expression_or_a_fault_at_one_of_its_characters(
        text in prop_oneof!["[0-9*/,#LW?+@a-zA-Z -]{0,30}", "([0-9*?L+/-]{1,4}(,|#|W|L)?([0-9L]{0,2})? ){4,7}", "\\PC{0,40}"]
    ) {
        if let Err(problem) = crate::timetable::parse::parse(&text) {
            prop_assert!(problem.contains("expected ") && problem.contains("; found "), "{}", problem);
            let (_, place) = problem.split_once("`, character ").unwrap();
            let character: usize = place.split(':').next().unwrap().parse().unwrap();
            prop_assert!((1..=text.chars().count() + 1).contains(&character), "{}", problem);
            prop_assert!(problem.len() < 1_500, "{}", problem);
        }
    }
}

#[test]
fn an_accepted_schedule_compiles_after_its_end() {
    let spec = TimetableSpec { end: Some(at("2026-02-28T00:00:00Z")), ..cron("0 0 1 3 *", "") };
    let timetable = Timetable::compile(&spec, &Excluded::default(), at(MADE), 0).unwrap();
    assert_eq!(timetable.next(at(MADE)), None);
}
