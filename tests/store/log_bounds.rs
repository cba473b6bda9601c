//! The bound of the write-ahead log while one reader pages through all jobs and another one follows the feed slowly.

use std::{fs, path::Path};

use jobmill::{
    job::{JobFilter, Position},
    store::{Scan, ScanOrder},
};
use rusqlite::Connection;

use super::{
    batch::{Batch, Offer, Setup},
    build,
    subject::{Sqlite, Subject},
};

/// Number of pages in the log at which commits wait until it is empty.
const BOUND_PAGES: u64 = 64_000;
/// Page limit of a batch of this test.
const BATCH_PAGES: u64 = 1_500;
const PAGE_BYTES: u64 = 4_096 + 24;
const BATCHES: i64 = 100;

fn setup() -> Setup {
    Setup {
        present: build::present(0),
        declared_queues: [("q".to_owned(), build::settings(0, 1_000_000))].into(),
        ..Setup::default()
    }
}

/// Commits one batch of jobs that are large enough to fill the log.
fn commit(store: &mut Sqlite, seconds: i64) {
    let job = jobmill::engine::NewJob { payload: vec![1; 9_000].into(), ..build::job("q", "run") };
    let offers = vec![Offer { request: None, jobs: vec![job; 400], waits: false }];
    store.apply(Batch { present: build::present(seconds), offers, ..Batch::default() }).unwrap();
}

fn log_pages(folder: &Path) -> u64 {
    fs::metadata(folder.join("jobmill.db-wal")).unwrap().len() / PAGE_BYTES
}

#[test]
fn a_lister_and_a_slow_watcher_do_not_hold_up_the_log() {
    let mut store = Sqlite::open(setup());
    let reader = store.reader();
    let (mut listed, mut cursor, mut after, mut written) = (0, Position::default(), None, 0);
    for seconds in 1..=BATCHES {
        commit(&mut store, seconds);
        written += 1;
        let order = ScanOrder::OldestFirst { after, last: None };
        let page = reader.scan(&JobFilter::default(), Scan { order, limit: 100, budget: 100 }).unwrap();
        listed += page.jobs.len();
        after = page.jobs.last().map(|job| job.id).or(after);
        cursor = reader.changes(cursor, 10).unwrap().up_to;
        let pages = log_pages(store.folder());
        assert!(pages <= BOUND_PAGES + BATCH_PAGES, "{pages} pages after {written} batches");
    }
    // Both readers are far behind, and the log's length has been written several times over.
    assert_eq!(listed, BATCHES as usize * 100);
    assert!(cursor < reader.jobs(&[]).unwrap().1);
}

#[test]
fn a_transaction_that_stays_open_does_hold_up_the_log() {
    // A counter-check of the bound: a transaction that stays open breaks it.
    let mut store = Sqlite::open(setup());
    commit(&mut store, 1);
    let stays = Connection::open(store.folder().join("jobmill.db")).unwrap();
    stays.execute_batch("BEGIN").unwrap();
    let _: i64 = stays.query_row("SELECT position FROM counters", [], |row| row.get(0)).unwrap();
    for seconds in 2..=BATCHES {
        commit(&mut store, seconds);
    }
    assert!(log_pages(store.folder()) > BOUND_PAGES + BATCH_PAGES);
}
