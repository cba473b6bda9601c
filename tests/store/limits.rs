//! Limits of a rig, and what they must hold, computed from the jobs alone.

use std::{collections::BTreeMap, time::Duration};

use jobmill::{
    engine::{ControlRefusal, LimitAction, LimitDone, NewJob},
    job::{Job, StateName},
    settings::{LimitKey, LimitRule, LimitSpec, Rate},
};

use super::{
    batch::{Control, ControlDone},
    build::job,
    rig::{Rig, labelled},
};

/// A limit as a test has set it.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) spec: LimitSpec,
    pub(crate) overrides: BTreeMap<String, LimitRule>,
}

impl Told {
    /// Returns the value under which a job is, and its weight.
    pub(crate) fn value(&self, name: &str, job: &Job) -> Option<(String, u64)> {
        let (queue, kind) = (job.spec.queue.as_str(), job.spec.kind.as_str());
        if !self.spec.covers(queue, kind) {
            return None;
        }
        let value = match &self.spec.key {
            LimitKey::All => String::new(),
            LimitKey::Queue => queue.to_owned(),
            LimitKey::Kind => kind.to_owned(),
            LimitKey::Label(label) => job.spec.labels()?.get(&**label)?.clone(),
        };
        let weights = job.spec.extras.as_ref().map(|extras| &extras.weights);
        let weight = weights.and_then(|weights| weights.get(name)).copied().unwrap_or(1);
        Some((value, weight.into()))
    }

    pub(crate) fn rule(&self, value: &str) -> LimitRule {
        self.overrides.get(value).copied().unwrap_or(self.spec.rule)
    }
}

/// Returns the total weight of the running jobs under each value of each limit.
pub(crate) fn running(
    limits: &BTreeMap<String, Told>,
    jobs: &[std::sync::Arc<Job>],
) -> BTreeMap<(String, String), u64> {
    let mut running = BTreeMap::new();
    let holds =
        |job: &&std::sync::Arc<Job>| matches!(job.state.name(), StateName::Running | StateName::Cancelling);
    for job in jobs.iter().filter(holds) {
        for (name, told) in limits {
            if let Some((value, weight)) = told.value(name, job) {
                *running.entry((name.clone(), value)).or_default() += weight;
            }
        }
    }
    running
}

impl Rig {
    /// Changes a limit, in a batch of its own.
    pub(crate) fn limit(&mut self, name: &str, action: LimitAction) -> Result<LimitDone, ControlRefusal> {
        match self.control(Control::Limit { name: name.into(), action })? {
            ControlDone::Limit(done) => Ok(done),
            other => panic!("no limit: {other:?}"),
        }
    }

    /// Creates a limit.
    pub(crate) fn limited(&mut self, name: &str, spec: LimitSpec) {
        self.limit(name, LimitAction::Create(spec)).unwrap();
    }

    /// Gives a value of a limit a rule of its own.
    pub(crate) fn overridden(&mut self, name: &str, value: &str, rule: LimitRule) {
        self.limit(name, LimitAction::SetOverride { value: value.into(), rule }).unwrap();
    }
}

/// Returns a limit of the jobs that run at once, for each value of the label `tenant`.
pub(crate) fn by_tenant(max: u32) -> LimitSpec {
    LimitSpec::new(LimitRule::Running(max)).by(LimitKey::Label("tenant".into()))
}

/// Returns a limit of all jobs that run at once.
pub(crate) fn all(max: u32) -> LimitSpec {
    LimitSpec::new(LimitRule::Running(max))
}

/// Returns a rate of all jobs.
pub(crate) fn rate(count: u32, seconds: u64, burst: u32) -> LimitSpec {
    LimitSpec::new(LimitRule::Rate(Rate::new(count, Duration::from_secs(seconds)).burst(burst)))
}

/// Returns a job of a tenant.
pub(crate) fn of(tenant: &str) -> NewJob {
    NewJob { extras: labelled("tenant", tenant), ..job("q", Rig::KIND) }
}

/// Returns a job with a weight under a limit.
pub(crate) fn heavy(limit: &str, weight: u32, mut job: NewJob) -> NewJob {
    job.extras.get_or_insert_default().weights.insert(limit.to_owned(), weight);
    job
}
