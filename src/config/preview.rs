//! The next instants of the schedules of a file.

use std::{collections::BTreeMap, sync::Arc};

use super::Loaded;
use crate::{
    clock::Timestamp,
    settings::{CalendarInfo, Calendars},
    timetable::DateRange,
};

/// An instant of a schedule of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NextInstant {
    /// The instant.
    pub time: Timestamp,
    /// The same in the schedule's time zone.
    pub local_time: String,
    /// What clocks do at that time, if they change how or when the instant runs.
    pub clock_change: Option<String>,
}

impl Loaded {
    /// Returns the next instants of each schedule after a time, by the schedule's name. Intervals without a start count
    /// from that time, as though the schedule were created then.
    pub fn next_instants(
        &self,
        after: Timestamp,
        count: usize,
    ) -> impl Iterator<Item = (&str, Vec<NextInstant>)> {
        let calendars = declared(&self.settings.calendars);
        self.settings.schedules.iter().map(move |(name, settings)| {
            // A fault would have kept the file from being loaded.
            let table = settings.times.check(&calendars, after).ok();
            let instants = table.iter().flat_map(|table| {
                table.after(after).take(count).map(|instant| NextInstant {
                    time: instant.nominal,
                    local_time: table.local(instant.nominal),
                    clock_change: table.clock_change(instant.nominal).map(|change| change.to_string()),
                })
            });
            (name.as_str(), instants.collect())
        })
    }
}

/// Returns the calendars of a file in the form in which schedules look them up.
pub(super) fn declared(calendars: &BTreeMap<String, Vec<DateRange>>) -> Calendars {
    let info = |(name, dates): (&String, &Vec<DateRange>)| {
        let name: Arc<str> = name.as_str().into();
        let info =
            CalendarInfo { name: Arc::clone(&name), dates: dates.clone(), revision: 0, declared: true };
        (name, Arc::new(info))
    };
    calendars.iter().map(info).collect()
}
