//! How many jobs are where: what admission, claiming and counting go by.

use std::collections::{HashMap, HashSet};

use super::rows::{Lane, Rows, corrupt};
use crate::{
    job::{Job, StateName, Tally},
    store::StoreError,
};

/// Jobs and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) jobs: i64,
    pub(super) bytes: i64,
}

/// Counts of jobs by queue, kind and state, and what follows from them. Changed rows are written once a batch.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    counts: HashMap<(Lane, StateName), Usage>,
    changed: HashSet<(Lane, StateName)>,
    queues: HashMap<u32, QueueUsage>,
}

/// What a queue holds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct QueueUsage {
    /// Jobs that have not ended.
    pub(super) live: Usage,
    /// Jobs that take a slot.
    pub(super) running: i64,
    /// Jobs that wait for a slot.
    pub(super) ready: i64,
}

impl Tallies {
    pub(super) fn load(rows: &[Tally]) -> Self {
        let mut tallies = Tallies::default();
        for row in rows {
            let lane = Lane { queue: row.queue.number, kind: row.kind.number };
            tallies.add(lane, row.state, Usage { jobs: row.jobs as i64, bytes: row.bytes as i64 });
        }
        tallies.changed.clear();
        tallies
    }

    pub(super) fn queue(&self, queue: u32) -> QueueUsage {
        self.queues.get(&queue).copied().unwrap_or_default()
    }

    pub(super) fn ready_in(&self, lane: Lane) -> i64 {
        self.counts.get(&(lane, StateName::Queued)).map_or(0, |usage| usage.jobs)
    }

    /// Counts a job that went from one state to another; `None` is *not in the store*.
    pub(super) fn moved(&mut self, job: &Job, from: Option<StateName>, to: Option<StateName>) {
        if from == to {
            return;
        }
        let lane = Lane { queue: job.spec.queue.number, kind: job.spec.kind.number };
        let bytes = job.spec.bytes as i64;
        if let Some(from) = from {
            self.add(lane, from, Usage { jobs: -1, bytes: -bytes });
        }
        if let Some(to) = to {
            self.add(lane, to, Usage { jobs: 1, bytes });
        }
    }

    fn add(&mut self, lane: Lane, state: StateName, by: Usage) {
        let count = self.counts.entry((lane, state)).or_default();
        count.jobs += by.jobs;
        count.bytes += by.bytes;
        self.changed.insert((lane, state));
        let queue = self.queues.entry(lane.queue).or_default();
        match state {
            StateName::Running | StateName::Cancelling => queue.running += by.jobs,
            StateName::Queued => queue.ready += by.jobs,
            StateName::Scheduled | StateName::BackingOff => {}
            StateName::Succeeded | StateName::Failed | StateName::Cancelled | StateName::Expired => return,
        }
        queue.live.jobs += by.jobs;
        queue.live.bytes += by.bytes;
    }

    /// Writes what has changed since the last call.
    pub(super) fn write(&mut self, rows: &mut impl Rows) -> Result<(), StoreError> {
        for key in self.changed.drain() {
            let usage = self.counts.get(&key).copied().unwrap_or_default();
            if usage.jobs < 0 || usage.bytes < 0 {
                return corrupt(format!("a tally went below zero: {key:?} is {usage:?}"));
            }
            let (lane, state) = key;
            rows.put_tally(lane.queue, lane.kind, state as u8, usage.jobs, usage.bytes)?;
        }
        Ok(())
    }
}
