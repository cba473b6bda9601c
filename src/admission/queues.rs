//! The queues that exist now, for quick answers without asking the store.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::RwLock;

use crate::{clock::Timestamp, config::WhenFull, store::QueueInfo};

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
    /// Survives changes of the queue, because those who wait do.
    waiters: Arc<AtomicU64>,
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
        self.waiters.load(Ordering::Relaxed)
    }

    /// Until when a submission waits for room, if it does. A caller's own `when_full` goes before the queue's; a
    /// caller's `deadline` only shortens the wait.
    #[must_use]
    pub fn patience(
        &self,
        now: Timestamp,
        when_full: Option<WhenFull>,
        deadline: Option<Timestamp>,
    ) -> Option<Timestamp> {
        let settings = &self.info.settings;
        match when_full.unwrap_or(settings.when_full) {
            WhenFull::Reject => None,
            WhenFull::Wait => {
                let until = now.after(settings.max_wait);
                Some(deadline.map_or(until, |deadline| until.min(deadline)))
            }
        }
    }

    pub(crate) fn set_waiters(&self, waiters: usize) {
        self.waiters.store(waiters as u64, Ordering::Relaxed);
    }
}

impl Queues {
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
            let (name, waiters) = match before.get(info.name.as_str()) {
                Some(entry) => (Arc::clone(&entry.name), Arc::clone(&entry.waiters)),
                None => (Arc::from(info.name.as_str()), Arc::default()),
            };
            by_name.insert(Arc::clone(&name), Arc::new(QueueEntry { name, info, waiters }));
        }
    }
}
