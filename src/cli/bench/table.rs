//! A bare table behind an RPC: the speed of this machine's disk, SQLite and threads for calls whose payload is stored
//! before the answer, without any handling of jobs. It shows how far Jobmill is from the best possible rate.

use std::{
    io::{self, Write},
    path::Path,
    thread,
};

use anyhow::Context;
use rusqlite::{Connection, params};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

/// Capacity of the channel of entries, and the most that one flush stores.
const ENTRIES_MAX: usize = 1_024;
/// Length of the log, in pages, from which on it is checkpointed: as long as a job store's log may get.
const LOG_PAGES: u32 = 16_000;

struct TableEntry {
    payload: Vec<u8>,
    kept: oneshot::Sender<()>,
}

/// A table of an id, a state, a time and a payload, with an index of waiting entries.
pub(super) struct Table {
    entries: mpsc::Sender<TableEntry>,
}

impl Table {
    /// Creates a table in this folder.
    pub(super) fn open(folder: &Path) -> anyhow::Result<Self> {
        let connection = Connection::open(folder.join("table.db")).context("can't make a table")?;
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update_and_check(None, "wal_autocheckpoint", LOG_PAGES, |_| Ok(()))?;
        connection.execute_batch(
            "CREATE TABLE entry (
                 id      INTEGER PRIMARY KEY,
                 state   INTEGER NOT NULL,
                 created INTEGER NOT NULL,
                 payload BLOB    NOT NULL
             ) STRICT;
             CREATE INDEX entry_ready ON entry (created) WHERE state = 3;",
        )?;
        let (entries, receiver) = mpsc::channel(ENTRIES_MAX);
        thread::Builder::new().name("table".into()).spawn(move || {
            if let Err(error) = write(&connection, receiver) {
                // Goes to the server's log. Callers see that their channels are closed.
                let _ = writeln!(io::stderr(), "the table can't be written: {error}");
            }
        })?;
        Ok(Table { entries })
    }

    /// Stores a payload, and returns once it is on the disk.
    pub(super) async fn keep(&self, payload: Vec<u8>) -> Result<(), Status> {
        let failed = || Status::internal("the table takes no more");
        let (kept, answer) = oneshot::channel();
        self.entries.send(TableEntry { payload, kept }).await.map_err(|_| failed())?;
        answer.await.map_err(|_| failed())
    }
}

/// Writes the incoming entries, one transaction after the other.
fn write(connection: &Connection, mut entries: mpsc::Receiver<TableEntry>) -> rusqlite::Result<()> {
    let mut batch = Vec::with_capacity(ENTRIES_MAX);
    let mut id = 0_i64;
    while entries.blocking_recv_many(&mut batch, ENTRIES_MAX) > 0 {
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        {
            let mut insert = connection.prepare_cached("INSERT INTO entry VALUES (?1, 3, ?1, ?2)")?;
            for entry in &batch {
                id += 1;
                insert.execute(params![id, entry.payload])?;
            }
        }
        connection.prepare_cached("COMMIT")?.execute([])?;
        for entry in batch.drain(..) {
            // The caller may have disconnected.
            let _ = entry.kept.send(());
        }
    }
    Ok(())
}
