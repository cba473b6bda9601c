//! Time, injected. The only file that reads the machine's clocks.
//!
//! There are two. The *wall clock* says what time it is: it labels what is shown and says when a scheduled job is
//! due or a waiting one expires. It may be wrong, and may be set at any moment. The *uptime* counts what has passed,
//! the machine's sleep included, and can't be set: whatever waits for a while, and no instant, waits by it. The two
//! have types of their own, so that the one is never taken for the other.
//!
//! How long an attempt may run is counted by tokio's timers, which stand still while the machine sleeps.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::time::ClockId;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// A wait for a wall-clock time looks at the clock this often, because that may be set; and a timer stands still while
/// the machine sleeps.
const LONGEST_NAP: Duration = Duration::from_secs(10);

/// An instant: microseconds since 1970 in UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 9999-12-31T23:59:59.999999Z, the last instant that the protocol can carry.
    pub const MAX: Timestamp = Timestamp(253_402_300_799_999_999);

    /// From microseconds since 1970 in UTC.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Timestamp(micros)
    }

    /// Microseconds since 1970 in UTC.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// This instant and a duration later, at most [`Timestamp::MAX`].
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Timestamp(self.0.saturating_add(micros(duration))).min(Timestamp::MAX)
    }

    /// How long it is from `earlier` to this instant; zero if it is not later.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl From<SystemTime> for Timestamp {
    /// The instant to the microsecond, at most [`Timestamp::MAX`].
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Timestamp(micros(after)).min(Timestamp::MAX),
            Err(before) => Timestamp(-micros(before.duration())),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(instant) => write!(f, "{instant}"),
            Err(_) => write!(f, "{} µs", self.0),
        }
    }
}

/// Time as a store counts it, in microseconds: it began with what the wall clock said when the store was made, and
/// can't be set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct StoreTime(i64);

impl StoreTime {
    /// Earlier than everything.
    pub(crate) const FIRST: StoreTime = StoreTime(i64::MIN);

    pub(crate) const fn from_micros(micros: i64) -> Self {
        StoreTime(micros)
    }

    /// Microseconds since a beginning that is near 1970 in UTC, as far as the clock was right.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    pub(crate) fn after(self, duration: Duration) -> Self {
        StoreTime(self.0.saturating_add(micros(duration)))
    }

    pub(crate) fn before(self, duration: Duration) -> Self {
        StoreTime(self.0.saturating_sub(micros(duration)))
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Counts how long something takes, whatever the wall clock does meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts to count.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
    #[must_use]
    pub fn start() -> Self {
        Stopwatch(Instant::now())
    }

    /// How long it has been since the start.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// A point on the line that counts what has passed, the machine's sleep included, since some moment before the process
/// began. It can't be set; in another process it means nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Uptime(Duration);

impl Uptime {
    /// Later than every other point.
    pub const MAX: Uptime = Uptime(Duration::MAX);

    /// So long after the line's beginning.
    #[must_use]
    pub const fn new(since_beginning: Duration) -> Self {
        Uptime(since_beginning)
    }

    /// This point and a duration later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Uptime(self.0.saturating_add(duration))
    }

    /// How long it is from `earlier` to this point; zero if it is not later.
    #[must_use]
    pub fn since(self, earlier: Uptime) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Microseconds since the line's beginning.
    #[must_use]
    pub fn as_micros(self) -> u64 {
        u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX)
    }
}

/// What both clocks say at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Present {
    /// What the wall clock says.
    pub wall: Timestamp,
    /// What has passed.
    pub uptime: Uptime,
}

impl Present {
    /// How far the wall clock has been set ahead since an earlier present, or, below 0, back: in seconds.
    #[must_use]
    pub fn set_since(self, earlier: Present) -> f64 {
        let micros = self.wall.as_micros().saturating_sub(earlier.wall.as_micros());
        micros as f64 / 1e6 - self.uptime.since(earlier.uptime).as_secs_f64()
    }
}

/// When there is something to do: as soon as one of the two has come. The default never comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Wake {
    /// By the wall clock.
    pub wall: Option<Timestamp>,
    /// By what has passed.
    pub uptime: Option<Uptime>,
}

impl Wake {
    /// The sooner one of each.
    #[must_use]
    pub fn or(self, other: Wake) -> Wake {
        Wake {
            wall: self.wall.into_iter().chain(other.wall).min(),
            uptime: self.uptime.into_iter().chain(other.uptime).min(),
        }
    }

    /// What is still to come of it.
    #[must_use]
    pub fn still_to_come(self, present: Present) -> Wake {
        Wake {
            wall: self.wall.filter(|wall| *wall > present.wall),
            uptime: self.uptime.filter(|uptime| *uptime > present.uptime),
        }
    }

    /// Whether there is something to do.
    #[must_use]
    pub fn has_come(self, present: Present) -> bool {
        self.wall.is_some_and(|wall| wall <= present.wall)
            || self.uptime.is_some_and(|uptime| uptime <= present.uptime)
    }

    /// How long it takes to come if the clock is not set.
    fn left(self, present: Present) -> Option<Duration> {
        let by_wall = self.wall.map(|wall| wall.since(present.wall));
        by_wall.into_iter().chain(self.uptime.map(|uptime| uptime.since(present.uptime))).min()
    }
}

