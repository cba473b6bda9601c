//! Limits: what runs under a value never exceeds them, what starts has tokens, and what has places does not wait for them.

use std::collections::{BTreeMap, HashMap};

use jobmill::{
    engine::{ControlRefusal, LimitAction, LimitRefusal, OfferRefusal},
    job::{Job, JobId, State, StateName},
    settings::{LimitKey, LimitRule, LimitSpec, Rate},
};

use super::{
    batch::Offered,
    ledger::{Causes, Known, Ledger, Violation, promise},
    times::{TimePoint, Times},
};
use crate::store::batch::ControlDone;

/// Number of batches after a change of limits in which jobs may still wait in the lanes of former ones.
const BATCHES_OF_SORTING: usize = 5;
/// Tolerance in sums of tokens.
const ROUNDED: f64 = 1e-6;

/// A limit's name, and one of its values.
type Value = (String, String);

/// A limit, as the answers to its changes tell.
#[derive(Clone, Debug)]
struct Told {
    spec: LimitSpec,
    overrides: BTreeMap<String, LimitRule>,
}

/// What a job says for limits.
#[derive(Clone, Debug, Default)]
pub(crate) struct Words {
    labels: BTreeMap<String, String>,
    weights: BTreeMap<String, u32>,
}

/// All limits at a moment, with the total weight that runs under each value.
#[derive(Clone, Debug, Default)]
struct Moment {
    told: BTreeMap<String, Told>,
    running: HashMap<Value, u64>,
    /// The tokens that a value has at least, under the rate that it has.
    tokens: HashMap<Value, (Rate, f64)>,
}

/// The tokens of a value.
#[derive(Clone, Debug)]
struct Bucket {
    rate: Rate,
    /// What was taken or, below zero, given back since the bucket was full at the most.
    taken: Vec<(TimePoint, i64)>,
    /// The tokens that it had at least, at a moment.
    least: (TimePoint, f64),
    /// Whether it never had another rate.
    is_exact: bool,
}

/// What is known of limits.
#[derive(Default)]
pub(crate) struct Limits {
    now: Moment,
    /// The same before the batch.
    earlier: Moment,
    /// The jobs that ran before it.
    ran: Vec<Known>,
    buckets: HashMap<Value, Bucket>,
    /// Number of batches in which jobs may still be sorted by former limits.
    sorting: usize,
    /// Numbers of starts under limits, of those that took tokens, and of waiting jobs for which there was no place.
    pub(crate) done: (usize, usize, usize),
}

/// What limits have to do with a job that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    /// Whether it may lack a place.
    pub(super) may_lack: bool,
    /// Whether others may have started before it for the sake of limits.
    pub(super) may_be_passed: bool,
}

impl Told {
    fn value(&self, job: &Known) -> Option<String> {
        let value = match &self.spec.key {
            LimitKey::All => String::new(),
            LimitKey::Queue => job.queue.clone(),
            LimitKey::Kind => job.kind.clone(),
            LimitKey::Label(label) => job.words.labels.get(&**label)?.clone(),
        };
        let covers = |names: &std::collections::BTreeSet<String>, name: &String| {
            names.is_empty() || names.contains(name)
        };
        (covers(&self.spec.queues, &job.queue) && covers(&self.spec.kinds, &job.kind)).then_some(value)
    }

    fn rule(&self, value: &str) -> LimitRule {
        self.overrides.get(value).copied().unwrap_or(self.spec.rule)
    }

    fn is_rate(rule: LimitRule) -> bool {
        matches!(rule, LimitRule::Rate(_))
    }
}

impl Known {
    /// Returns whether it waits in a lane for limits, as the store shows it.
    pub(super) fn is_in_lane(&self) -> bool {
        matches!(self.state, State::Queued { participant, .. } if participant.is_lane())
    }
}

impl Words {
    pub(super) fn of(job: &Job) -> Self {
        let extras = job.spec.extras.as_deref();
        extras.map_or_else(Words::default, |extras| Words {
            labels: extras.labels.clone(),
            weights: extras.weights.clone(),
        })
    }
}

impl Moment {
    /// Returns the values that a job needs, each with its weight.
    fn needs(&self, job: &Known) -> Vec<(Value, u32)> {
        let need = |(name, told): (&String, &Told)| {
            let weight = job.words.weights.get(name).copied().unwrap_or(1);
            Some(((name.clone(), told.value(job)?), weight))
        };
        self.told.iter().filter_map(need).collect()
    }

