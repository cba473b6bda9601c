//! Background operations: expiry, purges, retention, and the promotion of due jobs. Each takes a bounded step in each
//! batch, and no queue or operation waits for another one.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    decision::{Decision, DueJob},
    due::EXPIRED_MAX,
    purge::Walk,
    retention::RetentionPlan,
};
use crate::{
    clock::StoreTime,
    engine::transition::{Event, lapsed},
    job::{Change, Job, JobId, RequestId, Spec, State, StateName, Tombstone},
    settings::Keep,
    store::{
        StoreError,
        sets::{Expiring, FeedEntry, FeedPage, FeedWant, LinePage, SetAside, WaitingLine},
    },
};

/// Limit of the jobs that all purges together read in a batch.
pub(super) const PURGED_MAX: usize = 500;

impl Decision<'_> {
    /// Takes over the removal of unreadable rows, which the store has set aside. Watchers see such a job as deleted.
    pub(super) fn take_set_aside(&mut self) {
        let Some(SetAside { jobs, tallies }) = self.found.set_aside.take() else { return };
        self.engine.tallies.recount(&tallies);
        for tally in &tallies {
            // If the count was unreadable, the line's first time is unknown.
            self.engine.due.look_at(tally.queue.number, tally.state);
        }
        self.sealed.more = true;
        // A row that said which jobs get other participants may be among the unreadable ones.
        let queues: Vec<u32> = self.engine.tallies.queues_with_ready_jobs().collect();
        self.engine.turns.look_again(&queues);
        self.engine.waiters.all_gained_room();
        let deleted = self.engine.times.retention();
        for (id, spec) in jobs {
            if let Some(job) = self.engine.leases.get(id).cloned() {
                self.engine.limits.lost(&job);
            }
            self.engine.leases.lost(id);
            self.engine.suspects.deleted(id);
            self.set_aside.insert(id);
            self.set_aside_key_of(id);
            self.set_aside_edges_of(id);
            let Some(spec) = spec else { continue };
            self.engine.numbers.position_taken();
            let position = self.engine.numbers.position();
            if let Some(request_id) = spec.kept_request_id() {
                self.lose_job(RequestId::key_of(request_id));
                self.engine.sweeping.request_bare(deleted);
            }
            let tombstone = Tombstone { id, position, deleted, spec: Spec::of_deleted(&spec) };
            self.engine.sweeping.deleted(deleted);
            self.writes.tombstones.push(tombstone.clone());
            self.sealed.changes.push(Change::Deleted(tombstone));
        }
    }

    /// Ends waiting jobs whose expiry or deadline has passed.
    pub(super) fn expire(&mut self) -> Result<(), StoreError> {
        for job in self.waiting_anew() {
            // For example a job whose only attempt was released without a start. The end of another one may have changed
            // it meanwhile.
            if let Some(job) = self.job(job.id).filter(|job| lapsed(job, self.now())) {
                self.must(&job, &Event::Lapse)?;
            }
        }
        if !self.engine.due.has_expired(self.now()) {
            return Ok(());
        }
        let Expiring { jobs, is_cut } = std::mem::take(&mut self.found.expiring);
        let mut left = None;
        for (index, job) in jobs.iter().enumerate() {
            let over = lapsed(job, self.now()) && index < EXPIRED_MAX;
            if !over {
                left = job.waits_until();
                break;
            }
            if self.is_untouched(job.id) {
                self.must(job, &Event::Lapse)?;
            }
        }
        if left.is_none() && is_cut {
            left = Some(self.now());
        }
        self.engine.due.looked_at_expiry(left);
        Ok(())
    }

    /// Takes the next step of each purge.
    pub(super) fn purge(&mut self) {
        let mut pages: BTreeMap<u32, Vec<(WaitingLine, LinePage)>> = BTreeMap::new();
        for ((queue, line), page) in std::mem::take(&mut self.found.walks) {
            pages.entry(queue).or_default().push((line, page));
        }
        for (queue, last) in self.engine.purges.running() {
            let (mut over, mut deleted, mut skipped) = (Vec::new(), 0, 0);
            let mut walk = None;
            for (line, page) in pages.remove(&queue).unwrap_or_default() {
                walk = Some(Walk::behind(line, &page));
                // A job that this batch has changed stays as its caller wants it.
                let covered = |job: &Arc<Job>| job.id <= last && self.is_untouched(job.id);
                over.extend(page.jobs.into_iter().filter(covered));
            }
            // In the order of the table's key, where jobs that were accepted together are adjacent. Parents come last, and
            // the newest of them first, so that they may follow their children.
            over.sort_by_key(|job| {
                let has_dependents = job.rare().has_dependents;
                (has_dependents, if has_dependents { -job.id.raw() } else { job.id.raw() })
            });
            for job in &over {
                // The deletion of one that holds a unique key takes its successor along.
                if !self.is_untouched(job.id) {
                    continue;
                }
                if self.live_child(job).is_some() {
                    skipped += 1;
                } else {
                    self.delete(job);
                    deleted += 1;
                }
            }
            let engine = &mut *self.engine;
            engine.purges.advance(&engine.tallies, queue, (deleted, skipped), walk);
        }
    }

    /// Takes the next step of retention: deletes ended jobs, tombstones and request ids that are old enough. `plan` has
    /// the limits of the reads.
    pub(super) fn retain(&mut self, plan: &RetentionPlan) {
        let now = self.engine.times.retention();
        for want in &plan.feed {
            let Some(page) = self.found.feed.remove(&want.keep) else { continue };
            self.sweep(*want, page, now);
        }
        if let Some(limit) = plan.tombstones.checked_sub(1) {
            let oldest = std::mem::take(&mut self.found.tombstones);
            let floor = self.engine.sweeping.forget_tombstones(&oldest, now, limit);
            if let Some(floor) = floor {
                self.engine.numbers.raise_floor(floor);
                self.writes.forgotten_tombstones = Some(floor);
            }
        }
        if let Some(limit) = plan.requests.checked_sub(1) {
            let oldest = std::mem::take(&mut self.found.bare_requests);
            self.writes.forgotten_requests = self.engine.sweeping.forget_requests(&oldest, now, limit);
        }
    }

    fn sweep(&mut self, want: FeedWant, page: FeedPage, now: StoreTime) {
        let names = Arc::clone(&self.engine.names);
        // By the counted time of the change, not by the wall clock's time.
        let counted = |place: &FeedEntry| names.steps.counted(place.position, place.updated);
        let old = self.engine.sweeping.sweep(want, &page, now, counted);
        let ended = page.places.into_iter().take(old).filter_map(|place| place.ended);
        let mut over: Vec<Arc<Job>> = ended.filter(|job| self.is_over(job, want.keep)).collect();
        // In the order of the table's key, where jobs that were accepted together are adjacent.
        over.sort_by_key(|job| job.id);
        for job in &over {
            match self.live_child(job) {
                Some(_) => self.spare(job),
                None => self.delete(job),
            }
        }
    }

    fn is_over(&self, job: &Job, keep: std::time::Duration) -> bool {
        let retention = self.retention_of(job.spec.queue.number);
        self.is_untouched(job.id) && retention.of(job.state.name()) == Some(Keep::For(keep))
    }

    /// Collects due jobs. Their change is decided in the claim step, because a slot may be free for them.
    pub(super) fn promote(&mut self) -> Result<(), StoreError> {
        let (now, backoffs) = (self.now(), self.engine.times.backoffs());
        let names = Arc::clone(&self.engine.names);
        let mut due = Vec::new();
        for ((queue, line), page) in std::mem::take(&mut self.found.lines) {
            let is_due = |time: i64| match line {
                WaitingLine::Scheduled => time <= now.as_micros(),
                WaitingLine::BackingOff => time <= backoffs.as_micros(),
                WaitingLine::Blocked | WaitingLine::Ready(_) => false,
            };
            let mut jobs = page.jobs.into_iter().peekable();
            let time_of = |job: &Job| match job.state {
                State::Scheduled { due } => Some(due.as_micros()),
                State::BackingOff { due } => Some(names.steps.backoff_of_wall(due).as_micros()),
                State::Blocked { .. }
                | State::Queued { .. }
                | State::Running { .. }
                | State::Cancelling { .. }
                | State::Succeeded
                | State::Failed
                | State::Cancelled
                | State::Expired => None,
            };
            let share = page.limit.saturating_sub(1);
            let mut taken = 0;
            while taken < share
                && let Some(job) = jobs.next_if(|job| time_of(job).is_some_and(is_due))
            {
                taken += 1;
                due.push(job);
            }
            let left = jobs.peek().and_then(|job| time_of(job));
            // A truncated page without a further job ends with unreadable rows.
            let left = left.or_else(|| page.is_cut.then(|| page.last.map_or(0, |place| place.order)));
            self.engine.due.looked_at(queue, line, left);
        }
        due.retain(|job| self.is_untouched(job.id));
        due.extend(self.waiting_anew().into_iter().filter(|job| match job.state {
            State::Scheduled { due } => due <= now,
            State::BackingOff { due } => names.steps.backoff_of_wall(due) <= backoffs,
            State::Blocked { .. }
            | State::Queued { .. }
            | State::Running { .. }
            | State::Cancelling { .. }
            | State::Succeeded
            | State::Failed
            | State::Cancelled
            | State::Expired => false,
        }));
        due.sort_by_key(|job| (job.state.due(), job.id));
        for stored in due {
            if self.is_untouched(stored.id) && self.delete_if_purged(&stored) {
                continue;
            }
            if lapsed(&stored, now) {
                // If more jobs expire at once than a batch takes, some are still among the due ones. So is a job whose
                // only attempt was released without a start.
                self.must(&stored, &Event::Lapse)?;
            } else {
                self.due.push(DueJob { stored, starts: None });
            }
        }
        Ok(())
    }

    /// Corrects the list of due jobs for one that changes, or is deleted, between the making of the list and the choice of
    /// those that start.
    pub(super) fn due_changed(&mut self, id: JobId, now: Option<&Arc<Job>>) {
        if self.has_chosen {
            return;
        }
        let Some(index) = self.due.iter().position(|due| due.stored.id == id) else { return };
        let is_due = |job: &&Arc<Job>| {
            job.state.name() == StateName::Scheduled
                && job.state.due() <= Some(self.now())
                && !lapsed(job, self.now())
        };
        match now.filter(is_due).cloned() {
            Some(stored) => {
                if let Some(due) = self.due.get_mut(index) {
                    due.stored = stored;
                }
            }
            None => {
                self.due.remove(index);
            }
        }
    }
}
