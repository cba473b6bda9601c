//! Parents are kept while children have not ended: by retention, and against deletion.

use std::time::Duration;

use jobmill::{
    engine::{ControlRefusal, NewJob},
    job::{Dependency, DependencyCondition, EdgeState, Job, JobId, StateName},
    settings::{Keep, QueueRetention, QueueSettings},
};

use crate::store::{
    batch::{Batch, Control, Report},
    build::{at, job, request, settings},
    rig::{Rig, failed, lease, offer, refused, succeeded},
};

both_stores!(
    retention_keeps_a_parent_until_its_children_have_ended,
    retention_keeps_parents_across_a_crash,
    retention_keeps_a_parent_of_one_child_among_many,
    retention_reviews_many_kept_parents_in_bounded_steps,
    a_parent_that_was_kept_and_retried_is_kept_from_its_last_end_on,
    delete_refuses_a_parent_whose_children_have_not_ended,
    delete_by_force_tells_children_that_wait_and_leaves_the_others,
    delete_takes_a_parent_whose_children_have_ended,
    purge_skips_jobs_that_others_wait_for_and_counts_them,
    purge_takes_parents_with_their_children_whatever_the_order,
    purge_starts_none_of_the_jobs_that_it_skips_before_its_end,
    purge_tells_a_repeat_how_many_it_skipped,
);

const HOUR: u64 = 3_600;

/// A queue whose ended jobs are kept for an hour.
fn hourly(consumers: u32) -> QueueSettings {
    let keep = Some(Keep::For(Duration::from_secs(HOUR)));
    let retention = QueueRetention { succeeded: keep, failed: keep, cancelled: keep, expired: keep };
    QueueSettings { retention, ..settings(consumers, 10_000) }
}

fn queues(rig: &mut Rig) {
    rig.queue_with("q", hourly(10));
    // Its jobs don't run, and are kept for days once they have ended.
    rig.queue("idle", 0);
}

fn there(rig: &Rig, id: JobId) -> bool {
    rig.reader().job(id).unwrap().is_some()
}

fn child(rig: &mut Rig, queue: &str, on: Dependency) -> JobId {
    rig.submit(NewJob { depends_on: vec![on], ..job(queue, Rig::KIND) }).id
}

/// Creates a parent that has succeeded, and a child of it in the idle queue, which is ready.
fn pair(rig: &mut Rig) -> (JobId, JobId) {
    let parent = rig.submit(job("q", Rig::KIND));
    let waits = child(rig, "idle", Dependency::on_job(parent.id));
    rig.report(&parent, succeeded()).unwrap();
    assert_eq!(rig.state(waits), StateName::Queued);
    (parent.id, waits)
}

fn retention_keeps_a_parent_until_its_children_have_ended(rig: &mut Rig) {
    queues(rig);
    let (parent, waits) = pair(rig);
    let (alone, other) = pair(rig);
    rig.control(Control::Cancel(other)).unwrap();
    rig.live(3 * HOUR);
    assert!(there(rig, parent) && !there(rig, alone), "only the one with a child that has not ended is kept");
    rig.control(Control::Cancel(waits)).unwrap();
    assert!(there(rig, parent));
    rig.live(5);
    assert!(!there(rig, parent), "and only until then");
    // The child still says what became of the dependency.
    let edges = rig.reader().dependencies(waits).unwrap();
    assert_eq!((edges[0].parent, edges[0].state), (parent, EdgeState::Met));
    // A child that is deleted counts as ended.
    let (parent, waits) = pair(rig);
    rig.live(3 * HOUR);
    rig.control(Control::Delete(waits)).unwrap();
    rig.live(5);
    assert!(!there(rig, parent));
}

fn retention_keeps_parents_across_a_crash(rig: &mut Rig) {
    queues(rig);
    let (parent, waits) = pair(rig);
    rig.live(3 * HOUR);
    rig.crash();
    rig.live(HOUR);
    assert!(there(rig, parent));
    rig.control(Control::Cancel(waits)).unwrap();
    rig.crash();
    rig.live(5);
    assert!(!there(rig, parent));
}

fn retention_keeps_a_parent_of_one_child_among_many(rig: &mut Rig) {
    queues(rig);
    let parent = rig.submit(job("q", Rig::KIND));
    let on = vec![Dependency::on_job(parent.id)];
    let children = rig.submit_all(vec![NewJob { depends_on: on, ..job("idle", Rig::KIND) }; 20]);
    rig.report(&parent, succeeded()).unwrap();
    rig.live(3 * HOUR);
    for child in &children[1..] {
        rig.control(Control::Cancel(child.id)).unwrap();
    }
    rig.live(HOUR);
    assert!(there(rig, parent.id), "one is left");
    rig.control(Control::Cancel(children[0].id)).unwrap();
    rig.live(5);
    assert!(!there(rig, parent.id));
}

