//! Limits of the jobs that run at once, or start in a time.
//!
//! What runs under a value is what the running jobs need of it: nothing else is counted, so that the count can't drift,
//! and a start has it from the running jobs that it finds. Only the tokens of rates are stored. The claim step asks for
//! places; a job that starts or ends takes and frees them with its own change (`follow.rs`). What has no place waits in
//! lanes.

mod board;
mod changes;
mod claims;
mod commit;
mod lanes;
mod rates;
mod reads;
mod refusals;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

pub(super) use self::{claims::LanesRead, lanes::LaneKey};
pub use self::{
    board::{LimitBoard, LimitValueView, LimitView, LimitWait},
    changes::{LimitAction, LimitDone},
    refusals::LimitRefusal,
};
use self::{
    lanes::Lanes,
    rates::{FullAt, ValueTimes},
    table::{Need, Table, ValueKey, lane_of, value_of},
};
use crate::{
    clock::StoreTime,
    job::{Job, Participant, State},
    settings::{LimitInfo, LimitRule},
    store::{
        Names,
        sets::{LimitValueRow, LimitWrites, LoadedLimits, SortKey},
    },
};

/// Number of the values with spent tokens that a batch forgets at most because the tokens have come back, beside those that
/// it adds.
const FILLED_MAX: usize = 64;
/// Number of further jobs that are read where jobs had no places in the batch before, at first and at most.
const AHEAD: (usize, usize) = (16, 512);

/// What all limits say.
type Definitions = BTreeMap<Arc<str>, Definition>;

/// What a limit says, with its overrides.
#[derive(Clone, Debug)]
struct Definition {
    info: Arc<LimitInfo>,
    overrides: Arc<BTreeMap<Arc<str>, LimitRule>>,
}

/// All limits.
#[derive(Debug)]
pub(super) struct LimitBook {
    board: Arc<LimitBoard>,
    /// Whether there are no limits, and no lanes of former ones.
    is_unused: bool,
    kept: Definitions,
    /// The same with the batch's changes, if there are any.
    next: Option<Definitions>,
    /// The rows that the batch changes, apart from rates.
    changes: LimitWrites,
    last_number: u32,
    /// The present time.
    now: StoreTime,
    /// The jobs that have started (`true`) or ended in the batch.
    moved: Vec<(Arc<Job>, bool)>,
    /// The values whose times the batch has changed, with those before.
    spent: BTreeMap<ValueKey, ValueTimes>,
    /// The values that the batch forgets, because their tokens have come back.
    filled: Vec<ValueKey>,
    /// The weight that the batch is foreseen to free under values, by the ends of jobs.
    freed: BTreeMap<ValueKey, u32>,
    /// The values whose overrides the batch changes.
    changed_values: Vec<ValueKey>,
    /// The values of which the claim step has given places.
    chosen: BTreeSet<ValueKey>,
    /// The lanes of which the batch has read all jobs.
    whole: BTreeSet<LaneKey>,
    /// Number of further jobs to read for each queue in which jobs had no places.
    ahead: BTreeMap<u32, usize>,
}

/// What a job lacks: its needs, and the index of the one for which there is no place.
#[derive(Debug)]
pub(super) struct Lack {
    needs: Vec<Need>,
    gate: usize,
    /// Whether there are places, and only the turn of jobs that wait for them is first.
    pub(super) is_behind: bool,
}

