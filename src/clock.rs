//! Injected time. The only file that reads the machine's clocks.
//!
//! There are two clocks. The *wall clock* tells the date and time: it labels what is shown, and says when a scheduled
//! job is due or a waiting one expires. It may be wrong, and may be set at any moment. The *uptime* counts the time
//! that has passed, including the machine's sleep, and can't be set: every wait for a duration, as opposed to an
//! instant, uses it. Each clock has a type of its own, so that the two can't be confused.
//!
//! Attempt timeouts are counted by tokio's timers, which stand still while the machine sleeps.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::time::ClockId;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Longest sleep of a wait before it reads the clocks again: the wall clock may be set, and timers stand still while
/// the machine sleeps.
const SLEEP_MAX: Duration = Duration::from_secs(10);

/// An instant: microseconds since 1970 in UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// 9999-12-31T23:59:59.999999Z, the last instant that the protocol can carry.
    pub const MAX: Timestamp = Timestamp(253_402_300_799_999_999);

    /// Creates an instant from microseconds since 1970 in UTC.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Timestamp(micros)
    }

    /// Returns microseconds since 1970 in UTC.
    #[must_use]
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// Returns this instant plus a duration, at most [`Timestamp::MAX`].
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Timestamp(self.0.saturating_add(micros(duration))).min(Timestamp::MAX)
    }

    /// The precision of instants.
    pub(crate) const TICK: Duration = Duration::from_micros(1);

    /// Returns the instant just before this one.
    pub(crate) fn just_before(self) -> Self {
        self.before(Self::TICK)
    }

    /// Returns this instant less a duration.
    pub(crate) fn before(self, duration: Duration) -> Self {
        Timestamp(self.0.saturating_sub(micros(duration)))
    }

    /// Returns the time from `earlier` to this instant; zero if this instant is not later.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl From<SystemTime> for Timestamp {
    /// Converts with microsecond precision, to at most [`Timestamp::MAX`].
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

/// Time in a store, in microseconds. It started at the wall-clock time at which the store was made, and can't be set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct StoreTime(i64);

impl StoreTime {
    /// The earliest time.
    pub(crate) const FIRST: StoreTime = StoreTime(i64::MIN);

    pub(crate) const fn from_micros(micros: i64) -> Self {
        StoreTime(micros)
    }

    /// Returns microseconds since an origin, which is 1970 in UTC if the wall clock was right when the store was made.
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

/// A measurement of a duration, independent of the wall clock.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts the measurement.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
    #[must_use]
    pub fn start() -> Self {
        Stopwatch(Instant::now())
    }

    /// Returns the time since the start.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// Time that has passed since some moment before the process began, including the machine's sleep. It can't be set, and
/// means nothing in another process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Uptime(Duration);

impl Uptime {
    /// The latest point in time.
    pub const MAX: Uptime = Uptime(Duration::MAX);

    /// Creates a point in time from the time since the origin.
    #[must_use]
    pub const fn new(since_beginning: Duration) -> Self {
        Uptime(since_beginning)
    }

    /// Returns this point in time plus a duration.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Uptime(self.0.saturating_add(duration))
    }

    /// Returns this point in time minus a duration, at the earliest the origin.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        Uptime(self.0.saturating_sub(duration))
    }

    /// Returns the time from `earlier` to this point; zero if this point is not later.
    #[must_use]
    pub fn since(self, earlier: Uptime) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Returns microseconds since the origin.
    #[must_use]
    pub fn as_micros(self) -> u64 {
        u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX)
    }
}

/// Readings of both clocks at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClockReading {
    /// Reading of the wall clock.
    pub wall: Timestamp,
    /// Reading of the uptime.
    pub uptime: Uptime,
}

impl ClockReading {
    /// Returns how far the wall clock has been set ahead since an earlier reading, in seconds; negative if it was set
    /// back.
    #[must_use]
    pub fn set_since(self, earlier: ClockReading) -> f64 {
        let micros = self.wall.as_micros().saturating_sub(earlier.wall.as_micros());
        micros as f64 / 1e6 - self.uptime.since(earlier.uptime).as_secs_f64()
    }
}

/// Time of the next thing to do: the earlier of two times, one by each clock. The default never comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WakeTime {
    /// Time by the wall clock.
    pub wall: Option<Timestamp>,
    /// Time by the uptime.
    pub uptime: Option<Uptime>,
}

impl WakeTime {
    /// Returns the earlier time by each of the clocks.
    #[must_use]
    pub fn or(self, other: WakeTime) -> WakeTime {
        WakeTime {
            wall: self.wall.into_iter().chain(other.wall).min(),
            uptime: self.uptime.into_iter().chain(other.uptime).min(),
        }
    }

