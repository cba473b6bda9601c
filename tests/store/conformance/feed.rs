//! The change feed as the store pages it to watchers that lag.

use std::collections::BTreeMap;

use jobmill::{
    engine::NewJob,
    job::{Change, JobId, Position, StateName},
};

use crate::store::{
    batch::Control,
    batch::{Batch, Report},
    build::{at, job},
    rig::{Rig, failed, lease, succeeded},
};

both_stores!(
    each_changed_job_is_there_once_with_its_latest_state,
    two_changes_in_one_batch_are_two_events,
    pages_follow_one_another_without_a_gap,
    a_page_keeps_its_limit,
    the_end_of_the_feed_has_nothing_after_it,
    old_tombstones_are_forgotten_and_the_floor_tells,
    positions_go_on_after_a_crash,
);

fn each_changed_job_is_there_once_with_its_latest_state(rig: &mut Rig) {
    rig.queue("q", 1);
    let jobs = rig.submit_all(vec![job("q", Rig::KIND); 3]);
    let before = rig.end();
    rig.report(&jobs[0], failed(true, "")).unwrap();
    rig.control(Control::Cancel(jobs[2].id)).unwrap();
    rig.pass(60);
    rig.tick();
    let changes = rig.changes(before, 100);
    let told: Vec<_> = (changes.entries.iter())
        .map(|change| match change {
            Change::Job { job, before: None } => (job.id, job.state.name()),
            other => panic!("{other:?}"),
        })
        .collect();
    // Each job is at the position of its latest change.
    let expected = [
        (jobs[2].id, StateName::Cancelled),
        (jobs[1].id, StateName::Running),
        (jobs[0].id, StateName::Queued),
    ];
    assert_eq!(told, expected);
    assert_eq!(changes.up_to, rig.end());
    for change in &changes.entries {
        assert_eq!(change.position(), rig.job(change.id()).position);
    }
}

fn two_changes_in_one_batch_are_two_events(rig: &mut Rig) {
    rig.queue("q", 1);
    let running = rig.submit(job("q", Rig::KIND));
    let report = Report { id: running.id, lease: lease(&running), body: succeeded() };
    let applied = rig.apply(Batch {
        controls: vec![Control::Cancel(running.id)],
        reports: vec![report],
        ..Batch::default()
    });
    let told: Vec<_> = (applied.changes.iter())
        .map(|change| match change {
            Change::Job { job, before } => (job.revision, *before, job.state.name()),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = [
        (2, Some(StateName::Running), StateName::Cancelling),
        (3, Some(StateName::Cancelling), StateName::Succeeded),
    ];
    assert_eq!(told, expected);
}

/// Creates jobs in several states, and deletes some between them.
fn mixed(rig: &mut Rig) -> BTreeMap<JobId, Option<u64>> {
    rig.queue("q", 2);
    let jobs = rig.submit_all(vec![job("q", Rig::KIND); 20]);
    for index in [3, 4, 5, 11, 19] {
        rig.control(Control::Delete(jobs[index].id)).unwrap();
    }
    for index in [6, 7, 8] {
        rig.control(Control::Cancel(jobs[index].id)).unwrap();
    }
    for index in [8, 9, 10, 12] {
        rig.control(Control::Delete(jobs[index].id)).unwrap();
    }
    let state = |id| (id, rig.reader().job(id).unwrap().map(|job| job.revision));
    jobs.iter().map(|job| state(job.id)).collect()
}

fn pages_follow_one_another_without_a_gap(rig: &mut Rig) {
    let truth = mixed(rig);
    for limit in 1..=truth.len() + 1 {
        let (mut told, mut cursor, mut last) = (BTreeMap::new(), Position::default(), Position::default());
        while cursor < rig.end() {
            let page = rig.changes(cursor, limit);
            assert!(page.up_to > cursor, "a page of {limit} leads nowhere from {cursor:?}");
            for change in page.entries {
                assert!(change.position() > last && change.position() <= page.up_to);
                last = change.position();
                let revision = match &change {
                    Change::Job { job, .. } => Some(job.revision),
                    Change::Deleted(_) => None,
                };
                assert_eq!(told.insert(change.id(), revision), None, "told twice");
            }
            assert_eq!(page.reaches_end, page.up_to == rig.end());
            cursor = page.up_to;
        }
        assert_eq!(told, truth, "in pages of {limit}");
    }
}

fn a_page_keeps_its_limit(rig: &mut Rig) {
    mixed(rig);
    for limit in 1..10 {
        assert_eq!(rig.changes(Position::default(), limit).entries.len(), limit);
    }
}

fn the_end_of_the_feed_has_nothing_after_it(rig: &mut Rig) {
    mixed(rig);
    let changes = rig.changes(rig.end(), 10);
    assert!(changes.entries.is_empty());
    assert_eq!((changes.up_to, changes.floor), (rig.end(), Position::default()));
}

fn old_tombstones_are_forgotten_and_the_floor_tells(rig: &mut Rig) {
    rig.queue("q", 0);
    let jobs = rig.submit_all(vec![job("q", Rig::KIND); 4]);
    rig.control(Control::Delete(jobs[0].id)).unwrap();
    let first_gone = rig.end();
    rig.pass(24 * 3600 - 1);
    rig.control(Control::Delete(jobs[1].id)).unwrap();
    assert_eq!(rig.changes(Position::default(), 10).floor, Position::default());
    rig.pass(2);
    rig.control(Control::Delete(jobs[2].id)).unwrap();
    for _ in 0..2 {
        let changes = rig.changes(Position::default(), 10);
        assert_eq!(changes.floor, first_gone);
        let left: Vec<_> = changes.entries.iter().map(Change::id).collect();
        assert_eq!(left, [jobs[3].id, jobs[1].id, jobs[2].id]);
        rig.crash();
    }
}

fn positions_go_on_after_a_crash(rig: &mut Rig) {
    rig.queue("q", 1);
    let running = rig.submit(job("q", Rig::KIND));
    rig.submit(NewJob { run_time: Some(at(5).into()), ..job("q", Rig::KIND) });
    let before = rig.end();
    rig.crash();
    // A crash changes the running jobs and nothing else.
    let changes = rig.changes(before, 10);
    assert_eq!(changes.entries.iter().map(Change::id).collect::<Vec<_>>(), [running.id]);
    assert_eq!(rig.end().as_i64(), before.as_i64() + 1);
    rig.submit(job("q", Rig::KIND));
}
