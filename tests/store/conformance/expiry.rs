//! Jobs that expire before they start.

use jobmill::{engine::NewJob, job::StateName};

use crate::store::{
    batch::Batch,
    batch::Control,
    build::{at, job, settings},
    rig::{Rig, failed, path, succeeded},
};

both_stores!(
    a_job_that_has_not_started_in_time_expires_and_makes_room,
    a_job_that_has_started_does_not_expire_any_more,
    a_job_that_was_released_before_it_started_can_expire,
    a_job_that_was_released_for_later_expires_in_place_of_its_first_attempt,
    one_that_comes_too_late_expires_at_once_and_takes_no_slot,
    a_scheduled_job_expires_between_batches,
    expiry_is_told_in_time_and_goes_on_after_a_crash,
    expiry_goes_in_bounded_steps,
);

fn expiring(seconds: i64) -> NewJob {
    NewJob { expires: Some(at(seconds).into()), ..job("q", Rig::KIND) }
}

fn a_job_that_has_not_started_in_time_expires_and_makes_room(rig: &mut Rig) {
    rig.queue("q", 0);
    let (kept, over) = (rig.submit(expiring(20)), rig.submit(expiring(10)));
    rig.until(at(9));
    assert!(rig.tick().changes.is_empty());
    rig.until(at(10));
    let applied = rig.tick();
    assert_eq!((path(&applied, over.id), applied.room), (vec![StateName::Expired], true));
    assert_eq!((rig.job(over.id).ended, rig.state(kept.id)), (Some(at(10)), StateName::Queued));
    let refusal = rig.control(Control::Cancel(over.id)).unwrap_err();
    assert!(refusal.to_string().contains("is EXPIRED"), "{refusal}");
    assert!(rig.control(Control::Retry { id: over.id, request: None }).is_err());
}

fn a_job_that_has_started_does_not_expire_any_more(rig: &mut Rig) {
    rig.queue("q", 1);
    let running = rig.submit(expiring(1));
    rig.until(at(100));
    assert!(rig.tick().changes.is_empty());
    rig.report(&running, failed(true, "")).unwrap();
    rig.pass(3_600);
    // A job does not expire between two attempts.
    assert_eq!(path(&rig.tick(), running.id), [StateName::Running]);
    rig.report(&rig.job(running.id), succeeded()).unwrap();
    assert_eq!(rig.state(running.id), StateName::Succeeded);
}

fn a_job_that_was_released_before_it_started_can_expire(rig: &mut Rig) {
    rig.queue("q", 1);
    let running = rig.submit(expiring(5));
    rig.until(at(5));
    rig.report(&running, jobmill::engine::ReportBody::Released { delay: None }).unwrap();
    assert_eq!((rig.state(running.id), rig.job(running.id).counted_attempts()), (StateName::Expired, 0));
}

fn a_job_that_was_released_for_later_expires_in_place_of_its_first_attempt(rig: &mut Rig) {
    rig.queue("q", 1);
    let running = rig.submit(expiring(5));
    let delay = Some(std::time::Duration::from_secs(10));
    rig.report(&running, jobmill::engine::ReportBody::Released { delay }).unwrap();
    assert_eq!(rig.state(running.id), StateName::BackingOff);
    rig.until(at(100));
    assert_eq!(path(&rig.tick(), running.id), [StateName::Expired]);
}

fn one_that_comes_too_late_expires_at_once_and_takes_no_slot(rig: &mut Rig) {
    rig.queue("q", 1);
    rig.until(at(50));
    let late = rig.submit(expiring(50));
    assert_eq!((late.state.name(), late.ended, late.attempt), (StateName::Expired, Some(at(50)), 0));
    assert_eq!(rig.submit(expiring(51)).state.name(), StateName::Running);
}

fn a_scheduled_job_expires_between_batches(rig: &mut Rig) {
    rig.queue("q", 1);
    let sleeper = rig.submit(NewJob { run_time: Some(at(10).into()), ..expiring(20) });
    // No batch ran while its due time and its expiry passed.
    rig.until(at(30));
    assert_eq!(path(&rig.tick(), sleeper.id), [StateName::Expired]);
}

fn expiry_is_told_in_time_and_goes_on_after_a_crash(rig: &mut Rig) {
    rig.queue("q", 0);
    let over = rig.submit(expiring(40));
    let applied = rig.tick();
    assert_eq!(rig.soon(&applied), Some(at(40)));
    rig.crash();
    let applied = rig.tick();
    assert_eq!(rig.soon(&applied), Some(at(40)));
    rig.until(at(40));
    rig.crash();
    rig.tick();
    assert_eq!(rig.state(over.id), StateName::Expired);
}

fn expiry_goes_in_bounded_steps(rig: &mut Rig) {
    rig.queue_with("q", settings(0, 5_000));
    rig.submit_all(vec![expiring(10); 1_500]);
    rig.until(at(10));
    let controls = vec![Control::UpdateQueue { name: "q".into(), settings: settings(5, 5_000) }];
    let first = rig.apply(Batch { controls, claim: true, ..Batch::default() });
    // None of the remaining jobs is started.
    assert_eq!((first.claims.len(), first.more), (0, true));
    let second = rig.tick();
    assert_eq!((first.changes.len(), second.changes.len(), second.more), (1_005, 495, false));
}
