//! What readers outside the engine see of limits.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use super::table::{Need, Table};
use crate::{
    clock::Timestamp,
    job::{Job, JobId},
    settings::{LimitInfo, LimitRule},
    store::Names,
};

/// The limits and what runs under them. They show a batch's changes a moment before it is on disk.
#[derive(Debug)]
pub struct LimitBoard {
    table: Mutex<Table>,
    names: Arc<Names>,
}

/// A limit at present.
#[derive(Clone, PartialEq, Debug)]
pub struct LimitView {
    /// What it says.
    pub info: Arc<LimitInfo>,
    /// The total weight of the jobs that run under it.
    pub running: u64,
    /// Whether jobs that wait are still being sorted by it.
    pub is_changing: bool,
}

/// A value of a limit at present.
#[derive(Clone, PartialEq, Debug)]
pub struct LimitValueView {
    /// The value.
    pub value: Arc<str>,
    /// What it is allowed.
    pub rule: LimitRule,
    /// Whether that is an override.
    pub is_overridden: bool,
    /// The total weight of the jobs that run under it.
    pub running: u64,
    /// Whether ready jobs wait for it.
    pub has_waiting: bool,
    /// When the next job of weight 1 may start, if its rate is spent.
    pub next: Option<Timestamp>,
}

/// A value of a limit for which a job waits.
#[derive(Clone, PartialEq, Debug)]
pub struct LimitWait {
    /// The limit.
    pub limit: Arc<str>,
    /// The value; empty if all jobs share one.
    pub value: Arc<str>,
    /// What it is allowed.
    pub rule: LimitRule,
    /// Whether the job weighs more than that.
    pub is_too_heavy: bool,
    /// When its rate allows the job to start.
    pub until: Option<Timestamp>,
    /// Jobs that hold its places.
    pub holders: Vec<JobId>,
}

impl LimitBoard {
    pub(super) fn new(names: Arc<Names>) -> Self {
        LimitBoard { table: Mutex::default(), names }
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }

    /// Returns a limit.
    #[must_use]
    pub fn limit(&self, name: &str) -> Option<LimitView> {
        let table = self.table();
        let limit = table.limits.values().find(|limit| &*limit.info.name == name)?;
        Some(table.view(limit))
    }

    /// Returns all limits, by name.
    #[must_use]
    pub fn limits(&self) -> Vec<LimitView> {
        let table = self.table();
        let mut limits: Vec<_> = table.limits.values().map(|limit| table.view(limit)).collect();
        limits.sort_by(|a, b| a.info.name.cmp(&b.info.name));
        limits
    }

    /// Returns at most `count` values of a limit after one, by value; `None` if there is no such limit.
    #[must_use]
    pub fn values(
        &self,
        limit: &str,
        after: Option<&str>,
        only_overridden: bool,
        count: usize,
        now: Timestamp,
    ) -> Option<Vec<LimitValueView>> {
        let steps = &self.names.steps;
        let now = steps.backoff_of_wall(now);
        let table = self.table();
        let limit = table.limits.values().find(|known| &*known.info.name == limit)?;
        let after: Option<Arc<str>> = after.map(Into::into);
        let values = table.values_after(limit, after.as_ref(), only_overridden, count);
        let view = |value: Arc<str>| {
            let key = (limit.info.number, Arc::clone(&value));
            let need = Need { value: key.clone(), weight: 1 };
            LimitValueView {
                rule: limit.rule(&value),
                is_overridden: limit.overrides.contains_key(&value),
                running: table.running(&key),
                has_waiting: table.lanes.wait_for(&key),
                next: table.time_of_place(&need, now).map(|at| steps.wall_of_backoff(at)),
                value,
            }
        };
        Some(values.into_iter().map(view).collect())
    }

    /// Returns the values for which a ready job waits, each with at most `count` of the jobs that hold its places.
    #[must_use]
    pub fn waits_of(&self, job: &Job, now: Timestamp, count: usize) -> Vec<LimitWait> {
        let steps = &self.names.steps;
        let now = steps.backoff_of_wall(now);
        let mut table = self.table();
        let needs = table.needs(job);
        let is_full = |need: &&Need| table.room(&need.value, now) < need.weight;
        let wait = |need: &Need| {
            let (number, value) = &need.value;
            let limit = table.limits.get(number)?;
            let rule = limit.rule(value);
            let is_too_heavy = !rule.is_paused() && rule.heaviest() < need.weight;
            let until = table.time_of_place(need, now);
            let holds_places = matches!(rule, LimitRule::Running(_)) && !is_too_heavy && until.is_none();
            Some(LimitWait {
                limit: Arc::clone(&limit.info.name),
                value: Arc::clone(value),
                rule,
                is_too_heavy,
                until: until.map(|at| steps.wall_of_backoff(at)),
                holders: if holds_places { table.holders(&need.value, count) } else { Vec::new() },
            })
        };
        needs.iter().filter(is_full).filter_map(wait).collect()
    }
}
