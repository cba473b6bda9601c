//! Calendars, all of which are in memory, and the schedules that use each.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::{super::{ControlRefusal, decision::Decision}, ScheduleRefusal};
use crate::{
    job::{RequestId, ScheduleId},
    settings::{CalendarInfo, Calendars, limits::CALENDARS_MAX},
    store::sets::RequestOutcome,
    timetable::DateRange,
};

/// A change of a calendar.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CalendarAction {
    /// Create it with these dates.
    Create(Vec<DateRange>),
    /// Replace its dates.
    Update {
        /// The new dates.
        dates: Vec<DateRange>,
        /// Etag that it must have.
        etag: Option<String>,
    },
    /// Delete it.
    Delete,
}

/// The answer to a change of a calendar.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CalendarDone {
    /// The calendar; absent if it is deleted.
    pub calendar: Option<Arc<CalendarInfo>>,
    /// Whether the request id was seen before.
    pub is_repeat: bool,
}

/// The calendars of a store.
#[derive(Debug, Default)]
pub(in super::super) struct CalendarBook {
    kept: Arc<Calendars>,
    /// The same with the batch's changes so far.
    present: Arc<Calendars>,
    used_by: BTreeMap<Arc<str>, BTreeSet<ScheduleId>>,
    used: HashMap<ScheduleId, Vec<Arc<str>>>,
    /// Calendars that the batch changes.
    changed: BTreeSet<Arc<str>>,
}

impl CalendarBook {
    pub(super) fn load(calendars: &[CalendarInfo], uses: &[(String, ScheduleId)]) -> Self {
        let kept = calendars.iter().map(|info| (Arc::clone(&info.name), Arc::new(info.clone())));
        let kept: Arc<Calendars> = Arc::new(kept.collect());
        let mut book = CalendarBook { present: Arc::clone(&kept), kept, ..CalendarBook::default() };
        for (name, schedule) in uses {
            let name: Arc<str> = name.as_str().into();
            book.used.entry(*schedule).or_default().push(Arc::clone(&name));
            book.used_by.entry(name).or_default().insert(*schedule);
        }
        book
    }

    /// Returns the schedules that use any calendar.
    pub(super) fn users(&self) -> HashSet<ScheduleId> {
        self.used.keys().copied().collect()
    }

    /// Records which calendars a schedule uses.
    pub(super) fn uses(&mut self, schedule: ScheduleId, names: &[String]) {
        for name in self.used.remove(&schedule).unwrap_or_default() {
            if let Some(users) = self.used_by.get_mut(&name) {
                users.remove(&schedule);
                if users.is_empty() {
                    self.used_by.remove(&name);
                }
            }
        }
        for name in names {
            let name: Arc<str> = name.as_str().into();
            self.used.entry(schedule).or_default().push(Arc::clone(&name));
            self.used_by.entry(name).or_default().insert(schedule);
        }
    }

    /// Returns a calendar with the batch's changes so far.
    pub(super) fn find(&self, name: &str) -> Option<Arc<CalendarInfo>> {
        self.present.get(name).cloned()
    }

    /// Returns all calendars with the batch's changes so far.
    pub(super) fn all(&self) -> Arc<Calendars> {
        Arc::clone(&self.present)
    }

    /// Returns the schedules that use a calendar, without the batch's changes.
    pub(super) fn users_of(&self, name: &str) -> impl Iterator<Item = ScheduleId> {
        self.used_by.get(name).into_iter().flatten().copied()
    }

    pub(super) fn put(&mut self, info: CalendarInfo) -> Arc<CalendarInfo> {
        let info = Arc::new(info);
        Arc::make_mut(&mut self.present).insert(Arc::clone(&info.name), Arc::clone(&info));
        self.changed.insert(Arc::clone(&info.name));
        info
    }

    pub(super) fn delete(&mut self, name: &Arc<str>) {
        Arc::make_mut(&mut self.present).remove(name);
        self.changed.insert(Arc::clone(name));
    }

