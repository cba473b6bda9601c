//! What people delete: jobs one by one, or by purging a queue.

use std::sync::Arc;

use super::{
    Engine, Progressing,
    rows::{Rows, Waiting},
};
use crate::{
    job::{Change, Job, Position, RequestId, Tombstone},
    store::StoreError,
};

/// At most so many jobs are looked at in a batch for all purges together.
const PURGED_MAX: usize = 500;

impl<R: Rows> Engine<R> {
    /// Deletes a job that does not run.
    pub(super) fn delete(&mut self, job: &Job, progressing: &mut Progressing) -> Result<(), StoreError> {
        let now = self.times.retention();
        self.counters.position += 1;
        let tombstone = Tombstone {
            id: job.id,
            position: Position(self.counters.position),
            deleted: now,
            spec: Arc::clone(&job.spec),
        };
        self.rows.delete_job(job, &tombstone)?;
        if let Some(extras) = job.spec.extras.as_ref().filter(|extras| !extras.request_id.is_empty()) {
            let key = RequestId::key_of(&extras.request_id);
            // A batch's request is kept for as long as any of its jobs, or a repeat would create them again.
            if let Some(row) = self.rows.request(&key)?
                && !self.rows.any_job(row.first, row.count)?
            {
                self.rows.request_gone(&key, now)?;
                self.sweeping.request_gone(now);
            }
        }
        self.sweeping.deleted(now);
        self.tallies.moved(job, Some(job.state.name()), None);
        progressing.applied.room |= !job.state.is_done();
        progressing.wrote = true;
        progressing.applied.changes.push(Change::Deleted(tombstone));
        Ok(())
    }

    /// Each purge's next bite.
    pub(super) fn purge(&mut self, progressing: &mut Progressing) -> Result<(), StoreError> {
        let mut budget = PURGED_MAX;
        let mut left = Vec::new();
        for mut purge in std::mem::take(&mut self.purges) {
            if budget == 0 {
                left.push(purge);
                continue;
            }
            let Waiting { jobs, seen, next } =
                self.rows.waiting(purge.queue, purge.cursor, purge.last, budget)?;
            budget = budget.saturating_sub(seen.max(1));
            for job in &jobs {
                self.delete(job, progressing)?;
            }
            purge.deleted += jobs.len() as u64;
            progressing.wrote = true;
            match next {
                Some(cursor) => {
                    purge.cursor = cursor;
                    self.rows.put_purge(&purge)?;
                    left.push(purge);
                }
                None => {
                    self.rows.delete_purge(purge.number)?;
                    progressing.applied.purged.push((purge.number, purge.deleted));
                }
            }
        }
        self.purges = left;
        Ok(())
    }
}
