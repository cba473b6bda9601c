//! Schedules and calendars that the configuration file declares.

use jobmill::{
    engine::{CalendarAction, ScheduleAction, ScheduleRefusal},
    settings::Overlap,
};

use crate::store::{
    build::{at, settings},
    rig::Rig,
    schedules::{every, overlapping, whole},
};

both_stores!(
    a_declared_schedule_runs_and_is_changed_only_by_its_declaration,
    a_start_with_the_same_declaration_moves_nothing,
    a_changed_declaration_counts_from_the_start,
    what_leaves_the_file_is_deleted,
    the_pause_of_a_declared_schedule_survives_restarts,
    a_schedule_made_over_the_api_can_be_declared_later,
    a_declared_calendar_that_leaves_the_file_goes_with_its_schedules,
);

fn declare(rig: &mut Rig, seconds: u64) {
    rig.setup.declared_queues.insert("q".into(), settings(10, 100));
    rig.setup.schedules.declared.insert("s".into(), overlapping(Overlap::Allow, every(seconds)));
}

fn a_declared_schedule_runs_and_is_changed_only_by_its_declaration(rig: &mut Rig) {
    declare(rig, 10);
    rig.crash();
    assert!(rig.info().declared);
    assert_eq!(rig.comes(10), [10]);
    for action in [whole(every(20)), ScheduleAction::Delete] {
        assert_eq!(rig.change("s", action).unwrap_err(), ScheduleRefusal::Declared("s".into()).into());
    }
    rig.change("s", ScheduleAction::Trigger(String::new())).unwrap();
}

fn a_start_with_the_same_declaration_moves_nothing(rig: &mut Rig) {
    declare(rig, 10);
    rig.crash();
    let first = rig.info();
    rig.until(at(7));
    rig.crash();
    rig.settle();
    assert_eq!(rig.info(), first);
    rig.comes(10);
    rig.until(at(13));
    rig.crash();
    assert_eq!(rig.comes(20), [10, 20]);
}

fn a_changed_declaration_counts_from_the_start(rig: &mut Rig) {
    declare(rig, 10);
    rig.crash();
    rig.comes(10);
    declare(rig, 100);
    rig.until(at(15));
    rig.crash();
    let info = rig.info();
    assert_eq!((info.generation, info.since), (2, at(15)));
    assert_eq!(rig.comes(115), [10, 115]);
}

fn what_leaves_the_file_is_deleted(rig: &mut Rig) {
    declare(rig, 10);
    rig.crash();
    rig.change("t", ScheduleAction::Create(Box::new(every(1_000)))).unwrap();
    rig.setup.schedules.declared.clear();
    rig.crash();
    assert_eq!(rig.reader().schedule("s").unwrap(), None);
    assert_eq!(rig.comes(100), Vec::<i64>::new());
    assert!(rig.reader().schedule("t").unwrap().is_some(), "what was made over the API stays");
}

fn the_pause_of_a_declared_schedule_survives_restarts(rig: &mut Rig) {
    declare(rig, 10);
    rig.crash();
    rig.change("s", ScheduleAction::Pause("x".into())).unwrap();
    rig.crash();
    assert_eq!(rig.comes(50), Vec::<i64>::new());
    declare(rig, 20);
    rig.crash();
    assert_eq!(rig.comes(100), Vec::<i64>::new());
    rig.change("s", ScheduleAction::Resume).unwrap();
    assert_eq!(rig.comes(110), [110]);
}

fn a_schedule_made_over_the_api_can_be_declared_later(rig: &mut Rig) {
    let made = rig.schedule(overlapping(Overlap::Allow, every(10)));
    rig.comes(10);
    declare(rig, 10);
    rig.crash();
    let info = rig.info();
    assert_eq!((info.declared, info.id), (true, made.id));
    assert_eq!(rig.comes(20), [10, 20]);
}

fn a_declared_calendar_that_leaves_the_file_goes_with_its_schedules(rig: &mut Rig) {
    let dates = vec!["2026-12-25".parse().unwrap()];
    for name in ["own", "shared"] {
        rig.setup.schedules.calendars.insert(name.into(), dates.clone());
    }
    declare(rig, 10);
    rig.crash();
    let refusal = rig.calendar("own", CalendarAction::Delete).unwrap_err();
    assert_eq!(refusal, ScheduleRefusal::CalendarDeclared("own".into()).into());
    let mut using = every(1_000);
    using.times.calendars = vec!["shared".into()];
    rig.change("t", ScheduleAction::Create(Box::new(using))).unwrap();
    rig.setup.schedules.calendars.clear();
    rig.crash();
    let left: Vec<_> = rig.reader().calendars().unwrap();
    let left: Vec<_> = left.iter().map(|info| (&*info.name, info.declared)).collect();
    assert_eq!(left, [("shared", false)], "one that schedules use stays, and can be changed");
}
