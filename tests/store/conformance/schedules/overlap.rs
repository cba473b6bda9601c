//! Instants that come while the last scheduled job has not ended.

use std::time::Duration;

use jobmill::{
    engine::ScheduleAction,
    job::{JobDraft, PartialRetryPolicy, ScheduleOrigin, StateName, When},
    settings::{Overlap, ScheduleSettings},
};

use crate::store::{
    batch::{Batch, Control, Report},
    build::{at, job, settings},
    rig::{Rig, failed, lease, succeeded},
    schedules::{catching_up, every, overlapping, range, second_of, told},
};

both_stores!(
    skip_leaves_out_an_instant_that_meets_the_last_job,
    allow_runs_an_instant_beside_the_last_job,
    queue_one_runs_the_newest_instant_once_the_last_job_has_ended,
    queue_one_never_has_a_second_one_wait,
    cancel_running_cancels_the_last_job_and_starts_once_it_has_ended,
    cancel_running_starts_at_once_where_the_last_job_never_started,
    a_job_that_its_schedule_cancels_leaves_its_slot_to_the_next_one_that_waits,
    the_last_job_has_not_ended_whatever_it_waits_for,
    triggers_and_backfills_do_not_count_as_the_last_job,
    a_deferred_instant_survives_a_crash,
    a_deferred_instant_that_waits_for_too_long_is_counted_as_overlapped,
    a_last_job_that_ended_before_a_crash_holds_nothing_back,
    a_last_job_that_is_deleted_has_ended,
    a_failed_last_job_that_is_retried_has_not_ended,
    a_schedule_is_paused_after_failures_in_a_row,
    a_success_begins_the_row_of_failures_anew,
    jobs_beside_each_other_count_in_the_order_of_their_ends,
);

fn skip_leaves_out_an_instant_that_meets_the_last_job(rig: &mut Rig) {
    rig.schedule(every(10));
    assert_eq!(rig.comes(10), [10]);
    assert_eq!(rig.comes(20), [10]);
    assert_eq!(rig.comes(30), [10]);
    rig.ends_one();
    assert_eq!(rig.comes(39), [10], "what was left out stays so");
    assert_eq!(rig.comes(40), [10, 40]);
    assert_eq!(told(rig.info().run.counts.overlapped), (2, 30));
}

fn allow_runs_an_instant_beside_the_last_job(rig: &mut Rig) {
    rig.schedule(overlapping(Overlap::Allow, every(10)));
    rig.comes(10);
    assert_eq!(rig.comes(20), [10, 20]);
    assert_eq!(told(rig.info().run.counts.overlapped), (0, 0));
}

fn queue_one_runs_the_newest_instant_once_the_last_job_has_ended(rig: &mut Rig) {
    rig.schedule(overlapping(Overlap::QueueOne, every(10)));
    rig.comes(10);
    assert_eq!(rig.comes(25), [10]);
    let deferred = rig.info().run.deferred.unwrap();
    assert_eq!(second_of(deferred.instant.nominal), 20);
    rig.ends_one();
    assert_eq!(rig.instants(), [10, 20]);
    assert_eq!(rig.info().run.deferred, None);
    assert_eq!(told(rig.info().run.counts.overlapped), (0, 0));
}

fn queue_one_never_has_a_second_one_wait(rig: &mut Rig) {
    rig.schedule(overlapping(Overlap::QueueOne, every(10)));
    for second in [10, 20, 30, 40] {
        rig.comes(second);
    }
    rig.ends_one();
    assert_eq!(rig.instants(), [10, 40], "the newest waits, also where one waits already");
    assert_eq!(told(rig.info().run.counts.overlapped), (2, 30));
    rig.ends_one();
    assert_eq!(rig.instants(), [10, 40]);
}

fn cancel_running_cancels_the_last_job_and_starts_once_it_has_ended(rig: &mut Rig) {
    rig.schedule(overlapping(Overlap::CancelRunning, every(10)));
    rig.comes(10);
    let first = rig.scheduled().remove(0);
    assert_eq!(rig.comes(20), [10]);
    assert_eq!(rig.state(first.id), StateName::Cancelling);
    assert_eq!(rig.comes(30), [10], "it has not ended yet");
    rig.report(&rig.job(first.id), failed(true, "")).unwrap();
    rig.settle();
    assert_eq!((rig.state(first.id), rig.instants()), (StateName::Cancelled, vec![10, 30]));
    assert_eq!(told(rig.info().run.counts.overlapped), (1, 20));
}

