//! Monotonic numbers: feed positions, job ids and lease tokens. Only the single writer of a store allocates them.

use crate::{
    clock::Timestamp,
    job::{JobId, LeaseToken, Position},
    store::sets::{Counters, StoredTimes},
};

/// The numbers of one store.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    kept: Drawn,
    next: Drawn,
}

/// The last allocated number of each sort.
#[derive(Clone, Copy, Debug, Default)]
struct Drawn {
    position: Position,
    last_id: i64,
    last_lease: i64,
    floor: Position,
}

impl Numbers {
    /// Continues from the stored numbers. Positions and leases begin at the clock's microseconds if those are larger,
    /// so that a store restored from an older copy repeats no number of the history that it lacks.
    pub(super) fn start(kept: &Counters, now: Timestamp) -> Self {
        let before_now = now.as_micros().clamp(1, Timestamp::MAX.as_micros()) - 1;
        let kept = Drawn {
            position: Position(kept.position.0.max(before_now)),
            last_id: kept.last_id,
            last_lease: kept.last_lease.max(before_now),
            floor: kept.floor,
        };
        Numbers { kept, next: kept }
    }

    /// Returns the last position of the change feed.
    pub(super) fn position(&self) -> Position {
        self.next.position
    }

    /// Returns the feed position of the next change.
    pub(super) fn next_position(&self) -> Position {
        self.next.position.next()
    }

    /// Allocates the next feed position.
    pub(super) fn position_taken(&mut self) {
        self.next.position = self.next.position.next();
    }

    /// Returns the newest job id.
    pub(super) fn last_id(&self) -> JobId {
        JobId::from_raw(self.next.last_id)
    }

    /// Allocates `count` consecutive job ids, and returns the first.
    pub(super) fn draw_ids(&mut self, count: usize, now: Timestamp) -> JobId {
        let first = JobId::next(self.last_id(), now);
        self.next.last_id = first.plus(count as i64 - 1).raw();
        first
    }

    /// Allocates a lease token.
    pub(super) fn draw_lease(&mut self) -> LeaseToken {
        self.next.last_lease += 1;
        LeaseToken::from_raw(self.next.last_lease)
    }

    /// Raises the position up to which tombstones have been deleted.
    pub(super) fn raise_floor(&mut self, floor: Position) {
        self.next.floor = self.next.floor.max(floor);
    }

    /// Returns the numbers and times that the batch writes.
    pub(super) fn counters(&self, times: StoredTimes) -> Counters {
        let Drawn { position, last_id, last_lease, floor } = self.next;
        Counters { position, last_id, last_lease, floor, times: Some(times) }
    }

    /// Takes over the numbers of the batch, which is on disk.
    pub(super) fn commit(&mut self) {
        self.kept = self.next;
    }

    /// Drops the numbers of the batch, which was not committed. They were never published, and are allocated again.
    pub(super) fn discard(&mut self) {
        self.next = self.kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_micros(micros)
    }

    fn kept(position: i64, last_lease: i64) -> Counters {
        Counters { position: Position(position), last_lease, ..Counters::default() }
    }

    #[test]
    fn a_start_goes_on_from_the_larger_of_what_was_kept_and_the_clock() {
        let mut ahead = Numbers::start(&kept(7, 900), at(500));
        assert_eq!(ahead.next_position(), Position(500));
        assert_eq!(ahead.draw_lease(), LeaseToken::from_raw(901));
        assert_eq!(ahead.draw_lease(), LeaseToken::from_raw(902), "without a gap");
        let mut before_1970 = Numbers::start(&kept(0, 0), at(-5));
        assert_eq!(before_1970.next_position(), Position(1));
        assert_eq!(before_1970.draw_lease(), LeaseToken::from_raw(1));
        let far = Numbers::start(&kept(0, 0), at(i64::MAX));
        assert_eq!(far.next_position(), Position(Timestamp::MAX.as_micros()), "there are as many after it");
    }

    #[test]
    fn what_a_batch_drew_that_came_to_nothing_is_drawn_again() {
        let mut numbers = Numbers::start(&kept(10, 10), at(0));
        let first = (numbers.draw_lease(), numbers.draw_ids(3, at(1)));
        numbers.position_taken();
        numbers.discard();
        assert_eq!((numbers.draw_lease(), numbers.draw_ids(3, at(1))), first);
        numbers.commit();
        numbers.discard();
        assert_eq!(numbers.draw_lease(), LeaseToken::from_raw(12));
    }
}
