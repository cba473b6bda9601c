//! The time that a store counts.
//!
//! The wall clock may be wrong, and may be set while a server runs or while none does. Durations must not depend on
//! that. So the store counts time itself, on two timelines that advance with the machine's uptime and can't be set:
//!
//! - Backoffs end by the first one. Its downtime, the time without a server, is what the wall clock indicates.
//! - Retention, which deletes for good, counts by the second one, which advances while servers run. Downtime is on
//!   trial first: once the next server has run for an hour, jobs that ended before get older by the shortest downtime
//!   that the clock has indicated in that hour. So a clock that was wrong at the start, and is corrected within that
//!   hour or before the next start, has deleted nothing. Tombstones are kept for a day of this time.

use std::time::Duration;

use crate::{
    clock::{ClockReading, StoreTime, Timestamp, Uptime, WakeTime},
    job::Position,
    store::{ClockStep, ClockSteps, sets::StoredTimes},
};

/// Running time of a server after which the preceding downtime counts for retention.
const TRIAL: Duration = Duration::from_secs(3_600);
/// Longest interval between writes of the time, from which a start computes the downtime.
const KEEP_EVERY: Duration = Duration::from_secs(3_600);
/// Smallest change of the clock that is logged, in microseconds.
const TOLD_MICROS: i64 = 10_000_000;
/// Shortest interval between these log lines.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// Shortest downtime by the wall clock that is logged, in microseconds.
const LONG_MICROS: i64 = 24 * 3_600 * 1_000_000;

/// The timelines, each by its value at uptime zero, in microseconds.
#[derive(Debug)]
pub(super) struct Times {
    present: ClockReading,
    backoffs: i64,
    retention: i64,
    /// The wall-clock time up to which retention has counted, at uptime zero.
    counted: i64,
    trial: Option<Trial>,
    kept_at: Uptime,
    told: Option<Uptime>,
    /// Whether a note of a set clock is not stored yet.
    step_noted: bool,
}

/// Downtime before a start, on trial until it counts for retention.
#[derive(Debug)]
struct Trial {
    /// Feed position of the first change after the start.
    start: Position,
    ends: Uptime,
    /// The shortest downtime that the clock has indicated so far, in microseconds.
    claimed: i64,
}

impl Times {
    /// Continues from the stored times, which a new store lacks. The first change will have the feed position `start`.
    pub(super) fn start(kept: Option<StoredTimes>, present: ClockReading, start: Position) -> Self {
        let (wall, uptime) = (present.wall.as_micros(), micros(present.uptime));
        let kept = kept.unwrap_or(StoredTimes {
            wall: present.wall,
            backoffs: StoreTime::from_micros(wall),
            retention: StoreTime::from_micros(wall),
            counted: present.wall,
        });
        let since = |earlier: Timestamp| wall.saturating_sub(earlier.as_micros()).max(0);
        // An unfinished trial is abandoned: some of the jobs that ended before this start ended after the trial began.
        let counted = kept.counted.max(kept.wall.min(present.wall));
        let claimed = since(counted);
        Times {
            present,
            backoffs: kept.backoffs.as_micros().saturating_add(since(kept.wall)).saturating_sub(uptime),
            retention: kept.retention.as_micros().saturating_sub(uptime),
            counted: counted.as_micros().saturating_sub(uptime),
            trial: (claimed > 0).then(|| Trial { start, ends: present.uptime.after(TRIAL), claimed }),
            kept_at: present.uptime,
            told: None,
            step_noted: false,
        }
    }

    /// Notes the clock at a start, because it may have been set while no server ran.
    pub(super) fn note_start(&mut self, kept: Option<StoredTimes>, steps: &ClockSteps, start: Position) {
        steps.note_start(self.step(start));
        self.step_noted = true;
        if let Some(kept) = kept {
            self.tell_start(kept);
        }
    }

    /// Begins a batch, whose first change gets the feed position `next`: advances the time, and notes a set clock.
    /// Returns whether a trial has ended, which makes jobs that ended before the start older.
    pub(super) fn begin_batch(&mut self, present: ClockReading, steps: &ClockSteps, next: Position) -> bool {
        let ended = self.go_on(present);
        let aged = ended.is_some();
        if let Some(Trial { start, claimed, .. }) = ended {
            steps.age_before(start, claimed);
            self.step_noted = true;
        }
        if let Some(by) = steps.note(self.step(next)) {
            self.step_noted = true;
            self.tell_step(by);
        }
        aged
    }

