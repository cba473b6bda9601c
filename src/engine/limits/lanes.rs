//! Lanes of jobs that wait for places under limits.
//!
//! A ready job for which a limit has no place is moved to the lane of all jobs with the same needs in its queue. A lane is
//! either *open*, so that its jobs are offered slots with all others, or it *waits* for one value that is full. So what
//! waits costs nothing, however many jobs there are, until a place of that value comes free. Memory has the lanes and no
//! jobs; that a lane is open, or exists, is an assumption which the next read of its jobs corrects.

mod order;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Bound,
    sync::Arc,
};

use super::{
    reads::Places,
    table::{Need, ValueKey},
};
use crate::{
    clock::StoreTime,
    job::{JobId, Participant},
    store::sets::SortKey,
};

/// A lane: the numbers of its queue and kind, and its own.
pub(crate) type LaneKey = (u32, u32, Participant);

/// The numbers of a queue and a kind.
type Group = (u32, u32);

/// Limit of the lanes that are moved from one value to another at a time.
const MOVED_MAX: usize = 1_000;

/// A place before all others, and those of a participant behind all others.
const FIRST: SortKey =
    SortKey { participant: Participant(i64::MIN), rank: i8::MIN, order: i64::MIN, id: JobId::from_raw(i64::MIN) };
const LAST: SortKey =
    SortKey { participant: Participant::NONE, rank: i8::MAX, order: i64::MAX, id: JobId::from_raw(i64::MAX) };

/// Lanes in the order of their first jobs.
type Ordered = BTreeSet<(SortKey, Participant)>;

/// A lane.
#[derive(Debug)]
struct Lane {
    /// What each of its jobs needs; empty until its jobs are read.
    needs: Arc<[Need]>,
    /// The place of its first job, or one before it.
    head: SortKey,
    place: LanePlace,
}

/// Where a lane is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum LanePlace {
    /// Its jobs may be offered slots.
    Open,
    /// It waits for a place under one of its needs.
    Waiting(usize),
    /// Its jobs weigh more than a value may hold.
    TooHeavy,
}

/// A value, and a group of lanes that need it.
type ValueGroup = (ValueKey, Group);

/// The number of the lanes of a group that need a value.
#[derive(Clone, Copy, Debug, Default)]
struct LaneCounts {
    open: u32,
    all: u32,
}

/// All lanes.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    all: HashMap<LaneKey, Lane>,
    /// The lanes of each group.
    groups: BTreeMap<Group, BTreeSet<Participant>>,
    open: BTreeMap<Group, Ordered>,
    by_value: BTreeMap<ValueGroup, LaneCounts>,
    /// The lanes that wait for each value, in the order of their first jobs. One list of all takes a fraction of the memory
    /// of one for each value, of which there may be millions.
    waiting: BTreeSet<(ValueGroup, SortKey, Participant)>,
    /// Values for which a place comes by itself.
    timers: BTreeSet<(StoreTime, ValueKey)>,
    /// Lanes that have got jobs in the batch.
    joined: HashSet<LaneKey>,
    /// Lanes that the batch has let wait.
    let_wait: Vec<LaneKey>,
    /// Values under which places may have come free in the batch.
    touched: BTreeSet<ValueKey>,
    /// Whether the batch has opened lanes that jobs have left.
    has_left: bool,
}

