//! Stores with planted bugs, each of which breaks a promise. A checker that misses one is broken itself.

use std::{sync::Arc, time::Duration};

use jobmill::{
    clock::{ClockReading, Timestamp, Uptime},
    engine::DemandBoard,
    job::{Change, Changes, Edge, Identity, Job, JobFilter, JobId, KeyHash, Name, Position, Tally},
    settings::{CalendarInfo, QueueInfo, ScheduleInfo},
    store::{HeldKey, Page, Reader, Scan, StoreError, StoreSize, WholeJob},
};
use tempfile::TempDir;

use crate::store::{
    batch::{Applied, Batch, Setup},
    subject::{Memory, Sqlite, Subject},
};

/// The operations of a subject that are those of the store within it.
macro_rules! as_the_store {
    ($store:tt) => {
        fn reader(&self) -> Arc<dyn Reader> {
            self.$store.reader()
        }

        $crate::store::property::planted::as_the_store!($store, but reader);
    };
    ($store:tt, but reader) => {
        fn board(&self) -> &DemandBoard {
            self.$store.board()
        }

        fn kinds_of_workers(&mut self) -> Result<Vec<String>, StoreError> {
            self.$store.kinds_of_workers()
        }
    };
}
pub(crate) use as_the_store;

/// A store that answers before the batch is on disk: a crash restores the state before it.
pub(crate) struct AnswersBeforeCommit {
    store: Sqlite,
    on_disk: Option<TempDir>,
}

impl AnswersBeforeCommit {
    pub(crate) fn open(setup: Setup) -> Box<dyn Subject> {
        Box::new(AnswersBeforeCommit { store: Sqlite::open(setup), on_disk: None })
    }
}

impl Subject for AnswersBeforeCommit {
    fn apply(&mut self, batch: Batch) -> Result<Applied, StoreError> {
        self.on_disk = Some(self.store.image());
        self.store.apply(batch)
    }

    fn crash(&mut self, setup: Setup) -> Result<(), StoreError> {
        let image = self.on_disk.take().unwrap_or_else(|| self.store.image());
        self.store.restart_from(image, setup)
    }

    as_the_store!(store);
}

/// A store in which each crash changes the rows.
pub(crate) struct ChangedByCrash {
    store: Sqlite,
    change: &'static str,
}

impl ChangedByCrash {
    fn open(setup: Setup, change: &'static str) -> Box<dyn Subject> {
        Box::new(ChangedByCrash { store: Sqlite::open(setup), change })
    }

    /// Restores running jobs as if their attempts had never started.
    pub(crate) fn forgets_attempts(setup: Setup) -> Box<dyn Subject> {
        Self::open(setup, "UPDATE job SET attempt = attempt - 1 WHERE state IN (4, 6)")
    }

    /// Restores the attempts of remote workers as if they were the server's own.
    pub(crate) fn forgets_workers(setup: Setup) -> Box<dyn Subject> {
        Self::open(setup, "UPDATE job SET worker = NULL WHERE state IN (4, 6)")
    }

    /// Restores ended attempts as if no worker had reported their ends.
    pub(crate) fn forgets_reports(setup: Setup) -> Box<dyn Subject> {
        let change = "UPDATE job SET reported = NULL; UPDATE attempt SET lease = NULL";
        Self::open(setup, change)
    }

    /// Restores ended attempts as if another worker had reported their ends.
    pub(crate) fn confuses_owners(setup: Setup) -> Box<dyn Subject> {
        let change = "CREATE TEMP TABLE newest AS \
                      SELECT '{\"instance\":\"' || instance || '\",\"process\":\"' || process || '\"}' AS owner \
                      FROM worker ORDER BY number DESC LIMIT 1; \
                      UPDATE job SET reported = substr(reported, 1, instr(reported, '\"owner\":') + 7) \
                      || (SELECT owner FROM newest) || '}' \
                      WHERE reported IS NOT NULL AND EXISTS (SELECT 1 FROM newest); \
                      UPDATE attempt SET worker = (SELECT owner FROM newest) \
                      WHERE worker IS NOT NULL AND EXISTS (SELECT 1 FROM newest)";
        Self::open(setup, change)
    }

    /// Restores jobs as if their snoozes had counted.
    pub(crate) fn counts_snoozes(setup: Setup) -> Box<dyn Subject> {
        Self::open(
            setup,
            "UPDATE job SET rare = iif(instr(rare, 'has_dependents'), '{\"has_dependents\":true}', NULL)",
        )
    }

    /// Restores waiting jobs as if they had neither an expiry nor a deadline.
    pub(crate) fn forgets_ends(setup: Setup) -> Box<dyn Subject> {
        Self::open(setup, "UPDATE job SET until = NULL")
    }

    /// Restores queues as if nothing had had a turn.
    pub(crate) fn forgets_turns(setup: Setup) -> Box<dyn Subject> {
        Self::open(setup, "UPDATE turns SET last = 0")
    }

    /// Restores rates as if all of their tokens had come back.
    pub(crate) fn refills_rates(setup: Setup) -> Box<dyn Subject> {
        Self::open(setup, "DELETE FROM limit_value")
    }

