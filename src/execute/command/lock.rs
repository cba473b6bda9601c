//! The lock by which a starting server knows that its predecessor's commands are dead.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// The time between two tries to take the lock.
const TRY_EVERY: Duration = Duration::from_millis(10);
/// Tries between two looks at who holds it.
const TRIES_PER_LOOK: u32 = 100;
/// Looks between two lines of the log that tell of them.
const LOOKS_PER_LINE: u32 = 10;

/// The lock of an earlier server's commands can't be used.
#[derive(Debug, thiserror::Error)]
#[error("can't lock {}", path.display())]
pub struct LockError {
    path: PathBuf,
    source: io::Error,
}

/// Returns once every command of the servers before this one is dead, usually at once. What it waits for, it tells in the
/// log, at once and every 10 s. On Linux it kills what is left of commands once no guard is there to do so.
///
/// A server calls it after it has made sure that it is the only one on its data folder and before it starts any
/// attempt; the [module](super) tells why that suffices.
///
/// # Errors
/// [`LockError`] when the file can't be made, or the file system knows no locks.
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

/// Looks for those who hold the lock, and kills what no guard will kill.
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
        tracing::warn!(%lock, processes = holders, "killing what commands of an earlier server have left");
    } else if holders.is_empty() {
        tracing::warn!(
            %lock,
            "waiting for commands of an earlier server: something that can't be seen from here holds the lock"
        );
    } else {
        tracing::warn!(%lock, processes = holders, "waiting for commands of an earlier server to end");
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
