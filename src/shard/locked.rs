//! Input that waits for another program's lock on the database.
//!
//! The batch that met the lock is tried again at intervals. Meanwhile callers past their deadline are refused; nothing
//! of their calls was begun.

use std::collections::VecDeque;

use super::{
    inbox::{ENTRIES_MAX, Inbox, InboxEntry},
    pending::{PendingBatch, TRY_LOCKED_EVERY},
};
use crate::{
    clock::{Clock, Uptime},
    engine::{ControlRefusal, Engine, OfferRefusal},
};

/// Limit of the entries that are kept in addition to the batch. Further ones wait in their channel.
const DEFERRED_MAX: usize = 65_536;
/// Byte limit of these entries.
const DEFERRED_MAX_BYTES: u64 = 64 << 20;

/// The batch and entries that wait for the lock.
#[derive(Default)]
pub(super) struct LockedBacklog {
    pending: Option<Box<PendingBatch>>,
    /// Entries that came in after the batch, for the next batches.
    deferred: VecDeque<InboxEntry>,
    deferred_bytes: u64,
}

impl LockedBacklog {
    /// Keeps a batch that met the lock.
    pub(super) fn hold(&mut self, pending: PendingBatch) {
        self.pending = Some(Box::new(pending));
    }

    /// Refuses all calls that wait for the lock. Returns whether a batch did.
    pub(super) fn give_up(&mut self, engine: &mut Engine) -> bool {
        let Some(mut pending) = self.pending.take() else { return false };
        pending.let_go(engine, Uptime::MAX);
        self.let_go(engine, Uptime::MAX);
        true
    }

    /// If a batch waits for the lock, waits for the retry interval or the next deadline, and returns the batch to be
    /// tried again.
    pub(super) async fn wait(
        &mut self,
        inbox: &mut Inbox,
        clock: &Clock,
        engine: &mut Engine,
    ) -> Option<PendingBatch> {
        let mut pending = self.pending.take()?;
        while self.deferred.len() < DEFERRED_MAX
            && self.deferred_bytes < DEFERRED_MAX_BYTES
            && let Ok(entry) = inbox.entries.try_recv()
        {
            self.deferred_bytes += entry.size().1;
            self.deferred.push_back(entry);
        }
        let deadlines =
            self.deferred.iter().filter_map(InboxEntry::store_deadline).chain(pending.next_store_deadline());
        if let Some(first) = deadlines.min() {
            tokio::select! {
                () = tokio::time::sleep(TRY_LOCKED_EVERY) => {}
                () = clock.sleep_until(first) => {}
            }
        } else {
            tokio::time::sleep(TRY_LOCKED_EVERY).await;
        }
        let now = clock.uptime();
        pending.let_go(engine, now);
        self.let_go(engine, now);
        Some(*pending)
    }

    /// Refuses deferred entries past their deadline.
    fn let_go(&mut self, engine: &mut Engine, now: Uptime) {
        for entry in std::mem::take(&mut self.deferred) {
            let waits = entry.store_deadline().is_none_or(|deadline| deadline > now);
            match entry {
                entry if waits => self.deferred.push_back(entry),
                InboxEntry::Offer(offer) => engine.refuse_offers(vec![offer], &OfferRefusal::Locked),
                InboxEntry::Control(mut control) => control.action.ask_mut().refuse(ControlRefusal::Locked),
                InboxEntry::Flush(_) => {}
            }
        }
        self.deferred_bytes = self.deferred.iter().map(|entry| entry.size().1).sum();
    }

    /// Moves entries that came in while the lock was held into the next batch, up to its limit.
    pub(super) fn take_deferred(&mut self, entries: &mut Vec<InboxEntry>) {
        while entries.len() < ENTRIES_MAX
            && let Some(entry) = self.deferred.pop_front()
        {
            self.deferred_bytes -= entry.size().1;
            entries.push(entry);
        }
    }
}