fn cancel_running_starts_at_once_where_the_last_job_never_started(rig: &mut Rig) {
    rig.queue("q", 0);
    rig.schedule(overlapping(Overlap::CancelRunning, every(10)));
    rig.comes(10);
    assert_eq!(rig.comes(20), [10, 20]);
    let states: Vec<_> = rig.scheduled().iter().map(|job| job.state.name()).collect();
    assert_eq!(states, [StateName::Cancelled, StateName::Queued]);
}

fn a_job_that_its_schedule_cancels_leaves_its_slot_to_the_next_one_that_waits(rig: &mut Rig) {
    rig.queue("q", 1);
    let running = rig.submit(job("q", Rig::KIND)).id;
    rig.schedule(overlapping(Overlap::CancelRunning, every(100)));
    assert_eq!(rig.comes(100), [100]);
    let waiting = rig.submit(job("q", Rig::KIND)).id;
    rig.until(at(200));
    let lease = lease(&rig.job(running));
    let reports = vec![Report { id: running, lease, body: succeeded() }];
    rig.apply(Batch { reports, claim: true, ..Batch::default() });
    assert_eq!(rig.instants(), [100, 200]);
    assert_eq!(rig.state(waiting), StateName::Running, "the job of 200 came later");
}

fn the_last_job_has_not_ended_whatever_it_waits_for(rig: &mut Rig) {
    // For a slot.
    rig.queue("q", 0);
    let retry = PartialRetryPolicy { initial_delay: Some(Duration::from_secs(3_600)), ..Default::default() };
    let job = JobDraft { retry: Some(retry), ..every(10).job };
    rig.schedule(ScheduleSettings { job, ..every(10) });
    rig.comes(10);
    assert_eq!(rig.comes(20), [10]);
    rig.control(Control::UpdateQueue { name: "q".into(), settings: settings(1, 100) }).unwrap();
    // For its backoff.
    let job = rig.scheduled().remove(0);
    rig.report(&job, failed(true, "")).unwrap();
    assert_eq!(rig.state(job.id), StateName::BackingOff);
    assert_eq!(rig.comes(30), [10]);
    assert_eq!(rig.state(job.id), StateName::BackingOff);
    assert_eq!(told(rig.info().run.counts.overlapped), (2, 30));
    // For its start.
    let delay = When::After(Duration::from_secs(100));
    let job = JobDraft { start: Some(delay), ..every(10).job };
    rig.change("s", ScheduleAction::Delete).unwrap();
    rig.schedule(ScheduleSettings { job, ..every(10) });
    rig.comes(40);
    assert_eq!(rig.comes(50), [10, 40]);
}

fn triggers_and_backfills_do_not_count_as_the_last_job(rig: &mut Rig) {
    rig.schedule(every(10));
    rig.change("s", ScheduleAction::Trigger(String::new())).unwrap();
    assert_eq!(rig.comes(10).len(), 2, "the triggered one runs still");
    rig.change("s", ScheduleAction::Backfill(range(-20, -10))).unwrap();
    rig.settle();
    let job = rig.scheduled().into_iter().find(|job| {
        let by = job.spec.schedule().unwrap();
        by.origin == ScheduleOrigin::Scheduled
    });
    rig.report(&job.unwrap(), succeeded()).unwrap();
    rig.comes(20);
    let origins: Vec<_> = rig.scheduled().iter().map(|job| job.spec.schedule().unwrap().origin).collect();
    assert_eq!(origins.iter().filter(|origin| **origin == ScheduleOrigin::Scheduled).count(), 2);
    assert_eq!(told(rig.info().run.counts.overlapped), (0, 0));
}

fn a_deferred_instant_survives_a_crash(rig: &mut Rig) {
    rig.schedule(overlapping(Overlap::QueueOne, every(10)));
    rig.comes(10);
    rig.comes(20);
    // The crash ends the attempt, and the job is retried.
    rig.crash();
    rig.settle();
    assert_eq!(rig.instants(), [10]);
    let job = rig.scheduled().remove(0);
    rig.control(Control::Cancel(job.id)).unwrap();
    rig.settle();
    assert_eq!(rig.instants(), [10, 20]);
}

