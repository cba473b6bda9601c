//! Limits in memory.

use std::{collections::BTreeMap, sync::Arc};

use super::Fetch;
use crate::{
    clock::StoreTime,
    settings::{LimitInfo, LimitRule},
    store::sets::{Heads, LaneWant, LimitValueRow, LimitWrites, LoadedLimits, SortKey, WaitingLine},
};

/// The tables of limits.
#[derive(Debug, Default)]
pub(super) struct LimitTables {
    limits: BTreeMap<u32, LimitInfo>,
    overrides: BTreeMap<(u32, Arc<str>), LimitRule>,
    values: BTreeMap<(u32, Arc<str>), (i64, StoreTime)>,
}

impl LimitTables {
    /// Returns all of it; the lanes are those of the jobs.
    pub(super) fn load(&self) -> LoadedLimits {
        let row = |((limit, value), times): (&(u32, Arc<str>), &(i64, StoreTime))| LimitValueRow {
            limit: *limit,
            value: Arc::clone(value),
            times: Some(*times),
        };
        LoadedLimits {
            limits: self.limits.values().cloned().collect(),
            overrides: self.overrides.iter().map(|((limit, value), rule)| (*limit, Arc::clone(value), *rule)).collect(),
            values: self.values.iter().map(row).collect(),
            lanes: Vec::new(),
        }
    }

    pub(super) fn write(&mut self, writes: &LimitWrites) {
        for number in &writes.deleted {
            self.limits.remove(number);
            self.overrides.retain(|(limit, _), _| limit != number);
            self.values.retain(|(limit, _), _| limit != number);
        }
        self.limits.extend(writes.limits.iter().map(|info| (info.number, info.clone())));
        for (limit, value, rule) in &writes.overrides {
            let key = (*limit, Arc::clone(value));
            match rule {
                Some(rule) => self.overrides.insert(key, *rule),
                None => self.overrides.remove(&key),
            };
        }
        for LimitValueRow { limit, value, times } in &writes.values {
            let key = (*limit, Arc::clone(value));
            match times {
                Some(times) if self.limits.contains_key(limit) => self.values.insert(key, *times),
                Some(_) | None => self.values.remove(&key),
            };
        }
    }
}

impl Fetch<'_> {
    /// Reads the first jobs of a lane.
    pub(super) fn lane(&self, want: &LaneWant) -> Heads {
        let is_wanted = |place: &&SortKey| !want.leaves_suspects_out || !self.tables.suspects.contains(&place.id);
        let line = self.tables.lines.get(&(want.queue, WaitingLine::Ready(want.kind)));
        let of_lane = |place: &&SortKey| place.participant == want.lane;
        let places: Vec<SortKey> =
            line.into_iter().flatten().filter(of_lane).filter(is_wanted).take(want.limit).copied().collect();
        let is_cut = places.len() == want.limit;
        let kept = places.iter().filter_map(|place| self.tables.jobs.get(&place.id));
        Heads { jobs: kept.map(|kept| (kept.shown(self.names), Some(kept.payload.clone()))).collect(), is_cut }
    }
}
