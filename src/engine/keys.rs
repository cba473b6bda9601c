//! Unique keys: who holds a key, who follows the holder, and what becomes of a submission that meets a held key.
//!
//! A key's row is read with every job of the batch that has the key, so that whatever ends the job frees the key, or
//! hands it over to the successor, in the same transaction.

use std::sync::Arc;

use super::{
    ControlRefusal, KeyDone,
    decision::{AcceptedItem, Decision},
    transition::Event,
};
use crate::{
    clock::{StoreTime, Timestamp},
    engine::transition::{Refusal, waiting_state},
    job::{Job, JobId, KeyHash, KeyRow, Spec, State},
};

/// Limit of the rows of keys that are no longer held that a batch removes.
const FORGOTTEN_MAX: usize = 256;
/// Delay of the removal of such rows, so that ends of single holds do not cause a flush each. A row whose time has come
/// holds nothing meanwhile.
const REST: std::time::Duration = std::time::Duration::from_secs(1);

/// The time at which the first of the keys that are held by time has to be removed.
#[derive(Debug)]
pub(super) struct Holds {
    first: Option<StoreTime>,
    /// The earliest time that the batch adds.
    added: Option<StoreTime>,
    /// The first time that is left, if the batch read the rows.
    looked: Option<Option<StoreTime>>,
}

impl Holds {
    /// Returns the state after a start, when the times are unknown.
    pub(super) fn load() -> Self {
        Holds { first: Some(StoreTime::FIRST), added: None, looked: None }
    }

    /// Returns the time of the next removal.
    pub(super) fn wake(&self) -> Option<StoreTime> {
        self.first.map(|first| if first == StoreTime::FIRST { first } else { first.after(REST) })
    }

    /// Plans the read of a batch: the number of rows.
    pub(super) fn plan(&self, now: StoreTime) -> usize {
        if self.wake().is_some_and(|wake| wake <= now) { FORGOTTEN_MAX + 1 } else { 0 }
    }

    fn add(&mut self, until: StoreTime) {
        self.added = Some(self.added.map_or(until, |added| added.min(until)));
    }

    /// Takes over the changes of the batch, which is on disk.
    pub(super) fn commit(&mut self) {
        if let Some(left) = self.looked.take() {
            self.first = left;
        }
        self.first = self.first.into_iter().chain(self.added.take()).min();
    }

    /// Drops the changes of the batch, which was not committed.
    pub(super) fn discard(&mut self) {
        (self.added, self.looked) = (None, None);
    }
}

/// A key as the batch finds it.
#[derive(Clone, Debug)]
pub(super) enum Standing {
    /// Nothing holds it.
    Free,
    /// It is held for some time after the end of its holder.
    Ended {
        /// The last holder, which may be deleted.
        holder: JobId,
        until: StoreTime,
    },
    /// A job holds it.
    Held {
        holder: Arc<Job>,
        successor: Option<Arc<Job>>,
        /// The earliest start of a holder that waits.
        not_before: Option<StoreTime>,
    },
}

