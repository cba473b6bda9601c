//! Random programs of limits, with a model of what they allow.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use jobmill::{
    engine::{LimitAction, NewJob, ReportBody},
    job::{Job, JobId, JobUpdate, State, StateName},
    settings::{LimitKey, LimitRule, LimitSpec, QueueSettings, Rate},
};

use crate::store::{
    batch::{Applied, Batch, Control, Report},
    build::{job, settings},
    limits::{Told, running},
    rig::{Rig, failed, lease, offer, succeeded},
    workers::Connected,
};

const PROGRAMS: u64 = 60;
const STEPS: usize = 60;
/// The kinds of jobs: one with a handler, another one, one that a worker runs, and one that nothing runs.
const KINDS: [&str; 4] = [Rig::KIND, "walk", "far", "nobody"];
const QUEUES: [&str; 2] = ["p", "q"];
const LIMITS: [&str; 3] = ["x", "y", "z"];
const TENANTS: [&str; 3] = ["a", "b", "c"];

/// A generator of numbers that a seed repeats.
struct Dice(u64);

impl Dice {
    fn up_to(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.up_to(choices.len() as u64) as usize]
    }

    fn rule(&mut self, is_rate: bool) -> LimitRule {
        match is_rate {
            true => {
                let per = Duration::from_secs(1 + self.up_to(20));
                LimitRule::Rate(Rate::new(self.up_to(4) as u32, per).burst(1 + self.up_to(3) as u32))
            }
            false => LimitRule::Running(self.up_to(5) as u32),
        }
    }

    fn spec(&mut self, is_rate: bool) -> LimitSpec {
        let label = |name: &str| LimitKey::Label(name.into());
        let key = match self.up_to(6) {
            0 => LimitKey::All,
            1 => LimitKey::Queue,
            2 => LimitKey::Kind,
            3 => label("endpoint"),
            _ => label("tenant"),
        };
        let mut spec = LimitSpec::new(self.rule(is_rate)).by(key);
        if self.up_to(3) == 0 {
            spec.queues.insert(self.of(&QUEUES).into());
        }
        if self.up_to(3) == 0 {
            spec.kinds.insert(self.of(&KINDS).into());
        }
        spec
    }

    fn job(&mut self, limits: &BTreeMap<String, Told>) -> NewJob {
        let mut new = NewJob { priority: self.up_to(3) as i8, ..job(self.of(&QUEUES), self.of(&KINDS)) };
        let extras = new.extras.get_or_insert_default();
        if self.up_to(6) > 0 {
            extras.labels.insert("tenant".into(), self.of(&TENANTS).into());
        }
        if self.up_to(2) > 0 {
            extras.labels.insert("endpoint".into(), self.of(&TENANTS).into());
        }
        if self.up_to(6) == 0
            && let Some(name) = limits.keys().next()
        {
            extras.weights.insert(name.clone(), 1 + self.up_to(3) as u32);
        }
        new
    }
}

/// The tokens of a value, as a number that grows with time.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: Rate,
    tokens: f64,
    at: f64,
    /// Until then there may be fewer tokens: those of an earlier rate were spent.
    certain: f64,
}

impl Bucket {
    fn at(&mut self, now: f64) -> f64 {
        let gained = (now - self.at) * f64::from(self.rate.count) / self.rate.per.as_secs_f64();
        self.tokens = (self.tokens + gained).min(f64::from(self.rate.burst));
        self.at = now;
        self.tokens
    }
}

/// What limits allow, computed from what the store tells.
struct Model {
    seed: u64,
    limits: BTreeMap<String, Told>,
    /// The total weight that ran after the last batch.
    ran: BTreeMap<(String, String), u64>,
    buckets: HashMap<(String, String), Bucket>,
    now: f64,
    settings: BTreeMap<&'static str, (QueueSettings, bool)>,
    credits: u64,
    waited: Vec<Arc<Job>>,
    /// Whether limits have just changed, so that jobs are still being sorted.
    is_sorting: bool,
    starts: usize,
    waits: usize,
}

impl Model {
    fn needs(&self, job: &Job) -> Vec<((String, String), u64)> {
        let of = |(name, told): (&String, &Told)| {
            let (value, weight) = told.value(name, job)?;
            Some(((name.clone(), value), weight))
        };
        self.limits.iter().filter_map(of).collect()
    }

    fn rule(&self, (name, value): &(String, String)) -> LimitRule {
        self.limits[name].rule(value)
    }

    /// Returns the weight that may start under a value.
    fn room(&mut self, key: &(String, String)) -> f64 {
        match self.rule(key) {
            LimitRule::Running(max) => f64::from(max) - self.ran.get(key).copied().unwrap_or_default() as f64,
            LimitRule::Rate(rate) if rate.count == 0 => 0.0,
            LimitRule::Rate(rate) => self.bucket(key, rate).tokens,
        }
    }

