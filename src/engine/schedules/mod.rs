//! Schedules: an index of the times at which each has something to do, and their changes within a batch.
//!
//! A schedule itself is in the store only, and is read when its time comes. Its row and the job of an instant are written
//! in one transaction, so that no instant creates two jobs, whatever crashes.

mod backfill;
mod calendars;
mod changes;
mod declare;
mod feed;
mod fire;
mod refusals;
mod times;
mod turn;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

pub use self::{
    calendars::{CalendarAction, CalendarDone},
    changes::{ScheduleAction, ScheduleDone},
    feed::{ChangedSchedules, ScheduleCensus, ScheduleFeed},
};
use self::calendars::CalendarBook;
pub(crate) use self::backfill::BACKFILL_MAX;
pub use self::{backfill::BackfillRange, refusals::ScheduleRefusal};
pub(super) use self::turn::Budget;
use super::Batch;
use crate::{
    clock::{ClockReading, Timestamp, Uptime, WakeTime},
    job::{Job, JobId, ScheduleId, ScheduleOrigin, StateName},
    settings::{CalendarInfo, Calendars, KindDefaults, ScheduleInfo, ScheduleSettings},
    store::{
        Space,
        sets::{LoadedSchedules, ScheduleEntry, ScheduleRow, ScheduleWant, ScheduleWrites},
    },
};

/// Limit of the schedules that a batch looks at because their time has come, and of those for another reason.
const LOOKED_AT_MAX: usize = 128;
/// Byte limit of their payloads; the last one taken may exceed it.
const BYTES_MAX: u64 = 1 << 20;
/// Time for which no schedule is looked at after the disk had too little space for new jobs.
const HOLD: Duration = Duration::from_secs(5);
/// Smallest step back of the clock that schedules follow. Less is a correction, and their instants come again in no time.
pub(super) const SET_BACK: Duration = Duration::from_secs(1);

/// Schedules at a start.
#[derive(Clone, Debug, Default)]
pub struct ScheduleSetup {
    /// The defaults of the known kinds.
    pub kinds: HashMap<String, KindDefaults>,
    /// The schedules that the configuration file declares.
    pub declared: BTreeMap<String, ScheduleSettings>,
    /// The calendars that it declares.
    pub calendars: BTreeMap<String, Vec<crate::timetable::DateRange>>,
}

/// A schedule in memory.
#[derive(Clone, Copy, Debug)]
struct Entry {
    kept: ScheduleEntry,
    /// Whether an offer of the schedule waits for room.
    is_parked: bool,
    /// Whether an instant waits for something else: a queue, a kind.
    is_blocked: bool,
}

impl Entry {
    fn is_waiting(self) -> bool {
        self.is_parked || self.is_blocked
    }
}

/// A schedule that the batch changes.
#[derive(Debug, Default)]
struct Version {
    /// Generation and last decided instant of the stored schedule.
    before: Option<(u64, Timestamp)>,
    name: Arc<str>,
    /// Absent if the batch deletes it.
    now: Option<Arc<ScheduleInfo>>,
    /// Whether more has changed than how far it has come.
    is_defined: bool,
    /// Whether its jobs go to another queue than before.
    is_moved: bool,
    /// Whether an instant waits for something else than room.
    is_blocked: bool,
}

impl Version {
    /// Returns the version of a schedule that the batch has not changed yet.
    fn of(before: Option<&ScheduleInfo>, name: &Arc<str>) -> Self {
        Version {
            before: before.map(|info| (info.generation, info.run.cursor)),
            name: Arc::clone(name),
            ..Version::default()
        }
    }
}

/// What became of instants in a batch, for metrics.
#[derive(Debug, Default)]
pub struct InstantCounts {
    /// How late each instant was when its job was created.
    pub fired: Vec<Duration>,
    /// Number of instants that were missed.
    pub missed: u64,
    /// Number of late ones of which a newer one ran instead.
    pub superseded: u64,
    /// Number of those that met an earlier job.
    pub overlapped: u64,
    /// Number of those that could not be accepted in time.
    pub no_room: u64,
    /// Number of jobs of backfills.
    pub backfilled: u64,
}