impl Decision<'_> {
    /// Returns the row of a key, with the batch's changes so far.
    pub(super) fn key_row(&self, hash: KeyHash) -> Option<&KeyRow> {
        match self.keys.get(&hash) {
            Some(changed) => changed.as_ref(),
            None => self.found.keys.get(&hash).and_then(Option::as_ref),
        }
    }

    fn is_key_read(&self, hash: KeyHash) -> bool {
        self.keys.contains_key(&hash) || self.found.keys.contains_key(&hash)
    }

    pub(super) fn put_key(&mut self, hash: KeyHash, row: Option<KeyRow>) {
        if let Some(until) = row.as_ref().and_then(|row| row.until) {
            self.engine.holds.add(until);
        }
        self.keys.insert(hash, row);
    }

    /// Returns a job with the batch's changes so far, also one that the batch creates.
    pub(super) fn any_job(&self, id: JobId) -> Option<Arc<Job>> {
        match self.accepted_job(id) {
            Some(accepted) => Some(Arc::new(accepted.job.clone())),
            None => self.job(id),
        }
    }

    /// Returns who holds a key. A waiting holder that a purge covers is deleted first: it will never start.
    pub(super) fn standing(&mut self, hash: KeyHash) -> Standing {
        loop {
            let Some(row) = self.key_row(hash).cloned() else { return Standing::Free };
            let now = self.engine.times.backoffs();
            let until = row.until.filter(|until| *until > now);
            let Some(holder) = self.any_job(row.holder).filter(|holder| !holder.state.is_done()) else {
                return match until {
                    Some(until) => Standing::Ended { holder: row.holder, until },
                    None => Standing::Free,
                };
            };
            if holder.state.lease().is_none()
                && self.accepted_job(holder.id).is_none()
                && self.delete_if_purged(&holder)
            {
                continue;
            }
            let successor = row.successor.and_then(|id| self.any_job(id));
            return Standing::Held { holder, successor, not_before: until };
        }
    }

    /// Frees the key of a job that has ended, or hands it over.
    pub(super) fn end_of_key(&mut self, job: &Job) {
        self.leave_key(job, Some(job));
    }

    /// Frees the key of a job that is deleted before its end, or hands it over. There is no hold.
    pub(super) fn deletion_of_key(&mut self, job: &Job) {
        self.leave_key(job, None);
    }

    fn leave_key(&mut self, job: &Job, ended: Option<&Job>) {
        let Some(hash) = job.spec.key_hash() else { return };
        if !self.is_key_read(hash) {
            self.unread_key.get_or_insert(job.id);
            return;
        }
        let Some(row) = self.key_row(hash).cloned() else { return };
        if row.successor == Some(job.id) {
            self.put_key(hash, Some(KeyRow { successor: None, ..row }));
        } else if row.holder == job.id {
            self.pass_on(hash, &row, &job.spec, ended);
        }
    }

    /// Hands a key over to the successor of its holder, or else holds it for the time that the holder asked for. `spec` is
    /// the holder's; `ended` is absent if it has not ended by itself.
    fn pass_on(&mut self, hash: KeyHash, row: &KeyRow, spec: &Spec, ended: Option<&Job>) {
        let now = self.engine.times.backoffs();
        let started = ended.and_then(|job| job.started);
        let next = row.successor.and_then(|id| self.any_job(id));
        if let Some(next) = next.filter(|next| matches!(next.state, State::Blocked { .. })) {
            let until = self.throttled_until(&next.spec, started);
            self.put_key(hash, Some(KeyRow { holder: next.id, successor: None, until, name: None }));
            self.unblock(&next, until);
            return;
        }
        let hold = ended.and_then(|_| spec.unique()?.hold).map(|hold| now.after(hold));
        let until = hold.max(self.throttled_until(spec, started));
        let row = until.map(|until| {
            let name = spec.key_name().map(Box::new);
            KeyRow { holder: row.holder, successor: None, until: Some(until), name }
        });
        self.put_key(hash, row);
    }

    /// Returns the earliest next start under a job's throttle, given the start of the attempt before.
    fn throttled_until(&self, spec: &Spec, started: Option<Timestamp>) -> Option<StoreTime> {
        let period = spec.unique()?.throttle?;
        let now = self.engine.times.backoffs();
        let left = period.saturating_sub(self.now().since(started?));
        Some(now.after(left)).filter(|until| *until > now)
    }

    /// Lets a blocked job start: a successor, which holds the key now, or one whose dependencies are met.
    pub(super) fn unblock(&mut self, job: &Arc<Job>, not_before: Option<StoreTime>) {
        let not_before = not_before.map(|until| self.engine.names.steps.wall_of_backoff(until));
        if let Some(moment) = self.accepted_job(job.id).map(|_| self.moment(job))
            && let Some(accepted) = self.accepted_job_mut(job.id)
        {
            if let State::Blocked { due } = accepted.job.state {
                let start = not_before.map_or(due, |earliest| earliest.max(due));
                accepted.job.state = waiting_state(Some(start), moment);
            }
            self.sealed.more |= self.has_chosen;
            return;
        }
        if !self.delete_if_purged(job) && self.try_change(job, &Event::Unblock { not_before }).is_ok() {
            self.sealed.more |= self.has_chosen;
        }
    }

    /// Frees the key that an ended job held last, because a caller deletes the job.
    pub(super) fn free_key_of(&mut self, job: &Job) {
        let Some(hash) = job.spec.key_hash() else { return };
        if self.key_row(hash).is_some_and(|row| row.holder == job.id) {
            self.put_key(hash, None);
        }
    }

    /// Checks that an ended job can hold its key again.
    pub(super) fn check_key_of(&mut self, job: &Job) -> Result<(), ControlRefusal> {
        let (Some(hash), Some(unique)) = (job.spec.key_hash(), job.spec.unique()) else { return Ok(()) };
        let (holder, state) = match self.standing(hash) {
            Standing::Free => return Ok(()),
            Standing::Ended { holder, .. } if holder == job.id => return Ok(()),
            Standing::Ended { holder, .. } => (holder, self.any_job(holder).map(|job| job.state.name())),
            Standing::Held { holder, .. } => (holder.id, Some(holder.state.name())),
        };
        Err(ControlRefusal::KeyHeld { id: job.id, key: unique.key.clone(), holder, state })
    }

    /// Makes a job that waits again the holder of its key.
    pub(super) fn retake_key(&mut self, job: &Job) {
        if let Some(hash) = job.spec.key_hash() {
            let row = KeyRow { holder: job.id, successor: None, until: None, name: None };
            self.put_key(hash, Some(row));
        }
    }

    /// Takes a key from its holder for a caller. Returns also the number of the holder's queue.
    pub(super) fn release_key(&mut self, hash: KeyHash, key: &str) -> Result<(KeyDone, u32), ControlRefusal> {
        let done =
            |holder, successor| KeyDone { holder: Some(holder), successor, is_repeat: false };
        let not_held = || ControlRefusal::KeyNotFound(key.to_owned());
        let standing = self.standing(hash);
        let row = self.key_row(hash).cloned().ok_or_else(not_held)?;
        match standing {
            Standing::Free => Err(not_held()),
            Standing::Ended { holder, .. } => {
                let queue = row.name.and_then(|name| self.engine.queues.name(&name.queue));
                self.put_key(hash, None);
                Ok((done(holder, None), queue.map_or(0, |queue| queue.number)))
            }
            Standing::Held { holder, .. } => {
                self.pass_on(hash, &row, &holder.spec, None);
                let next = self.key_row(hash).map(|row| row.holder);
                Ok((done(holder.id, next), holder.spec.queue.number))
            }
        }
    }

    /// Frees the keys of jobs whose rows are set aside, or hands them over.
    pub(super) fn set_aside_key_of(&mut self, id: JobId) {
        let of_job = |row: &KeyRow| row.holder == id || row.successor == Some(id);
        let found = self.found.keys.iter();
        let mut rows: Vec<(KeyHash, KeyRow)> = found
            .filter_map(|(hash, row)| Some((*hash, row.clone().filter(of_job)?)))
            .collect();
        rows.sort_unstable_by_key(|(hash, _)| *hash);
        for (hash, row) in rows {
            if row.successor == Some(id) {
                self.put_key(hash, Some(KeyRow { successor: None, ..row }));
            } else if let Some(next) = row.successor.and_then(|next| self.any_job(next)) {
                let spec = Arc::clone(&next.spec);
                self.pass_on(hash, &row, &spec, None);
            } else {
                self.put_key(hash, None);
            }
        }
    }

    /// Removes the rows of keys that are no longer held.
    pub(super) fn forget_keys(&mut self) {
        let now = self.engine.times.backoffs();
        let planned = self.engine.holds.plan(now);
        let Some(limit) = planned.checked_sub(1) else { return };
        let oldest = std::mem::take(&mut self.found.held_keys);
        let over = oldest.iter().take(limit).take_while(|(until, ..)| *until <= now).count();
        self.engine.holds.looked = Some(oldest.get(over).map(|(until, ..)| *until));
        for (_, hash, row) in oldest.into_iter().take(over) {
            if self.keys.contains_key(&hash) {
                continue;
            }
            // Without its own text, the key has a holder that waits and may start now.
            let row = row.name.is_none().then_some(KeyRow { until: None, ..row });
            self.keys.insert(hash, row);
        }
    }

    /// Collects the batch's writes of keys.
    pub(super) fn write_keys(&mut self) -> Result<(), crate::store::StoreError> {
        if let Some(id) = self.unread_key {
            let fault = format!("the unique key of job {id} was not read with it");
            return Err(crate::store::StoreError::Corrupt(fault));
        }
        if self.keys.is_empty() {
            return Ok(());
        }
        let found = &self.found.keys;
        let changed = self.keys.drain().filter(|(hash, row)| found.get(hash).is_none_or(|found| found != row));
        let mut keys: Vec<_> = changed.collect();
        // In the order of the table, and so that a run can be repeated.
        keys.sort_unstable_by_key(|(hash, _)| *hash);
        self.writes.keys = keys;
        Ok(())
    }

    /// Returns a job with a unique key that the batch creates.
    fn accepted_job(&self, id: JobId) -> Option<&super::decision::AcceptedJob> {
        let (offer, index) = self.keyed.get(&id)?;
        match self.accepted.get(*offer)?.jobs.get(*index)? {
            AcceptedItem::New(accepted) => Some(accepted),
            AcceptedItem::Found { .. } => None,
        }
    }

    pub(super) fn accepted_job_mut(&mut self, id: JobId) -> Option<&mut super::decision::AcceptedJob> {
        let (offer, index) = self.keyed.get(&id)?;
        match self.accepted.get_mut(*offer)?.jobs.get_mut(*index)? {
            AcceptedItem::New(accepted) => Some(accepted),
            AcceptedItem::Found { .. } => None,
        }
    }

    /// Cancels the holder of a key for its successor. A running one is asked to stop.
    pub(super) fn cancel_holder(&mut self, id: JobId) {
        let Some(holder) = self.job(id) else { return };
        // A holder that was asked to stop before goes on stopping.
        let _: Result<_, Refusal> = self.try_change(&holder, &Event::Cancel);
    }
}
