//! Due jobs in one queue do not delay due jobs in another.

use jobmill::{
    engine::NewJob,
    job::{JobId, StateName},
};

use crate::store::{
    build::{at, job, settings},
    rig::{Rig, claimed, failed},
};

both_stores!(
    a_due_job_starts_in_the_first_batch_however_many_are_due_elsewhere,
    a_job_that_is_due_later_starts_in_the_batch_of_its_time_beside_many_that_are_left,
    a_backoff_ends_in_the_first_batch_however_many_jobs_are_due_elsewhere,
    each_of_many_queues_has_its_first_due_job_in_the_first_batch,
    all_that_is_due_is_promoted_in_the_order_of_its_queue,
);

/// Number of jobs that takes several batches to promote.
const MANY: usize = 5_000;

fn due(queue: &str, seconds: i64) -> NewJob {
    NewJob { run_time: Some(at(seconds).into()), ..job(queue, Rig::KIND) }
}

/// Submits due jobs to a queue that starts nothing.
fn many_elsewhere(rig: &mut Rig, seconds: i64) {
    rig.queue_with("many", settings(0, 100_000));
    rig.submit_all(vec![due("many", seconds); MANY]);
}

/// Returns the number of a queue's jobs in a state.
fn count(rig: &Rig, queue: &str, state: StateName) -> usize {
    let all = rig.all_jobs();
    all.iter().filter(|job| job.spec.queue.as_str() == queue && job.state.name() == state).count()
}

fn a_due_job_starts_in_the_first_batch_however_many_are_due_elsewhere(rig: &mut Rig) {
    many_elsewhere(rig, 10);
    rig.queue("idle", 1);
    // A job that is last by its due time and by its id.
    let lone = rig.submit(due("idle", 11));
    rig.until(at(11));
    let applied = rig.tick();
    assert_eq!((claimed(&applied), applied.more), (vec![lone.id], true));
    assert!(count(rig, "many", StateName::Queued) > 0, "the others are not held up either");
}

fn a_job_that_is_due_later_starts_in_the_batch_of_its_time_beside_many_that_are_left(rig: &mut Rig) {
    many_elsewhere(rig, 10);
    rig.queue("idle", 1);
    let lone = rig.submit(due("idle", 12));
    rig.until(at(10));
    assert!(rig.tick().more && rig.tick().more);
    assert_eq!(rig.state(lone.id), StateName::Scheduled);
    rig.until(at(12));
    assert_eq!(claimed(&rig.tick()), [lone.id]);
}

fn a_backoff_ends_in_the_first_batch_however_many_jobs_are_due_elsewhere(rig: &mut Rig) {
    many_elsewhere(rig, 10);
    rig.queue("idle", 1);
    let lone = rig.submit(job("idle", Rig::KIND));
    rig.report(&lone, failed(true, "")).unwrap();
    rig.until(at(60));
    assert_eq!(claimed(&rig.tick()), [lone.id]);
}

fn each_of_many_queues_has_its_first_due_job_in_the_first_batch(rig: &mut Rig) {
    many_elsewhere(rig, 10);
    let mut firsts = Vec::new();
    for number in 0..20 {
        let name = format!("q{number}");
        rig.queue_with(&name, settings(1, 1_000));
        let jobs = rig.submit_all(vec![due(&name, 10); 200]);
        firsts.push(jobs[0].id);
    }
    rig.until(at(10));
    let mut started: Vec<JobId> = claimed(&rig.tick());
    started.sort_unstable();
    assert_eq!(started, firsts);
}

fn all_that_is_due_is_promoted_in_the_order_of_its_queue(rig: &mut Rig) {
    many_elsewhere(rig, 10);
    rig.queue_with("other", settings(0, 100_000));
    let times: Vec<_> = (0..1_500).map(|number| 10 + (number * 7) % 13).collect();
    let jobs = rig.submit_all(times.iter().map(|seconds| due("other", *seconds)).collect());
    rig.until(at(30));
    let (mut promoted, mut batches) = (Vec::new(), 0);
    loop {
        let applied = rig.tick();
        batches += 1;
        let others = applied.changes.iter().filter(|change| change.spec().queue.as_str() == "other");
        promoted.extend(others.map(|change| change.id()));
        if !applied.more {
            break;
        }
    }
    let mut expected: Vec<_> = times.iter().zip(&jobs).map(|(seconds, job)| (*seconds, job.id)).collect();
    expected.sort_unstable();
    assert_eq!(promoted, expected.into_iter().map(|(_, id)| id).collect::<Vec<_>>());
    // 6,500 jobs at 1,000 a batch.
    assert!(batches <= 8, "{batches} batches");
}
