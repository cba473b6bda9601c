//! The lifetime of request ids, however their jobs end and whatever else is to be deleted.

use jobmill::job::{JobId, Position};

use crate::store::{
    batch::Control,
    batch::{Batch, Receipt, Setup},
    build::{job, present, requested, settings},
    rig::{Rig, created},
    subject::{Sqlite, Subject},
};

both_stores!(
    old_request_ids_are_forgotten_while_retention_is_behind,
    old_tombstones_are_forgotten_while_retention_is_behind,
    retention_is_not_held_up_by_old_request_ids,
    a_request_is_forgotten_a_day_after_the_last_of_its_jobs_however_that_went,
    a_request_with_many_jobs_is_remembered_until_the_last_one_is_gone,
);

const DAY: u64 = 24 * 3_600;
/// Number of jobs that takes retention many batches.
const MANY: usize = 8_000;

fn settle(rig: &mut Rig) {
    for _ in 0..100 {
        if !rig.tick().more {
            return;
        }
    }
    panic!("there is always more to do");
}

fn each(rig: &mut Rig, ids: &[JobId], control: impl Fn(JobId) -> Control) {
    for ids in ids.chunks(2_000) {
        let controls = ids.iter().map(|id| control(*id)).collect();
        let applied = rig.apply(Batch { controls, ..Batch::default() });
        assert!(applied.controls.iter().all(Result::is_ok));
    }
}

/// Creates ended jobs, which retention deletes a day later.
fn ended(rig: &mut Rig, count: usize) {
    rig.queue_with("crowd", settings(0, 100_000));
    let ids: Vec<_> = rig.submit_all(vec![job("crowd", Rig::KIND); count]).iter().map(|job| job.id).collect();
    each(rig, &ids, Control::Cancel);
}

/// Submits a job under a request id.
fn ask(rig: &mut Rig, id: &str) -> Receipt {
    rig.offer(requested(id, "said", vec![job("q", Rig::KIND)]))
}

fn old_request_ids_are_forgotten_while_retention_is_behind(rig: &mut Rig) {
    rig.queue("q", 0);
    let first = created(ask(rig, "r")).remove(0);
    rig.control(Control::Delete(first.id)).unwrap();
    ended(rig, MANY);
    rig.pass(DAY + 2);
    for _ in 0..3 {
        assert!(rig.tick().more, "retention is not behind");
    }
    let again = ask(rig, "r");
    assert!(matches!(again, Receipt::Created { .. }), "{again:?}");
}

fn old_tombstones_are_forgotten_while_retention_is_behind(rig: &mut Rig) {
    rig.queue("q", 0);
    let first = rig.submit(job("q", Rig::KIND));
    rig.control(Control::Delete(first.id)).unwrap();
    let gone_at = rig.end();
    ended(rig, MANY);
    rig.pass(DAY + 2);
    for _ in 0..3 {
        assert!(rig.tick().more, "retention is not behind");
    }
    assert_eq!(rig.changes(Position::default(), 1).floor, gone_at);
}

fn retention_is_not_held_up_by_old_request_ids(rig: &mut Rig) {
    rig.queue_with("q", settings(0, 100_000));
    let mut ids = Vec::new();
    for number in 0..4 {
        let offers = (0..1_000)
            .map(|other| requested(&format!("r-{number}-{other}"), "said", vec![job("q", Rig::KIND)]));
        let applied = rig.apply(Batch { offers: offers.collect(), ..Batch::default() });
        for receipt in applied.offers {
            ids.push(created(receipt)[0].id);
        }
    }
    each(rig, &ids, Control::Delete);
    ended(rig, 1_000);
    rig.pass(DAY + 2);
    for _ in 0..2 {
        rig.tick();
    }
    assert!(rig.all_jobs().len() < 1_000, "none of the ended jobs is gone");
    rig.live(60);
    assert!(rig.all_jobs().is_empty());
}

/// How a job leaves the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Removal {
    Deleted,
    Purged,
    Retained,
}

fn goes(rig: &mut Rig, id: JobId, way: Removal) {
    match way {
        Removal::Deleted => {
            rig.control(Control::Delete(id)).unwrap();
        }
        Removal::Purged => {
            rig.control(Control::Purge { name: "q".into() }).unwrap();
        }
        Removal::Retained => {
            rig.control(Control::Cancel(id)).unwrap();
            rig.pass(DAY + 2);
        }
    }
    settle(rig);
    assert_eq!(rig.reader().job(id).unwrap(), None, "{way:?}");
}