    /// Returns only the times that have not come yet.
    #[must_use]
    pub fn still_to_come(self, present: ClockReading) -> WakeTime {
        WakeTime {
            wall: self.wall.filter(|wall| *wall > present.wall),
            uptime: self.uptime.filter(|uptime| *uptime > present.uptime),
        }
    }

    /// Returns whether one of the times has come.
    #[must_use]
    pub fn has_come(self, present: ClockReading) -> bool {
        self.wall.is_some_and(|wall| wall <= present.wall)
            || self.uptime.is_some_and(|uptime| uptime <= present.uptime)
    }

    /// Returns the time left if the wall clock is not set; `None` if there is nothing to wait for.
    fn left(self, present: ClockReading) -> Option<Duration> {
        let by_wall = self.wall.map(|wall| wall.since(present.wall));
        by_wall.into_iter().chain(self.uptime.map(|uptime| uptime.since(present.uptime))).min()
    }
}

impl From<Uptime> for WakeTime {
    fn from(uptime: Uptime) -> Self {
        WakeTime { uptime: Some(uptime), wall: None }
    }
}

/// Source of the present time.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The machine's clocks.
    #[default]
    System,
    /// A clock for tests, which moves only when told.
    Manual(ManualClock),
}

impl Clock {
    /// Returns the wall-clock time.
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

    /// Returns the time that has passed since some moment before the process began.
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

    /// Reads both clocks.
    #[must_use]
    pub fn present(&self) -> ClockReading {
        match self {
            Clock::System => ClockReading { wall: self.now(), uptime: self.uptime() },
            Clock::Manual(manual) => *manual.present.borrow(),
        }
    }

    /// Returns once `wake` has come. A wall clock that was set, or a sleep of the machine, is noticed within 10 s.
    pub async fn sleep_until(&self, wake: impl Into<WakeTime>) {
        let wake = wake.into();
        match self {
            Clock::System => loop {
                let Some(left) = wake.left(self.present()) else { return std::future::pending().await };
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left.min(SLEEP_MAX)).await;
            },
            Clock::Manual(manual) => {
                let mut present = manual.present.subscribe();
                // The sender lives in `manual`, so that waiting can't fail.
                let _ = present.wait_for(|present| wake.has_come(*present)).await;
            }
        }
    }
}

/// The clock that includes the machine's sleep. On Linux, the monotonic clock does not.
#[cfg(any(target_os = "linux", target_os = "android"))]
const COUNTS_SLEEP: ClockId = ClockId::Boottime;
/// The clock that includes the machine's sleep. Outside Linux, the monotonic clock does.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const COUNTS_SLEEP: ClockId = ClockId::Monotonic;

/// A clock for tests, which moves only when told.
#[derive(Clone, Debug)]
pub struct ManualClock {
    present: Arc<watch::Sender<ClockReading>>,
}

impl ManualClock {
    /// Creates a clock that stands at `start`.
    #[must_use]
    pub fn new(start: Timestamp) -> Self {
        // The machine has been up for a while.
        let present = ClockReading { wall: start, uptime: Uptime(Duration::from_secs(1_000)) };
        ManualClock { present: Arc::new(watch::Sender::new(present)) }
    }

    /// Moves both clocks forward, and wakes the waits whose time has come.
    pub fn advance(&self, by: Duration) {
        self.present.send_modify(|present| {
            *present = ClockReading { wall: present.wall.after(by), uptime: present.uptime.after(by) };
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
        let wake = WakeTime { wall: Some(START.after(seconds(60))), uptime: None };
        let mut wait = std::pin::pin!(clock.sleep_until(wake));
        manual.set(Timestamp::from_micros(0));
        manual.advance(seconds(60));
        assert!(!is_over(&mut wait));
        manual.set(START.after(seconds(60)));
        assert!(is_over(&mut wait));
    }

    #[test]
    fn of_two_times_the_one_that_comes_first_wakes() {
        let present = ClockReading { wall: START, uptime: Uptime::new(seconds(5)) };
        let wake = WakeTime { wall: Some(START.after(seconds(9))), uptime: Some(Uptime::new(seconds(8))) };
        assert_eq!(wake.left(present), Some(seconds(3)));
        assert_eq!(WakeTime::default().left(present), None);
        assert!(!WakeTime::default().has_come(present));
        let sooner = wake.or(WakeTime { wall: Some(START), uptime: None });
        assert!(sooner.has_come(present) && !wake.has_come(present));
        assert_eq!(sooner.uptime, wake.uptime);
    }

    #[test]
    fn the_machines_uptime_only_grows() {
        let before = Clock::System.uptime();
        assert!(before > Uptime::default() && Clock::System.uptime() >= before);
    }
}
