//! The embedded store: one SQLite file in a data folder.
//!
//! One connection writes, in WAL mode with `synchronous=FULL`: a commit returns after its flush. Readers have
//! connections of their own. A lock on the folder keeps a second server away from it.

mod backup;
mod checkpoint;
mod checkup;
mod decode;
mod disk;
mod files;
mod load;
mod mark;
mod reader;
mod row;
mod write_job;
mod writer;

use std::{
    fs::{self, DirBuilder, File},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, config::DbConfig};
use rusqlite_migration::{M, Migrations};

pub use self::backup::{Copied, CopyError, backup, compact};
pub use self::checkup::{Checkup, Inventory, SetAsideRows, check, inventory};
pub use self::disk::free_bytes;
pub use self::mark::{Mark, MarkFile};
use self::{
    checkpoint::Checkpointer,
    decode::Decoder,
    disk::Disk,
    files::{Files, LockWait, lock, say_locked},
    reader::SqliteReader,
    writer::SqliteRows,
};
use super::{
    Applied, Batch, Missing, Names, Obstacle, Reader, Space, Store, StoreError,
    engine::{Engine, EngineSetup, rows::Rows},
};
use crate::{
    clock::Stopwatch,
    job::{Identity, Incarnation, Position},
    settings::DiskSettings,
};

/// Each brings the schema one step further. What has been released never changes.
const MIGRATION_STEPS: &[M<'static>] = &[M::up(include_str!("../../../migrations/sqlite/0001_jobs.sql"))];
const MIGRATIONS: Migrations<'static> = Migrations::from_slice(MIGRATION_STEPS);

/// Older versions can lose commits in WAL mode.
const SQLITE_MIN_VERSION: i32 = 3_051_003;
const DATABASE: &str = "jobmill.db";
/// How long a start waits for the database's lock before it says so, and how often it says so again.
const SAY_LOCKED_EVERY: Duration = Duration::from_secs(5);
/// How long a batch waits for the database's lock before it comes back. The committer has callers to answer meanwhile.
const BATCH_WAITS_MAX: Duration = Duration::from_millis(20);

/// A store in a folder.
pub struct SqliteStore {
    engine: Engine<SqliteRows>,
    reader: Arc<SqliteReader>,
    disk: Disk,
    files: Files,
    /// Absent where it could not be written.
    mark: Option<MarkFile>,
    lock_wait: LockWait,
    // Held, never read: the lock goes when the file is closed.
    _lock: File,
}

impl SqliteStore {
    /// Opens the store in `folder`, which is made where it does not exist, and recovers from whatever happened before. It
    /// keeps no space free.
    ///
    /// # Errors
    /// When the folder can't be used, is in use, or holds something else.
    pub fn open(folder: &Path, setup: EngineSetup) -> Result<Self, StoreError> {
        let disk = DiskSettings { ballast_bytes: 0, min_free_bytes: 0, ..DiskSettings::default() };
        Self::open_with(folder, disk, setup)
    }

    /// As [`SqliteStore::open`], with settings of its own for the disk.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub fn open_with(folder: &Path, settings: DiskSettings, setup: EngineSetup) -> Result<Self, StoreError> {
        if rusqlite::version_number() < SQLITE_MIN_VERSION {
            return Err(StoreError::OldSqlite(rusqlite::version().to_owned()));
        }
        make_folder(folder)?;
        let lock = lock(folder)?;
        let kept = Mark::read(folder)?;
        let lost = |what| StoreError::Lost { folder: folder.to_owned(), what };
        if mark::database_is_missing(folder, kept) {
            accept(&settings, lost(Missing::Everything))?;
        }
        let mut disk = Disk::new(folder, &settings);
        let options = Options { vfs: settings.vfs.clone() };
        let expected = |found: Mark| match kept.and_then(|kept| kept.missing_in(found)) {
            Some(what) => accept(&settings, lost(what)),
            None => Ok(()),
        };
        let waiting = Stopwatch::start();
        let opened = loop {
            match open_database(folder, &options, expected, setup.clone()) {
                // Even a start writes something down.
                Err(StoreError::DiskFull(_)) if disk.give_up_ballast() => {}
                Err(StoreError::Locked(_)) => {
                    say_locked(&folder.join(DATABASE), waiting.elapsed());
                }
                opened => break opened,
            }
        };
        let (engine, reader) = opened?;
        disk.keep_ballast();
        let Identity { store, .. } = reader.identity();
        let (_, position) = reader.jobs(&[])?;
        let mark = MarkFile::create(folder, Mark { store, position })
            .inspect_err(|error| tracing::warn!(%error, "{} can't be written", mark::MARK))
            .ok();
        Ok(SqliteStore {
            engine,
            reader,
            disk,
            files: Files::of(folder),
            mark,
            lock_wait: LockWait::default(),
            _lock: lock,
        })
    }
}