fn a_request_is_forgotten_a_day_after_the_last_of_its_jobs_however_that_went(rig: &mut Rig) {
    // A purge deletes every waiting job, so that it comes last.
    let orders = [
        [Removal::Deleted, Removal::Retained, Removal::Purged],
        [Removal::Retained, Removal::Deleted, Removal::Purged],
        [Removal::Retained, Removal::Retained, Removal::Deleted],
        [Removal::Deleted, Removal::Deleted, Removal::Retained],
    ];
    rig.queue("q", 0);
    for (number, ways) in orders.into_iter().enumerate() {
        let ask = || requested(&format!("r-{number}"), "said", vec![job("q", Rig::KIND); 3]);
        let jobs = created(rig.offer(ask()));
        // The first job goes last, because a repeat is answered with it.
        for (job, way) in jobs.iter().rev().zip(ways) {
            rig.pass(2 * DAY);
            settle(rig);
            rig.crash();
            let repeat = rig.offer(ask());
            assert!(
                matches!(&repeat, Receipt::Seen { first, count: 3 } if first.id == jobs[0].id),
                "{repeat:?}"
            );
            goes(rig, job.id, way);
        }
        rig.pass(DAY - 10);
        settle(rig);
        let repeat = rig.offer(ask());
        assert!(matches!(repeat, Receipt::Gone { live: 0 }), "{ways:?}: {repeat:?}");
        rig.pass(20);
        settle(rig);
        let jobs = created(rig.offer(ask()));
        each(rig, &jobs.iter().map(|job| job.id).collect::<Vec<_>>(), Control::Delete);
    }
}

fn a_request_with_many_jobs_is_remembered_until_the_last_one_is_gone(rig: &mut Rig) {
    rig.queue_with("q", settings(0, 100_000));
    let ask = || requested("r", "said", vec![job("q", Rig::KIND); 1_000]);
    let jobs: Vec<_> = created(rig.offer(ask())).iter().map(|job| job.id).collect();
    // The purge leaves the first job; a crash interrupts it.
    rig.control(Control::Cancel(jobs[0])).unwrap();
    rig.control(Control::Purge { name: "q".into() }).unwrap();
    rig.crash();
    settle(rig);
    assert_eq!(rig.all_jobs().len(), 1);
    rig.pass(DAY - 10);
    settle(rig);
    assert!(matches!(rig.offer(ask()), Receipt::Seen { count: 1_000, .. }));
    rig.pass(20);
    settle(rig);
    assert!(rig.all_jobs().is_empty());
    assert!(matches!(rig.offer(ask()), Receipt::Gone { live: 0 }));
    rig.pass(DAY + 10);
    settle(rig);
    created(rig.offer(ask()));
}

/// Sets one of a request's two jobs aside, deletes the other, and expects the request to be forgotten a day later.
fn set_aside_and_deleted(set_aside_first: bool) {
    let setup = Setup {
        present: present(0),
        declared_queues: [("q".to_owned(), settings(0, 100))].into(),
        ..Setup::default()
    };
    let day = i64::try_from(DAY).unwrap();
    let ask = || requested("r", "said", vec![job("q", Rig::KIND); 2]);
    let mut store = Sqlite::open(setup.clone());
    let apply = |store: &mut Sqlite, seconds, batch: Batch| {
        store.apply(Batch { present: present(seconds), ..batch }).unwrap()
    };
    let offer = |store: &mut Sqlite, seconds| {
        let batch = Batch { offers: vec![ask()], ..Batch::default() };
        apply(store, seconds, batch).offers.remove(0)
    };
    let jobs = created(offer(&mut store, 0));
    let (broken, other) = (jobs[0].id, jobs[1].id);
    let delete = |store: &mut Sqlite, seconds| {
        let controls = vec![Control::Delete(other)];
        let applied = apply(store, seconds, Batch { controls, ..Batch::default() });
        assert!(applied.controls[0].is_ok());
    };
    let set_aside = |store: &mut Sqlite, seconds| {
        let image = store.image();
        let database = rusqlite::Connection::open(image.path().join("jobmill.db")).unwrap();
        let changed = database.execute("UPDATE job SET rank = -500 WHERE id = (SELECT min(id) FROM job)", []);
        assert_eq!(changed.unwrap(), 1);
        drop(database);
        store.restart_from(image, Setup { present: present(seconds), ..setup.clone() }).unwrap();
        assert!(store.reader().job(broken).is_err(), "its row can be read");
        // The first batch finds the unreadable row, and the next one sets it aside.
        for _ in 0..3 {
            let controls = vec![Control::Cancel(broken)];
            apply(store, seconds, Batch { controls, ..Batch::default() });
        }
        assert_eq!(store.reader().size().unwrap().set_aside_rows, 1);
    };
    if set_aside_first {
        set_aside(&mut store, 10);
        delete(&mut store, 20);
    } else {
        delete(&mut store, 10);
        set_aside(&mut store, 20);
    }
    let repeat = offer(&mut store, 30);
    assert!(matches!(repeat, Receipt::Gone { live: 0 }), "{repeat:?}");
    for seconds in 0..10 {
        apply(&mut store, day + 40 + seconds, Batch::default());
    }
    let repeat = offer(&mut store, day + 60);
    assert!(matches!(repeat, Receipt::Created { .. }), "the request is never forgotten: {repeat:?}");
}

#[test]
fn a_request_is_forgotten_though_one_of_its_rows_was_set_aside() {
    set_aside_and_deleted(true);
}

#[test]
fn a_request_is_forgotten_though_the_last_of_its_rows_was_set_aside() {
    set_aside_and_deleted(false);
}