fn retention_reviews_many_kept_parents_in_bounded_steps(rig: &mut Rig) {
    const MANY: usize = 1_000;
    rig.queue_with("q", hourly(2_000));
    rig.queue_with("idle", settings(0, 10_000));
    let parents = rig.submit_all(vec![job("q", Rig::KIND); MANY]);
    let on = |parent: &std::sync::Arc<Job>| NewJob {
        depends_on: vec![Dependency::on_job(parent.id)],
        ..job("idle", Rig::KIND)
    };
    let children = rig.submit_all(parents.iter().map(on).collect());
    let report =
        |parent: &std::sync::Arc<Job>| Report { id: parent.id, lease: lease(parent), body: succeeded() };
    rig.apply(Batch { reports: parents.iter().map(report).collect(), ..Batch::default() });
    rig.live(3 * HOUR);
    let left = |rig: &Rig| parents.iter().filter(|parent| there(rig, parent.id)).count();
    assert_eq!(left(rig), MANY);
    let controls = children.iter().map(|child| Control::Cancel(child.id)).collect();
    rig.apply(Batch { controls, ..Batch::default() });
    rig.pass(2);
    let mut before = MANY;
    while before > 0 {
        let applied = rig.tick();
        let now = left(rig);
        assert!(before - now <= 300 && (applied.more || now == 0), "{before} {now}");
        before = now;
    }
}

fn a_parent_that_was_kept_and_retried_is_kept_from_its_last_end_on(rig: &mut Rig) {
    queues(rig);
    let parent = rig.submit(job("q", Rig::KIND));
    let waits = child(rig, "idle", Dependency::on_job(parent.id).when(DependencyCondition::Ended));
    rig.report(&parent, failed(false, "")).unwrap();
    rig.live(3 * HOUR);
    rig.control(Control::Retry { id: parent.id, request: None }).unwrap();
    let again = rig.job(parent.id);
    rig.report(&again, succeeded()).unwrap();
    rig.control(Control::Cancel(waits)).unwrap();
    rig.live(HOUR / 2);
    assert!(there(rig, parent.id), "its time begins anew");
    rig.live(HOUR);
    assert!(!there(rig, parent.id));
}

fn delete_refuses_a_parent_whose_children_have_not_ended(rig: &mut Rig) {
    queues(rig);
    let waiting = rig.submit(NewJob { run_time: Some(at(60).into()), ..job("q", Rig::KIND) }).id;
    let waits = child(rig, "idle", Dependency::on_job(waiting));
    let told = rig.control(Control::Delete(waiting)).unwrap_err();
    assert_eq!(told, ControlRefusal::HasDependents { id: waiting, child: waits });
    let (ended, reads) = pair(rig);
    let told = rig.control(Control::Delete(ended)).unwrap_err();
    assert_eq!(told, ControlRefusal::HasDependents { id: ended, child: reads });
    assert!(there(rig, waiting) && there(rig, ended));
    // In a batch, deletions come first: the child finds no parent.
    let lonely = rig.submit(job("idle", Rig::KIND)).id;
    let depends_on = vec![Dependency::on_job(lonely)];
    let offers = vec![offer(vec![NewJob { depends_on, ..job("idle", Rig::KIND) }])];
    let mut applied =
        rig.apply(Batch { offers, controls: vec![Control::Delete(lonely)], ..Batch::default() });
    applied.controls.pop().unwrap().unwrap();
    refused(applied.offers.pop().unwrap());
}

fn delete_by_force_tells_children_that_wait_and_leaves_the_others(rig: &mut Rig) {
    queues(rig);
    let waiting = rig.submit(NewJob { run_time: Some(at(60).into()), ..job("q", Rig::KIND) }).id;
    let makes_good = child(rig, "idle", Dependency::on_job(waiting).when(DependencyCondition::Unsuccessful));
    let ends = child(rig, "idle", Dependency::on_job(waiting));
    rig.control(Control::ForceDelete(waiting)).unwrap();
    assert_eq!((rig.state(makes_good), rig.state(ends)), (StateName::Queued, StateName::Cancelled));
    let (ended, reads) = pair(rig);
    rig.control(Control::ForceDelete(ended)).unwrap();
    assert!(!there(rig, ended));
    assert_eq!(rig.state(reads), StateName::Queued, "it was told of the end before");
    assert_eq!(rig.reader().dependencies(reads).unwrap()[0].state, EdgeState::Met);
}

fn delete_takes_a_parent_whose_children_have_ended(rig: &mut Rig) {
    queues(rig);
    let (parent, waits) = pair(rig);
    let controls = vec![Control::Cancel(waits), Control::Delete(parent)];
    let applied = rig.apply(Batch { controls, ..Batch::default() });
    assert!(applied.controls.iter().all(Result::is_ok), "{:?}", applied.controls);
    assert!(!there(rig, parent));
}

