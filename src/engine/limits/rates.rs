//! Rates: buckets of tokens, each kept as the time at which it will be full again; and pauses.

use crate::{clock::StoreTime, settings::Rate};

/// The time at which a bucket is full again, in nanoseconds of the time by which backoffs are counted. Before it, a part
/// of the tokens is spent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct FullAt(pub(super) i64);

impl FullAt {
    /// Returns the number of tokens at a time.
    pub(super) fn tokens(self, rate: Rate, now: StoreTime) -> u32 {
        let Some(interval) = interval(rate) else { return 0 };
        let all = i64::from(rate.burst).saturating_mul(interval);
        u32::try_from((all - self.spent(now)) / interval).unwrap_or(0)
    }

    /// Returns the bucket after tokens were taken, which it has.
    pub(super) fn taken(self, rate: Rate, now: StoreTime, tokens: u32) -> FullAt {
        let Some(interval) = interval(rate) else { return self };
        FullAt(nanos(now) + self.spent(now) + i64::from(tokens).saturating_mul(interval))
    }

    /// Returns the bucket after tokens were given back.
    pub(super) fn given_back(self, rate: Rate, tokens: u32) -> FullAt {
        FullAt(self.0 - i64::from(tokens).saturating_mul(interval(rate).unwrap_or(0)))
    }

    /// Returns the time at which it has this number of tokens; `None` if that never comes.
    pub(super) fn time_of(self, rate: Rate, tokens: u32) -> Option<StoreTime> {
        let interval = interval(rate).filter(|_| tokens <= rate.burst)?;
        let at = self.0 - i64::from(rate.burst - tokens).saturating_mul(interval);
        Some(StoreTime::from_micros(at.div_euclid(1_000) + i64::from(at.rem_euclid(1_000) > 0)))
    }

    /// Returns the bucket under another rate: it owes no more than all of that one's tokens.
    pub(super) fn under(self, rate: Rate, now: StoreTime) -> FullAt {
        let Some(interval) = interval(rate) else { return self };
        FullAt(self.0.min(nanos(now).saturating_add(i64::from(rate.burst).saturating_mul(interval))))
    }

    /// Returns whether it is full.
    pub(super) fn is_full(self, now: StoreTime) -> bool {
        self.0 <= nanos(now)
    }

    /// Returns the time that the spent tokens take to come back.
    fn spent(self, now: StoreTime) -> i64 {
        self.0.saturating_sub(nanos(now)).max(0)
    }
}

/// The times of a value that are stored: of its tokens, and of a pause.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct ValueTimes {
    pub(super) full_at: FullAt,
    /// The end of a pause that a handler has asked for.
    pub(super) paused_until: StoreTime,
}

impl ValueTimes {
    /// Returns whether nothing of it matters any more.
    pub(super) fn are_over(self, now: StoreTime) -> bool {
        self.full_at.is_full(now) && self.paused_until <= now
    }

    /// Returns a time at which they are not over before.
    pub(super) fn end(self) -> FullAt {
        self.full_at.max(FullAt(nanos(self.paused_until)))
    }
}

/// Returns the time between two tokens; `None` if none come.
fn interval(rate: Rate) -> Option<i64> {
    let per = i64::try_from(rate.per.as_nanos()).unwrap_or(i64::MAX);
    (rate.count > 0).then(|| (per / i64::from(rate.count) + i64::from(per % i64::from(rate.count) > 0)).max(1))
}

fn nanos(time: StoreTime) -> i64 {
    time.as_micros().saturating_mul(1_000)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(millis: i64) -> StoreTime {
        StoreTime::from_micros(1_700_000_000_000_000 + millis * 1_000)
    }

    #[test]
    fn a_bucket_gives_its_burst_at_once_and_then_a_token_in_each_interval() {
        let rate = Rate::new(10, Duration::from_secs(1)).burst(3);
        let full = FullAt::default();
        assert_eq!(full.tokens(rate, at(0)), 3);
        let empty = full.taken(rate, at(0), 3);
        assert_eq!(empty.tokens(rate, at(0)), 0);
        assert_eq!(empty.time_of(rate, 1), Some(at(100)));
        assert_eq!([99, 100, 199, 200, 5_000].map(|time| empty.tokens(rate, at(time))), [0, 1, 1, 2, 3]);
        assert!(!empty.is_full(at(299)) && empty.is_full(at(300)));
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let rate = Rate::new(2, Duration::from_secs(1));
        let empty = FullAt::default().taken(rate, at(0), 2);
        assert_eq!(empty.given_back(rate, 1).tokens(rate, at(0)), 1);
        assert_eq!(empty.given_back(rate, 2).taken(rate, at(0), 2), empty);
    }

    #[test]
    fn a_job_that_is_heavier_than_the_burst_never_starts_and_a_paused_rate_gives_nothing() {
        let rate = Rate::new(2, Duration::from_secs(1));
        assert_eq!(FullAt::default().time_of(rate, 3), None);
        let paused = Rate { count: 0, ..rate };
        assert_eq!(FullAt::default().tokens(paused, at(0)), 0);
        assert_eq!(FullAt::default().time_of(paused, 1), None);
    }

    #[test]
    fn a_slow_rate_that_was_made_fast_owes_no_more_than_its_own_burst() {
        let slow = Rate::new(1, Duration::from_secs(3_600)).burst(100);
        let spent = FullAt::default().taken(slow, at(0), 100);
        let fast = Rate::new(10, Duration::from_secs(1));
        let owed = spent.under(fast, at(0));
        assert_eq!([0, 99, 100, 1_000].map(|time| owed.tokens(fast, at(time))), [0, 0, 1, 10]);
        assert_eq!(FullAt::default().under(fast, at(0)), FullAt::default(), "and one that is full stays so")
    }

    #[test]
    fn thirds_of_a_second_do_not_add_up_to_more_than_the_rate() {
        let rate = Rate::new(3, Duration::from_secs(1)).burst(1);
        let mut bucket = FullAt::default();
        let mut started = 0;
        for micro in 0..10_000 {
            let now = StoreTime::from_micros(1_700_000_000_000_000 + micro * 1_000);
            if bucket.tokens(rate, now) > 0 {
                bucket = bucket.taken(rate, now, 1);
                started += 1;
            }
        }
        assert_eq!(started, 30);
    }
}
