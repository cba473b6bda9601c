//! The registry of a store's queues, which the engine changes and all other modules read.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::RwLock;

use super::{ControlRefusal, names::NameBook, refusals::QueueFull, tallies::Usage};
use crate::{
    clock::Uptime,
    job::Name,
    settings::{
        QueueInfo, QueueSettings, WhenFull,
        limits::{CONSUMERS_TOTAL_MAX, QUEUES_MAX},
    },
    store::Names,
};

/// Limit of known queue names, those of deleted queues with ended jobs included.
const QUEUE_NAMES_MAX: usize = 100_000;

/// The existing queues. The engine updates them after each commit that changes one.
#[derive(Debug, Default)]
pub struct Queues {
    tables: RwLock<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    by_name: HashMap<Arc<str>, Arc<QueueEntry>>,
    by_number: HashMap<u32, Arc<QueueEntry>>,
}

/// A queue in the registry.
#[derive(Debug)]
pub struct QueueEntry {
    name: Arc<str>,
    info: QueueInfo,
    /// Number of callers that wait for room, shared by all versions of the queue's entry.
    waiters: Arc<AtomicU64>,
}

/// Deadlines of a caller's waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WaitDeadlines {
    /// Deadline of the wait for room in a full queue; absent if the caller does not wait for room.
    pub room: Option<Uptime>,
    /// Deadline of the wait for a locked store: the caller's deadline, or the queue's `max_wait` if it has none.
    pub store: Uptime,
}

impl QueueEntry {
    /// Returns the queue's name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns the queue's settings and state.
    #[must_use]
    pub fn info(&self) -> &QueueInfo {
        &self.info
    }

    /// Returns the number of callers that wait for room in the queue.
    #[must_use]
    pub fn waiters(&self) -> u64 {
        self.waiters.load(Ordering::Relaxed)
    }

    /// Returns the wait deadlines of a submission. The caller's `when_full` overrides the queue's; the caller's
    /// `deadline` can only shorten the wait for room.
    #[must_use]
    pub fn wait_deadlines(
        &self,
        now: Uptime,
        when_full: Option<WhenFull>,
        deadline: Option<Uptime>,
    ) -> WaitDeadlines {
        let settings = &self.info.settings;
        let until = now.after(settings.max_wait);
        let room = match when_full.unwrap_or(settings.when_full) {
            WhenFull::Reject => None,
            WhenFull::Wait => Some(deadline.map_or(until, |deadline| until.min(deadline))),
        };
        WaitDeadlines { room, store: deadline.unwrap_or(until) }
    }

    /// Returns the shared count of waiting callers.
    pub(super) fn waiters_count(&self) -> &Arc<AtomicU64> {
        &self.waiters
    }
}

impl Queues {
    /// Returns the queue with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<QueueEntry>> {
        self.tables.read().by_name.get(name).cloned()
    }

    /// Returns the queue with this number.
    pub(super) fn numbered(&self, number: u32) -> Option<Arc<QueueEntry>> {
        self.tables.read().by_number.get(&number).cloned()
    }

    /// Returns all queues, by number.
    pub(super) fn all(&self) -> Vec<Arc<QueueEntry>> {
        let mut all: Vec<_> = self.tables.read().by_number.values().cloned().collect();
        all.sort_by_key(|queue| queue.info.name.number);
        all
    }

    /// Returns the deadline of a caller's wait for a locked store, for a change in the queue with this name.
    pub(crate) fn store_deadline(&self, name: &str, now: Uptime, deadline: Option<Uptime>) -> Uptime {
        let max_wait =
            || self.get(name).map_or(QueueSettings::default().max_wait, |queue| queue.info.settings.max_wait);
        deadline.unwrap_or_else(|| now.after(max_wait()))
    }

    fn put(&self, info: QueueInfo) {
        let mut tables = self.tables.write();
        let (name, waiters) = match tables.by_number.get(&info.name.number) {
            Some(entry) => (Arc::clone(&entry.name), Arc::clone(&entry.waiters)),
            None => (Arc::from(info.name.as_str()), Arc::default()),
        };
        let number = info.name.number;
        let entry = Arc::new(QueueEntry { name: Arc::clone(&name), info, waiters });
        tables.by_name.insert(name, Arc::clone(&entry));
        tables.by_number.insert(number, entry);
    }

    fn remove(&self, number: u32) {
        let mut tables = self.tables.write();
        if let Some(entry) = tables.by_number.remove(&number) {
            tables.by_name.remove(&entry.name);
        }
    }
}