    fn rule(&self, (name, value): &Value) -> LimitRule {
        self.told[name].rule(value)
    }

    fn count<'j>(&mut self, jobs: impl Iterator<Item = &'j Known>) {
        self.running.clear();
        for job in jobs.filter(|job| job.state.lease().is_some()) {
            for (value, weight) in self.needs(job) {
                *self.running.entry(value).or_default() += u64::from(weight);
            }
        }
    }

    fn running(&self, value: &Value) -> u64 {
        self.running.get(value).copied().unwrap_or_default()
    }

    /// Returns whether a job may lack a place.
    fn may_lack(&self, job: &Known) -> bool {
        self.needs(job).iter().any(|(value, weight)| match self.rule(value) {
            LimitRule::Running(max) => self.running(value) + u64::from(*weight) > u64::from(max),
            LimitRule::Rate(rate) if rate.count == 0 => true,
            LimitRule::Rate(rate) => {
                let tokens = match self.tokens.get(value) {
                    Some((known, tokens)) if *known == rate => *tokens,
                    Some(_) => 0.0,
                    None => f64::from(rate.burst),
                };
                tokens + ROUNDED < f64::from(*weight)
            }
        })
    }
}

impl Bucket {
    fn new(rate: Rate, now: TimePoint, least: f64) -> Self {
        Bucket { rate, taken: Vec::new(), least: (now, least), is_exact: true }
    }

    /// Takes over another rate. How much is spent under the one before is not followed: it may be full, and may be empty.
    fn change(&mut self, rate: Rate, now: TimePoint) {
        if self.rate != rate {
            *self = Bucket { is_exact: false, ..Bucket::new(rate, now, 0.0) };
        }
    }

    fn gained(rate: Rate, time: std::time::Duration) -> f64 {
        time.as_secs_f64() * f64::from(rate.count) / rate.per.as_secs_f64()
    }

    /// Returns the tokens that it has at least.
    fn least(&self, times: &Times) -> f64 {
        let (at, tokens) = self.least;
        let (least, _) = times.of_backoff(at);
        (tokens + Self::gained(self.rate, least)).min(f64::from(self.rate.burst))
    }

    /// Takes tokens, or gives them back if there are less than none of them.
    fn take(&mut self, weight: i64, times: &Times) {
        // What is given back may be no more than a part of what is owed under an earlier rate.
        let back = if self.is_exact { weight } else { weight.max(0) };
        let least = (self.least(times) - back as f64).clamp(0.0, f64::from(self.rate.burst));
        self.least = (times.time_point(), least);
        self.taken.push((times.time_point(), weight));
    }

    /// Returns by how much more was taken than a full bucket gives, since any time.
    fn excess(&self, times: &Times) -> f64 {
        let mut sum = 0;
        let since = |(at, weight): &(TimePoint, i64)| {
            sum += weight;
            let (_, most) = times.of_backoff(*at);
            sum as f64 - f64::from(self.rate.burst) - Self::gained(self.rate, most)
        };
        self.taken.iter().rev().map(since).fold(f64::MIN, f64::max)
    }
}

