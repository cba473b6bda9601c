//! Changes of queues and their follow-ups.

use super::{ControlRefusal, decision::Decision, retention::times_of};
use crate::{
    job::Name,
    settings::{QueueInfo, QueueSettings, Retention, SettingsChange},
};

impl Decision<'_> {
    pub(super) fn create_queue(
        &mut self,
        name: &str,
        settings: QueueSettings,
    ) -> Result<QueueInfo, ControlRefusal> {
        let engine = &mut *self.engine;
        engine.queues.check_new(&engine.names, name, &settings)?;
        let info = QueueInfo {
            name: Name::new(0, name),
            settings,
            paused: false,
            declared: false,
            formerly_declared: false,
            revision: 0,
        };
        engine.sweeping.check_times(engine.queues.all().iter().chain([&info]))?;
        // A number is allocated only after all checks have passed.
        let name = engine.queues.intern(&engine.names, name);
        Ok(self.put_queue(QueueInfo { name, ..info }))
    }

    pub(super) fn update_queue(
        &mut self,
        name: &str,
        change: &SettingsChange,
        etag: Option<&str>,
    ) -> Result<QueueInfo, ControlRefusal> {
        let engine = &mut *self.engine;
        let info = engine.queues.changeable(name)?;
        if etag.is_some_and(|etag| etag != info.etag()) {
            return Err(ControlRefusal::EtagMismatch { queue: name.to_owned(), etag: info.etag() });
        }
        let number = info.name.number;
        let settings = change.applied(&info.settings);
        engine.queues.check_consumers(Some(number), &settings)?;
        let info = QueueInfo { settings, formerly_declared: false, ..info };
        let mut all = engine.queues.all();
        all.retain(|queue| queue.name.number != number);
        engine.sweeping.check_times(all.iter().chain([&info]))?;
        Ok(self.put_queue(info))
    }

    pub(super) fn delete_queue(&mut self, name: &str) -> Result<u32, ControlRefusal> {
        let info = self.engine.queues.changeable(name)?;
        let number = info.name.number;
        let jobs = self.engine.tallies.queue(number).live.jobs;
        if jobs > 0 {
            return Err(ControlRefusal::QueueNotEmpty { queue: name.to_owned(), jobs: jobs as u64 });
        }
        let before = self.engine.sweeping.of_queue(Some(&info));
        self.engine.queues.delete(&info.name);
        self.replan_sweeps(number, before);
        // Callers that wait for room have to be told that the queue is deleted.
        self.sealed.gained_room.insert(number);
        Ok(number)
    }

    pub(super) fn set_paused(&mut self, name: &str, paused: bool) -> Result<QueueInfo, ControlRefusal> {
        match self.engine.queues.find(name) {
            Some(info) if info.paused == paused => Ok(info),
            Some(info) => Ok(self.put_queue(QueueInfo { paused, ..info })),
            None => Err(ControlRefusal::QueueNotFound(name.to_owned())),
        }
    }

    /// Creates or updates a queue, with the follow-ups of its settings.
    pub(super) fn put_queue(&mut self, info: QueueInfo) -> QueueInfo {
        let number = info.name.number;
        let kept = self.engine.queues.with(number, Clone::clone);
        let before = self.engine.sweeping.of_queue(kept.as_ref());
        let info = self.revised(info, kept);
        self.engine.queues.put(info.clone());
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

    /// Updates the sweeps if the queue's retention times have changed.
    pub(super) fn replan_sweeps(&mut self, queue: u32, before: Retention) {
        let engine = &mut *self.engine;
        let sweeping = &engine.sweeping;
        let now = engine.queues.with(queue, |info| sweeping.of_queue(Some(info)));
        let now = now.unwrap_or(sweeping.server());
        if now != before {
            let all = engine.queues.all();
            engine.sweeping.replan(&all, |keep| times_of(now).any(|time| time == keep));
        }
    }
}