    fn bucket(&mut self, key: &(String, String), rate: Rate) -> &mut Bucket {
        let now = self.now;
        let full = Bucket { rate, tokens: f64::from(rate.burst), at: now, certain: now };
        let bucket = self.buckets.entry(key.clone()).or_insert(full);
        if bucket.rate != rate {
            let fills = rate.per.as_secs_f64() * f64::from(rate.burst) / f64::from(rate.count.max(1));
            *bucket = Bucket { certain: now + fills, ..full };
        }
        let now = self.now;
        let bucket = self.buckets.get_mut(key).unwrap();
        bucket.at(now);
        bucket
    }

    /// Takes in a batch: the jobs that it started are allowed by all limits.
    fn hear(&mut self, rig: &Rig, applied: &Applied) {
        let seed = self.seed;
        let jobs = rig.all_jobs();
        let started: Vec<&Arc<Job>> = applied
            .claims
            .iter()
            .chain(applied.assigned.iter().map(|assignment| &assignment.claim))
            .map(|claim| &claim.job)
            .collect();
        self.starts += started.len();
        self.credits -= applied.assigned.len() as u64;
        let now_running = running(&self.limits, &jobs);
        for (key, weight) in &now_running {
            if let LimitRule::Running(max) = self.rule(key) {
                let before = self.ran.get(key).copied().unwrap_or_default();
                assert!(
                    *weight <= u64::from(max).max(before),
                    "seed {seed}: {weight} under {key:?} of {max}"
                );
                let has_started =
                    started.iter().any(|job| self.needs(job).iter().any(|(need, _)| need == key));
                assert!(
                    !has_started || *weight <= max.into(),
                    "seed {seed}: started {weight} under {key:?} of {max}"
                );
            }
        }
        for job in &started {
            for (key, weight) in self.needs(job) {
                if let LimitRule::Rate(rate) = self.rule(&key) {
                    assert!(rate.count > 0, "seed {seed}: {key:?} is paused");
                    let bucket = self.bucket(&key, rate);
                    bucket.tokens -= weight as f64;
                    assert!(bucket.tokens > -1e-6, "seed {seed}: {key:?} has {} of {rate:?}", bucket.tokens);
                }
            }
        }
        self.check_order(&started, &jobs);
        self.ran = now_running;
        let waits = |job: &&Arc<Job>| job.state.name() == StateName::Queued;
        self.waited = jobs.iter().filter(waits).cloned().collect();
    }

    /// Asserts that no job started before one that waits for the same and comes first in its queue.
    fn check_order(&self, started: &[&Arc<Job>], jobs: &[Arc<Job>]) {
        if self.is_sorting {
            return;
        }
        let still: HashSet<JobId> =
            jobs.iter().filter(|job| job.state.name() == StateName::Queued).map(|job| job.id).collect();
        let order = |job: &Job| match job.state {
            State::Queued { order, .. } => (-i16::from(job.spec.priority), order.as_i64()),
            _ => unreachable!("it waits"),
        };
        let before: HashMap<JobId, &Arc<Job>> = self.waited.iter().map(|job| (job.id, job)).collect();
        for job in started {
            let Some(was) = before.get(&job.id).filter(|was| was.spec.priority == job.spec.priority) else {
                continue;
            };
            let is_fair = self.settings[job.spec.queue.as_str()].0.fair_by.is_some();
            for other in self.waited.iter().filter(|other| still.contains(&other.id) && !is_fair) {
                let same = other.spec.queue == job.spec.queue
                    && other.spec.kind == job.spec.kind
                    && self.needs(other) == self.needs(job);
                assert!(
                    !same || order(was) < order(other),
                    "seed {}: {was:?} started before {other:?}",
                    self.seed
                );
            }
        }
    }

