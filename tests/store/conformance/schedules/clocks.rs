//! Clocks that are set while schedules go on.

use jobmill::settings::Overlap;

use crate::store::{
    build::{at, job, settings},
    rig::Rig,
    schedules::{all, catching_up, every, overlapping, second_of, told, whole},
};

both_stores!(
    after_a_step_back_no_instant_runs_twice,
    after_a_step_back_a_schedule_goes_on_from_now,
    after_a_step_far_ahead_and_back_a_schedule_goes_on_from_now_and_says_so,
    after_a_step_far_ahead_and_back_with_all_nothing_runs_twice,
    a_clock_that_was_ahead_at_a_start_is_followed_back,
    a_clock_that_is_behind_at_a_start_repeats_nothing,
    a_schedule_made_under_a_clock_that_was_ahead_goes_on_from_now,
    a_step_ahead_makes_instants_late,
    a_small_correction_of_the_clock_is_no_step,
    what_waits_for_room_has_yet_to_come_by_a_clock_that_was_set_back,
    new_times_after_a_clock_was_ahead_leave_out_only_instants_that_have_run,
    an_instant_that_waits_for_the_last_job_does_not_run_before_its_time_by_a_clock_that_was_set_back,
);

fn after_a_step_back_no_instant_runs_twice(rig: &mut Rig) {
    rig.schedule(overlapping(Overlap::Allow, every(10)));
    for second in [10, 20, 30] {
        rig.comes(second);
    }
    rig.set_clock(at(5));
    rig.settle();
    for second in [10, 20, 30, 40] {
        rig.comes(second);
    }
    assert_eq!(rig.instants(), [10, 20, 30, 40]);
}

fn after_a_step_back_a_schedule_goes_on_from_now(rig: &mut Rig) {
    rig.schedule(every(10));
    rig.comes(10);
    for second in [20, 30] {
        // Left out, because the first one runs.
        rig.comes(second);
    }
    rig.ends_one();
    rig.set_clock(at(15));
    rig.settle();
    assert_eq!(rig.comes(20), [10, 20], "it had not run");
}

fn after_a_step_far_ahead_and_back_a_schedule_goes_on_from_now_and_says_so(rig: &mut Rig) {
    const YEAR: i64 = 365 * 24 * 3_600;
    rig.schedule(overlapping(Overlap::Allow, every(3_600)));
    rig.comes(3_600);
    rig.set_clock(at(50 * YEAR));
    rig.settle();
    let ahead = rig.instants();
    assert_eq!(ahead.len(), 2, "the newest of those that are late by the clock");
    rig.set_clock(at(3_700));
    rig.settle();
    let run = rig.info().run;
    let set_back = run.set_back.expect("a note");
    assert_eq!((second_of(set_back.to), second_of(set_back.from)), (3_700, ahead[1]));
    assert_eq!(run.next.map(|next| second_of(next.nominal)), Some(7_200));
    assert_eq!(rig.comes(7_200), [3_600, ahead[1], 7_200]);
    assert_eq!(rig.comes(10_800), [3_600, ahead[1], 7_200, 10_800]);
}

fn after_a_step_far_ahead_and_back_with_all_nothing_runs_twice(rig: &mut Rig) {
    rig.schedule(all(every(10)));
    rig.comes(10);
    rig.set_clock(at(60));
    rig.settle();
    assert_eq!(rig.instants(), [10, 20, 30, 40, 50, 60]);
    rig.set_clock(at(15));
    rig.settle();
    assert_eq!(rig.info().run.next.map(|next| second_of(next.nominal)), Some(70));
    rig.comes(65);
    assert_eq!(rig.comes(70), [10, 20, 30, 40, 50, 60, 70]);
    assert_eq!(told(rig.info().run.counts.missed), (0, 0));
}

fn a_clock_that_was_ahead_at_a_start_is_followed_back(rig: &mut Rig) {
    rig.schedule(overlapping(Overlap::Allow, every(10)));
    rig.set_clock(at(1_000_000));
    rig.crash();
    rig.settle();
    assert_eq!(rig.instants(), [1_000_000]);
    rig.set_clock(at(25));
    rig.crash();
    rig.settle();
    assert_eq!(rig.comes(30), [1_000_000, 30]);
}

