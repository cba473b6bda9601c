//! A wall clock that is set, forward and back, while a server runs and while none does.

use std::time::Duration;

use jobmill::{
    clock::Timestamp,
    engine::NewJob,
    job::{Job, JobFilter, JobId, Position, RetryPolicy, StateName},
    store::{Scan, ScanOrder},
};

use crate::store::{
    batch::Control,
    batch::{Batch, Receipt},
    build::{at, job, requested, settings},
    rig::{Rig, claimed, failed, succeeded},
};

both_stores!(
    a_backoff_ends_on_time_though_the_clock_was_set_back,
    a_backoff_does_not_end_early_though_the_clock_was_set_ahead,
    a_backoff_is_shown_as_the_clock_that_was_set_will_say_it,
    a_backoff_counts_the_time_without_a_server,
    a_backoff_goes_on_under_a_clock_that_was_never_set_at_boot,
    due_jobs_start_in_the_order_of_their_times_whatever_they_waited_for,
    scheduled_jobs_and_expiry_follow_the_clock,
    ended_jobs_are_kept_for_their_time_though_the_clock_was_set,
    jobs_that_ended_under_a_wrong_clock_are_kept_for_their_time,
    a_clock_ahead_at_the_start_deletes_nothing_if_it_is_set_right_within_the_hour,
    a_clock_ahead_at_the_start_deletes_nothing_if_the_next_start_has_a_right_one,
    time_without_a_server_counts_for_retention_after_an_hour,
    what_ends_within_that_hour_is_kept_for_its_own_time,
    a_clock_that_was_never_set_at_boot_hastens_no_deletion_when_it_is_set,
    a_request_is_remembered_for_a_day_though_the_clock_was_set,
    how_long_jobs_have_been_ready_is_told_though_the_clock_was_set,
    what_the_clock_did_is_known_after_a_crash,
    a_clock_in_the_far_future_leaves_ids_for_those_that_follow,
);

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;
const YEARS: i64 = 9 * 365 * DAY as i64;

/// Returns a job that backs off for 60 s after its first attempt.
fn backing_off(rig: &mut Rig) -> Job {
    let retry = RetryPolicy { initial_delay: Duration::from_secs(60), jitter: 0.0, ..RetryPolicy::DEFAULT };
    let running = rig.submit(NewJob { retry, ..job("q", Rig::KIND) });
    rig.report(&running, failed(true, "")).unwrap();
    rig.job(running.id)
}

fn ended(rig: &mut Rig) -> JobId {
    let running = rig.submit(NewJob { max_attempts: 1, ..job("q", Rig::KIND) });
    rig.report(&running, succeeded()).unwrap();
    running.id
}

fn there(rig: &Rig, id: JobId) -> bool {
    rig.reader().job(id).unwrap().is_some()
}

/// Returns the instant this many seconds from the clock's present time.
fn off(rig: &Rig, seconds: i64) -> Timestamp {
    Timestamp::from_micros(rig.now.as_micros() + seconds * 1_000_000)
}

fn a_backoff_ends_on_time_though_the_clock_was_set_back(rig: &mut Rig) {
    rig.queue("q", 1);
    let waiting = backing_off(rig);
    rig.set_clock(off(rig, -7_200));
    rig.pass(59);
    let applied = rig.tick();
    assert_eq!(claimed(&applied), []);
    assert_eq!(rig.wake(&applied), Some(rig.now.after(Duration::from_secs(1))));
    rig.pass(1);
    assert_eq!(claimed(&rig.tick()), [waiting.id]);
}

fn a_backoff_does_not_end_early_though_the_clock_was_set_ahead(rig: &mut Rig) {
    rig.queue("q", 1);
    let waiting = backing_off(rig);
    rig.set_clock(off(rig, YEARS));
    assert_eq!(claimed(&rig.tick()), []);
    rig.pass(59);
    assert_eq!(claimed(&rig.tick()), []);
    rig.pass(1);
    assert_eq!(claimed(&rig.tick()), [waiting.id]);
}

fn a_backoff_is_shown_as_the_clock_that_was_set_will_say_it(rig: &mut Rig) {
    rig.queue("q", 1);
    let waiting = backing_off(rig);
    assert_eq!(waiting.state.due(), Some(at(60)));
    rig.pass(10);
    rig.set_clock(at(5_000));
    rig.tick();
    let shown = |rig: &Rig| {
        let job = rig.job(waiting.id);
        assert_eq!((job.updated, job.revision), (waiting.updated, waiting.revision), "what was stays");
        let order = ScanOrder::OldestFirst { after: None, last: None };
        let scan = Scan { order, limit: 9, budget: 9 };
        let listed = rig.reader().scan(&JobFilter::default(), scan).unwrap().jobs;
        assert_eq!((listed.len(), listed[0].state), (1, job.state));
        job.state.due().unwrap()
    };
    assert_eq!(shown(rig), at(5_050));
    rig.set_clock(at(0));
    rig.tick();
    assert_eq!(shown(rig), at(50));
}

