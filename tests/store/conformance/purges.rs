//! Purges: what they delete, what they cost, and how concurrent purges join.

use std::{collections::HashSet, time::Duration};

use jobmill::{
    engine::{NewJob, ReportBody},
    job::{Change, JobId, OnConflict, StateName, UniqueScope},
};

use crate::store::{
    batch::Control,
    batch::{Applied, Batch, ControlDone, Offer, Report},
    build::{at, job, key, keyed, settings},
    rig::{Rig, claimed, failed, lease, succeeded},
};

both_stores!(
    a_purge_of_an_empty_queue_ends_at_once_however_many_jobs_others_have,
    a_purge_of_a_few_jobs_ends_at_once_however_many_jobs_others_have,
    a_purge_takes_the_batches_of_its_own_jobs,
    purges_of_different_queues_share_each_batch,
    a_second_purge_of_the_same_queue_ends_with_the_first,
    many_purges_of_the_same_queue_are_one_work,
    joined_purges_end_after_a_crash,
    a_job_that_waits_when_a_purge_begins_never_starts,
    a_scheduled_job_that_falls_due_during_a_purge_never_starts,
    a_job_that_backs_off_when_a_purge_begins_never_starts,
    a_purge_under_way_goes_on_starting_nothing_after_a_crash,
    what_came_after_a_purge_began_is_not_deleted_and_runs,
    what_ran_when_a_purge_began_is_not_deleted,
    a_job_that_is_due_when_a_new_one_meets_its_key_during_a_purge_is_deleted_once,
    a_retry_whose_key_a_purged_job_holds_is_a_change_of_its_own,
);

/// Number of jobs that takes a purge several batches.
const MANY: usize = 3_000;

fn purge(name: &str) -> Control {
    Control::Purge { name: name.into() }
}

fn big_queue(rig: &mut Rig, name: &str, consumers: u32) {
    rig.queue_with(name, settings(consumers, 100_000));
}

fn ids(rig: &mut Rig, jobs: Vec<NewJob>) -> Vec<JobId> {
    rig.submit_all(jobs).iter().map(|job| job.id).collect()
}

fn deleted(applied: &Applied) -> Vec<JobId> {
    let deletions = applied.changes.iter().filter(|change| matches!(change, Change::Deleted(_)));
    deletions.map(Change::id).collect()
}

/// Begins purges and applies empty batches until the last purge has ended; returns all batches.
fn run(rig: &mut Rig, controls: Vec<Control>) -> Vec<Applied> {
    let begun = controls.len();
    let mut batches = vec![rig.apply(Batch { controls, claim: true, ..Batch::default() })];
    for control in &batches[0].controls {
        assert!(matches!(control, Ok(ControlDone::PurgeBegun(_))), "{control:?}");
    }
    while batches.iter().map(|batch| batch.purged.len()).sum::<usize>() < begun {
        assert!(batches[batches.len() - 1].more, "the purges never end");
        batches.push(rig.tick());
    }
    batches
}

/// Returns the number of batches up to the end of each purge.
fn ends(batches: &[Applied]) -> Vec<usize> {
    let ended = batches.iter().enumerate().map(|(index, batch)| vec![index + 1; batch.purged.len()]);
    ended.flatten().collect()
}

fn a_purge_of_an_empty_queue_ends_at_once_however_many_jobs_others_have(rig: &mut Rig) {
    rig.queue("empty", 1);
    big_queue(rig, "other", 0);
    ids(rig, vec![job("other", Rig::KIND); MANY]);
    let batches = run(rig, vec![purge("empty")]);
    assert!(batches.len() <= 3, "{} batches", batches.len());
    assert_eq!(rig.all_jobs().len(), MANY);
}

fn a_purge_of_a_few_jobs_ends_at_once_however_many_jobs_others_have(rig: &mut Rig) {
    rig.queue("few", 0);
    big_queue(rig, "other", 0);
    let mut few = vec![rig.submit(job("few", Rig::KIND)).id];
    for _ in 0..3 {
        ids(rig, vec![job("other", Rig::KIND); MANY / 3]);
        few.push(rig.submit(NewJob { run_time: Some(at(60).into()), ..job("few", Rig::KIND) }).id);
    }
    let batches = run(rig, vec![purge("few")]);
    assert!(batches.len() <= 3, "{} batches", batches.len());
    let gone: Vec<_> = batches.iter().flat_map(deleted).collect();
    assert_eq!(gone.into_iter().collect::<HashSet<_>>(), few.into_iter().collect());
    assert_eq!(rig.all_jobs().len(), MANY);
}

