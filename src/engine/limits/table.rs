//! The limits with their values: what runs under each, and what has been started of its rate.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::Arc,
};

use super::{
    board::LimitView,
    lanes::Lanes,
    rates::{FullAt, ValueTimes},
};
use crate::{
    clock::StoreTime,
    job::{Extras, Job, JobId, Name, Participant, RequestId},
    settings::{LimitInfo, LimitKey, LimitRule},
};

/// A value of a limit: the number of the limit, and the value.
pub(super) type ValueKey = (u32, Arc<str>);

/// What a job needs of a value of a limit to start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Need {
    pub(super) value: ValueKey,
    pub(super) weight: u32,
}

/// A limit, with its overrides and its values.
#[derive(Debug)]
pub(super) struct Limit {
    pub(super) info: Arc<LimitInfo>,
    pub(super) overrides: Arc<BTreeMap<Arc<str>, LimitRule>>,
    /// The total weight of the jobs that run under it.
    pub(super) running: u64,
    /// The values that have running jobs or spent tokens.
    pub(super) values: BTreeMap<Arc<str>, Value>,
}

/// A value of a limit.
#[derive(Debug, Default)]
pub(super) struct Value {
    /// The jobs that run under it, each with its weight.
    holders: BTreeMap<JobId, u32>,
    /// Their total weight.
    pub(super) running: u64,
    /// Weight of the jobs that the claim step has chosen so far.
    chosen: u32,
    pub(super) times: ValueTimes,
}

/// Limit of the pairs of queue and kind of which it is kept which limits concern their jobs.
const COVERAGE_MAX: usize = 10_000;

/// The numbers of the limits that concern the jobs of a queue and a kind, which may have taken over their numbers since.
#[derive(Debug)]
struct Coverage {
    queue: Arc<Name>,
    kind: Arc<Name>,
    limits: Arc<[u32]>,
}

/// All limits that are in force, and the lanes of the jobs that wait for them.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) limits: BTreeMap<u32, Limit>,
    coverage: HashMap<(u32, u32), Coverage>,
    /// Values with spent tokens or a pause, by a time before which these are not over.
    timed: BTreeSet<(FullAt, ValueKey)>,
    pub(super) lanes: Lanes,
    /// Whether any value has a rate.
    has_rates: bool,
    /// The queues whose lanes are being made anew, by name.
    pub(super) renewing: Vec<Arc<str>>,
}

impl Limit {
    /// Returns the rule of a value.
    pub(super) fn rule(&self, value: &str) -> LimitRule {
        self.overrides.get(value).copied().unwrap_or(self.info.spec.rule)
    }
}

impl Value {
    fn is_idle(&self, now: StoreTime) -> bool {
        self.holders.is_empty() && self.chosen == 0 && self.times.are_over(now)
    }

    /// Returns the weight that may start now under a rule.
    fn room(&self, rule: LimitRule, now: StoreTime) -> u32 {
        if self.times.paused_until > now {
            return 0;
        }
        let free = match rule {
            LimitRule::Running(max) => u32::try_from(u64::from(max).saturating_sub(self.running)).unwrap_or(u32::MAX),
            LimitRule::Rate(rate) => self.times.full_at.tokens(rate, now),
        };
        free.saturating_sub(self.chosen)
    }
}

impl Table {
    /// Returns whether there are no limits, and no lanes of former ones.
    pub(super) fn is_unused(&self) -> bool {
        self.limits.is_empty() && self.lanes.is_empty()
    }

    /// Takes note of what the limits are now.
    pub(super) fn defined(&mut self) {
        let is_rate = |rule: &LimitRule| matches!(rule, LimitRule::Rate(_));
        let has_rate = |limit: &Limit| is_rate(&limit.info.spec.rule) || limit.overrides.values().any(is_rate);
        self.has_rates = self.limits.values().any(has_rate);
    }

