//! The embedded store: one SQLite file in a data folder.
//!
//! One connection writes, in WAL mode with `synchronous=FULL`: a commit returns after its flush. Readers have
//! connections of their own. A lock on the folder keeps a second server away from it.

mod backup;
mod checkpoint;
mod checkup;
mod decode;
mod dependencies;
mod disk;
mod error;
mod fetch;
mod files;
mod keys;
mod limits;
mod load;
mod mark;
mod reader;
mod row;
mod schedules;
mod turns;
mod write;

use std::{
    fs::{self, DirBuilder, File},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, config::DbConfig, params};
use rusqlite_migration::{M, Migrations};

pub use self::backup::{BackupSummary, CopyError, backup, compact};
pub use self::checkup::{Checkup, Inventory, SetAsideRows, check, inventory};
pub use self::disk::free_bytes;
pub use self::mark::{Mark, MarkFile};
use self::{
    checkpoint::Checkpointer,
    decode::Decoder,
    disk::{Disk, Growth},
    error::migration_failed,
    fetch::Fetch,
    files::{Files, FolderLock, LockWait, lock, say_locked},
    reader::SqliteReader,
    write::Write,
};
use super::{
    Committed, Missing, Names, Reader, Space, Store, StoreError,
    sets::{Loaded, ReadResults, ReadSet, WriteSet},
};
use crate::{
    clock::{Stopwatch, Timestamp},
    job::{Identity, Incarnation, Position},
    settings::DiskSettings,
};

