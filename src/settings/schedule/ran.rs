//! The instants of a schedule that have run, as ranges.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// Limit of the ranges. Beyond it the two oldest become one: what lies between them counts as run, so that nothing is
/// repeated.
const RANGES_MAX: usize = 64;

/// Limit of the instants that are looked at one by one where the times change; the others count as run.
const AHEAD_MAX: usize = 10_000;

/// The instants that have run: ranges of instants that follow each other in the schedule's times, both ends included,
/// in order.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ran(Vec<(Timestamp, Timestamp)>);

impl Ran {
    /// Returns whether an instant has run.
    #[must_use]
    pub fn has(&self, instant: Timestamp) -> bool {
        self.end_of(instant).is_some()
    }

    /// Returns the end of the range that an instant is in.
    #[must_use]
    pub fn end_of(&self, instant: Timestamp) -> Option<Timestamp> {
        let index = self.0.partition_point(|(_, last)| *last < instant);
        self.0.get(index).filter(|(first, _)| *first <= instant).map(|(_, last)| *last)
    }

    /// Adds an instant. `next_of` returns the instant that follows another one.
    pub fn add(&mut self, instant: Timestamp, next_of: impl Fn(Timestamp) -> Option<Timestamp>) {
        let index = self.0.partition_point(|(_, last)| *last < instant);
        if self.0.get(index).is_some_and(|(first, _)| *first <= instant) {
            return;
        }
        let follows = index.checked_sub(1).and_then(|before| self.0.get(before));
        let follows = follows.is_some_and(|(_, last)| next_of(*last) == Some(instant));
        let precedes = self.0.get(index).is_some_and(|(first, _)| next_of(instant) == Some(*first));
        match (follows, precedes) {
            (true, true) => {
                let (_, last) = self.0.remove(index);
                if let Some(range) = self.0.get_mut(index - 1) {
                    range.1 = last;
                }
            }
            (true, false) => {
                if let Some(range) = self.0.get_mut(index - 1) {
                    range.1 = instant;
                }
            }
            (false, true) => {
                if let Some(range) = self.0.get_mut(index) {
                    range.0 = instant;
                }
            }
            (false, false) => self.0.insert(index, (instant, instant)),
        }
        if self.0.len() > RANGES_MAX {
            let (_, last) = self.0.remove(1);
            if let Some(range) = self.0.first_mut() {
                range.1 = last;
            }
        }
    }

    /// Returns what has run once the times change at `now`, by a clock that may have been ahead before: of the instants
    /// after `now`, only those that the new times have, too. `old` and `new` return the instant that follows another time.
    #[must_use]
    pub fn with_new_times(
        &self,
        now: Timestamp,
        old: impl Fn(Timestamp) -> Option<Timestamp>,
        new: impl Fn(Timestamp) -> Option<Timestamp>,
    ) -> Self {
        let mut ran = Ran::default();
        let mut left = AHEAD_MAX;
        for (first, last) in &self.0 {
            if *first <= now {
                ran.0.push((*first, now.min(*last)));
            }
            let mut next = old(now.max(first.just_before()));
            while let Some(instant) = next.filter(|instant| instant <= last) {
                if left == 0 {
                    ran.0.push((instant, *last));
                    break;
                }
                if new(instant.just_before()) == Some(instant) {
                    ran.add(instant, &new);
                }
                (next, left) = (old(instant), left - 1);
            }
        }
        ran
    }

    /// Returns the ranges, oldest first.
    #[must_use]
    pub fn ranges(&self) -> &[(Timestamp, Timestamp)] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds)
    }

    /// Adds instants of a schedule with one instant in each ten.
    fn ran(instants: &[i64]) -> Ran {
        let mut ran = Ran::default();
        for instant in instants {
            ran.add(at(*instant), |before| Some(at(before.as_micros() + 10)));
        }
        ran
    }

    fn shown(ran: &Ran) -> Vec<(i64, i64)> {
        ran.ranges().iter().map(|(first, last)| (first.as_micros(), last.as_micros())).collect()
    }

    #[test]
    fn instants_that_follow_each_other_are_one_range_in_whatever_order_they_run() {
        assert_eq!(shown(&ran(&[10, 20, 30, 50])), [(10, 30), (50, 50)]);
        assert_eq!(shown(&ran(&[50, 30, 10, 20, 40])), [(10, 50)]);
        assert_eq!(shown(&ran(&[10, 10, 20, 10])), [(10, 20)]);
    }

    #[test]
    fn only_instants_within_a_range_have_run() {
        let ran = ran(&[10, 20, 40]);
        let found: Vec<_> = [0, 10, 15, 20, 30, 40, 50].map(|instant| ran.has(at(instant))).into();
        assert_eq!(found, [false, true, true, true, false, true, false]);
        assert_eq!(ran.end_of(at(10)), Some(at(20)));
    }

    #[test]
    fn beyond_the_limit_the_oldest_gap_counts_as_run() {
        let instants: Vec<i64> = (0..70).map(|index| index * 100).collect();
        let ran = ran(&instants);
        assert_eq!(ran.ranges().len(), RANGES_MAX);
        assert!(ran.has(at(150)) && instants.iter().all(|instant| ran.has(at(*instant))));
        assert!(!ran.has(at(6_850)));
    }
}