impl From<Uptime> for Wake {
    fn from(uptime: Uptime) -> Self {
        Wake { uptime: Some(uptime), wall: None }
    }
}

/// Where the present comes from.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's clocks.
    #[default]
    System,
    /// A clock that stands still until a test moves it.
    Manual(ManualClock),
}

impl Clock {
    /// What the wall clock says.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match self {
            Clock::System => {
                let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp(micros(elapsed))
            }
            Clock::Manual(manual) => manual.present.borrow().wall,
        }
    }

    /// What has passed since some moment before the process began.
    #[must_use]
    pub fn uptime(&self) -> Uptime {
        match self {
            Clock::System => {
                let time = rustix::time::clock_gettime(COUNTS_SLEEP);
                let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
                Uptime(Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or_default()))
            }
            Clock::Manual(manual) => manual.present.borrow().uptime,
        }
    }

    /// What both clocks say.
    #[must_use]
    pub fn present(&self) -> Present {
        match self {
            Clock::System => Present { wall: self.now(), uptime: self.uptime() },
            Clock::Manual(manual) => *manual.present.borrow(),
        }
    }

    /// Returns once `wake` has come. That the wall clock was set, or that the machine slept, is noticed within 10 s.
    pub async fn sleep_until(&self, wake: impl Into<Wake>) {
        let wake = wake.into();
        match self {
            Clock::System => loop {
                let Some(left) = wake.left(self.present()) else { return std::future::pending().await };
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left.min(LONGEST_NAP)).await;
            },
            Clock::Manual(manual) => {
                let mut present = manual.present.subscribe();
                // The sender lives in `manual`, so that waiting can't fail.
                let _ = present.wait_for(|present| wake.has_come(*present)).await;
            }
        }
    }
}

/// Linux leaves the machine's sleep out of its monotonic clock, and has another one that counts it.
#[cfg(any(target_os = "linux", target_os = "android"))]
const COUNTS_SLEEP: ClockId = ClockId::Boottime;
/// Elsewhere the monotonic clock counts it.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const COUNTS_SLEEP: ClockId = ClockId::Monotonic;

/// A clock for tests: it moves only when told.
#[derive(Clone, Debug)]
pub struct ManualClock {
    present: Arc<watch::Sender<Present>>,
}

impl ManualClock {
    /// A clock that stands at `start`.
    #[must_use]
    pub fn new(start: Timestamp) -> Self {
        // The machine has been up for a while.
        let present = Present { wall: start, uptime: Uptime(Duration::from_secs(1_000)) };
        ManualClock { present: Arc::new(watch::Sender::new(present)) }
    }

    /// Lets time pass, and wakes those who wait for a moment on the way.
    pub fn advance(&self, by: Duration) {
        self.present.send_modify(|present| {
            *present = Present { wall: present.wall.after(by), uptime: present.uptime.after(by) };
        });
    }

    /// Sets the wall clock, forward or back, as an operator or NTP does. No time passes.
    pub fn set(&self, wall: Timestamp) {
        self.present.send_modify(|present| present.wall = wall);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_micros(1_800_000_000_000_000);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Whether a wait is over by now.
    fn is_over(wait: &mut std::pin::Pin<&mut impl Future<Output = ()>>) -> bool {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        wait.as_mut().poll(&mut context).is_ready()
    }

    #[test]
    fn a_wait_for_a_while_does_not_mind_that_the_clock_is_set() {
        let manual = ManualClock::new(START);
        let clock = Clock::Manual(manual.clone());
        let mut wait = std::pin::pin!(clock.sleep_until(clock.uptime().after(seconds(60))));
        manual.set(START.after(seconds(3_600)));
        assert!(!is_over(&mut wait));
        manual.set(Timestamp::from_micros(0));
        manual.advance(seconds(59));
        assert!(!is_over(&mut wait));
        manual.advance(seconds(1));
        assert!(is_over(&mut wait));
    }

    #[test]
    fn a_wait_for_an_instant_goes_by_what_the_clock_says() {
        let manual = ManualClock::new(START);
        let clock = Clock::Manual(manual.clone());
        let wake = Wake { wall: Some(START.after(seconds(60))), uptime: None };
        let mut wait = std::pin::pin!(clock.sleep_until(wake));
        manual.set(Timestamp::from_micros(0));
        manual.advance(seconds(60));
        assert!(!is_over(&mut wait));
        manual.set(START.after(seconds(60)));
        assert!(is_over(&mut wait));
    }

    #[test]
    fn of_two_times_the_one_that_comes_first_wakes() {
        let present = Present { wall: START, uptime: Uptime::new(seconds(5)) };
        let wake = Wake { wall: Some(START.after(seconds(9))), uptime: Some(Uptime::new(seconds(8))) };
        assert_eq!(wake.left(present), Some(seconds(3)));
        assert_eq!(Wake::default().left(present), None);
        assert!(!Wake::default().has_come(present));
        let sooner = wake.or(Wake { wall: Some(START), uptime: None });
        assert!(sooner.has_come(present) && !wake.has_come(present));
        assert_eq!(sooner.uptime, wake.uptime);
    }

    #[test]
    fn the_machines_uptime_only_grows() {
        let before = Clock::System.uptime();
        assert!(before > Uptime::default() && Clock::System.uptime() >= before);
    }
}
