//! What leaves the store by itself: ended jobs whose time is over, and what is left of deleted ones.
//!
//! Every change of a job takes the feed's next place, so that an ended job's place says when it ended, and the feed's
//! index has the ended jobs in the order of their ends. A sweep walks that index, one for each time for which something
//! is kept: it looks once at each job that has not changed for that time, deletes it if that is the time for which it is
//! kept, and goes past it otherwise. What it has gone past can't come due behind it, because every change takes a job to
//! the feed's end, ahead of every sweep.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Engine, Progressing, TOMBSTONE_LIFE,
    rows::{Pruned, Rows, Unchanged},
};
use crate::{
    clock::StoreTime,
    job::{Job, Position, StateName},
    settings::{Keep, Retention, limits::KEEP_TIMES_MAX},
    store::{
        StoreError,
        batch::{Batch, ControlRefusal},
    },
};

/// So much is looked at in a batch that has nothing else to do,
const BITE_ALONE: usize = 512;
/// and so much in any other one, with twice the jobs that come in: deleting keeps up with them and catches up slowly.
const BITE_BESIDE: usize = 32;
/// Sweeps rest so long once nothing is due, so that a trickle of ends is not a trickle of flushes.
const REST: Duration = Duration::from_secs(1);

/// What is to be deleted when.
#[derive(Debug, Default)]
pub(super) struct Sweeping {
    /// The times that hold where a queue does not say.
    pub(super) server: Retention,
    sweeps: Vec<Sweep>,
    /// When the oldest tombstone is over; absent where there is none.
    tombstones: Option<StoreTime>,
    /// When the request that has been without jobs for longest is over; absent where there is none.
    requests: Option<StoreTime>,
}

/// One walk over the feed's index.
#[derive(Debug)]
struct Sweep {
    keep: Duration,
    /// Everything up to here has been looked at.
    cursor: Position,
    moved: bool,
    /// Nothing is due before; absent where nothing is left to look at.
    wake: Option<StoreTime>,
}

/// There is something to look at.
const AT_ONCE: StoreTime = StoreTime::FIRST;

impl Sweeping {
    pub(super) fn new(server: Retention) -> Self {
        Sweeping { server, ..Sweeping::default() }
    }

    /// When the next thing is to be deleted.
    pub(super) fn wake(&self) -> Option<StoreTime> {
        self.sweeps.iter().filter_map(|sweep| sweep.wake).chain(self.tombstones).chain(self.requests).min()
    }

    /// Takes up the sweeps where they were when they were last written.
    pub(super) fn load(&mut self, kept: &[(Duration, Position)]) {
        self.sweeps = kept
            .iter()
            .map(|(keep, cursor)| Sweep { keep: *keep, cursor: *cursor, moved: false, wake: Some(AT_ONCE) })
            .collect();
        (self.tombstones, self.requests) = (Some(AT_ONCE), Some(AT_ONCE));
    }

    /// What has ended may be older than was known.
    pub(super) fn look_again(&mut self) {
        for sweep in &mut self.sweeps {
            sweep.wake = Some(AT_ONCE);
        }
    }

    /// A job has ended.
    pub(super) fn ended(&mut self, now: StoreTime) {
        for sweep in &mut self.sweeps {
            sweep.wake.get_or_insert_with(|| rested(now.after(sweep.keep), now));
        }
    }

    /// A job was deleted.
    pub(super) fn deleted(&mut self, now: StoreTime) {
        self.tombstones.get_or_insert(now.after(TOMBSTONE_LIFE));
    }

    /// A request has lost its last job.
    pub(super) fn request_gone(&mut self, now: StoreTime) {
        self.requests.get_or_insert(now.after(TOMBSTONE_LIFE));
    }
}

impl Retention {
    /// How long a job is kept that ended in this state; `None` for one that has not ended.
    fn of(&self, state: StateName) -> Option<Keep> {
        match state {
            StateName::Succeeded => Some(self.succeeded),
            StateName::Failed => Some(self.failed),
            StateName::Cancelled => Some(self.cancelled),
            StateName::Expired => Some(self.expired),
            StateName::Scheduled
            | StateName::Queued
            | StateName::Running
            | StateName::BackingOff
            | StateName::Cancelling => None,
        }
    }

    fn times(&self) -> impl Iterator<Item = Duration> + use<> {
        [self.succeeded, self.failed, self.cancelled, self.expired].into_iter().filter_map(
            |keep| match keep {
                Keep::For(time) => Some(time),
                Keep::Forever => None,
            },
        )
    }
}

impl<R: Rows> Engine<R> {
    /// How long a queue's ended jobs are kept.
    pub(super) fn retention_of(&self, queue: u32) -> Retention {
        let own = self.queues.get(&queue).filter(|queue| !queue.deleted);
        own.map_or(self.sweeping.server, |queue| queue.info.settings.retention.over(self.sweeping.server))
    }

    /// Every time for which something is kept, with `changed` in the place of its queue's own.
    fn times(&self, changed: Option<(u32, Retention)>) -> BTreeSet<Duration> {
        let queues = self.queues.iter().filter(|(number, queue)| {
            !queue.deleted && changed.is_none_or(|(changed, _)| changed != **number)
        });
        let mut times: BTreeSet<_> =
            queues.flat_map(|(number, _)| self.retention_of(*number).times()).collect();
        times.extend(self.sweeping.server.times());
        times.extend(changed.into_iter().flat_map(|(_, retention)| retention.times()));
        times
    }

