//! Instants to which the server comes late: which run, and which are missed.

use std::time::Duration;

use jobmill::{
    engine::ScheduleAction,
    settings::{Late, Overlap, ScheduleSettings},
};

use crate::store::{
    build::at,
    rig::Rig,
    schedules::{all, catching_up, every, overlapping, second_of, told},
};

both_stores!(
    a_schedule_runs_at_its_instants_and_wakes_for_nothing_else,
    an_instant_that_is_late_by_exactly_catch_up_runs,
    an_instant_a_tick_before_the_end_of_catch_up_runs,
    an_instant_a_tick_after_the_end_of_catch_up_is_missed_and_counted,
    of_several_late_instants_the_newest_runs,
    with_all_each_late_instant_runs_oldest_first,
    with_all_at_most_a_thousand_late_instants_run,
    late_instants_that_a_batch_left_to_the_next_one_run_after_a_crash,
    catch_up_is_unlimited_unless_given,
    a_nightly_job_never_starts_in_the_day,
    the_first_instant_is_caught_up_if_the_server_was_down_over_it,
    an_interval_counts_from_a_fixed_start_and_does_not_drift,
    an_interval_with_a_start_counts_from_that,
    no_instant_runs_twice_after_a_restart,
    the_instant_is_in_the_jobs_request_id_labels_and_headers,
    a_job_of_a_schedule_has_its_kinds_defaults,
    the_delay_of_an_instant_is_the_same_whenever_it_is_asked_for,
    a_schedule_that_is_over_has_no_next_instant,
    an_instant_is_told_by_the_next_and_last_ones,
);

fn a_schedule_runs_at_its_instants_and_wakes_for_nothing_else(rig: &mut Rig) {
    let info = rig.schedule(every(60));
    assert_eq!(info.run.next.map(|next| second_of(next.nominal)), Some(60));
    let applied = rig.tick();
    assert_eq!((rig.soon(&applied), applied.more), (Some(at(60)), false));
    assert_eq!(rig.comes(59), Vec::<i64>::new());
    assert_eq!(rig.comes(60), [60]);
    rig.ends_one();
    assert_eq!(rig.comes(120), [60, 120]);
}

/// A schedule whose only instant is at second 100, after a downtime that ends `micros` after second 110.
fn late_by(rig: &mut Rig, micros: i64) -> Vec<i64> {
    rig.schedule(catching_up(10, every(100)));
    rig.until(at(99));
    let late = at(110).as_micros() + micros;
    rig.until(jobmill::clock::Timestamp::from_micros(late));
    rig.crash();
    rig.settle();
    rig.instants()
}

fn an_instant_that_is_late_by_exactly_catch_up_runs(rig: &mut Rig) {
    assert_eq!(late_by(rig, 0), [100]);
}

fn an_instant_a_tick_before_the_end_of_catch_up_runs(rig: &mut Rig) {
    assert_eq!(late_by(rig, -1), [100]);
}

fn an_instant_a_tick_after_the_end_of_catch_up_is_missed_and_counted(rig: &mut Rig) {
    assert_eq!(late_by(rig, 1), Vec::<i64>::new());
    assert_eq!(told(rig.info().run.counts.missed), (1, 100));
    assert_eq!(rig.info().run.next.map(|next| second_of(next.nominal)), Some(200));
    rig.crash();
    rig.settle();
    assert_eq!(told(rig.info().run.counts.missed), (1, 100), "it is counted once");
}

fn of_several_late_instants_the_newest_runs(rig: &mut Rig) {
    rig.schedule(catching_up(250, every(100)));
    rig.until(at(610));
    rig.crash();
    rig.settle();
    assert_eq!(rig.instants(), [600]);
    let counts = rig.info().run.counts;
    assert_eq!((told(counts.missed), told(counts.superseded)), ((3, 300), (2, 500)));
    assert_eq!(told(counts.fired), (1, 600));
}