/// The schedules of a store.
#[derive(Debug)]
pub(super) struct ScheduleBook {
    kinds: HashMap<String, KindDefaults>,
    entries: HashMap<ScheduleId, Entry>,
    /// When each schedule has something to do.
    wakes: BTreeSet<(Timestamp, ScheduleId)>,
    /// Schedules to look at for another reason than the time: a job has ended, a queue has changed.
    called: BTreeSet<ScheduleId>,
    /// Ends of scheduled jobs that their schedules have not been told of.
    ended: HashMap<ScheduleId, Vec<(JobId, StateName)>>,
    calendars: CalendarBook,
    feed: Arc<ScheduleFeed>,
    census: ScheduleCensus,
    /// Time until which no schedule is looked at.
    hold: Option<Uptime>,
    /// Whether the server stops: the next one looks at what comes.
    is_stopping: bool,
    present: ClockReading,
    /// The time zone database whose version is to be stored once all schedules have been looked at.
    new_zones: Option<String>,
    // Changes of the batch.
    changed: BTreeMap<ScheduleId, Version>,
    looked_at: Vec<ScheduleId>,
    calls: Vec<ScheduleId>,
    ends: Vec<(ScheduleId, JobId, StateName)>,
    /// Schedules whose offer has its turn in the batch.
    seated: Vec<ScheduleId>,
    /// Schedules without a readable row.
    gone: Vec<ScheduleId>,
    zones_kept: bool,
}

impl ScheduleBook {
    pub(super) fn load(
        loaded: &LoadedSchedules,
        setup: &ScheduleSetup,
        zones: String,
        present: ClockReading,
    ) -> Self {
        let mut book = ScheduleBook {
            kinds: setup.kinds.clone(),
            entries: HashMap::with_capacity(loaded.entries.len()),
            wakes: BTreeSet::new(),
            called: BTreeSet::new(),
            ended: HashMap::new(),
            calendars: CalendarBook::load(&loaded.calendars, &loaded.uses),
            feed: Arc::default(),
            census: ScheduleCensus::default(),
            hold: None,
            is_stopping: false,
            present,
            new_zones: None,
            changed: BTreeMap::new(),
            looked_at: Vec::new(),
            calls: Vec::new(),
            ends: Vec::new(),
            seated: Vec::new(),
            gone: Vec::new(),
            zones_kept: false,
        };
        // With other rules of time zones, each next instant may be another one. A calendar may have changed just before
        // a crash.
        let same_zones = loaded.zones.as_ref() == Some(&zones);
        let uses = book.calendars.users();
        for kept in &loaded.entries {
            book.put(*kept, false);
            let is_ahead = kept.cursor > present.wall.after(SET_BACK);
            if kept.is_unsettled || is_ahead || !same_zones || uses.contains(&kept.id) {
                book.called.insert(kept.id);
            }
        }
        book.new_zones = (!same_zones).then_some(zones);
        book.feed.count(book.census);
        book
    }

    /// Returns the changes and the numbers of schedules, for readers outside the engine.
    pub(super) fn feed(&self) -> &Arc<ScheduleFeed> {
        &self.feed
    }

    /// Sets or removes the entry of a schedule, the index of its times, and its part in the numbers of schedules.
    fn set(&mut self, id: ScheduleId, entry: Option<Entry>) {
        let before = match entry {
            Some(entry) => self.entries.insert(id, entry),
            None => self.entries.remove(&id),
        };
        if let Some(before) = before {
            self.census.all -= 1;
            self.census.paused -= u64::from(before.kept.is_paused);
            self.census.waiting -= u64::from(before.is_waiting());
        }
        if let Some(wake) = before.and_then(|before| before.kept.wake) {
            self.wakes.remove(&(wake, id));
        }
        if let Some(entry) = entry {
            self.census.all += 1;
            self.census.paused += u64::from(entry.kept.is_paused);
            self.census.waiting += u64::from(entry.is_waiting());
            self.wakes.extend(entry.kept.wake.map(|wake| (wake, id)));
        }
    }

    fn put(&mut self, kept: ScheduleEntry, is_blocked: bool) {
        let is_parked = self.entries.get(&kept.id).is_some_and(|entry| entry.is_parked);
        self.set(kept.id, Some(Entry { kept, is_parked, is_blocked }));
    }

    fn remove(&mut self, id: ScheduleId) {
        self.set(id, None);
        self.called.remove(&id);
        self.ended.remove(&id);
    }

    /// Returns the number of schedules, with the batch's changes so far.
    pub(super) fn count(&self) -> usize {
        let is_kept = |id: &ScheduleId| self.entries.contains_key(id);
        let new = self.changed.iter().filter(|(id, version)| version.now.is_some() && !is_kept(id)).count();
        let gone = self.changed.iter().filter(|(id, version)| version.now.is_none() && is_kept(id)).count();
        self.entries.len() + new - gone
    }

    /// Returns when there is work without any input.
    pub(super) fn wake(&self) -> WakeTime {
        match self.hold {
            _ if self.is_stopping => WakeTime::default(),
            Some(until) => WakeTime::from(until),
            None if !self.called.is_empty() => WakeTime::from(Uptime::default()),
            None => WakeTime { wall: self.wakes.first().map(|(wake, _)| *wake), uptime: None },
        }
    }

