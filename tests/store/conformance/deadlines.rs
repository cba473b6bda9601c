//! Deadlines over all attempts of a job.

use std::time::Duration;

use jobmill::{
    engine::{NewJob, ReportBody},
    job::{FailureReason, Job, RetryPolicy, StateName, When},
};

use crate::store::{
    batch::Control,
    build::{at, failure, job},
    rig::{Rig, failed, path, succeeded},
};

both_stores!(
    a_waiting_job_ends_at_its_deadline,
    a_deadline_ends_a_job_in_each_way_of_waiting,
    expiry_comes_before_a_later_deadline,
    a_deadline_counts_from_acceptance,
    a_job_that_comes_after_its_deadline_has_failed_at_once_and_takes_no_slot,
    a_running_attempt_has_no_more_time_than_is_left,
    a_backoff_past_the_deadline_ends_the_job_now,
    a_delay_that_the_handler_asks_for_ends_the_job_if_it_is_past_the_deadline,
    a_snooze_past_the_deadline_ends_the_job_now,
    a_release_for_later_than_the_deadline_ends_the_job_then,
    a_success_after_the_deadline_counts,
    a_deadline_is_told_in_time_and_goes_on_after_a_crash,
    a_retry_after_the_deadline_is_refused,
    a_crash_past_the_deadline_ends_the_job,
);

fn due(seconds: i64) -> NewJob {
    let retry = RetryPolicy::DEFAULT.jitter(0.0);
    NewJob { deadline: Some(at(seconds).into()), retry, ..job("q", Rig::KIND) }
}

fn why(job: &Job) -> (StateName, FailureReason) {
    (job.state.name(), job.failure.as_ref().unwrap().reason)
}

const LATE: (StateName, FailureReason) = (StateName::Failed, FailureReason::Deadline);

fn a_waiting_job_ends_at_its_deadline(rig: &mut Rig) {
    rig.queue("q", 0);
    let (kept, over) = (rig.submit(due(20)), rig.submit(due(10)));
    rig.until(at(9));
    assert!(rig.tick().changes.is_empty());
    rig.until(at(10));
    let applied = rig.tick();
    assert_eq!((path(&applied, over.id), applied.room), (vec![StateName::Failed], true));
    assert_eq!((why(&rig.job(over.id)), rig.state(kept.id)), (LATE, StateName::Queued));
    assert!(rig.whole(over.id).attempts.is_empty());
}

fn a_deadline_ends_a_job_in_each_way_of_waiting(rig: &mut Rig) {
    rig.queue("q", 1);
    let backing_off = rig.submit(due(100));
    rig.report(&backing_off, failed(true, "")).unwrap();
    rig.queue("other", 0);
    let queued = rig.submit(NewJob { queue: "other".into(), ..due(100) });
    let scheduled = rig.submit(NewJob { run_time: Some(at(200).into()), ..due(100) });
    // No batch ran while the backoff ended.
    rig.until(at(100));
    rig.tick();
    for id in [backing_off.id, queued.id, scheduled.id] {
        assert_eq!(why(&rig.job(id)), LATE);
    }
}

fn expiry_comes_before_a_later_deadline(rig: &mut Rig) {
    rig.queue("q", 0);
    let job = rig.submit(NewJob { expires: Some(at(5).into()), ..due(10) });
    rig.until(at(7));
    rig.tick();
    assert_eq!(rig.state(job.id), StateName::Expired);
    // One whose attempt has started no longer expires, and still has its deadline.
    rig.queue("r", 1);
    let started = rig.submit(NewJob { queue: "r".into(), expires: Some(at(8).into()), ..due(20) });
    rig.report(&started, failed(true, "")).unwrap();
    rig.until(at(19));
    assert_eq!(path(&rig.tick(), started.id), [StateName::Running]);
    rig.report(&rig.job(started.id), failed(true, "")).unwrap();
    assert_eq!(why(&rig.job(started.id)), LATE);
}

fn a_deadline_counts_from_acceptance(rig: &mut Rig) {
    rig.queue("q", 0);
    rig.until(at(50));
    let job = rig.submit(NewJob { deadline: Some(When::After(Duration::from_secs(10))), ..due(0) });
    assert_eq!(job.spec.deadline(), Some(at(60)));
    rig.crash();
    assert_eq!(rig.job(job.id).spec.deadline(), Some(at(60)));
}

fn a_job_that_comes_after_its_deadline_has_failed_at_once_and_takes_no_slot(rig: &mut Rig) {
    rig.queue("q", 1);
    rig.until(at(50));
    let late = rig.submit(due(50));
    assert_eq!((why(&late), late.ended, late.attempt), (LATE, Some(at(50)), 0));
    assert_eq!(rig.submit(due(51)).state.name(), StateName::Running);
    rig.crash();
    assert_eq!(rig.job(late.id), *late);
}

