//! Backfills: instants of the past, one after the other.

use jobmill::{
    engine::{BackfillRange, ScheduleAction, ScheduleRefusal},
    job::ScheduleOrigin,
    settings::Overlap,
};

use crate::store::{
    build::{at, settings},
    rig::Rig,
    schedules::{every, overlapping, range, second_of},
};

both_stores!(
    a_backfill_runs_instants_one_after_the_other,
    a_backfill_skips_instants_that_have_run_unless_told_again,
    a_dry_run_tells_and_changes_nothing,
    a_backfill_with_too_many_instants_is_refused,
    a_backfill_goes_on_after_a_crash,
    a_backfill_reaches_before_the_schedule_was_made,
    a_backfill_leaves_what_has_not_come_to_the_schedule,
    a_backfill_leaves_the_instant_that_waits_for_the_last_job_to_the_schedule,
    a_backfill_waits_for_room,
    a_pause_holds_a_backfill_up,
    a_backfill_can_be_cancelled,
    there_is_one_backfill_at_a_time,
    what_a_backfill_has_run_is_not_run_again,
);

fn backfilled(rig: &Rig) -> Vec<i64> {
    let jobs = rig.scheduled().into_iter();
    let by = jobs.filter_map(|job| job.spec.schedule().cloned());
    by.filter(|by| by.origin == ScheduleOrigin::Backfilled).map(|by| second_of(by.instant)).collect()
}

fn start(rig: &mut Rig, range: BackfillRange) -> Vec<i64> {
    let done = rig.change("s", ScheduleAction::Backfill(range)).unwrap();
    rig.settle();
    done.instants.into_iter().map(second_of).collect()
}

/// A schedule whose instants at 10 to 50 seconds have passed during a pause.
fn paused_over_fifty(rig: &mut Rig) {
    rig.schedule(every(10));
    rig.change("s", ScheduleAction::Pause(String::new())).unwrap();
    rig.until(at(55));
    rig.change("s", ScheduleAction::Resume).unwrap();
}

fn a_backfill_runs_instants_one_after_the_other(rig: &mut Rig) {
    paused_over_fifty(rig);
    assert_eq!(start(rig, range(20, 40)), [20, 30, 40]);
    for expected in [vec![20], vec![20, 30], vec![20, 30, 40]] {
        assert_eq!(backfilled(rig), expected);
        assert!(rig.info().run.backfill.unwrap().end.is_none());
        rig.ends_one();
    }
    let backfill = rig.info().run.backfill.unwrap();
    assert_eq!((backfill.created, backfill.end.map(|end| end.cancelled)), (3, Some(false)));
    assert_eq!(backfilled(rig), [20, 30, 40]);
}

fn a_backfill_skips_instants_that_have_run_unless_told_again(rig: &mut Rig) {
    rig.schedule(overlapping(Overlap::Allow, every(10)));
    rig.comes(10);
    rig.change("s", ScheduleAction::Pause(String::new())).unwrap();
    rig.until(at(35));
    rig.change("s", ScheduleAction::Resume).unwrap();
    rig.comes(40);
    assert_eq!(start(rig, BackfillRange { dry_run: true, ..range(1, 40) }), [20, 30]);
    let again = BackfillRange { again: true, dry_run: true, ..range(1, 40) };
    assert_eq!(start(rig, again), [10, 20, 30, 40]);
    start(rig, BackfillRange { again: true, ..range(10, 10) });
    assert_eq!(backfilled(rig), [10]);
}

fn a_dry_run_tells_and_changes_nothing(rig: &mut Rig) {
    paused_over_fifty(rig);
    let before = rig.info();
    assert_eq!(start(rig, BackfillRange { dry_run: true, ..range(1, 50) }), [10, 20, 30, 40, 50]);
    assert_eq!((rig.info().run, backfilled(rig)), (before.run, vec![]));
}

fn a_backfill_with_too_many_instants_is_refused(rig: &mut Rig) {
    paused_over_fifty(rig);
    let many = BackfillRange { at_most: 4, ..range(1, 50) };
    let refusal = rig.change("s", ScheduleAction::Backfill(many)).unwrap_err();
    assert_eq!(refusal, ScheduleRefusal::BackfillTooLarge { schedule: "s".into(), at_most: 4 }.into());
    assert_eq!(start(rig, BackfillRange { at_most: 5, ..range(1, 50) }).len(), 5);
}

