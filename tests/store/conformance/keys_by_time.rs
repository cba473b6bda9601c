//! Unique keys by time: holds, debounce and throttle.

use std::time::Duration;

use bytes::Bytes;
use jobmill::{
    engine::{NewJob, OfferRefusal},
    job::{Debounce, JobId, OnConflict, StateName, SubmitOutcome, UniqueKey},
    settings::{Keep, QueueRetention, QueueSettings},
};

use crate::store::{
    batch::{Control, ControlDone, Receipt},
    build::{at, job, key, keyed, settings},
    rig::{Rig, claimed, failed, offer, refused, succeeded},
};

both_stores!(
    a_hold_keeps_the_key_for_later_comers,
    a_hold_outlives_its_job_in_retention,
    deleting_the_job_frees_a_hold,
    a_hold_does_not_delay_a_successor_that_stands,
    a_follower_during_a_hold_starts_at_its_end,
    a_hold_ends_by_elapsed_time_across_a_crash,
    a_job_that_holds_its_own_key_is_retried,
    each_submission_puts_a_debounced_start_off,
    a_key_that_never_rests_still_runs,
    debounced_submissions_while_the_job_runs_make_one_more_run,
    a_throttled_key_starts_once_a_period_with_the_latest_words,
    a_throttled_successor_waits_for_the_next_period,
    a_throttle_without_a_start_frees_the_key,
    rows_of_keys_that_are_over_are_removed,
);

fn unique(unique: UniqueKey) -> UniqueKey {
    UniqueKey { key: "a".to_owned(), ..unique }
}

fn new(text: &str, key: UniqueKey) -> NewJob {
    NewJob { payload: Bytes::copy_from_slice(text.as_bytes()), ..keyed(unique(key), job("q", Rig::KIND)) }
}