/// Migrations of the schema, one step each. A released migration never changes.
const MIGRATION_STEPS: &[M<'static>] = &[M::up(include_str!("../../../migrations/sqlite/0001_jobs.sql"))];
const MIGRATIONS: Migrations<'static> = Migrations::from_slice(MIGRATION_STEPS);

/// Older versions can lose commits in WAL mode.
const SQLITE_MIN_VERSION: i32 = 3_051_003;
const DATABASE: &str = "jobmill.db";
/// Time for which a start waits for the database's lock before it logs that, and interval of further log lines.
const SAY_LOCKED_EVERY: Duration = Duration::from_secs(5);
/// Longest wait of a batch for the database's lock. The committer must answer callers meanwhile.
const BATCH_WAITS_MAX: Duration = Duration::from_millis(20);

/// A store in a folder.
pub struct SqliteStore {
    connection: Connection,
    decoder: Arc<Decoder>,
    checkpointer: Checkpointer,
    reader: Arc<SqliteReader>,
    disk: Disk,
    files: Files,
    /// Absent if the mark could not be written.
    mark: Option<MarkFile>,
    lock_wait: LockWait,
    /// Whether nothing has been written yet: a start waits for a lock.
    is_starting: bool,
    // Held, never read. As the last field it is dropped after the connections.
    _lock: FolderLock,
}

impl SqliteStore {
    /// Opens the store in `folder`, which is created if it does not exist. It keeps no disk space free.
    ///
    /// # Errors
    /// When the folder can't be used, is in use, or holds something else.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let disk = DiskSettings { ballast_bytes: 0, min_free_bytes: 0, ..DiskSettings::default() };
        Self::open_with(folder, &disk)
    }

    /// As [`SqliteStore::open`], with settings for the disk.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub fn open_with(folder: &Path, settings: &DiskSettings) -> Result<Self, StoreError> {
        if rusqlite::version_number() < SQLITE_MIN_VERSION {
            return Err(StoreError::OldSqlite(rusqlite::version().to_owned()));
        }
        make_folder(folder)?;
        let lock = lock(folder)?;
        let kept = Mark::read(folder)?;
        let lost = |what| StoreError::Lost { folder: folder.to_owned(), what };
        if mark::database_is_missing(folder, kept) {
            accept(settings, lost(Missing::Everything))?;
        }
        let mut disk = Disk::new(folder, settings);
        let options = Options { vfs: settings.vfs.clone() };
        let expected = |found: Mark| match kept.and_then(|kept| kept.missing_in(found)) {
            Some(what) => accept(settings, lost(what)),
            None => Ok(()),
        };
        let waiting = Stopwatch::start();
        let opened = loop {
            match open_database(folder, &options, expected) {
                // A start writes to the disk, too.
                Err(StoreError::DiskFull(_)) if disk.give_up_ballast() => {}
                Err(StoreError::Locked(_)) => {
                    say_locked(&folder.join(DATABASE), waiting.elapsed());
                }
                opened => break opened,
            }
        };
        let Opened { connection, decoder, checkpointer, reader } = opened?;
        let Mark { store, position } = mark_of(&connection)?;
        let mark = MarkFile::create(folder, Mark { store, position })
            .inspect_err(|error| tracing::warn!(%error, "{} can't be written", mark::MARK))
            .ok();
        Ok(SqliteStore {
            connection,
            decoder,
            checkpointer,
            reader,
            disk,
            files: Files::of(folder),
            mark,
            lock_wait: LockWait::default(),
            is_starting: true,
            _lock: lock,
        })
    }

    /// Checkpoints the log, so that it restarts from its beginning and needs no more space for a while.
    fn empty_log(&self) {
        self.checkpointer.checkpoint(&self.connection);
    }

    /// Rolls the transaction back.
    fn roll_back(&self) -> Result<(), StoreError> {
        self.decoder.are_noted_still();
        // SQLite may have rolled it back already.
        if !self.connection.is_autocommit() {
            self.connection.prepare_cached("ROLLBACK")?.execute([])?;
        }
        Ok(())
    }

    fn begin(&self) -> Result<(), StoreError> {
        self.connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(())
    }

    /// Writes and commits. Returns the time that the commit took.
    fn commit(&self, writes: &WriteSet) -> Result<Duration, StoreError> {
        Write { connection: &self.connection, names: &self.decoder.names }.all(writes)?;
        let stopwatch = Stopwatch::start();
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(stopwatch.elapsed())
    }

    /// Rolls back a batch that did not fit on the disk, and frees space if it can.
    fn did_not_fit(&mut self) -> Result<(), StoreError> {
        self.roll_back()?;
        if self.disk.wrote(false) {
            // With the ballast gone, there is room to copy the log into the database.
            self.empty_log();
        }
        Ok(())
    }

    /// Returns what the database has to spare, and by how much its file will grow.
    fn growth(&self) -> Result<Growth, StoreError> {
        let number =
            |pragma: &str| self.connection.pragma_query_value(None, pragma, |row| row.get::<_, u64>(pragma));
        let page = number("page_size")?;
        let whole = number("page_count")?.saturating_mul(page);
        let spare = number("freelist_count")?.saturating_mul(page);
        let file_bytes = fs::metadata(self.files.database()).map_or(0, |file| file.len());
        Ok(Growth { spare, due: whole.saturating_sub(file_bytes) })
    }
}

/// Continues with an incomplete database if the settings allow it.
fn accept(settings: &DiskSettings, lost: StoreError) -> Result<(), StoreError> {
    if !settings.accept_loss {
        return Err(lost);
    }
    tracing::warn!(%lost, "going on with what is there, as --accept-loss says");
    Ok(())
}

/// Returns the path of a database's write-ahead log, as SQLite names it.
fn log_of(database: &Path) -> PathBuf {
    database.with_extension("db-wal")
}

/// Options of connections.
#[derive(Clone, Debug)]
struct Options {
    vfs: Option<String>,
}

/// A database that is open for writing.
struct Opened {
    connection: Connection,
    decoder: Arc<Decoder>,
    checkpointer: Checkpointer,
    reader: Arc<SqliteReader>,
}

