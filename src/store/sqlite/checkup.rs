//! Looks a folder's database over, without changing what is in it.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags};
use rusqlite_migration::SchemaVersion;
use rustix::fs::FlockOperation;

use super::{DATABASE, LOCK, MIGRATIONS};
use crate::store::StoreError;

/// So many faults of a database are told; one is enough to act upon.
const FAULTS_MAX: u32 = 10;

/// How a folder's database is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Checkup {
    /// There is none yet.
    Absent,
    /// A server has it open.
    InUse,
    /// A newer version made it, which this one can't read.
    TooNew,
    /// It was looked over.
    Checked {
        /// How large it is.
        bytes: u64,
        /// What is wrong with it: nothing, one hopes.
        faults: Vec<String>,
    },
}

/// Looks the database of `folder` over. No server can start there meanwhile.
///
/// The user who runs this should be the one who runs the server: SQLite makes files of its own beside the database.
///
/// # Errors
/// When the folder or the database can't be read.
pub fn check(folder: &Path) -> Result<Checkup, StoreError> {
    let path = folder.join(DATABASE);
    let file_error =
        |path: PathBuf| move |source: io::Error| StoreError::File { what: "can't read", path, source };
    let bytes = match fs::metadata(&path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Checkup::Absent),
        Err(error) => return Err(file_error(path)(error)),
    };
    let lock_path = folder.join(LOCK);
    // Held until the end; a folder without one has no server either.
    let _lock = match File::open(&lock_path) {
        Ok(lock) => match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Some(lock),
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(Checkup::InUse),
            Err(errno) => return Err(file_error(lock_path)(errno.into())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(file_error(lock_path)(error)),
    };
    let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    if let SchemaVersion::Outside(_) = MIGRATIONS.current_version(&connection)? {
        return Ok(Checkup::TooNew);
    }
    let mut statement = connection.prepare(&format!("PRAGMA quick_check({FAULTS_MAX})"))?;
    let lines = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    Ok(Checkup::Checked { bytes, faults: lines.into_iter().filter(|line| line != "ok").collect() })
}
