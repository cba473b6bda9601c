//! The files of a store: the folder's lock, and the check that the files at their paths are still the ones in use.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::FlockOperation;

use super::{DATABASE, log_of};
use crate::{clock::Stopwatch, store::StoreError};

/// The lock of a data folder. It ends with this value.
pub(super) struct FolderLock(File);

impl Drop for FolderLock {
    /// Unlocks the folder. Closing the file is not enough: a child process that another thread has just forked holds a
    /// copy of it until it executes its program.
    fn drop(&mut self) {
        if let Err(errno) = rustix::fs::flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!(error = %errno, "can't unlock the data folder");
        }
    }
}

/// Locks a data folder for this process. The lock is on the folder itself, so that there is no lock file which could be
/// deleted to get around it.
pub(super) fn lock(folder: &Path) -> Result<FolderLock, StoreError> {
    let file_error = |what| move |source| StoreError::File { what, path: folder.to_owned(), source };
    let file = File::open(folder).map_err(file_error("can't read the data folder"))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(FolderLock(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::InUse(folder.to_owned())),
        Err(errno) => Err(file_error("can't lock the data folder")(errno.into())),
    }
}

/// Files that a server has open, by their paths.
pub(super) struct Files {
    database: PathBuf,
    /// Each path with the file's device and inode number.
    known: Vec<(PathBuf, (u64, u64))>,
}

impl Files {
    /// Records the files of the open store in `folder`.
    pub(super) fn of(folder: &Path) -> Self {
        let database = folder.join(DATABASE);
        let paths =
            [folder.to_owned(), database.clone(), log_of(&database), database.with_extension("db-shm")];
        // A file that is missing now is kept elsewhere, as by some VFS, and can't be checked.
        let known = paths.into_iter().filter_map(|path| {
            let metadata = fs::metadata(&path).ok()?;
            Some((path, (metadata.dev(), metadata.ino())))
        });
        Files { known: known.collect(), database }
    }

    /// Returns the database's path.
    pub(super) fn database(&self) -> &Path {
        &self.database
    }

    /// Checks that the files are still at their paths.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        for (path, known) in &self.known {
            let gone = |what| StoreError::Gone { path: path.clone(), what };
            match fs::metadata(path) {
                Ok(found) if (found.dev(), found.ino()) != *known => return Err(gone("was replaced")),
                Ok(found) if *path == self.database && found.len() == 0 => return Err(gone("was emptied")),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(gone("was deleted or moved away"));
                }
                Err(source) => {
                    return Err(StoreError::File { what: "can't look at", path: path.clone(), source });
                }
            }
        }
        Ok(())
    }
}

/// Time for which batches wait for another program's lock before the log reports it, and interval of further reports.
const SAY_AFTER: Duration = Duration::from_secs(1);
const SAY_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Wait for a lock that another program holds, and the latest log line about it.
#[derive(Default)]
pub(super) struct LockWait {
    since: Option<Stopwatch>,
    said: Option<Stopwatch>,
}

impl LockWait {
    /// Records that a batch or a start has met the lock. A start logs it each time.
    pub(super) fn met(&mut self, database: &Path, is_starting: bool) {
        let since = self.since.get_or_insert_with(Stopwatch::start).elapsed();
        let is_time = match self.said {
            _ if is_starting => true,
            None => since >= SAY_AFTER,
            Some(said) => said.elapsed() >= SAY_AGAIN_AFTER,
        };
        if is_time {
            self.said = Some(Stopwatch::start());
            say_locked(database, since);
        }
    }

    /// Records that a batch has been applied: the lock is free.
    pub(super) fn over(&mut self) {
        if let (Some(since), Some(_)) = (self.since.take(), self.said.take()) {
            tracing::info!(seconds = since.elapsed().as_secs(), "the database's lock is free again");
        }
    }
}

/// Logs that another program holds the database's lock.
pub(super) fn say_locked(database: &Path, since: Duration) {
    tracing::warn!(
        database = %database.display(),
        process = lock_holder(database),
        seconds = since.as_secs(),
        "another program holds the database's lock: nothing can be written until it lets go"
    );
}

/// Returns the process that holds a lock on the database, if the system tells: on Linux, for a process in this server's
/// own PID namespace.
fn lock_holder(database: &Path) -> Option<u32> {
    // Only the metadata is read: opening and closing the file would release this process's own locks on it.
    let shared = fs::metadata(database.with_extension("db-shm")).ok()?.ino().to_string();
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let own = std::process::id();
    locks.lines().find_map(|line| {
        // Example: `1: POSIX  ADVISORY  WRITE 4711 fe:00:1234 120 120`.
        let mut words = line.split_whitespace().skip(3);
        let (mode, process, file) = (words.next()?, words.next()?, words.next()?);
        let process = process.parse().ok().filter(|process| *process != own)?;
        (mode == "WRITE" && file.rsplit(':').next() == Some(&shared)).then_some(process)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_free_at_once_though_a_forked_child_holds_a_copy_of_the_locked_file() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).unwrap();
        let copy = held.0.try_clone().unwrap();
        assert!(matches!(lock(folder.path()), Err(StoreError::InUse(_))));
        drop(held);
        assert!(lock(folder.path()).is_ok());
        drop(copy);
    }
}
