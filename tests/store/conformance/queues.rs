//! Creating, changing, pausing, purging and deleting queues.

use jobmill::{
    engine::{ControlRefusal, NewJob},
    job::{Change, StateName},
};

use crate::store::{
    batch::Control,
    batch::{Batch, ControlDone},
    build::{at, job, settings},
    rig::{Rig, failed, offer, succeeded},
};

both_stores!(
    a_queue_is_created_changed_and_deleted,
    a_queue_with_live_jobs_is_not_deleted,
    a_deleted_queues_name_can_be_used_again,
    many_queues_may_come_and_go,
    the_slots_of_all_queues_together_have_a_limit,
    a_declared_queue_is_changed_only_by_its_declaration,
    a_queue_that_is_no_longer_declared_stays,
    a_paused_queue_starts_nothing,
    more_slots_are_used_and_fewer_are_waited_for,
    a_purge_deletes_what_waits_and_nothing_else,
    a_purge_goes_in_bounded_steps_and_survives_a_crash,
    a_purge_and_a_due_job_meet_in_one_batch,
    a_purge_of_nothing_ends,
    unknown_queues_are_told_as_such,
);

fn names(rig: &Rig) -> Vec<String> {
    rig.reader().queues().unwrap().iter().map(|queue| queue.name.to_string()).collect()
}

fn update(name: &str, consumers: u32) -> Control {
    Control::UpdateQueue { name: name.into(), settings: settings(consumers, 1_000) }
}

fn delete(name: &str) -> Control {
    Control::DeleteQueue { name: name.into() }
}

fn pause(name: &str, paused: bool) -> Control {
    Control::SetPaused { name: name.into(), paused }
}

fn a_queue_is_created_changed_and_deleted(rig: &mut Rig) {
    let create = Control::CreateQueue { name: "b".into(), settings: settings(1, 5) };
    let applied = rig.apply(Batch { controls: vec![create.clone()], ..Batch::default() });
    let info = applied.queues.unwrap().remove(0);
    assert_eq!((info.paused, info.declared, &info.settings), (false, false, &settings(1, 5)));
    assert_eq!(rig.control(create).unwrap_err(), ControlRefusal::QueueExists("b".into()));
    rig.queue("a", 1);
    assert_eq!(names(rig), ["a", "b"]);
    rig.control(update("b", 3)).unwrap();
    rig.crash();
    let queues = rig.reader().queues().unwrap();
    assert_eq!(queues[1].settings.consumers, 3);
    assert!(matches!(rig.control(delete("a")), Ok(ControlDone::QueueDeleted)));
    assert_eq!(names(rig), ["b"]);
    rig.crash();
    assert_eq!(names(rig), ["b"]);
}

fn a_queue_with_live_jobs_is_not_deleted(rig: &mut Rig) {
    rig.queue("q", 1);
    let running = rig.submit(job("q", Rig::KIND));
    let refusal = rig.control(delete("q")).unwrap_err();
    assert_eq!(refusal, ControlRefusal::QueueNotEmpty { queue: "q".into(), jobs: 1 });
    rig.report(&running, succeeded()).unwrap();
    rig.control(delete("q")).unwrap();
    // Ended jobs outlive their queue.
    assert_eq!(rig.job(running.id).spec.queue.as_str(), "q");
}

fn a_deleted_queues_name_can_be_used_again(rig: &mut Rig) {
    rig.queue("q", 1);
    let old = rig.submit(job("q", Rig::KIND));
    rig.report(&old, succeeded()).unwrap();
    rig.control(pause("q", true)).unwrap();
    rig.control(delete("q")).unwrap();
    rig.crash();
    rig.queue("q", 2);
    let new = rig.submit(job("q", Rig::KIND));
    assert_eq!(new.state.name(), StateName::Running, "what was paused is a new queue now");
    assert_eq!(rig.job(old.id).spec.queue, new.spec.queue);
}