fn a_purge_takes_the_batches_of_its_own_jobs(rig: &mut Rig) {
    big_queue(rig, "q", 0);
    big_queue(rig, "other", 0);
    for _ in 0..4 {
        ids(rig, vec![job("other", Rig::KIND); MANY / 4]);
        ids(rig, vec![job("q", Rig::KIND); 300]);
    }
    let batches = run(rig, vec![purge("q")]);
    // 1,200 jobs at 500 a batch, and one batch that finds no more.
    assert!(batches.len() <= 4, "{} batches", batches.len());
    assert!(batches.iter().all(|batch| deleted(batch).len() <= 500));
    assert_eq!(rig.all_jobs().len(), MANY);
}

fn purges_of_different_queues_share_each_batch(rig: &mut Rig) {
    big_queue(rig, "large", 0);
    rig.queue("small", 0);
    ids(rig, vec![job("large", Rig::KIND); MANY]);
    let small = ids(rig, vec![job("small", Rig::KIND); 3]);
    let batches = run(rig, vec![purge("large"), purge("small")]);
    let gone: HashSet<_> = batches[0].changes.iter().map(Change::id).collect();
    assert!(small.iter().all(|id| gone.contains(id)), "the small queue waits for the large one");
    assert!(rig.all_jobs().is_empty());
}

fn a_second_purge_of_the_same_queue_ends_with_the_first(rig: &mut Rig) {
    big_queue(rig, "other", 0);
    ids(rig, vec![job("other", Rig::KIND); MANY]);
    big_queue(rig, "q", 0);
    ids(rig, vec![job("q", Rig::KIND); 1_700]);
    let first = rig.apply(Batch { controls: vec![purge("q")], ..Batch::default() });
    assert_eq!((deleted(&first).len(), first.purged.len()), (500, 0));
    let batches = run(rig, vec![purge("q")]);
    let ended: Vec<_> = batches.iter().map(|batch| batch.purged.len()).filter(|ended| *ended > 0).collect();
    assert_eq!(ended, [2], "both are answered in one batch");
    assert_eq!(batches.iter().map(|batch| deleted(batch).len()).sum::<usize>(), 1_200);
    assert!(batches.len() <= 4, "{} batches", batches.len());
    assert_eq!(rig.all_jobs().len(), MANY);
}

fn many_purges_of_the_same_queue_are_one_work(rig: &mut Rig) {
    rig.queue("q", 0);
    ids(rig, vec![job("q", Rig::KIND); 100]);
    let batches = run(rig, vec![purge("q"); 1_000]);
    assert_eq!(ends(&batches), vec![1; 1_000]);
    let told = batches[0].purged.iter().map(|(_, deleted)| *deleted).max();
    assert_eq!((told, rig.all_jobs().len()), (Some(100), 0));
}

fn joined_purges_end_after_a_crash(rig: &mut Rig) {
    big_queue(rig, "q", 1);
    ids(rig, vec![NewJob { run_time: Some(at(60).into()), ..job("q", Rig::KIND) }; 1_700]);
    rig.apply(Batch { controls: vec![purge("q"), purge("q")], claim: true, ..Batch::default() });
    rig.until(at(60));
    rig.crash();
    let mut batches = 0;
    while rig.tick().more {
        batches += 1;
        assert!(batches <= 4, "it goes on for {batches} batches");
    }
    assert!(rig.all_jobs().is_empty());
    let later = rig.submit(job("q", Rig::KIND));
    assert_eq!(later.state.name(), StateName::Running);
}

/// Purges a queue with free slots over several batches; asserts that each of the jobs is deleted and none starts
/// before.
fn is_purged_unstarted(rig: &mut Rig, jobs: &[JobId], at_the_second_batch: impl FnOnce(&mut Rig)) {
    let update = Control::UpdateQueue { name: "q".into(), settings: settings(3, 100_000) };
    let first = rig.apply(Batch { controls: vec![update, purge("q")], claim: true, ..Batch::default() });
    assert!(first.purged.is_empty() && first.more, "the first batch deletes all of it");
    at_the_second_batch(rig);
    let mut batches = vec![first];
    while batches[batches.len() - 1].more {
        batches.push(rig.tick());
    }
    let started: Vec<_> = batches.iter().flat_map(claimed).collect();
    assert_eq!(started, [], "jobs of a queue that is being purged");
    let gone: Vec<_> = batches.iter().flat_map(deleted).collect();
    assert_eq!(gone.into_iter().collect::<HashSet<_>>(), jobs.iter().copied().collect());
    assert!(rig.all_jobs().is_empty());
}

fn a_job_that_waits_when_a_purge_begins_never_starts(rig: &mut Rig) {
    big_queue(rig, "q", 0);
    let jobs = ids(rig, vec![job("q", Rig::KIND); 1_200]);
    is_purged_unstarted(rig, &jobs, |_| {});
}

fn a_scheduled_job_that_falls_due_during_a_purge_never_starts(rig: &mut Rig) {
    big_queue(rig, "q", 0);
    let jobs = ids(rig, vec![NewJob { run_time: Some(at(60).into()), ..job("q", Rig::KIND) }; 1_200]);
    is_purged_unstarted(rig, &jobs, |rig| rig.until(at(60)));
}

