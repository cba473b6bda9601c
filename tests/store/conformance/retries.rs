//! What counts as an attempt, as a failure, as a snooze, and as the death of a process.

use std::time::Duration;

use jobmill::{
    engine::{NewJob, ReportBody},
    job::{Extras, FailureReason, Job, JobId, RetryPolicy, StateName},
};

use crate::store::{
    batch::Control,
    build::{failure, job},
    rig::{Rig, claimed, failed, path, succeeded},
    workers::hello,
};

both_stores!(
    a_snooze_counts_for_nothing_and_frees_its_slot,
    a_snoozed_job_goes_on_when_its_time_has_come,
    a_snooze_of_no_time_goes_to_the_end_of_the_line,
    snoozes_are_bounded,
    a_job_that_may_not_snooze_fails_at_its_first,
    a_snooze_under_cancel_is_a_cancel,
    a_job_with_one_attempt_starts_again_only_because_it_asked,
    a_job_that_was_snoozed_no_longer_expires,
    the_number_of_an_attempt_never_falls,
    failures_alone_move_the_backoff,
    listed_delays_follow_each_other_and_the_last_repeats,
    a_retry_keeps_the_counts_unless_they_are_reset,
    deaths_of_its_process_end_a_job,
    deaths_that_are_long_apart_do_not,
    the_limit_of_deaths_is_the_jobs_own,
    a_death_counts_as_an_attempt,
    a_death_under_cancel_is_a_cancel,
    a_new_process_of_a_worker_attests_the_death_of_the_one_before,
    an_expired_lease_is_no_death,
    a_restart_of_the_server_is_no_death,
    a_failure_after_deaths_is_no_poison,
    a_death_after_a_retry_ends_a_poison_job_again_unless_its_counts_are_reset,
);

fn steady() -> NewJob {
    NewJob { retry: RetryPolicy::DEFAULT.jitter(0.0), ..job("q", Rig::KIND) }
}

fn snoozed(seconds: u64) -> ReportBody {
    ReportBody::Snoozed { delay: Duration::from_secs(seconds), pause: None, tail: "later".into() }
}

fn died() -> ReportBody {
    ReportBody::Failed { failure: failure(true), delay: None, process_died: true, tail: String::new() }
}

/// Returns attempts, counted attempts, failures and snoozes.
fn counts(job: &Job) -> [u32; 4] {
    [job.attempt, job.counted_attempts(), job.failures(), job.rare().snoozes]
}

/// Waits for a job's next attempt, and returns it.
fn next(rig: &mut Rig, id: JobId) -> Job {
    rig.live(3_600);
    rig.job(id)
}

fn a_snooze_counts_for_nothing_and_frees_its_slot(rig: &mut Rig) {
    rig.queue("q", 1);
    let (first, second) = (rig.submit(steady()), rig.submit(steady()));
    rig.report(&first, snoozed(60)).unwrap();
    let after = rig.job(first.id);
    assert_eq!((after.state.name(), counts(&after)), (StateName::BackingOff, [1, 0, 0, 1]));
    assert_eq!(
        (after.state.due(), after.failure.as_ref()),
        (Some(rig.now.after(Duration::from_secs(60))), None)
    );
    assert!(after.rare().snoozed && after.started.is_some());
    let whole = rig.whole(first.id);
    assert_eq!((whole.output_tail.as_str(), whole.attempts.len()), ("later", 0));
    assert_eq!(claimed(&rig.tick()), [second.id]);
}

fn a_snoozed_job_goes_on_when_its_time_has_come(rig: &mut Rig) {
    rig.queue("q", 1);
    let first = rig.submit(steady());
    rig.report(&first, snoozed(60)).unwrap();
    rig.crash();
    rig.pass(59);
    assert_eq!(claimed(&rig.tick()), []);
    rig.pass(1);
    assert_eq!(claimed(&rig.tick()), [first.id]);
    let again = rig.job(first.id);
    assert_eq!((counts(&again), again.rare().snoozed), ([2, 1, 0, 1], false));
    rig.report(&again, succeeded()).unwrap();
    assert_eq!(counts(&rig.job(first.id)), [2, 1, 0, 1]);
}