fn with_all_each_late_instant_runs_oldest_first(rig: &mut Rig) {
    rig.schedule(catching_up(250, all(every(100))));
    rig.until(at(610));
    rig.crash();
    rig.settle();
    assert_eq!(rig.instants(), [400, 500, 600]);
    assert_eq!(told(rig.info().run.counts.missed), (3, 300));
}

fn with_all_at_most_a_thousand_late_instants_run(rig: &mut Rig) {
    rig.queue_with(
        "q",
        jobmill::settings::QueueSettings { max_jobs: 10_000, ..crate::store::build::settings(0, 1) },
    );
    rig.schedule(all(every(10)));
    rig.until(at(10_055));
    rig.crash();
    rig.settle();
    let instants = rig.instants();
    assert_eq!((instants.len(), instants.first(), instants.last()), (1_000, Some(&60), Some(&10_050)));
    assert!(instants.is_sorted());
    assert_eq!(told(rig.info().run.counts.missed), (5, 50));
}

fn late_instants_that_a_batch_left_to_the_next_one_run_after_a_crash(rig: &mut Rig) {
    rig.queue_with(
        "q",
        jobmill::settings::QueueSettings { max_jobs: 10_000, ..crate::store::build::settings(0, 1) },
    );
    // What these two leave out is all that a batch counts, so that it creates no job of the second one.
    rig.schedule(every(1));
    rig.change("t", ScheduleAction::Create(Box::new(all(every(2))))).unwrap();
    rig.until(at(30_000));
    assert!(rig.tick().more);
    rig.crash();
    rig.settle();
    assert_eq!(rig.instants().len(), 1 + 1_000);
}

fn catch_up_is_unlimited_unless_given(rig: &mut Rig) {
    rig.schedule(every(3_600));
    rig.until(at(400 * 24 * 3_600 + 60));
    rig.crash();
    rig.settle();
    assert_eq!(rig.instants(), [400 * 24 * 3_600]);
    let counts = rig.info().run.counts;
    assert_eq!((told(counts.missed), counts.superseded.number), ((0, 0), 9_599));
}

fn a_nightly_job_never_starts_in_the_day(rig: &mut Rig) {
    const DAY: i64 = 24 * 3_600;
    rig.schedule(catching_up(600, every(DAY as u64)));
    assert_eq!(rig.comes(DAY), [DAY]);
    rig.ends_one();
    rig.until(at(2 * DAY + 6 * 3_600));
    rig.crash();
    rig.settle();
    assert_eq!(rig.info().run.counts.fired.number, 1);
    assert_eq!(rig.comes(3 * DAY).last(), Some(&(3 * DAY)));
    assert_eq!(rig.info().run.counts.fired.number, 2);
    assert_eq!(told(rig.info().run.counts.missed), (1, 2 * DAY));
}

fn the_first_instant_is_caught_up_if_the_server_was_down_over_it(rig: &mut Rig) {
    rig.schedule(every(3_600));
    rig.crash();
    rig.until(at(5_000));
    rig.crash();
    rig.settle();
    assert_eq!(rig.instants(), [3_600]);
}

fn an_interval_counts_from_a_fixed_start_and_does_not_drift(rig: &mut Rig) {
    rig.until(at(7));
    rig.schedule(overlapping(Overlap::Allow, every(10)));
    assert_eq!(rig.comes(17), [17]);
    // The server comes late, and starts anew: neither moves what follows.
    rig.until(at(31));
    rig.crash();
    rig.settle();
    assert_eq!(rig.instants(), [17, 27]);
    assert_eq!(rig.comes(37), [17, 27, 37]);
}

fn an_interval_with_a_start_counts_from_that(rig: &mut Rig) {
    rig.until(at(7));
    let mut settings = overlapping(Overlap::Allow, every(10));
    settings.times.spec.start = Some(at(4));
    rig.schedule(settings);
    assert_eq!(rig.comes(14), [14]);
    rig.crash();
    assert_eq!(rig.comes(24), [14, 24]);
}