fn open_database(
    folder: &Path,
    options: &Options,
    expected: impl Fn(Mark) -> Result<(), StoreError>,
) -> Result<Opened, StoreError> {
    let path = folder.join(DATABASE);
    let mut connection = open_connection(&path, options)?;
    check_schema(&connection)?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    MIGRATIONS.to_latest(&mut connection).map_err(migration_failed)?;
    expected(mark_of(&connection)?)?;
    // The log is emptied, so that its length tells what this run has written.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    let identity = new_incarnation(&connection, &path)?;
    let decoder = Arc::new(Decoder::new(Arc::new(Names::default())));
    let checkpointer = Checkpointer::start(&path, options, &connection)?;
    let reader = Arc::new(SqliteReader::new(path, options.clone(), Arc::clone(&decoder), identity));
    Ok(Opened { connection, decoder, checkpointer, reader })
}

/// Reads the identity and the last change of a database.
fn mark_of(connection: &Connection) -> Result<Mark, StoreError> {
    let read = connection.query_row("SELECT store, position FROM counters", [], |row| {
        Ok(Mark { store: row.get("store")?, position: Position(row.get("position")?) })
    });
    Ok(read?)
}

impl Store for SqliteStore {
    fn names(&self) -> Arc<Names> {
        Arc::clone(&self.decoder.names)
    }

    fn load(&mut self) -> Result<Loaded, StoreError> {
        load::load(&self.connection, &self.decoder)
    }

    fn fetch(&mut self, wants: &ReadSet) -> Result<ReadResults, StoreError> {
        match self.begin() {
            Err(StoreError::Locked(error)) => {
                self.lock_wait.met(self.files.database(), self.is_starting);
                return Err(StoreError::Locked(error));
            }
            Err(StoreError::DiskFull(error)) => {
                self.did_not_fit()?;
                return Err(StoreError::DiskFull(error));
            }
            begun => begun?,
        }
        self.lock_wait.over();
        let found = Fetch { connection: &self.connection, decoder: &self.decoder }.all(wants);
        match &found {
            Err(StoreError::DiskFull(_)) => self.did_not_fit()?,
            Err(StoreError::Locked(_)) => self.roll_back()?,
            Ok(_) | Err(_) => {}
        }
        found
    }

    fn write(&mut self, writes: &WriteSet) -> Result<Committed, StoreError> {
        let flush = match self.commit(writes) {
            // This is the only error that tells what is on disk: nothing of the batch. The commit's last page could not
            // be written, or was never tried.
            Err(StoreError::DiskFull(error)) => {
                self.did_not_fit()?;
                return Err(StoreError::DiskFull(error));
            }
            committed => committed?,
        };
        self.decoder.are_set_aside();
        self.checkpointer.committed(&self.connection);
        if let (Some(mark), Some(counters)) = (&mut self.mark, &writes.counters) {
            mark.advance(counters.position);
        }
        self.disk.wrote(true);
        if std::mem::take(&mut self.is_starting) {
            self.connection.busy_timeout(BATCH_WAITS_MAX)?;
            self.disk.keep_ballast();
        }
        Ok(Committed::after(flush))
    }

    fn has_unreadable(&self) -> bool {
        self.decoder.has_noted()
    }

    fn check(&mut self) -> Result<(), StoreError> {
        self.files.check()
    }

    fn space(&mut self) -> Space {
        // Taken out of `self`, which the closure borrows.
        let mut disk = std::mem::take(&mut self.disk);
        let space = disk.space(|| self.growth());
        self.disk = disk;
        if space == Space::Low && self.growth().is_ok_and(|growth| growth.due > 0) {
            // Now, while there is room for it: the ballast's space would not suffice.
            self.empty_log();
        }
        space
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::clone(&self.reader) as Arc<dyn Reader>
    }
}

