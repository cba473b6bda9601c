//! The lanes that a batch reads: those with places, as far as slots are free.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    AHEAD, LimitBook,
    table::{Need, Table, ValueKey},
};
use crate::{
    clock::StoreTime,
    engine::turns::Turns,
    job::{Job, Participant},
    settings::LimitRule,
    store::sets::LaneWant,
};

/// Number of the lanes that a batch reads of those of which nothing is known yet, after a start.
const UNKNOWN_READ: usize = 512;

/// What lanes ask of limits.
pub(super) trait Places {
    /// Returns the weight that may start under a value.
    fn room(&self, value: &ValueKey) -> u32;

    /// Returns the index of the first need for which there is no place.
    fn first_full(&self, needs: &[Need]) -> Option<usize>;

    /// Returns whether a value, which is not paused, may never hold this weight.
    fn is_too_heavy(&self, need: &Need) -> bool;

    /// Returns the time at which a place comes by itself, if that is known.
    fn time_of_place(&self, need: &Need) -> Option<StoreTime>;

    /// Returns the participant that had the last turn in a queue, if it is fair.
    fn last_turn(&self, queue: u32) -> Option<Participant>;
}

/// The places at present, with those that ends of jobs are foreseen to free.
struct Present<'t> {
    table: &'t Table,
    freed: &'t BTreeMap<ValueKey, u32>,
    turns: &'t Turns,
    now: StoreTime,
}

impl Places for Present<'_> {
    fn room(&self, value: &ValueKey) -> u32 {
        foreseen_room(self.table, self.freed, value, self.now)
    }

    fn first_full(&self, needs: &[Need]) -> Option<usize> {
        needs.iter().position(|need| self.room(&need.value) < need.weight)
    }

    fn is_too_heavy(&self, need: &Need) -> bool {
        self.table.is_too_heavy(need)
    }

    fn time_of_place(&self, need: &Need) -> Option<StoreTime> {
        self.table.time_of_place(need, self.now)
    }

    fn last_turn(&self, queue: u32) -> Option<Participant> {
        self.turns.last(queue)
    }
}

impl LimitBook {
    /// Begins a batch.
    pub(in crate::engine) fn begin_batch(&mut self, now: StoreTime) {
        self.now = now;
        if !self.is_unused {
            self.board.table().lanes.touch_due(now);
        }
    }

    /// Opens lanes for the places that have come free. Returns whether any was opened.
    pub(in crate::engine) fn wake_lanes(&mut self, turns: &Turns) -> bool {
        if self.is_unused {
            return false;
        }
        self.freed.clear();
        self.open_lanes(turns)
    }

    fn open_lanes(&self, turns: &Turns) -> bool {
        let table = &mut *self.board.table();
        let mut lanes = std::mem::take(&mut table.lanes);
        let has_opened = lanes.wake(&Present { table, freed: &self.freed, turns, now: self.now });
        table.lanes = lanes;
        has_opened
    }

    /// Opens lanes for the places that these jobs will free as they end in the batch.
    pub(in crate::engine) fn foresee_ends<'j>(&mut self, ending: impl Iterator<Item = &'j Arc<Job>>, turns: &Turns) {
        if self.is_unused {
            return;
        }
        self.freed.clear();
        let mut table = self.board.table();
        if !table.lanes.is_empty() {
            for job in ending {
                for Need { value, weight } in table.needs(job) {
                    if table.lanes.need(&value) && matches!(table.rule(&value), Some(LimitRule::Running(_))) {
                        table.lanes.touch(value.clone());
                        *self.freed.entry(value).or_default() += weight;
                    }
                }
            }
        }
        drop(table);
        self.open_lanes(turns);
    }

    /// Plans the reads of lanes of a queue for free slots.
    pub(in crate::engine) fn plan(
        &mut self,
        queue: u32,
        kinds: &[u32],
        last_turn: Option<Participant>,
        slots: usize,
        leaves_suspects_out: impl Fn(u32) -> bool,
    ) -> Vec<LaneWant> {
        let table = &mut *self.board.table();
        let mut left = slots.saturating_add(self.ahead.get(&queue).copied().unwrap_or_default());
        if table.lanes.have_unknown(queue, kinds) {
            // None of the queue's jobs starts before these lanes are known.
            left = left.max(UNKNOWN_READ);
        }
        let (mut wants, mut full) = (Vec::new(), Vec::new());
        for (_, (queue, kind, lane), needs) in table.lanes.first_open(queue, kinds, last_turn, left) {
            if left == 0 {
                break;
            }
            let room = |need: &Need| foreseen_room(table, &self.freed, &need.value, self.now) / need.weight.max(1);
            // What was free as the lane was opened may be taken.
            if let Some(gate) = needs.iter().position(|need| room(need) == 0) {
                full.push(((queue, kind, lane), gate));
                continue;
            }
            let rooms = needs.iter().map(room).min().unwrap_or_default();
            // One more than can start tells whether there are more.
            let limit = (rooms as usize).saturating_add(1);
            left = left.saturating_sub(limit);
            wants.push(LaneWant { queue, kind, lane, leaves_suspects_out: leaves_suspects_out(kind), limit });
        }
        full.into_iter().for_each(|(key, gate)| table.lanes.wait(key, gate, false));
        wants
    }

    /// Returns the number of further jobs to read in a queue.
    pub(in crate::engine) fn ahead(&self, queue: u32) -> usize {
        self.ahead.get(&queue).copied().unwrap_or_default()
    }

    /// Adapts the number of further jobs to read to whether jobs had no places.
    pub(in crate::engine) fn set_ahead(&mut self, queue: u32, has_blocked: bool) {
        let before = self.ahead.remove(&queue).unwrap_or_default();
        if has_blocked {
            self.ahead.insert(queue, (before * 2).clamp(AHEAD.0, AHEAD.1));
        }
    }
}

/// Returns the weight that may start under a value once the foreseen ends have freed theirs.
fn foreseen_room(table: &Table, freed: &BTreeMap<ValueKey, u32>, value: &ValueKey, now: StoreTime) -> u32 {
    let (Some(LimitRule::Running(max)), Some(freed)) = (table.rule(value), freed.get(value)) else {
        return table.room(value, now);
    };
    // Under a limit that was lowered there may be too many even then.
    let left = table.running(value).saturating_sub(u64::from(*freed));
    u32::try_from(u64::from(max).saturating_sub(left)).unwrap_or(u32::MAX)
}