    /// Plans the schedules that a batch looks at. Without space for new jobs, none is looked at for a while.
    pub(super) fn plan(&mut self, batch: &Batch) -> Vec<ScheduleId> {
        let present = batch.present;
        let was = std::mem::replace(&mut self.present, present);
        if present.wall.after(SET_BACK) < was.wall {
            // What waits may have yet to come by the new time.
            let is_ahead = |entry: &&Entry| entry.kept.cursor > present.wall.after(SET_BACK) || entry.is_waiting();
            let ahead: Vec<_> = self.entries.values().filter(is_ahead).map(|entry| entry.kept.id).collect();
            if !ahead.is_empty() {
                tracing::warn!(
                    now = %present.wall, was = %was.wall, schedules = ahead.len(),
                    "the clock was set back: these schedules go on from now, and repeat no instant that has run"
                );
            }
            self.called.extend(ahead);
        }
        self.seated = batch.offers.iter().filter_map(|offer| offer.schedule).collect();
        self.is_stopping = !batch.claim;
        if batch.space != Space::Enough {
            self.hold = Some(present.uptime.after(HOLD));
        }
        if self.is_stopping || self.hold.is_some_and(|until| until > present.uptime) {
            return Vec::new();
        }
        self.hold = None;
        let due = self.wakes.iter().take_while(|(wake, _)| *wake <= present.wall).map(|(_, id)| *id);
        let mut chosen: Vec<ScheduleId> = Vec::new();
        let mut bytes = 0;
        for ids in [due.take(LOOKED_AT_MAX).collect::<Vec<_>>(), self.called.iter().copied().take(LOOKED_AT_MAX).collect()] {
            for id in ids {
                if bytes >= BYTES_MAX {
                    break;
                }
                if !chosen.contains(&id) && !self.seated.contains(&id) {
                    bytes += self.entries.get(&id).map_or(0, |entry| u64::from(entry.kept.bytes));
                    chosen.push(id);
                }
            }
        }
        chosen
    }

    /// Returns the reads of the schedules that a batch looks at.
    pub(super) fn wants(&self, chosen: &[ScheduleId]) -> Vec<ScheduleWant> {
        chosen.iter().chain(&self.seated).map(|id| ScheduleWant::Id(*id)).collect()
    }

    /// Notes the end of a job, or its deletion before its end.
    pub(super) fn job_ended(&mut self, job: &Job, state: StateName) {
        let Some(by) = job.spec.schedule() else { return };
        if self.entries.contains_key(&by.id) && by.origin != ScheduleOrigin::Triggered {
            self.ends.push((by.id, job.id, state));
        }
    }

    /// Has all schedules looked at whose instants wait for a queue or a kind.
    pub(super) fn obstacles_changed(&mut self) {
        let blocked = self.entries.values().filter(|entry| entry.is_blocked).map(|entry| entry.kept.id);
        let blocked: Vec<_> = blocked.collect();
        self.called.extend(blocked);
    }

    /// Returns the batch's version of a schedule: `None` if the batch has not changed it.
    fn version(&self, id: ScheduleId) -> Option<&Version> {
        self.changed.get(&id)
    }

    /// Records a change of a schedule.
    fn change(&mut self, before: Option<&ScheduleInfo>, now: Arc<ScheduleInfo>, is_defined: bool, is_blocked: bool) {
        let version = self.changed.entry(now.id).or_insert_with(|| Version::of(before, &now.name));
        version.is_defined |= is_defined;
        version.is_moved |= before.is_some_and(|before| before.queue() != now.queue());
        version.is_blocked = is_blocked;
        version.now = Some(now);
    }

    /// Records the deletion of a schedule.
    fn delete(&mut self, info: &ScheduleInfo) {
        let version = self.changed.entry(info.id).or_insert_with(|| Version::of(Some(info), &info.name));
        version.now = None;
    }

    /// Returns the rows that the batch writes.
    pub(super) fn rows(&mut self) -> ScheduleWrites {
        let mut writes = ScheduleWrites::default();
        for (id, version) in &self.changed {
            match &version.now {
                Some(after) => writes.rows.push(ScheduleRow {
                    before: version.before,
                    after: Arc::clone(after),
                    is_defined: version.is_defined,
                }),
                None if version.before.is_some() => writes.deleted.push(*id),
                // Created and deleted by the same batch.
                None => {}
            }
        }
        (writes.calendars, writes.deleted_calendars) = self.calendars.rows();
        // All schedules have been looked at since the start.
        if self.called.len() <= self.looked_at.len() && self.called.iter().all(|id| self.looked_at.contains(id)) {
            writes.zones.clone_from(&self.new_zones);
            self.zones_kept = writes.zones.is_some();
        }
        writes
    }