fn many_queues_may_come_and_go(rig: &mut Rig) {
    for index in 0..1_010 {
        let name = format!("q{index}");
        let create = Control::CreateQueue { name: name.clone(), settings: settings(0, 1) };
        let applied = rig.apply(Batch { controls: vec![create, delete(&name)], ..Batch::default() });
        assert!(applied.controls.iter().all(Result::is_ok), "{index}: {:?}", applied.controls);
    }
}

fn the_slots_of_all_queues_together_have_a_limit(rig: &mut Rig) {
    rig.queue("a", 60_000);
    rig.queue("b", 30_000);
    let refusal = rig.control(update("b", 40_001)).unwrap_err();
    assert_eq!(refusal, ControlRefusal::TooManyConsumers { actual: 100_001, max: 100_000 });
    rig.control(update("b", 40_000)).unwrap();
    rig.control(delete("a")).unwrap();
    rig.queue("c", 60_000);
}

fn a_declared_queue_is_changed_only_by_its_declaration(rig: &mut Rig) {
    rig.setup.declared_queues.insert("q".into(), settings(1, 5));
    rig.crash();
    for control in [update("q", 2), delete("q")] {
        assert_eq!(rig.control(control).unwrap_err(), ControlRefusal::QueueDeclared("q".into()));
    }
    rig.control(pause("q", true)).unwrap();
    rig.setup.declared_queues.insert("q".into(), settings(7, 5));
    rig.crash();
    let queue = rig.reader().queues().unwrap().remove(0);
    assert_eq!((queue.settings.consumers, queue.declared, queue.paused), (7, true, true));
}

fn a_queue_that_is_no_longer_declared_stays(rig: &mut Rig) {
    rig.setup.declared_queues.insert("q".into(), settings(1, 5));
    rig.crash();
    let running = rig.submit(job("q", Rig::KIND));
    rig.setup.declared_queues.clear();
    rig.crash();
    assert_eq!(rig.state(running.id), StateName::BackingOff);
    assert!(!rig.reader().queues().unwrap()[0].declared);
    rig.control(update("q", 2)).unwrap();
    // A queue that was created over the API can be declared later.
    rig.setup.declared_queues.insert("q".into(), settings(3, 5));
    rig.crash();
    let queue = rig.reader().queues().unwrap().remove(0);
    assert_eq!((queue.settings.consumers, queue.declared), (3, true));
}

fn a_paused_queue_starts_nothing(rig: &mut Rig) {
    rig.queue("q", 2);
    let running = rig.submit(job("q", Rig::KIND));
    rig.control(pause("q", true)).unwrap();
    rig.control(pause("q", true)).unwrap();
    let waiting = rig.submit(job("q", Rig::KIND));
    assert_eq!(waiting.state.name(), StateName::Queued, "it is accepted all the same");
    rig.report(&running, succeeded()).unwrap();
    rig.crash();
    assert!(rig.tick().claims.is_empty());
    rig.control(pause("q", false)).unwrap();
    assert_eq!(rig.state(waiting.id), StateName::Running);
}

fn more_slots_are_used_and_fewer_are_waited_for(rig: &mut Rig) {
    rig.queue("q", 1);
    let jobs = rig.submit_all(vec![job("q", Rig::KIND); 4]);
    rig.control(update("q", 3)).unwrap();
    let running = |rig: &Rig| jobs.iter().filter(|job| rig.state(job.id) == StateName::Running).count();
    assert_eq!(running(rig), 3);
    rig.control(update("q", 1)).unwrap();
    rig.report(&rig.job(jobs[0].id), succeeded()).unwrap();
    rig.tick();
    assert_eq!(running(rig), 2, "two still run, and one slot is none too few");
}

fn purge(name: &str) -> Control {
    Control::Purge { name: name.into() }
}

/// Applies empty batches until nothing more is to be done; returns the counts of the purges that ended, and the number
/// of batches.
fn run_on(rig: &mut Rig) -> (Vec<u64>, usize) {
    let (mut purged, mut batches) = (Vec::new(), 0);
    loop {
        let applied = rig.tick();
        batches += 1;
        purged.extend(applied.purged.iter().map(|(_, deleted)| *deleted));
        if !applied.more {
            return (purged, batches);
        }
    }
}

