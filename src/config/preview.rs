//! The next instants of the schedules of a file.

use super::{load::Loaded, schedules::known};
use crate::clock::Timestamp;

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
        let calendars = known(&self.settings.calendars);
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