    /// Asserts that no job waits that could start.
    fn check_settled(&mut self, rig: &Rig) {
        let jobs = rig.all_jobs();
        let here = |queue: &str| {
            let runs = |job: &&Arc<Job>| job.state.lease().is_some() && job.remote.worker().is_none();
            jobs.iter().filter(runs).filter(|job| job.spec.queue.as_str() == queue).count()
        };
        let free: HashMap<&str, bool> = QUEUES
            .iter()
            .map(|queue| (*queue, here(queue) < self.settings[queue].0.consumers as usize))
            .collect();
        let waiting: Vec<Arc<Job>> =
            jobs.iter().filter(|job| job.state.name() == StateName::Queued).cloned().collect();
        for job in &waiting {
            let (queue, kind) = (job.spec.queue.as_str(), job.spec.kind.as_str());
            let has_slot = match kind {
                "far" => self.credits > 0,
                "nobody" => false,
                _ => free[queue],
            };
            if self.settings[queue].1 || !has_slot {
                continue;
            }
            self.waits += 1;
            let needs = self.needs(job);
            let mut lacks = false;
            for (key, weight) in &needs {
                // The store's intervals are whole nanoseconds.
                lacks |= self.room(key) < *weight as f64 + 1e-6;
                lacks |= self.buckets.get(key).is_some_and(|bucket| bucket.certain > self.now);
            }
            // A heavier one that waits for the same is not passed.
            lacks |= waiting.iter().any(|other| {
                let others = self.needs(other);
                let is_heavier =
                    |(key, weight): &(_, u64)| needs.iter().any(|(own, mine)| own == key && mine < weight);
                others.iter().any(is_heavier) && other.spec.queue == job.spec.queue
            });
            assert!(
                lacks,
                "seed {}: {job:?} could start: {needs:?}, {:?}, {:?}",
                self.seed, self.ran, self.limits
            );
        }
    }
}

fn apply(rig: &mut Rig, model: &mut Model, batch: Batch) {
    let applied = rig.apply(batch);
    model.hear(rig, &applied);
    for _ in 0..200 {
        let applied = rig.tick();
        model.hear(rig, &applied);
        if !applied.more {
            model.check_settled(rig);
            model.is_sorting = false;
            return;
        }
    }
    panic!("seed {}: there is always more to do", model.seed);
}

fn control(rig: &mut Rig, model: &mut Model, control: Control) -> bool {
    let applied = rig.apply(Batch { controls: vec![control], claim: true, ..Batch::default() });
    let is_done = applied.controls[0].is_ok();
    model.hear(rig, &applied);
    apply(rig, model, Batch { claim: true, ..Batch::default() });
    is_done
}

fn change_limits(rig: &mut Rig, model: &mut Model, dice: &mut Dice) {
    let name = dice.of(&LIMITS);
    let is_rate = name == "z";
    let value: String = dice.of(&["a", "b", "", "q", "far"]).into();
    let action = match dice.up_to(5) {
        0 if model.limits.contains_key(name) => LimitAction::Delete,
        0 | 1 => LimitAction::Create(dice.spec(is_rate)),
        2 => LimitAction::Update { spec: dice.spec(is_rate), etag: None },
        3 => LimitAction::SetOverride { value: value.clone(), rule: dice.rule(is_rate) },
        _ => LimitAction::DeleteOverride { value: value.clone() },
    };
    // It holds from the batch on that changes it.
    let before = model.limits.clone();
    model.is_sorting = true;
    let is_known = before.contains_key(name);
    let limits = &mut model.limits;
    match &action {
        LimitAction::Create(spec) if !is_known => {
            limits.insert(name.into(), Told { spec: spec.clone(), overrides: BTreeMap::new() });
        }
        LimitAction::Update { spec, .. } if is_known => limits.get_mut(name).unwrap().spec = spec.clone(),
        LimitAction::Delete => {
            limits.remove(name);
        }
        LimitAction::SetOverride { rule, .. } if is_known => {
            limits.get_mut(name).unwrap().overrides.insert(value, *rule);
        }
        LimitAction::DeleteOverride { .. } if is_known => {
            limits.get_mut(name).unwrap().overrides.remove(&value);
        }
        _ => {}
    }
    model.ran = running(&model.limits, &rig.all_jobs());
    if !is_known || !model.limits.contains_key(name) {
        model.buckets.retain(|(limit, _), _| limit != name);
    }
    control(rig, model, Control::Limit { name: name.into(), action });
}

fn report_some(rig: &mut Rig, model: &mut Model, dice: &mut Dice, worker: &Connected) {
    let jobs = rig.all_jobs();
    let running: Vec<_> = jobs.iter().filter(|job| job.state.lease().is_some()).collect();
    let mut batch = Batch { claim: true, ..Batch::default() };
    for job in running {
        if dice.up_to(2) == 0 {
            continue;
        }
        let body = match dice.up_to(6) {
            0 => failed(true, ""),
            1 => ReportBody::Snoozed {
                delay: Duration::from_secs(dice.up_to(9)),
                pause: None,
                tail: String::new(),
            },
            2 => ReportBody::Released { delay: Some(Duration::from_secs(dice.up_to(5))) },
            _ => succeeded(),
        };
        if matches!(body, ReportBody::Released { .. }) {
            for (key, weight) in model.needs(job) {
                if let LimitRule::Rate(rate) = model.rule(&key) {
                    model.bucket(&key, rate).tokens += weight as f64;
                }
            }
        }
        let report = Report { id: job.id, lease: lease(job), body };
        batch.reports.push(report);
    }
    let _ = worker;
    if dice.up_to(3) == 0 {
        batch.offers.push(offer(vec![dice.job(&model.limits)]));
    }
    apply(rig, model, batch);
}