fn no_instant_runs_twice_after_a_restart(rig: &mut Rig) {
    rig.schedule(overlapping(Overlap::Allow, every(10)));
    for second in [10, 20, 30] {
        rig.comes(second);
        rig.crash();
        rig.settle();
        rig.crash();
        rig.settle();
    }
    assert_eq!(rig.instants(), [10, 20, 30]);
}

fn the_instant_is_in_the_jobs_request_id_labels_and_headers(rig: &mut Rig) {
    let info = rig.schedule(every(10));
    rig.comes(10);
    let job = rig.scheduled().remove(0);
    let extras = job.spec.extras.as_ref().unwrap();
    let instant = at(10).to_string();
    assert_eq!(extras.request_id, format!("jobmill/scheduled/s/{}/{instant}", info.id));
    assert_eq!(extras.labels["jobmill/schedule"], "s");
    assert_eq!(extras.labels["jobmill/instant"], instant);
    let header = |key: &str| extras.headers[key].as_str();
    assert_eq!(header("jobmill-schedule"), "s");
    assert_eq!(header("jobmill-schedule-instant"), instant);
    assert_eq!(header("jobmill-schedule-origin"), "scheduled");
    // The store forgets such a job as any other.
    rig.ends_one();
    rig.control(crate::store::batch::Control::Delete(job.id)).unwrap();
    rig.crash();
    rig.settle();
    assert_eq!(rig.instants(), Vec::<i64>::new());
}

fn a_job_of_a_schedule_has_its_kinds_defaults(rig: &mut Rig) {
    let defaults = jobmill::settings::KindDefaults { max_attempts: 7, ..Default::default() };
    rig.setup.schedules.kinds.insert(Rig::KIND.into(), defaults);
    rig.crash();
    let mut settings = every(10);
    settings.job.priority = Some(5);
    settings.job.payload = bytes::Bytes::from_static(b"report");
    rig.schedule(settings);
    rig.crash();
    rig.comes(10);
    let job = rig.scheduled().remove(0);
    assert_eq!((job.max_attempts, job.spec.priority), (7, 5));
    assert_eq!(&rig.reader().payload(job.id).unwrap().unwrap()[..], b"report");
}

fn the_delay_of_an_instant_is_the_same_whenever_it_is_asked_for(rig: &mut Rig) {
    let mut settings = every(3_600);
    settings.times.spec.jitter = Some(Duration::from_secs(600));
    let next = rig.schedule(settings).run.next.unwrap();
    assert!(next.fires >= next.nominal && next.fires < next.nominal.after(Duration::from_secs(600)));
    rig.crash();
    rig.settle();
    assert_eq!(rig.info().run.next, Some(next));
    let before = jobmill::clock::Timestamp::from_micros(next.fires.as_micros() - 1);
    rig.until(before);
    rig.settle();
    assert_eq!(rig.instants(), Vec::<i64>::new());
    rig.until(next.fires);
    rig.settle();
    assert_eq!(rig.instants(), [3_600]);
}

fn a_schedule_that_is_over_has_no_next_instant(rig: &mut Rig) {
    let mut settings = every(10);
    settings.times.spec.end = Some(at(25));
    rig.schedule(overlapping(Overlap::Allow, settings));
    assert_eq!(rig.comes(100), [20]);
    assert_eq!(rig.info().run.next, None);
    let applied = rig.tick();
    assert_eq!(rig.soon(&applied), None);
}

fn an_instant_is_told_by_the_next_and_last_ones(rig: &mut Rig) {
    rig.schedule(ScheduleSettings { late: Late::Latest, ..every(10) });
    rig.comes(10);
    let run = rig.info().run;
    let last = run.last.unwrap();
    assert_eq!((second_of(last.instant), second_of(last.fired), last.outcome), (10, 10, None));
    assert_eq!(run.next.map(|next| second_of(next.nominal)), Some(20));
    rig.ends_one();
    let outcome = rig.info().run.last.unwrap().outcome;
    assert_eq!(outcome, Some(jobmill::job::StateName::Succeeded));
}
