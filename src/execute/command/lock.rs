//! The lock by which a starting server knows that its predecessor's commands are dead.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// Why a server may not start attempts yet.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// Commands of a server that ended are still there.
    #[error(
        "commands of an earlier server still ran after {} ms: something holds the lock of {}",
        patience.as_millis(),
        path.display()
    )]
    StillRunning {
        /// The file whose lock they hold.
        path: PathBuf,
        /// How long they were waited for.
        patience: Duration,
    },
    /// The lock can't be used.
    #[error("can't lock {}: {source}", path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Returns once every command of the servers before this one is dead.
///
/// A server calls it after it has made sure that it is the only one on its data folder and before it starts any
/// attempt; the [module](super) tells why that suffices. It blocks the thread, usually for no time at all.
///
/// # Errors
/// [`WaitError::StillRunning`] when some were not dead after `patience`: their jobs must not be run again yet.
pub fn wait_for_commands(lock_path: &Path, patience: Duration) -> Result<(), WaitError> {
    const PAUSE: Duration = Duration::from_millis(10);
    let failed = |source| WaitError::Lock { path: lock_path.to_owned(), source };
    let file = open(lock_path).map_err(failed)?;
    let mut left = patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(source)) if source.kind() == io::ErrorKind::Interrupted => {}
            Err(TryLockError::Error(source)) => return Err(failed(source)),
            Err(TryLockError::WouldBlock) if left.is_zero() => {
                return Err(WaitError::StillRunning { path: lock_path.to_owned(), patience });
            }
            Err(TryLockError::WouldBlock) => {
                let pause = PAUSE.min(left);
                thread::sleep(pause);
                left -= pause;
            }
        }
    }
}

/// Holds the lock together with all other guards, until the file is closed.
pub(super) fn share(lock_path: &Path) -> io::Result<File> {
    let file = open(lock_path)?;
    loop {
        match file.lock_shared() {
            Ok(()) => return Ok(file),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    // Never removed once it is there: whoever held a removed file's lock would be invisible to those who come later.
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_share_the_lock_and_a_starting_server_waits_for_all_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("commands.lock");
        wait_for_commands(&path, Duration::ZERO).unwrap();

        let first = share(&path).unwrap();
        let second = share(&path).unwrap();
        drop(first);
        let patience = Duration::from_millis(15);
        assert!(matches!(wait_for_commands(&path, patience), Err(WaitError::StillRunning { .. })));
        drop(second);
        wait_for_commands(&path, Duration::ZERO).unwrap();
    }

    #[test]
    fn a_lock_that_cannot_be_made_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = wait_for_commands(&folder.path().join("missing/lock"), Duration::ZERO).unwrap_err();
        assert!(matches!(error, WaitError::Lock { .. }));
    }
}