fn a_running_attempt_has_no_more_time_than_is_left(rig: &mut Rig) {
    rig.queue("q", 1);
    rig.until(at(10));
    let running = rig.submit(due(40));
    assert_eq!(running.attempt_timeout(), Duration::from_secs(30));
    rig.report(&running, failed(true, "")).unwrap();
    rig.until(at(20));
    rig.tick();
    assert_eq!(rig.job(running.id).attempt_timeout(), Duration::from_secs(20));
    let long = rig.submit(NewJob { attempt_timeout: Duration::from_secs(5), ..due(1_000) });
    rig.report(&rig.job(running.id), succeeded()).unwrap();
    rig.tick();
    assert_eq!(rig.job(long.id).attempt_timeout(), Duration::from_secs(5));
}

fn a_backoff_past_the_deadline_ends_the_job_now(rig: &mut Rig) {
    rig.queue("q", 1);
    for (deadline, expected) in [(1, StateName::Failed), (2, StateName::BackingOff)] {
        // The first backoff is one second.
        let deadline = Some(When::After(Duration::from_secs(deadline)));
        let running = rig.submit(NewJob { deadline, ..due(0) });
        rig.report(&running, failed(true, "")).unwrap();
        let after = rig.job(running.id);
        assert_eq!(after.state.name(), expected);
        let attempts = rig.whole(running.id).attempts;
        assert_eq!(attempts[0].failure.as_ref().unwrap().reason, FailureReason::HandlerError);
        if expected == StateName::Failed {
            assert_eq!(why(&after), LATE);
            let message = &after.failure.as_ref().unwrap().message;
            assert!(message.ends_with("the last failure: no"), "{message}");
        }
    }
}

fn a_delay_that_the_handler_asks_for_ends_the_job_if_it_is_past_the_deadline(rig: &mut Rig) {
    rig.queue("q", 1);
    let running = rig.submit(due(60));
    let delay = Some(Duration::from_secs(60));
    let body = ReportBody::Failed { failure: failure(true), delay, process_died: false, tail: String::new() };
    rig.report(&running, body).unwrap();
    assert_eq!(why(&rig.job(running.id)), LATE);
}

fn a_snooze_past_the_deadline_ends_the_job_now(rig: &mut Rig) {
    rig.queue("q", 1);
    for (seconds, expected) in [(59, StateName::BackingOff), (60, StateName::Failed)] {
        let running = rig.submit(due(60));
        let delay = Duration::from_secs(seconds);
        rig.report(&running, ReportBody::Snoozed { delay, pause: None, tail: String::new() }).unwrap();
        assert_eq!(rig.state(running.id), expected);
    }
}

fn a_release_for_later_than_the_deadline_ends_the_job_then(rig: &mut Rig) {
    rig.queue("q", 1);
    let running = rig.submit(due(60));
    rig.report(&running, ReportBody::Released { delay: Some(Duration::from_secs(500)) }).unwrap();
    rig.until(at(60));
    rig.tick();
    assert_eq!(why(&rig.job(running.id)), LATE);
}

fn a_success_after_the_deadline_counts(rig: &mut Rig) {
    rig.queue("q", 1);
    let running = rig.submit(due(10));
    rig.until(at(12));
    assert!(rig.tick().changes.is_empty(), "the attempt runs on until it is stopped");
    rig.report(&running, succeeded()).unwrap();
    assert_eq!(rig.state(running.id), StateName::Succeeded);
}

fn a_deadline_is_told_in_time_and_goes_on_after_a_crash(rig: &mut Rig) {
    rig.queue("q", 0);
    let over = rig.submit(due(40));
    let applied = rig.tick();
    assert_eq!(rig.soon(&applied), Some(at(40)));
    rig.crash();
    let applied = rig.tick();
    assert_eq!(rig.soon(&applied), Some(at(40)));
    rig.until(at(40));
    rig.crash();
    rig.tick();
    assert_eq!(why(&rig.job(over.id)), LATE);
}

fn a_retry_after_the_deadline_is_refused(rig: &mut Rig) {
    rig.queue("q", 0);
    let job = rig.submit(due(10));
    rig.control(Control::Cancel(job.id)).unwrap();
    let retry = || Control::Retry { id: job.id, request: None };
    rig.control(retry()).unwrap();
    assert_eq!(rig.state(job.id), StateName::Queued);
    rig.until(at(10));
    rig.tick();
    let before = rig.job(job.id);
    let refusal = rig.control(retry()).unwrap_err();
    assert!(refusal.to_string().contains("has passed: submit its spec again"), "{refusal}");
    assert_eq!(rig.job(job.id), before);
}

fn a_crash_past_the_deadline_ends_the_job(rig: &mut Rig) {
    rig.queue("q", 1);
    let running = rig.submit(due(10));
    rig.until(at(20));
    rig.crash();
    assert_eq!(why(&rig.job(running.id)), LATE);
}