fn a_deferred_instant_that_waits_for_too_long_is_counted_as_overlapped(rig: &mut Rig) {
    rig.schedule(catching_up(15, overlapping(Overlap::QueueOne, every(100))));
    rig.comes(100);
    rig.comes(200);
    let applied = rig.tick();
    let wake = rig.soon(&applied).unwrap();
    assert_eq!(wake.as_micros(), at(215).as_micros() + 1, "it is told in time");
    rig.until(wake);
    rig.settle();
    assert_eq!(told(rig.info().run.counts.overlapped), (1, 200));
    rig.ends_one();
    assert_eq!(rig.instants(), [100]);
}

fn a_last_job_that_ended_before_a_crash_holds_nothing_back(rig: &mut Rig) {
    rig.schedule(overlapping(Overlap::QueueOne, every(10)));
    rig.comes(10);
    rig.comes(20);
    let job = rig.scheduled().remove(0);
    rig.report(&job, succeeded()).unwrap();
    // The schedule has not had its turn yet.
    assert_eq!(rig.instants(), [10]);
    rig.crash();
    rig.settle();
    assert_eq!(rig.instants(), [10, 20]);
    assert_eq!(rig.info().run.last.unwrap().outcome, None);
}

fn a_last_job_that_is_deleted_has_ended(rig: &mut Rig) {
    rig.queue("q", 0);
    rig.schedule(overlapping(Overlap::QueueOne, every(10)));
    rig.comes(10);
    rig.comes(20);
    let job = rig.scheduled().remove(0);
    rig.control(Control::Purge { name: "q".into() }).unwrap();
    rig.settle();
    assert!(rig.scheduled().iter().all(|other| other.id != job.id));
    assert_eq!(rig.instants(), [20]);
}

fn a_failed_last_job_that_is_retried_has_not_ended(rig: &mut Rig) {
    rig.schedule(every(10));
    rig.comes(10);
    let job = rig.scheduled().remove(0);
    rig.report(&job, failed(false, "")).unwrap();
    rig.settle();
    rig.control(Control::Retry { id: job.id, request: None }).unwrap();
    assert_eq!(rig.comes(20), [10]);
    assert_eq!(told(rig.info().run.counts.overlapped), (1, 20));
}

fn fail_one(rig: &mut Rig) {
    let running = |job: &&std::sync::Arc<jobmill::job::Job>| job.state.name() == StateName::Running;
    let job = rig.scheduled().iter().find(running).cloned().expect("a job that runs");
    rig.report(&job, failed(false, "")).unwrap();
    rig.settle();
}

fn a_schedule_is_paused_after_failures_in_a_row(rig: &mut Rig) {
    rig.schedule(ScheduleSettings { pause_after_failures: Some(2), ..every(10) });
    rig.comes(10);
    fail_one(rig);
    assert_eq!(rig.info().paused, None);
    rig.comes(20);
    fail_one(rig);
    let pause = rig.info().paused.expect("a pause");
    assert!(pause.by_failures && pause.reason.contains("2 jobs in a row"), "{pause:?}");
    rig.crash();
    assert_eq!(rig.comes(100), [10, 20]);
    rig.change("s", ScheduleAction::Resume).unwrap();
    assert_eq!(rig.comes(110), [10, 20, 110]);
    fail_one(rig);
    assert_eq!(rig.info().paused, None, "the row begins anew");
}

fn a_success_begins_the_row_of_failures_anew(rig: &mut Rig) {
    rig.schedule(ScheduleSettings { pause_after_failures: Some(2), ..every(10) });
    rig.comes(10);
    fail_one(rig);
    rig.comes(20);
    rig.ends_one();
    rig.comes(30);
    fail_one(rig);
    assert_eq!((rig.info().paused, rig.info().run.failures), (None, 1));
}

fn jobs_beside_each_other_count_in_the_order_of_their_ends(rig: &mut Rig) {
    let settings = ScheduleSettings { pause_after_failures: Some(2), ..every(10) };
    rig.schedule(overlapping(Overlap::Allow, settings));
    for second in [10, 20, 30] {
        rig.comes(second);
    }
    fail_one(rig);
    fail_one(rig);
    assert!(rig.info().paused.is_some());
}
