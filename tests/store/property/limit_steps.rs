//! What programs do with limits, and what their jobs say for them.

use std::time::Duration;

use jobmill::{
    engine::LimitAction,
    job::Extras,
    settings::{LimitKey, LimitRule, LimitSpec, Rate},
};

use super::{
    program::{Dice, KINDS, QUEUES, Step},
    turns,
};
use crate::store::batch::Control;

/// The names of limits. The last one is of starts, and seldom of running jobs.
pub(crate) const LIMITS: [&str; 4] = ["door", "gate", "lock", "flow"];
const FLOW: usize = 3;
/// The label that only limits look at.
const LABEL: &str = "site";
/// The values that get rules of their own.
const VALUES: [&str; 8] = ["", "site 0", "site 1", "tenant 0", "tenant 1", QUEUES[0], QUEUES[1], KINDS[0]];

/// A change of a limit that a program asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LimitStep {
    name: usize,
    wish: LimitWish,
}

#[derive(Clone, Copy, Debug)]
enum LimitWish {
    Create(LimitPlan),
    Update(LimitPlan),
    Delete,
    SetOverride { value: usize, rule: RulePlan },
    DeleteOverride { value: usize },
}

#[derive(Clone, Copy, Debug)]
struct LimitPlan {
    rule: RulePlan,
    key: KeyPlan,
    queue: Option<usize>,
    kind: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
enum RulePlan {
    Running(u32),
    Rate { count: u32, seconds: u64, burst: u32 },
}

#[derive(Clone, Copy, Debug)]
enum KeyPlan {
    All,
    Queue,
    Kind,
    Site,
    Tenant,
}

/// What a job to be offered says for limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LimitedPlan {
    site: Option<u8>,
    /// One of the limits that exist, or a name, and the weight under it.
    weight: Option<(usize, u32)>,
}

impl LimitStep {
    /// Adds steps to those of most programs, from dice of their own.
    pub(super) fn mix_into(steps: Vec<Step>, dice: &mut Dice) -> Vec<Step> {
        if dice.percent(40) {
            return steps;
        }
        let mut mixed = Vec::new();
        for _ in 0..dice.index(4) {
            let name = dice.index(LIMITS.len());
            let plan = LimitPlan::roll(name == FLOW, dice);
            mixed.push(Step::Limit(LimitStep { name, wish: LimitWish::Create(plan) }));
        }
        let chance = dice.one_of(&[2, 6, 12]);
        for step in steps {
            if dice.percent(chance) {
                mixed.push(Step::Limit(LimitStep::roll(dice)));
            }
            mixed.push(step);
        }
        mixed
    }

    fn roll(dice: &mut Dice) -> Self {
        let name = dice.index(LIMITS.len());
        let is_rate = name == FLOW;
        let value = dice.index(VALUES.len());
        let wish = match dice.below(20) {
            0..6 => LimitWish::Create(LimitPlan::roll(is_rate, dice)),
            6..11 => LimitWish::Update(LimitPlan::roll(is_rate, dice)),
            11..13 => LimitWish::Delete,
            13..18 => LimitWish::SetOverride { value, rule: RulePlan::roll(is_rate, dice) },
            _ => LimitWish::DeleteOverride { value },
        };
        LimitStep { name, wish }
    }

    /// Returns the control of a step.
    pub(crate) fn control(self) -> Control {
        let value = |value: usize| VALUES[value].to_owned();
        let action = match self.wish {
            LimitWish::Create(plan) => LimitAction::Create(plan.spec()),
            LimitWish::Update(plan) => LimitAction::Update { spec: plan.spec(), etag: None },
            LimitWish::Delete => LimitAction::Delete,
            LimitWish::SetOverride { value: of, rule } => {
                LimitAction::SetOverride { value: value(of), rule: rule.rule() }
            }
            LimitWish::DeleteOverride { value: of } => LimitAction::DeleteOverride { value: value(of) },
        };
        Control::Limit { name: LIMITS[self.name].to_owned(), action }
    }
}