    /// Restores limits as if no value had a rule of its own.
    pub(crate) fn forgets_overrides(setup: Setup) -> Box<dyn Subject> {
        Self::open(setup, "DELETE FROM limit_override")
    }

    /// Restores jobs as if their attempts had left nothing.
    pub(crate) fn forgets_checkpoints(setup: Setup) -> Box<dyn Subject> {
        Self::open(setup, "DELETE FROM checkpoint")
    }

    /// Restores workers as if none had replaced another one.
    pub(crate) fn forgets_predecessors(setup: Setup) -> Box<dyn Subject> {
        Self::open(setup, "UPDATE worker SET predecessors = '[]'")
    }
}

impl Subject for ChangedByCrash {
    fn apply(&mut self, batch: Batch) -> Result<Applied, StoreError> {
        self.store.apply(batch)
    }

    fn crash(&mut self, setup: Setup) -> Result<(), StoreError> {
        let image = self.store.image();
        {
            let database = rusqlite::Connection::open(image.path().join("jobmill.db")).unwrap();
            database.execute_batch(self.change).unwrap();
        }
        self.store.restart_from(image, setup)
    }

    as_the_store!(store);
}

/// A store that doesn't free the unique key of a job that expires.
pub(crate) struct KeepsKeysOfExpired(Sqlite);

impl KeepsKeysOfExpired {
    pub(crate) fn open(setup: Setup) -> Box<dyn Subject> {
        let mut store = Sqlite::open(setup.clone());
        let image = store.image();
        {
            let database = rusqlite::Connection::open(image.path().join("jobmill.db")).unwrap();
            let sql = "CREATE TABLE freed (holder INTEGER PRIMARY KEY, key BLOB); \
                       CREATE TRIGGER frees AFTER DELETE ON unique_key BEGIN \
                       INSERT OR REPLACE INTO freed VALUES (OLD.holder, OLD.key); END; \
                       CREATE TRIGGER expires AFTER UPDATE ON job WHEN NEW.state = 10 AND OLD.state <> 10 BEGIN \
                       INSERT OR IGNORE INTO unique_key (key, holder) \
                       SELECT key, holder FROM freed WHERE holder = NEW.id; END";
            database.execute_batch(sql).unwrap();
        }
        store.restart_from(image, setup).unwrap();
        Box::new(KeepsKeysOfExpired(store))
    }
}

impl Subject for KeepsKeysOfExpired {
    fn apply(&mut self, batch: Batch) -> Result<Applied, StoreError> {
        self.0.apply(batch)
    }

    fn crash(&mut self, setup: Setup) -> Result<(), StoreError> {
        self.0.crash(setup)
    }

    as_the_store!(0);
}

/// A store that loses edges between jobs.
pub(crate) struct ForgetsEdges(Sqlite);

impl ForgetsEdges {
    /// Takes the first dependencies of a child for met once it gets another one.
    pub(crate) fn open(setup: Setup) -> Box<dyn Subject> {
        Self::with(
            setup,
            "CREATE TRIGGER forgets AFTER INSERT ON dependency BEGIN \
             UPDATE dependency SET state = 2 WHERE child = NEW.child AND parent <> NEW.parent AND state = 1; END",
        )
    }

    /// Forgets that a job has dependents.
    pub(crate) fn tells_nobody(setup: Setup) -> Box<dyn Subject> {
        Self::with(
            setup,
            "CREATE TRIGGER forgets AFTER INSERT ON dependency WHEN NEW.parent % 2 = 0 BEGIN \
             UPDATE dependency SET live = 0 WHERE child = NEW.child AND parent = NEW.parent; END",
        )
    }

    fn with(setup: Setup, sql: &str) -> Box<dyn Subject> {
        let mut store = Sqlite::open(setup.clone());
        let image = store.image();
        rusqlite::Connection::open(image.path().join("jobmill.db")).unwrap().execute_batch(sql).unwrap();
        store.restart_from(image, setup).unwrap();
        Box::new(ForgetsEdges(store))
    }
}

impl Subject for ForgetsEdges {
    fn apply(&mut self, batch: Batch) -> Result<Applied, StoreError> {
        self.0.apply(batch)
    }

    fn crash(&mut self, setup: Setup) -> Result<(), StoreError> {
        self.0.crash(setup)
    }

    as_the_store!(0);
}

/// A store whose starts begin with numbers from an hour ago.
pub(crate) struct BeginsBehindItsClock(Memory);

impl BeginsBehindItsClock {
    pub(crate) fn open(setup: Setup) -> Box<dyn Subject> {
        Box::new(BeginsBehindItsClock(Memory::open(an_hour_ago(setup))))
    }
}

fn an_hour_ago(setup: Setup) -> Setup {
    let wall = Timestamp::from_micros(setup.present.wall.as_micros() - 3_600 * 1_000_000);
    Setup { present: ClockReading { wall, ..setup.present }, ..setup }
}

impl Subject for BeginsBehindItsClock {
    fn apply(&mut self, batch: Batch) -> Result<Applied, StoreError> {
        self.0.apply(batch)
    }

