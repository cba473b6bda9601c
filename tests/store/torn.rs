//! The files after a power cut: a log whose end was half written, a checkpoint that stopped half-way.
//!
//! The files are damaged as a disk could have left them. The recovered store must be sound, must equal the state after
//! some prefix of the batches, and must have every batch whose flush had returned before the damage begins.

use std::{collections::BTreeMap, fs, path::Path};

use jobmill::{
    engine::ReportBody,
    job::{JobFilter, Output},
    store::{Reader, Scan, ScanOrder},
};
use rusqlite::Connection;
use tempfile::TempDir;

use super::{
    batch::{Batch, Offer, Receipt, Report, Setup},
    build,
    property::program::Dice,
    subject::{Sqlite, Subject},
};

const DATABASE: &str = "jobmill.db";
const LOG: &str = "jobmill.db-wal";
const RUNS: u64 = 6;
const DAMAGES_OF_A_RUN: u64 = 12;

/// The state after a batch: each job's revision and state by its position in the feed, and the end of the feed.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
struct Moment {
    jobs: BTreeMap<i64, (i64, i64)>,
    end: i64,
}

/// A run of a store: the length of the log and the state after each batch.
struct Run {
    store: Sqlite,
    setup: Setup,
    moments: Vec<(usize, Moment)>,
}

fn setup() -> Setup {
    Setup {
        present: build::present(0),
        seed: 1,
        served_kinds: vec!["run".into()],
        native_kinds: Vec::new(),
        declared_queues: [("q".to_owned(), build::settings(3, 1_000))].into(),
        ..Setup::default()
    }
}

/// Applies a few dozen batches that submit, finish, fail and carry large payloads.
fn run(dice: &mut Dice) -> Run {
    let setup = setup();
    let mut store = Sqlite::open(setup.clone());
    let log = store.folder().join(LOG);
    let mut moments = vec![(log_length(&log), moment(&*store.reader()))];
    let mut running: Vec<Report> = Vec::new();
    for seconds in 0..30 {
        let new = |dice: &mut Dice| {
            let payload = vec![dice.below(256) as u8; [0, 100, 300, 9_000][dice.below(4) as usize]];
            jobmill::engine::NewJob { payload: payload.into(), ..build::job("q", "run") }
        };
        let offers = (0..dice.below(4)).map(|_| {
            let jobs = (0..=dice.below(3)).map(|_| new(dice)).collect();
            Offer { request: None, jobs, waits: false }
        });
        let batch = Batch {
            present: build::present(seconds),
            offers: offers.collect(),
            reports: std::mem::take(&mut running),
            claim: true,
            ..Batch::default()
        };
        for claim in store.apply(batch).unwrap().claims {
            let body = match dice.below(3) {
                0 => ReportBody::Failed {
                    failure: build::failure(true),
                    delay: None,
                    process_died: false,
                    tail: "tail".into(),
                },
                1 => ReportBody::Released { delay: None },
                _ => ReportBody::Succeeded { output: Output::default(), tail: String::new() },
            };
            running.push(Report { id: claim.job.id, lease: claim.lease, body });
        }
        let before = moments.last().unwrap().0;
        let length = log_length(&log);
        assert!(length >= before, "the log started over: the run is too long for this test");
        moments.push((length, moment(&*store.reader())));
    }
    Run { store, setup, moments }
}

fn log_length(log: &Path) -> usize {
    fs::metadata(log).unwrap().len() as usize
}

fn moment(reader: &dyn Reader) -> Moment {
    let order = ScanOrder::OldestFirst { after: None, last: None };
    let page =
        reader.scan(&JobFilter::default(), Scan { order, limit: usize::MAX, budget: 1 << 40 }).unwrap();
    let row =
        |job: &jobmill::job::Job| (job.position.as_i64(), (job.revision as i64, job.state.name() as i64));
    Moment { jobs: page.jobs.iter().map(|job| row(job)).collect(), end: page.position.as_i64() }
}

