//! Schedules and calendars in memory.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
};

use crate::{
    job::ScheduleId,
    settings::{CalendarInfo, ScheduleInfo},
    store::{
        StoreError,
        sets::{LoadedSchedules, ScheduleEntry, ScheduleRow, ScheduleWant, ScheduleWrites},
    },
};

#[derive(Default)]
pub(super) struct Schedules {
    by_id: BTreeMap<ScheduleId, Arc<ScheduleInfo>>,
    by_name: BTreeMap<Arc<str>, ScheduleId>,
    calendars: BTreeMap<Arc<str>, CalendarInfo>,
    zones: Option<String>,
}

impl Schedules {
    pub(super) fn load(&self) -> LoadedSchedules {
        let all = self.by_id.values();
        let uses = all.clone().flat_map(|info| {
            info.settings.times.calendars.iter().map(|calendar| (calendar.clone(), info.id))
        });
        LoadedSchedules {
            entries: all.clone().map(|info| ScheduleEntry::of(info)).collect(),
            declared: all.filter(|info| info.declared).map(|info| ScheduleInfo::clone(info)).collect(),
            uses: uses.collect(),
            calendars: self.calendars(),
            zones: self.zones.clone(),
        }
    }

    pub(super) fn fetch(&self, wants: &[ScheduleWant]) -> HashMap<ScheduleId, Arc<ScheduleInfo>> {
        let found = wants.iter().filter_map(|want| match want {
            ScheduleWant::Id(id) => self.by_id.get(id),
            ScheduleWant::Named(name) => self.by_id.get(self.by_name.get(name.as_str())?),
        });
        found.map(|info| (info.id, Arc::clone(info))).collect()
    }

    pub(super) fn write(&mut self, writes: &ScheduleWrites) -> Result<(), StoreError> {
        for id in &writes.deleted {
            if let Some(info) = self.by_id.remove(id) {
                self.by_name.remove(&info.name);
            }
        }
        for ScheduleRow { before, after, .. } in &writes.rows {
            let kept = self.by_id.get(&after.id).map(|info| (info.generation, info.run.cursor));
            if kept != *before {
                return Err(StoreError::Corrupt(format!("the schedule {} has come elsewhere", after.name)));
            }
            self.by_name.insert(Arc::clone(&after.name), after.id);
            self.by_id.insert(after.id, Arc::clone(after));
        }
        for name in &writes.deleted_calendars {
            self.calendars.remove(name);
        }
        for calendar in &writes.calendars {
            self.calendars.insert(Arc::clone(&calendar.name), calendar.clone());
        }
        if let Some(zones) = &writes.zones {
            self.zones = Some(zones.clone());
        }
        Ok(())
    }

    pub(super) fn page(&self, after: Option<&str>, limit: usize) -> Vec<ScheduleInfo> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let ids = self.by_name.range::<str, _>((from, Bound::Unbounded)).map(|(_, id)| id);
        let found = ids.take(limit).filter_map(|id| self.by_id.get(id));
        found.map(|info| info.without_payload()).collect()
    }

    pub(super) fn named(&self, name: &str) -> Option<ScheduleInfo> {
        self.by_id.get(self.by_name.get(name)?).map(|info| ScheduleInfo::clone(info))
    }

    pub(super) fn calendars(&self) -> Vec<CalendarInfo> {
        self.calendars.values().cloned().collect()
    }
}
