//! What a store knows of time.
//!
//! The wall clock may be wrong, and may be set while a server runs, or while none does. What waits for a while must not
//! mind. So the store counts time itself, on two lines that go on with the machine's uptime and can't be set:
//!
//! - By the one *backoffs* end. While no server ran, as much has passed as the wall clock says.
//! - By the other one *retention* counts, which can't be taken back. It counts the time for which servers run. What the
//!   wall clock says has passed while none did is on trial first: once the next server has run for an hour, what ended
//!   before gets older by as much of it as the clock has said all the time. A clock that was wrong at the start, and is
//!   set right within that hour or before the next start, has deleted nothing. What is left of deleted jobs is kept for a
//!   day in which servers run.

use std::time::Duration;

use crate::{
    clock::{Present, StoreTime, Timestamp, Uptime, Wake},
    job::Position,
    store::{Step, Steps, sets::KeptTimes},
};

/// A server runs for this long before the time without a server counts for retention.
const TRIAL: Duration = Duration::from_secs(3_600);
/// The time is kept at least as often as this, so that a start knows how long no server ran.
const KEEP_EVERY: Duration = Duration::from_secs(3_600);
/// The log tells of a clock that was set by more than this,
const TOLD_MICROS: i64 = 10_000_000;
/// and not more often than this.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// The log tells of more time without a change than this.
const LONG_MICROS: i64 = 24 * 3_600 * 1_000_000;

/// The lines, by what they say at the uptime's beginning, in microseconds.
#[derive(Debug)]
pub(super) struct Times {
    present: Present,
    backoffs: i64,
    retention: i64,
    /// Up to when, by a wall clock that is not set, retention has counted.
    counted: i64,
    trial: Option<Trial>,
    kept_at: Uptime,
    told: Option<Uptime>,
    /// Whether there is a note of how the clock was set that is not kept yet.
    step_noted: bool,
}

/// What may have passed before a start.
#[derive(Debug)]
struct Trial {
    /// The first change after the start has this place in the feed.
    start: Position,
    ends: Uptime,
    /// The least that the clock has said.
    claimed: i64,
}