    /// Returns the notes of a set clock, if the batch has to write them.
    pub(super) fn unkept_steps(&self, steps: &ClockSteps) -> Option<Vec<ClockStep>> {
        self.step_noted.then(|| steps.all())
    }

    /// Marks the times and notes as stored. A dropped batch needs no counterpart, because the notes remain true.
    pub(super) fn commit(&mut self) {
        self.step_noted = false;
        self.kept_at = self.present.uptime;
    }

    /// Advances the time. Returns a trial that has ended.
    fn go_on(&mut self, present: ClockReading) -> Option<Trial> {
        self.present = present;
        let expected = self.now_on(self.counted);
        let trial = self.trial.as_mut()?;
        let said = present.wall.as_micros().saturating_sub(expected);
        trial.claimed = trial.claimed.min(said).max(0);
        let ended = self.trial.take_if(|trial| trial.claimed == 0 || trial.ends <= present.uptime)?;
        self.counted = self.counted.saturating_add(ended.claimed);
        Some(ended)
    }

    fn now_on(&self, line: i64) -> i64 {
        line.saturating_add(micros(self.present.uptime))
    }

    /// Returns the present on the timeline of backoffs.
    pub(super) fn backoffs(&self) -> StoreTime {
        StoreTime::from_micros(self.now_on(self.backoffs))
    }

    /// Returns the present on the timeline of retention.
    pub(super) fn retention(&self) -> StoreTime {
        StoreTime::from_micros(self.now_on(self.retention))
    }

    /// Returns how far the wall clock is ahead of both timelines.
    fn step(&self, position: Position) -> ClockStep {
        let ahead = |line: i64| self.present.wall.as_micros().saturating_sub(self.now_on(line));
        ClockStep { position, of_retention: ahead(self.retention), of_backoffs: ahead(self.backoffs) }
    }

    /// Returns the times to store with a change. Downtime on trial is not counted yet. If the clock was set ahead
    /// meanwhile, `counted` follows it, because the difference is not elapsed time.
    pub(super) fn kept(&self) -> StoredTimes {
        let claimed = self.trial.as_ref().map_or(0, |trial| trial.claimed);
        let wall = self.present.wall;
        let counted = self.now_on(self.counted).max(wall.as_micros().saturating_sub(claimed));
        StoredTimes {
            wall,
            backoffs: self.backoffs(),
            retention: self.retention(),
            counted: Timestamp::from_micros(counted),
        }
    }

    /// Returns the next time at which there is work.
    pub(super) fn wake(
        &self,
        scheduled: Option<Timestamp>,
        backoff: Option<StoreTime>,
        retention: Option<StoreTime>,
    ) -> WakeTime {
        let uptime = |at: StoreTime, line: i64| {
            let micros = at.as_micros().saturating_sub(line);
            Uptime::new(Duration::from_micros(u64::try_from(micros).unwrap_or_default()))
        };
        let backoff = backoff.map(|at| uptime(at, self.backoffs));
        let retention = retention.map(|at| uptime(at, self.retention));
        let trial = self.trial.as_ref().map(|trial| trial.ends);
        let keep = Some(self.kept_at.after(KEEP_EVERY));
        WakeTime { wall: scheduled, uptime: [backoff, retention, trial, keep].into_iter().flatten().min() }
    }

    /// Returns whether the time should be stored although nothing changes.
    pub(super) fn are_kept_too_long_ago(&self) -> bool {
        self.present.uptime.since(self.kept_at) >= KEEP_EVERY
    }

    /// Logs a clock at a start that an operator may have to correct.
    fn tell_start(&self, kept: StoredTimes) {
        let (now, last) = (self.present.wall, kept.wall);
        if last.as_micros().saturating_sub(now.as_micros()) >= TOLD_MICROS {
            tracing::warn!(
                %now, %last,
                "the clock is behind the time of the store's last change: check it; retention does not count the time \
                 without a server"
            );
        }
        if self.trial.as_ref().is_some_and(|trial| trial.claimed >= LONG_MICROS) {
            tracing::warn!(
                %now, %last,
                "the clock is far ahead of the time of the store's last change: if it is wrong, correct it within an \
                 hour; until then the difference deletes nothing"
            );
        }
    }

