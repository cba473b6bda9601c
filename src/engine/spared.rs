//! Ended jobs that are kept, although their retention time is over, until their children have ended.
//!
//! The sweeps of retention look at each ended job once. They note those that they spare, and a walk over these notes looks
//! at them again once a child has ended.

use std::{sync::Arc, time::Duration};

use super::decision::Decision;
use crate::{
    clock::StoreTime,
    job::{Job, JobId},
    settings::Keep,
    store::sets::{LiveChildren, SparedWant},
};

/// Shortest time from one walk to the next, so that ends of single children don't cause a walk each.
const REST: Duration = Duration::from_secs(1);
/// The part of a batch's rows of retention that the walk may look at is the whole divided by this.
const SHARE: usize = 2;

/// The walk over the jobs that were spared.
#[derive(Debug)]
pub(super) struct Spared {
    kept: Walk,
    /// The state after the batch.
    next: Option<Walk>,
    /// Whether the batch ends a child, or spares a job.
    has_news: bool,
}

#[derive(Clone, Copy, Debug)]
struct Walk {
    after: Option<JobId>,
    /// Time of the next step; absent while nothing can have changed.
    wake: Option<StoreTime>,
}

impl Spared {
    /// Returns the state after a start: what has changed before is unknown.
    pub(super) fn load() -> Self {
        Spared { kept: Walk { after: None, wake: Some(StoreTime::FIRST) }, next: None, has_news: false }
    }

    /// Returns the time of the next step.
    pub(super) fn wake(&self) -> Option<StoreTime> {
        self.kept.wake
    }

    /// Notes that a child has ended or is deleted, or that a job is spared.
    pub(super) fn look_again(&mut self) {
        self.has_news = true;
    }

    /// Plans the read of a batch in which retention looks at this many rows.
    pub(super) fn plan(&self, now: StoreTime, rows: usize) -> Option<SparedWant> {
        let limit = (rows / SHARE).max(1);
        self.kept.wake.filter(|wake| *wake <= now).map(|_| SparedWant { after: self.kept.after, limit })
    }

    /// Takes over the changes of the batch, which is on disk.
    pub(super) fn commit(&mut self, now: StoreTime) {
        self.kept = self.next.take().unwrap_or(self.kept);
        if std::mem::take(&mut self.has_news) {
            self.kept.wake.get_or_insert(now.after(REST));
        }
    }

    /// Drops the changes of the batch, which was not committed.
    pub(super) fn discard(&mut self) {
        (self.next, self.has_news) = (None, false);
    }
}

impl Decision<'_> {
    /// Returns a child of a job that has not ended, if there is one.
    pub(super) fn live_child(&self, job: &Job) -> Option<JobId> {
        if !job.rare().has_dependents {
            return None;
        }
        let lives = |id: &&JobId| self.is_untouched(**id) || self.job(**id).is_some_and(|child| !child.state.is_done());
        let read = self.found.dependencies.live_children.get(&job.id);
        let known = read.and_then(|LiveChildren { children, is_cut }| {
            children.iter().find(lives).or_else(|| children.first().filter(|_| *is_cut))
        });
        known.copied().or_else(|| self.new_child_of(job.id))
    }

    /// Returns whether a child of a job has not ended, or none of them was read.
    fn may_have_live_child(&self, job: &Job) -> bool {
        let is_unknown = job.rare().has_dependents && !self.found.dependencies.live_children.contains_key(&job.id);
        is_unknown || self.live_child(job).is_some()
    }

    /// Returns whether a purge will delete a waiting job. It spares those that others wait for.
    fn is_purged(&self, job: &Job) -> bool {
        self.engine.purges.covers(job.spec.queue.number, job.id) && !self.may_have_live_child(job)
    }

    /// Deletes a waiting job that a purge covers, ahead of the purge, and returns whether it did.
    pub(super) fn delete_if_purged(&mut self, job: &Arc<Job>) -> bool {
        if !self.is_purged(job) {
            return false;
        }
        self.delete(job);
        self.engine.purges.deleted_early(job.spec.queue.number);
        true
    }

    /// Keeps an ended job whose retention time is over, because children have not ended.
    pub(super) fn spare(&mut self, job: &Job) {
        self.writes.dependencies.spared.push(job.id);
        self.engine.spared.look_again();
    }

    /// Takes the next step of the walk over the jobs that were spared: deletes those whose children have ended.
    pub(super) fn review_spared(&mut self, want: Option<SparedWant>, now: StoreTime) {
        let Some(SparedWant { limit, .. }) = want else { return };
        let page = std::mem::take(&mut self.found.dependencies.spared);
        let is_cut = page.len() == limit;
        for id in &page {
            let job = self.job(*id).filter(|job| self.is_untouched(*id) && self.is_long_over(job, now));
            if let Some(job) = &job
                && self.live_child(job).is_some()
            {
                continue;
            }
            self.writes.dependencies.unspared.push(*id);
            // One that was retried, or is kept for longer now, is a matter of the sweeps again.
            if let Some(job) = job {
                self.delete(&job);
            }
        }
        let wake = is_cut.then_some(StoreTime::FIRST);
        let after = page.last().copied().filter(|_| is_cut);
        self.engine.spared.next = Some(Walk { after, wake });
    }

    /// Returns whether a job's retention time is over.
    fn is_long_over(&self, job: &Arc<Job>, now: StoreTime) -> bool {
        match self.retention_of(job.spec.queue.number).of(job.state.name()) {
            Some(Keep::For(keep)) => {
                self.engine.names.steps.counted(job.position, job.updated) < now.before(keep)
            }
            Some(Keep::Forever) | None => false,
        }
    }
}