impl Lanes {
    /// Loads the lanes that have jobs. What they need is known once their jobs are read.
    pub(super) fn load(keys: &[LaneKey]) -> Self {
        let mut lanes = Lanes::default();
        for key in keys {
            let (_, _, Participant(number)) = *key;
            // Before all other jobs, so that none of them passes those of the lane.
            let head =
                SortKey { participant: Participant::NONE, rank: i8::MIN, order: i64::MIN, id: JobId::from_raw(number) };
            lanes.add(*key, Lane { needs: Arc::default(), head, place: LanePlace::Open });
        }
        lanes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(super) fn has(&self, key: &LaneKey) -> bool {
        self.all.contains_key(key)
    }

    /// Returns whether it is known what the jobs of a lane need.
    pub(super) fn knows(&self, key: &LaneKey) -> bool {
        self.all.get(key).is_some_and(|lane| !lane.needs.is_empty())
    }

    /// Returns whether a lane exists, and its first job may come before a place.
    pub(super) fn is_before(&self, key: &LaneKey, place: SortKey) -> bool {
        self.all.get(key).is_some_and(|lane| lane.head < place)
    }

    /// Returns the queues that have lanes.
    pub(super) fn queues(&self) -> BTreeSet<u32> {
        self.groups.keys().map(|(queue, _)| *queue).collect()
    }

    /// Returns whether any lane needs a value.
    pub(super) fn need(&self, value: &ValueKey) -> bool {
        self.groups_of(value).next().is_some()
    }

    /// Returns the groups that have lanes which need a value.
    fn groups_of(&self, value: &ValueKey) -> impl Iterator<Item = Group> {
        let group = |group| (value.clone(), group);
        self.by_value.range(group((0, 0))..=group((u32::MAX, u32::MAX))).map(|((_, group), _)| *group)
    }

    /// Returns the lanes of a group that wait for a value, from a place on.
    fn waiting_from(
        &self,
        value: &ValueKey,
        group: Group,
        from: Bound<(SortKey, Participant)>,
    ) -> Option<(SortKey, Participant)> {
        let of = |(place, number)| ((value.clone(), group), place, number);
        let from = match from {
            Bound::Unbounded => Bound::Included(of((FIRST, Participant(i64::MIN)))),
            from @ (Bound::Included(_) | Bound::Excluded(_)) => from.map(of),
        };
        let mut rest = self.waiting.range((from, Bound::Included(of(end_of(Participant(i64::MAX))))));
        rest.next().map(|(_, place, number)| (*place, *number))
    }

    /// Returns whether any lane waits for a place under a value.
    pub(super) fn wait_for(&self, value: &ValueKey) -> bool {
        self.groups_of(value).any(|group| self.waiting_from(value, group, Bound::Unbounded).is_some())
    }

    /// Returns the values of a limit that lanes need.
    pub(super) fn values_of(&self, limit: u32) -> Vec<ValueKey> {
        self.values_after(limit, None).map(|value| (limit, Arc::clone(value))).collect()
    }

    /// Returns the values of a limit after one that lanes need.
    pub(super) fn values_after(&self, limit: u32, after: Option<&Arc<str>>) -> impl Iterator<Item = &Arc<str>> {
        let from = match after {
            Some(after) => Bound::Excluded(((limit, Arc::clone(after)), (u32::MAX, u32::MAX))),
            None => Bound::Included(((limit, "".into()), (0, 0))),
        };
        let rest = self.by_value.range((from, Bound::Unbounded)).map(|((value, _), _)| value);
        let mut last: Option<&Arc<str>> = None;
        let values = rest.take_while(move |(number, _)| *number == limit).map(|(_, value)| value);
        values.filter(move |value| last.replace(value) != Some(value))
    }

    /// Adds a lane to the lists of its place, or removes it from them.
    fn put(&mut self, key: LaneKey, is_added: bool) {
        let (queue, kind, number) = key;
        let group = (queue, kind);
        let Some(Lane { needs, head, place }) = self.all.get(&key) else { return };
        let entry = (*head, number);
        let change = |list: &mut Ordered| match is_added {
            true => list.insert(entry),
            false => list.remove(&entry),
        };
        if *place == LanePlace::Open {
            let list = self.open.entry(group).or_default();
            change(list);
            if list.is_empty() {
                self.open.remove(&group);
            }
        }
        for (index, need) in needs.iter().enumerate() {
            let of_value = (need.value.clone(), group);
            let by = if is_added { 1 } else { u32::MAX };
            let is_waiting = *place == LanePlace::Waiting(index);
            let waiting = is_waiting.then(|| (of_value.clone(), *head, number));
            let counts = self.by_value.entry(of_value).or_default();
            counts.all = counts.all.wrapping_add(by);
            if *place == LanePlace::Open {
                counts.open = counts.open.wrapping_add(by);
            }
            if counts.all == 0 {
                self.by_value.remove(&(need.value.clone(), group));
            }
            if let Some(waiting) = waiting {
                match is_added {
                    true => self.waiting.insert(waiting),
                    false => self.waiting.remove(&waiting),
                };
            }
        }
    }

    fn add(&mut self, key: LaneKey, lane: Lane) {
        let (queue, kind, number) = key;
        self.all.insert(key, lane);
        self.groups.entry((queue, kind)).or_default().insert(number);
        self.put(key, true);
    }

    /// Removes a lane, and returns it.
    fn remove(&mut self, key: LaneKey) -> Option<Lane> {
        let (queue, kind, number) = key;
        self.put(key, false);
        let group = self.groups.entry((queue, kind)).or_default();
        group.remove(&number);
        if group.is_empty() {
            self.groups.remove(&(queue, kind));
        }
        self.all.remove(&key)
    }

    /// Changes a lane, and its entries in all lists.
    fn change(&mut self, key: LaneKey, change: impl FnOnce(&mut Lane)) {
        self.put(key, false);
        if let Some(lane) = self.all.get_mut(&key) {
            change(lane);
        }
        self.put(key, true);
    }

    /// Adds a job to a lane that exists. What it needs tells what all jobs of the lane need, if none of them was read yet.
    pub(super) fn join(&mut self, key: LaneKey, needs: &[Need], job: SortKey) {
        self.joined.insert(key);
        let Some(lane) = self.all.get(&key) else { return };
        let (is_first, is_unknown) = (job < lane.head, lane.needs.is_empty());
        if is_first || is_unknown {
            self.change(key, |lane| {
                lane.head = lane.head.min(job);
                if is_unknown {
                    lane.needs = needs.into();
                }
            });
        }
    }

    /// Creates a lane with a job that waits for a place under one of its needs.
    pub(super) fn create(&mut self, key: LaneKey, needs: Vec<Need>, head: SortKey) {
        self.joined.insert(key);
        self.add(key, Lane { needs: needs.into(), head, place: LanePlace::Open });
    }

    /// Takes over what the jobs of a lane need, and the place of the first one, which were read.
    pub(super) fn found(&mut self, key: LaneKey, needs: Vec<Need>, head: SortKey) {
        self.change(key, |lane| {
            if *lane.needs != *needs {
                lane.needs = needs.into();
            }
            lane.head = head;
        });
    }

    /// Takes over the place of the first job of a lane, or one before it.
    pub(super) fn begins(&mut self, key: LaneKey, head: SortKey) {
        let Some(lane) = self.all.get(&key) else { return };
        let head = if self.joined.contains(&key) { head.min(lane.head) } else { head };
        if lane.head != head {
            self.change(key, |lane| lane.head = head);
        }
    }

    /// Lets a lane wait for a place under one of its needs, unless it weighs more than the value may ever hold. The end of
    /// the batch opens it again if the place is there then, and the other needs may have places for other lanes.
    pub(super) fn wait(&mut self, key: LaneKey, gate: usize, is_too_heavy: bool) {
        self.change(key, |lane| {
            lane.place = if is_too_heavy { LanePlace::TooHeavy } else { LanePlace::Waiting(gate) };
        });
        self.let_wait.push(key);
        if let Some(lane) = self.all.get(&key) {
            self.touched.extend(lane.needs.iter().map(|need| need.value.clone()));
        }
    }

    /// Forgets a lane without jobs, unless the batch has added some.
    pub(super) fn emptied(&mut self, key: LaneKey) {
        if self.joined.contains(&key) {
            return;
        }
        if let Some(lane) = self.remove(key) {
            self.touched.extend(lane.needs.iter().map(|need| need.value.clone()));
        }
    }

    /// Opens a lane, whose jobs are read again.
    pub(super) fn look_again(&mut self, key: LaneKey) {
        if self.all.get(&key).is_some_and(|lane| lane.place != LanePlace::Open) {
            self.change(key, |lane| lane.place = LanePlace::Open);
            self.has_left = true;
        }
    }

    /// Notes that a place under a value may have come free.
    pub(super) fn touch(&mut self, value: ValueKey) {
        if self.need(&value) {
            self.touched.insert(value);
        }
    }

    /// Notes the values for which the time of a place has come.
    pub(super) fn touch_due(&mut self, now: StoreTime) {
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, value)) = self.timers.pop_first() {
                self.touch(value);
            }
        }
    }

    /// Returns the time at which the next place comes by itself.
    pub(super) fn next_time(&self) -> Option<StoreTime> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Opens lanes that wait for the values that were touched: in each queue and of each kind, as many as there are
    /// places, those that come first in its order or its turns. Returns whether any was opened.
    pub(super) fn wake(&mut self, places: &impl Places) -> bool {
        let mut has_opened = std::mem::take(&mut self.has_left);
        let mut left = MOVED_MAX;
        while let Some(value) = self.touched.pop_first() {
            let groups: Vec<Group> = self.groups_of(&value).collect();
            if groups.is_empty() {
                continue;
            }
            let room = places.room(&value);
            for group in groups {
                while let Some((number, weight)) = self.next_waiting(&value, group, places.last_turn(group.0)) {
                    let key = (group.0, group.1, number);
                    let need = Need { value: value.clone(), weight };
                    let open = self.by_value.get(&(value.clone(), group)).map_or(0, |counts| counts.open);
                    if places.is_too_heavy(&need) {
                        self.change(key, |lane| lane.place = LanePlace::TooHeavy);
                    } else if open < room && weight <= room {
                        let is_open = self.open_unless_full(key, places);
                        has_opened |= is_open;
                        left -= usize::from(!is_open);
                        if left == 0 {
                            // The next batch goes on.
                            self.touched.insert(value);
                            return true;
                        }
                    } else {
                        // A heavy lane waits until there is enough for it, and those behind it wait with it.
                        let at = if room < weight { places.time_of_place(&need) } else { None };
                        self.timers.extend(at.map(|at| (at, value.clone())));
                        break;
                    }
                }
            }
        }
        has_opened
    }

    /// Opens a lane, or lets it wait for another one of its needs that is full, which costs no read of its jobs. Returns
    /// whether it is open.
    fn open_unless_full(&mut self, key: LaneKey, places: &impl Places) -> bool {
        let full = self.all.get(&key).and_then(|lane| {
            let gate = places.first_full(&lane.needs)?;
            Some((gate, lane.needs.get(gate)?.value.clone()))
        });
        let Some((gate, value)) = full else {
            self.change(key, |lane| lane.place = LanePlace::Open);
            return true;
        };
        self.change(key, |lane| lane.place = LanePlace::Waiting(gate));
        self.let_wait.push(key);
        self.touched.insert(value);
        false
    }

    /// Returns the lane of a group that waits for a value and is to be opened next, with its weight.
    fn next_waiting(
        &self,
        value: &ValueKey,
        group: Group,
        last_turn: Option<Participant>,
    ) -> Option<(Participant, u32)> {
        let first = || self.waiting_from(value, group, Bound::Unbounded);
        let after = last_turn.and_then(|last| self.waiting_from(value, group, Bound::Excluded(end_of(last))));
        let (_, number) = after.or_else(first)?;
        let lane = self.all.get(&(group.0, group.1, number))?;
        let need = lane.needs.iter().find(|need| need.value == *value)?;
        Some((number, need.weight))
    }

    /// Returns the place of the first lane of a queue that waits for a value.
    pub(super) fn first_waiting(&self, value: &ValueKey, queue: u32) -> Option<SortKey> {
        let groups = self.groups_of(value).filter(|(of, _)| *of == queue);
        groups.filter_map(|group| Some(self.waiting_from(value, group, Bound::Unbounded)?.0)).min()
    }

    /// Opens all lanes, because limits have changed. What their jobs need now is known once they are read.
    pub(super) fn open_all(&mut self) {
        let Lanes { all, open, by_value, waiting, timers, .. } = self;
        open.clear();
        by_value.clear();
        waiting.clear();
        timers.clear();
        for ((queue, kind, number), lane) in all {
            lane.place = LanePlace::Open;
            lane.needs = Arc::default();
            open.entry((*queue, *kind)).or_default().insert((lane.head, *number));
        }
    }

    /// Opens the lanes whose jobs weighed too much, because limits allow other weights now.
    pub(super) fn open_too_heavy(&mut self) {
        let is_too_heavy = |(_, lane): &(&LaneKey, &Lane)| lane.place == LanePlace::TooHeavy;
        let keys: Vec<LaneKey> = self.all.iter().filter(is_too_heavy).map(|(key, _)| *key).collect();
        for key in keys {
            self.change(key, |lane| lane.place = LanePlace::Open);
        }
    }

    /// Ends a batch that is on disk. `has_ready` returns whether a queue has ready jobs of a kind: where it has none, the
    /// lanes have none either.
    pub(super) fn commit(&mut self, has_ready: impl Fn(u32, u32) -> bool) {
        let empty: Vec<Group> = self.groups.keys().filter(|(queue, kind)| !has_ready(*queue, *kind)).copied().collect();
        for group in empty {
            for number in self.groups.get(&group).cloned().unwrap_or_default() {
                self.remove((group.0, group.1, number));
            }
        }
        self.joined.clear();
        self.let_wait.clear();
    }

    /// Ends a batch that was dropped: the places for which its lanes wait may be free.
    pub(super) fn discard(&mut self) {
        self.joined.clear();
        for key in std::mem::take(&mut self.let_wait) {
            self.change(key, |lane| lane.place = LanePlace::Open);
        }
    }
}

/// Returns a place behind all lanes of a participant.
fn end_of(participant: Participant) -> (SortKey, Participant) {
    (SortKey { participant, ..LAST }, Participant(i64::MAX))
}
