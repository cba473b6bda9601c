//! Names of kinds and queues are freed once nothing refers to them.

use std::collections::{BTreeMap, HashSet};

use jobmill::{
    engine::{NewJob, OfferRefusal},
    job::{Change, JobId, Position, StateName},
};

use crate::store::{
    batch::Control,
    batch::{Batch, Receipt, Setup},
    build::{job, present, settings},
    rig::{Rig, created, offer, succeeded},
    subject::{Sqlite, Subject},
};

both_stores!(
    kinds_of_purged_jobs_are_free_at_once,
    kinds_of_purged_jobs_are_free_after_a_restart,
    kinds_of_jobs_deleted_one_by_one_are_free,
    kinds_of_jobs_that_retention_deleted_are_free,
    kinds_of_jobs_that_are_there_are_not_free,
    a_kind_that_has_no_handler_any_more_is_free_after_a_restart,
    a_kind_with_a_handler_stays_whatever_becomes_of_its_jobs,
    deletions_are_told_with_their_kinds_and_queues_though_their_names_are_free,
    a_deleted_queue_is_named_by_its_jobs_for_as_long_as_they_are_there,
);

const DAY: u64 = 24 * 3_600;
/// Limit of kinds, including those with handlers.
const KINDS_MAX: usize = 10_000;
/// Number of kinds that fit beside the two with handlers.
const OTHERS: usize = KINDS_MAX - 2;
/// Limit of names of queues.
const QUEUES_MAX: usize = 100_000;

/// Returns one job of each of `count` kinds.
fn kinds(name: &str, count: usize) -> Vec<NewJob> {
    (0..count).map(|number| job("q", &format!("{name}-{number}"))).collect()
}

fn is_refused(rig: &mut Rig) -> bool {
    let receipt = rig.offer(offer(vec![job("q", "one-more")]));
    matches!(receipt, Receipt::Refused(OfferRefusal::TooManyKinds(KINDS_MAX)))
}

/// Fills a queue without consumers with a job of every kind that fits.
fn full_of_kinds(rig: &mut Rig) -> Vec<JobId> {
    rig.queue_with("q", settings(0, 20_000));
    let ids = rig.submit_all(kinds("old", OTHERS)).iter().map(|job| job.id).collect();
    assert!(is_refused(rig));
    ids
}

fn settle(rig: &mut Rig) {
    for _ in 0..100 {
        if !rig.tick().more {
            return;
        }
    }
    panic!("there is always more to do");
}

fn purge(rig: &mut Rig) {
    rig.control(Control::Purge { name: "q".into() }).unwrap();
    settle(rig);
}

fn each(rig: &mut Rig, ids: &[JobId], control: impl Fn(JobId) -> Control) {
    for ids in ids.chunks(2_500) {
        let controls = ids.iter().map(|id| control(*id)).collect();
        let applied = rig.apply(Batch { controls, ..Batch::default() });
        assert!(applied.controls.iter().all(Result::is_ok));
    }
}

/// Submits as many new kinds as fit, and reads them back by name.
fn take_new_kinds(rig: &mut Rig) {
    let new = created(rig.offer(offer(kinds("new", OTHERS))));
    for (number, job) in new.iter().enumerate() {
        assert_eq!(job.spec.kind.as_str(), format!("new-{number}"));
    }
    assert!(is_refused(rig), "there are as many as before");
    let told: HashSet<_> = rig.all_jobs().iter().map(|job| job.spec.kind.to_string()).collect();
    assert_eq!(told.len(), OTHERS);
    assert!(told.iter().all(|kind| kind.starts_with("new-")));
}

fn kinds_of_purged_jobs_are_free_at_once(rig: &mut Rig) {
    full_of_kinds(rig);
    purge(rig);
    take_new_kinds(rig);
    purge(rig);
    // The same names can be used again.
    full_again(rig);
}

fn full_again(rig: &mut Rig) {
    let again = created(rig.offer(offer(kinds("old", OTHERS))));
    assert!(again.iter().enumerate().all(|(number, job)| job.spec.kind.as_str() == format!("old-{number}")));
    assert!(is_refused(rig));
}

fn kinds_of_purged_jobs_are_free_after_a_restart(rig: &mut Rig) {
    full_of_kinds(rig);
    purge(rig);
    rig.crash();
    take_new_kinds(rig);
    rig.crash();
    assert!(is_refused(rig));
    let told: HashSet<_> = rig.all_jobs().iter().map(|job| job.spec.kind.to_string()).collect();
    assert!(told.len() == OTHERS && told.iter().all(|kind| kind.starts_with("new-")));
}

