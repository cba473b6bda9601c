//! Purges: operations that delete the waiting jobs of a queue, one page of its lines at a time.

use std::collections::{BTreeMap, BTreeSet};

use super::{ControlRefusal, ReplySlot, tallies::Tallies};
use crate::{
    job::{JobId, StateName},
    store::sets::{LinePage, LineWant, Purge, PurgeCounts, SortKey, WaitingLine},
};

/// The caller of a purge, with its reply channel.
type PurgeAsk = ReplySlot<PurgeCounts, ControlRefusal>;

/// The purges under way, one for each queue.
#[derive(Debug, Default)]
pub(super) struct Purges {
    kept: BTreeMap<u32, RunningPurge>,
    /// The state of the purges that the batch begins or carries on.
    next: BTreeMap<u32, PurgeProgress>,
    /// Callers that request a purge with the batch.
    asks: Vec<(u32, PurgeAsk)>,
    /// Queue whose purge goes first in the next batch.
    turn: u32,
}

#[derive(Debug)]
struct RunningPurge {
    progress: PurgeProgress,
    asks: Vec<PurgeAsk>,
}

/// The progress of a purge.
#[derive(Clone, Copy, Debug)]
struct PurgeProgress {
    /// The last job that the purge covers.
    last: JobId,
    deleted: u64,
    walk: Walk,
    /// Number of jobs that the present walk has left, because others depend on them.
    skipped: u64,
    /// Number of jobs that were deleted before the present walk.
    deleted_before: u64,
    /// Whether the walk restarts, because the purge was requested again while it was under way.
    begins_anew: bool,
    is_over: bool,
}

impl PurgeProgress {
    fn begin(last: JobId) -> Self {
        PurgeProgress {
            last,
            deleted: 0,
            walk: Walk::BEGIN,
            skipped: 0,
            deleted_before: 0,
            begins_anew: false,
            is_over: false,
        }
    }
}

/// Cursor of a purge's walk over the lines of a queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Walk {
    line: WaitingLine,
    /// The last place that was read in the line; absent at its start.
    after: Option<SortKey>,
}

impl Walk {
    const BEGIN: Walk = Walk { line: WaitingLine::Scheduled, after: None };

    /// Returns the cursor after a page, or `None` after the last possible line.
    pub(super) fn behind(line: WaitingLine, page: &LinePage) -> Option<Self> {
        if page.is_cut {
            return Some(Walk { line, after: page.last });
        }
        let next = match line {
            WaitingLine::Scheduled => WaitingLine::BackingOff,
            WaitingLine::BackingOff => WaitingLine::Blocked,
            WaitingLine::Blocked => WaitingLine::Ready(0),
            WaitingLine::Ready(kind) => WaitingLine::Ready(kind.checked_add(1)?),
        };
        Some(Walk { line: next, after: None })
    }
}

impl Purges {
    /// Loads the purges that were under way. Their callers are gone.
    pub(super) fn load(purges: &[Purge]) -> Self {
        let running = |purge: &Purge| {
            let progress = PurgeProgress { deleted: purge.deleted, ..PurgeProgress::begin(purge.last) };
            (purge.queue, RunningPurge { progress, asks: Vec::new() })
        };
        Purges { kept: purges.iter().map(running).collect(), ..Purges::default() }
    }

