//! Which jobs get the free slots.
//!
//! A lane holds the ready jobs of one kind in one queue, in their order. A queue's claim merges the heads of its lanes
//! that have a handler here, so that jobs of a kind which nothing runs never stand in the way of others.

use std::collections::{HashMap, VecDeque};

use super::{
    Engine, Pending,
    rows::{Lane, Place, Rows},
};
use crate::{
    job::{JobId, State},
    store::StoreError,
};

/// So many places of a lane are read at a time.
const CHUNK: usize = 64;

/// The jobs that start in this batch.
#[derive(Default)]
pub(super) struct Chosen {
    /// Among those that were ready before.
    pub(super) stored: Vec<JobId>,
    /// Which of the pending ones.
    pub(super) pending: Vec<bool>,
}

/// A lane being read from its head.
struct LaneReader {
    lane: Lane,
    heads: VecDeque<Place>,
    last: Option<Place>,
    exhausted: bool,
}

impl LaneReader {
    fn head(&mut self, rows: &mut impl Rows, wanted: usize) -> Result<Option<Place>, StoreError> {
        if self.heads.is_empty() && !self.exhausted {
            let limit = wanted.clamp(1, CHUNK);
            let mut found = Vec::with_capacity(limit);
            rows.ready(self.lane, self.last, limit, &mut found)?;
            self.exhausted = found.len() < limit;
            self.last = found.last().copied().or(self.last);
            self.heads.extend(found);
        }
        Ok(self.heads.front().copied())
    }
}

impl<R: Rows> Engine<R> {
    /// Fills every queue's free slots from stored and pending jobs together, in the queue's order.
    pub(super) fn choose(&mut self, pending: &[Pending]) -> Result<Chosen, StoreError> {
        let mut chosen = Chosen { stored: Vec::new(), pending: vec![false; pending.len()] };
        let mut ready: HashMap<u32, Vec<usize>> = HashMap::new();
        for (index, pending) in pending.iter().enumerate() {
            let spec = &pending.job.spec;
            if matches!(pending.job.state, State::Queued { .. }) && self.served.contains(&spec.kind.number) {
                ready.entry(spec.queue.number).or_default().push(index);
            }
        }
        let mut queues: Vec<u32> = self
            .queues
            .iter()
            .filter(|(number, queue)| {
                !queue.info.paused
                    && !queue.deleted
                    && (self.tallies.queue(**number).ready > 0 || ready.contains_key(*number))
            })
            .map(|(number, _)| *number)
            .collect();
        // A run can be repeated only if it does not hang on a hash map's order.
        queues.sort_unstable();
        for queue in queues {
            let consumers =
                self.queues.get(&queue).map_or(0, |queue| i64::from(queue.info.settings.consumers));
            let free = usize::try_from(consumers - self.tallies.queue(queue).running).unwrap_or(0);
            if free > 0 {
                let mut fresh = ready.remove(&queue).unwrap_or_default();
                fresh.sort_by_key(|index| pending.get(*index).map(rank));
                self.choose_in(queue, free, &fresh, pending, &mut chosen)?;
            }
        }
        Ok(chosen)
    }

    fn choose_in(
        &mut self,
        queue: u32,
        free: usize,
        fresh: &[usize],
        pending: &[Pending],
        chosen: &mut Chosen,
    ) -> Result<(), StoreError> {
        let mut lanes: Vec<LaneReader> = Vec::new();
        if self.tallies.queue(queue).ready > 0 {
            for kind in &self.served {
                let lane = Lane { queue, kind: *kind };
                if self.tallies.ready_in(lane) > 0 {
                    lanes.push(LaneReader { lane, heads: VecDeque::new(), last: None, exhausted: false });
                }
            }
        }
        let mut fresh = fresh.iter().copied().peekable();
        for taken in 0..free {
            let mut best: Option<(Place, usize)> = None;
            for (index, lane) in lanes.iter_mut().enumerate() {
                if let Some(head) = lane.head(&mut self.rows, free - taken)?
                    && best.is_none_or(|(place, _)| head < place)
                {
                    best = Some((head, index));
                }
            }
            let newcomer = fresh.peek().and_then(|index| pending.get(*index)).map(rank);
            match (best, newcomer) {
                // What was ready before goes first among equals.
                (Some((place, lane)), newcomer) if newcomer.is_none_or(|rank| place.rank <= rank) => {
                    chosen.stored.push(place.id);
                    if let Some(lane) = lanes.get_mut(lane) {
                        lane.heads.pop_front();
                    }
                }
                (_, Some(_)) => {
                    if let Some(chosen) = fresh.next().and_then(|index| chosen.pending.get_mut(index)) {
                        *chosen = true;
                    }
                }
                (_, None) => break,
            }
        }
        Ok(())
    }
}

fn rank(pending: &Pending) -> i8 {
    -pending.job.spec.priority
}