fn seconds(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

fn hold() -> UniqueKey {
    UniqueKey { hold: seconds(60), ..UniqueKey::default() }
}

fn debounce() -> UniqueKey {
    let debounce = Some(Debounce { quiet: Duration::from_secs(10), max_wait: seconds(25) });
    UniqueKey { debounce, ..UniqueKey::default() }
}

fn throttle() -> UniqueKey {
    UniqueKey { throttle: seconds(60), ..UniqueKey::default() }
}

fn probe() -> UniqueKey {
    key("a", OnConflict::Reject, OnConflict::Reject)
}

/// Submits a job, and returns its outcome and the id of the job that has its words.
fn submit(rig: &mut Rig, job: NewJob) -> (SubmitOutcome, JobId) {
    match rig.offer(offer(vec![job])) {
        Receipt::Created { jobs } => (SubmitOutcome::Created, jobs[0].id),
        Receipt::Met { jobs } => (jobs[0].outcome, jobs[0].id),
        other => panic!("{other:?}"),
    }
}

fn rows(rig: &Rig) -> usize {
    rig.reader().unique_keys(None, 10).unwrap().len()
}

fn text(rig: &Rig, id: JobId) -> String {
    String::from_utf8(rig.whole(id).payload.to_vec()).unwrap()
}

fn run(rig: &mut Rig, id: JobId) {
    rig.report(&rig.job(id), succeeded()).unwrap();
}

fn a_hold_keeps_the_key_for_later_comers(rig: &mut Rig) {
    rig.queue("q", 1);
    let (_, holder) = submit(rig, new("", hold()));
    run(rig, holder);
    rig.pass(59);
    assert_eq!(submit(rig, new("", hold())), (SubmitOutcome::Existing, holder));
    let state = Some(StateName::Succeeded);
    match refused(rig.offer(offer(vec![new("", probe())]))) {
        OfferRefusal::KeyHeld { holder: told, state: of, .. } => {
            assert_eq!((told, of), (Some(holder), state))
        }
        other => panic!("{other:?}"),
    }
    rig.pass(1);
    assert_eq!(submit(rig, new("", hold())).0, SubmitOutcome::Created, "exactly at its end it is over");
}

fn a_hold_outlives_its_job_in_retention(rig: &mut Rig) {
    let retention =
        QueueRetention { succeeded: Some(Keep::For(Duration::from_secs(1))), ..QueueRetention::default() };
    rig.queue_with("q", QueueSettings { retention, ..settings(1, 100) });
    let (_, holder) = submit(rig, new("", UniqueKey { hold: seconds(3_600), ..UniqueKey::default() }));
    run(rig, holder);
    rig.live(60);
    assert_eq!(rig.reader().job(holder).unwrap(), None, "retention has deleted the job");
    assert_eq!(submit(rig, new("", hold())), (SubmitOutcome::Existing, holder));
    assert!(matches!(
        refused(rig.offer(offer(vec![new("", probe())]))),
        OfferRefusal::KeyHeld { holder: Some(told), state: None, .. } if told == holder
    ));
    let held = rig.reader().unique_keys(None, 10).unwrap().remove(0).1;
    assert_eq!((held.has_ended, held.name.unwrap().key.as_str()), (true, "a"), "it is listed by its name");
}

fn deleting_the_job_frees_a_hold(rig: &mut Rig) {
    rig.queue("q", 1);
    let (_, holder) = submit(rig, new("", hold()));
    run(rig, holder);
    rig.control(Control::Delete(holder)).unwrap();
    assert_eq!((rows(rig), submit(rig, new("", hold())).0), (0, SubmitOutcome::Created));
}

fn a_hold_does_not_delay_a_successor_that_stands(rig: &mut Rig) {
    rig.queue("q", 1);
    let follow = || UniqueKey { on_started: Some(OnConflict::Follow), ..hold() };
    let (_, holder) = submit(rig, new("", follow()));
    let (_, follower) = submit(rig, new("", follow()));
    run(rig, holder);
    assert_eq!(claimed(&rig.tick()), [follower]);
}

fn a_follower_during_a_hold_starts_at_its_end(rig: &mut Rig) {
    rig.queue("q", 1);
    let follow = || UniqueKey { on_started: Some(OnConflict::Follow), ..hold() };
    let (_, holder) = submit(rig, new("", follow()));
    run(rig, holder);
    rig.pass(20);
    let (outcome, follower) = submit(rig, new("first", follow()));
    assert_eq!((outcome, rig.job(follower).state.due()), (SubmitOutcome::Created, Some(at(60))));
    // It holds the key now, and no words of later ones make it start earlier.
    let replace = UniqueKey { on_waiting: Some(OnConflict::Replace), ..follow() };
    assert_eq!(submit(rig, new("second", replace)), (SubmitOutcome::Replaced, follower));
    assert_eq!(rig.job(follower).state.due(), Some(at(60)));
    rig.live(39);
    assert_eq!(rig.state(follower), StateName::Scheduled);
    rig.live(1);
    assert_eq!((rig.state(follower), text(rig, follower)), (StateName::Running, "second".to_owned()));
}

fn a_hold_ends_by_elapsed_time_across_a_crash(rig: &mut Rig) {
    rig.queue("q", 1);
    let (_, holder) = submit(rig, new("", hold()));
    run(rig, holder);
    // The clock does not count.
    rig.set_clock(at(10_000));
    assert_eq!(submit(rig, new("", hold())), (SubmitOutcome::Existing, holder));
    rig.set_clock(at(0));
    rig.pass(30);
    rig.crash();
    assert_eq!(submit(rig, new("", hold())), (SubmitOutcome::Existing, holder));
    rig.pass(31);
    assert_eq!(submit(rig, new("", hold())).0, SubmitOutcome::Created);
}

fn a_job_that_holds_its_own_key_is_retried(rig: &mut Rig) {
    rig.queue("q", 1);
    let (_, holder) = submit(rig, new("", hold()));
    rig.report(&rig.job(holder), failed(false, "")).unwrap();
    assert_eq!(submit(rig, new("", hold())), (SubmitOutcome::Existing, holder));
    assert!(matches!(rig.control(Control::Retry { id: holder, request: None }), Ok(ControlDone::Job(_))));
    run(rig, holder);
    rig.pass(59);
    assert_eq!(submit(rig, new("", hold())), (SubmitOutcome::Existing, holder), "the hold begins anew");
}

fn each_submission_puts_a_debounced_start_off(rig: &mut Rig) {
    rig.queue("q", 1);
    let (_, id) = submit(rig, new("0", debounce()));
    assert_eq!(rig.job(id).state.due(), Some(at(10)));
    rig.pass(6);
    assert_eq!(submit(rig, new("1", debounce())), (SubmitOutcome::Replaced, id));
    assert_eq!(rig.job(id).state.due(), Some(at(16)));
    rig.live(9);
    assert_eq!(rig.state(id), StateName::Scheduled);
    rig.live(1);
    assert_eq!((rig.state(id), text(rig, id)), (StateName::Running, "1".to_owned()));
    assert_eq!(rig.job(id).rare().replaced, 1);
}

fn a_key_that_never_rests_still_runs(rig: &mut Rig) {
    rig.queue("q", 1);
    let (_, id) = submit(rig, new("0", debounce()));
    for second in 1..25 {
        rig.pass(1);
        assert_eq!(submit(rig, new(&second.to_string(), debounce())), (SubmitOutcome::Replaced, id));
        let quiet = (second + 10).min(25);
        assert_eq!(rig.job(id).state.due(), Some(at(quiet)), "at most 25 s after the first");
    }
    rig.pass(1);
    // The start comes due with the last submission: that one is not lost, and the job starts.
    let (outcome, last) = submit(rig, new("last", debounce()));
    assert_eq!(rig.state(id), StateName::Running);
    assert_eq!((outcome, last, text(rig, id)), (SubmitOutcome::Replaced, id, "last".to_owned()));
}

fn debounced_submissions_while_the_job_runs_make_one_more_run(rig: &mut Rig) {
    rig.queue("q", 1);
    let (_, id) = submit(rig, new("0", debounce()));
    rig.live(10);
    assert_eq!(rig.state(id), StateName::Running);
    let (outcome, next) = submit(rig, new("1", debounce()));
    assert_eq!((outcome, rig.state(next)), (SubmitOutcome::Created, StateName::Blocked));
    rig.pass(5);
    assert_eq!(submit(rig, new("2", debounce())), (SubmitOutcome::Replaced, next));
    run(rig, id);
    assert_eq!(rig.job(next).state.due(), Some(at(25)), "it rests after the latest submission");
    rig.live(10);
    assert_eq!((rig.state(next), text(rig, next)), (StateName::Running, "2".to_owned()));
}

fn a_throttled_key_starts_once_a_period_with_the_latest_words(rig: &mut Rig) {
    rig.queue("q", 1);
    let (_, first) = submit(rig, new("0", throttle()));
    assert_eq!(rig.state(first), StateName::Running);
    rig.pass(10);
    run(rig, first);
    let (outcome, second) = submit(rig, new("1", throttle()));
    assert_eq!((outcome, rig.job(second).state.due()), (SubmitOutcome::Created, Some(at(60))));
    rig.pass(10);
    assert_eq!(submit(rig, new("2", throttle())), (SubmitOutcome::Replaced, second));
    assert_eq!(rig.job(second).state.due(), Some(at(60)), "the latest waits for the next period");
    rig.live(39);
    assert_eq!(rig.state(second), StateName::Scheduled);
    rig.live(1);
    assert_eq!((rig.state(second), text(rig, second)), (StateName::Running, "2".to_owned()));
    rig.pass(5);
    run(rig, second);
    rig.pass(55);
    let (outcome, third) = submit(rig, new("3", throttle()));
    assert_eq!((outcome, rig.state(third)), (SubmitOutcome::Created, StateName::Running), "a period is over");
}

fn a_throttled_successor_waits_for_the_next_period(rig: &mut Rig) {
    rig.queue("q", 1);
    let (_, first) = submit(rig, new("0", throttle()));
    let (_, next) = submit(rig, new("1", throttle()));
    assert_eq!(rig.state(next), StateName::Blocked);
    rig.pass(10);
    run(rig, first);
    assert_eq!(rig.job(next).state.due(), Some(at(60)));
    assert_eq!(submit(rig, new("2", throttle())), (SubmitOutcome::Replaced, next));
    assert_eq!(rig.job(next).state.due(), Some(at(60)));
    // A job that ran for longer than a period delays its successor no further.
    rig.live(50);
    assert_eq!(rig.state(next), StateName::Running);
    let (_, last) = submit(rig, new("3", throttle()));
    rig.pass(100);
    run(rig, next);
    rig.tick();
    assert_eq!(rig.state(last), StateName::Running);
}

fn a_throttle_without_a_start_frees_the_key(rig: &mut Rig) {
    rig.queue("q", 0);
    let (_, first) = submit(rig, new("0", throttle()));
    rig.control(Control::Cancel(first)).unwrap();
    assert_eq!(rows(rig), 0);
}

fn rows_of_keys_that_are_over_are_removed(rig: &mut Rig) {
    rig.queue("q", 5);
    for number in 0..3 {
        let unique = UniqueKey { key: number.to_string(), ..hold() };
        let job = rig.submit(keyed(unique, job("q", Rig::KIND)));
        rig.report(&job, succeeded()).unwrap();
        rig.pass(10);
    }
    assert_eq!(rows(rig), 3);
    rig.live(45);
    assert_eq!(rows(rig), 1, "the last one has some time left");
    rig.crash();
    rig.live(60);
    assert_eq!(rows(rig), 0);
}
