//! The schedules and calendars that the configuration file declares, at a start.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{super::decision::Decision, ScheduleSetup};
use crate::{
    job::ScheduleId,
    store::{StoreError, sets::LoadedSchedules},
};

impl Decision<'_> {
    /// Sets up the declared calendars and schedules, and deletes those that are declared no more. Pauses and progress
    /// stay.
    pub(in super::super) fn declare_schedules(
        &mut self,
        setup: &ScheduleSetup,
        loaded: &LoadedSchedules,
    ) -> Result<(), StoreError> {
        for (name, dates) in &setup.calendars {
            self.put_calendar(name, dates.clone(), true);
        }
        for info in loaded.declared.iter().filter(|info| !setup.declared.contains_key(&*info.name)) {
            tracing::warn!(
                schedule = &*info.name,
                "the configuration file does not declare this schedule any more, and it is deleted"
            );
            self.engine.schedules.delete(info);
        }
        // A look-up of each name among all schedules would take minutes for 100,000 of them.
        let kept: HashMap<Arc<str>, ScheduleId> =
            self.found.schedules.values().map(|info| (Arc::clone(&info.name), info.id)).collect();
        for (name, settings) in &setup.declared {
            let done = match kept.get(name.as_str()).and_then(|id| self.schedule(*id)) {
                Some(kept) => self.put_settings(&kept, settings.clone(), true).map(drop),
                None => self.new_schedule(name, settings, true).map(drop),
            };
            // The configuration has been checked with the calendars that it declares.
            done.map_err(|refusal| StoreError::Corrupt(format!("the schedule {name}: {refusal}")))?;
        }
        let used: BTreeSet<&str> =
            setup.declared.values().flat_map(|settings| &settings.times.calendars).map(String::as_str).collect();
        let gone = loaded.calendars.iter().filter(|info| info.declared && !setup.calendars.contains_key(&*info.name));
        for info in gone {
            if self.engine.schedules.users_of(&info.name) > 0 || used.contains(&*info.name) {
                // Schedules that were created over the API still use it, and may change it from now on.
                tracing::warn!(
                    calendar = &*info.name,
                    "the configuration file does not declare this calendar any more; it stays, because schedules use it"
                );
                self.put_calendar(&info.name, info.dates.clone(), false);
            } else {
                tracing::warn!(
                    calendar = &*info.name,
                    "the configuration file does not declare this calendar any more, and it is deleted"
                );
                self.engine.schedules.calendars.delete(&info.name);
            }
        }
        Ok(())
    }
}