fn a_backfill_goes_on_after_a_crash(rig: &mut Rig) {
    paused_over_fifty(rig);
    start(rig, range(20, 40));
    rig.ends_one();
    rig.crash();
    rig.settle();
    assert_eq!(backfilled(rig), [20, 30]);
    // The attempt was lost with the crash, and is made again.
    rig.pass(30);
    rig.settle();
    rig.ends_one();
    assert_eq!(backfilled(rig), [20, 30, 40]);
}

fn a_backfill_reaches_before_the_schedule_was_made(rig: &mut Rig) {
    rig.until(at(1_003));
    rig.schedule(every(10));
    assert_eq!(start(rig, BackfillRange { dry_run: true, ..range(970, 1_003) }), [973, 983, 993, 1_003]);
}

fn a_backfill_leaves_what_has_not_come_to_the_schedule(rig: &mut Rig) {
    rig.schedule(overlapping(Overlap::Allow, every(10)));
    rig.comes(20);
    assert_eq!(start(rig, BackfillRange { dry_run: true, ..range(1, 1_000) }), [10]);
}

fn a_backfill_leaves_the_instant_that_waits_for_the_last_job_to_the_schedule(rig: &mut Rig) {
    rig.schedule(overlapping(Overlap::QueueOne, every(10)));
    rig.comes(10);
    rig.comes(20);
    assert_eq!(start(rig, range(1, 20)), Vec::<i64>::new());
    rig.ends_one();
    assert_eq!((rig.instants(), backfilled(rig)), (vec![10, 20], vec![]));
}

fn a_backfill_waits_for_room(rig: &mut Rig) {
    rig.queue_with("q", settings(1, 1));
    rig.schedule(every(1_000));
    rig.change("s", ScheduleAction::Trigger(String::new())).unwrap();
    start(rig, range(-2_000, -1_000));
    assert_eq!(backfilled(rig), Vec::<i64>::new());
    let backfill = rig.info().run.backfill.unwrap();
    assert!(backfill.waits.contains("the queue `q` is full"), "{backfill:?}");
    rig.ends_one();
    assert_eq!(backfilled(rig), [-2_000]);
    assert_eq!(rig.info().run.backfill.unwrap().waits, "");
}

fn a_pause_holds_a_backfill_up(rig: &mut Rig) {
    paused_over_fifty(rig);
    start(rig, range(20, 40));
    rig.change("s", ScheduleAction::Pause(String::new())).unwrap();
    rig.ends_one();
    assert_eq!(backfilled(rig), [20]);
    rig.change("s", ScheduleAction::Resume).unwrap();
    rig.settle();
    assert_eq!(backfilled(rig), [20, 30]);
}

fn a_backfill_can_be_cancelled(rig: &mut Rig) {
    paused_over_fifty(rig);
    start(rig, range(20, 40));
    rig.change("s", ScheduleAction::CancelBackfill).unwrap();
    rig.ends_one();
    assert_eq!(backfilled(rig), [20], "the job that runs goes on, and no other comes");
    assert_eq!(rig.info().run.backfill.unwrap().end.map(|end| end.cancelled), Some(true));
}

fn there_is_one_backfill_at_a_time(rig: &mut Rig) {
    paused_over_fifty(rig);
    start(rig, range(20, 40));
    let refusal = rig.change("s", ScheduleAction::Backfill(range(1, 10))).unwrap_err();
    assert_eq!(refusal, ScheduleRefusal::BackfillRunning("s".into()).into());
    rig.change("s", ScheduleAction::CancelBackfill).unwrap();
    assert_eq!(start(rig, range(1, 10)), [10]);
}

fn what_a_backfill_has_run_is_not_run_again(rig: &mut Rig) {
    paused_over_fifty(rig);
    start(rig, range(20, 30));
    rig.ends_one();
    rig.ends_one();
    assert_eq!(start(rig, BackfillRange { dry_run: true, ..range(1, 50) }), [10, 40, 50]);
}