fn a_backoff_counts_the_time_without_a_server(rig: &mut Rig) {
    rig.queue("q", 1);
    let waiting = backing_off(rig);
    rig.pass(40);
    rig.crash();
    assert_eq!(claimed(&rig.tick()), []);
    rig.pass(20);
    assert_eq!(claimed(&rig.tick()), [waiting.id]);
}

fn a_backoff_goes_on_under_a_clock_that_was_never_set_at_boot(rig: &mut Rig) {
    rig.queue("q", 1);
    let waiting = backing_off(rig);
    rig.set_clock(Timestamp::from_micros(0));
    rig.crash();
    rig.pass(59);
    assert_eq!(claimed(&rig.tick()), []);
    // NTP corrects the clock.
    rig.set_clock(at(500));
    assert_eq!(claimed(&rig.tick()), []);
    rig.pass(1);
    assert_eq!(claimed(&rig.tick()), [waiting.id], "it has waited for its time, and not for 50 years");
}

fn due_jobs_start_in_the_order_of_their_times_whatever_they_waited_for(rig: &mut Rig) {
    rig.queue("q", 3);
    let waiting = backing_off(rig);
    let scheduled = |rig: &mut Rig, seconds| {
        rig.submit(NewJob { run_time: Some(at(seconds).into()), ..job("q", Rig::KIND) }).id
    };
    let (later, sooner) = (scheduled(rig, 70), scheduled(rig, 50));
    rig.until(at(80));
    assert_eq!(claimed(&rig.tick()), [sooner, waiting.id, later]);
}

fn scheduled_jobs_and_expiry_follow_the_clock(rig: &mut Rig) {
    rig.queue("q", 1);
    rig.queue("idle", 0);
    let scheduled = rig.submit(NewJob { run_time: Some(at(1_000).into()), ..job("q", Rig::KIND) });
    let expiring = rig.submit(NewJob { expires: Some(at(1_000).into()), ..job("idle", Rig::KIND) });
    rig.set_clock(at(-500));
    rig.pass(1_000);
    let applied = rig.tick();
    assert_eq!((claimed(&applied), rig.soon(&applied)), (vec![], Some(at(1_000))));
    rig.set_clock(at(1_000));
    assert_eq!(claimed(&rig.tick()), [scheduled.id]);
    assert_eq!(rig.state(expiring.id), StateName::Expired);
}

fn ended_jobs_are_kept_for_their_time_though_the_clock_was_set(rig: &mut Rig) {
    rig.queue("q", 1);
    for seconds in [-(2 * DAY as i64), YEARS, -YEARS] {
        let id = ended(rig);
        rig.set_clock(off(rig, seconds));
        rig.live(DAY - 1);
        assert!(there(rig, id), "set by {seconds} s, it was deleted early");
        rig.live(3);
        assert!(!there(rig, id), "set by {seconds} s, it was not deleted");
    }
}

fn jobs_that_ended_under_a_wrong_clock_are_kept_for_their_time(rig: &mut Rig) {
    rig.queue("q", 1);
    for wrong in [off(rig, YEARS), Timestamp::from_micros(0)] {
        let right = rig.now;
        rig.set_clock(wrong);
        let id = ended(rig);
        assert_eq!(rig.job(id).ended, Some(wrong), "what is shown is what the clock said");
        rig.set_clock(right);
        rig.live(DAY - 1);
        assert!(there(rig, id), "it ended at {wrong} and was deleted early");
        rig.live(3);
        assert!(!there(rig, id), "it ended at {wrong} and was not deleted");
    }
}

fn a_clock_ahead_at_the_start_deletes_nothing_if_it_is_set_right_within_the_hour(rig: &mut Rig) {
    rig.queue("q", 1);
    let id = ended(rig);
    rig.set_clock(off(rig, YEARS));
    rig.crash();
    rig.live(HOUR - 1);
    rig.set_clock(off(rig, -YEARS));
    rig.live(DAY - HOUR);
    assert!(there(rig, id));
    rig.live(4);
    assert!(!there(rig, id));
}

fn a_clock_ahead_at_the_start_deletes_nothing_if_the_next_start_has_a_right_one(rig: &mut Rig) {
    rig.queue("q", 1);
    let id = ended(rig);
    rig.set_clock(off(rig, YEARS));
    rig.crash();
    rig.live(HOUR - 1);
    // A change is stored under the wrong clock.
    let late = ended(rig);
    rig.set_clock(off(rig, -YEARS));
    rig.crash();
    rig.live(DAY - HOUR);
    assert_eq!((there(rig, id), there(rig, late)), (true, true));
    rig.live(4);
    assert_eq!((there(rig, id), there(rig, late)), (false, true));
    rig.live(HOUR);
    assert!(!there(rig, late));
}