/// Goes on with what is there, if the settings say so.
fn accept(settings: &DiskSettings, lost: StoreError) -> Result<(), StoreError> {
    if !settings.accept_loss {
        return Err(lost);
    }
    tracing::warn!(%lost, "going on with what is there, as --accept-loss says");
    Ok(())
}

/// The write-ahead log of a database, as SQLite names it.
fn log_of(database: &Path) -> PathBuf {
    database.with_extension("db-wal")
}

/// How connections are opened.
#[derive(Clone, Debug)]
struct Options {
    vfs: Option<String>,
}

fn open_database(
    folder: &Path,
    options: &Options,
    expected: impl Fn(Mark) -> Result<(), StoreError>,
    setup: EngineSetup,
) -> Result<(Engine<SqliteRows>, Arc<SqliteReader>), StoreError> {
    let path = folder.join(DATABASE);
    let mut connection = open_connection(&path, options)?;
    check_schema(&connection)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    migrate(&mut connection)?;
    expected(mark_of(&connection)?)?;
    // Starts with an empty log, so that its length says what this run has written.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    let identity = new_incarnation(&connection)?;
    let names = Arc::new(Names::default());
    let decoder = Arc::new(Decoder::new(Arc::clone(&names)));
    let checkpointer = Checkpointer::start(&path, options, &connection)?;
    let rows = SqliteRows::new(connection, Arc::clone(&decoder), checkpointer);
    let engine = Engine::open(rows, names, setup)?;
    engine.rows().wait_for_lock(BATCH_WAITS_MAX)?;
    let reader = Arc::new(SqliteReader::new(path, options.clone(), decoder, identity));
    Ok((engine, reader))
}

/// Brings the schema up to date.
fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    MIGRATIONS.to_latest(connection).map_err(|error| {
        if let rusqlite_migration::Error::RusqliteError { err, .. } = error {
            err.into()
        } else {
            error.into()
        }
    })
}

/// Which store a database is, and how far it has come.
fn mark_of(connection: &Connection) -> Result<Mark, StoreError> {
    let read = connection.query_row("SELECT store, position FROM counters", [], |row| {
        Ok(Mark { store: row.get(0)?, position: Position(row.get(1)?) })
    });
    Ok(read?)
}

impl Store for SqliteStore {
    fn check(&mut self) -> Result<bool, StoreError> {
        self.files.check()?;
        Ok(self.engine.rows().has_unreadable())
    }

    fn apply(&mut self, batch: Batch) -> Result<Applied, StoreError> {
        let applied = self.engine.apply(batch)?;
        let obstacle = applied.unapplied.as_ref().map(|unapplied| unapplied.obstacle);
        if obstacle == Some(Obstacle::Locked) {
            self.lock_wait.met(self.files.database());
            return Ok(applied);
        }
        self.lock_wait.over();
        if obstacle.is_none()
            && let Some(mark) = &mut self.mark
        {
            mark.advance(applied.position);
        }
        if self.disk.wrote(obstacle.is_none()) {
            // With the ballast gone there is room for what the log has not brought home yet.
            self.engine.rows().empty_log();
        }
        Ok(applied)
    }