/// Purges a queue; returns the numbers of deleted and of skipped jobs.
fn purge(rig: &mut Rig, name: &str) -> (u64, u64) {
    let mut applied =
        rig.apply(Batch { controls: vec![Control::Purge { name: name.into() }], ..Batch::default() });
    while applied.purged.is_empty() {
        assert!(applied.more, "the purge never ends");
        applied = rig.apply(Batch::default());
    }
    (applied.purged[0].1, applied.skipped[0].1)
}

fn purge_skips_jobs_that_others_wait_for_and_counts_them(rig: &mut Rig) {
    rig.queue("q", 0);
    rig.queue("idle", 0);
    let later = |new: NewJob| NewJob { run_time: Some(at(60).into()), ..new };
    let parents = rig.submit_all(vec![job("q", Rig::KIND), later(job("q", Rig::KIND)), job("q", Rig::KIND)]);
    let children: Vec<_> =
        parents[..2].iter().map(|parent| child(rig, "idle", Dependency::on_job(parent.id))).collect();
    // A child that has ended is of no interest.
    let ended = child(rig, "idle", Dependency::on_job(parents[2].id));
    rig.control(Control::Cancel(ended)).unwrap();
    rig.submit_all(vec![job("q", Rig::KIND); 5]);
    assert_eq!(purge(rig, "q"), (6, 2));
    assert_eq!(parents.iter().map(|job| there(rig, job.id)).collect::<Vec<_>>(), [true, true, false]);
    assert!(children.iter().all(|id| rig.state(*id) == StateName::Blocked));
    assert_eq!(purge(rig, "q"), (0, 2));
    rig.control(Control::Cancel(children[0])).unwrap();
    assert_eq!(purge(rig, "q"), (1, 1));
}

fn purge_takes_parents_with_their_children_whatever_the_order(rig: &mut Rig) {
    rig.queue_with("q", settings(0, 10_000));
    rig.queue("idle", 0);
    // A chain in each direction, longer than a page of the purge, and one job in it that another queue waits for.
    let on =
        |index: usize| NewJob { depends_on: vec![Dependency::on_item(index as u32)], ..job("q", Rig::KIND) };
    let down: Vec<_> =
        (0..700).map(|index| if index == 0 { job("q", Rig::KIND) } else { on(index - 1) }).collect();
    let up: Vec<_> =
        (0..700).map(|index| if index == 699 { job("q", Rig::KIND) } else { on(index + 1) }).collect();
    rig.submit_all(down);
    let up = rig.submit_all(up);
    let waits = child(rig, "idle", Dependency::on_job(up[698].id));
    assert_eq!(purge(rig, "q"), (1_398, 2));
    assert!(there(rig, up[698].id) && there(rig, up[699].id), "both are waited for");
    rig.control(Control::Cancel(waits)).unwrap();
    assert_eq!(purge(rig, "q"), (2, 0));
}

fn purge_starts_none_of_the_jobs_that_it_skips_before_its_end(rig: &mut Rig) {
    rig.queue_with("q", settings(0, 10_000));
    rig.queue("idle", 0);
    let parent = rig.submit(job("q", Rig::KIND)).id;
    let waits = child(rig, "idle", Dependency::on_job(parent));
    rig.submit_all(vec![job("q", Rig::KIND); 1_200]);
    let controls = vec![
        Control::Purge { name: "q".into() },
        Control::UpdateQueue { name: "q".into(), settings: settings(1, 10_000) },
    ];
    let mut applied = rig.apply(Batch { controls, claim: true, ..Batch::default() });
    while applied.purged.is_empty() {
        assert_eq!(applied.claims.len(), 0);
        applied = rig.tick();
    }
    rig.settle();
    assert_eq!((rig.state(parent), rig.state(waits)), (StateName::Running, StateName::Blocked));
}

fn purge_tells_a_repeat_how_many_it_skipped(rig: &mut Rig) {
    rig.queue("q", 0);
    rig.queue("idle", 0);
    let parent = rig.submit(job("q", Rig::KIND)).id;
    child(rig, "idle", Dependency::on_job(parent));
    let purge = || Control::Repeatable(request("p", "purge"), Box::new(Control::Purge { name: "q".into() }));
    for _ in 0..2 {
        let mut applied = rig.apply(Batch { controls: vec![purge()], ..Batch::default() });
        while applied.purged.is_empty() {
            applied = rig.apply(Batch::default());
        }
        assert_eq!((applied.purged[0].1, applied.skipped[0].1), (0, 1));
        rig.crash();
    }
}