fn a_snooze_of_no_time_goes_to_the_end_of_the_line(rig: &mut Rig) {
    rig.queue("q", 1);
    let (first, second) = (rig.submit(steady()), rig.submit(steady()));
    rig.report(&first, snoozed(0)).unwrap();
    assert_eq!(claimed(&rig.tick()), [second.id]);
    rig.report(&rig.job(second.id), succeeded()).unwrap();
    assert_eq!(claimed(&rig.tick()), [first.id]);
}

fn snoozes_are_bounded(rig: &mut Rig) {
    rig.queue("q", 1);
    let extras = Some(Box::new(Extras { max_snoozes: Some(2), ..Extras::default() }));
    let mut job = Job::clone(&rig.submit(NewJob { extras, ..steady() }));
    for _ in 0..2 {
        rig.report(&job, snoozed(1)).unwrap();
        rig.crash();
        job = next(rig, job.id);
    }
    rig.report(&job, snoozed(1)).unwrap();
    let ended = rig.job(job.id);
    assert_eq!(ended.state.name(), StateName::Failed);
    assert_eq!(ended.failure.as_ref().unwrap().reason, FailureReason::SnoozedOut);
    assert_eq!(Extras::default().max_snoozes, None, "1,000 unless the job says otherwise");
    assert_eq!(rig.submit(steady()).spec.max_snoozes(), 1_000);
}

fn a_job_that_may_not_snooze_fails_at_its_first(rig: &mut Rig) {
    rig.queue("q", 1);
    let extras = Some(Box::new(Extras { max_snoozes: Some(0), ..Extras::default() }));
    let job = rig.submit(NewJob { extras, ..steady() });
    rig.report(&job, snoozed(1)).unwrap();
    assert_eq!(rig.state(job.id), StateName::Failed);
}

fn a_snooze_under_cancel_is_a_cancel(rig: &mut Rig) {
    rig.queue("q", 1);
    let job = rig.submit(steady());
    rig.control(Control::Cancel(job.id)).unwrap();
    rig.report(&job, snoozed(60)).unwrap();
    let ended = rig.job(job.id);
    assert_eq!((ended.state.name(), ended.rare().snoozed), (StateName::Cancelled, false));
}

fn a_job_with_one_attempt_starts_again_only_because_it_asked(rig: &mut Rig) {
    rig.queue("q", 1);
    let once = rig.submit(NewJob { max_attempts: 1, ..steady() });
    rig.report(&once, snoozed(5)).unwrap();
    let again = next(rig, once.id);
    assert_eq!((again.state.name(), counts(&again)), (StateName::Running, [2, 1, 0, 1]));
    rig.crash();
    assert_eq!(rig.state(once.id), StateName::Failed);
}

fn a_job_that_was_snoozed_no_longer_expires(rig: &mut Rig) {
    rig.queue("q", 1);
    let expires = Some(rig.now.after(Duration::from_secs(10)).into());
    let job = rig.submit(NewJob { expires, ..steady() });
    rig.report(&job, snoozed(60)).unwrap();
    rig.pass(60);
    assert_eq!(path(&rig.tick(), job.id), [StateName::Running]);
}

fn the_number_of_an_attempt_never_falls(rig: &mut Rig) {
    rig.queue("q", 1);
    let first = rig.submit(steady());
    let ends = [ReportBody::Released { delay: None }, snoozed(1), failed(true, "")];
    for (index, end) in ends.into_iter().enumerate() {
        let running = next(rig, first.id);
        assert_eq!(running.attempt as usize, index + 1);
        rig.report(&running, end).unwrap();
        rig.crash();
        assert_eq!(rig.job(first.id).attempt as usize, index + 1);
    }
    let running = next(rig, first.id);
    assert_eq!(counts(&running), [4, 2, 1, 1]);
    rig.control(Control::Cancel(first.id)).unwrap();
    rig.report(&running, failed(true, "")).unwrap();
    rig.control(Control::Reset(first.id)).unwrap();
    assert_eq!(rig.job(first.id).attempt, 5, "the fifth has begun");
}

