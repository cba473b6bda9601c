//! Repeated requests, which change nothing and get the answer of the first one, and changes that expect a revision.

use jobmill::{
    engine::ControlRefusal,
    job::{JobId, StateName},
};

use crate::store::{
    batch::{Batch, Control, ControlDone},
    build::{job, request, settings},
    rig::{Rig, failed, succeeded},
};

both_stores!(
    a_cancel_is_answered_as_the_first_time,
    a_deletion_is_answered_after_the_job_is_gone,
    changes_of_queues_are_done_once,
    a_purge_deletes_nothing_more_the_second_time,
    a_repeat_of_a_purge_under_way_waits_for_its_end,
    a_purge_that_a_crash_interrupts_is_answered_after_it,
    a_purge_and_its_repeat_in_one_batch_are_one,
    a_refused_change_is_not_remembered,
    a_request_names_one_change_only,
    a_caller_whose_role_was_not_checked_is_told_of_repeats_only,
    a_change_is_remembered_for_a_day,
    a_change_expects_a_revision,
    settings_are_changed_only_as_they_were_seen,
    an_etag_is_of_one_queue_and_one_moment,
);

const DAY: u64 = 24 * 3_600;

fn again(id: &str, control: Control) -> Control {
    Control::Repeatable(request(id, &format!("{control:?}")), Box::new(control))
}

fn purge(queue: &str) -> Control {
    Control::Purge { name: queue.into() }
}

fn pause(queue: &str, paused: bool) -> Control {
    Control::SetPaused { name: queue.into(), paused }
}

/// Repeats a change of a job; returns the state and the revision of the answer, and the state of the job now.
fn repeated(rig: &mut Rig, control: Control) -> (StateName, u64, Option<StateName>) {
    match rig.control(control) {
        Ok(ControlDone::JobRepeated { state, revision, job }) => {
            (state, revision, job.map(|job| job.state.name()))
        }
        other => panic!("not a repeat: {other:?}"),
    }
}

/// Runs a purge to its end; returns the number of deleted jobs.
fn purged(rig: &mut Rig, control: Control) -> u64 {
    let mut applied = rig.apply(Batch { controls: vec![control], claim: true, ..Batch::default() });
    let Ok(ControlDone::PurgeBegun(number)) = applied.controls.remove(0) else { panic!("{applied:?}") };
    loop {
        if let Some((_, deleted)) = applied.purged.iter().find(|(ended, _)| *ended == number) {
            return *deleted;
        }
        assert!(applied.more, "the purge goes on");
        applied = rig.tick();
    }
}

fn a_cancel_is_answered_as_the_first_time(rig: &mut Rig) {
    rig.queue("q", 1);
    let running = rig.submit(job("q", Rig::KIND));
    let cancel = || again("c", Control::Cancel(running.id));
    let Ok(ControlDone::Job(cancelling)) = rig.control(cancel()) else { panic!("not cancelled") };
    assert_eq!(cancelling.state.name(), StateName::Cancelling);
    rig.report(&running, succeeded()).unwrap();
    rig.crash();
    let told = repeated(rig, cancel());
    assert_eq!(told, (StateName::Cancelling, cancelling.revision, Some(StateName::Succeeded)));
    rig.control(Control::Delete(running.id)).unwrap();
    assert_eq!(repeated(rig, cancel()), (StateName::Cancelling, cancelling.revision, None));
}

fn a_deletion_is_answered_after_the_job_is_gone(rig: &mut Rig) {
    rig.queue("q", 0);
    let waiting = rig.submit(job("q", Rig::KIND));
    let delete = || again("d", Control::Delete(waiting.id));
    rig.control(delete()).unwrap();
    let end = rig.end();
    assert!(matches!(rig.control(delete()), Ok(ControlDone::JobDeleted)));
    rig.crash();
    assert!(matches!(rig.control(delete()), Ok(ControlDone::JobDeleted)));
    let other = rig.control(Control::Delete(waiting.id));
    assert_eq!(other.unwrap_err(), ControlRefusal::JobNotFound(waiting.id));
    assert!(rig.changes(end, 9).entries.is_empty());
}

fn changes_of_queues_are_done_once(rig: &mut Rig) {
    let create = || again("1", Control::CreateQueue { name: "q".into(), settings: settings(1, 10) });
    assert!(matches!(rig.control(create()), Ok(ControlDone::Queue(_))));
    assert!(matches!(rig.control(create()), Ok(ControlDone::QueueRepeated(Some(_)))));
    let pause_it = || again("2", pause("q", true));
    rig.control(pause_it()).unwrap();
    rig.control(pause("q", false)).unwrap();
    // The queue was resumed since: the repeat does not pause it again.
    let Ok(ControlDone::QueueRepeated(Some(now))) = rig.control(pause_it()) else { panic!("not a repeat") };
    assert!(!now.paused);
    let update = || again("3", Control::UpdateQueue { name: "q".into(), settings: settings(2, 20) });
    rig.control(update()).unwrap();
    rig.control(Control::UpdateQueue { name: "q".into(), settings: settings(3, 30) }).unwrap();
    let Ok(ControlDone::QueueRepeated(Some(now))) = rig.control(update()) else { panic!("not a repeat") };
    assert_eq!(now.settings, settings(3, 30));
    let delete = || again("4", Control::DeleteQueue { name: "q".into() });
    rig.control(delete()).unwrap();
    rig.crash();
    assert!(matches!(rig.control(delete()), Ok(ControlDone::QueueDeleted)));
    assert!(matches!(rig.control(update()), Ok(ControlDone::QueueRepeated(None))));
    assert!(matches!(rig.control(create()), Ok(ControlDone::QueueRepeated(None))));
}

