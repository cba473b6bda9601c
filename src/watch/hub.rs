//! The latest changes in memory, and the watchers to wake for them.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{OutputLine, topics::Feeds};
use crate::job::{Change, JobId, Position};

/// Maximum number of changes in memory.
const RING_MAX: usize = 16_384;
/// Number of changes in a mailbox beyond which its watcher has to read from the store.
const MAILBOX_CHANGES_MAX: usize = 64;
/// Additional changes in a mailbox for each job, because one commit may change all of them, and each more than once.
const MAILBOX_CHANGES_PER_JOB: usize = 4;
/// Maximum number of output lines in a mailbox; older lines are dropped.
const MAILBOX_LINES_MAX: usize = 256;

/// The latest changes in memory, and the watchers to wake for them.
#[derive(Debug)]
pub struct Hub {
    ring: RwLock<Ring>,
    end: watch::Sender<Position>,
    mailboxes: Mutex<HashMap<JobId, Vec<Arc<Mailbox>>>>,
    /// Feeds of watchers by filter.
    pub(super) feeds: Mutex<Feeds>,
    closing: CancellationToken,
    by_ids: AtomicU64,
    by_filter: AtomicU64,
    resyncs: AtomicU64,
}

/// Numbers of watches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HubFigures {
    /// Present number of watches by ids.
    pub(crate) by_ids: u64,
    /// Present number of watches by a filter.
    pub(crate) by_filter: u64,
    /// Number of fresh snapshots after a gap, since the start.
    pub(crate) resyncs: u64,
}

/// Guard that counts a watch by filter.
#[derive(Debug)]
pub(super) struct FilterPresence(Arc<Hub>);

impl Drop for FilterPresence {
    fn drop(&mut self) {
        self.0.by_filter.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Ring {
    changes: VecDeque<Change>,
    /// Position after which all changes, up to the feed's end, are here.
    after: Position,
}

/// Result of a read of the ring.
pub(super) enum RingRead {
    /// The next changes after the watcher's cursor, and the position up to which they reach.
    Changes(Vec<Change>, Position),
    /// The ring does not reach back to the cursor.
    Behind,
}

/// Mailbox of one watcher, for the changes of a few jobs.
#[derive(Debug)]
pub(super) struct Mailbox {
    wants_output: bool,
    changes_max: usize,
    inner: Mutex<Mail>,
    pub(super) arrived: Notify,
}

/// Contents of a mailbox.
#[derive(Debug, Default)]
pub(super) struct Mail {
    pub(super) changes: VecDeque<Change>,
    pub(super) lines: VecDeque<OutputLine>,
    /// Whether changes were dropped: the watcher must read its jobs from the store.
    pub(super) overflowed: bool,
}

impl Mailbox {
    pub(super) fn take(&self) -> Mail {
        std::mem::take(&mut *self.inner.lock())
    }
}

/// Subscription of a mailbox to the changes of some jobs, until it is dropped.
#[derive(Debug)]
pub(super) struct Subscription {
    hub: Arc<Hub>,
    ids: Vec<JobId>,
    pub(super) mailbox: Arc<Mailbox>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.by_ids.fetch_sub(1, Ordering::Relaxed);
        let mut mailboxes = self.hub.mailboxes.lock();
        for id in &self.ids {
            if let Some(those) = mailboxes.get_mut(id) {
                those.retain(|mailbox| !Arc::ptr_eq(mailbox, &self.mailbox));
                if those.is_empty() {
                    mailboxes.remove(id);
                }
            }
        }
    }
}

impl Hub {
    /// Creates a hub for a feed that ends at `end`.
    #[must_use]
    pub fn new(end: Position) -> Self {
        Hub {
            ring: RwLock::new(Ring { changes: VecDeque::new(), after: end }),
            end: watch::Sender::new(end),
            mailboxes: Mutex::default(),
            feeds: Mutex::new(Feeds::new(end)),
            closing: CancellationToken::new(),
            by_ids: AtomicU64::new(0),
            by_filter: AtomicU64::new(0),
            resyncs: AtomicU64::new(0),
        }
    }

    /// Returns the numbers of watches.
    pub(crate) fn figures(&self) -> HubFigures {
        HubFigures {
            by_ids: self.by_ids.load(Ordering::Relaxed),
            by_filter: self.by_filter.load(Ordering::Relaxed),
            resyncs: self.resyncs.load(Ordering::Relaxed),
        }
    }

