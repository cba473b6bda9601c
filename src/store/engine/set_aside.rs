//! Rows that can't be read: they are set aside, so that all others go on.

use super::{
    Engine, Progressing,
    rows::{Rows, SetAside},
    tallies::Tallies,
};
use crate::{
    clock::Timestamp,
    job::{Change, Position, Tombstone},
    store::StoreError,
};

impl<R: Rows> Engine<R> {
    /// Sets rows aside that could not be read since the last batch. To watchers such a job is deleted.
    pub(super) fn set_aside(
        &mut self,
        now: Timestamp,
        progressing: &mut Progressing,
    ) -> Result<(), StoreError> {
        if !self.rows.has_unreadable() {
            return Ok(());
        }
        let Some(SetAside { jobs, tallies }) = self.rows.set_aside(now)? else { return Ok(()) };
        self.tallies = Tallies::load(&tallies);
        progressing.applied.room = true;
        progressing.wrote = true;
        for (id, spec) in jobs {
            self.leased.remove(&id);
            let Some(spec) = spec else { continue };
            self.counters.position += 1;
            let position = Position(self.counters.position);
            let deleted = self.times.retention();
            let tombstone = Tombstone { id, position, deleted, spec };
            self.rows.insert_tombstone(&tombstone)?;
            self.sweeping.deleted(deleted);
            progressing.applied.changes.push(Change::Deleted(tombstone));
        }
        Ok(())
    }
}