fn a_purge_deletes_nothing_more_the_second_time(rig: &mut Rig) {
    rig.queue("q", 0);
    rig.submit_all(vec![job("q", Rig::KIND); 3]);
    assert_eq!(purged(rig, again("p", purge("q"))), 3);
    rig.submit_all(vec![job("q", Rig::KIND); 2]);
    rig.crash();
    assert_eq!((purged(rig, again("p", purge("q"))), rig.all_jobs().len()), (3, 2));
    assert_eq!((purged(rig, again("p2", purge("q"))), rig.all_jobs().len()), (2, 0));
    // The same holds where there is nothing to delete.
    assert_eq!((purged(rig, again("p3", purge("q"))), purged(rig, again("p3", purge("q")))), (0, 0));
}

/// Submits enough jobs for a purge of several batches; returns their number.
fn many(rig: &mut Rig) -> usize {
    rig.queue_with("q", settings(0, 100_000));
    for _ in 0..3 {
        rig.submit_all(vec![job("q", Rig::KIND); 1_000]);
    }
    3_000
}

fn a_repeat_of_a_purge_under_way_waits_for_its_end(rig: &mut Rig) {
    let jobs = many(rig);
    let applied = rig.apply(Batch { controls: vec![again("p", purge("q"))], ..Batch::default() });
    assert!(applied.purged.is_empty() && applied.more);
    let late = rig.submit(job("q", Rig::KIND));
    assert_eq!(purged(rig, again("p", purge("q"))), jobs as u64);
    assert_eq!(ids(rig), [late.id], "what came after the first one stays");
}

fn a_purge_that_a_crash_interrupts_is_answered_after_it(rig: &mut Rig) {
    let jobs = many(rig);
    let applied = rig.apply(Batch { controls: vec![again("p", purge("q"))], ..Batch::default() });
    assert!(applied.purged.is_empty());
    rig.crash();
    assert_eq!(purged(rig, again("p", purge("q"))), jobs as u64);
    rig.crash();
    assert_eq!(purged(rig, again("p", purge("q"))), jobs as u64);
}

fn a_purge_and_its_repeat_in_one_batch_are_one(rig: &mut Rig) {
    rig.queue("q", 0);
    rig.submit_all(vec![job("q", Rig::KIND); 3]);
    let controls = vec![again("p", purge("q")), again("p", purge("q"))];
    let applied = rig.apply(Batch { controls, ..Batch::default() });
    assert_eq!(applied.purged.iter().map(|(_, deleted)| *deleted).collect::<Vec<_>>(), [3, 3]);
}

fn ids(rig: &Rig) -> Vec<JobId> {
    rig.all_jobs().iter().map(|job| job.id).collect()
}

fn a_refused_change_is_not_remembered(rig: &mut Rig) {
    rig.queue("q", 1);
    let running = rig.submit(job("q", Rig::KIND));
    let delete = || again("d", Control::Delete(running.id));
    assert!(matches!(rig.control(delete()), Err(ControlRefusal::WrongState { .. })));
    assert!(matches!(rig.control(again("p", purge("x"))), Err(ControlRefusal::QueueNotFound(_))));
    rig.report(&running, succeeded()).unwrap();
    assert!(matches!(rig.control(delete()), Ok(ControlDone::JobDeleted)));
    rig.queue("x", 0);
    assert_eq!(purged(rig, again("p", purge("x"))), 0);
}

fn a_request_names_one_change_only(rig: &mut Rig) {
    rig.queue("q", 0);
    let jobs = rig.submit_all(vec![job("q", Rig::KIND); 2]);
    rig.control(again("r", Control::Cancel(jobs[0].id))).unwrap();
    for other in [Control::Cancel(jobs[1].id), Control::Delete(jobs[0].id), purge("q"), pause("q", true)] {
        assert_eq!(rig.control(again("r", other)).unwrap_err(), ControlRefusal::RequestMismatch);
    }
    assert_eq!((rig.state(jobs[0].id), rig.state(jobs[1].id)), (StateName::Cancelled, StateName::Queued));
}

