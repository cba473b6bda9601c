//! A stretch of time in which a zone's clocks are not set, and the instants of a schedule in it.
//!
//! Within a stretch the local time is UTC plus an offset, so that times are compared and searched by plain arithmetic.
//! All that a change of clocks means for a schedule is decided at the start of a stretch:
//!
//! - Clocks are set forward, which is a *gap*: the local times between the end of the stretch before and the start of this
//!   one never come. If a fixed time is among them, the schedule runs at the start of the stretch.
//! - Clocks are set back, which is a *fold*: the first local times of this stretch have come before. Fixed times among
//!   them are left out.

use jiff::{Timestamp, tz::TimeZone};

use super::{
    cron::{Cron, Hours},
    days::{DAY, Excluded},
};

/// Time between two changes of a zone's clocks. Instants are seconds from 1970-01-01 00:00 UTC on.
#[derive(Clone, Debug)]
pub(super) struct Stretch {
    /// The change that began it. Without one it has no beginning.
    pub(super) start: i64,
    /// The change that ends it; it is not part of the stretch.
    pub(super) end: i64,
    /// Local time minus UTC.
    offset: i64,
    /// The offset before the start.
    offset_before: i64,
}

impl Stretch {
    /// Returns the stretch that contains an instant.
    pub(super) fn around(zone: &TimeZone, instant: i64) -> Stretch {
        let present = timestamp(instant);
        let offset = |at: Timestamp| i64::from(zone.to_offset(at).seconds());
        let start = zone.preceding(timestamp(instant + 1)).next().map(|change| change.timestamp());
        let end = zone.following(present).next().map_or(i64::MAX, |change| change.timestamp().as_second());
        let offset_before = start.map_or(offset(present), |start| offset(timestamp(start.as_second() - 1)));
        let start = start.map_or(i64::MIN, Timestamp::as_second);
        Stretch { start, end, offset: offset(present), offset_before }
    }

    /// Returns the local time of an instant.
    pub(super) fn local(&self, instant: i64) -> i64 {
        instant + self.offset
    }

    /// Returns the local time at which the clocks showed the start, before they were set.
    fn local_before(&self) -> i64 {
        self.start.saturating_add(self.offset_before)
    }

    /// Returns the local times of this stretch that had come before: up to this one, which is not among them.
    fn seen_until(&self) -> i64 {
        if self.offset_before > self.offset { self.local_before() } else { i64::MIN }
    }

    /// Returns whether the clocks show the local time of an instant for the second time.
    pub(super) fn is_second_pass(&self, instant: i64) -> bool {
        self.local(instant) < self.seen_until()
    }

    /// Returns the last fixed time of a cron expression in the gap at the start of this stretch.
    pub(super) fn in_gap(&self, cron: &Cron, excluded: &Excluded) -> Option<i64> {
        if self.offset_before >= self.offset || self.start == i64::MIN {
            return None;
        }
        // The run counts for both dates: that of its time, and that on which it happens.
        let after = self.local(self.start);
        let allowed = excluded.around(after.div_euclid(DAY)).is_none();
        allowed.then(|| cron.previous(Hours::Fixed, self.local_before(), after, excluded)).flatten()
    }

    /// Returns the first instant of an expression in `from..before`, which lies in this stretch.
    pub(super) fn next(&self, cron: &Cron, from: i64, before: i64, excluded: &Excluded) -> Option<i64> {
        if from == self.start && self.in_gap(cron, excluded).is_some() {
            return Some(from).filter(|from| *from < before);
        }
        let (from, before) = (self.local(from), self.local(before));
        let seen = self.seen_until();
        let in_second_pass =
            (from < seen).then(|| cron.next(Hours::Repeating, from, before.min(seen), excluded)).flatten();
        let local = in_second_pass.or_else(|| cron.next(Hours::All, from.max(seen), before, excluded))?;
        Some(local - self.offset)
    }

    /// Returns the last instant of an expression in `from..before`, which lies in this stretch.
    pub(super) fn previous(&self, cron: &Cron, from: i64, before: i64, excluded: &Excluded) -> Option<i64> {
        let (local_from, local_before) = (self.local(from), self.local(before));
        let seen = self.seen_until();
        let local = cron.previous(Hours::All, local_from.max(seen), local_before, excluded).or_else(|| {
            let repeating = || cron.previous(Hours::Repeating, local_from, local_before.min(seen), excluded);
            (local_from < seen).then(repeating).flatten()
        });
        let after_gap = || (from == self.start && self.in_gap(cron, excluded).is_some()).then_some(from);
        local.map(|local| local - self.offset).or_else(after_gap)
    }

    /// Returns the first and last instant, if any, of an excluded range of days around an instant.
    pub(super) fn excluded_around(&self, instant: i64, excluded: &Excluded) -> Option<(i64, i64)> {
        let (first, last) = excluded.around(self.local(instant).div_euclid(DAY))?;
        Some((first * DAY - self.offset, (last + 1) * DAY - self.offset))
    }
}

/// Returns an instant, as far as the calendar reaches.
fn timestamp(second: i64) -> Timestamp {
    let within = second.clamp(Timestamp::MIN.as_second(), Timestamp::MAX.as_second());
    Timestamp::from_second(within).unwrap_or(if second < 0 { Timestamp::MIN } else { Timestamp::MAX })
}
