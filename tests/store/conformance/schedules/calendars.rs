//! Calendars: dates that several schedules leave out.

use jobmill::{
    engine::{CalendarAction, ScheduleAction, ScheduleRefusal},
    settings::{Overlap, ScheduleSettings},
    timetable::DateRange,
};

use crate::store::{
    batch::{Control, ControlDone},
    build::{at, request},
    rig::Rig,
    schedules::{every, overlapping, second_of},
};

both_stores!(
    a_schedule_leaves_out_the_dates_of_its_calendars_and_its_own,
    a_changed_calendar_moves_the_next_instants_of_its_schedules,
    a_calendar_changed_just_before_a_crash_holds,
    a_calendar_in_use_cannot_be_deleted,
    a_schedule_with_an_unknown_calendar_is_refused,
    a_calendar_is_created_updated_and_deleted,
    a_repeated_change_of_a_calendar_changes_nothing,
);

const DAY: i64 = 24 * 3_600;

// The tests begin at 2023-11-14T22:13:20Z, so that the first instant of a daily schedule is on the 15th.
fn dates(dates: &[&str]) -> Vec<DateRange> {
    dates.iter().map(|date| date.parse().unwrap()).collect()
}

fn daily(calendars: &[&str]) -> ScheduleSettings {
    let mut settings = overlapping(Overlap::Allow, every(DAY as u64));
    settings.times.calendars = calendars.iter().map(|name| (*name).to_owned()).collect();
    settings
}

fn next(rig: &Rig) -> Option<i64> {
    rig.info().run.next.map(|next| second_of(next.nominal) / DAY)
}

fn a_schedule_leaves_out_the_dates_of_its_calendars_and_its_own(rig: &mut Rig) {
    rig.calendar("a", CalendarAction::Create(dates(&["2023-11-15"]))).unwrap();
    rig.calendar("b", CalendarAction::Create(dates(&["2023-11-17..2023-11-18"]))).unwrap();
    let mut settings = daily(&["a", "b"]);
    settings.times.excluded = dates(&["2023-11-20"]);
    rig.schedule(settings);
    let mut days = Vec::new();
    for day in 1..=8 {
        days = rig.comes(day * DAY);
    }
    assert_eq!(days.iter().map(|second| second / DAY).collect::<Vec<_>>(), [2, 5, 7, 8]);
}

fn a_changed_calendar_moves_the_next_instants_of_its_schedules(rig: &mut Rig) {
    rig.calendar("a", CalendarAction::Create(dates(&["2023-11-15..2023-11-20"]))).unwrap();
    rig.schedule(daily(&["a"]));
    assert_eq!(next(rig), Some(7));
    let update = |text| CalendarAction::Update { dates: dates(&[text]), etag: None };
    rig.calendar("a", update("2023-11-16")).unwrap();
    rig.settle();
    assert_eq!(next(rig), Some(1), "an instant comes earlier");
    rig.calendar("a", update("2023-11-15")).unwrap();
    rig.settle();
    assert_eq!(next(rig), Some(2), "and later");
}

fn a_calendar_changed_just_before_a_crash_holds(rig: &mut Rig) {
    rig.calendar("a", CalendarAction::Create(dates(&["2023-11-15..2023-11-20"]))).unwrap();
    rig.schedule(daily(&["a"]));
    rig.calendar("a", CalendarAction::Update { dates: Vec::new(), etag: None }).unwrap();
    rig.crash();
    rig.settle();
    assert_eq!(next(rig), Some(1));
}

fn a_calendar_in_use_cannot_be_deleted(rig: &mut Rig) {
    rig.calendar("a", CalendarAction::Create(Vec::new())).unwrap();
    rig.schedule(daily(&["a"]));
    rig.crash();
    let refusal = rig.calendar("a", CalendarAction::Delete).unwrap_err();
    assert_eq!(refusal, ScheduleRefusal::CalendarInUse { calendar: "a".into(), schedules: 1 }.into());
    rig.change("s", ScheduleAction::Delete).unwrap();
    rig.calendar("a", CalendarAction::Delete).unwrap();
    assert!(rig.reader().calendars().unwrap().is_empty());
}

fn a_schedule_with_an_unknown_calendar_is_refused(rig: &mut Rig) {
    rig.queue("q", 1);
    let refusal = rig.change("s", ScheduleAction::Create(Box::new(daily(&["holidays"])))).unwrap_err();
    assert!(refusal.to_string().contains("no calendar is named `holidays`"), "{refusal}");
}

fn a_calendar_is_created_updated_and_deleted(rig: &mut Rig) {
    let unsorted = dates(&["2024-01-01", "2023-12-25", "2023-12-25"]);
    let ControlDone::Calendar(done) = rig.calendar("a", CalendarAction::Create(unsorted)).unwrap() else {
        panic!("a calendar")
    };
    let made = done.calendar.unwrap();
    assert_eq!(made.dates, dates(&["2023-12-25", "2024-01-01"]));
    let again = rig.calendar("a", CalendarAction::Create(Vec::new())).unwrap_err();
    assert_eq!(again, ScheduleRefusal::CalendarExists("a".into()).into());
    rig.until(at(1));
    let etag = Some(made.etag());
    rig.calendar("a", CalendarAction::Update { dates: Vec::new(), etag: etag.clone() }).unwrap();
    rig.crash();
    let present = rig.reader().calendars().unwrap().remove(0);
    assert_eq!(present.dates, []);
    let refusal = rig.calendar("a", CalendarAction::Update { dates: Vec::new(), etag }).unwrap_err();
    let calendar = "a".to_owned();
    assert_eq!(refusal, ScheduleRefusal::CalendarEtagMismatch { calendar, etag: present.etag() }.into());
    for action in [CalendarAction::Delete, CalendarAction::Update { dates: Vec::new(), etag: None }] {
        assert_eq!(
            rig.calendar("x", action).unwrap_err(),
            ScheduleRefusal::CalendarNotFound("x".into()).into()
        );
    }
}

fn a_repeated_change_of_a_calendar_changes_nothing(rig: &mut Rig) {
    let create = || {
        let action = CalendarAction::Create(dates(&["2023-12-25"]));
        let control = Control::Calendar { name: "a".into(), action };
        Control::Repeatable(request("id", "x"), Box::new(control))
    };
    rig.control(create()).unwrap();
    rig.crash();
    let ControlDone::Calendar(done) = rig.control(create()).unwrap() else { panic!("a calendar") };
    assert!(done.is_repeat && done.calendar.is_some());
}