/// The engine's view of the queues: the registry, all queue names, and the batch's changes.
#[derive(Debug)]
pub(super) struct QueueBook {
    registry: Arc<Queues>,
    names: NameBook,
    /// Queues that the batch changes; `None` if it deletes them.
    changed: BTreeMap<u32, Option<QueueInfo>>,
    /// The numbers of these queues.
    changed_names: HashMap<Box<str>, u32>,
}

impl QueueBook {
    /// Loads the stored queues, each with whether it is deleted.
    pub(super) fn load(queues: Vec<(QueueInfo, bool)>) -> Self {
        let registry = Arc::new(Queues::default());
        let names = NameBook::load(queues.iter().map(|(info, _)| Arc::clone(&info.name)));
        for (info, deleted) in queues {
            if !deleted {
                registry.put(info);
            }
        }
        QueueBook { registry, names, changed: BTreeMap::new(), changed_names: HashMap::new() }
    }

    /// Returns the registry, for readers outside the engine.
    pub(super) fn registry(&self) -> &Arc<Queues> {
        &self.registry
    }

    /// Returns the queue with this name, with the batch's changes so far.
    pub(super) fn find(&self, name: &str) -> Option<QueueInfo> {
        match self.changed_names.get(name).and_then(|number| self.changed.get(number)) {
            Some(changed) => changed.clone(),
            None => self.registry.get(name).map(|entry| entry.info.clone()),
        }
    }

    /// Applies a function to the queue with this number, with the batch's changes so far; `None` if there is no such
    /// queue.
    pub(super) fn with<T>(&self, number: u32, tell: impl FnOnce(&QueueInfo) -> T) -> Option<T> {
        match self.changed.get(&number) {
            Some(info) => info.as_ref().map(tell),
            None => self.registry.numbered(number).map(|entry| tell(&entry.info)),
        }
    }

    /// Returns the interned name of an existing queue.
    pub(super) fn name(&self, name: &str) -> Option<Arc<Name>> {
        if self.changed.is_empty() {
            let tables = self.registry.tables.read();
            return tables.by_name.get(name).map(|entry| Arc::clone(&entry.info.name));
        }
        self.find(name).map(|info| info.name)
    }

    /// Returns all queues with the batch's changes so far.
    pub(super) fn all(&self) -> Vec<QueueInfo> {
        let mut all: BTreeMap<u32, QueueInfo> = self
            .registry
            .all()
            .into_iter()
            .map(|entry| (entry.info.name.number, entry.info.clone()))
            .collect();
        for (number, info) in &self.changed {
            match info {
                Some(info) => all.insert(*number, info.clone()),
                None => all.remove(number),
            };
        }
        all.into_values().collect()
    }

    /// Checks that a queue with this name and these settings can be created.
    pub(super) fn check_new(
        &self,
        names: &Names,
        name: &str,
        settings: &QueueSettings,
    ) -> Result<(), ControlRefusal> {
        if self.find(name).is_some() {
            return Err(ControlRefusal::QueueExists(name.to_owned()));
        }
        if self.all().len() >= QUEUES_MAX {
            return Err(ControlRefusal::TooManyQueues(QUEUES_MAX));
        }
        // Names of deleted queues count as long as ended jobs use them.
        if names.queues.find(name).is_none() && self.names.len() >= QUEUE_NAMES_MAX {
            return Err(ControlRefusal::TooManyQueues(QUEUE_NAMES_MAX));
        }
        self.check_consumers(None, settings)
    }

    /// Checks that all queues together stay within the limit of consumers, with `new` instead of the settings of the
    /// queue `except`.
    pub(super) fn check_consumers(
        &self,
        except: Option<u32>,
        new: &QueueSettings,
    ) -> Result<(), ControlRefusal> {
        let others: u64 = (self.all().iter())
            .filter(|info| except != Some(info.name.number))
            .map(|info| u64::from(info.settings.consumers))
            .sum();
        let actual = others + u64::from(new.consumers);
        if actual > CONSUMERS_TOTAL_MAX {
            return Err(ControlRefusal::TooManyConsumers { actual, max: CONSUMERS_TOTAL_MAX });
        }
        Ok(())
    }

