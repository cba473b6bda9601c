//! Random programs for one schedule, with a ledger of its instants.

use std::sync::Arc;

use jobmill::{
    engine::{DemandBoard, ScheduleAction},
    job::{Job, ScheduleOrigin, StateName},
    settings::{Late, Overlap, ScheduleSettings},
    store::{Reader, StoreError},
};

use crate::store::{
    batch::{Applied, Batch, Setup},
    build::at,
    rig::Rig,
    schedules::{catching_up, every, overlapping, whole},
    subject::{Sqlite, Subject},
};

const DISTANCE: i64 = 10;
const PROGRAMS: u64 = 12;
const STEPS: usize = 40;

/// A generator of numbers that a seed repeats.
struct Dice(u64);

impl Dice {
    fn up_to(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn settings(&mut self) -> ScheduleSettings {
        let overlaps = [Overlap::Skip, Overlap::Allow, Overlap::QueueOne, Overlap::CancelRunning];
        let settings = overlapping(overlaps[self.up_to(4) as usize], every(DISTANCE as u64));
        let settings = if self.up_to(2) == 0 { settings } else { catching_up(15, settings) };
        ScheduleSettings { late: [Late::Latest, Late::All][self.up_to(2) as usize], ..settings }
    }
}

/// What a schedule owes: each of its instants, but for those of its pauses.
struct Ledger {
    now: i64,
    owed: u64,
    is_paused: bool,
}

impl Ledger {
    /// Lets time pass, in which the server may be down.
    fn pass(&mut self, rig: &mut Rig, seconds: i64) {
        let before = self.now / DISTANCE;
        self.now += seconds;
        let came = self.now / DISTANCE - before;
        self.owed += if self.is_paused { 0 } else { came as u64 };
        rig.until(at(self.now));
    }

    /// Asserts that each instant that was owed has run once, waits, or is counted.
    fn check(&self, rig: &Rig, seed: u64) {
        // No instant has two jobs: the list asserts it.
        let jobs = rig.scheduled();
        let fired = jobs.iter().filter_map(|job| job.spec.schedule());
        let fired = fired.filter(|by| by.origin == ScheduleOrigin::Scheduled).count() as u64;
        let run = rig.info().run;
        let counts = run.counts;
        let counts = [counts.missed, counts.superseded, counts.overlapped, counts.no_room];
        let skipped: u64 = counts.iter().map(|count| count.number).sum();
        let pending = u64::from(run.deferred.is_some());
        assert_eq!(fired + skipped + pending, self.owed, "seed {seed}: {run:?}");
        assert_eq!(run.counts.fired.number, fired, "seed {seed}");
    }
}

/// Runs programs of random steps.
fn programs(open: impl Fn() -> Rig) {
    for seed in 0..PROGRAMS {
        let (mut rig, mut dice) = (open(), Dice(seed));
        let rig = &mut rig;
        rig.schedule(dice.settings());
        let mut ledger = Ledger { now: 0, owed: 0, is_paused: false };
        for _ in 0..STEPS {
            step(rig, &mut dice, &mut ledger);
            rig.settle();
            ledger.check(rig, seed);
        }
    }
}

fn step(rig: &mut Rig, dice: &mut Dice, ledger: &mut Ledger) {
    match dice.up_to(9) {
        0..=3 => ledger.pass(rig, 1 + dice.up_to(35) as i64),
        // The server is down for a while, and what came meanwhile is found at its start.
        4 => {
            ledger.pass(rig, dice.up_to(45) as i64);
            rig.crash();
        }
        5 => rig.crash(),
        6 if ledger.is_paused => {
            rig.change("s", ScheduleAction::Resume).unwrap();
            ledger.is_paused = false;
        }
        6 => {
            rig.change("s", ScheduleAction::Pause(String::new())).unwrap();
            ledger.is_paused = true;
        }
        // Another priority moves no instant and repeats none.
        7 => {
            let mut to = ScheduleSettings::clone(&rig.info().settings);
            to.job.priority = Some(dice.up_to(9) as i8);
            rig.change("s", whole(to)).unwrap();
        }
        _ => {
            let runs = |job: &Arc<Job>| job.state.name() == StateName::Running;
            if rig.scheduled().iter().any(runs) {
                rig.ends_one();
            }
        }
    }
}

#[test]
fn each_instant_runs_once_or_is_counted_for_what_kept_it_from_running_in_memory() {
    programs(Rig::memory);
}

#[test]
fn each_instant_runs_once_or_is_counted_for_what_kept_it_from_running_on_sqlite() {
    programs(Rig::sqlite);
}

/// A store with a planted bug: a crash changes the rows of schedules.
struct ChangedByCrash {
    store: Sqlite,
    sql: &'static str,
}

impl Subject for ChangedByCrash {
    fn apply(&mut self, batch: Batch) -> Result<Applied, StoreError> {
        self.store.apply(batch)
    }

    fn reader(&self) -> Arc<dyn Reader> {
        self.store.reader()
    }

    fn crash(&mut self, setup: Setup) -> Result<(), StoreError> {
        let image = self.store.image();
        let database = rusqlite::Connection::open(image.path().join("jobmill.db")).unwrap();
        database.execute_batch(self.sql).unwrap();
        drop(database);
        self.store.restart_from(image, setup)
    }

    fn board(&self) -> &DemandBoard {
        self.store.board()
    }

    fn kinds_of_workers(&mut self) -> Result<Vec<String>, StoreError> {
        self.store.kinds_of_workers()
    }
}

/// Asserts that the ledger fails on a store with a bug.
fn catches(sql: &'static str) {
    let failure = std::panic::catch_unwind(|| {
        programs(|| Rig::new(|setup| Box::new(ChangedByCrash { store: Sqlite::open(setup), sql })));
    })
    .expect_err("the bug was not found");
    let message = failure.downcast_ref::<String>().cloned().unwrap_or_default();
    assert!(message.contains("has two jobs") || message.contains("seed"), "{message}");
}

#[test]
fn an_instant_that_fires_twice_after_a_restart_is_found() {
    catches("UPDATE schedule_run SET cursor = cursor - 10000000 WHERE state LIKE '%\"last\":%'");
}

#[test]
fn a_first_instant_that_is_lost_after_a_restart_is_found() {
    let sql = "UPDATE schedule_run SET cursor = cursor + 10000000, wake = cursor + 20000000 \
               WHERE state NOT LIKE '%\"last\":%'";
    catches(sql);
}
