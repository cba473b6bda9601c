//! Backup of a store while its server runs, and compaction while it does not.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use rusqlite::{
    Connection, OpenFlags,
    backup::{Backup, StepResult},
    config::DbConfig,
};

use super::{
    DATABASE, MIGRATIONS, Mark, MarkFile, Options, check_schema, error::migration_failed, lock, log_of,
    make_folder, mark::database_is_missing, mark_of, open_connection,
};
use crate::{
    job::Position,
    store::{Missing, StoreError},
};

/// Number of pages copied in one step.
const STEP_PAGES: i32 = 256;
/// Growth of the server's log since the start of the backup, in bytes, over which the backup gives up. The log can't
/// restart from its beginning before the backup ends.
const LOG_GROWTH_MAX_BYTES: u64 = 512 << 20;
/// Name of a backup until it is complete.
const PARTIAL: &str = "jobmill.db.partial";

/// Error of a backup or a compaction.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The folder has no store.
    #[error("there is no jobmill.db in {0}: name the server's data folder with --data-dir")]
    NoStore(PathBuf),
    /// The folder for the backup is not empty.
    #[error("{0} is not empty: name a new folder for each backup")]
    NotEmpty(PathBuf),
    /// The server wrote too much during the backup.
    #[error(
        "the server wrote more than {} MiB while the backup ran: try again when there is less to do, or with a faster \
         disk for the backup",
        LOG_GROWTH_MAX_BYTES >> 20
    )]
    TooMuchWritten,
    /// The copy failed its integrity check.
    #[error("the copy is not sound, and has been removed: {0}")]
    NotSound(String),
    /// The store or a file failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for CopyError {
    fn from(error: rusqlite::Error) -> Self {
        CopyError::Store(error.into())
    }
}

/// Summary of a backup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackupSummary {
    /// Size of the backup.
    pub bytes: u64,
    /// Number of jobs in the backup.
    pub jobs: u64,
    /// End of the change feed in the backup.
    pub position: Position,
}

/// Copies the store in `folder`, as it is at the start of the copy, into a new data folder. The server may run, and
/// commits go on. `progress` receives the number of copied pages and of all pages after each step. The copy is checked
/// before it gets its final name.
///
/// # Errors
/// As [`CopyError`] says; nothing of the copy is left then, and the store is as it was.
pub fn backup(
    folder: &Path,
    into: &Path,
    progress: impl FnMut(u64, u64),
) -> Result<BackupSummary, CopyError> {
    let source = folder.join(DATABASE);
    if !source.is_file() {
        return Err(CopyError::NoStore(folder.to_owned()));
    }
    if fs::read_dir(into).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(CopyError::NotEmpty(into.to_owned()));
    }
    make_folder(into)?;
    let partial = into.join(PARTIAL);
    let copied =
        copy(&source, &partial, progress).and_then(|()| check(&partial)).and_then(|(copied, mark)| {
            let file_error = |what| {
                let path = partial.clone();
                move |source| StoreError::File { what, path, source }
            };
            File::open(&partial).and_then(|file| file.sync_all()).map_err(file_error("can't flush"))?;
            fs::rename(&partial, into.join(DATABASE)).map_err(file_error("can't rename"))?;
            // A start on files that were copied over those of the server then finds the mark that it expects.
            MarkFile::create(into, mark).map_err(file_error("can't write the mark beside"))?;
            Ok(copied)
        });
    if copied.is_err() {
        for ending in ["", "-wal", "-shm", "-journal"] {
            let _ = fs::remove_file(into.join(format!("{PARTIAL}{ending}")));
        }
    }
    copied
}

fn copy(source: &Path, partial: &Path, mut progress: impl FnMut(u64, u64)) -> Result<(), CopyError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let from = Connection::open_with_flags(source, flags)?;
    // Only the server's own process may checkpoint its log.
    from.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    check_schema(&from)?;
    from.execute_batch("PRAGMA wal_autocheckpoint = 0; PRAGMA query_only = ON; BEGIN;")?;
    // Holds the snapshot for all steps. Otherwise each commit would restart the copy.
    let _: i64 = from.query_row("SELECT position FROM counters", [], |row| row.get("position"))?;
    let log = log_of(source);
    let log_bytes = || fs::metadata(&log).map_or(0, |log| log.len());
    let log_before = log_bytes();
    let mut to = Connection::open(partial)?;
    let copying = Backup::new(&from, &mut to)?;
    loop {
        let step = copying.step(STEP_PAGES)?;
        let pages = copying.progress();
        let count = |pages| u64::try_from(pages).unwrap_or(0);
        progress(count(pages.pagecount - pages.remaining), count(pages.pagecount));
        if matches!(step, StepResult::Done) {
            return Ok(());
        }
        if log_bytes().saturating_sub(log_before) > LOG_GROWTH_MAX_BYTES {
            return Err(CopyError::TooMuchWritten);
        }
    }
}

fn check(partial: &Path) -> Result<(BackupSummary, Mark), CopyError> {
    let connection = Connection::open(partial)?;
    let found: String =
        connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get("integrity_check"))?;
    if found != "ok" {
        return Err(CopyError::NotSound(found));
    }
    let mark = mark_of(&connection)?;
    let copied = BackupSummary {
        bytes: fs::metadata(partial).map_or(0, |file| file.len()),
        jobs: connection.query_row("SELECT count(*) AS jobs FROM job", [], |row| row.get("jobs"))?,
        position: mark.position,
    };
    connection.close().map_err(|(_, error)| error)?;
    Ok((copied, mark))
}

/// Returns the space of deleted jobs to the file system. Returns the size before and after, in bytes. The server must
/// not run, and the disk needs as much free space as the jobs take.
///
/// # Errors
/// As [`CopyError`] says, and then nothing has changed.
pub fn compact(folder: &Path) -> Result<(u64, u64), CopyError> {
    let path = folder.join(DATABASE);
    if !path.is_file() {
        return Err(CopyError::NoStore(folder.to_owned()));
    }
    let _lock = lock(folder)?;
    let kept = Mark::read(folder)?;
    let lost = |what| StoreError::Lost { folder: folder.to_owned(), what };
    if database_is_missing(folder, kept) {
        return Err(lost(Missing::Everything).into());
    }
    let bytes = || -> u64 {
        let length = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
        length(&path) + length(&log_of(&path))
    };
    let before = bytes();
    let mut connection = open_connection(&path, &Options { vfs: None })?;
    check_schema(&connection)?;
    MIGRATIONS.to_latest(&mut connection).map_err(migration_failed)?;
    let found = mark_of(&connection)?;
    if let Some(what) = kept.and_then(|kept| kept.missing_in(found)) {
        return Err(lost(what).into());
    }
    connection.execute_batch("VACUUM")?;
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    connection.close().map_err(|(_, error)| error)?;
    Ok((before, bytes()))
}
