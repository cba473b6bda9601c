//! The state that the next start finds after a crash.

use jobmill::{
    engine::transition::Refusal,
    engine::{NewJob, ReportBody},
    job::{FailureReason, StateName},
};

use crate::store::{
    batch::Batch,
    batch::Control,
    build::{at, job},
    rig::{Rig, failed, lease, offer, succeeded},
};

both_stores!(
    running_attempts_are_lost_and_counted,
    with_one_attempt_a_lost_job_has_failed,
    jobs_that_were_being_cancelled_are_cancelled,
    jobs_that_did_not_run_are_unchanged,
    ids_and_leases_are_never_used_again,
    every_start_is_recorded,
    names_keep_their_numbers,
    due_jobs_of_the_time_between_are_taken_up,
    a_crash_before_a_batch_leaves_nothing_of_it,
    many_crashes_end_a_poisonous_job,
);

fn running_attempts_are_lost_and_counted(rig: &mut Rig) {
    rig.queue("q", 1);
    let running = rig.submit(job("q", Rig::KIND));
    rig.pass(10);
    rig.crash();
    let lost = rig.job(running.id);
    assert_eq!((lost.state.name(), lost.attempt), (StateName::BackingOff, 1));
    let failure = lost.failure.unwrap();
    assert_eq!((failure.reason, failure.retryable), (FailureReason::Lost, true));
    let attempts = rig.whole(running.id).attempts;
    assert_eq!((attempts.len(), attempts[0].ended), (1, Some(rig.now)));
    assert_eq!(rig.report(&running, succeeded()), Err(Refusal::LeaseLost(StateName::BackingOff)));
    rig.pass(60);
    rig.tick();
    assert_eq!(rig.job(running.id).attempt, 2);
}

fn with_one_attempt_a_lost_job_has_failed(rig: &mut Rig) {
    rig.queue("q", 1);
    let once = rig.submit(NewJob { max_attempts: 1, ..job("q", Rig::KIND) });
    rig.crash();
    let ended = rig.job(once.id);
    assert_eq!(ended.state.name(), StateName::Failed);
    assert_eq!(ended.failure.unwrap().reason, FailureReason::Lost);
    rig.pass(3600);
    assert!(rig.tick().claims.is_empty());
}

fn jobs_that_were_being_cancelled_are_cancelled(rig: &mut Rig) {
    rig.queue("q", 1);
    let running = rig.submit(job("q", Rig::KIND));
    rig.control(Control::Cancel(running.id)).unwrap();
    rig.crash();
    assert_eq!(rig.state(running.id), StateName::Cancelled);
    // The job's slot is free again.
    assert_eq!(rig.submit(job("q", Rig::KIND)).state.name(), StateName::Running);
}

fn jobs_that_did_not_run_are_unchanged(rig: &mut Rig) {
    rig.queue("q", 3);
    let running = rig.submit_all(vec![job("q", Rig::KIND); 3]);
    rig.report(&running[0], succeeded()).unwrap();
    rig.report(&running[1], failed(false, "tail")).unwrap();
    rig.report(&running[2], failed(true, "")).unwrap();
    rig.submit(NewJob { run_time: Some(at(500).into()), ..job("q", Rig::KIND) });
    rig.submit(job("q", "nobody"));
    let whole = |rig: &Rig| rig.all_jobs().iter().map(|job| rig.whole(job.id)).collect::<Vec<_>>();
    let (before, end) = (whole(rig), rig.end());
    rig.crash();
    assert_eq!((whole(rig), rig.end()), (before, end));
}

fn ids_and_leases_are_never_used_again(rig: &mut Rig) {
    rig.queue("q", 1);
    let first = rig.submit(job("q", Rig::KIND));
    rig.report(&first, succeeded()).unwrap();
    rig.control(Control::Delete(first.id)).unwrap();
    rig.crash();
    // The clock has not moved, and no row remembers the first id.
    let second = rig.submit(job("q", Rig::KIND));
    assert!(second.id > first.id);
    assert!(lease(&second) > lease(&first));
}

fn every_start_is_recorded(rig: &mut Rig) {
    rig.queue("q", 0);
    rig.submit(job("q", Rig::KIND));
    let first = rig.reader().identity();
    assert_eq!((first.incarnations.len(), first.incarnations[0].first.as_i64()), (1, 0));
    rig.crash();
    let second = rig.reader().identity();
    assert_eq!(second.store, first.store);
    assert_eq!(second.incarnations[0], first.incarnations[0]);
    assert_eq!((second.incarnations.len(), second.incarnations[1].first), (2, rig.end()));
    assert_ne!(second.incarnations[1].id, first.incarnations[0].id);
}

fn names_keep_their_numbers(rig: &mut Rig) {
    for queue in ["b", "c", "a"] {
        rig.queue(queue, 0);
    }
    let pairs = [("a", "z"), ("b", "y"), ("c", "x"), ("a", "run")];
    rig.submit_all(pairs.map(|(queue, kind)| job(queue, kind)).into());
    for _ in 0..2 {
        let told: Vec<_> = (rig.all_jobs().iter())
            .map(|job| (job.spec.queue.to_string(), job.spec.kind.to_string()))
            .collect();
        assert_eq!(told, pairs.map(|(queue, kind)| (queue.to_owned(), kind.to_owned())));
        // The next start has other handlers, in another order.
        rig.setup.served_kinds = vec!["x".into(), "new".into(), "run".into()];
        rig.crash();
    }
}

fn due_jobs_of_the_time_between_are_taken_up(rig: &mut Rig) {
    rig.queue("q", 1);
    rig.submit_all(vec![NewJob { run_time: Some(at(10).into()), ..job("q", Rig::KIND) }; 2]);
    rig.until(at(1000));
    rig.crash();
    let applied = rig.tick();
    assert_eq!((applied.claims.len(), applied.changes.len()), (1, 2));
}

fn a_crash_before_a_batch_leaves_nothing_of_it(rig: &mut Rig) {
    rig.queue("q", 1);
    rig.crash();
    assert!(rig.all_jobs().is_empty());
    let batch = Batch { offers: vec![offer(vec![job("q", Rig::KIND)])], ..Batch::default() };
    assert_eq!(rig.apply(batch).changes.len(), 1);
    rig.crash();
    assert_eq!(rig.all_jobs().len(), 1);
}

fn many_crashes_end_a_poisonous_job(rig: &mut Rig) {
    rig.queue("q", 1);
    let poison = rig.submit(job("q", Rig::KIND));
    for attempt in 1..=3 {
        assert_eq!(rig.job(poison.id).attempt, attempt);
        rig.crash();
        rig.pass(3600);
        rig.tick();
    }
    assert_eq!(rig.state(poison.id), StateName::Failed);
    assert_eq!(rig.whole(poison.id).attempts.len(), 3);
    let next = rig.submit(job("q", Rig::KIND));
    assert_eq!(next.state.name(), StateName::Running);
    rig.report(&next, ReportBody::Released { delay: None }).unwrap();
}
