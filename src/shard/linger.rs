//! The committer's delay for further callers before a batch (group commit).
//!
//! A client with many calls in flight sends the next ones as soon as the last ones are answered. If the first call to
//! arrive had a flush to itself, all others would wait for that flush and then for their own, and the disk and both
//! ends of the connection would do the same work for fewer jobs at a time.

use std::time::Duration;

use crate::{clock::Stopwatch, counters::BatchTimes};

/// Limit of the delay. Callers send their next calls sooner than that, however slow the disk is.
const LONGEST: Duration = Duration::from_micros(500);

/// Measurements of the last batches.
#[derive(Default)]
pub(super) struct Linger {
    last: Option<Last>,
    /// Smoothed duration of a flush.
    flush: Duration,
}

struct Last {
    /// Number of gathered entries and reports.
    entries: usize,
    /// Duration without the flush.
    work: Duration,
    since: Stopwatch,
}

impl Linger {
    /// Records a batch that has been applied and answered.
    pub(super) fn batch_ended(&mut self, entries: usize, times: BatchTimes) {
        self.flush = if self.last.is_none() { times.flush } else { (self.flush * 7 + times.flush) / 8 };
        let work = times.commit.saturating_sub(times.flush);
        self.last = Some(Last { entries, work, since: Stopwatch::start() });
    }

    /// Returns how long to wait for more input than the pending `entries`.
    pub(super) fn time(&self, entries: usize) -> Option<Duration> {
        self.time_after(self.last.as_ref()?.since.elapsed(), entries)
    }

    /// Returns the delay, `since` after the last answers. A single caller never waits, nor does a caller long after the
    /// last answers, because no others are expected then. If work takes longer than flushes do, a delay would only
    /// postpone it.
    fn time_after(&self, since: Duration, entries: usize) -> Option<Duration> {
        let last = self.last.as_ref()?;
        let pays = entries < last.entries && since < self.flush && last.work < self.flush;
        pays.then_some(self.flush.min(LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLUSH: Duration = Duration::from_micros(200);

    fn after(entries: usize, work: Duration, flush: Duration) -> Linger {
        let mut linger = Linger::default();
        linger.batch_ended(entries, BatchTimes { commit: work + flush, flush });
        linger
    }

    #[test]
    fn it_waits_a_flush_for_those_who_were_just_answered() {
        let linger = after(20, FLUSH / 2, FLUSH);
        assert_eq!(linger.time_after(Duration::ZERO, 1), Some(FLUSH));
        assert_eq!(linger.time_after(FLUSH - Duration::from_micros(1), 19), Some(FLUSH));
        assert_eq!(linger.time_after(Duration::ZERO, 20), None, "all are back");
        assert_eq!(linger.time_after(FLUSH, 1), None, "nobody comes back any more");
    }

    #[test]
    fn a_caller_who_is_alone_never_waits() {
        assert_eq!(Linger::default().time(1), None);
        assert_eq!(after(1, Duration::ZERO, FLUSH).time_after(Duration::ZERO, 1), None);
    }

    #[test]
    fn work_is_not_put_off_where_it_takes_longer_than_flushes() {
        assert_eq!(after(4, FLUSH, FLUSH).time_after(Duration::ZERO, 1), None);
    }

    #[test]
    fn one_slow_flush_does_not_make_it_wait_long() {
        let mut linger = after(20, Duration::ZERO, FLUSH);
        let slow = Duration::from_millis(800);
        linger.batch_ended(20, BatchTimes { commit: slow, flush: slow });
        assert_eq!(linger.time_after(Duration::ZERO, 1), Some(LONGEST));
        for _ in 0..100 {
            linger.batch_ended(20, BatchTimes { commit: FLUSH, flush: FLUSH });
        }
        let usual = linger.time_after(Duration::ZERO, 1).unwrap();
        assert!(usual < FLUSH + Duration::from_micros(10), "{usual:?}");
    }
}