    /// Returns the numbers of the limits that concern a job.
    fn covering(&mut self, job: &Job) -> Arc<[u32]> {
        let (queue, kind) = (&job.spec.queue, &job.spec.kind);
        let key = (queue.number, kind.number);
        if let Some(known) = self.coverage.get(&key)
            && Arc::ptr_eq(&known.queue, queue)
            && Arc::ptr_eq(&known.kind, kind)
        {
            return Arc::clone(&known.limits);
        }
        if self.coverage.len() >= COVERAGE_MAX {
            self.coverage.clear();
        }
        let covers = |limit: &&Limit| limit.info.spec.covers(queue.as_str(), kind.as_str());
        let limits: Arc<[u32]> = self.limits.values().filter(covers).map(|limit| limit.info.number).collect();
        let (queue, kind) = (Arc::clone(queue), Arc::clone(kind));
        self.coverage.insert(key, Coverage { queue, kind, limits: Arc::clone(&limits) });
        limits
    }

    /// Calls `see` with each limit that concerns a job, the value, and the job's weight.
    fn each_need(&mut self, job: &Job, mut see: impl FnMut(&mut Limit, &str, u32)) {
        if self.limits.is_empty() {
            return;
        }
        let extras = job.spec.extras.as_deref();
        for number in self.covering(job).iter() {
            let Some(limit) = self.limits.get_mut(number) else { continue };
            let info = Arc::clone(&limit.info);
            let value = value_of(&info, job.spec.queue.as_str(), job.spec.kind.as_str(), extras);
            let weight = extras.and_then(|extras| extras.weights.get(&*info.name)).copied().unwrap_or(1);
            if let Some(value) = value {
                see(limit, value, weight);
            }
        }
    }

    /// Returns what a job needs of limits, in the order of their numbers.
    pub(super) fn needs(&mut self, job: &Job) -> Vec<Need> {
        let mut needs = Vec::new();
        self.each_need(job, |limit, value, weight| {
            let known = limit.values.get_key_value(value).map(|(value, _)| Arc::clone(value));
            let value = known.unwrap_or_else(|| value.into());
            needs.push(Need { value: (limit.info.number, value), weight });
        });
        needs
    }

    /// Returns the rule of a value; `None` if the limit does not exist any more.
    pub(super) fn rule(&self, (limit, value): &ValueKey) -> Option<LimitRule> {
        Some(self.limits.get(limit)?.rule(value))
    }

    fn value(&self, (limit, value): &ValueKey) -> Option<&Value> {
        self.limits.get(limit)?.values.get(value)
    }

    /// Returns a value to change; `None` if the limit does not exist any more.
    pub(super) fn value_mut(&mut self, (limit, value): &ValueKey) -> Option<&mut Value> {
        Some(self.limits.get_mut(limit)?.values.entry(Arc::clone(value)).or_default())
    }

    /// Returns the total weight of the jobs that run under a value.
    pub(super) fn running(&self, key: &ValueKey) -> u64 {
        self.value(key).map_or(0, |value| value.running)
    }

    /// Returns the times of a value.
    pub(super) fn times(&self, key: &ValueKey) -> Option<ValueTimes> {
        Some(self.value(key)?.times)
    }

    /// Returns what readers see of a limit.
    pub(super) fn view(&self, limit: &Limit) -> LimitView {
        let covers = |queue: &Arc<str>| limit.info.spec.queues.is_empty() || limit.info.spec.queues.contains(&**queue);
        LimitView {
            info: Arc::clone(&limit.info),
            running: limit.running,
            is_changing: self.renewing.iter().any(covers),
        }
    }

    /// Returns the weight that may start under a value.
    pub(super) fn room(&self, key: &ValueKey, now: StoreTime) -> u32 {
        let Some(rule) = self.rule(key) else { return u32::MAX };
        self.value(key).map_or_else(|| Value::default().room(rule, now), |value| value.room(rule, now))
    }

    /// Returns whether a value, which is not paused, may never hold the weight of a job.
    pub(super) fn is_too_heavy(&self, need: &Need) -> bool {
        self.rule(&need.value).is_some_and(|rule| !rule.is_paused() && rule.heaviest() < need.weight)
    }

    /// Returns the index of the first need for which there is no place.
    pub(super) fn first_full(&self, needs: &[Need], now: StoreTime) -> Option<usize> {
        needs.iter().position(|need| self.room(&need.value, now) < need.weight)
    }