    /// Takes over the changes of the batch, which is on disk. Returns the schedules whose offers wait for room in queues to
    /// which their jobs go no longer.
    pub(super) fn commit(&mut self) -> Vec<ScheduleId> {
        let mut strays = Vec::new();
        for id in std::mem::take(&mut self.looked_at) {
            self.called.remove(&id);
            self.ended.remove(&id);
        }
        for id in std::mem::take(&mut self.seated) {
            self.unpark(id, false);
        }
        let mut told = Vec::new();
        for (id, version) in std::mem::take(&mut self.changed) {
            match version.now {
                Some(info) => {
                    if version.is_defined {
                        self.calendars.uses(id, &info.settings.times.calendars);
                    }
                    self.put(ScheduleEntry::of(&info), version.is_blocked);
                    strays.extend(Some(id).filter(|id| version.is_moved && self.is_parked(*id)));
                    told.push(Some(Arc::clone(&info.name)));
                }
                None => {
                    self.calendars.uses(id, &[]);
                    self.remove(id);
                    told.push(Some(version.name));
                }
            }
        }
        for id in std::mem::take(&mut self.gone) {
            self.remove(id);
            told.push(None);
        }
        for (id, job, state) in std::mem::take(&mut self.ends) {
            if self.entries.contains_key(&id) {
                self.ended.entry(id).or_default().push((job, state));
                self.called.insert(id);
            }
        }
        for id in std::mem::take(&mut self.calls) {
            if self.entries.contains_key(&id) {
                self.called.insert(id);
            }
        }
        self.called.extend(self.calendars.commit());
        if std::mem::take(&mut self.zones_kept) {
            self.new_zones = None;
        }
        self.feed.count(self.census);
        self.feed.tell(told);
        strays
    }

    /// Drops the changes of the batch, which was not committed.
    pub(super) fn discard(&mut self) {
        self.changed.clear();
        self.looked_at.clear();
        self.calls.clear();
        self.ends.clear();
        self.gone.clear();
        self.zones_kept = false;
        self.calendars.discard();
        for id in std::mem::take(&mut self.seated) {
            self.unpark(id, true);
        }
        // The disk is full.
        self.hold = Some(self.present.uptime.after(HOLD));
    }

    /// Notes that an offer of a schedule waits for room.
    pub(super) fn parked(&mut self, id: ScheduleId) {
        if let Some(entry) = self.entries.get(&id).copied() {
            self.set(id, Some(Entry { is_parked: true, ..entry }));
        }
    }

    /// Notes that no offer of a schedule waits for room any more; `call` has the schedule looked at.
    pub(super) fn unpark(&mut self, id: ScheduleId, call: bool) {
        if let Some(entry) = self.entries.get(&id).copied() {
            self.set(id, Some(Entry { is_parked: false, ..entry }));
            if call {
                self.called.insert(id);
            }
        }
    }

    fn is_parked(&self, id: ScheduleId) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.is_parked)
    }

    fn is_blocked(&self, id: ScheduleId) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.is_blocked)
    }

    /// Notes that the batch looks at a schedule.
    fn looks_at(&mut self, id: ScheduleId) {
        self.looked_at.push(id);
    }

    /// Notes that a schedule has no row that can be read.
    fn lost(&mut self, id: ScheduleId) {
        self.looked_at.push(id);
        self.gone.push(id);
    }

    /// Has a schedule looked at by the next batch.
    fn call(&mut self, id: ScheduleId) {
        self.calls.push(id);
    }

    /// Returns the ends of a schedule's jobs that it has not been told of.
    fn ends_of(&self, id: ScheduleId) -> Vec<(JobId, StateName)> {
        self.ended.get(&id).cloned().unwrap_or_default()
    }

    /// Returns the schedule with this name that the batch has created or changed.
    fn changed_named(&self, name: &str) -> Option<ScheduleId> {
        let named = |version: &Version| version.now.as_ref().is_some_and(|info| &*info.name == name);
        self.changed.iter().find(|(_, version)| named(version)).map(|(id, _)| *id)
    }

    /// Returns the number of schedules that use a calendar, with the batch's changes so far.
    fn users_of(&self, calendar: &str) -> usize {
        let kept = self.calendars.users_of(calendar).filter(|id| !self.changed.contains_key(id)).count();
        let uses = |info: &ScheduleInfo| info.settings.times.calendars.iter().any(|name| name == calendar);
        let changed = self.changed.values().filter(|version| version.now.as_deref().is_some_and(uses));
        kept + changed.count()
    }

    /// Returns all calendars with the batch's changes so far.
    pub(super) fn calendars(&self) -> Arc<Calendars> {
        self.calendars.all()
    }

    /// Returns a calendar with the batch's changes so far.
    pub(super) fn calendar(&self, name: &str) -> Option<Arc<CalendarInfo>> {
        self.calendars.find(name)
    }
}
