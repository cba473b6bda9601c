//! Errors of a store, and what they mean for a batch.

use std::path::PathBuf;

use crate::job::{JobId, Position};

/// Error of the database's own library.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Error of a store.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database failed, or the disk under it.
    #[error("the database failed")]
    Database(#[source] Cause),
    /// Another program holds the database's lock.
    #[error("another program holds the database's lock")]
    Locked(#[source] Cause),
    /// The file is not a database, or is damaged.
    #[error(
        "the database is damaged, or is not a database: `jobmill doctor` tells more; restore a backup, or name another \
         folder with --data-dir"
    )]
    Damaged(#[source] Cause),
    /// The disk is full.
    #[error("the disk is full: make room where the data folder is")]
    DiskFull(#[source] Cause),
    /// The database was made or changed by a newer version; this version would misread it.
    #[error(
        "the database has a newer schema (version {found}) than this jobmill knows (up to version {known}): run the \
         version that changed it, or restore a backup from before"
    )]
    NewerSchema {
        /// Schema version of the database.
        found: i64,
        /// Newest schema version that this program knows.
        known: i64,
    },
    /// The schema could not be brought up to date.
    #[error("the database's schema could not be brought up to date")]
    Migration(#[source] Cause),
    /// A file or folder could not be used.
    #[error("{what} {path}")]
    File {
        /// The operation that failed.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file that the server has open is no longer at its path.
    #[error(
        "{path} {what} while the server used it: what is written from now on would be lost. Start again once the data \
         folder is complete"
    )]
    Gone {
        /// The file.
        path: PathBuf,
        /// What happened to the file.
        what: &'static str,
    },
    /// The database lacks acknowledged changes.
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
    /// Another process uses the data folder.
    #[error(
        "the data folder {0} is in use by another jobmill process; stop that one, or name another folder with --data-dir"
    )]
    InUse(PathBuf),
    /// The bundled SQLite has a bug that loses commits.
    #[error("SQLite {0} can lose commits; 3.51.3 or newer is needed")]
    OldSqlite(String),
    /// A job's row can't be read, or has been set aside because it could not be.
    #[error("the row of job {id} can't be read, and is set aside: {why}")]
    Unreadable {
        /// The job.
        id: JobId,
        /// The problem with the row.
        why: String,
    },
    /// The store's contents are inconsistent.
    #[error("the store contradicts itself: {0}")]
    Corrupt(String),
}

/// What is missing from a database.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Missing {
    /// The whole database.
    #[error("jobmill.db is missing or empty")]
    Everything,
    /// The right store: the database belongs to another one.
    #[error("it belongs to another store")]
    AnotherStore,
    /// The latest changes.
    #[error("it ends at change {}, and change {} was acknowledged", .found.0, .kept.0)]
    Changes {
        /// The last change in the database.
        found: Position,
        /// The last change that was committed.
        kept: Position,
    },
}

/// Class of a store's error: what it means for the batch, and who can act on it.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorClass {
    /// Nothing was changed, and a retry may succeed.
    Retryable,
    /// The state on disk is unknown until the next start.
    Unknown,
    /// The store can't be used until an operator acts.
    Fatal,
}

impl StoreError {
    /// Returns what the error means for the batch.
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
