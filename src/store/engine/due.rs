//! Jobs whose time has come, and jobs whose time is over.

use super::{Engine, Pending, Progressing, rows::Rows};
use crate::{
    clock::Timestamp,
    job::Job,
    store::StoreError,
    transition::{Event, expired, transition},
};

/// At most so many due jobs are promoted in a batch, and so many expire.
const DUE_MAX: usize = 1_000;

impl<R: Rows> Engine<R> {
    /// Ends the waiting jobs whose time is over.
    pub(super) fn expire(&mut self, now: Timestamp, progressing: &mut Progressing) -> Result<(), StoreError> {
        if self.next_expiry.is_none_or(|expires| expires > now) {
            return Ok(());
        }
        for job in self.rows.expiring(now, DUE_MAX)? {
            self.end_expired(&job, now, progressing)?;
        }
        self.next_expiry = self.rows.next_expiry()?;
        Ok(())
    }

    pub(super) fn end_expired(
        &mut self,
        job: &Job,
        now: Timestamp,
        progressing: &mut Progressing,
    ) -> Result<(), StoreError> {
        let changed = transition(job, &Event::Expire, self.moment(job, now))
            .map_err(|refusal| StoreError::Corrupt(format!("job {} can't expire: {refusal}", job.id)))?;
        self.write_change(job, changed, progressing)?;
        Ok(())
    }

    /// Takes up jobs whose time has come. They are written in the end, because a slot may be free for them.
    pub(super) fn promote(
        &mut self,
        now: Timestamp,
        progressing: &mut Progressing,
    ) -> Result<(), StoreError> {
        let backoffs = self.times.backoffs();
        if self.next_due.scheduled.is_none_or(|due| due > now)
            && self.next_due.backoff.is_none_or(|due| due > backoffs)
        {
            return Ok(());
        }
        progressing.promoted = true;
        for stored in self.rows.due(now, backoffs, DUE_MAX)? {
            // Where very many expire at once, some of them are among the due ones still. So is one whose only attempt
            // never started.
            if expired(&stored, now) {
                self.end_expired(&stored, now, progressing)?;
                continue;
            }
            let moment = self.moment(&stored, now);
            let changed = transition(&stored, &Event::Due, moment)
                .map_err(|refusal| StoreError::Corrupt(format!("job {} is not due: {refusal}", stored.id)))?;
            progressing.pending.push(Pending {
                job: changed.job,
                stored: Some(stored),
                payload: None,
                offer: None,
            });
        }
        Ok(())
    }
}