/// Opens a connection with the settings that all connections share.
fn open_connection(path: &Path, options: &Options) -> Result<Connection, StoreError> {
    let connection = match &options.vfs {
        Some(vfs) => Connection::open_with_flags_and_vfs(path, OpenFlags::default(), vfs.as_str())?,
        None => Connection::open(path)?,
    };
    connection.set_prepared_statement_cache_capacity(128);
    connection.busy_timeout(SAY_LOCKED_EVERY)?;
    // Without this, SQLite looks at the values of parameters when it plans, and prepares every statement with `LIMIT ?`
    // again each time that it runs.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.execute_batch(
        "PRAGMA synchronous = FULL;
         PRAGMA wal_autocheckpoint = 0;
         PRAGMA journal_size_limit = 268435456;
         PRAGMA cache_size = -16384;
         PRAGMA temp_store = MEMORY;
         PRAGMA trusted_schema = OFF;
         PRAGMA cell_size_check = ON;",
    )?;
    Ok(connection)
}

/// Refuses a database with the schema of a newer version.
fn check_schema(connection: &Connection) -> Result<(), StoreError> {
    let known = MIGRATION_STEPS.len() as i64;
    match schema_version(connection)? {
        found if found > known => Err(StoreError::NewerSchema { found, known }),
        _ => Ok(()),
    }
}

/// Returns the number of migrations that the database has.
fn schema_version(connection: &Connection) -> Result<i64, StoreError> {
    Ok(connection.query_row("PRAGMA user_version", [], |row| row.get("user_version"))?)
}

fn make_folder(folder: &Path) -> Result<(), StoreError> {
    let file_error = |what| move |source| StoreError::File { what, path: folder.to_owned(), source };
    // Payloads are private to the server's user.
    let created = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    created.map_err(file_error("can't create the data folder"))?;
    // A new folder's own entry must survive a power cut, as its contents must.
    if let Some(parent) = folder.canonicalize().ok().and_then(|folder| folder.parent().map(PathBuf::from)) {
        // Not every file system can flush a folder; the others keep its entries by other means.
        let _ = File::open(parent).and_then(|parent| parent.sync_all());
    }
    Ok(())
}

/// Returns the id of the store at its present place. A copy has another id: it is drawn anew if the database is a
/// different file than before.
fn place(connection: &Connection, path: &Path) -> Result<[u8; 16], StoreError> {
    let file = fs::metadata(path).map_err(|source| StoreError::File {
        what: "can't look at the database",
        path: path.to_owned(),
        source,
    })?;
    // Without the device, whose number may change at each mount.
    let born = file.created().ok().map(|born| Timestamp::from(born).as_micros());
    connection.execute(
        "UPDATE counters SET place = randomblob(16), inode = ?1, born = ?2 \
         WHERE inode IS NOT ?1 OR born IS NOT ?2 OR place IS NULL",
        params![file.ino() as i64, born],
    )?;
    Ok(connection.query_row("SELECT place FROM counters", [], |row| row.get("place"))?)
}

/// Records this start, so that resume tokens of a history that a restored backup does not have can be recognised.
fn new_incarnation(connection: &Connection, path: &Path) -> Result<Identity, StoreError> {
    let place = place(connection, path)?;
    connection
        .execute("INSERT INTO incarnation (id, first) SELECT randomblob(8), position FROM counters", [])?;
    let store = connection.query_row("SELECT store FROM counters", [], |row| row.get("store"))?;
    let mut statement = connection.prepare("SELECT id, first FROM incarnation ORDER BY number")?;
    let incarnations = statement
        .query_map([], |row| {
            let read = || -> Result<_, rusqlite::Error> {
                Ok(Incarnation { id: row.get("id")?, first: Position(row.get("first")?) })
            };
            // Tokens of that start are then treated like those of an undone start: their watchers start over.
            Ok(read()
                .inspect_err(|error| tracing::warn!(%error, "an earlier start's row can't be read"))
                .ok())
        })?
        .filter_map(Result::transpose)
        .collect::<Result<_, _>>()?;
    Ok(Identity { store, place, incarnations })
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
        // SQLite does not report HAVE_FDATASYNC, which is set in the same place: .cargo/config.toml.
        assert!(options.contains(&"DEFAULT_MEMSTATUS=0".to_owned()), "{options:?}");
        assert!(!options.contains(&"ENABLE_MEMORY_MANAGEMENT".to_owned()), "{options:?}");
    }
}