    /// Returns the rows that the batch writes and deletes.
    pub(super) fn rows(&self) -> (Vec<CalendarInfo>, Vec<Arc<str>>) {
        let written = self.changed.iter().filter_map(|name| self.present.get(name));
        let is_deleted = |name: &&Arc<str>| self.kept.contains_key(*name) && !self.present.contains_key(*name);
        let deleted = self.changed.iter().filter(is_deleted);
        (written.map(|info| CalendarInfo::clone(info)).collect(), deleted.cloned().collect())
    }

    /// Takes over the changes of the batch, and returns the schedules whose instants may be others now.
    pub(super) fn commit(&mut self) -> Vec<ScheduleId> {
        self.kept = Arc::clone(&self.present);
        let changed = std::mem::take(&mut self.changed);
        changed.iter().flat_map(|name| self.users_of(name)).collect()
    }

    /// Drops the changes of the batch.
    pub(super) fn discard(&mut self) {
        self.present = Arc::clone(&self.kept);
        self.changed.clear();
    }
}

impl Decision<'_> {
    /// Carries out a change of a calendar.
    pub(in super::super) fn change_calendar(
        &mut self,
        name: &str,
        action: &CalendarAction,
        request: Option<RequestId>,
    ) -> Result<CalendarDone, ControlRefusal> {
        let found = self.engine.schedules.calendar(name);
        let calendar = match (action, found) {
            (CalendarAction::Create(_), Some(_)) => return Err(ScheduleRefusal::CalendarExists(name.to_owned()).into()),
            (CalendarAction::Create(dates), None) => {
                if self.engine.schedules.calendars().len() >= CALENDARS_MAX {
                    return Err(ScheduleRefusal::TooManyCalendars(CALENDARS_MAX).into());
                }
                Some(self.put_calendar(name, dates.clone(), false))
            }
            (CalendarAction::Update { .. } | CalendarAction::Delete, None) => {
                return Err(ScheduleRefusal::CalendarNotFound(name.to_owned()).into());
            }
            (CalendarAction::Update { .. } | CalendarAction::Delete, Some(info)) if info.declared => {
                return Err(ScheduleRefusal::CalendarDeclared(name.to_owned()).into());
            }
            (CalendarAction::Update { dates, etag }, Some(info)) => {
                if etag.as_ref().is_some_and(|etag| *etag != info.etag()) {
                    let (calendar, etag) = (name.to_owned(), info.etag());
                    return Err(ScheduleRefusal::CalendarEtagMismatch { calendar, etag }.into());
                }
                Some(self.put_calendar(name, dates.clone(), false))
            }
            (CalendarAction::Delete, Some(info)) => {
                let schedules = self.engine.schedules.users_of(name);
                if schedules > 0 {
                    return Err(ScheduleRefusal::CalendarInUse { calendar: name.to_owned(), schedules }.into());
                }
                self.engine.schedules.calendars.delete(&info.name);
                None
            }
        };
        self.keep_answer(request, RequestOutcome::Done { queue: 0 });
        Ok(CalendarDone { calendar, is_repeat: false })
    }

    /// Creates or replaces a calendar.
    pub(super) fn put_calendar(&mut self, name: &str, mut dates: Vec<DateRange>, declared: bool) -> Arc<CalendarInfo> {
        dates.sort_unstable();
        dates.dedup();
        let kept = self.engine.schedules.calendar(name);
        if let Some(kept) = &kept
            && kept.dates == dates
            && kept.declared == declared
        {
            return Arc::clone(kept);
        }
        let before = kept.as_ref().map_or(0, |kept| kept.revision);
        let revision = self.now().as_micros().max(before + 1);
        let name = kept.map_or_else(|| name.into(), |kept| Arc::clone(&kept.name));
        self.engine.schedules.calendars.put(CalendarInfo { name, dates, revision, declared })
    }
}
