//! Cancelling, retrying and deleting jobs.

use std::sync::Arc;

use jobmill::{
    engine::{ControlRefusal, NewJob, ReportBody},
    job::{Change, Job, JobId, OnConflict, StateName},
};

use crate::store::{
    batch::Control,
    batch::ControlDone,
    build::{at, job, key, keyed, settings},
    rig::{Rig, failed, lease, returned, succeeded},
};

both_stores!(
    a_waiting_job_is_cancelled_at_once,
    a_running_job_is_asked_to_stop,
    under_cancelling_success_counts_and_failure_is_the_cancel,
    cancelling_twice_is_fine_and_an_ended_job_stays_ended,
    a_retry_brings_back_what_ended,
    a_retry_brings_forward_what_waits,
    a_retry_of_what_runs_or_succeeded_is_refused,
    a_retry_into_a_deleted_queue_is_refused,
    a_deleted_job_leaves_nothing_but_its_tombstone,
    a_running_job_is_not_deleted,
    unknown_jobs_are_told_as_such,
);

fn refused(result: Result<ControlDone, ControlRefusal>) -> StateName {
    match result {
        Err(ControlRefusal::WrongState { state, .. }) => state,
        other => panic!("not refused for its state: {other:?}"),
    }
}

fn done(result: Result<ControlDone, ControlRefusal>) -> Arc<Job> {
    match result {
        Ok(ControlDone::Job(job)) => job,
        other => panic!("no job: {other:?}"),
    }
}

fn retry(id: JobId) -> Control {
    Control::Retry { id, request: None }
}

/// Creates one job in each state, in queues that keep them there.
fn one_of_each(rig: &mut Rig) -> Vec<(StateName, JobId)> {
    rig.queue("still", 0);
    rig.queue("live", 10);
    let scheduled = rig.submit(NewJob { run_time: Some(at(3_600).into()), ..job("still", Rig::KIND) });
    let unique = || key("a", OnConflict::Follow, OnConflict::Follow);
    rig.submit(keyed(unique(), job("still", Rig::KIND)));
    let blocked = rig.submit(keyed(unique(), job("still", Rig::KIND)));
    let queued = rig.submit(job("still", Rig::KIND));
    let running = rig.submit_all(vec![job("live", Rig::KIND); 6]);
    rig.report(&running[1], failed(true, "")).unwrap();
    rig.control(Control::Cancel(running[2].id)).unwrap();
    rig.report(&running[3], succeeded()).unwrap();
    rig.report(&running[4], failed(false, "")).unwrap();
    rig.control(Control::Cancel(running[5].id)).unwrap();
    rig.report(&running[5], failed(false, "")).unwrap();
    let expired = rig.submit(NewJob { expires: Some(rig.now.into()), ..job("still", Rig::KIND) });
    let ids = [&scheduled, &blocked, &queued].into_iter().chain(&running).chain([&expired]).map(|job| job.id);
    let all: Vec<_> = StateName::ALL.into_iter().zip(ids).collect();
    for (state, id) in &all {
        assert_eq!(rig.state(*id), *state);
    }
    all
}

fn a_waiting_job_is_cancelled_at_once(rig: &mut Rig) {
    for (state, id) in one_of_each(rig) {
        if matches!(
            state,
            StateName::Scheduled | StateName::Blocked | StateName::Queued | StateName::BackingOff
        ) {
            let cancelled = done(rig.control(Control::Cancel(id)));
            assert_eq!((cancelled.state.name(), cancelled.ended), (StateName::Cancelled, Some(rig.now)));
            assert_eq!(rig.job(id), *cancelled);
        }
    }
}

fn a_running_job_is_asked_to_stop(rig: &mut Rig) {
    rig.queue("q", 1);
    let running = rig.submit(job("q", Rig::KIND));
    let cancelling = done(rig.control(Control::Cancel(running.id)));
    assert_eq!(cancelling.state.name(), StateName::Cancelling);
    assert_eq!(lease(&cancelling), lease(&running), "the attempt may still report");
    // A cancelled job holds its slot until its attempt is over.
    let next = rig.submit(job("q", Rig::KIND));
    assert_eq!(rig.state(next.id), StateName::Queued);
    rig.report(&cancelling, ReportBody::Released { delay: None }).unwrap();
    assert_eq!(rig.state(running.id), StateName::Cancelled);
    rig.tick();
    assert_eq!(rig.state(next.id), StateName::Running);
}

fn under_cancelling_success_counts_and_failure_is_the_cancel(rig: &mut Rig) {
    rig.queue("q", 2);
    let jobs = rig.submit_all(vec![job("q", Rig::KIND); 2]);
    for job in &jobs {
        rig.control(Control::Cancel(job.id)).unwrap();
    }
    rig.report(&jobs[0], returned("done", "")).unwrap();
    rig.report(&jobs[1], failed(true, "")).unwrap();
    assert_eq!(rig.state(jobs[0].id), StateName::Succeeded);
    assert_eq!(rig.state(jobs[1].id), StateName::Cancelled);
    rig.pass(3600);
    assert!(rig.tick().claims.is_empty(), "a cancelled job is never retried by itself");
}

