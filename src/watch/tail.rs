//! The feed itself, for parts of the server that follow it.

use std::sync::Arc;

use tokio::sync::watch;

use super::{EVENTS_MAX, Hub, hub::Recent};
use crate::{
    job::{Change, Position},
    store::{Reads, StoreError},
};

/// A cursor on the feed that is moved from change to change, without a filter and without tokens.
#[derive(Debug)]
pub(crate) struct Tail {
    hub: Arc<Hub>,
    end: watch::Receiver<Position>,
    reads: Reads,
    cursor: Position,
}

impl Tail {
    /// The feed's end: a tail that starts here gets all that comes later.
    pub(crate) fn end_of(hub: &Hub) -> Position {
        hub.position()
    }

    /// Starts after `cursor`.
    pub(crate) fn new(hub: &Arc<Hub>, reads: Reads, cursor: Position) -> Self {
        Tail { hub: Arc::clone(hub), end: hub.end(), reads, cursor }
    }

    /// The next changes; waits until there are some. One that falls far behind gets each job's latest change only.
    ///
    /// # Errors
    /// When the store can't be read.
    pub(crate) async fn next(&mut self) -> Result<Vec<Change>, StoreError> {
        loop {
            self.end.mark_unchanged();
            let changes = match self.hub.recent(self.cursor, 2 * EVENTS_MAX) {
                Recent::Changes(changes, reached) => {
                    self.cursor = reached;
                    changes
                }
                Recent::Behind => {
                    let after = self.cursor;
                    let page = self.reads.read(move |reader| reader.changes(after, EVENTS_MAX)).await?;
                    self.cursor = page.up_to;
                    page.entries
                }
            };
            if !changes.is_empty() {
                return Ok(changes);
            }
            // The hub, which this tail holds, has the sender: it can't be gone.
            let _ = self.end.changed().await;
        }
    }
}
