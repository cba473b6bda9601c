//! The time by which leases last: time in which this process was paused does not count.

use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::{Clock, Uptime};

/// A point of active time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct ActiveTime(Duration);

impl ActiveTime {
    /// The end of all time.
    pub(super) const MAX: ActiveTime = ActiveTime(Duration::MAX);

    pub(super) fn after(self, duration: Duration) -> Self {
        ActiveTime(self.0.saturating_add(duration))
    }

    pub(super) fn since(self, earlier: ActiveTime) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// A clock that is observed at intervals of at most `step`, and counts a longer pause between two observations as two
/// steps. Heartbeats that arrived during a pause of this process so have time to be read before leases end.
#[derive(Debug)]
pub(super) struct ActiveClock {
    clock: Clock,
    step: Duration,
    seen: Mutex<Observation>,
}

#[derive(Debug)]
struct Observation {
    uptime: Uptime,
    active: ActiveTime,
}

impl ActiveClock {
    pub(super) fn new(clock: Clock, step: Duration) -> Self {
        let seen = Mutex::new(Observation { uptime: clock.uptime(), active: ActiveTime::default() });
        ActiveClock { clock, step, seen }
    }

    /// Returns the longest time between two observations.
    pub(super) fn step(&self) -> Duration {
        self.step
    }

    /// Observes the time.
    pub(super) fn observe(&self) -> ActiveTime {
        let mut seen = self.seen.lock();
        let uptime = self.clock.uptime();
        let passed = uptime.since(seen.uptime).min(2 * self.step);
        seen.uptime = uptime;
        seen.active = seen.active.after(passed);
        seen.active
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{ManualClock, Timestamp};

    #[test]
    fn a_pause_counts_as_two_steps_however_long_it_is() {
        let manual = ManualClock::new(Timestamp::from_micros(0));
        let clock = ActiveClock::new(Clock::Manual(manual.clone()), Duration::from_secs(1));
        let start = clock.observe();
        manual.advance(Duration::from_millis(900));
        assert_eq!(clock.observe().since(start), Duration::from_millis(900));
        manual.advance(Duration::from_secs(3_600));
        assert_eq!(clock.observe().since(start), Duration::from_millis(2_900));
    }

    #[test]
    fn the_wall_clock_does_not_matter() {
        let manual = ManualClock::new(Timestamp::from_micros(3_600_000_000));
        let clock = ActiveClock::new(Clock::Manual(manual.clone()), Duration::from_secs(1));
        let start = clock.observe();
        manual.set(Timestamp::from_micros(0));
        assert_eq!(clock.observe(), start);
    }
}
