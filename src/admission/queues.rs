//! The queues that exist now, for quick answers without asking the store.

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;

use super::waiters::Callers;
use crate::{
    clock::Uptime,
    settings::{QueueInfo, QueueSettings, WhenFull},
};

/// The queues that exist now. The committer keeps it up to date after each commit that changes one.
#[derive(Debug, Default)]
pub struct Queues {
    by_name: RwLock<HashMap<Arc<str>, Arc<QueueEntry>>>,
}

/// A queue.
#[derive(Debug)]
pub struct QueueEntry {
    name: Arc<str>,
    info: QueueInfo,
    /// Those who wait for room. They outlive changes of the queue.
    callers: Arc<Callers>,
}

/// Until when a caller waits, and for what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    /// For room in a full queue; absent where it does not wait for that.
    pub room: Option<Uptime>,
    /// For a store that takes nothing for a while: until the caller's deadline, or for the queue's `max_wait` where it has
    /// none.
    pub store: Uptime,
}

impl QueueEntry {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// How it is set up.
    #[must_use]
    pub fn info(&self) -> &QueueInfo {
        &self.info
    }

    /// How many callers wait for room in it.
    #[must_use]
    pub fn waiters(&self) -> u64 {
        self.callers.present() as u64
    }

    /// Until when a submission waits. A caller's own `when_full` goes before the queue's; a caller's `deadline` shortens
    /// the wait for room.
    #[must_use]
    pub fn patience(&self, now: Uptime, when_full: Option<WhenFull>, deadline: Option<Uptime>) -> Patience {
        let settings = &self.info.settings;
        let until = now.after(settings.max_wait);
        let room = match when_full.unwrap_or(settings.when_full) {
            WhenFull::Reject => None,
            WhenFull::Wait => Some(deadline.map_or(until, |deadline| until.min(deadline))),
        };
        Patience { room, store: deadline.unwrap_or(until) }
    }

    pub(crate) fn callers(&self) -> &Arc<Callers> {
        &self.callers
    }
}

impl Queues {
    /// Until when a caller waits for a store that takes nothing for a while, for a change in the queue with this name.
    pub(crate) fn give_up(&self, name: &str, now: Uptime, deadline: Option<Uptime>) -> Uptime {
        let max_wait =
            || self.get(name).map_or(QueueSettings::default().max_wait, |queue| queue.info.settings.max_wait);
        deadline.unwrap_or_else(|| now.after(max_wait()))
    }

    /// The queue with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<QueueEntry>> {
        self.by_name.read().get(name).cloned()
    }

    /// Replaces all queues.
    pub(crate) fn set(&self, infos: Vec<QueueInfo>) {
        let mut by_name = self.by_name.write();
        let before = std::mem::take(&mut *by_name);
        for info in infos {
            let (name, callers) = match before.get(info.name.as_str()) {
                Some(entry) => (Arc::clone(&entry.name), Arc::clone(&entry.callers)),
                None => (Arc::from(info.name.as_str()), Arc::default()),
            };
            by_name.insert(Arc::clone(&name), Arc::new(QueueEntry { name, info, callers }));
        }
    }
}