fn a_clock_that_is_behind_at_a_start_repeats_nothing(rig: &mut Rig) {
    rig.until(at(1_000));
    rig.schedule(catching_up(60, overlapping(Overlap::Allow, every(10))));
    rig.comes(1_010);
    // The clock has lost its battery.
    rig.set_clock(at(-1_000_000));
    rig.crash();
    rig.settle();
    let instants = rig.instants();
    rig.set_clock(at(1_022));
    rig.settle();
    let new: Vec<_> = rig.instants().into_iter().filter(|instant| !instants.contains(instant)).collect();
    assert_eq!(new, [1_020]);
    assert_eq!(told(rig.info().run.counts.missed), (0, 0), "the time of a wrong clock misses nothing");
}

fn a_schedule_made_under_a_clock_that_was_ahead_goes_on_from_now(rig: &mut Rig) {
    rig.set_clock(at(1_000_003));
    rig.schedule(every(10));
    rig.set_clock(at(5));
    rig.settle();
    assert_eq!(rig.comes(13), [13], "the interval keeps its phase");
}

fn a_step_ahead_makes_instants_late(rig: &mut Rig) {
    rig.schedule(catching_up(60, every(100)));
    rig.set_clock(at(530));
    rig.settle();
    assert_eq!((rig.instants(), told(rig.info().run.counts.missed)), (vec![500], (4, 400)));
}

fn a_small_correction_of_the_clock_is_no_step(rig: &mut Rig) {
    rig.schedule(every(10));
    rig.comes(10);
    rig.ends_one();
    rig.set_clock(jobmill::clock::Timestamp::from_micros(at(10).as_micros() - 500_000));
    rig.settle();
    assert_eq!(rig.info().run.set_back, None);
    assert_eq!(rig.comes(20), [10, 20]);
}

fn an_instant_that_waits_for_the_last_job_does_not_run_before_its_time_by_a_clock_that_was_set_back(
    rig: &mut Rig,
) {
    rig.schedule(overlapping(Overlap::QueueOne, every(100)));
    assert_eq!(rig.comes(100), [100]);
    rig.comes(200);
    assert_eq!(rig.info().run.deferred.map(|deferred| second_of(deferred.instant.nominal)), Some(200));
    rig.set_clock(at(150));
    rig.settle();
    rig.ends_one();
    assert_eq!(rig.instants(), [100], "200 has yet to come");
    assert_eq!(rig.comes(200), [100, 200]);
    assert_eq!(told(rig.info().run.counts.overlapped), (0, 0));
}

fn new_times_after_a_clock_was_ahead_leave_out_only_instants_that_have_run(rig: &mut Rig) {
    rig.schedule(all(every(100)));
    rig.set_clock(at(1_000));
    rig.settle();
    rig.set_clock(at(50));
    rig.settle();
    let ahead: Vec<_> = (1..=10).map(|number| number * 100).collect();
    assert_eq!(rig.instants(), ahead);
    rig.change("s", whole(all(every(70)))).unwrap();
    assert_eq!(rig.info().run.next.map(|next| second_of(next.nominal)), Some(120));
    for second in [120, 190, 260, 330, 400, 470] {
        rig.comes(second);
    }
    assert_eq!(rig.instants()[10..], [120, 190, 260, 330, 470], "400 has run");
}

fn what_waits_for_room_has_yet_to_come_by_a_clock_that_was_set_back(rig: &mut Rig) {
    rig.queue_with("q", settings(0, 1));
    rig.submit(job("q", Rig::KIND));
    rig.schedule(every(100));
    rig.until(at(150));
    rig.settle();
    assert_eq!(rig.info().run.waits.map(|waits| second_of(waits.instant)), Some(100));
    rig.set_clock(at(50));
    rig.settle();
    let run = rig.info().run;
    assert_eq!((run.waits, run.next.map(|next| second_of(next.nominal))), (None, Some(100)));
}
