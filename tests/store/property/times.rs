//! Elapsed time as an observer of all clocks knows it. A store sees only a wall clock that may be wrong, and no clock
//! while no server runs.

use std::time::Duration;

use jobmill::{
    clock::Timestamp,
    job::{State, StateName},
};

use super::ledger::{Known, Ledger, Violation, promise};
use crate::store::batch::Applied;

/// Tolerance: the wall clock and a store may differ by this much without a note, and a sweep may rest this long.
const TOLERANCE: Duration = Duration::from_secs(1);
/// Uptime of a server after which the wall clock's word on the time before its start counts for retention.
const TRIAL_MICROS: i64 = 3_600 * 1_000_000;

/// A moment, with the bounds of the error in what the store has counted up to it. In microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TimePoint {
    passed: i64,
    backoffs: ErrorBounds,
    /// Time without a server, which may not count for retention.
    uncounted: i64,
}

#[derive(Clone, Copy, Debug, Default)]
struct ErrorBounds {
    too_much: i64,
    too_little: i64,
}

/// The elapsed time and the wall clock's offset from it.
#[derive(Debug, Default)]
pub(crate) struct Times {
    now: TimePoint,
    /// The wall clock's offset from the elapsed time.
    ahead: i64,
    kept: Kept,
    /// The least offset up to which retention has accepted the wall clock.
    accepted: i64,
    trial: Option<Trial>,
    /// Starts under a clock that was ahead for an hour, and how much too old each made what had ended before.
    misled: Vec<(i64, i64)>,
}

/// The wall clock's claim at a start, which is not accepted until the trial period is over.
#[derive(Clone, Copy, Debug)]
struct Trial {
    start: i64,
    claimed: i64,
    /// Time that passed before the start without a server.
    unknown: i64,
}

/// The state of the clock when the store was last written. A range, because a batch without changes may have been
/// written or not.
#[derive(Debug, Default)]
struct Kept {
    passed: i64,
    ahead: (i64, i64),
    accepted: i64,
}

impl Times {
    /// Records a batch.
    fn batch(&mut self, wall: Timestamp, passed: Duration, applied: &Applied) {
        self.go_on(wall, passed);
        let accepted = self.accepted.max(self.ahead - self.trial.map_or(0, |trial| trial.claimed));
        // A store stores the time at least once an hour.
        let long_ago = self.now.passed - self.kept.passed >= TRIAL_MICROS;
        if !applied.changes.is_empty() || applied.queues.is_some() || long_ago {
            self.kept = Kept { passed: self.now.passed, ahead: (self.ahead, self.ahead), accepted };
        } else {
            let (least, most) = self.kept.ahead;
            self.kept.ahead = (least.min(self.ahead), most.max(self.ahead));
            self.kept.accepted = self.kept.accepted.min(accepted);
        }
    }

    fn go_on(&mut self, wall: Timestamp, passed: Duration) {
        self.now.passed = micros(passed);
        self.ahead = wall.as_micros() - self.now.passed;
        let Some(Trial { start, claimed, unknown }) = &mut self.trial else { return };
        *claimed = (*claimed).min(self.ahead - self.accepted).max(0);
        if *start + TRIAL_MICROS <= self.now.passed {
            self.misled.push((*start, (*claimed - *unknown).max(0)));
            self.accepted += *claimed;
            self.trial = None;
        }
    }

    /// Records the start of a server.
    pub(crate) fn start(&mut self, wall: Timestamp, passed: Duration) {
        self.trial = None;
        self.go_on(wall, passed);
        let unknown = self.now.passed - self.kept.passed;
        let (least, most) = self.kept.ahead;
        self.now.backoffs.too_much += (self.ahead - least).max(0);
        self.now.backoffs.too_little += (most - self.ahead).clamp(0, unknown);
        self.now.uncounted += unknown;
        self.accepted = self.kept.accepted.max(least.min(self.ahead)) - unknown;
        let claimed = (self.ahead - self.accepted).max(0);
        self.trial = Some(Trial { start: self.now.passed, claimed, unknown });
        let accepted = self.accepted.max(self.ahead - claimed);
        self.kept = Kept { passed: self.now.passed, ahead: (self.ahead, self.ahead), accepted };
    }

    /// Returns the times of a new store.
    pub(crate) fn begin(wall: Timestamp) -> Self {
        let ahead = wall.as_micros();
        let kept = Kept { passed: 0, ahead: (ahead, ahead), accepted: ahead };
        Times { ahead, kept, accepted: ahead, ..Times::default() }
    }

    /// Returns the time by the wall clock.
    pub(crate) fn wall(&self) -> Timestamp {
        Timestamp::from_micros(self.ahead + self.now.passed)
    }

