//! The tables of `docs/schedules.md`: each row says what the code does.

use super::*;

const PAGE: &str = include_str!("../../../docs/schedules.md");

/// Returns the rows of the table that begins with a heading of columns.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let (_, table) = PAGE.split_once(heading).unwrap_or_else(|| panic!("no table {heading}"));
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let rows: Vec<Vec<String>> = rows
        .map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect())
        .collect();
    assert!(rows.len() > 5, "{heading} has {} rows", rows.len());
    rows
}

/// Returns the text in the first backticks of a cell.
fn code(cell: &str) -> Option<&str> {
    cell.split('`').nth(1)
}

fn instants(expression: &str) -> Result<Vec<Timestamp>, TimetableFault> {
    let timetable = Timetable::new(&cron(expression, ""), &Excluded::default(), at(MADE), 0)?;
    Ok(timetable.after(at(MADE)).take(200).map(|instant| instant.nominal).collect())
}

#[test]
fn the_examples_of_each_part_have_the_times_of_the_page() {
    for row in rows("| part | what it means | example | its times from 1 January 2026 on |") {
        let [_, _, example, times] = &row[..] else { panic!("{row:?}") };
        let expected: Vec<_> = times.split(", ").collect();
        let timetable = made(&cron(code(example).unwrap(), ""));
        let found = local_times(&timetable, "2025-12-31T23:59:59Z", expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{example}: {found}, and not {expected}");
        }
    }
}

#[test]
fn expressions_of_other_programs_become_what_the_page_says() {
    for row in rows("| program | there | here | as it stands |") {
        let [_, there, here, as_it_stands] = &row[..] else { panic!("{row:?}") };
        let here = code(here).filter(|here| here.contains(' ')).map(|here| instants(here).unwrap());
        let there = code(there).map(instants);
        match (as_it_stands.as_str(), there) {
            ("the same", Some(there)) => assert_eq!(Some(there.unwrap()), here, "{row:?}"),
            ("other times", Some(there)) => assert_ne!(Some(there.unwrap()), here, "{row:?}"),
            ("refused", Some(there)) => assert!(there.is_err(), "{row:?}"),
            ("no expression", None) => {}
            _ => panic!("{row:?} says something else"),
        }
    }
}

#[test]
fn runs_of_a_day_are_those_of_the_page() {
    for row in rows("| expression | zone | day | runs |") {
        let [expression, zone, day, runs] = &row[..] else { panic!("{row:?}") };
        let timetable = made(&cron(code(expression).unwrap(), zone));
        let noon_before =
            Timestamp::from_micros(at(&format!("{day}T12:00:00Z")).as_micros() - 48 * 3_600_000_000);
        let of_day = timetable.after(noon_before).take(300).map(|instant| timetable.local(instant.nominal));
        let of_day = of_day.filter(|local| local.starts_with(day.as_str()));
        // Without the date and the seconds.
        let found: Vec<_> = of_day.map(|local| format!("{}{}", &local[11..16], &local[19..])).collect();
        assert_eq!(found.join(", "), *runs, "{row:?}");
    }
}

#[test]
fn the_faults_of_the_page_are_those_of_the_code() {
    let faults: Vec<_> =
        PAGE.lines().filter(|line| line.starts_with('`') && line.contains(", character ")).collect();
    assert!(!faults.is_empty());
    for line in faults {
        assert_eq!(fault(&cron(code(line).unwrap(), "")).problem, line);
    }
}
