//! Changes of queues.

use super::{ControlRefusal, QueueDone, decision::Decision};
use crate::{
    job::Name,
    settings::{QueueInfo, QueueSettings, SettingsChange},
};

impl Decision<'_> {
    pub(super) fn create_queue(&mut self, name: &str, settings: QueueSettings) -> Result<QueueInfo, ControlRefusal> {
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
        // An earlier control of the batch may have triggered a job.
        let jobs = self.used(&info.name).jobs;
        if jobs > 0 {
            return Err(ControlRefusal::QueueNotEmpty { queue: name.to_owned(), jobs: jobs as u64 });
        }
        let before = self.engine.sweeping.of_queue(Some(&info));
        self.engine.queues.delete(&info.name);
        self.engine.turns.queue_deleted(number);
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
}

pub(super) fn queue_done(info: QueueInfo) -> QueueDone {
    QueueDone { info: Some(info), is_repeat: false }
}