    fn tell_step(&mut self, by: i64) {
        let due = self.told.is_none_or(|told| self.present.uptime.since(told) >= TELL_EVERY);
        if by.saturating_abs() < TOLD_MICROS || !due {
            return;
        }
        self.told = Some(self.present.uptime);
        tracing::warn!(
            now = %self.present.wall,
            ahead_seconds = by / 1_000_000,
            "the clock was set: scheduled jobs and expiry follow it, backoffs and retention do not"
        );
    }
}

fn micros(uptime: Uptime) -> i64 {
    i64::try_from(uptime.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600;
    const DAY: i64 = 24 * HOUR;
    const START: i64 = 1_800_000_000;

    /// A machine whose clock is off by some seconds, with a store.
    struct Machine {
        passed: i64,
        /// Uptimes of different boots are not comparable.
        booted: i64,
        off: i64,
        times: Times,
        /// Downtime that has counted after a trial, in seconds.
        found_out: i64,
    }

    fn present(passed: i64, up: i64, off: i64) -> ClockReading {
        ClockReading {
            wall: Timestamp::from_micros((START + passed + off) * 1_000_000),
            uptime: Uptime::new(Duration::from_secs(up as u64 + 5)),
        }
    }

    impl Machine {
        fn new(off: i64) -> Self {
            let times = Times::start(None, present(0, 0, off), Position(1));
            Machine { passed: 0, booted: 0, off, times, found_out: 0 }
        }

        fn runs_for(&mut self, seconds: i64) {
            self.passed += seconds;
            let ended = self.times.go_on(self.present());
            self.found_out += ended.map_or(0, |trial| trial.claimed / 1_000_000);
        }

        fn present(&self) -> ClockReading {
            present(self.passed, self.passed - self.booted, self.off)
        }

        /// Simulates a downtime of `seconds`, after which the clock is off by `off`.
        fn is_down_for(&mut self, seconds: i64, off: i64) {
            let kept = self.times.kept();
            (self.passed, self.off) = (self.passed + seconds, off);
            self.booted = self.passed;
            self.times = Times::start(Some(kept), self.present(), Position(1));
            self.runs_for(0);
        }

        fn set(&mut self, off: i64) {
            self.off = off;
            self.runs_for(0);
        }

        /// Returns the seconds counted since the store was created, for backoffs and for retention.
        fn counted(&self, first_off: i64) -> (i64, i64) {
            let since = |time: StoreTime| time.as_micros() / 1_000_000 - START - first_off;
            (since(self.times.backoffs()), since(self.times.retention()) + self.found_out)
        }
    }

    #[test]
    fn what_passes_while_a_server_runs_counts_whatever_becomes_of_the_clock() {
        let mut machine = Machine::new(0);
        for off in [0, -HOUR, 30 * DAY, -3_650 * DAY, 5] {
            machine.set(off);
            machine.runs_for(600);
        }
        assert_eq!(machine.counted(0), (3_000, 3_000));
    }

    #[test]
    fn what_passes_without_a_server_counts_for_retention_after_an_hour() {
        let mut machine = Machine::new(0);
        machine.is_down_for(7 * DAY, 0);
        assert_eq!(machine.counted(0), (7 * DAY, 0));
        machine.runs_for(HOUR - 1);
        assert_eq!(machine.counted(0), (7 * DAY + HOUR - 1, HOUR - 1));
        machine.runs_for(1);
        assert_eq!(machine.counted(0), (7 * DAY + HOUR, 7 * DAY + HOUR));
        assert!(machine.times.trial.is_none());
    }

    #[test]
    fn what_passed_before_a_server_that_did_not_run_for_an_hour_is_given_up() {
        let mut machine = Machine::new(0);
        machine.is_down_for(7 * DAY, 0);
        machine.runs_for(HOUR - 1);
        machine.is_down_for(60, 0);
        assert_eq!(machine.counted(0), (7 * DAY + HOUR + 59, HOUR - 1));
        machine.runs_for(HOUR);
        assert_eq!(machine.counted(0), (7 * DAY + 2 * HOUR + 59, 2 * HOUR + 59));
    }

    #[test]
    fn a_clock_ahead_at_the_start_that_is_set_right_within_the_hour_has_counted_for_nothing() {
        let mut machine = Machine::new(0);
        machine.is_down_for(DAY, 3_650 * DAY);
        machine.runs_for(HOUR - 1);
        machine.set(0);
        machine.runs_for(1);
        assert_eq!(machine.counted(0).1, DAY + HOUR, "only what has passed");
        machine.is_down_for(DAY, 0);
        machine.runs_for(HOUR);
        assert_eq!(machine.counted(0).1, 2 * DAY + 2 * HOUR, "and it has no after-effect");
    }

    #[test]
    fn a_clock_ahead_at_the_start_that_is_right_at_the_next_one_has_counted_for_nothing() {
        let mut machine = Machine::new(0);
        machine.is_down_for(DAY, 3_650 * DAY);
        machine.runs_for(HOUR / 2);
        machine.is_down_for(DAY, 0);
        machine.runs_for(HOUR);
        assert_eq!(machine.counted(0).1, 3 * HOUR / 2);
        machine.is_down_for(DAY, 0);
        machine.runs_for(HOUR);
        assert_eq!(machine.counted(0).1, DAY + 5 * HOUR / 2, "and it has no after-effect");
    }

    #[test]
    fn a_clock_ahead_for_more_than_the_hour_is_believed_and_holds_up_nothing_later() {
        let mut machine = Machine::new(0);
        machine.is_down_for(DAY, 3_650 * DAY);
        machine.runs_for(HOUR);
        machine.set(0);
        machine.runs_for(HOUR);
        assert_eq!(machine.counted(0).1, 3_651 * DAY + 2 * HOUR);
        // The clock is behind what was counted: time without a server does not count, time with one does.
        machine.is_down_for(DAY, 0);
        machine.runs_for(2 * HOUR);
        assert_eq!(machine.counted(0).1, 3_651 * DAY + 4 * HOUR);
    }

    #[test]
    fn a_clock_that_was_never_set_at_boot_hastens_nothing_once_it_is_set() {
        let never = -START;
        // The clock is set while the server runs.
        let mut machine = Machine::new(0);
        machine.is_down_for(DAY, never);
        machine.runs_for(60);
        assert_eq!(machine.counted(0), (60, 60));
        machine.set(0);
        machine.runs_for(2 * HOUR);
        assert_eq!(machine.counted(0), (2 * HOUR + 60, 2 * HOUR + 60));
        // The clock is set while no server runs.
        machine.is_down_for(60, never);
        machine.runs_for(2 * HOUR);
        machine.is_down_for(60, 0);
        machine.runs_for(HOUR);
        assert_eq!(machine.counted(0).1, 5 * HOUR + 60 + 120, "the clock says how long no server ran");
    }

    #[test]
    fn a_store_that_was_made_before_the_clock_was_set_counts_as_any_other() {
        let never = -START;
        let mut machine = Machine::new(never);
        machine.runs_for(60);
        machine.set(0);
        machine.runs_for(60);
        machine.is_down_for(DAY, 0);
        machine.runs_for(HOUR);
        assert_eq!(machine.counted(never), (DAY + HOUR + 120, DAY + HOUR + 120));
    }

    #[test]
    fn nothing_is_lost_on_numbers_that_are_too_large() {
        for wall in [Timestamp::MAX, Timestamp::from_micros(i64::MAX), Timestamp::from_micros(i64::MIN)] {
            let mut machine = Machine::new(0);
            let kept = machine.times.kept();
            let now = ClockReading { wall, uptime: Uptime::new(Duration::MAX) };
            machine.times = Times::start(Some(kept), now, Position(1));
            machine.times.go_on(now);
            let again = machine.times.kept();
            assert_eq!(again.retention, kept.retention, "{wall}");
            Times::start(Some(again), present(0, 0, 0), Position(1)).go_on(present(1, 1, 0));
        }
    }
}