fn step(rig: &mut Rig, model: &mut Model, dice: &mut Dice, worker: &mut Connected) {
    match dice.up_to(14) {
        0..=3 => {
            let jobs = (0..1 + dice.up_to(6)).map(|_| dice.job(&model.limits)).collect();
            apply(rig, model, Batch { offers: vec![offer(jobs)], claim: true, ..Batch::default() });
        }
        4..=7 => report_some(rig, model, dice, worker),
        8 => change_limits(rig, model, dice),
        9 => {
            let jobs = rig.all_jobs();
            let waiting: Vec<_> = jobs.iter().filter(|job| job.state.name() == StateName::Queued).collect();
            if let Some(job) = waiting.get(dice.up_to(waiting.len().max(1) as u64) as usize) {
                let id = job.id;
                let update = JobUpdate { priority: Some(Some(dice.up_to(5) as i8)), ..Default::default() };
                let change = match dice.up_to(3) {
                    0 => Control::Cancel(id),
                    1 => Control::Delete(id),
                    _ => Control::Update(id, Box::new(update)),
                };
                control(rig, model, change);
            }
        }
        10 => {
            let seconds = 1 + dice.up_to(12);
            rig.pass(seconds);
            model.now += seconds as f64;
            apply(rig, model, Batch { claim: true, ..Batch::default() });
        }
        11 => {
            let name = dice.of(&QUEUES);
            let (queue, paused) = model.settings.get_mut(name).unwrap();
            let change = match dice.up_to(3) {
                0 => {
                    *paused = !*paused;
                    Control::SetPaused { name: name.into(), paused: *paused }
                }
                1 => {
                    queue.fair_by = if queue.fair_by.is_some() { None } else { Some("tenant".into()) };
                    model.is_sorting = true;
                    Control::UpdateQueue { name: name.into(), settings: queue.clone() }
                }
                _ => {
                    queue.consumers = dice.up_to(4) as u32;
                    Control::UpdateQueue { name: name.into(), settings: queue.clone() }
                }
            };
            control(rig, model, change);
        }
        12 => {
            let credits = dice.up_to(3) as u32;
            rig.credit(worker.pool(0), credits);
            model.credits += u64::from(credits);
            apply(rig, model, Batch { claim: true, ..Batch::default() });
        }
        _ => {
            rig.crash();
            model.credits = 0;
            *worker = rig.worker("w", &["far"]);
            model.is_sorting = true;
            model.ran = running(&model.limits, &rig.all_jobs());
            apply(rig, model, Batch { claim: true, ..Batch::default() });
        }
    }
}

/// Runs programs of random steps. Returns the numbers of starts and of waits that were checked.
fn programs(open: impl Fn() -> Rig) {
    let programs =
        std::env::var("JOBMILL_PROGRAMS").ok().and_then(|count| count.parse().ok()).unwrap_or(PROGRAMS);
    let (mut starts, mut waits) = (0, 0);
    let first = std::env::var("JOBMILL_FIRST").ok().and_then(|first| first.parse().ok()).unwrap_or(0);
    for seed in first..first + programs {
        let (mut rig, mut dice) = (open(), Dice(seed));
        let rig = &mut rig;
        for queue in QUEUES {
            rig.queue_with(queue, settings(3, 1_000));
        }
        let mut worker = rig.worker("w", &["far"]);
        let settings = QUEUES.map(|queue| (queue, (settings(3, 1_000), false))).into();
        let mut model = Model {
            seed,
            limits: BTreeMap::new(),
            ran: BTreeMap::new(),
            buckets: HashMap::new(),
            now: 0.0,
            settings,
            credits: 0,
            waited: Vec::new(),
            is_sorting: false,
            starts: 0,
            waits: 0,
        };
        for _ in 0..STEPS {
            step(rig, &mut model, &mut dice, &mut worker);
        }
        (starts, waits) = (starts + model.starts, waits + model.waits);
    }
    assert!(starts > 100 && waits > 100, "{starts} starts and {waits} waits say little");
}

#[test]
fn limits_hold_and_nothing_waits_that_could_start_in_memory() {
    programs(Rig::memory);
}

#[test]
fn limits_hold_and_nothing_waits_that_could_start_in_sqlite() {
    programs(Rig::sqlite);
}