impl Limits {
    /// Returns the names of all limits, with what they say.
    pub(crate) fn all(&self) -> impl Iterator<Item = (String, LimitSpec)> + '_ {
        self.now.told.iter().map(|(name, told)| (name.clone(), told.spec.clone()))
    }

    /// Records a start: the jobs that were still to be sorted are sorted from the beginning.
    pub(super) fn hear_start(&mut self) {
        if self.are_sorting() {
            self.sorting = BATCHES_OF_SORTING;
        }
    }

    fn are_sorting(&self) -> bool {
        self.sorting > 0
    }

    /// Returns whether a job may be in a lane: one that no limit concerns leaves it soon.
    pub(super) fn may_have_lane(&self, job: &Known) -> bool {
        self.are_sorting() || !self.now.needs(job).is_empty()
    }

    /// Takes over the rules and the time of now for all tokens.
    fn refresh(&mut self, times: &Times) {
        self.now.tokens.clear();
        for (value, bucket) in &mut self.buckets {
            if let Some(told) = self.now.told.get(&value.0)
                && let LimitRule::Rate(rate) = told.rule(&value.1)
                && rate.count > 0
            {
                bucket.change(rate, times.time_point());
            }
            self.now.tokens.insert(value.clone(), (bucket.rate, bucket.least(times)));
        }
    }

    /// Returns the bucket of a value under a rate.
    fn bucket(&mut self, value: &Value, rate: Rate, now: TimePoint) -> &mut Bucket {
        let bucket =
            self.buckets.entry(value.clone()).or_insert_with(|| Bucket::new(rate, now, rate.burst.into()));
        bucket.change(rate, now);
        bucket
    }

    /// Takes in the answer to a change.
    fn hear_change(
        &mut self,
        name: &str,
        action: &LimitAction,
        answer: &Result<ControlDone, ControlRefusal>,
    ) -> Result<(), Violation> {
        let refused = self.refusal(name, action);
        let done = match (answer, &refused) {
            (Ok(ControlDone::Limit(done)), None) => done,
            (Err(ControlRefusal::Limit(told)), Some(expected)) if told == expected => return Ok(()),
            _ => return Err(format!("{action:?} of the limit {name} was {answer:?}, not {refused:?}")),
        };
        let sorts_as = |known: Option<&Told>| {
            known.map(|told| (told.spec.key.clone(), told.spec.queues.clone(), told.spec.kinds.clone()))
        };
        let before = sorts_as(self.now.told.get(name));
        match action {
            LimitAction::Create(spec) => {
                let told = Told { spec: spec.clone(), overrides: BTreeMap::new() };
                self.now.told.insert(name.to_owned(), told);
            }
            LimitAction::Delete => {
                self.now.told.remove(name);
                self.buckets.retain(|(limit, _), _| limit != name);
            }
            _ => {
                let Some(told) = self.now.told.get_mut(name) else { return Ok(()) };
                match action {
                    LimitAction::Update { spec, .. } => told.spec = spec.clone(),
                    LimitAction::SetOverride { value, rule } => {
                        told.overrides.insert(value.clone(), *rule);
                    }
                    LimitAction::DeleteOverride { value } => {
                        told.overrides.remove(value);
                    }
                    LimitAction::Create(_) | LimitAction::Delete => {}
                }
            }
        }
        if sorts_as(self.now.told.get(name)) != before {
            self.sorting = BATCHES_OF_SORTING;
        }
        let shown = done.limit.as_ref().map(|info| (&*info.name, &info.spec));
        let expected = self.now.told.get_key_value(name).map(|(name, told)| (&**name, &told.spec));
        promise!(shown == expected, "{action:?} of the limit {name} was answered {shown:?}");
        Ok(())
    }

    fn refusal(&self, name: &str, action: &LimitAction) -> Option<LimitRefusal> {
        let known = self.now.told.get(name);
        let not_found = || LimitRefusal::NotFound(name.to_owned());
        let other_sort = || LimitRefusal::OtherSort(name.to_owned());
        match (action, known) {
            (LimitAction::Create(_), Some(_)) => Some(LimitRefusal::Exists(name.to_owned())),
            (LimitAction::Create(_), None) | (LimitAction::Delete, Some(_)) => None,
            (_, None) => Some(not_found()),
            (LimitAction::Update { spec, .. }, Some(told)) => {
                let is_other = |rule: &LimitRule| Told::is_rate(*rule) != Told::is_rate(spec.rule);
                told.overrides.values().any(is_other).then(other_sort)
            }
            (LimitAction::SetOverride { rule, .. }, Some(told)) => {
                (Told::is_rate(*rule) != Told::is_rate(told.spec.rule)).then(other_sort)
            }
            (LimitAction::DeleteOverride { value }, Some(told)) if !told.overrides.contains_key(value) => {
                Some(LimitRefusal::OverrideNotFound { limit: name.to_owned(), value: value.clone() })
            }
            (LimitAction::DeleteOverride { .. }, Some(_)) => None,
        }
    }
}

impl Ledger {
    /// Begins a batch: keeps what limits allowed before.
    pub(super) fn begin_limits(&mut self) {
        self.limits.refresh(&self.times);
        self.limits.now.count(self.jobs.values());
        self.limits.earlier = self.limits.now.clone();
        self.limits.ran = self.jobs.values().filter(|job| job.state.lease().is_some()).cloned().collect();
    }

    /// Takes in the answer to a change of a limit.
    pub(super) fn hear_limit(
        &mut self,
        name: &str,
        action: &LimitAction,
        answer: &Result<ControlDone, ControlRefusal>,
    ) -> Result<(), Violation> {
        self.limits.hear_change(name, action, answer)
    }