impl LimitPlan {
    fn roll(is_rate: bool, dice: &mut Dice) -> Self {
        use KeyPlan::{All, Kind, Queue, Site, Tenant};

        let is_rate = is_rate ^ dice.percent(5);
        LimitPlan {
            rule: RulePlan::roll(is_rate, dice),
            key: dice.one_of(&[All, Queue, Kind, Site, Site, Site, Tenant, Tenant]),
            queue: dice.percent(20).then(|| dice.index(QUEUES.len())),
            kind: dice.percent(20).then(|| dice.index(KINDS.len())),
        }
    }

    fn spec(self) -> LimitSpec {
        let key = match self.key {
            KeyPlan::All => LimitKey::All,
            KeyPlan::Queue => LimitKey::Queue,
            KeyPlan::Kind => LimitKey::Kind,
            KeyPlan::Site => LimitKey::Label(LABEL.into()),
            KeyPlan::Tenant => LimitKey::Label(turns::LABEL.into()),
        };
        let mut spec = LimitSpec::new(self.rule.rule()).by(key);
        spec.queues = self.queue.map(|queue| QUEUES[queue].to_owned()).into_iter().collect();
        spec.kinds = self.kind.map(|kind| KINDS[kind].to_owned()).into_iter().collect();
        spec
    }
}

impl RulePlan {
    fn roll(is_rate: bool, dice: &mut Dice) -> Self {
        match is_rate {
            true => RulePlan::Rate {
                count: dice.one_of(&[0, 1, 1, 2, 3]),
                seconds: dice.one_of(&[1, 7, 100, 100, 3_600]),
                burst: dice.one_of(&[1, 1, 2, 3]),
            },
            false => RulePlan::Running(dice.one_of(&[0, 1, 1, 1, 2, 2, 3, 4])),
        }
    }

    fn rule(self) -> LimitRule {
        match self {
            RulePlan::Running(max) => LimitRule::Running(max),
            RulePlan::Rate { count, seconds, burst } => {
                LimitRule::Rate(Rate::new(count, Duration::from_secs(seconds)).burst(burst))
            }
        }
    }
}

impl LimitedPlan {
    /// Rolls what a job says. A `rare` job says little, so that it can take another's place.
    pub(super) fn roll(is_rare: bool, dice: &mut Dice) -> Self {
        let share = if is_rare { 5 } else { 1 };
        LimitedPlan {
            site: dice.percent(70 / share).then(|| dice.one_of(&[0, 0, 0, 1, 2])),
            weight: dice.percent(20 / share).then(|| (dice.index(1_000), 1 + dice.below(3) as u32)),
        }
    }

    /// Adds it to what a job says otherwise. `limits` are the names of those that exist.
    pub(crate) fn add_to(self, extras: &mut Extras, limits: &[String]) {
        extras.labels.extend(self.site.map(|site| (LABEL.to_owned(), format!("site {site}"))));
        if let Some((pick, weight)) = self.weight {
            // A name of no limit is refused.
            let name = match pick % 20 {
                0 => Some(LIMITS[pick % LIMITS.len()].to_owned()),
                _ => limits.get(pick % limits.len().max(1)).cloned(),
            };
            extras.weights.extend(name.map(|name| (name, weight)));
        }
    }
}

/// Returns controls after which limits hold up none of the jobs for ever.
pub(crate) fn ending(names: impl Iterator<Item = (String, LimitSpec)>) -> Vec<Control> {
    let mut controls = Vec::new();
    for (name, spec) in names {
        // Deleted or raised, a limit lets go of what waits for it.
        let actions = if name == LIMITS[0] {
            vec![LimitAction::Delete]
        } else {
            let rule = match spec.rule {
                LimitRule::Running(_) => LimitRule::Running(1_000),
                LimitRule::Rate(_) => LimitRule::Rate(Rate::new(1_000, Duration::from_secs(1))),
            };
            let overrides =
                VALUES.iter().map(|value| LimitAction::DeleteOverride { value: (*value).to_owned() });
            overrides.chain([LimitAction::Update { spec: LimitSpec { rule, ..spec }, etag: None }]).collect()
        };
        controls.extend(actions.into_iter().map(|action| Control::Limit { name: name.clone(), action }));
    }
    controls
}
