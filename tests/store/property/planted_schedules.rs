//! Stores with planted bugs in their schedules, each of which breaks a promise.

use std::sync::Arc;

use jobmill::{
    clock::Timestamp,
    engine::{DemandBoard, ScheduleAction},
    settings::{ScheduleField, ScheduleSettings},
    store::{Reader, StoreError},
};
use rusqlite::Connection;

use super::{
    instants::{RULES, Rule},
    planted::as_the_store,
};
use crate::store::{
    batch::{Applied, Batch, Control, Setup},
    subject::{Memory, Sqlite, Subject},
};

/// A store with a bug in its schedules.
pub(crate) struct BrokenSchedules {
    store: Sqlite,
    bug: Bug,
}

#[derive(Clone, Copy)]
enum Bug {
    /// A crash keeps the job of the last instant, and forgets that the instant has run.
    FiresTwice,
    /// A schedule that has never run begins at the start of the server.
    ForgetsFirst,
}

impl BrokenSchedules {
    /// Opens a store in which an instant runs again after a crash.
    pub(crate) fn fires_twice(setup: Setup) -> Box<dyn Subject> {
        let mut broken = BrokenSchedules { store: Sqlite::open(setup.clone()), bug: Bug::FiresTwice };
        let sql = "CREATE TABLE earlier (schedule INTEGER PRIMARY KEY, generation INTEGER, cursor INTEGER, \
                   wake INTEGER, state TEXT); \
                   CREATE TRIGGER fires AFTER UPDATE ON schedule_run \
                   WHEN NEW.state LIKE '%\"fired\":{%' AND substr(NEW.state, instr(NEW.state, '\"fired\":{'), 24) \
                   <> substr(OLD.state, instr(OLD.state, '\"fired\":{'), 24) BEGIN \
                   INSERT OR REPLACE INTO earlier VALUES \
                   (OLD.schedule, NEW.generation, OLD.cursor, OLD.wake, OLD.state); END";
        broken.restart_after(sql, setup).unwrap();
        Box::new(broken)
    }

    /// Opens a store that loses a first instant that comes while no server runs.
    pub(crate) fn forgets_first(setup: Setup) -> Box<dyn Subject> {
        Box::new(BrokenSchedules { store: Sqlite::open(setup), bug: Bug::ForgetsFirst })
    }

    /// Crashes, and changes the rows before the next start.
    fn restart_after(&mut self, sql: &str, setup: Setup) -> Result<(), StoreError> {
        let image = self.store.image();
        let database = Connection::open(image.path().join("jobmill.db")).unwrap();
        database.execute_batch(sql).unwrap();
        drop(database);
        self.store.restart_from(image, setup)
    }
}

impl Subject for BrokenSchedules {
    fn apply(&mut self, batch: Batch) -> Result<Applied, StoreError> {
        self.store.apply(batch)
    }

    fn crash(&mut self, setup: Setup) -> Result<(), StoreError> {
        match self.bug {
            Bug::FiresTwice => {
                let sql = "UPDATE schedule_run SET (cursor, wake, state) = \
                           (SELECT cursor, wake, state FROM earlier WHERE schedule = schedule_run.schedule) \
                           WHERE is_paused = 0 AND EXISTS (SELECT 1 FROM earlier \
                           WHERE schedule = schedule_run.schedule AND generation = schedule_run.generation)";
                self.restart_after(sql, setup)
            }
            Bug::ForgetsFirst => {
                let sql = begin_at(setup.present.wall);
                self.restart_after(&sql, setup)
            }
        }
    }

    as_the_store!(store);
}

/// A store that runs a fixed time twice where it comes twice.
pub(crate) struct RepeatsFold(Memory);

impl RepeatsFold {
    pub(crate) fn open(setup: Setup) -> Box<dyn Subject> {
        Box::new(RepeatsFold(Memory::open(setup)))
    }
}

impl Subject for RepeatsFold {
    fn apply(&mut self, mut batch: Batch) -> Result<Applied, StoreError> {
        batch.controls.iter_mut().for_each(repeat_fixed_times);
        self.0.apply(batch)
    }

    fn crash(&mut self, setup: Setup) -> Result<(), StoreError> {
        self.0.crash(setup)
    }

    as_the_store!(0);
}

fn begin_at(start: Timestamp) -> String {
    let start = start.as_micros();
    format!(
        "UPDATE schedule_run SET cursor = {start} \
         WHERE cursor < {start} AND is_paused = 0 AND state NOT LIKE '%\"fired\":{{%'"
    )
}

/// Adds an expression that repeats through the hours of a fold to the one of a fixed time.
fn repeat_fixed_times(control: &mut Control) {
    let Control::Schedule { action, .. } = control else { return };
    match action {
        ScheduleAction::Create(settings) => repeat_fixed_time(settings),
        ScheduleAction::Update { change, .. } if change.fields.contains(&ScheduleField::Crons) => {
            repeat_fixed_time(&mut change.to);
        }
        _ => {}
    }
}

fn repeat_fixed_time(settings: &mut ScheduleSettings) {
    let spec = &mut settings.times.spec;
    let fold = match &*spec.time_zone {
        "Europe/Berlin" => "25 10",
        "Australia/Lord_Howe" => "5 4",
        _ => return,
    };
    let of_spec = |rule: &Rule| rule.cron().is_some_and(|cron| spec.crons.contains(&cron));
    if let Some(Rule::Daily(hour, minute @ 1..)) = RULES.into_iter().find(of_spec) {
        // The step makes it one that repeats, and leads to no other minute.
        spec.crons.push(format!("{minute}/{} {hour}-{} {fold} *", 60 - minute, hour + 1));
    }
}
