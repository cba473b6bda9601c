//! How long the committer lingers for callers that are on their way.
//!
//! Whoever has many calls under way sends the next ones as soon as the last ones are answered. If the first of them to
//! come back had a flush to itself, all others would wait for that flush and then for theirs, and the disk and both
//! ends of the wire would do the same work for fewer jobs at a time.

use std::time::Duration;

use crate::{clock::Stopwatch, counters::BatchTimes};

/// However slow the disk is, callers come back sooner than that.
const LONGEST: Duration = Duration::from_micros(500);

/// What the last batches were like.
#[derive(Default)]
pub(super) struct Linger {
    last: Option<Last>,
    /// How long flushes take, smoothed.
    flush: Duration,
}

struct Last {
    /// What came in with it.
    entries: usize,
    /// What it took beside its flush.
    work: Duration,
    since: Stopwatch,
}

impl Linger {
    /// A batch has been applied and answered.
    pub(super) fn batch_ended(&mut self, entries: usize, times: BatchTimes) {
        self.flush = if self.last.is_none() { times.flush } else { (self.flush * 7 + times.flush) / 8 };
        let work = times.commit.saturating_sub(times.flush);
        self.last = Some(Last { entries, work, since: Stopwatch::start() });
    }

    /// How long to wait for more than the `entries` that are there.
    pub(super) fn time(&self, entries: usize) -> Option<Duration> {
        self.time_after(self.last.as_ref()?.since.elapsed(), entries)
    }

    /// A caller who is alone never waits, nor does anyone who comes when the last answers are old: nobody follows then.
    /// And where work takes longer than flushes do, lingering would only put it off.
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