    /// Returns the queue with this name if it can be changed over the API.
    pub(super) fn changeable(&self, name: &str) -> Result<QueueInfo, ControlRefusal> {
        match self.find(name) {
            Some(info) if info.declared => Err(ControlRefusal::QueueDeclared(name.to_owned())),
            Some(info) => Ok(info),
            None => Err(ControlRefusal::QueueNotFound(name.to_owned())),
        }
    }

    /// Returns the interned name of a queue, with a new number if the name is new.
    pub(super) fn intern(&mut self, names: &Names, name: &str) -> Arc<Name> {
        self.names.intern(&names.queues, name)
    }

    /// Creates or replaces a queue.
    pub(super) fn put(&mut self, info: QueueInfo) {
        self.changed_names.insert(info.name.as_str().into(), info.name.number);
        self.changed.insert(info.name.number, Some(info));
    }

    /// Deletes a queue. Its ended jobs are kept.
    pub(super) fn delete(&mut self, queue: &Name) {
        self.changed_names.insert(queue.as_str().into(), queue.number);
        self.changed.insert(queue.number, None);
    }

    /// Frees the name of a deleted queue without jobs. Returns whether the batch has to delete its row.
    pub(super) fn free_if_deleted(&mut self, number: u32) -> bool {
        self.with(number, |_| ()).is_none() && self.names.free(number)
    }

    /// Returns the queues that the batch deletes.
    pub(super) fn deleted_now(&self) -> Vec<u32> {
        self.changed.iter().filter(|(_, info)| info.is_none()).map(|(number, _)| *number).collect()
    }

    /// Returns the numbers of deleted queues, which may still have ended jobs.
    pub(super) fn deleted(&self) -> Vec<u32> {
        let kept = self.names.kept().map(|name| name.number);
        kept.filter(|number| self.with(*number, |_| ()).is_none()).collect()
    }

    /// Returns the rows that the batch changes, except those that it deletes.
    pub(super) fn rows(&self, is_freed: impl Fn(u32) -> bool) -> Vec<(QueueInfo, bool)> {
        let mut rows = Vec::new();
        for (number, info) in &self.changed {
            match info {
                Some(info) => rows.push((info.clone(), false)),
                None if is_freed(*number) => {}
                None => rows.extend(self.registry.numbered(*number).map(|entry| (entry.info.clone(), true))),
            }
        }
        rows
    }

    /// Returns whether the batch changes a queue.
    pub(super) fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Returns the queue's usage and limits if `share` would exceed a limit on top of `used`.
    pub(super) fn full(&self, queue: &Name, used: Usage, share: Usage) -> Option<QueueFull> {
        let full = self.usage(queue, used);
        let fits = full.jobs + share.jobs as u64 <= full.max_jobs
            && full.bytes + share.bytes as u64 <= full.max_bytes;
        (!fits).then_some(full)
    }

    /// Returns a queue's usage and limits.
    pub(super) fn usage(&self, queue: &Name, used: Usage) -> QueueFull {
        let (max_jobs, max_bytes) = self
            .with(queue.number, |info| (info.settings.max_jobs, info.settings.max_bytes))
            .unwrap_or_default();
        QueueFull {
            queue: queue.as_str().to_owned(),
            jobs: used.jobs as u64,
            max_jobs,
            bytes: used.bytes as u64,
            max_bytes,
        }
    }

    /// Takes over the changes of the batch, which is on disk.
    pub(super) fn commit(&mut self, names: &Names, now: Uptime) {
        self.changed_names.clear();
        for (number, info) in std::mem::take(&mut self.changed) {
            match info {
                Some(info) => self.registry.put(info),
                None => self.registry.remove(number),
            }
        }
        self.names.commit(&names.queues, now);
    }

    /// Drops the changes of the batch, which was not committed.
    pub(super) fn discard(&mut self, names: &Names) {
        self.changed.clear();
        self.changed_names.clear();
        self.names.discard(&names.queues);
    }
}