impl LimitBook {
    /// Loads the stored limits, and counts the jobs that ran before the start.
    pub(super) fn load(
        loaded: &LoadedLimits,
        running: &[Arc<Job>],
        names: &Arc<Names>,
        now: StoreTime,
    ) -> Self {
        let mut kept = Definitions::new();
        for info in &loaded.limits {
            let of_limit = loaded.overrides.iter().filter(|(limit, ..)| *limit == info.number);
            let overrides = of_limit.map(|(_, value, rule)| (Arc::clone(value), *rule)).collect();
            let info = Arc::new(info.clone());
            kept.insert(Arc::clone(&info.name), Definition { info, overrides: Arc::new(overrides) });
        }
        let mut book = LimitBook {
            board: Arc::new(LimitBoard::new(Arc::clone(names))),
            is_unused: true,
            last_number: last_number(loaded),
            kept,
            next: None,
            changes: LimitWrites::default(),
            now,
            moved: Vec::new(),
            spent: BTreeMap::new(),
            filled: Vec::new(),
            freed: BTreeMap::new(),
            changed_values: Vec::new(),
            chosen: BTreeSet::new(),
            whole: BTreeSet::new(),
            ahead: BTreeMap::new(),
        };
        let board = Arc::clone(&book.board);
        let mut table = board.table();
        table.lanes = Lanes::load(&loaded.lanes);
        book.define(&mut table, || running.to_vec());
        for LimitValueRow { limit, value, times } in &loaded.values {
            let (full_at, paused_until) = times.unwrap_or_default();
            let times = ValueTimes { full_at: FullAt(full_at), paused_until };
            table.set_times(&(*limit, Arc::clone(value)), times);
        }
        drop(table);
        book
    }

    /// Returns what readers outside the engine see.
    pub(super) fn board(&self) -> &Arc<LimitBoard> {
        &self.board
    }

    /// Returns whether the batch changes limits. It starts no job then.
    pub(super) fn are_changing(&self) -> bool {
        self.next.is_some()
    }

    /// Returns whether there is nothing to ask.
    pub(super) fn is_unused(&self) -> bool {
        self.is_unused
    }

    /// Returns the time at which the next place comes by itself.
    pub(super) fn wake(&self) -> Option<StoreTime> {
        if self.is_unused { None } else { self.board.table().lanes.next_time() }
    }

    /// Records that a job has started or ended, or neither.
    pub(super) fn changed(&mut self, before: Option<&Job>, job: &Arc<Job>) {
        if self.is_unused {
            return;
        }
        let ran = before.is_some_and(|before| before.state.lease().is_some());
        match (ran, job.state.lease().is_some()) {
            (false, true) => {
                self.moved.push((Arc::clone(job), true));
                self.board.table().hold(job);
                self.spend(job, true);
            }
            (true, false) => {
                self.ended(job);
                // An attempt that never started gives its tokens back, too.
                if before.is_some_and(|before| before.rare().never_started < job.rare().never_started) {
                    self.spend(job, false);
                }
            }
            (false, false) => self.left(before, job),
            (true, true) => {}
        }
    }

    /// Records the deletion of a job that does not run.
    pub(super) fn deleted(&mut self, job: &Job) {
        if !self.is_unused {
            self.look_again(job);
        }
    }

    fn left(&mut self, before: Option<&Job>, job: &Job) {
        if let Some(before) = before
            && before.state != job.state
        {
            self.look_again(before);
        }
    }

    /// Opens the lane that a job has left without a start: it may be empty now, and no others wait for its sake.
    fn look_again(&mut self, before: &Job) {
        if let State::Queued { participant, .. } = before.state
            && participant.is_lane()
        {
            let key = (before.spec.queue.number, before.spec.kind.number, participant);
            self.board.table().lanes.look_again(key);
        }
    }

    /// Records the end of a job whose row was set aside.
    pub(super) fn lost(&mut self, job: &Arc<Job>) {
        if !self.is_unused {
            self.ended(job);
        }
    }

    fn ended(&mut self, job: &Arc<Job>) {
        self.moved.push((Arc::clone(job), false));
        let mut table = self.board.table();
        for value in table.release(job, self.now) {
            table.lanes.touch(value);
        }
    }