fn a_purge_deletes_what_waits_and_nothing_else(rig: &mut Rig) {
    rig.queue("q", 3);
    rig.queue("other", 0);
    let other = rig.submit(job("other", Rig::KIND));
    let jobs = rig.submit_all(vec![job("q", Rig::KIND); 5]);
    let later = rig.submit(NewJob { run_time: Some(at(60).into()), ..job("q", Rig::KIND) });
    rig.report(&jobs[0], succeeded()).unwrap();
    rig.report(&jobs[1], failed(true, "")).unwrap();
    let batch = Batch {
        controls: vec![purge("q")],
        offers: vec![offer(vec![job("q", Rig::KIND)])],
        claim: true,
        ..Batch::default()
    };
    let applied = rig.apply(batch);
    assert!(matches!(applied.controls[0], Ok(ControlDone::PurgeBegun(_))));
    assert_eq!(applied.purged.iter().map(|(_, deleted)| *deleted).collect::<Vec<_>>(), [4]);
    assert!(applied.room);
    let deleted: Vec<_> = (applied.changes.iter())
        .filter(|change| matches!(change, Change::Deleted(_)))
        .map(Change::id)
        .collect();
    assert_eq!(deleted, [jobs[1].id, jobs[3].id, jobs[4].id, later.id]);
    let left: Vec<_> = rig.all_jobs().iter().map(|job| job.id).collect();
    // Jobs that arrived in the purge's batch came after it and are left.
    assert_eq!(left[..3], [other.id, jobs[0].id, jobs[2].id]);
    assert_eq!(left.len(), 4);
    assert_eq!(rig.state(left[3]), StateName::Running);
}

fn a_purge_goes_in_bounded_steps_and_survives_a_crash(rig: &mut Rig) {
    rig.queue_with("q", settings(0, 5_000));
    rig.submit_all(vec![job("q", Rig::KIND); 1_700]);
    let begun = rig.control(purge("q")).unwrap();
    assert_eq!(rig.all_jobs().len(), 1_200);
    rig.submit(job("q", Rig::KIND));
    assert_eq!(rig.all_jobs().len(), 701);
    rig.crash();
    assert!(matches!(begun, ControlDone::PurgeBegun(_)), "{begun:?}");
    rig.tick();
    let last = rig.tick();
    // The caller that asked for the purge is gone, so that no result is reported.
    assert_eq!((last.purged, last.more), (vec![], false));
    assert_eq!(rig.all_jobs().len(), 1);
}

fn a_purge_and_a_due_job_meet_in_one_batch(rig: &mut Rig) {
    rig.queue("q", 1);
    rig.submit_all(vec![NewJob { run_time: Some(at(10).into()), ..job("q", Rig::KIND) }; 3]);
    rig.until(at(10));
    let applied = rig.apply(Batch { controls: vec![purge("q")], claim: true, ..Batch::default() });
    assert_eq!((applied.purged.len(), applied.claims.len()), (1, 0));
    assert_eq!((rig.all_jobs().len(), rig.soon(&applied)), (0, None));
}

fn a_purge_of_nothing_ends(rig: &mut Rig) {
    rig.queue("q", 1);
    let applied = rig.apply(Batch { controls: vec![purge("q"), purge("q")], ..Batch::default() });
    assert_eq!(applied.purged.iter().map(|(_, deleted)| *deleted).collect::<Vec<_>>(), [0, 0]);
    assert_eq!(run_on(rig), (vec![], 1));
}

fn unknown_queues_are_told_as_such(rig: &mut Rig) {
    for control in [update("x", 1), delete("x"), pause("x", true), purge("x")] {
        assert_eq!(rig.control(control).unwrap_err(), ControlRefusal::QueueNotFound("x".into()));
    }
}
