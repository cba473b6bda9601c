//! Counts of jobs by queue, kind and state, for admission, claims and statistics.

use std::collections::{BTreeSet, HashMap};

use crate::{
    job::{Job, StateName, Tally},
    store::{StoreError, sets::TallyRow},
};

/// A number of jobs and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) jobs: i64,
    pub(super) bytes: i64,
}

impl Usage {
    pub(super) fn add(&mut self, by: Usage) {
        self.jobs += by.jobs;
        self.bytes += by.bytes;
    }
}

/// The key of a count: queue, kind and state.
type TallyKey = (u32, u32, StateName);

/// Counts of the jobs of a queue.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct QueueUsage {
    /// Jobs that have not ended.
    pub(super) live: Usage,
    /// Jobs that occupy a slot.
    pub(super) running: i64,
    /// Jobs that wait for a slot.
    pub(super) ready: i64,
    /// Jobs that wait for an instant.
    pub(super) scheduled: i64,
    /// Jobs that wait for the end of a backoff.
    pub(super) backing_off: i64,
    /// Jobs that wait for the holder of their unique key.
    pub(super) blocked: i64,
    /// All jobs.
    pub(super) all: i64,
}

/// Counts of jobs by queue, kind and state. A batch writes each count that it changes once.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    kept: Counts,
    /// The differences that the batch makes.
    by: Counts,
    /// A recount that replaces `kept` if the batch is committed.
    recount: Option<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    lanes: HashMap<TallyKey, Usage>,
    queues: HashMap<u32, QueueUsage>,
    kinds: HashMap<u32, i64>,
    /// The kinds with ready jobs of each queue that has ready jobs.
    ready: HashMap<u32, BTreeSet<u32>>,
}

impl Counts {
    fn load(rows: &[Tally]) -> Self {
        let mut counts = Counts::default();
        for row in rows {
            let key = (row.queue.number, row.kind.number, row.state);
            counts.add(key, Usage { jobs: row.jobs as i64, bytes: row.bytes as i64 });
            counts.note_ready(key);
        }
        counts
    }

    fn add(&mut self, key: TallyKey, by: Usage) {
        let (queue, kind, state) = key;
        self.lanes.entry(key).or_default().add(by);
        *self.kinds.entry(kind).or_default() += by.jobs;
        let queue = self.queues.entry(queue).or_default();
        queue.all += by.jobs;
        match state {
            StateName::Running | StateName::Cancelling => queue.running += by.jobs,
            StateName::Queued => queue.ready += by.jobs,
            StateName::Scheduled => queue.scheduled += by.jobs,
            StateName::BackingOff => queue.backing_off += by.jobs,
            StateName::Blocked => queue.blocked += by.jobs,
            StateName::Succeeded | StateName::Failed | StateName::Cancelled | StateName::Expired => return,
        }
        queue.live.add(by);
    }

    /// Updates whether the lane has ready jobs.
    fn note_ready(&mut self, (queue, kind, state): TallyKey) {
        if state != StateName::Queued {
            return;
        }
        if self.lanes.get(&(queue, kind, state)).is_some_and(|usage| usage.jobs > 0) {
            self.ready.entry(queue).or_default().insert(kind);
        } else if let Some(kinds) = self.ready.get_mut(&queue) {
            kinds.remove(&kind);
            if kinds.is_empty() {
                self.ready.remove(&queue);
            }
        }
    }

    /// Removes counts that are zero.
    fn tidy(&mut self, key: TallyKey) {
        let (queue, kind, _) = key;
        if self.lanes.get(&key).is_some_and(|usage| usage.jobs == 0) {
            self.lanes.remove(&key);
        }
        if self.queues.get(&queue).is_some_and(|usage| usage.all == 0) {
            self.queues.remove(&queue);
        }
        if self.kinds.get(&kind) == Some(&0) {
            self.kinds.remove(&kind);
        }
    }

    fn clear(&mut self) {
        self.lanes.clear();
        self.queues.clear();
        self.kinds.clear();
    }
}

impl Tallies {
    pub(super) fn load(rows: &[Tally]) -> Self {
        Tallies { kept: Counts::load(rows), ..Tallies::default() }
    }

    /// Replaces all counts by a recount.
    pub(super) fn recount(&mut self, rows: &[Tally]) {
        self.by.clear();
        self.recount = Some(Counts::load(rows));
    }

    fn base(&self) -> &Counts {
        self.recount.as_ref().unwrap_or(&self.kept)
    }

    /// Returns the counts of a queue.
    pub(super) fn queue(&self, queue: u32) -> QueueUsage {
        let mut usage = self.base().queues.get(&queue).copied().unwrap_or_default();
        if let Some(by) = self.by.queues.get(&queue) {
            usage.live.add(by.live);
            usage.running += by.running;
            usage.ready += by.ready;
            usage.scheduled += by.scheduled;
            usage.backing_off += by.backing_off;
            usage.blocked += by.blocked;
            usage.all += by.all;
        }
        usage
    }

    /// Returns the number of jobs of a kind.
    pub(super) fn kind(&self, kind: u32) -> i64 {
        let of = |counts: &Counts| counts.kinds.get(&kind).copied().unwrap_or_default();
        of(self.base()) + of(&self.by)
    }