fn failures_alone_move_the_backoff(rig: &mut Rig) {
    rig.queue("q", 1);
    let first = rig.submit(NewJob { max_attempts: 10, ..steady() });
    for (end, seconds) in [
        (failed(true, ""), 1),
        (snoozed(50), 50),
        (failed(true, ""), 2),
        (ReportBody::Released { delay: Some(Duration::from_secs(7)) }, 7),
        (failed(true, ""), 4),
    ] {
        let running = next(rig, first.id);
        rig.report(&running, end).unwrap();
        let due = rig.job(first.id).state.due();
        assert_eq!(due, Some(rig.now.after(Duration::from_secs(seconds))));
    }
    assert_eq!(counts(&rig.job(first.id)), [5, 3, 3, 1]);
}

fn listed_delays_follow_each_other_and_the_last_repeats(rig: &mut Rig) {
    rig.queue("q", 1);
    let retry = RetryPolicy::DEFAULT.jitter(0.0).delays([5, 60].map(Duration::from_secs));
    let first = rig.submit(NewJob { max_attempts: 10, retry, ..steady() });
    for seconds in [5, 60, 60] {
        rig.crash();
        let job = rig.job(first.id);
        assert_eq!(job.state.due(), Some(rig.now.after(Duration::from_secs(seconds))));
        next(rig, first.id);
    }
}

fn a_retry_keeps_the_counts_unless_they_are_reset(rig: &mut Rig) {
    rig.queue("q", 1);
    let first = rig.submit(NewJob { max_attempts: 2, ..steady() });
    for _ in 0..2 {
        let running = next(rig, first.id);
        rig.report(&running, failed(true, "")).unwrap();
    }
    assert_eq!(rig.state(first.id), StateName::Failed);
    rig.control(Control::Retry { id: first.id, request: None }).unwrap();
    let again = rig.job(first.id);
    assert_eq!((counts(&again), again.max_attempts), ([3, 3, 2, 0], 3));
    rig.report(&again, failed(true, "")).unwrap();
    assert_eq!(rig.state(first.id), StateName::Failed);
    rig.control(Control::Reset(first.id)).unwrap();
    let again = rig.job(first.id);
    assert_eq!((counts(&again), again.max_attempts), ([4, 1, 0, 0], 3));
    rig.report(&again, failed(true, "")).unwrap();
    let waiting = rig.job(first.id);
    assert_eq!(waiting.state.due(), Some(rig.now.after(Duration::from_secs(1))), "the first backoff again");
    assert_eq!(rig.whole(first.id).attempts.len(), 4, "the history stays");
}

fn deaths_of_its_process_end_a_job(rig: &mut Rig) {
    rig.queue("q", 1);
    let poison = rig.submit(NewJob { max_attempts: 100, ..steady() });
    for losses in 1..=3 {
        let running = next(rig, poison.id);
        rig.report(&running, died()).unwrap();
        rig.crash();
        assert_eq!(rig.job(poison.id).rare().process_losses, losses);
    }
    let ended = rig.job(poison.id);
    let failure = ended.failure.clone().unwrap();
    assert_eq!((ended.state.name(), failure.reason), (StateName::Failed, FailureReason::Poison));
    assert!(failure.message.contains("died 3 times within 72 h"), "{}", failure.message);
    let reasons: Vec<_> = rig.whole(poison.id).attempts.into_iter().filter_map(|one| one.failure).collect();
    assert!(reasons.iter().all(|failure| failure.reason == FailureReason::HandlerError));
}

fn deaths_that_are_long_apart_do_not(rig: &mut Rig) {
    rig.queue("q", 1);
    let retry = RetryPolicy::DEFAULT.jitter(0.0).delays([Duration::from_secs(36 * 3_600 + 1)]);
    let job = rig.submit(NewJob { max_attempts: 100, retry, ..steady() });
    for _ in 0..6 {
        rig.report(&rig.job(job.id), died()).unwrap();
        assert_eq!(rig.state(job.id), StateName::BackingOff);
        // A clock that is set forgets no death.
        let now = rig.now;
        rig.set_clock(now.after(Duration::from_secs(1_000 * 3_600)));
        rig.tick();
        rig.set_clock(now);
        rig.live(36 * 3_600 + 1);
    }
}