fn a_caller_whose_role_was_not_checked_is_told_of_repeats_only(rig: &mut Rig) {
    rig.queue("q", 0);
    let jobs = rig.submit_all(vec![job("q", Rig::KIND); 2]);
    let only = |control| Control::OnlyRepeat("q", Box::new(control));
    let cancel = |id: &str, index: usize| again(id, Control::Cancel(jobs[index].id));
    let end = rig.end();
    let not_there = rig.control(only(cancel("r", 0))).unwrap_err();
    assert_eq!((not_there, rig.end()), (ControlRefusal::JobNotFound(jobs[0].id), end));
    rig.control(cancel("r", 0)).unwrap();
    // The request id belongs to another request, which this caller may not learn.
    let other = rig.control(only(cancel("r", 1))).unwrap_err();
    assert_eq!(other, ControlRefusal::JobNotFound(jobs[1].id));
    // The answer has the state of that time, and not the job.
    assert_eq!(repeated(rig, only(cancel("r", 0))), (StateName::Cancelled, 2, None));
    // A caller that may act only on another queue learns nothing.
    let elsewhere = Control::OnlyRepeat("other", Box::new(cancel("r", 0)));
    assert_eq!(rig.control(elsewhere).unwrap_err(), ControlRefusal::JobNotFound(jobs[0].id));
    assert_eq!(rig.state(jobs[1].id), StateName::Queued);
}

fn a_change_is_remembered_for_a_day(rig: &mut Rig) {
    rig.queue("q", 1);
    let id = rig.submit(job("q", Rig::KIND)).id;
    rig.report(&rig.job(id), failed(false, "")).unwrap();
    let retry = || again("r", Control::Retry { id, request: None });
    rig.control(retry()).unwrap();
    rig.report(&rig.job(id), failed(false, "")).unwrap();
    rig.live(DAY - 10);
    assert_eq!(repeated(rig, retry()).2, Some(StateName::Failed));
    rig.live(20);
    rig.tick();
    assert!(matches!(rig.control(retry()), Ok(ControlDone::Job(_))), "it is done anew");
    assert_eq!(rig.state(id), StateName::Running);
}

fn a_change_expects_a_revision(rig: &mut Rig) {
    rig.queue("q", 1);
    let seen = rig.submit(job("q", Rig::KIND));
    rig.report(&seen, failed(false, "")).unwrap();
    let now = rig.job(seen.id);
    let mismatch =
        |expected| ControlRefusal::RevisionMismatch { id: now.id, expected, revision: now.revision };
    let changes =
        [Control::Retry { id: seen.id, request: None }, Control::Delete(seen.id), Control::Cancel(seen.id)];
    for change in &changes {
        for revision in [seen.revision, now.revision + 1] {
            let refused = rig.control(Control::AtRevision(revision, Box::new(change.clone())));
            assert_eq!(refused.unwrap_err(), mismatch(revision));
        }
    }
    assert_eq!(rig.job(seen.id), now);
    let retried = rig.control(Control::AtRevision(now.revision, Box::new(changes[0].clone())));
    assert!(matches!(retried, Ok(ControlDone::Job(_))));
}

fn queue_of(done: Result<ControlDone, ControlRefusal>) -> jobmill::settings::QueueInfo {
    match done {
        Ok(ControlDone::Queue(info)) => info,
        other => panic!("no queue: {other:?}"),
    }
}

fn settings_are_changed_only_as_they_were_seen(rig: &mut Rig) {
    let create = Control::CreateQueue { name: "q".into(), settings: settings(1, 10) };
    let first = queue_of(rig.control(create)).etag();
    let update = |consumers, etag: &str| Control::UpdateQueueOf {
        name: "q".into(),
        settings: settings(consumers, 10),
        etag: etag.to_owned(),
    };
    let second = queue_of(rig.control(update(2, &first)));
    let refused = rig.control(update(3, &first)).unwrap_err();
    assert_eq!(refused, ControlRefusal::EtagMismatch { queue: "q".into(), etag: second.etag() });
    rig.crash();
    let third = queue_of(rig.control(update(4, &second.etag())));
    assert_eq!(third.settings.consumers, 4);
    // A pause is a change, too. A pause that changes nothing is none.
    let paused = queue_of(rig.control(pause("q", true)));
    assert_ne!(paused.etag(), third.etag());
    assert_eq!(queue_of(rig.control(pause("q", true))).etag(), paused.etag());
    assert_eq!(rig.reader().queues().unwrap()[0].etag(), paused.etag());
}

fn an_etag_is_of_one_queue_and_one_moment(rig: &mut Rig) {
    let create = |name: &str| Control::CreateQueue { name: name.into(), settings: settings(1, 10) };
    let (one, other) = (queue_of(rig.control(create("a"))), queue_of(rig.control(create("b"))));
    let of_other = Control::UpdateQueueOf { name: "a".into(), settings: settings(2, 10), etag: other.etag() };
    assert!(matches!(rig.control(of_other), Err(ControlRefusal::EtagMismatch { .. })));
    // A queue that is created again has another etag.
    rig.control(Control::DeleteQueue { name: "a".into() }).unwrap();
    rig.pass(1);
    assert_ne!(queue_of(rig.control(create("a"))).etag(), one.etag());
}