    /// Returns whether no purge is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    fn progress(&self, queue: u32) -> Option<PurgeProgress> {
        self.next.get(&queue).or_else(|| self.kept.get(&queue).map(|purge| &purge.progress)).copied()
    }

    /// Returns whether a purge of the queue will delete this waiting job.
    pub(super) fn covers(&self, queue: u32, id: JobId) -> bool {
        self.progress(queue).is_some_and(|purge| !purge.is_over && id <= purge.last)
    }

    /// Plans the pages to read, at most `limit` jobs in all with an equal share for each queue. `begun` are the queues
    /// whose purges the batch may begin.
    pub(super) fn plan(&self, tallies: &Tallies, begun: &BTreeSet<u32>, limit: usize) -> Vec<LineWant> {
        let (before, from) = (self.kept.range(..self.turn), self.kept.range(self.turn..));
        let running = from.chain(before).map(|(queue, purge)| (*queue, purge.progress.walk));
        let new =
            begun.iter().filter(|queue| !self.kept.contains_key(queue)).map(|queue| (*queue, Walk::BEGIN));
        let all: Vec<_> = running.chain(new).collect();
        let share = (limit / all.len().max(1)).max(1);
        let mut wants = Vec::new();
        for (queue, walk) in all.into_iter().take(limit) {
            let mut left = share;
            for (line, jobs) in lines(tallies, queue).filter(|(line, _)| *line >= walk.line) {
                if left == 0 {
                    break;
                }
                let after = walk.after.filter(|_| line == walk.line);
                // One more than the line has, to know that it has ended.
                let limit = (jobs + 1).min(left);
                wants.push(LineWant { queue, line, after, limit });
                left -= limit;
            }
        }
        wants
    }

    /// Returns the purges under way: each queue, and the last job that is covered.
    pub(super) fn running(&self) -> Vec<(u32, JobId)> {
        let queues: BTreeSet<u32> = self.kept.keys().chain(self.next.keys()).copied().collect();
        queues.into_iter().filter_map(|queue| Some((queue, self.progress(queue)?.last))).collect()
    }

    /// Begins a purge of a queue, or extends the one under way to the jobs that wait now.
    pub(super) fn begin(&mut self, queue: u32, last: JobId, ask: PurgeAsk) {
        let begins_anew = self.kept.contains_key(&queue);
        let progress = self.progress(queue).unwrap_or_else(|| PurgeProgress::begin(last));
        let progress = PurgeProgress { last, begins_anew, ..progress };
        self.next.insert(queue, progress);
        self.asks.push((queue, ask));
    }

    /// Adds a caller that waits for the end of a queue's purge. If the purge is not under way any more, the answer is
    /// that no job was deleted.
    pub(super) fn join(&mut self, queue: u32, ask: PurgeAsk) {
        let ended = PurgeProgress { is_over: true, ..PurgeProgress::begin(JobId::from_raw(0)) };
        let progress = self.progress(queue).unwrap_or(ended);
        self.next.insert(queue, progress);
        self.asks.push((queue, ask));
    }

    /// Counts a covered job that was deleted before the walk reached it.
    pub(super) fn deleted_early(&mut self, queue: u32) {
        if let Some(progress) = self.progress(queue) {
            self.next.insert(queue, PurgeProgress { deleted: progress.deleted + 1, ..progress });
        }
    }

    /// Records the jobs that a batch has deleted and those that it has left, and the cursor of its walk. `walk` is `None` if
    /// the batch read no page. A walk that has left some restarts, as long as it has deleted others: they may have been
    /// those for whose sake jobs were left.
    pub(super) fn advance(
        &mut self,
        tallies: &Tallies,
        queue: u32,
        (deleted, skipped): (u64, u64),
        walk: Option<Option<Walk>>,
    ) {
        let Some(mut progress) = self.progress(queue) else { return };
        progress.deleted += deleted;
        progress.skipped += skipped;
        let walk = walk.unwrap_or(Some(progress.walk));
        let is_at_end = !walk.is_some_and(|walk| lines(tallies, queue).any(|(line, _)| line >= walk.line));
        let is_in_vain = progress.skipped == 0 || progress.deleted == progress.deleted_before;
        if std::mem::take(&mut progress.begins_anew) || (is_at_end && !is_in_vain) {
            (progress.walk, progress.skipped, progress.deleted_before) = (Walk::BEGIN, 0, progress.deleted);
            progress.is_over = lines(tallies, queue).next().is_none();
        } else {
            progress.walk = walk.unwrap_or(progress.walk);
            progress.is_over = is_at_end;
        }
        self.next.insert(queue, progress);
    }

    /// Returns the rows that the batch writes: the purges under way, and the ended ones with their number of deleted
    /// jobs.
    pub(super) fn rows(&self) -> (Vec<Purge>, Vec<(u32, PurgeCounts)>) {
        let mut rows = (Vec::new(), Vec::new());
        for (queue, progress) in &self.next {
            let PurgeProgress { last, deleted, skipped, is_over, .. } = *progress;
            let kept = self.kept.get(queue).map(|purge| purge.progress);
            match (is_over, kept) {
                (true, _) => rows.1.push((*queue, PurgeCounts { deleted, skipped })),
                (false, Some(kept)) if (kept.last, kept.deleted) == (last, deleted) => {}
                (false, _) => rows.0.push(Purge { queue: *queue, last, deleted }),
            }
        }
        rows
    }

    /// Takes over the changes of the batch, which is on disk. Returns the decided requests of ended purges.
    pub(super) fn commit(&mut self) -> Vec<PurgeAsk> {
        let mut asks = std::mem::take(&mut self.asks);
        let mut answered = Vec::new();
        for (queue, progress) in std::mem::take(&mut self.next) {
            let mut running = self.kept.remove(&queue).map(|purge| purge.asks).unwrap_or_default();
            running.extend(asks.extract_if(.., |(asked, _)| *asked == queue).map(|(_, ask)| ask));
            if progress.is_over {
                let PurgeProgress { deleted, skipped, .. } = progress;
                running.iter_mut().for_each(|ask| ask.decide(Ok(PurgeCounts { deleted, skipped })));
                answered.append(&mut running);
            } else {
                self.kept.insert(queue, RunningPurge { progress, asks: running });
            }
        }
        let next = self.kept.range(self.turn.saturating_add(1)..).next();
        self.turn = next.map_or(0, |(queue, _)| *queue);
        answered
    }

    /// Drops the changes of the batch, which was not committed. Returns the purge requests that came with it.
    pub(super) fn discard(&mut self) -> Vec<PurgeAsk> {
        self.next.clear();
        self.asks.drain(..).map(|(_, ask)| ask).collect()
    }
}

/// Returns the lines of a queue with waiting jobs, in the order of a purge's walk, each with its number of jobs.
fn lines(tallies: &Tallies, queue: u32) -> impl Iterator<Item = (WaitingLine, usize)> + '_ {
    let usage = tallies.queue(queue);
    let timed = [
        (WaitingLine::Scheduled, usage.scheduled),
        (WaitingLine::BackingOff, usage.backing_off),
        (WaitingLine::Blocked, usage.blocked),
    ];
    let lane = move |kind| (WaitingLine::Ready(kind), tallies.lane(queue, kind, StateName::Queued));
    let lines = timed.into_iter().chain(tallies.ready_kinds(queue).map(lane));
    lines.filter_map(|(line, jobs)| Some((line, usize::try_from(jobs).ok().filter(|jobs| *jobs > 0)?)))
}