fn the_limit_of_deaths_is_the_jobs_own(rig: &mut Rig) {
    rig.queue("q", 1);
    let extras = Some(Box::new(Extras { max_process_losses: Some(1), ..Extras::default() }));
    let job = rig.submit(NewJob { extras, ..steady() });
    rig.report(&job, died()).unwrap();
    assert_eq!(rig.job(job.id).failure.as_ref().unwrap().reason, FailureReason::Poison);
}

fn a_death_counts_as_an_attempt(rig: &mut Rig) {
    rig.queue("q", 1);
    let job = rig.submit(NewJob { max_attempts: 1, ..steady() });
    rig.report(&job, died()).unwrap();
    let ended = rig.job(job.id);
    assert_eq!((ended.state.name(), counts(&ended)), (StateName::Failed, [1, 1, 1, 0]));
    assert_eq!(ended.failure.as_ref().unwrap().reason, FailureReason::HandlerError);
}

fn a_death_under_cancel_is_a_cancel(rig: &mut Rig) {
    rig.queue("q", 1);
    let job = rig.submit(steady());
    rig.control(Control::Cancel(job.id)).unwrap();
    rig.report(&job, died()).unwrap();
    let ended = rig.job(job.id);
    assert_eq!((ended.state.name(), ended.rare().process_losses), (StateName::Cancelled, 0));
}

fn a_new_process_of_a_worker_attests_the_death_of_the_one_before(rig: &mut Rig) {
    rig.queue("q", 0);
    let worker = rig.worker("a", &["far"]);
    let job =
        rig.assigned(&worker, NewJob { max_attempts: 100, ..NewJob { kind: "far".into(), ..steady() } });
    rig.register(hello("a", "2", &["far"])).unwrap();
    let lost = rig.job(job.id);
    assert_eq!((lost.state.name(), lost.rare().process_losses), (StateName::BackingOff, 1));
    assert_eq!(lost.failure.as_ref().unwrap().reason, FailureReason::Lost);
}

fn an_expired_lease_is_no_death(rig: &mut Rig) {
    rig.queue("q", 0);
    let worker = rig.worker("a", &["far"]);
    let job = rig.assigned(&worker, NewJob { kind: "far".into(), ..steady() });
    // The server ends the lease of a silent worker with this report.
    rig.report(&job, failed(true, "")).unwrap();
    assert_eq!(rig.job(job.id).rare().process_losses, 0);
}

fn a_restart_of_the_server_is_no_death(rig: &mut Rig) {
    rig.queue("q", 1);
    let job = rig.submit(NewJob { max_attempts: 100, ..steady() });
    for _ in 0..5 {
        next(rig, job.id);
        rig.crash();
    }
    let lost = rig.job(job.id);
    assert_eq!((lost.state.name(), lost.rare().process_losses, lost.attempt), (StateName::BackingOff, 0, 5));
}

fn a_failure_after_deaths_is_no_poison(rig: &mut Rig) {
    rig.queue("q", 1);
    let id = poisoned(rig);
    rig.control(Control::Retry { id, request: None }).unwrap();
    rig.report(&rig.job(id), failed(true, "")).unwrap();
    assert_eq!(rig.state(id), StateName::BackingOff);
}

fn a_death_after_a_retry_ends_a_poison_job_again_unless_its_counts_are_reset(rig: &mut Rig) {
    rig.queue("q", 1);
    let id = poisoned(rig);
    rig.control(Control::Retry { id, request: None }).unwrap();
    rig.report(&rig.job(id), died()).unwrap();
    assert_eq!(rig.job(id).failure.as_ref().unwrap().reason, FailureReason::Poison);
    rig.control(Control::Reset(id)).unwrap();
    for state in [StateName::BackingOff, StateName::BackingOff, StateName::Failed] {
        let running = next(rig, id);
        rig.report(&running, died()).unwrap();
        assert_eq!(rig.state(id), state);
    }
    assert_eq!(rig.job(id).rare().process_losses, 7, "all of them");
}

/// Returns a job that has failed because its process died three times, with attempts left.
fn poisoned(rig: &mut Rig) -> JobId {
    let id = rig.submit(NewJob { max_attempts: 100, ..steady() }).id;
    for _ in 0..3 {
        let running = next(rig, id);
        rig.report(&running, died()).unwrap();
    }
    assert_eq!(rig.job(id).failure.as_ref().unwrap().reason, FailureReason::Poison);
    id
}