    /// Takes in the start of an attempt, or that it never started, after the change of its job.
    pub(super) fn hear_tokens(&mut self, id: JobId, is_start: bool) -> Result<(), Violation> {
        let Ledger { limits, times, jobs, .. } = self;
        let needs = limits.now.needs(&jobs[&id]);
        limits.done.0 += usize::from(is_start && !needs.is_empty());
        for (value, weight) in needs {
            let LimitRule::Rate(rate) = limits.now.rule(&value) else { continue };
            promise!(!is_start || rate.count > 0, "{id} started, and {value:?} is paused");
            if rate.count == 0 {
                continue;
            }
            limits.done.1 += usize::from(is_start);
            let weight = if is_start { i64::from(weight) } else { -i64::from(weight) };
            let bucket = limits.bucket(&value, rate, times.time_point());
            bucket.take(weight, times);
            let excess = bucket.excess(times);
            promise!(
                !is_start || excess < ROUNDED,
                "{id} took {excess} tokens too many of {value:?}: {bucket:?}"
            );
        }
        Ok(())
    }

    /// Checks what runs under limits after a batch.
    pub(super) fn check_limits(&mut self, causes: &Causes) -> Result<(), Violation> {
        // Limits hold from the batch on that changes them.
        let mut before = self.limits.now.clone();
        before.count(self.limits.ran.iter());
        let started = causes.started.iter().map(|(id, _)| &self.jobs[id]);
        let started: HashMap<Value, u32> = started.flat_map(|job| self.limits.now.needs(job)).collect();
        self.limits.now.count(self.jobs.values());
        self.limits.refresh(&self.times);
        for (value, weight) in &self.limits.now.running {
            let LimitRule::Running(max) = self.limits.now.rule(value) else { continue };
            let (max, ran) = (u64::from(max), before.running(value));
            promise!(*weight <= max.max(ran), "{weight} run under {value:?} of {max}; {ran} ran before");
            let has_started = started.contains_key(value);
            promise!(
                !has_started || *weight <= max,
                "a job started, and {weight} run under {value:?} of {max}"
            );
        }
        self.limits.sorting = self.limits.sorting.saturating_sub(1);
        Ok(())
    }

    /// Returns what limits have to do with a job that waits after a batch.
    pub(super) fn standing(&self, job: &Known) -> Standing {
        let Limits { now, earlier, .. } = &self.limits;
        let needs = now.needs(job);
        // A heavier one that waits for the same in its queue is not passed.
        let is_behind = || {
            let others = self
                .jobs
                .values()
                .filter(|other| other.queue == job.queue && other.state.name() == StateName::Queued);
            let mut others = others.flat_map(|other| now.needs(other));
            others.any(|(value, weight)| needs.iter().any(|(own, mine)| *own == value && *mine < weight))
        };
        let may_lack = now.may_lack(job) || (!needs.is_empty() && is_behind());
        // One that is under no limit is where it always was, unless it comes from the lane of a former one.
        let may_be_sorted = self.limits.are_sorting() && (job.is_in_lane() || !needs.is_empty());
        let may_be_passed = may_lack || earlier.may_lack(job) || may_be_sorted;
        Standing { may_lack, may_be_passed }
    }

    /// Checks the refusal of an offer for the weights of its jobs.
    pub(super) fn check_weights(&self, offered: &Offered, refusal: &OfferRefusal) -> Result<(), Violation> {
        let told = &self.limits.now.told;
        let weights = || offered.jobs.iter().filter_map(|job| Some(&job.extras.as_deref()?.weights));
        match refusal {
            OfferRefusal::WeightOfUnknownLimit { limit, .. } => {
                let is_unknown =
                    !told.contains_key(limit) && weights().any(|weights| weights.contains_key(limit));
                promise!(is_unknown, "{offered:?} was refused, and there is {limit}");
            }
            OfferRefusal::TooHeavy { limit, value, weight, max, .. } => {
                let says = weights().any(|weights| weights.get(limit) == Some(weight));
                let heaviest = told.get(limit).map(|told| match told.rule(value) {
                    LimitRule::Running(max) => max,
                    LimitRule::Rate(rate) => rate.burst,
                });
                let is_right = says && heaviest == Some(*max) && max < weight && *max > 0;
                promise!(is_right, "{offered:?} was refused: {refusal:?}; it is {heaviest:?}");
            }
            _ => {}
        }
        Ok(())
    }
}
