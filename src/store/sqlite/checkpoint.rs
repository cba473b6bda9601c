//! Checkpoints: copies committed pages from the write-ahead log into the database file, off the commit path.
//!
//! A thread with a connection of its own copies the log while commits go on. Under steady load, that alone never lets
//! the log restart from its beginning, because there is always a newer commit. Once the log is long, the thread
//! therefore goes on until little is left, and the writer itself copies the rest between two commits.

use std::{
    cell::Cell,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
};

use parking_lot::Mutex;
use rusqlite::Connection;

use super::Options;
use crate::store::StoreError;

/// Length of the log, in pages of 4 KiB, from which on the thread is woken.
const BACKGROUND_PAGES: i32 = 1_000;
/// Length of the log from which on it is to restart from its beginning.
const LONG_PAGES: i32 = 16_000;
/// Number of pages that are left to the writer, which take about 2 ms.
const REST_PAGES: i32 = 500;
/// Length of the log from which on the writer waits for the thread, and copies the rest however much it is. This bounds
/// the log, as long as no reader holds it.
const BOUND_PAGES: i32 = 4 * LONG_PAGES;
/// [`BOUND_PAGES`] in bytes: the most by which a checkpoint grows the database.
pub(super) const BOUND_BYTES: u64 = BOUND_PAGES as u64 * 4096;

thread_local! {
    /// Length of the log in pages, as of this thread's last commit.
    static LOG_PAGES: Cell<i32> = const { Cell::new(0) };
}

/// Checkpoints after commits.
pub(super) struct Checkpointer {
    wake: Option<mpsc::SyncSender<()>>,
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

/// State shared by the writer and the thread.
#[derive(Default)]
struct Shared {
    /// Held by the thread while it copies: SQLite lets only one connection checkpoint at a time, and refuses others.
    turn: Mutex<()>,
    /// Whether the log is long and little of it is left for the writer.
    little_is_left: AtomicBool,
}

/// Result of a checkpoint.
#[derive(Clone, Copy, Debug)]
struct CheckpointResult {
    /// Pages in the log.
    log: i32,
    /// Pages of the log that are not in the database yet.
    rest: i32,
}

/// Next action of the thread.
#[derive(PartialEq, Eq, Debug)]
enum Next {
    /// Wait until later commits wake the thread.
    Rest,
    /// Leave the rest to the writer.
    LeaveToWriter,
    GoOn,
}

impl Checkpointer {
    pub(super) fn start(path: &Path, options: &Options, writer: &Connection) -> Result<Self, StoreError> {
        writer.wal_hook(Some(|_, pages| {
            LOG_PAGES.set(pages);
            Ok(())
        }));
        let connection = super::open_connection(path, options)?;
        let (wake, woken) = mpsc::sync_channel::<()>(1);
        let shared = Arc::<Shared>::default();
        let own = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("checkpoint".into())
            .spawn(move || {
                while woken.recv().is_ok() {
                    own.copy(&connection);
                }
            })
            .map_err(|source| StoreError::File {
                what: "can't start the checkpoint thread for",
                path: path.into(),
                source,
            })?;
        Ok(Checkpointer { wake: Some(wake), shared, thread: Some(thread) })
    }

    /// Checkpoints, or wakes the thread, as the log's length requires. To be called after each commit, on the thread
    /// that committed.
    pub(super) fn committed(&self, writer: &Connection) {
        let pages = LOG_PAGES.get();
        let is_over = pages >= BOUND_PAGES;
        if is_over || self.shared.little_is_left.swap(false, Ordering::AcqRel) {
            let _turn = is_over.then(|| self.shared.turn.lock());
            self.checkpoint(writer);
        } else if pages >= BACKGROUND_PAGES
            && let Some(wake) = &self.wake
        {
            // A full channel means that the thread is about to check anyway.
            let _ = wake.try_send(());
        }
    }

    /// Copies what can be copied, on this thread.
    pub(super) fn checkpoint(&self, writer: &Connection) {
        say_failed(checkpoint(writer));
    }
}

impl Shared {
    /// Copies the log; if it is long, until little is left.
    fn copy(&self, connection: &Connection) {
        let _turn = self.turn.lock();
        let mut before = None;
        while let Some(copied) = say_failed(checkpoint(connection)) {
            match copied.next(before) {
                Next::Rest => return,
                Next::LeaveToWriter => return self.little_is_left.store(true, Ordering::Release),
                Next::GoOn => before = Some(copied),
            }
        }
    }
}

impl CheckpointResult {
    fn next(self, before: Option<CheckpointResult>) -> Next {
        // Where a reader holds the log, or commits come faster than they are copied, another round gains nothing.
        let came_closer = before.is_none_or(|before| self.rest < before.rest);
        if self.log < LONG_PAGES {
            Next::Rest
        } else if self.rest <= REST_PAGES {
            Next::LeaveToWriter
        } else if came_closer {
            Next::GoOn
        } else {
            Next::Rest
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        drop(self.wake.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Copies what can be copied without waiting. Returns `None` if another connection is checkpointing.
fn checkpoint(connection: &Connection) -> Result<Option<CheckpointResult>, rusqlite::Error> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        let is_busy: bool = row.get("busy")?;
        let (log, copied): (i32, i32) = (row.get("log")?, row.get("checkpointed")?);
        Ok((!is_busy).then_some(CheckpointResult { log, rest: log - copied }))
    })
}

fn say_failed(copied: Result<Option<CheckpointResult>, rusqlite::Error>) -> Option<CheckpointResult> {
    copied.unwrap_or_else(|error| {
        tracing::warn!(%error, "a checkpoint failed; the log grows until one succeeds");
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_is_copied_until_little_is_left_and_no_longer_than_that_helps() {
        let next = |log, rest, before| {
            CheckpointResult { log, rest }
                .next(Some(before).filter(|rest| *rest > 0).map(|rest| CheckpointResult { log, rest }))
        };
        assert_eq!(next(LONG_PAGES - 1, 0, 0), Next::Rest, "a short one is left to grow");
        assert_eq!(next(LONG_PAGES - 1, 2_000, 0), Next::Rest);
        assert_eq!(next(LONG_PAGES, 2_000, 0), Next::GoOn);
        assert_eq!(next(LONG_PAGES, 1_000, 2_000), Next::GoOn);
        assert_eq!(next(LONG_PAGES, 1_000, 1_000), Next::Rest, "a reader holds the log");
        assert_eq!(next(LONG_PAGES, REST_PAGES, 1_000), Next::LeaveToWriter);
    }
}