    /// Returns whether there is no watch, and nothing is kept for one.
    #[cfg(test)]
    pub(crate) fn is_unwatched(&self) -> bool {
        let figures = self.figures();
        (figures.by_ids, figures.by_filter) == (0, 0)
            && self.mailboxes.lock().is_empty()
            && self.feeds.lock().is_empty()
    }

    /// Counts a watch by filter until the returned guard is dropped.
    pub(super) fn watched_by_filter(self: &Arc<Self>) -> FilterPresence {
        self.by_filter.fetch_add(1, Ordering::Relaxed);
        FilterPresence(Arc::clone(self))
    }

    /// Counts a fresh snapshot after a gap.
    pub(super) fn resynced(&self) {
        self.resyncs.fetch_add(1, Ordering::Relaxed);
    }

    /// Publishes committed changes. `end` is the feed's end after them.
    pub(crate) fn publish(&self, changes: Vec<Change>, end: Position) {
        if changes.is_empty() {
            return;
        }
        {
            let mut mailboxes = self.mailboxes.lock();
            if !mailboxes.is_empty() {
                for change in &changes {
                    if let Some(those) = mailboxes.get_mut(&change.id()) {
                        for mailbox in those {
                            mailbox.put(change);
                        }
                    }
                }
            }
        }
        self.feeds.lock().give(&changes, end);
        {
            let mut ring = self.ring.write();
            ring.changes.extend(changes);
            while ring.changes.len() > RING_MAX {
                if let Some(oldest) = ring.changes.pop_front() {
                    ring.after = oldest.position();
                }
            }
        }
        self.end.send_replace(end);
    }

    /// Sends a line of an attempt's output to the watchers of its job.
    pub(crate) fn output(&self, line: &OutputLine) {
        let mailboxes = self.mailboxes.lock();
        for mailbox in mailboxes.get(&line.id).into_iter().flatten().filter(|mailbox| mailbox.wants_output) {
            let mut mail = mailbox.inner.lock();
            if mail.lines.len() == MAILBOX_LINES_MAX {
                mail.lines.pop_front();
            }
            mail.lines.push_back(line.clone());
            drop(mail);
            mailbox.arrived.notify_one();
        }
    }

    /// Notifies every watcher that the server is stopping.
    pub(crate) fn close(&self) {
        self.closing.cancel();
    }

    pub(super) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Returns a receiver that is notified of each move of the feed's end.
    pub(super) fn end(&self) -> watch::Receiver<Position> {
        self.end.subscribe()
    }

    pub(super) fn position(&self) -> Position {
        *self.end.borrow()
    }

    pub(super) fn subscribe(self: &Arc<Self>, ids: &[JobId], wants_output: bool) -> Subscription {
        let mailbox = Arc::new(Mailbox {
            wants_output,
            changes_max: MAILBOX_CHANGES_MAX + MAILBOX_CHANGES_PER_JOB * ids.len(),
            inner: Mutex::default(),
            arrived: Notify::new(),
        });
        self.by_ids.fetch_add(1, Ordering::Relaxed);
        let mut mailboxes = self.mailboxes.lock();
        for id in ids {
            mailboxes.entry(*id).or_default().push(Arc::clone(&mailbox));
        }
        Subscription { hub: Arc::clone(self), ids: ids.to_vec(), mailbox }
    }

    /// Returns the changes after `cursor`, at most `max`.
    pub(super) fn recent(&self, cursor: Position, max: usize) -> RingRead {
        let ring = self.ring.read();
        if cursor < ring.after {
            return RingRead::Behind;
        }
        // Every change takes the next position, so that its index in the ring is a difference.
        let skip = usize::try_from(cursor.0 - ring.after.0).unwrap_or(usize::MAX);
        let changes: Vec<_> = ring.changes.iter().skip(skip).take(max).cloned().collect();
        let reached = changes.last().map_or(cursor, Change::position);
        RingRead::Changes(changes, reached)
    }
}

impl Mailbox {
    fn put(&self, change: &Change) {
        let mut mail = self.inner.lock();
        if mail.changes.len() == self.changes_max {
            mail.changes.clear();
            mail.overflowed = true;
        }
        if !mail.overflowed {
            mail.changes.push_back(change.clone());
        }
        drop(mail);
        self.arrived.notify_one();
    }
}