    fn spend(&mut self, job: &Job, is_start: bool) {
        let LimitBook { board, spent, now, .. } = self;
        let mut table = board.table();
        let mut given_back = Vec::new();
        table.spend(job, *now, is_start, |value, before| {
            if !is_start {
                given_back.push(value.clone());
            }
            spent.entry(value).or_insert(before);
        });
        given_back.into_iter().for_each(|value| table.lanes.touch(value));
    }

    /// Gives a job places in the claim step, if all of its limits have them. `place` is its place among the jobs of its
    /// queue.
    pub(super) fn choose(&mut self, job: &Job, place: SortKey, is_fair: bool) -> Result<(), Lack> {
        if self.is_unused {
            return Ok(());
        }
        let table = &mut *self.board.table();
        let needs = table.needs(job);
        if needs.is_empty() {
            return Ok(());
        }
        if let Some(gate) = table.first_full(&needs, self.now) {
            return Err(Lack { needs, gate, is_behind: false });
        }
        let is_in_lane = matches!(job.state, State::Queued { participant, .. } if participant.is_lane());
        if !is_in_lane && !table.lanes.is_empty() {
            let queue = job.spec.queue.number;
            // It does not pass those that wait for the same, whose turn comes with the next batch.
            let is_behind = |need: &Need| {
                let first = table.lanes.first_waiting(&need.value, queue);
                first.is_some_and(|first| is_fair || first < place)
            };
            let key = lane_key(job, place, &needs);
            let gate = match needs.iter().position(is_behind) {
                None if table.lanes.is_before(&key, place) && !self.whole.contains(&key) => Some(0),
                gate => gate,
            };
            if let Some(gate) = gate {
                return Err(Lack { needs, gate, is_behind: true });
            }
        }
        table.choose(&needs);
        self.chosen.extend(needs.into_iter().map(|need| need.value));
        Ok(())
    }

    /// Lets nothing start under a job's value of a limit for a time. A limit that does not exist, or does not concern the
    /// job, is left alone.
    pub(super) fn pause(&mut self, limit: &str, job: &Job, time: Duration) {
        let Some(info) = self.kept.get(limit).map(|definition| Arc::clone(&definition.info)) else {
            tracing::warn!(limit, job = %job.id, "an attempt pauses a limit that does not exist");
            return;
        };
        let (queue, kind) = (job.spec.queue.as_str(), job.spec.kind.as_str());
        let value = value_of(&info, queue, kind, job.spec.extras.as_deref());
        let Some(value) = value.filter(|_| info.spec.covers(queue, kind)) else {
            tracing::warn!(limit, job = %job.id, "an attempt pauses a limit that does not concern its job");
            return;
        };
        let key = (info.number, value.into());
        let mut table = self.board.table();
        let before = table.times(&key).unwrap_or_default();
        let paused_until = before.paused_until.max(self.now.after(time));
        table.set_times(&key, ValueTimes { paused_until, ..before });
        self.spent.entry(key).or_insert(before);
    }

    /// Ends the claim step.
    fn end_choice(&mut self) {
        self.whole.clear();
        let chosen = std::mem::take(&mut self.chosen);
        self.board.table().end_choice(chosen.into_iter());
    }

    /// Moves a ready job that lacks a place to its lane. Returns the lane, unless the job is there.
    pub(super) fn let_wait(&mut self, job: &Job, place: SortKey, lack: Lack) -> Option<Participant> {
        let Lack { needs, gate, .. } = lack;
        let table = &mut *self.board.table();
        let key = lane_key(job, place, &needs);
        let State::Queued { participant, .. } = job.state else { return None };
        let is_there = participant == key.2;
        match (table.lanes.has(&key), is_there) {
            (true, false) => {
                // The lane stays where its first job belongs.
                table.lanes.join(key, &needs, place);
                needs.into_iter().for_each(|need| table.lanes.touch(need.value));
                return Some(key.2);
            }
            (true, true) => table.lanes.found(key, needs.clone(), place),
            (false, _) => table.lanes.create(key, needs.clone(), place),
        }
        Self::wait(table, key, &needs, gate);
        (!is_there).then_some(key.2)
    }