    pub(crate) fn time_point(&self) -> TimePoint {
        self.now
    }

    /// Returns the least and the most time that a store may count for a backoff since a moment.
    pub(super) fn of_backoff(&self, since: TimePoint) -> (Duration, Duration) {
        let passed = self.now.passed - since.passed;
        let least = passed - (self.now.backoffs.too_little - since.backoffs.too_little);
        let most = passed + (self.now.backoffs.too_much - since.backoffs.too_much);
        (duration(least), duration(most))
    }

    /// Returns the least and the most time that a store may count for retention since a moment.
    fn of_retention(&self, since: TimePoint) -> (Duration, Duration) {
        let passed = self.now.passed - since.passed;
        let least = passed - (self.now.uncounted - since.uncounted);
        let misled = self.misled.iter().filter(|(start, _)| *start >= since.passed);
        (duration(least), duration(passed + misled.map(|(_, by)| by).sum::<i64>()))
    }
}

fn micros(duration: Duration) -> i64 {
    duration.as_micros() as i64
}

fn duration(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or_default())
}

impl Ledger {
    /// Takes in the time of a batch. The known ends of backoffs move with the wall clock where it was set.
    pub(crate) fn hear_time(&mut self, wall: Timestamp, passed: Duration, applied: &Applied) {
        let before = self.times.ahead;
        self.times.batch(wall, passed, applied);
        let set_by = self.times.ahead - before;
        for job in self.jobs.values_mut() {
            if let State::BackingOff { due } = &mut job.state {
                *due = Timestamp::from_micros(due.as_micros() + set_by);
            }
        }
    }

    /// Returns whether the end of a backoff matches the one reported before, within the uncertainty of the clock.
    pub(crate) fn is_same_backoff(&self, known: &Known, told: State) -> bool {
        let (State::BackingOff { .. }, State::BackingOff { due }) = (known.state, told) else { return false };
        let (least, most) = self.times.of_backoff(known.since);
        let left = due.since(self.times.wall());
        // The clock may have been wrong at the first report, and may be wrong now.
        let at_least = known.delay.saturating_sub(most + 2 * TOLERANCE);
        let at_most = (known.delay + 2 * TOLERANCE).saturating_sub(least);
        (at_least..=at_most).contains(&left)
    }

    /// Checks that a waiting job does not go on before its time.
    pub(crate) fn check_not_early(&self, known: &Known, wall: Timestamp) -> Result<(), Violation> {
        match known.state {
            State::Scheduled { due } => promise!(due <= wall, "{due} has not come at {wall}: {known:?}"),
            State::BackingOff { .. } => {
                let (_, most) = self.times.of_backoff(known.since);
                promise!(most + TOLERANCE >= known.delay, "a backoff ended after {most:?}: {known:?}");
            }
            _ => {}
        }
        Ok(())
    }

    /// Checks that no job waits past its time, and that no ended job is kept for too long. Call it only once the store
    /// has no more work at this moment.
    pub(crate) fn check_times(&self, now: Timestamp) -> Result<(), Violation> {
        for (id, job) in &self.jobs {
            let waits =
                matches!(job.state, State::Scheduled { .. } | State::Queued { .. }) && job.starts == 0;
            let over = waits && job.expires.is_some_and(|expires| expires <= now);
            promise!(!over, "{id} should have expired by {now}: {job:?}");
            let is_waiting = job.state.name() == StateName::Queued || job.state.due().is_some();
            let late = is_waiting && job.deadline.is_some_and(|deadline| deadline <= now);
            promise!(!late, "{id} should have failed by {now}: {job:?}");
            match job.state {
                State::Scheduled { due } => promise!(due > now, "{id} should have gone on by {now}: {job:?}"),
                State::BackingOff { .. } => {
                    let (least, _) = self.times.of_backoff(job.since);
                    promise!(least < job.delay + TOLERANCE, "{id} still backs off after {least:?}: {job:?}");
                }
                state if state.is_done() => {
                    let (least, _) = self.times.of_retention(job.since);
                    let kept = super::ledger::kept(state.name());
                    // Children may keep it.
                    let is_late = least > kept + 3 * TOLERANCE && !self.dependencies.was_parent(*id);
                    promise!(!is_late, "{id} is still there after {least:?}: {job:?}");
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns whether retention may have deleted a job.
    pub(crate) fn is_over(&self, known: &Known) -> bool {
        let (_, most) = self.times.of_retention(known.since);
        known.state.is_done() && most + TOLERANCE > super::ledger::kept(known.state.name())
    }
}