impl Times {
    /// Goes on from what is kept; a new store has kept nothing. The first change has the place `start` in the feed.
    pub(super) fn start(kept: Option<KeptTimes>, present: Present, start: Position) -> Self {
        let (wall, uptime) = (present.wall.as_micros(), micros(present.uptime));
        let kept = kept.unwrap_or(KeptTimes {
            wall: present.wall,
            backoffs: StoreTime::from_micros(wall),
            retention: StoreTime::from_micros(wall),
            counted: present.wall,
        });
        let since = |earlier: Timestamp| wall.saturating_sub(earlier.as_micros()).max(0);
        // What was on trial then is given up: some of what ends before this start came after it.
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

    /// Notes what the clock says at a start: of what it was before, nothing is known.
    pub(super) fn note_start(&mut self, kept: Option<KeptTimes>, steps: &Steps, start: Position) {
        steps.note_start(self.step(start));
        self.step_noted = true;
        if let Some(kept) = kept {
            self.tell_start(kept);
        }
    }

    /// Begins a batch, whose first change takes the place `next`: time has gone on, and the clock may have been set. Returns
    /// whether what ended before is older now than was known.
    pub(super) fn begin_batch(&mut self, present: Present, steps: &Steps, next: Position) -> bool {
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

    /// The notes of how the clock was set, if the batch has to write them.
    pub(super) fn unkept_steps(&self, steps: &Steps) -> Option<Vec<Step>> {
        self.step_noted.then(|| steps.all())
    }

    /// What is known of time is on disk, together with a change. A batch that came to nothing needs no such call: how the
    /// clock was set is as true as before.
    pub(super) fn commit(&mut self) {
        self.step_noted = false;
        self.kept_at = self.present.uptime;
    }

    /// Time has gone on. Returns a trial that has ended.
    fn go_on(&mut self, present: Present) -> Option<Trial> {
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

    /// The present by which backoffs count.
    pub(super) fn backoffs(&self) -> StoreTime {
        StoreTime::from_micros(self.now_on(self.backoffs))
    }

    /// The present by which retention counts.
    pub(super) fn retention(&self) -> StoreTime {
        StoreTime::from_micros(self.now_on(self.retention))
    }

    /// How far the wall clock is ahead of both lines.
    fn step(&self, position: Position) -> Step {
        let ahead = |line: i64| self.present.wall.as_micros().saturating_sub(self.now_on(line));
        Step { position, of_retention: ahead(self.retention), of_backoffs: ahead(self.backoffs) }
    }

    /// What is to be kept with a change. What is on trial is not counted yet. A clock that was set ahead meanwhile is
    /// followed: what it was set by has not passed.
    pub(super) fn kept(&self) -> KeptTimes {
        let claimed = self.trial.as_ref().map_or(0, |trial| trial.claimed);
        let wall = self.present.wall;
        let counted = self.now_on(self.counted).max(wall.as_micros().saturating_sub(claimed));
        KeptTimes {
            wall,
            backoffs: self.backoffs(),
            retention: self.retention(),
            counted: Timestamp::from_micros(counted),
        }
    }

    /// When there is something to do.
    pub(super) fn wake(
        &self,
        scheduled: Option<Timestamp>,
        backoff: Option<StoreTime>,
        retention: Option<StoreTime>,
    ) -> Wake {
        let uptime = |at: StoreTime, line: i64| {
            let micros = at.as_micros().saturating_sub(line);
            Uptime::new(Duration::from_micros(u64::try_from(micros).unwrap_or_default()))
        };
        let backoff = backoff.map(|at| uptime(at, self.backoffs));
        let retention = retention.map(|at| uptime(at, self.retention));
        let trial = self.trial.as_ref().map(|trial| trial.ends);
        let keep = Some(self.kept_at.after(KEEP_EVERY));
        Wake { wall: scheduled, uptime: [backoff, retention, trial, keep].into_iter().flatten().min() }
    }

    /// Whether the time should be kept although nothing changes.
    pub(super) fn are_kept_too_long_ago(&self) -> bool {
        self.present.uptime.since(self.kept_at) >= KEEP_EVERY
    }

    /// Tells what the clock says at a start, where an operator may have to do something.
    fn tell_start(&self, kept: KeptTimes) {
        let (now, last) = (self.present.wall, kept.wall);
        if last.as_micros().saturating_sub(now.as_micros()) >= TOLD_MICROS {
            tracing::warn!(
                %now, %last,
                "the clock is behind what it said when the store was last changed; is it right? Retention does not count \
                 the time for which no server ran"
            );
        }
        if self.trial.as_ref().is_some_and(|trial| trial.claimed >= LONG_MICROS) {
            tracing::warn!(
                %now, %last,
                "the clock is far ahead of when the store was last changed: if it is wrong, set it right within the hour; \
                 until then nothing is deleted for it"
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

    /// A machine whose clock is off by some seconds, and a store on it.
    struct Machine {
        passed: i64,
        /// Uptimes of different boots have nothing to do with one another.
        booted: i64,
        off: i64,
        times: Times,
        /// What has been found out of what passed while no server ran.
        found_out: i64,
    }

    fn present(passed: i64, up: i64, off: i64) -> Present {
        Present {
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

        fn present(&self) -> Present {
            present(self.passed, self.passed - self.booted, self.off)
        }

        /// For so long no server runs; the clock of the next one is off by so much.
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

        /// What has been counted since the store was made, for backoffs and for retention.
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
        // While the server runs, at once or later,
        let mut machine = Machine::new(0);
        machine.is_down_for(DAY, never);
        machine.runs_for(60);
        assert_eq!(machine.counted(0), (60, 60));
        machine.set(0);
        machine.runs_for(2 * HOUR);
        assert_eq!(machine.counted(0), (2 * HOUR + 60, 2 * HOUR + 60));
        // or while it does not.
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
            let now = Present { wall, uptime: Uptime::new(Duration::MAX) };
            machine.times = Times::start(Some(kept), now, Position(1));
            machine.times.go_on(now);
            let again = machine.times.kept();
            assert_eq!(again.retention, kept.retention, "{wall}");
            Times::start(Some(again), present(0, 0, 0), Position(1)).go_on(present(1, 1, 0));
        }
    }
}