    fn wait(table: &mut Table, key: LaneKey, needs: &[Need], gate: usize) {
        let Some(need) = needs.get(gate) else { return };
        let is_too_heavy = table.is_too_heavy(need);
        table.lanes.wait(key, gate, is_too_heavy);
    }

    /// Returns the lane in which a job that becomes ready and does not start waits, if it is to wait in one, and whether
    /// its limits have places for it all the same.
    fn lane_of_new(&mut self, job: &Job, place: SortKey) -> Option<(Participant, bool)> {
        if self.is_unused || self.are_changing() {
            return None;
        }
        let table = &mut *self.board.table();
        let needs = table.needs(job);
        if needs.is_empty() {
            return None;
        }
        let key = lane_key(job, place, &needs);
        let gate = table.first_full(&needs, self.now);
        if table.lanes.has(&key) {
            table.lanes.join(key, &needs, place);
            if gate.is_none() {
                // The lane may be assumed to wait, or to have no jobs.
                needs.iter().for_each(|need| table.lanes.touch(need.value.clone()));
            }
            return Some((key.2, gate.is_none()));
        }
        let gate = gate?;
        table.lanes.create(key, needs.clone(), place);
        Self::wait(table, key, &needs, gate);
        Some((key.2, false))
    }

    /// Takes over what the jobs of a lane need, of which the first one was read.
    fn lane_found(&mut self, key: LaneKey, first: &Job, place: SortKey) {
        let table = &mut *self.board.table();
        let needs = table.needs(first);
        table.lanes.found(key, needs, place);
    }

    /// Notes that all jobs of a lane were read, and are offered slots in their order.
    fn lane_is_whole(&mut self, key: LaneKey) {
        self.whole.insert(key);
    }

    /// Takes over the place of the first job of a lane, or one before it.
    fn lane_begins(&mut self, key: LaneKey, place: SortKey) {
        self.board.table().lanes.begins(key, place);
    }

    /// Forgets a lane that has no jobs.
    fn lane_emptied(&mut self, key: LaneKey) {
        self.board.table().lanes.emptied(key);
    }

    /// Returns the place of the first job of these kinds that is in an open lane and may not have been read.
    pub(super) fn first_unread(&self, queue: u32, kinds: &[u32], read: &LanesRead) -> Option<SortKey> {
        if self.is_unused {
            return None;
        }
        let unread = self.board.table().lanes.first_unread(queue, kinds, read.keys());
        unread.into_iter().chain(read.rests(queue).iter().copied()).min()
    }

    /// Returns whether a job of a fair queue would pass one of its participant in a lane that is open and was not read.
    pub(super) fn passes_unread(&self, queue: u32, kinds: &[u32], read: &LanesRead, place: SortKey) -> bool {
        let rests = read.rests(queue);
        rests.iter().any(|rest| rest.participant == place.participant && *rest < place)
            || self.board.table().lanes.is_unread_before(queue, kinds, read.keys(), place)
    }

    /// Returns whether it is known what the jobs of a lane need.
    fn knows_lane(&self, key: LaneKey) -> bool {
        self.board.table().lanes.knows(&key)
    }
}

/// Returns the key of the lane of a job.
fn lane_key(job: &Job, place: SortKey, needs: &[Need]) -> LaneKey {
    (job.spec.queue.number, job.spec.kind.number, lane_of(place.participant, needs))
}

/// Returns the largest number of a limit that any row has, also where that of the limit could not be read.
fn last_number(loaded: &LoadedLimits) -> u32 {
    let limits = loaded.limits.iter().map(|info| info.number);
    let overrides = loaded.overrides.iter().map(|(limit, ..)| *limit);
    limits.chain(overrides).chain(loaded.values.iter().map(|row| row.limit)).max().unwrap_or_default()
}