    /// Returns the number of jobs of a queue, kind and state.
    pub(super) fn lane(&self, queue: u32, kind: u32, state: StateName) -> i64 {
        let of = |counts: &Counts| counts.lanes.get(&(queue, kind, state)).map_or(0, |usage| usage.jobs);
        of(self.base()) + of(&self.by)
    }

    /// Returns the queues that had ready jobs when the batch began.
    pub(super) fn queues_with_ready_jobs(&self) -> impl Iterator<Item = u32> + '_ {
        self.base().ready.keys().copied()
    }

    /// Returns the kinds with ready jobs in a queue when the batch began, by number.
    pub(super) fn ready_kinds(&self, queue: u32) -> impl Iterator<Item = u32> + '_ {
        self.base().ready.get(&queue).into_iter().flatten().copied()
    }

    /// Returns whether a queue had ready jobs of a kind when the batch began.
    pub(super) fn has_ready(&self, queue: u32, kind: u32) -> bool {
        self.base().ready.get(&queue).is_some_and(|kinds| kinds.contains(&kind))
    }

    /// Counts a job's change; `None` means *not in the store*.
    pub(super) fn moved(&mut self, from: Option<&Job>, to: Option<&Job>) {
        let counted = |job: &Job| (job.state.name(), job.spec.bytes);
        if from.map(counted) == to.map(counted) {
            return;
        }
        let key = |job: &Job| (job.spec.queue.number, job.spec.kind.number, job.state.name());
        if let Some(from) = from {
            self.by.add(key(from), Usage { jobs: -1, bytes: -(from.spec.bytes as i64) });
        }
        if let Some(to) = to {
            self.by.add(key(to), Usage { jobs: 1, bytes: to.spec.bytes as i64 });
        }
    }

    /// Returns the queues and kinds whose counts the batch changes.
    pub(super) fn touched(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.by.lanes.keys().map(|(queue, kind, _)| (*queue, *kind))
    }

    /// Returns the rows that the batch changes.
    pub(super) fn rows(&self) -> Result<Vec<TallyRow>, StoreError> {
        let mut rows = Vec::with_capacity(self.by.lanes.len());
        for (key, by) in self.by.lanes.iter().filter(|(_, by)| **by != Usage::default()) {
            let mut usage = self.base().lanes.get(key).copied().unwrap_or_default();
            usage.add(*by);
            if usage.jobs < 0 || usage.bytes < 0 {
                return Err(StoreError::Corrupt(format!("a tally went below zero: {key:?} is {usage:?}")));
            }
            let (queue, kind, state) = *key;
            rows.push(TallyRow { queue, kind, state, jobs: usage.jobs, bytes: usage.bytes });
        }
        Ok(rows)
    }

    /// Takes over the changes of the batch, which is on disk.
    pub(super) fn commit(&mut self) {
        if let Some(recount) = self.recount.take() {
            self.kept = recount;
        }
        let Tallies { kept, by, .. } = self;
        for (key, usage) in &by.lanes {
            kept.add(*key, *usage);
            kept.note_ready(*key);
        }
        for key in by.lanes.keys() {
            kept.tidy(*key);
        }
        by.clear();
    }

    /// Drops the changes of the batch, which was not committed.
    pub(super) fn discard(&mut self) {
        self.recount = None;
        self.by.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Name;

    fn tally(kind: u32, state: StateName, jobs: u64) -> Tally {
        Tally { queue: Name::new(1, "mail"), kind: Name::new(kind, "send"), state, jobs, bytes: 10 * jobs }
    }

    #[test]
    fn a_batch_that_comes_to_nothing_changes_no_count() {
        let mut tallies = Tallies::load(&[tally(1, StateName::Queued, 2), tally(2, StateName::Running, 1)]);
        tallies.by.add((1, 1, StateName::Queued), Usage { jobs: -2, bytes: -20 });
        assert_eq!(tallies.queue(1).ready, 0);
        tallies.discard();
        assert_eq!((tallies.queue(1).ready, tallies.queue(1).running, tallies.kind(1)), (2, 1, 2));
    }

    #[test]
    fn lanes_without_jobs_are_forgotten_once_that_is_on_disk() {
        let mut tallies = Tallies::load(&[tally(1, StateName::Queued, 1)]);
        tallies.by.add((1, 1, StateName::Queued), Usage { jobs: -1, bytes: -10 });
        assert_eq!(tallies.rows().unwrap().len(), 1, "the row goes");
        assert_eq!(tallies.ready_kinds(1).count(), 1, "as long as the batch is under way");
        tallies.commit();
        assert!(
            tallies.kept.lanes.is_empty() && tallies.kept.queues.is_empty() && tallies.kept.ready.is_empty()
        );
        assert_eq!(tallies.kind(1), 0);
    }

    #[test]
    fn a_recount_replaces_what_was_counted() {
        let mut tallies = Tallies::load(&[tally(1, StateName::Queued, 5)]);
        tallies.recount(&[tally(1, StateName::Queued, 3)]);
        tallies.by.add((1, 1, StateName::Queued), Usage { jobs: 1, bytes: 10 });
        assert_eq!(tallies.queue(1).ready, 4);
        tallies.commit();
        assert_eq!(tallies.queue(1).ready, 4);
    }

    #[test]
    fn a_count_below_zero_is_told() {
        let mut tallies = Tallies::default();
        tallies.by.add((1, 1, StateName::Queued), Usage { jobs: -1, bytes: 0 });
        assert!(tallies.rows().is_err());
    }
}
