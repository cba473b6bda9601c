//! Conversion of SQLite's errors to errors of a store.

use crate::store::StoreError;

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let code = error.sqlite_error_code();
        let source = Box::new(error);
        match code {
            Some(rusqlite::ErrorCode::DiskFull) => StoreError::DiskFull(source),
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                StoreError::Locked(source)
            }
            Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
                StoreError::Damaged(source)
            }
            Some(_) | None => StoreError::Database(source),
        }
    }
}

/// Converts the error of a migration that failed.
pub(super) fn migration_failed(error: rusqlite_migration::Error) -> StoreError {
    if let rusqlite_migration::Error::RusqliteError { err, .. } = error {
        err.into()
    } else {
        StoreError::Migration(Box::new(error))
    }
}