    /// Whether a queue with these times would make too many different ones.
    pub(super) fn too_many_times(&self, queue: u32, retention: Retention) -> Option<ControlRefusal> {
        let times = self.times(Some((queue, retention))).len();
        (times > KEEP_TIMES_MAX).then_some(ControlRefusal::TooManyRetentionTimes(KEEP_TIMES_MAX))
    }

    /// Has one sweep for each time, and begins those anew that may have passed what they would delete now.
    pub(super) fn plan_sweeps(&mut self, anew: impl Fn(Duration) -> bool) -> Result<(), StoreError> {
        let times = self.times(None);
        for sweep in &self.sweeping.sweeps {
            if !times.contains(&sweep.keep) {
                self.rows.delete_sweep(sweep.keep)?;
            }
        }
        self.sweeping.sweeps.retain(|sweep| times.contains(&sweep.keep));
        for keep in times {
            let known = self.sweeping.sweeps.iter_mut().find(|sweep| sweep.keep == keep);
            let begun = Sweep { keep, cursor: Position::default(), moved: false, wake: Some(AT_ONCE) };
            match known {
                Some(_) if !anew(keep) => continue,
                Some(sweep) => *sweep = begun,
                None => self.sweeping.sweeps.push(begun),
            }
            self.rows.put_sweep(keep, Position::default())?;
        }
        Ok(())
    }

    /// A queue's times are now those of its settings, and were `before`.
    pub(super) fn retention_changed(&mut self, queue: u32, before: Retention) -> Result<(), StoreError> {
        let now = self.retention_of(queue);
        if now == before {
            return Ok(());
        }
        self.plan_sweeps(|keep| now.times().any(|time| time == keep))
    }

    /// The next bite of all that is due.
    pub(super) fn retain(
        &mut self,
        mut budget: usize,
        progressing: &mut Progressing,
    ) -> Result<(), StoreError> {
        let now = self.times.retention();
        for index in 0..self.sweeping.sweeps.len() {
            if budget > 0 {
                self.sweep(index, now, &mut budget, progressing)?;
            }
        }
        let old = now.before(TOMBSTONE_LIFE);
        if budget > 0 && self.sweeping.tombstones.is_some_and(|due| due <= now) {
            let Pruned { count, last, next } = self.rows.prune_tombstones(old, budget)?;
            budget = budget.saturating_sub(count);
            progressing.wrote |= count > 0;
            if let Some(floor) = last {
                self.counters.floor = self.counters.floor.max(floor.0);
            }
            self.sweeping.tombstones = next.map(|oldest| rested(oldest.after(TOMBSTONE_LIFE), now));
        }
        if budget > 0 && self.sweeping.requests.is_some_and(|due| due <= now) {
            let Pruned { count, next, .. } = self.rows.prune_requests(old, budget)?;
            progressing.wrote |= count > 0;
            self.sweeping.requests = next.map(|oldest| rested(oldest.after(TOMBSTONE_LIFE), now));
        }
        Ok(())
    }

    /// One step of a sweep.
    fn sweep(
        &mut self,
        index: usize,
        now: StoreTime,
        budget: &mut usize,
        progressing: &mut Progressing,
    ) -> Result<(), StoreError> {
        let due = |sweep: &&Sweep| sweep.wake.is_some_and(|wake| wake <= now);
        let Some(Sweep { keep, cursor, .. }) = self.sweeping.sweeps.get(index).filter(due) else {
            return Ok(());
        };
        let (keep, cursor) = (*keep, *cursor);
        // By when the change happened, and not by what the clock said then.
        let steps = &self.names.steps;
        let is_old = |position, wall| steps.counted(position, wall) < now.before(keep);
        let Unchanged { mut ended, seen, reached, next } = self.rows.unchanged(cursor, &is_old, *budget)?;
        let next = next.map(|(position, wall)| steps.counted(position, wall));
        *budget = budget.saturating_sub(seen);
        // In the order of the table's key: what was accepted together lies together.
        ended.retain(|job| self.is_over(job, keep));
        ended.sort_by_key(|job| job.id);
        for job in &ended {
            self.delete(job, progressing)?;
        }
        let whole = *budget > 0;
        if let Some(sweep) = self.sweeping.sweeps.get_mut(index) {
            sweep.moved |= reached > sweep.cursor;
            sweep.cursor = reached;
            if whole {
                sweep.wake = next.map(|changed| rested(changed.after(keep), now));
            }
        }
        Ok(())
    }

    fn is_over(&self, job: &Job, keep: Duration) -> bool {
        let retention = self.retention_of(job.spec.queue.number);
        retention.of(job.state.name()) == Some(Keep::For(keep))
    }

    /// Writes how far the sweeps have come. What is lost of it is walked again.
    pub(super) fn write_sweeps(&mut self) -> Result<(), StoreError> {
        for sweep in self.sweeping.sweeps.iter_mut().filter(|sweep| sweep.moved) {
            self.rows.put_sweep(sweep.keep, sweep.cursor)?;
            sweep.moved = false;
        }
        Ok(())
    }
}

/// How much of what is due may be looked at beside a batch.
pub(super) fn bite(batch: &Batch) -> usize {
    let jobs: usize = batch.offers.iter().map(|offer| offer.jobs.len()).sum();
    match jobs + batch.reports.len() + batch.controls.len() {
        0 => BITE_ALONE,
        _ => BITE_BESIDE + 2 * jobs,
    }
}

fn rested(due: StoreTime, now: StoreTime) -> StoreTime {
    due.max(now.after(REST))
}