fn kinds_of_jobs_deleted_one_by_one_are_free(rig: &mut Rig) {
    let ids = full_of_kinds(rig);
    each(rig, &ids, Control::Delete);
    take_new_kinds(rig);
}

fn kinds_of_jobs_that_retention_deleted_are_free(rig: &mut Rig) {
    let ids = full_of_kinds(rig);
    each(rig, &ids, Control::Cancel);
    rig.pass(DAY + 2);
    settle(rig);
    assert!(rig.all_jobs().is_empty());
    take_new_kinds(rig);
}

fn kinds_of_jobs_that_are_there_are_not_free(rig: &mut Rig) {
    let ids = full_of_kinds(rig);
    // Ended jobs keep their kinds.
    each(rig, &ids[..OTHERS - 100], Control::Cancel);
    purge(rig);
    let kept = rig.all_jobs().len();
    assert_eq!(kept, OTHERS - 100);
    created(rig.offer(offer(kinds("new", 100))));
    assert!(is_refused(rig));
    rig.crash();
    assert!(is_refused(rig));
    for (number, job) in rig.all_jobs().iter().take(kept).enumerate() {
        assert_eq!(job.spec.kind.as_str(), format!("old-{number}"));
    }
}

fn a_kind_that_has_no_handler_any_more_is_free_after_a_restart(rig: &mut Rig) {
    rig.queue_with("q", settings(0, 20_000));
    rig.setup.served_kinds = (0..KINDS_MAX).map(|number| format!("served-{number}")).collect();
    rig.crash();
    assert!(is_refused(rig));
    rig.setup.served_kinds = vec![Rig::KIND.into(), "walk".into()];
    rig.crash();
    take_new_kinds(rig);
}

fn a_kind_with_a_handler_stays_whatever_becomes_of_its_jobs(rig: &mut Rig) {
    full_of_kinds(rig);
    let served = rig.submit(job("q", "walk"));
    rig.control(Control::Delete(served.id)).unwrap();
    purge(rig);
    take_new_kinds(rig);
    rig.control(Control::UpdateQueue { name: "q".into(), settings: settings(2, 20_000) }).unwrap();
    for kind in ["walk", Rig::KIND] {
        assert_eq!(rig.submit(job("q", kind)).state.name(), StateName::Running, "{kind} is served");
    }
}

fn deletions_are_told_with_their_kinds_and_queues_though_their_names_are_free(rig: &mut Rig) {
    full_of_kinds(rig);
    rig.queue("gone", 0);
    let orphan = rig.submit(job("gone", Rig::KIND));
    let before = rig.end();
    rig.control(Control::Delete(orphan.id)).unwrap();
    rig.control(Control::DeleteQueue { name: "gone".into() }).unwrap();
    purge(rig);
    take_new_kinds(rig);
    for number in 0..10 {
        rig.queue(&format!("later-{number}"), 0);
    }
    for _ in 0..2 {
        let told = deletions(rig, before);
        assert_eq!(told.len(), 1 + OTHERS);
        assert_eq!(told[&orphan.id], ("gone".to_owned(), Rig::KIND.to_owned()));
        let others = told.iter().filter(|(id, _)| **id != orphan.id).map(|(_, names)| names);
        for (number, (queue, kind)) in others.enumerate() {
            assert_eq!((queue.as_str(), kind.as_str()), ("q", &*format!("old-{number}")));
        }
        // The same holds after a restart.
        rig.crash();
    }
}

/// Returns the jobs that were deleted after a position in the feed, with their queues and kinds.
fn deletions(rig: &Rig, mut after: Position) -> BTreeMap<JobId, (String, String)> {
    let mut told = BTreeMap::new();
    loop {
        let page = rig.changes(after, 1_000);
        for change in &page.entries {
            if let Change::Deleted(gone) = change {
                told.insert(gone.id, (gone.spec.queue.to_string(), gone.spec.kind.to_string()));
            }
        }
        after = page.up_to;
        if page.reaches_end {
            return told;
        }
    }
}

