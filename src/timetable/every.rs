//! Instants at a fixed distance from each other.

use super::{days::Excluded, stretch::Stretch};

const SECOND: i64 = 1_000_000;

/// The instants `anchor` + *k* × `interval`, for every integer *k*. All in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Every {
    pub(super) interval: i64,
    pub(super) anchor: i64,
}

impl Every {
    /// Returns the first instant at or after `from`.
    pub(super) fn at_or_after(self, from: i64) -> i64 {
        from.saturating_add((self.anchor - from).rem_euclid(self.interval))
    }

    /// Returns the last instant before `before`.
    pub(super) fn before(self, before: i64) -> i64 {
        before - 1 - (before - 1 - self.anchor).rem_euclid(self.interval)
    }

    /// Returns the first instant in `from..before` on a date that is not excluded. Both lie in the stretch.
    pub(super) fn next(self, stretch: &Stretch, from: i64, before: i64, excluded: &Excluded) -> Option<i64> {
        let mut from = from;
        loop {
            let found = self.at_or_after(from);
            if found >= before {
                return None;
            }
            let Some((_, end)) = stretch.excluded_around(found.div_euclid(SECOND), excluded) else {
                return Some(found);
            };
            from = end.saturating_mul(SECOND);
        }
    }

    /// Returns the last instant in `from..before` on a date that is not excluded. Both lie in the stretch.
    pub(super) fn previous(
        self,
        stretch: &Stretch,
        from: i64,
        before: i64,
        excluded: &Excluded,
    ) -> Option<i64> {
        let mut before = before;
        loop {
            let found = self.before(before);
            if found < from {
                return None;
            }
            let Some((start, _)) = stretch.excluded_around(found.div_euclid(SECOND), excluded) else {
                return Some(found);
            };
            before = start.saturating_mul(SECOND);
        }
    }
}
