//! Changes and numbers of schedules, for readers outside the engine.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

/// Limit of the changes that are kept for watchers.
const KEPT_MAX: usize = 4_096;

/// Numbers of schedules.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScheduleCensus {
    /// All of them.
    pub all: u64,
    /// Those that are paused.
    pub paused: u64,
    /// Those with an instant that waits for room, a queue or a kind.
    pub waiting: u64,
}

/// The latest changes of schedules, and their numbers. The engine adds the changes of each batch after its commit.
#[derive(Debug)]
pub struct ScheduleFeed {
    changes: Mutex<Changes>,
    /// Number of changes so far.
    number: watch::Sender<u64>,
    census: Mutex<ScheduleCensus>,
}

#[derive(Debug, Default)]
struct Changes {
    /// The name of each changed schedule; absent for one whose row can't be read, so that its name is not known.
    latest: VecDeque<Option<Arc<str>>>,
    number: u64,
}

/// The schedules that have changed since a number of changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChangedSchedules {
    /// Those with these names.
    Named(Vec<Arc<str>>),
    /// The names are not known, or are too many: any may have changed.
    Any,
}

impl Default for ScheduleFeed {
    fn default() -> Self {
        ScheduleFeed {
            changes: Mutex::default(),
            number: watch::Sender::new(0),
            census: Mutex::default(),
        }
    }
}

impl ScheduleFeed {
    /// Returns a receiver of the number of changes.
    #[must_use]
    pub fn number(&self) -> watch::Receiver<u64> {
        self.number.subscribe()
    }

    /// Returns the schedules that have changed after the first `after` changes, and the present number of changes.
    #[must_use]
    pub fn since(&self, after: u64) -> (ChangedSchedules, u64) {
        let changes = self.changes.lock();
        let count = usize::try_from(changes.number.saturating_sub(after)).unwrap_or(usize::MAX);
        let skipped = changes.latest.len().checked_sub(count);
        let named = skipped.and_then(|skipped| {
            let names: Option<Vec<_>> = changes.latest.iter().skip(skipped).cloned().collect();
            names
        });
        let changed = named.map_or(ChangedSchedules::Any, |mut names| {
            names.sort_unstable();
            names.dedup();
            ChangedSchedules::Named(names)
        });
        (changed, changes.number)
    }

    /// Returns the numbers of schedules.
    #[must_use]
    pub fn census(&self) -> ScheduleCensus {
        *self.census.lock()
    }

    pub(super) fn count(&self, census: ScheduleCensus) {
        *self.census.lock() = census;
    }

    /// Adds changes.
    pub(super) fn tell(&self, names: Vec<Option<Arc<str>>>) {
        if names.is_empty() {
            return;
        }
        let mut changes = self.changes.lock();
        changes.number += names.len() as u64;
        changes.latest.extend(names);
        let more = changes.latest.len().saturating_sub(KEPT_MAX);
        changes.latest.drain(..more);
        self.number.send_replace(changes.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(names: &[&str]) -> ChangedSchedules {
        ChangedSchedules::Named(names.iter().map(|name| Arc::from(*name)).collect())
    }

    #[test]
    fn a_watcher_is_told_the_names_of_what_has_changed_once() {
        let feed = ScheduleFeed::default();
        feed.tell(vec![Some("b".into()), Some("a".into()), Some("b".into())]);
        assert_eq!(feed.since(0), (changed(&["a", "b"]), 3));
        assert_eq!(feed.since(2), (changed(&["b"]), 3));
        assert_eq!(feed.since(3), (changed(&[]), 3));
    }

    #[test]
    fn a_watcher_far_behind_or_after_an_unreadable_row_has_to_look_at_all() {
        let feed = ScheduleFeed::default();
        feed.tell(vec![Some("a".into()), None]);
        assert_eq!(feed.since(0), (ChangedSchedules::Any, 2));
        assert_eq!(feed.since(2), (changed(&[]), 2));
        feed.tell(vec![Some("a".into()); KEPT_MAX]);
        assert_eq!(feed.since(2), (changed(&["a"]), 2 + KEPT_MAX as u64));
        assert_eq!(feed.since(1), (ChangedSchedules::Any, 2 + KEPT_MAX as u64));
    }
}
