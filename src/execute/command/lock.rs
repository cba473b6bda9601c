//! The lock file that tells a starting server whether its predecessor's commands are dead.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// Interval between attempts to take the lock.
const TRY_EVERY: Duration = Duration::from_millis(10);
/// Number of attempts between two checks of the lock's holders.
const TRIES_PER_LOOK: u32 = 100;
/// Number of checks between two log lines about the holders.
const LOOKS_PER_LINE: u32 = 10;

/// The lock file for an earlier server's commands can't be used.
#[derive(Debug, thiserror::Error)]
#[error("can't lock {}", path.display())]
pub struct LockError {
    path: PathBuf,
    source: io::Error,
}

/// Waits until every command of earlier servers is dead, usually not at all. It logs the processes that it waits for,
/// at once and every 10 s. On Linux it kills the rest of commands once no guard is left to do so.
///
/// A server calls this after it has made sure that it is the only one on its data folder, and before it starts any
/// attempt; the [module](super) explains why that suffices.
///
/// # Errors
/// [`LockError`] when the file can't be created, or the file system does not support locks.
pub async fn wait_for_commands(lock_path: &Path) -> Result<(), LockError> {
    let failed = |source| LockError { path: lock_path.to_owned(), source };
    let file = open(lock_path).map_err(failed)?;
    let mut tries: u32 = 0;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(source)) if source.kind() == io::ErrorKind::Interrupted => continue,
            Err(TryLockError::Error(source)) => return Err(failed(source)),
            Err(TryLockError::WouldBlock) => {}
        }
        if tries.is_multiple_of(TRIES_PER_LOOK) {
            let tells = tries.is_multiple_of(TRIES_PER_LOOK * LOOKS_PER_LINE);
            look(&file, lock_path, tells).await.map_err(failed)?;
        }
        tries = tries.wrapping_add(1);
        tokio::time::sleep(TRY_EVERY).await;
    }
    if tries > 0 {
        tracing::info!("the commands of an earlier server have ended");
    }
    Ok(())
}

/// Lists the processes that hold the lock, and kills those that no guard will kill.
#[cfg(target_os = "linux")]
async fn look(file: &File, lock_path: &Path, tells: bool) -> io::Result<()> {
    use super::abandoned::{self, Holder};

    let (file, path) = (file.try_clone()?, lock_path.to_owned());
    let looked = tokio::task::spawn_blocking(move || {
        let holders = abandoned::holders(&file, &path)?;
        let is_left = holders.iter().any(|holder| holder.is_command) && !holders.iter().any(Holder::is_guard);
        if tells || is_left {
            let named: Vec<_> =
                holders.iter().map(|holder| format!("{} ({:?})", holder.pid, holder.name)).collect();
            tell(&path, &named.join(", "), is_left);
        }
        if is_left { abandoned::kill_commands(&file, &path) } else { Ok(()) }
    });
    looked.await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

#[cfg(not(target_os = "linux"))]
async fn look(_: &File, lock_path: &Path, tells: bool) -> io::Result<()> {
    if tells {
        tell(lock_path, "", false);
    }
    Ok(())
}

fn tell(lock_path: &Path, holders: &str, kills: bool) {
    let lock = lock_path.display();
    if kills {
        tracing::warn!(%lock, processes = holders, "killing the remaining processes of an earlier server's commands");
    } else if holders.is_empty() {
        tracing::warn!(
            %lock,
            "waiting for commands of an earlier server: a process that this user can't see holds the lock"
        );
    } else {
        tracing::warn!(%lock, processes = holders, "waiting for commands of an earlier server to end");
    }
}

/// Takes the lock, shared with all other guards, and holds it until the file is closed.
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
    // The file is never removed: a process that holds the lock of a removed file would be invisible to later servers.
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn guards_share_the_lock_and_a_starting_server_waits_for_all_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("commands.lock");
        wait_for_commands(&path).now_or_never().expect("nobody holds it").unwrap();

        let first = share(&path).unwrap();
        let second = share(&path).unwrap();
        let mut waiting = std::pin::pin!(wait_for_commands(&path));
        drop(first);
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(second);
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn a_lock_that_cannot_be_made_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = wait_for_commands(&folder.path().join("missing/lock")).await.unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::NotFound);
    }
}