fn cancelling_twice_is_fine_and_an_ended_job_stays_ended(rig: &mut Rig) {
    for (state, id) in one_of_each(rig) {
        let (before, end) = (rig.job(id), rig.end());
        match state {
            StateName::Cancelling | StateName::Cancelled => {
                assert_eq!(*done(rig.control(Control::Cancel(id))), before);
            }
            StateName::Succeeded | StateName::Failed | StateName::Expired => {
                assert_eq!(refused(rig.control(Control::Cancel(id))), state);
            }
            StateName::Scheduled
            | StateName::Blocked
            | StateName::Queued
            | StateName::Running
            | StateName::BackingOff => continue,
        }
        assert_eq!((rig.job(id), rig.end()), (before, end), "nothing changed");
    }
}

fn a_retry_brings_back_what_ended(rig: &mut Rig) {
    rig.queue("q", 1);
    let once = rig.submit(NewJob { max_attempts: 1, ..job("q", Rig::KIND) });
    rig.report(&once, failed(true, "")).unwrap();
    assert_eq!(rig.state(once.id), StateName::Failed);
    let back = done(rig.control(retry(once.id)));
    // The answer shows the job as the control left it, though the same batch started it.
    assert_eq!((back.state.name(), back.max_attempts, back.ended), (StateName::Queued, 2, None));
    let running = rig.job(once.id);
    assert_eq!((running.state.name(), running.attempt), (StateName::Running, 2));
    rig.report(&running, succeeded()).unwrap();
    let attempts = rig.whole(once.id).attempts;
    assert_eq!(attempts.iter().map(|attempt| attempt.number).collect::<Vec<_>>(), [1, 2]);
}

fn a_retry_brings_forward_what_waits(rig: &mut Rig) {
    let all = one_of_each(rig);
    rig.control(Control::UpdateQueue { name: "live".into(), settings: settings(0, 100) }).unwrap();
    for (state, id) in all {
        if matches!(state, StateName::Scheduled | StateName::BackingOff) {
            let before = rig.job(id);
            let retried = done(rig.control(retry(id)));
            assert_eq!(retried.state.name(), StateName::Queued);
            assert_eq!((retried.attempt, retried.max_attempts), (before.attempt, before.max_attempts));
        }
    }
}

fn a_retry_of_what_runs_or_succeeded_is_refused(rig: &mut Rig) {
    for (state, id) in one_of_each(rig) {
        if matches!(
            state,
            StateName::Blocked
                | StateName::Queued
                | StateName::Running
                | StateName::Cancelling
                | StateName::Succeeded
        ) {
            let before = rig.job(id);
            assert_eq!(refused(rig.control(retry(id))), state);
            assert_eq!(rig.job(id), before);
        }
    }
}

fn a_retry_into_a_deleted_queue_is_refused(rig: &mut Rig) {
    rig.queue("q", 1);
    let ended = rig.submit(job("q", Rig::KIND));
    rig.report(&ended, failed(false, "")).unwrap();
    rig.control(Control::DeleteQueue { name: "q".into() }).unwrap();
    assert_eq!(rig.control(retry(ended.id)).unwrap_err(), ControlRefusal::QueueNotFound("q".into()));
    assert_eq!(rig.state(ended.id), StateName::Failed);
    rig.queue("q", 1);
    rig.control(retry(ended.id)).unwrap();
    assert_eq!(rig.state(ended.id), StateName::Running);
}

fn a_deleted_job_leaves_nothing_but_its_tombstone(rig: &mut Rig) {
    for (state, id) in one_of_each(rig) {
        if matches!(state, StateName::Running | StateName::Cancelling) {
            continue;
        }
        let before = rig.end();
        assert!(matches!(rig.control(Control::Delete(id)), Ok(ControlDone::JobDeleted)));
        let reader = rig.reader();
        assert_eq!(reader.job(id).unwrap(), None);
        assert_eq!(reader.whole_job(id).unwrap(), None);
        assert_eq!(reader.payload(id).unwrap(), None);
        let changes = rig.changes(before, 10);
        let [Change::Deleted(tombstone)] = &changes.entries[..] else { panic!("{changes:?}") };
        let deleted = tombstone.deleted.as_micros();
        assert_eq!((tombstone.id, tombstone.position, deleted), (id, rig.end(), rig.now.as_micros()));
        assert_eq!(tombstone.spec.kind.as_str(), Rig::KIND);
    }
}

fn a_running_job_is_not_deleted(rig: &mut Rig) {
    for (state, id) in one_of_each(rig) {
        if matches!(state, StateName::Running | StateName::Cancelling) {
            assert_eq!(refused(rig.control(Control::Delete(id))), state);
            assert_eq!(rig.state(id), state);
        }
    }
}

fn unknown_jobs_are_told_as_such(rig: &mut Rig) {
    let (nobody, end): (JobId, _) = ("0000000000001".parse().unwrap(), rig.end());
    for control in [Control::Cancel(nobody), retry(nobody), Control::Delete(nobody)] {
        assert_eq!(rig.control(control).unwrap_err(), ControlRefusal::JobNotFound(nobody));
    }
    assert_eq!(rig.end(), end);
}
