//! Why a store failed, and what that says about a batch.

use std::path::PathBuf;

use crate::job::{JobId, Position};

/// What the database's own library said.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database failed, or the disk under it.
    #[error("the database failed")]
    Database(#[source] Cause),
    /// Another program holds the database's lock.
    #[error("another program holds the database's lock")]
    Locked(#[source] Cause),
    /// The file is no database, or is damaged.
    #[error(
        "the database is damaged, or is none: `jobmill doctor` tells more; restore a backup, or name another folder with \
         --data-dir"
    )]
    Damaged(#[source] Cause),
    /// There is no space left.
    #[error("the disk is full: make room where the data folder is")]
    DiskFull(#[source] Cause),
    /// A newer version has made or changed the database; this one would misread it.
    #[error(
        "the database has a newer schema (version {found}) than this jobmill knows (up to version {known}): run the \
         version that changed it, or restore a backup from before"
    )]
    NewerSchema {
        /// The version of its schema.
        found: i64,
        /// The newest version that this program knows.
        known: i64,
    },
    /// The schema could not be brought up to date.
    #[error("the database's schema could not be brought up to date")]
    Migration(#[source] Cause),
    /// A file or folder could not be used.
    #[error("{what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that the server has open is not at its path any more.
    #[error(
        "{path} {what} while the server used it: what is written from now on could not be found again. Start again \
         once the data folder is what it should be"
    )]
    Gone {
        /// The file.
        path: PathBuf,
        /// What became of it.
        what: &'static str,
    },
    /// The database lacks what was acknowledged.
    #[error(
        "the database in {folder} is not the one that was left there: {what}. Put the missing files back (jobmill.db and \
         jobmill.db-wal belong together), or restore a backup into a new folder, or start once with --accept-loss to go \
         on with what is there"
    )]
    Lost {
        /// The data folder.
        folder: PathBuf,
        /// What is missing.
        what: Missing,
    },
    /// Another process holds the folder.
    #[error(
        "the data folder {0} is in use by another jobmill process; stop that one, or name another folder with --data-dir"
    )]
    InUse(PathBuf),
    /// The bundled SQLite has a bug that loses commits.
    #[error("SQLite {0} can lose commits; 3.51.3 or newer is needed")]
    OldSqlite(String),
    /// A job's row can't be read, or could not be and has been set aside.
    #[error("the row of job {id} can't be read, and is set aside: {why}")]
    Unreadable {
        /// The job.
        id: JobId,
        /// What is wrong with the row.
        why: String,
    },
    /// What is in the store contradicts itself.
    #[error("the store contradicts itself: {0}")]
    Corrupt(String),
}

/// What a database lacks that was there before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Missing {
    /// All of it.
    #[error("jobmill.db is missing or empty")]
    Everything,
    /// It is another one.
    #[error("it belongs to another store")]
    AnotherStore,
    /// Its latest changes.
    #[error("it ends at change {}, and change {} was acknowledged", .found.0, .kept.0)]
    Changes {
        /// The last change in the database.
        found: Position,
        /// The last change that was committed.
        kept: Position,
    },
}

/// What an error of a store says about the batch, and who can do something about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorClass {
    /// Nothing was changed, and the same may succeed later.
    Retryable,
    /// What is on disk is not known: only the next start can tell.
    Unknown,
    /// The store can't be used as it is: an operator has to act.
    Fatal,
}

impl StoreError {
    /// What the error says about the batch.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            StoreError::Locked(_) | StoreError::DiskFull(_) => ErrorClass::Retryable,
            StoreError::Database(_) | StoreError::File { .. } | StoreError::Gone { .. } => {
                ErrorClass::Unknown
            }
            StoreError::Damaged(_)
            | StoreError::NewerSchema { .. }
            | StoreError::Migration(_)
            | StoreError::Lost { .. }
            | StoreError::InUse(_)
            | StoreError::OldSqlite(_)
            | StoreError::Unreadable { .. }
            | StoreError::Corrupt(_) => ErrorClass::Fatal,
        }
    }
}
