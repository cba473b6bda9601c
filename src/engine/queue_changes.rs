//! Changes of queues and their follow-ups.

use super::{decision::Decision, retention::times_of};
use crate::settings::{QueueInfo, Retention};

impl Decision<'_> {
    /// Creates or updates a queue, with the follow-ups of its settings.
    pub(super) fn put_queue(&mut self, info: QueueInfo) -> QueueInfo {
        let number = info.name.number;
        let kept = self.engine.queues.with(number, Clone::clone);
        let before = self.engine.sweeping.of_queue(kept.as_ref());
        let info = self.revised(info, kept);
        self.engine.queues.put(info.clone());
        self.engine.turns.queue_changed(&info);
        self.replan_sweeps(number, before);
        self.sealed.gained_room.insert(number);
        info
    }

    /// Returns a queue with its new revision. New revisions begin at the clock's microseconds, so that a revision of a
    /// deleted queue, or of one from a copy of the store, is not used again.
    fn revised(&self, info: QueueInfo, kept: Option<QueueInfo>) -> QueueInfo {
        let now = self.now().as_micros();
        // A queue that this batch deletes counts, too.
        let before = self.engine.queues.registry().numbered(info.name.number);
        let before = before.map_or(0, |entry| entry.info().revision);
        match kept {
            Some(kept) if kept == (QueueInfo { revision: kept.revision, ..info.clone() }) => kept,
            Some(kept) => QueueInfo { revision: now.max(kept.revision + 1), ..info },
            None => QueueInfo { revision: now.max(before + 1), ..info },
        }
    }

    /// Returns the retention times of ended jobs of a queue, which may have been deleted since they ended.
    pub(super) fn retention_of(&self, queue: u32) -> Retention {
        let sweeping = &self.engine.sweeping;
        let own = self.engine.queues.with(queue, |info| sweeping.of_queue(Some(info)));
        own.unwrap_or_else(|| sweeping.of_queue(None))
    }

    /// Updates the sweeps if the queue's retention times have changed.
    pub(super) fn replan_sweeps(&mut self, queue: u32, before: Retention) {
        let now = self.retention_of(queue);
        let engine = &mut *self.engine;
        if now != before {
            let all = engine.queues.all();
            engine.sweeping.replan(&all, |keep| times_of(now).any(|time| time == keep));
        }
    }
}