    /// Returns the time at which a place for this weight comes by itself, if that is known.
    pub(super) fn time_of_place(&self, need: &Need, now: StoreTime) -> Option<StoreTime> {
        let times = self.value(&need.value)?.times;
        let of_rule = match self.rule(&need.value)? {
            LimitRule::Running(_) => None,
            LimitRule::Rate(rate) => Some(times.full_at.time_of(rate, need.weight)?),
        };
        of_rule.into_iter().chain(Some(times.paused_until)).max().filter(|at| *at > now)
    }

    /// Counts the places that the claim step gives a job.
    pub(super) fn choose(&mut self, needs: &[Need]) {
        for need in needs {
            if let Some(value) = self.value_mut(&need.value) {
                value.chosen += need.weight;
            }
        }
    }

    /// Ends the claim step: its jobs count from their start on.
    pub(super) fn end_choice(&mut self, chosen: impl Iterator<Item = ValueKey>) {
        for key in chosen {
            if let Some(value) = self.value_mut(&key) {
                value.chosen = 0;
            }
        }
    }

    /// Counts a job that runs.
    pub(super) fn hold(&mut self, job: &Job) {
        self.each_need(job, |limit, text, weight| {
            let value = match limit.values.get_mut(text) {
                Some(value) => value,
                None => limit.values.entry(text.into()).or_default(),
            };
            if value.holders.insert(job.id, weight).is_none() {
                value.running += u64::from(weight);
                limit.running += u64::from(weight);
            }
        });
    }

    /// Takes a job's places back, and forgets values that have nothing else to remember. Returns those that lanes may wait
    /// for.
    pub(super) fn release(&mut self, job: &Job, now: StoreTime) -> Vec<ValueKey> {
        let has_lanes = !self.lanes.is_empty();
        let mut freed = Vec::new();
        self.each_need(job, |limit, text, _| {
            let Some(value) = limit.values.get_mut(text) else { return };
            let Some(weight) = value.holders.remove(&job.id) else { return };
            value.running -= u64::from(weight);
            limit.running -= u64::from(weight);
            let is_idle = value.is_idle(now);
            if has_lanes {
                let key = limit.values.get_key_value(text).map(|(value, _)| (limit.info.number, Arc::clone(value)));
                freed.extend(key);
            }
            if is_idle {
                limit.values.remove(text);
            }
        });
        freed
    }

    /// Takes a job's tokens, or gives them back. Calls `before` with each value and its tokens before.
    pub(super) fn spend(
        &mut self,
        job: &Job,
        now: StoreTime,
        is_start: bool,
        mut before: impl FnMut(ValueKey, ValueTimes),
    ) {
        if !self.has_rates {
            return;
        }
        let mut timed = Vec::new();
        self.each_need(job, |limit, text, weight| {
            let LimitRule::Rate(rate) = limit.rule(text) else { return };
            let known = limit.values.get_key_value(text).map(|(value, _)| Arc::clone(value));
            let key = (limit.info.number, known.unwrap_or_else(|| text.into()));
            let value = limit.values.entry(Arc::clone(&key.1)).or_default();
            let times = value.times;
            value.times.full_at = match is_start {
                true => times.full_at.taken(rate, now, weight),
                false => times.full_at.given_back(rate, weight),
            };
            if times.are_over(now) {
                timed.push((value.times.full_at, ValueKey::clone(&key)));
            }
            before(key, times);
        });
        self.timed.extend(timed);
    }

    /// Sets the times of a value, as stored or as before a batch that was dropped.
    pub(super) fn set_times(&mut self, key: &ValueKey, times: ValueTimes) {
        if let Some(value) = self.value_mut(key) {
            value.times = times;
            self.timed.insert((times.end(), key.clone()));
        }
    }

    /// Returns at most `limit` values whose times are over.
    pub(super) fn over(&mut self, now: StoreTime, limit: usize) -> Vec<ValueKey> {
        let mut over = Vec::new();
        while over.len() < limit && self.timed.first().is_some_and(|(at, _)| at.is_full(now)) {
            let Some((_, key)) = self.timed.pop_first() else { break };
            match self.value(&key).map(|value| value.times).filter(|times| !times.are_over(now)) {
                Some(times) => {
                    self.timed.insert((times.end(), key));
                }
                None => over.push(key),
            }
        }
        over
    }