    fn space(&mut self) -> Space {
        let (rows, database) = (self.engine.rows(), self.files.database());
        let growth = || rows.growth(fs::metadata(database).map_or(0, |file| file.len()));
        let space = self.disk.space(growth);
        if space == Space::Low && growth().is_ok_and(|growth| growth.due > 0) {
            // While there is room for it: what the ballast has would not hold it.
            rows.empty_log();
        }
        space
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::clone(&self.reader) as Arc<dyn Reader>
    }
}

/// A connection with the settings that all of them share.
fn open_connection(path: &Path, options: &Options) -> Result<Connection, StoreError> {
    let connection = match &options.vfs {
        Some(vfs) => Connection::open_with_flags_and_vfs(path, OpenFlags::default(), vfs.as_str())?,
        None => Connection::open(path)?,
    };
    connection.set_prepared_statement_cache_capacity(128);
    connection.busy_timeout(SAY_LOCKED_EVERY)?;
    // Else SQLite looks at the values of parameters when it plans, and so prepares every statement with `LIMIT ?` anew
    // each time that it runs.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.execute_batch(
        "PRAGMA synchronous = FULL;
         PRAGMA wal_autocheckpoint = 0;
         PRAGMA journal_size_limit = 67108864;
         PRAGMA cache_size = -16384;
         PRAGMA temp_store = MEMORY;
         PRAGMA trusted_schema = OFF;
         PRAGMA cell_size_check = ON;",
    )?;
    Ok(connection)
}

/// Refuses a database of a newer version.
fn check_schema(connection: &Connection) -> Result<(), StoreError> {
    let known = MIGRATION_STEPS.len() as i64;
    match schema_version(connection)? {
        found if found > known => Err(StoreError::NewerSchema { found, known }),
        _ => Ok(()),
    }
}

/// The number of steps that have made the database's schema.
fn schema_version(connection: &Connection) -> Result<i64, StoreError> {
    Ok(connection.query_row("PRAGMA user_version", [], |row| row.get(0))?)
}

fn make_folder(folder: &Path) -> Result<(), StoreError> {
    let file_error = |what| move |source| StoreError::File { what, path: folder.to_owned(), source };
    // Payloads are nobody else's business.
    let created = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    created.map_err(file_error("can't create the data folder"))?;
    // A new folder's own entry must survive a power cut as well as what is in it.
    if let Some(parent) = folder.canonicalize().ok().and_then(|folder| folder.parent().map(PathBuf::from)) {
        // Not every file system lets folders be flushed; those that don't keep them by other means.
        let _ = File::open(parent).and_then(|parent| parent.sync_all());
    }
    Ok(())
}

/// Notes this start, so that resume tokens from a history that a restored backup does not have are told apart.
fn new_incarnation(connection: &Connection) -> Result<Identity, StoreError> {
    connection
        .execute("INSERT INTO incarnation (id, first) SELECT randomblob(8), position FROM counters", [])?;
    let store = connection.query_row("SELECT store FROM counters", [], |row| row.get(0))?;
    let mut statement = connection.prepare("SELECT id, first FROM incarnation ORDER BY number")?;
    let incarnations = statement
        .query_map([], |row| {
            let read = || -> Result<_, rusqlite::Error> {
                Ok(Incarnation { id: row.get(0)?, first: Position(row.get(1)?) })
            };
            // Its tokens are then as those of a start that was undone: their watchers start over.
            Ok(read()
                .inspect_err(|error| tracing::warn!(%error, "an earlier start's row can't be read"))
                .ok())
        })?
        .filter_map(Result::transpose)
        .collect::<Result<_, _>>()?;
    Ok(Identity { store, incarnations })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlite_is_compiled_as_the_repository_says() {
        let connection = Connection::open_in_memory().unwrap();
        let mut statement = connection.prepare("PRAGMA compile_options").unwrap();
        let options: Vec<String> =
            statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        // SQLite does not tell of HAVE_FDATASYNC, which is set in the same place: .cargo/config.toml.
        assert!(options.contains(&"DEFAULT_MEMSTATUS=0".to_owned()), "{options:?}");
        assert!(!options.contains(&"ENABLE_MEMORY_MANAGEMENT".to_owned()), "{options:?}");
    }
}