#[test]
fn names_of_deleted_queues_are_free() {
    let rig = &mut Rig::memory();
    // Declared in the configuration, because the API allows only 1,000 created queues at a time.
    let names: Vec<_> = (0..QUEUES_MAX).map(|number| format!("old-{number}")).collect();
    rig.setup.declared_queues = names.iter().map(|name| (name.clone(), settings(0, 1))).collect();
    rig.crash();
    rig.setup.declared_queues.clear();
    rig.crash();
    for names in names.chunks(10_000) {
        let controls = names.iter().map(|name| Control::DeleteQueue { name: name.clone() }).collect();
        let applied = rig.apply(Batch { controls, ..Batch::default() });
        assert!(applied.controls.iter().all(Result::is_ok));
    }
    for name in ["new", "old-0"] {
        rig.queue(name, 1);
        assert_eq!(rig.submit(job(name, Rig::KIND)).spec.queue.as_str(), name);
    }
    rig.crash();
    rig.queue("newer", 1);
    let queues: Vec<_> = rig.reader().queues().unwrap().iter().map(|queue| queue.name.to_string()).collect();
    assert_eq!(queues, ["new", "newer", "old-0"]);
}

/// Returns the names in a table of the database.
fn kept(store: &Sqlite, table: &str) -> Vec<String> {
    let database = rusqlite::Connection::open(store.folder().join("jobmill.db")).unwrap();
    let mut statement = database.prepare(&format!("SELECT name FROM {table} ORDER BY name")).unwrap();
    let names = statement.query_map([], |row| row.get(0)).unwrap();
    names.collect::<Result<_, _>>().unwrap()
}

#[test]
fn nothing_is_kept_of_names_to_which_nothing_refers() {
    let setup = Setup {
        present: present(0),
        served_kinds: vec![Rig::KIND.into()],
        declared_queues: [("q".to_owned(), settings(0, 1_000))].into(),
        ..Setup::default()
    };
    let mut store = Sqlite::open(setup.clone());
    let mut apply = |batch: Batch| store.apply(Batch { present: present(1), ..batch }).unwrap();
    let mut ended = Vec::new();
    for number in 0..50 {
        let name = format!("gone-{number}");
        let create = Control::CreateQueue { name: name.clone(), settings: settings(0, 5) };
        let jobs = vec![job(&name, &format!("kind-{number}")); 2];
        let offers = vec![offer(jobs)];
        let mut applied = apply(Batch { controls: vec![create], offers, ..Batch::default() });
        let jobs = created(applied.offers.remove(0));
        let cancels = jobs.iter().map(|job| Control::Cancel(job.id));
        let controls = cancels.chain([Control::DeleteQueue { name }]).collect();
        assert!(apply(Batch { controls, ..Batch::default() }).controls.iter().all(Result::is_ok));
        ended.push(jobs);
    }
    // One remaining job keeps its names.
    for jobs in &ended {
        apply(Batch { controls: vec![Control::Delete(jobs[0].id)], ..Batch::default() });
    }
    assert_eq!([kept(&store, "queue").len(), kept(&store, "kind").len()], [51, 51]);
    let mut apply = |batch: Batch| store.apply(Batch { present: present(2), ..batch }).unwrap();
    for jobs in &ended {
        apply(Batch { controls: vec![Control::Delete(jobs[1].id)], ..Batch::default() });
    }
    // Tombstones are forgotten a day later.
    let day = i64::try_from(DAY).unwrap();
    for seconds in 10..20 {
        store.apply(Batch { present: present(day + seconds), ..Batch::default() }).unwrap();
    }
    assert_eq!([kept(&store, "queue"), kept(&store, "kind")], [["q"], [Rig::KIND]]);
    store.crash(Setup { present: present(day + 20), ..setup }).unwrap();
    assert_eq!([kept(&store, "queue"), kept(&store, "kind")], [["q"], [Rig::KIND]]);
}

fn a_deleted_queue_is_named_by_its_jobs_for_as_long_as_they_are_there(rig: &mut Rig) {
    rig.queue("gone", 1);
    let ended = rig.submit(job("gone", Rig::KIND));
    rig.report(&ended, succeeded()).unwrap();
    rig.control(Control::DeleteQueue { name: "gone".into() }).unwrap();
    for restart in [false, true, true] {
        if restart {
            rig.crash();
        }
        for number in 0..5 {
            let name = format!("later-{restart}-{number}");
            if !rig.reader().queues().unwrap().iter().any(|queue| queue.name.as_str() == name) {
                rig.queue(&name, 0);
            }
            assert_eq!(rig.submit(job(&name, Rig::KIND)).spec.queue.as_str(), name);
        }
        assert_eq!(rig.job(ended.id).spec.queue.as_str(), "gone");
    }
    let before = rig.end();
    rig.control(Control::Delete(ended.id)).unwrap();
    rig.queue("latest", 0);
    for _ in 0..2 {
        let told = deletions(rig, before);
        assert_eq!(told[&ended.id], ("gone".to_owned(), Rig::KIND.to_owned()));
        rig.crash();
    }
}
