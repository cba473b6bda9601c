//! What counts as an attempt, as a failure, as a snooze, and as the death of a process.

use std::time::Duration;

use jobmill::{
    engine::{NewJob, ReportBody},
    job::{Extras, FailureReason, Job, JobId, RetryPolicy, StateName},
};

use crate::store::{
    batch::{Batch, Control, Report},
    build::{failure, job, settings},
    rig::{Rig, claimed, failed, lease, path, succeeded},
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
    jobs_that_ran_here_at_a_crash_are_run_one_at_a_time,
    other_jobs_pass_the_suspects,
    a_suspect_that_ran_alone_at_the_next_crash_has_caused_it,
    a_suspect_is_free_again_once_its_attempt_has_ended,
    commands_are_no_suspects,
    a_suspect_that_starts_again_at_once_holds_no_other_up,
    a_suspect_that_never_started_stays_one,
    any_number_of_suspects_holds_no_other_job_up,
    a_failure_after_deaths_is_no_poison,
    a_death_after_a_retry_ends_a_poison_job_again_unless_its_counts_are_reset,
);

fn steady() -> NewJob {
    NewJob { retry: RetryPolicy::DEFAULT.jitter(0.0), ..job("q", Rig::KIND) }
}

fn snoozed(seconds: u64) -> ReportBody {
    ReportBody::Snoozed { delay: Duration::from_secs(seconds), tail: "later".into() }
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

/// Starts a rig whose handlers are code of the server's process, with three running jobs, and crashes it.
fn crashed(rig: &mut Rig) -> Vec<JobId> {
    rig.setup.native_kinds = vec![Rig::KIND.into()];
    rig.crash();
    rig.queue("q", 3);
    let retry = RetryPolicy::DEFAULT.jitter(0.0).delays([Duration::from_secs(1)]);
    let jobs = rig.submit_all(vec![NewJob { max_attempts: 100, retry, ..steady() }; 3]);
    rig.crash();
    rig.pass(1);
    jobs.iter().map(|job| job.id).collect()
}

fn jobs_that_ran_here_at_a_crash_are_run_one_at_a_time(rig: &mut Rig) {
    let ids = crashed(rig);
    for id in &ids {
        assert_eq!(claimed(&rig.tick()), [*id]);
        assert_eq!(claimed(&rig.tick()), []);
        rig.report(&rig.job(*id), succeeded()).unwrap();
    }
    let others = rig.submit_all(vec![steady(); 3]);
    assert!(others.iter().all(|job| job.state.name() == StateName::Running));
}

fn other_jobs_pass_the_suspects(rig: &mut Rig) {
    let ids = crashed(rig);
    rig.tick();
    let others = rig.submit_all(vec![steady(); 3]);
    let states: Vec<_> = others.iter().map(|job| job.state.name()).collect();
    assert_eq!(states, [StateName::Running, StateName::Running, StateName::Queued], "two slots are free");
    // Also if the suspects are all that is read first.
    rig.report(&rig.job(others[0].id), succeeded()).unwrap();
    assert_eq!(claimed(&rig.tick()), [others[2].id]);
    assert_eq!(rig.state(ids[1]), StateName::Queued);
}

fn a_suspect_that_ran_alone_at_the_next_crash_has_caused_it(rig: &mut Rig) {
    let ids = crashed(rig);
    rig.tick();
    assert_eq!(rig.state(ids[0]), StateName::Running);
    rig.crash();
    let losses = |rig: &Rig| ids.iter().map(|id| rig.job(*id).rare().process_losses).collect::<Vec<_>>();
    assert_eq!(losses(rig), [1, 0, 0]);
    // The others come first now, one at a time, while it backs off.
    rig.tick();
    assert_eq!(rig.state(ids[1]), StateName::Running);
    rig.crash();
    assert_eq!(losses(rig), [1, 1, 0]);
}

fn a_suspect_is_free_again_once_its_attempt_has_ended(rig: &mut Rig) {
    let ids = crashed(rig);
    rig.tick();
    rig.report(&rig.job(ids[0]), failed(true, "")).unwrap();
    rig.tick();
    rig.pass(1);
    // The second one runs apart from the third; the first is no suspect any more.
    assert_eq!(claimed(&rig.tick()), [ids[0]]);
    assert_eq!(rig.state(ids[1]), StateName::Running);
    assert_eq!(rig.state(ids[2]), StateName::Queued);
    rig.control(Control::Delete(ids[2])).unwrap();
    rig.crash();
    assert_eq!(rig.job(ids[0]).rare().process_losses, 0);
    assert_eq!(rig.job(ids[1]).rare().process_losses, 1);
}

fn commands_are_no_suspects(rig: &mut Rig) {
    rig.queue("q", 3);
    let jobs = rig.submit_all(vec![
        NewJob {
            retry: RetryPolicy::DEFAULT.delays([Duration::from_secs(1)]),
            ..steady()
        };
        3
    ]);
    rig.crash();
    rig.pass(2);
    assert_eq!(rig.tick().claims.len(), jobs.len());
}

fn a_suspect_that_starts_again_at_once_holds_no_other_up(rig: &mut Rig) {
    let ids = crashed(rig);
    rig.tick();
    // The report of its end and its next start are one batch.
    let running = rig.job(ids[0]);
    let body = ReportBody::Snoozed { delay: Duration::ZERO, tail: String::new() };
    let report = Report { id: ids[0], lease: lease(&running), body };
    let applied = rig.apply(Batch { reports: vec![report], claim: true, ..Batch::default() });
    assert!(claimed(&applied).contains(&ids[0]), "it is a suspect no longer");
    rig.report(&rig.job(ids[0]), succeeded()).unwrap();
    for id in &ids[1..] {
        rig.tick();
        assert_eq!(rig.state(*id), StateName::Running);
        rig.report(&rig.job(*id), succeeded()).unwrap();
    }
}

fn a_suspect_that_never_started_stays_one(rig: &mut Rig) {
    let ids = crashed(rig);
    for _ in 0..2 {
        assert_eq!(claimed(&rig.tick()), [ids[0]]);
        rig.report(&rig.job(ids[0]), ReportBody::Released { delay: None }).unwrap();
    }
    assert_eq!(claimed(&rig.tick()), [ids[0]]);
    rig.crash();
    assert_eq!(rig.job(ids[0]).rare().process_losses, 1);
}

fn any_number_of_suspects_holds_no_other_job_up(rig: &mut Rig) {
    rig.setup.native_kinds = vec![Rig::KIND.into(), "walk".into()];
    rig.crash();
    rig.queue_with("q", settings(2_200, 10_000));
    let retry = RetryPolicy::DEFAULT.jitter(0.0).delays([Duration::from_secs(1)]);
    let kinds = [Rig::KIND, "walk"];
    let jobs = (0..2_100).map(|n| NewJob { kind: kinds[n % 2].into(), retry: retry.clone(), ..steady() });
    let suspects = rig.submit_all(jobs.collect());
    rig.crash();
    rig.live(5);
    let state = |rig: &Rig, state| rig.all_jobs().iter().filter(|job| job.state.name() == state).count();
    assert_eq!((state(rig, StateName::Running), state(rig, StateName::Queued)), (1, 2_099));
    let others = rig.submit_all(kinds.map(|kind| NewJob { kind: kind.into(), ..steady() }).into());
    rig.live(1);
    for other in others {
        assert_eq!(rig.state(other.id), StateName::Running);
    }
    rig.report(&rig.job(suspects[0].id), succeeded()).unwrap();
    assert_eq!(claimed(&rig.tick()), [suspects[1].id]);
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
