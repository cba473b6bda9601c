//! The order in which open lanes are read: that of their queue, or in turns.

use std::{
    collections::{HashMap, HashSet},
    ops::Bound,
    sync::Arc,
};

use super::{LaneKey, Lanes, Ordered, end_of};
use crate::{
    engine::limits::table::Need,
    job::{JobId, Participant},
    store::sets::SortKey,
};

impl Lanes {
    /// Returns whether nothing is known yet of the jobs of any lane of these kinds in a queue.
    pub(in crate::engine::limits) fn have_unknown(&self, queue: u32, kinds: &[u32]) -> bool {
        let open = kinds.iter().filter_map(|kind| self.open.get(&(queue, *kind))?.first());
        open.into_iter().any(|(head, _)| is_unknown(head))
    }

    /// Returns the open lanes of these kinds in a queue that come first in its order, or in turns after `last_turn`, each
    /// with what it needs.
    pub(in crate::engine::limits) fn first_open(
        &self,
        queue: u32,
        kinds: &[u32],
        last_turn: Option<Participant>,
        limit: usize,
    ) -> Vec<(SortKey, LaneKey, Arc<[Need]>)> {
        let mut first = Vec::new();
        let has_unknown = self.have_unknown(queue, kinds);
        for kind in kinds {
            let Some(open) = self.open.get(&(queue, *kind)) else { continue };
            let of_kind: Vec<_> = match last_turn {
                // Whose turn the jobs of a lane are is known once they are read.
                _ if has_unknown => {
                    open.iter().take_while(|(head, _)| is_unknown(head)).take(limit).copied().collect()
                }
                Some(last) => in_turns(open, last, limit),
                None => open.iter().take(limit).copied().collect(),
            };
            first.extend(of_kind.into_iter().map(|(head, number)| (head, (queue, *kind, number))));
        }
        match last_turn {
            // Those whose turn comes first, before the second ones of any.
            Some(last) => {
                let mut rounds: HashMap<Participant, usize> = HashMap::new();
                first.sort_unstable();
                let with_round = |lane: (SortKey, LaneKey)| {
                    let round = rounds.entry(lane.0.participant).or_default();
                    *round += 1;
                    ((*round, lane.0.participant <= last), lane)
                };
                let mut by_round: Vec<_> = first.into_iter().map(with_round).collect();
                by_round.sort_unstable();
                first = by_round.into_iter().map(|(_, lane)| lane).collect();
            }
            None => first.sort_unstable(),
        }
        first.truncate(limit);
        let needs = |key| self.all.get(&key).map_or_else(Arc::default, |lane| Arc::clone(&lane.needs));
        first.into_iter().map(|(head, key)| (head, key, needs(key))).collect()
    }

    /// Returns the place of the first open lane of these kinds that is not among those that were read.
    pub(in crate::engine::limits) fn first_unread(&self, queue: u32, kinds: &[u32], read: &HashSet<LaneKey>) -> Option<SortKey> {
        let open = kinds.iter().filter_map(|kind| Some((*kind, self.open.get(&(queue, *kind))?)));
        open.filter_map(|(kind, lanes)| {
            lanes.iter().find(|(_, number)| !read.contains(&(queue, kind, *number))).map(|(head, _)| *head)
        })
        .min()
    }

    /// Returns whether an open lane of these kinds that is not among those that were read begins before a place with a job
    /// of the same participant, or begins with a job that is not known.
    pub(in crate::engine::limits) fn is_unread_before(&self, queue: u32, kinds: &[u32], read: &HashSet<LaneKey>, place: SortKey) -> bool {
        let start = SortKey { rank: i8::MIN, order: i64::MIN, id: JobId::from_raw(i64::MIN), ..place };
        let range = (start, Participant(i64::MIN))..(place, Participant(i64::MIN));
        kinds.iter().filter_map(|kind| Some((*kind, self.open.get(&(queue, *kind))?))).any(|(kind, open)| {
            let is_unread = |(_, number): &&(SortKey, Participant)| !read.contains(&(queue, kind, *number));
            let first = open.iter().find(is_unread);
            first.is_some_and(|(head, _)| is_unknown(head)) || open.range(range.clone()).any(|lane| is_unread(&lane))
        })
    }
}

/// Returns whether it is the place of a lane of whose jobs nothing is known yet.
fn is_unknown(head: &SortKey) -> bool {
    head.order == i64::MIN
}

/// Returns the first lane of the participants after one.
fn first_after(lanes: &Ordered, last: Participant) -> Option<(SortKey, Participant)> {
    lanes.range((Bound::Excluded(end_of(last)), Bound::Unbounded)).next().copied()
}

/// Returns the first lanes in turns after `last`: one of each participant before any has a second one.
fn in_turns(lanes: &Ordered, last: Participant, limit: usize) -> Vec<(SortKey, Participant)> {
    let mut first = Vec::new();
    let mut at = last;
    let mut has_wrapped = false;
    while first.len() < limit {
        match first_after(lanes, at) {
            Some((head, _)) if has_wrapped && head.participant > last => break,
            Some(lane) => {
                at = lane.0.participant;
                first.push(lane);
            }
            None if has_wrapped => break,
            None => (at, has_wrapped) = (Participant(-1), true),
        }
    }
    let mut ends = first.clone();
    while first.len() < limit && !ends.is_empty() {
        let next = |end: &(SortKey, Participant)| {
            let rest = lanes.range((Bound::Excluded(*end), Bound::Unbounded)).next().copied();
            rest.filter(|(head, _)| head.participant == end.0.participant)
        };
        ends = ends.iter().filter_map(next).take(limit - first.len()).collect();
        first.extend(&ends);
    }
    first
}