/// Reads the state from the files without the store, which would recover them further.
fn found_in(folder: &Path) -> Moment {
    let connection = Connection::open(folder.join(DATABASE)).unwrap();
    let sound: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(sound, "ok");
    let end = connection.query_row("SELECT position FROM counters", [], |row| row.get(0)).unwrap();
    let mut statement = connection.prepare("SELECT position, revision, state FROM job").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?)))).unwrap();
    Moment { jobs: rows.collect::<Result<_, _>>().unwrap(), end }
}

/// Asserts that the store works on from the files, and that its counts are right.
fn goes_on(folder: TempDir, setup: &Setup, found: &Moment) {
    let mut store = Sqlite::open_in(folder, setup.clone()).unwrap();
    let reader = store.reader();
    let jobs: u64 = reader.tallies().unwrap().iter().map(|tally| tally.jobs).sum();
    assert_eq!(jobs as usize, found.jobs.len());
    let jobs = vec![build::job("q", "run")];
    let offers = vec![Offer { request: None, jobs, waits: false }];
    let applied = store.apply(Batch { present: build::present(100), offers, ..Batch::default() }).unwrap();
    assert!(matches!(applied.offers[0], Receipt::Created { .. }));
    assert!(applied.position.as_i64() > found.end);
}

/// Damages a log from `from` on as a disk could before the flush; returns the name of the damage.
fn damage(log: &mut Vec<u8>, from: usize, dice: &mut Dice) -> &'static str {
    match dice.below(4) {
        0 => {
            log.truncate(from);
            "cut off"
        }
        1 => {
            log[from..].fill(0);
            "zeros"
        }
        2 => {
            log[from] ^= 1 << dice.below(8);
            "one bit"
        }
        _ => {
            // Sectors reach the disk in any order: some are written, some are not.
            for sector in log[from..].chunks_mut(512).enumerate() {
                if sector.0 == 0 || dice.below(2) == 0 {
                    sector.1.fill_with(|| dice.below(256) as u8);
                }
            }
            "sectors"
        }
    }
}

#[test]
fn a_torn_log_leaves_the_batches_before_the_tear() {
    for seed in 0..RUNS {
        let mut dice = Dice::new(seed);
        let run = run(&mut dice);
        for _ in 0..DAMAGES_OF_A_RUN {
            let image = run.store.image();
            let path = image.path().join(LOG);
            let mut log = fs::read(&path).unwrap();
            let from = dice.below(log.len() as u64) as usize;
            let how = damage(&mut log, from, &mut dice);
            fs::write(&path, &log).unwrap();
            let found = found_in(image.path());
            // The last batch whose end lies before the damage. A batch that is not in the log at all is in the
            // database.
            let kept = run.moments.iter().rev().find(|(length, _)| *length <= from);
            let what = format!("seed {seed}: {how} from byte {from} on");
            match kept {
                Some((_, expected)) => assert_eq!(&found, expected, "{what}"),
                None => assert_eq!(found, Moment::default(), "{what}"),
            }
            goes_on(image, &run.setup, &found);
        }
    }
}

#[test]
fn a_checkpoint_torn_in_the_middle_loses_nothing() {
    for seed in 0..RUNS {
        let mut dice = Dice::new(1_000 + seed);
        let run = run(&mut dice);
        let whole = &run.moments.last().unwrap().1;
        let before = run.store.image();
        let after = run.store.image();
        {
            let connection = Connection::open(after.path().join(DATABASE)).unwrap();
            connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).unwrap();
        }
        let old = fs::read(before.path().join(DATABASE)).unwrap();
        let mut pages = fs::read(after.path().join(DATABASE)).unwrap();
        // Some pages of the checkpoint reached the disk and some did not, while the log still exists.
        for (index, page) in pages.chunks_mut(4096).enumerate() {
            let old = old.get(index * 4096..(index + 1) * 4096);
            match old {
                Some(old) if dice.below(2) == 0 => page.copy_from_slice(old),
                None if dice.below(2) == 0 => page.fill(0),
                Some(_) | None => {}
            }
        }
        fs::write(before.path().join(DATABASE), &pages).unwrap();
        let found = found_in(before.path());
        assert_eq!(&found, whole, "seed {seed}");
        goes_on(before, &run.setup, &found);
    }
}
