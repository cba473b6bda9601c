//! The unfiltered change feed, for parts of the server that follow it.

use std::sync::Arc;

use tokio::sync::watch;

use super::{EVENTS_MAX, Hub, hub::RingRead};
use crate::{
    job::{Change, Position},
    store::{Reads, StoreError},
};

/// A cursor that follows the feed from change to change, without a filter and without tokens.
#[derive(Debug)]
pub(crate) struct Tail {
    hub: Arc<Hub>,
    end: watch::Receiver<Position>,
    reads: Reads,
    cursor: Position,
}

impl Tail {
    /// Returns the feed's end: a tail that starts here receives all later changes.
    pub(crate) fn end_of(hub: &Hub) -> Position {
        hub.position()
    }

    /// Creates a tail that starts after `cursor`.
    pub(crate) fn new(hub: &Arc<Hub>, reads: Reads, cursor: Position) -> Self {
        Tail { hub: Arc::clone(hub), end: hub.end(), reads, cursor }
    }

    /// Waits for the next changes. A tail that has fallen far behind receives only each job's latest change.
    ///
    /// # Errors
    /// When the store can't be read.
    pub(crate) async fn next(&mut self) -> Result<Vec<Change>, StoreError> {
        loop {
            self.end.mark_unchanged();
            let changes = match self.hub.recent(self.cursor, 2 * EVENTS_MAX) {
                RingRead::Changes(changes, reached) => {
                    self.cursor = reached;
                    changes
                }
                RingRead::Behind => {
                    let after = self.cursor;
                    let page = self.reads.read(move |reader| reader.changes(after, EVENTS_MAX)).await?;
                    self.cursor = page.up_to;
                    page.entries
                }
            };
            if !changes.is_empty() {
                return Ok(changes);
            }
            // The sender is in the hub, which this tail holds, so that it can't be gone.
            let _ = self.end.changed().await;
        }
    }
}