fn a_job_that_backs_off_when_a_purge_begins_never_starts(rig: &mut Rig) {
    big_queue(rig, "q", 1);
    let first = rig.submit(job("q", Rig::KIND));
    let mut jobs = ids(rig, vec![job("q", Rig::KIND); 1_200]);
    let delay = Some(std::time::Duration::from_secs(30));
    rig.report(&first, ReportBody::Released { delay }).unwrap();
    jobs.push(first.id);
    // The job is last by its id, so that the first batches of the purge do not reach it.
    let urgent = rig.submit(NewJob { priority: 9, ..job("q", Rig::KIND) });
    rig.report(&urgent, ReportBody::Released { delay }).unwrap();
    jobs.push(urgent.id);
    is_purged_unstarted(rig, &jobs, |rig| rig.until(at(3_600)));
}

fn a_purge_under_way_goes_on_starting_nothing_after_a_crash(rig: &mut Rig) {
    big_queue(rig, "q", 0);
    let jobs = ids(rig, vec![job("q", Rig::KIND); 1_200]);
    is_purged_unstarted(rig, &jobs, Rig::crash);
}

fn what_came_after_a_purge_began_is_not_deleted_and_runs(rig: &mut Rig) {
    big_queue(rig, "q", 0);
    let jobs = ids(rig, vec![job("q", Rig::KIND); 1_200]);
    let update = Control::UpdateQueue { name: "q".into(), settings: settings(2, 100_000) };
    rig.apply(Batch { controls: vec![update, purge("q")], claim: true, ..Batch::default() });
    let later = [rig.submit(job("q", Rig::KIND)).id, {
        rig.submit(NewJob { run_time: Some(at(5).into()), ..job("q", Rig::KIND) }).id
    }];
    while rig.tick().more {}
    rig.until(at(5));
    rig.tick();
    assert_eq!(later.map(|id| rig.state(id)), [StateName::Running; 2]);
    assert!(jobs.iter().all(|id| rig.reader().job(*id).unwrap().is_none()));
}

fn what_ran_when_a_purge_began_is_not_deleted(rig: &mut Rig) {
    big_queue(rig, "q", 0);
    ids(rig, vec![job("q", Rig::KIND); 1_200]);
    let update = Control::UpdateQueue { name: "q".into(), settings: settings(1, 100_000) };
    rig.apply(Batch { controls: vec![update], ..Batch::default() });
    let urgent = rig.submit(NewJob { priority: 9, ..job("q", Rig::KIND) });
    rig.apply(Batch { controls: vec![purge("q")], claim: true, ..Batch::default() });
    // The attempt is released before the purge reaches its job.
    rig.report(&urgent, ReportBody::Released { delay: None }).unwrap();
    while rig.tick().more {}
    let again = rig.job(urgent.id);
    assert_eq!((again.state.name(), rig.all_jobs().len()), (StateName::Running, 1));
    rig.report(&again, succeeded()).unwrap();
}

fn a_job_that_is_due_when_a_new_one_meets_its_key_during_a_purge_is_deleted_once(rig: &mut Rig) {
    rig.queue("q", 1);
    let unique = || key("k", OnConflict::ReturnExisting, OnConflict::ReturnExisting);
    let snoozed = rig.submit(keyed(unique(), job("q", Rig::KIND))).id;
    let body = ReportBody::Snoozed { delay: Duration::ZERO, pause: None, tail: String::new() };
    let report = Report { id: snoozed, lease: lease(&rig.job(snoozed)), body };
    let offer = Offer { request: None, jobs: vec![keyed(unique(), job("q", Rig::KIND))], waits: false };
    rig.apply(Batch {
        controls: vec![purge("q")],
        reports: vec![report],
        offers: vec![offer],
        claim: true,
        ..Batch::default()
    });
    let states: Vec<_> = rig.all_jobs().iter().map(|job| (job.id > snoozed, job.state.name())).collect();
    assert_eq!(states, [(true, StateName::Running)]);
}

fn a_retry_whose_key_a_purged_job_holds_is_a_change_of_its_own(rig: &mut Rig) {
    rig.queue("other", 0);
    rig.queue("q", 1);
    let unique = || {
        let unique = key("k", OnConflict::ReturnExisting, OnConflict::ReturnExisting);
        unique.with_scope(UniqueScope::Namespace)
    };
    let ended = rig.submit(keyed(unique(), job("q", Rig::KIND)));
    rig.report(&ended, failed(false, "")).unwrap();
    let holder = rig.submit(keyed(unique(), job("other", Rig::KIND))).id;
    let controls = vec![purge("other"), Control::Reset(ended.id)];
    // The rig asserts that each change has a position of its own.
    rig.apply(Batch { controls, claim: true, ..Batch::default() });
    let states: Vec<_> = rig.all_jobs().iter().map(|job| (job.id == holder, job.state.name())).collect();
    assert_eq!(states, [(false, StateName::Running)]);
}