    fn crash(&mut self, setup: Setup) -> Result<(), StoreError> {
        self.0.crash(an_hour_ago(setup))
    }

    as_the_store!(0);
}

/// A store that measures elapsed time by the wall clock.
pub(crate) struct CountsByTheWall(Memory);

impl CountsByTheWall {
    pub(crate) fn open(setup: Setup) -> Box<dyn Subject> {
        Box::new(CountsByTheWall(Memory::open(by_the_wall(setup))))
    }
}

fn by_the_wall(setup: Setup) -> Setup {
    Setup { present: counted_by_the_wall(setup.present), ..setup }
}

fn counted_by_the_wall(present: ClockReading) -> ClockReading {
    let micros = u64::try_from(present.wall.as_micros()).unwrap_or_default();
    ClockReading { uptime: Uptime::new(Duration::from_micros(micros)), ..present }
}

impl Subject for CountsByTheWall {
    fn apply(&mut self, batch: Batch) -> Result<Applied, StoreError> {
        self.0.apply(Batch { present: counted_by_the_wall(batch.present), ..batch })
    }

    fn crash(&mut self, setup: Setup) -> Result<(), StoreError> {
        self.0.crash(by_the_wall(setup))
    }

    as_the_store!(0);
}

/// A store that sometimes leaves the end of a job out of the feed for readers that resume.
pub(crate) struct SkipsEnds(Memory);

impl SkipsEnds {
    pub(crate) fn open(setup: Setup) -> Box<dyn Subject> {
        Box::new(SkipsEnds(Memory::open(setup)))
    }
}

impl Subject for SkipsEnds {
    fn apply(&mut self, batch: Batch) -> Result<Applied, StoreError> {
        self.0.apply(batch)
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(SkippingReader(self.0.reader()))
    }

    fn crash(&mut self, setup: Setup) -> Result<(), StoreError> {
        self.0.crash(setup)
    }

    as_the_store!(0, but reader);
}

struct SkippingReader(Arc<dyn Reader>);

impl Reader for SkippingReader {
    fn changes(&self, after: Position, limit: usize) -> Result<Changes, StoreError> {
        let mut changes = self.0.changes(after, limit)?;
        // A large page is the checker's own read, and not a resuming watcher's.
        if limit > 100 {
            return Ok(changes);
        }
        changes.entries.retain(|change| match change {
            Change::Job { job, .. } => !job.state.is_done() || job.position.as_i64() % 10 != 0,
            Change::Deleted(_) => true,
        });
        Ok(changes)
    }

    fn dependencies(&self, child: JobId) -> Result<Vec<Edge>, StoreError> {
        self.0.dependencies(child)
    }

    fn dependents(&self, parent: JobId, after: Option<JobId>, limit: usize) -> Result<Vec<Edge>, StoreError> {
        self.0.dependents(parent, after, limit)
    }

    fn unique_key(&self, hash: KeyHash) -> Result<Option<HeldKey>, StoreError> {
        self.0.unique_key(hash)
    }

    fn unique_keys(
        &self,
        after: Option<KeyHash>,
        limit: usize,
    ) -> Result<Vec<(KeyHash, HeldKey)>, StoreError> {
        self.0.unique_keys(after, limit)
    }

    fn identity(&self) -> Identity {
        self.0.identity()
    }

    fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.0.job(id)
    }

    fn jobs(&self, ids: &[JobId]) -> Result<(Vec<Option<Job>>, Position), StoreError> {
        self.0.jobs(ids)
    }

    fn whole_job(&self, id: JobId) -> Result<Option<WholeJob>, StoreError> {
        self.0.whole_job(id)
    }

    fn result(&self, id: JobId) -> Result<Option<bytes::Bytes>, StoreError> {
        self.0.result(id)
    }

    fn checkpoint(&self, id: JobId) -> Result<Option<jobmill::job::StoredCheckpoint>, StoreError> {
        self.0.checkpoint(id)
    }

    fn payload(&self, id: JobId) -> Result<Option<bytes::Bytes>, StoreError> {
        self.0.payload(id)
    }

    fn scan(&self, filter: &JobFilter, scan: Scan) -> Result<Page, StoreError> {
        self.0.scan(filter, scan)
    }

    fn queues(&self) -> Result<Vec<QueueInfo>, StoreError> {
        self.0.queues()
    }

    fn schedules(&self, after: Option<&str>, limit: usize) -> Result<Vec<ScheduleInfo>, StoreError> {
        self.0.schedules(after, limit)
    }

    fn schedule(&self, name: &str) -> Result<Option<ScheduleInfo>, StoreError> {
        self.0.schedule(name)
    }

    fn calendars(&self) -> Result<Vec<CalendarInfo>, StoreError> {
        self.0.calendars()
    }

    fn tallies(&self) -> Result<Vec<Tally>, StoreError> {
        self.0.tallies()
    }

    fn oldest_ready(&self, queue: &Name) -> Result<Option<jobmill::clock::Timestamp>, StoreError> {
        self.0.oldest_ready(queue)
    }

    fn size(&self) -> Result<StoreSize, StoreError> {
        self.0.size()
    }
}
