//! What has passed, as one knows it who sees all clocks: a store sees one that may be wrong, and none while no server runs.

use std::time::Duration;

use jobmill::{clock::Timestamp, job::State};

use super::ledger::{Known, Ledger, Violation, promise};
use crate::store::batch::Applied;

/// The wall clock and a store may be apart by this much without a note, and a store may rest for as long.
const TOLERANCE: Duration = Duration::from_secs(1);
/// The server runs for this long before what the clock says of the time before counts for retention.
const TRIAL_MICROS: i64 = 3_600 * 1_000_000;

/// A moment, and by how much the store may have been wrong up to then in what it has counted: all in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mark {
    passed: i64,
    backoffs: Wrong,
    /// What passed without a server, and may not count for retention.
    uncounted: i64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Wrong {
    too_much: i64,
    too_little: i64,
}

/// Knows what has passed, and what the clock has said meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Times {
    now: Mark,
    /// How far the wall clock is ahead of what has passed.
    ahead: i64,
    kept: Kept,
    /// How far ahead the clock is at least of up to when retention has counted.
    accepted: i64,
    trial: Option<Trial>,
    /// When servers started under a clock that was ahead for an hour, and by how much what ended before got too old.
    misled: Vec<(i64, i64)>,
}

/// What a server may believe that has started.
#[derive(Clone, Copy, Debug)]
struct Trial {
    start: i64,
    claimed: i64,
    /// What passed before the start.
    unknown: i64,
}

/// What the store knew when it was last written to; without a change it may have been, or not.
#[derive(Debug, Default)]
struct Kept {
    passed: i64,
    ahead: (i64, i64),
    accepted: i64,
}

impl Times {
    /// A batch happens.
    fn batch(&mut self, wall: Timestamp, passed: Duration, applied: &Applied) {
        self.go_on(wall, passed);
        let accepted = self.accepted.max(self.ahead - self.trial.map_or(0, |trial| trial.claimed));
        // A store keeps the time once an hour at least.
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

    /// A server starts.
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

    /// A store is made.
    pub(crate) fn begin(wall: Timestamp) -> Self {
        let ahead = wall.as_micros();
        let kept = Kept { passed: 0, ahead: (ahead, ahead), accepted: ahead };
        Times { ahead, kept, accepted: ahead, ..Times::default() }
    }

    pub(crate) fn mark(&self) -> Mark {
        self.now
    }

    /// The least and the most that a store may count for a backoff since then.
    fn of_backoff(&self, since: Mark) -> (Duration, Duration) {
        let passed = self.now.passed - since.passed;
        let least = passed - (self.now.backoffs.too_little - since.backoffs.too_little);
        let most = passed + (self.now.backoffs.too_much - since.backoffs.too_much);
        (duration(least), duration(most))
    }

    /// The least and the most that a store may count for retention since then.
    fn of_retention(&self, since: Mark) -> (Duration, Duration) {
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
    /// Time has gone on to a batch. Backoffs are told anew where the clock was set.
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

    /// What was told of a backoff, and what is told of it now, are the same as far as the clock allows.
    pub(crate) fn is_same_backoff(&self, known: &Known, told: State) -> bool {
        let (State::BackingOff { .. }, State::BackingOff { due }) = (known.state, told) else { return false };
        let (least, most) = self.times.of_backoff(known.since);
        let left = due.since(Timestamp::from_micros(self.times.ahead + self.times.now.passed));
        // The clock may have been astray when it was told first, and may be now.
        let at_least = known.delay.saturating_sub(most + 2 * TOLERANCE);
        let at_most = (known.delay + 2 * TOLERANCE).saturating_sub(least);
        (at_least..=at_most).contains(&left)
    }

    /// A job goes on that waited.
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

    /// Nothing waits whose time is over, and nothing that has ended is kept for longer than it should be. Whoever has a
    /// store that says that there is more to do at once must let it.
    pub(crate) fn check_times(&self, now: Timestamp) -> Result<(), Violation> {
        for (id, job) in &self.jobs {
            let waits =
                matches!(job.state, State::Scheduled { .. } | State::Queued { .. }) && job.attempt == 0;
            let over = waits && job.expires.is_some_and(|expires| expires <= now);
            promise!(!over, "{id} should have expired by {now}: {job:?}");
            match job.state {
                State::Scheduled { due } => promise!(due > now, "{id} should have gone on by {now}: {job:?}"),
                State::BackingOff { .. } => {
                    let (least, _) = self.times.of_backoff(job.since);
                    promise!(least < job.delay + TOLERANCE, "{id} still backs off after {least:?}: {job:?}");
                }
                state if state.is_done() => {
                    let (least, _) = self.times.of_retention(job.since);
                    let kept = super::ledger::kept(state.name());
                    promise!(least <= kept + 3 * TOLERANCE, "{id} is still there after {least:?}: {job:?}");
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A job was deleted by nobody.
    pub(crate) fn is_over(&self, known: &Known) -> bool {
        let (_, most) = self.times.of_retention(known.since);
        known.state.is_done() && most + TOLERANCE > super::ledger::kept(known.state.name())
    }
}
