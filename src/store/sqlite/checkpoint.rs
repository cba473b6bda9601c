//! Moves what is committed from the log into the database file, off the commit path.
//!
//! A thread with a connection of its own copies the log in small steps while commits go on. That alone never lets the
//! log start over under steady load, because there is always a newer commit; so once the log is long, the writer
//! itself does the small rest between two commits.

use std::{
    cell::Cell,
    path::Path,
    sync::{Arc, mpsc},
    thread,
};

use parking_lot::Mutex;
use rusqlite::Connection;

use super::Options;
use crate::store::StoreError;

/// From so many pages of 4 KiB on, the thread is called.
const BACKGROUND_PAGES: i32 = 1_000;
/// From so many pages on, the writer does the rest, unless the thread is at it,
const INLINE_PAGES: i32 = 16_000;
/// and from so many on it waits for the thread first: the log's bound, as long as no reader stays.
const BOUND_PAGES: i32 = 2 * INLINE_PAGES;
/// The same in bytes: by so much the database can grow when the log is copied into it.
pub(super) const BOUND_BYTES: u64 = BOUND_PAGES as u64 * 4096;

thread_local! {
    /// The length of the log in pages, as the last commit of this thread left it.
    static LOG_PAGES: Cell<i32> = const { Cell::new(0) };
}

/// Lets the log be copied after commits.
pub(super) struct Checkpointer {
    wake: Option<mpsc::SyncSender<()>>,
    /// Held by the thread while it copies: SQLite lets only one do so at a time, and turns the other away.
    turn: Arc<Mutex<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Checkpointer {
    pub(super) fn start(path: &Path, options: &Options, writer: &Connection) -> Result<Self, StoreError> {
        writer.wal_hook(Some(|_, pages| {
            LOG_PAGES.set(pages);
            Ok(())
        }));
        let connection = super::open_connection(path, options)?;
        let (wake, woken) = mpsc::sync_channel::<()>(1);
        let turn = Arc::new(Mutex::new(()));
        let own_turn = Arc::clone(&turn);
        let thread = thread::Builder::new()
            .name("checkpoint".into())
            .spawn(move || {
                while woken.recv().is_ok() {
                    let _turn = own_turn.lock();
                    if let Err(error) = checkpoint(&connection) {
                        tracing::warn!(%error, "a checkpoint failed; the log grows until one succeeds");
                    }
                }
            })
            .map_err(|source| StoreError::File {
                what: "can't start the checkpoint thread for",
                path: path.into(),
                source,
            })?;
        Ok(Checkpointer { wake: Some(wake), turn, thread: Some(thread) })
    }

    /// To be called after each commit, on the thread that committed.
    pub(super) fn committed(&self, writer: &Connection) {
        let pages = LOG_PAGES.get();
        if pages >= INLINE_PAGES {
            let _turn = (pages >= BOUND_PAGES).then(|| self.turn.lock());
            self.checkpoint(writer);
        } else if pages >= BACKGROUND_PAGES
            && let Some(wake) = &self.wake
        {
            // A full channel means that the thread is about to look anyway.
            let _ = wake.try_send(());
        }
    }

    /// Copies what can be copied by this thread.
    pub(super) fn checkpoint(&self, writer: &Connection) {
        if let Err(error) = checkpoint(writer) {
            tracing::warn!(%error, "a checkpoint failed; the log grows until one succeeds");
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

/// Copies what can be copied without waiting for anyone.
fn checkpoint(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}