    /// Forgets a value that has nothing to remember.
    pub(super) fn forget_idle(&mut self, (limit, value): &ValueKey, now: StoreTime) {
        if let Some(limit) = self.limits.get_mut(limit)
            && limit.values.get(value).is_some_and(|value| value.is_idle(now))
        {
            limit.values.remove(value);
        }
    }

    /// Returns the times that values have under other rules than now, where they differ. `rule` returns the new rule of a
    /// value, unless its limit is deleted.
    pub(super) fn owed_under(
        &self,
        now: StoreTime,
        rule: impl Fn(&LimitInfo, &str) -> Option<LimitRule>,
    ) -> Vec<(ValueKey, ValueTimes)> {
        let mut owed = Vec::new();
        for limit in self.limits.values() {
            for (value, state) in &limit.values {
                let Some(LimitRule::Rate(rate)) = rule(&limit.info, value) else { continue };
                let times = ValueTimes { full_at: state.times.full_at.under(rate, now), ..state.times };
                if times != state.times {
                    owed.push(((limit.info.number, Arc::clone(value)), times));
                }
            }
        }
        owed
    }

    /// Counts what runs anew, under other limits than before. The lanes are sorted anew as their jobs are read.
    pub(super) fn recount(&mut self, running: &[Arc<Job>]) {
        self.coverage.clear();
        for limit in self.limits.values_mut() {
            limit.running = 0;
            limit.values.retain(|_, value| value.times != ValueTimes::default());
            for value in limit.values.values_mut() {
                *value = Value { times: value.times, ..Value::default() };
            }
        }
        running.iter().for_each(|job| self.hold(job));
        self.lanes.open_all();
    }

    /// Returns the jobs that run under a value: at most `limit`.
    pub(super) fn holders(&self, key: &ValueKey, limit: usize) -> Vec<JobId> {
        self.value(key).map_or_else(Vec::new, |value| value.holders.keys().take(limit).copied().collect())
    }

    /// Returns the first values of a limit after one: those with an override, and unless only they are wanted, those with
    /// running jobs, spent tokens or lanes.
    pub(super) fn values_after(
        &self,
        limit: &Limit,
        after: Option<&Arc<str>>,
        only_overridden: bool,
        count: usize,
    ) -> Vec<Arc<str>> {
        let from = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let overridden = limit.overrides.range::<Arc<str>, _>(from).map(|(value, _)| value).take(count);
        let mut values: BTreeSet<Arc<str>> = overridden.cloned().collect();
        if !only_overridden {
            values.extend(limit.values.range::<Arc<str>, _>(from).map(|(value, _)| value).take(count).cloned());
            values.extend(self.lanes.values_after(limit.info.number, after).take(count).cloned());
        }
        values.into_iter().take(count).collect()
    }
}

/// Returns the value of a limit under which jobs of a queue and a kind are that it concerns, if they are under any.
pub(super) fn value_of<'j>(
    info: &LimitInfo,
    queue: &'j str,
    kind: &'j str,
    extras: Option<&'j Extras>,
) -> Option<&'j str> {
    match &info.spec.key {
        LimitKey::All => Some(""),
        LimitKey::Queue => Some(queue),
        LimitKey::Kind => Some(kind),
        LimitKey::Label(label) => extras?.labels.get(&**label).map(String::as_str),
    }
}

/// Returns the number of the lane of jobs with these needs, in the turns of a participant.
pub(super) fn lane_of(participant: Participant, needs: &[Need]) -> Participant {
    let mut parts: Vec<Vec<u8>> = vec![participant.0.to_le_bytes().to_vec()];
    for Need { value: (limit, value), weight } in needs {
        parts.push(limit.to_le_bytes().to_vec());
        parts.push(weight.to_le_bytes().to_vec());
        parts.push(value.as_bytes().to_vec());
    }
    let parts: Vec<&[u8]> = std::iter::once(&b"jobmill lane"[..]).chain(parts.iter().map(Vec::as_slice)).collect();
    Participant::lane(RequestId::hash(&parts))
}
