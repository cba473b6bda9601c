//! The embedded store: one SQLite file in a data folder.
//!
//! One connection writes, in WAL mode with `synchronous=FULL`: a commit returns after its flush. Readers have
//! connections of their own. A file lock keeps a second server away from the folder.

mod backup;
mod checkpoint;
mod checkup;
mod disk;
mod load;
mod reader;
mod row;
mod writer;

use std::{
    fs::{DirBuilder, File, OpenOptions},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::{Connection, OpenFlags, config::DbConfig};
use rusqlite_migration::{M, Migrations};
use rustix::fs::FlockOperation;

pub use self::backup::{Copied, CopyError, backup, compact};
pub use self::checkup::{Checkup, check};
pub use self::disk::free_bytes;
use self::{checkpoint::Checkpointer, disk::Disk, reader::SqliteReader, writer::SqliteRows};
use super::{
    Applied, Batch, Identity, Incarnation, Names, Reader, Space, Store, StoreError,
    engine::{Engine, EngineSetup},
};
use crate::{config::DiskSettings, job::Position};

/// Each brings the schema one step further. What has been released never changes.
const MIGRATION_STEPS: &[M<'static>] = &[M::up(include_str!("../../../migrations/sqlite/0001_jobs.sql"))];
const MIGRATIONS: Migrations<'static> = Migrations::from_slice(MIGRATION_STEPS);

/// Older versions can lose commits in WAL mode.
const SQLITE_MIN_VERSION: i32 = 3_051_003;
const DATABASE: &str = "jobmill.db";
const LOCK: &str = "jobmill.lock";

/// A store in a folder.
pub struct SqliteStore {
    engine: Engine<SqliteRows>,
    reader: Arc<SqliteReader>,
    disk: Disk,
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
        let disk = DiskSettings { ballast_bytes: 0, min_free_bytes: 0, vfs: None };
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
        let mut disk = Disk::new(folder, &settings);
        let options = Options { vfs: settings.vfs };
        let opened = match open_database(folder, &options, setup.clone()) {
            // Even a start writes something down.
            Err(StoreError::DiskFull(_)) if disk.give_up_ballast() => open_database(folder, &options, setup),
            opened => opened,
        };
        let (engine, reader) = opened?;
        disk.keep_ballast();
        Ok(SqliteStore { engine, reader, disk, _lock: lock })
    }
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
    setup: EngineSetup,
) -> Result<(Engine<SqliteRows>, Arc<SqliteReader>), StoreError> {
    let path = folder.join(DATABASE);
    let mut connection = open_connection(&path, options)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    MIGRATIONS.to_latest(&mut connection)?;
    // Starts with an empty log, so that its length says what this run has written.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    let identity = new_incarnation(&connection)?;
    let names = Arc::new(Names::default());
    let checkpointer = Checkpointer::start(&path, options, &connection)?;
    let rows = SqliteRows::new(connection, Arc::clone(&names), checkpointer);
    let engine = Engine::open(rows, Arc::clone(&names), setup)?;
    let reader = Arc::new(SqliteReader::new(path, options.clone(), names, identity));
    Ok((engine, reader))
}

impl Store for SqliteStore {
    fn apply(&mut self, batch: Batch) -> Result<Applied, StoreError> {
        let applied = self.engine.apply(batch)?;
        if self.disk.wrote(applied.unapplied.is_none()) {
            // With the ballast gone there is room for what the log has not brought home yet.
            self.engine.rows().empty_log();
        }
        Ok(applied)
    }

    fn space(&mut self) -> Space {
        let rows = self.engine.rows();
        self.disk.space(|| rows.spare_bytes())
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
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
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

fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join(LOCK);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(|source| {
        StoreError::File { what: "can't write to the data folder:", path: path.clone(), source }
    })?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::InUse(folder.to_owned())),
        Err(errno) => Err(StoreError::File { what: "can't lock", path, source: errno.into() }),
    }
}

/// Notes this start, so that resume tokens from a history that a restored backup does not have are told apart.
fn new_incarnation(connection: &Connection) -> Result<Identity, StoreError> {
    connection
        .execute("INSERT INTO incarnation (id, first) SELECT randomblob(8), position FROM counters", [])?;
    let store = connection.query_row("SELECT store FROM counters", [], |row| row.get(0))?;
    let mut statement = connection.prepare("SELECT id, first FROM incarnation ORDER BY number")?;
    let incarnations = statement
        .query_map([], |row| Ok(Incarnation { id: row.get(0)?, first: Position(row.get(1)?) }))?
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