fn time_without_a_server_counts_for_retention_after_an_hour(rig: &mut Rig) {
    rig.queue("q", 1);
    let id = ended(rig);
    rig.pass(7 * DAY);
    rig.crash();
    rig.live(HOUR - 1);
    assert!(there(rig, id));
    let applied = rig.tick();
    assert_eq!(rig.soon(&applied), Some(rig.now.after(Duration::from_secs(1))));
    rig.live(1);
    assert!(!there(rig, id));
}

fn what_ends_within_that_hour_is_kept_for_its_own_time(rig: &mut Rig) {
    rig.queue("q", 1);
    let before = ended(rig);
    rig.pass(7 * DAY);
    rig.crash();
    rig.live(60);
    let within = ended(rig);
    rig.live(DAY - 1);
    assert_eq!((there(rig, before), there(rig, within)), (false, true));
    rig.live(4);
    assert!(!there(rig, within));
}

fn a_clock_that_was_never_set_at_boot_hastens_no_deletion_when_it_is_set(rig: &mut Rig) {
    rig.queue("q", 1);
    let id = ended(rig);
    let right = rig.now;
    rig.set_clock(Timestamp::from_micros(0));
    rig.crash();
    let late = ended(rig);
    rig.live(60);
    // The clock is corrected twice: while the server runs, and at the next start.
    rig.set_clock(right);
    rig.live(2 * HOUR);
    assert_eq!((there(rig, id), there(rig, late)), (true, true));
    let right = rig.now;
    rig.set_clock(Timestamp::from_micros(0));
    rig.crash();
    rig.live(60);
    rig.set_clock(right);
    rig.crash();
    rig.live(2 * HOUR);
    assert_eq!((there(rig, id), there(rig, late)), (true, true));
    rig.live(21 * HOUR);
    assert_eq!((there(rig, id), there(rig, late)), (false, false));
}

fn a_request_is_remembered_for_a_day_though_the_clock_was_set(rig: &mut Rig) {
    rig.queue("q", 1);
    let asked = |rig: &mut Rig| rig.offer(requested("id", "said", vec![job("q", Rig::KIND)]));
    let Receipt::Created { jobs } = asked(rig) else { panic!("not created") };
    rig.report(&jobs[0], succeeded()).unwrap();
    rig.control(Control::Delete(jobs[0].id)).unwrap();
    let gone_at = rig.end();
    for seconds in [YEARS, -2 * YEARS] {
        rig.set_clock(off(rig, seconds));
        rig.live(DAY / 2 - 1);
        assert!(matches!(asked(rig), Receipt::Gone { live: 0 }));
        assert_eq!(rig.changes(Position::default(), 9).floor, Position::default());
    }
    rig.live(4);
    assert_eq!(rig.changes(Position::default(), 9).floor, gone_at);
    assert!(matches!(asked(rig), Receipt::Created { .. }));
}

fn how_long_jobs_have_been_ready_is_told_though_the_clock_was_set(rig: &mut Rig) {
    rig.queue("q", 0);
    let ready = rig.submit(job("q", Rig::KIND));
    let queue = ready.spec.queue.clone();
    for (seconds, age) in [(YEARS, 10), (-2 * YEARS, 20)] {
        rig.set_clock(off(rig, seconds));
        rig.pass(10);
        rig.tick();
        let since = rig.reader().oldest_ready(&queue).unwrap().unwrap();
        assert_eq!(rig.now.since(since), Duration::from_secs(age));
    }
    let settings = settings(1, 1_000);
    let update = Control::UpdateQueue { name: "q".into(), settings };
    let batch = Batch { controls: vec![update], claim: true, ..Default::default() };
    let claim = rig.apply(batch).claims.pop().unwrap();
    assert_eq!(rig.now.since(claim.ready), Duration::from_secs(20));
}

fn what_the_clock_did_is_known_after_a_crash(rig: &mut Rig) {
    rig.queue("q", 1);
    rig.set_clock(off(rig, YEARS));
    let ahead = ended(rig);
    rig.set_clock(off(rig, -YEARS));
    let right = ended(rig);
    rig.crash();
    rig.live(DAY - 1);
    assert_eq!((there(rig, ahead), there(rig, right)), (true, true));
    rig.live(3);
    assert_eq!((there(rig, ahead), there(rig, right)), (false, false));
}

fn a_clock_in_the_far_future_leaves_ids_for_those_that_follow(rig: &mut Rig) {
    rig.queue("q", 0);
    let mut last = rig.submit(job("q", Rig::KIND)).id;
    rig.set_clock(Timestamp::MAX);
    let mut next = |rig: &mut Rig| {
        let id = rig.submit(job("q", Rig::KIND)).id;
        assert!(id > last, "{id} comes after {last}");
        last = id;
    };
    next(rig);
    next(rig);
    rig.set_clock(at(0));
    next(rig);
    rig.crash();
    next(rig);
    assert!(last.to_string().as_str() < "5", "there is room for as many again: {last}");
}
