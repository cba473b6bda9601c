//! A copy of a store while its server runs, and space back to the file system while it does not.

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

/// So many pages are copied at a time.
const STEP_PAGES: i32 = 256;
/// A backup gives up once the server's log has grown by so much since it began: the log can't start over before the
/// backup ends.
const LOG_GROWTH_MAX_BYTES: u64 = 512 << 20;
/// What a backup is called until it is whole.
const PARTIAL: &str = "jobmill.db.partial";

/// Why there is no backup, or nothing was compacted.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// There is no store.
    #[error("there is no jobmill.db in {0}: name the server's data folder with --data-dir")]
    NoStore(PathBuf),
    /// The folder for the backup has something in it.
    #[error("{0} is not empty: name a new folder for each backup")]
    NotEmpty(PathBuf),
    /// Too much was written meanwhile.
    #[error(
        "the server wrote more than {} MiB while the backup ran: try again when there is less to do, or with a faster \
         disk for the backup",
        LOG_GROWTH_MAX_BYTES >> 20
    )]
    TooMuchWritten,
    /// The copy is not sound.
    #[error("the copy is not sound, and has been removed: {0}")]
    NotSound(String),
    /// The store failed, or a file.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for CopyError {
    fn from(error: rusqlite::Error) -> Self {
        CopyError::Store(error.into())
    }
}

/// What a backup has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Copied {
    /// Its size.
    pub bytes: u64,
    /// How many jobs are in it.
    pub jobs: u64,
    /// How far in the feed it reaches.
    pub position: Position,
}

/// Copies the store in `folder`, whose server may run, as it is at the beginning, into a new data folder. Tells after each
/// bite how many of how many pages are copied. Commits go on meanwhile; the copy is checked before it gets its name.
///
/// # Errors
/// As [`CopyError`] says; nothing of the copy is left then, and the store is as it was.
pub fn backup(folder: &Path, into: &Path, progress: impl FnMut(u64, u64)) -> Result<Copied, CopyError> {
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
            // A start on files that were copied over those of the server then finds what it expects.
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
    // The server alone moves its log, and only its own process may.
    from.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    check_schema(&from)?;
    from.execute_batch("PRAGMA wal_autocheckpoint = 0; PRAGMA query_only = ON; BEGIN;")?;
    // Holds this moment for all steps; else each commit would have the copy begin anew.
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

fn check(partial: &Path) -> Result<(Copied, Mark), CopyError> {
    let connection = Connection::open(partial)?;
    let found: String =
        connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get("integrity_check"))?;
    if found != "ok" {
        return Err(CopyError::NotSound(found));
    }
    let mark = mark_of(&connection)?;
    let copied = Copied {
        bytes: fs::metadata(partial).map_or(0, |file| file.len()),
        jobs: connection.query_row("SELECT count(*) AS jobs FROM job", [], |row| row.get("jobs"))?,
        position: mark.position,
    };
    connection.close().map_err(|(_, error)| error)?;
    Ok((copied, mark))
}

/// Gives the space that deleted jobs have left back to the file system: returns the size before and after. The server must
/// not run; the disk needs as much space again as the jobs take.
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
