//! History of how the wall clock was set, relative to the time that a store counts.
//!
//! The times of a job that are shown are wall-clock times, as the clock was set then. Once the clock has been set, they
//! do not tell for how long a job has been over or ready. A store therefore records from which position in its feed on
//! the clock was how far ahead of the time that it counts. This takes a row for each time that the clock is set, and
//! nothing in the rows of jobs.

use parking_lot::RwLock;

use crate::{
    clock::{StoreTime, Timestamp},
    job::Position,
};

/// Deviation of the clock from which on a step is recorded.
const TOLERANCE_MICROS: i64 = 1_000_000;
/// Maximum number of recorded steps.
const STEPS_MAX: usize = 256;

/// A step of the wall clock: its lead over the store's time, in microseconds, from a position in the feed on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClockStep {
    /// First position with this lead.
    pub position: Position,
    /// Lead over the time by which retention is counted.
    pub of_retention: i64,
    /// Lead over the time by which backoffs are counted.
    pub of_backoffs: i64,
}

/// All steps, oldest first. The engine records them; readers of rows use them, too.
#[derive(Debug, Default)]
pub struct ClockSteps {
    steps: RwLock<Vec<ClockStep>>,
}

impl ClockSteps {
    /// Loads the stored steps.
    pub(crate) fn load(&self, kept: Vec<ClockStep>) {
        *self.steps.write() = kept;
    }

    pub(crate) fn all(&self) -> Vec<ClockStep> {
        self.steps.read().clone()
    }

    /// Records a step if the clock deviates from the last one. Returns the deviation, in microseconds.
    pub(crate) fn note(&self, now: ClockStep) -> Option<i64> {
        let last = self.last();
        let off = |now: i64, last: i64| now.saturating_sub(last).saturating_abs() >= TOLERANCE_MICROS;
        if !off(now.of_retention, last.of_retention) && !off(now.of_backoffs, last.of_backoffs) {
            return None;
        }
        let mut steps = self.steps.write();
        // Nothing has changed since the last step, which is therefore of no use.
        steps.pop_if(|last| last.position >= now.position);
        steps.push(now);
        if steps.len() > STEPS_MAX {
            merge_nearest(&mut steps);
        }
        Some(now.of_backoffs.saturating_sub(last.of_backoffs))
    }

    /// Records the clock's lead at a start, even if it has not changed.
    pub(crate) fn note_start(&self, now: ClockStep) {
        let mut steps = self.steps.write();
        steps.pop_if(|last| last.position >= now.position);
        steps.push(now);
    }

    /// Makes the changes before this position, which has a step, older: more time has passed than was counted.
    pub(crate) fn age_before(&self, position: Position, micros: i64) {
        let mut steps = self.steps.write();
        if steps.first().is_none_or(|first| first.position > Position(0)) {
            steps.insert(0, ClockStep::default());
        }
        for step in steps.iter_mut().take_while(|step| step.position < position) {
            step.of_retention = step.of_retention.saturating_add(micros);
        }
    }

    /// Returns the clock's present lead.
    fn last(&self) -> ClockStep {
        self.steps.read().last().copied().unwrap_or_default()
    }

    /// Returns the clock's lead at the change at this position.
    fn at(&self, position: Position) -> ClockStep {
        let steps = self.steps.read();
        let later = steps.partition_point(|step| step.position <= position);
        later.checked_sub(1).and_then(|index| steps.get(index)).copied().unwrap_or_default()
    }

    /// Returns when a change happened, in the time by which retention is counted.
    pub(crate) fn counted(&self, position: Position, wall: Timestamp) -> StoreTime {
        StoreTime::from_micros(wall.as_micros().saturating_sub(self.at(position).of_retention))
    }

    /// Returns when a change happened, by the wall clock's present setting.
    pub(crate) fn seen_from_now(&self, position: Position, wall: Timestamp) -> Timestamp {
        let set_since = self.last().of_backoffs.saturating_sub(self.at(position).of_backoffs);
        Timestamp::from_micros(wall.as_micros().saturating_add(set_since)).min(Timestamp::MAX)
    }

    /// Returns the wall-clock time at which a backoff ends, if the clock is not set until then.
    pub(crate) fn wall_of_backoff(&self, at: StoreTime) -> Timestamp {
        Timestamp::from_micros(at.as_micros().saturating_add(self.last().of_backoffs)).min(Timestamp::MAX)
    }

    /// The inverse of [`ClockSteps::wall_of_backoff`].
    pub(crate) fn backoff_of_wall(&self, wall: Timestamp) -> StoreTime {
        StoreTime::from_micros(wall.as_micros().saturating_sub(self.last().of_backoffs))
    }
}

/// Merges the two neighbouring steps that differ least, but never the last one. The changes between them count as the
/// younger of both steps would have them: retention may be late then, and is never early.
fn merge_nearest(steps: &mut Vec<ClockStep>) {
    let differ = |pair: &[ClockStep]| match pair {
        [a, b] => a.of_retention.saturating_sub(b.of_retention).saturating_abs(),
        _ => i64::MAX,
    };
    let earlier = &steps[..steps.len().saturating_sub(1)];
    let nearest = earlier.windows(2).map(differ).enumerate().min_by_key(|(_, difference)| *difference);
    if let Some((index, _)) = nearest {
        let merged = steps.remove(index + 1);
        steps[index].of_retention = steps[index].of_retention.min(merged.of_retention);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn step(position: i64, ahead: i64) -> ClockStep {
        ClockStep { position: Position(position), of_retention: ahead, of_backoffs: ahead }
    }

    #[test]
    fn only_a_clock_that_was_set_is_noted() {
        let steps = ClockSteps::default();
        assert_eq!(steps.note(step(1, TOLERANCE_MICROS - 1)), None);
        assert_eq!(steps.note(step(1, -5 * SECOND)), Some(-5 * SECOND));
        assert_eq!(steps.note(step(2, -5 * SECOND + TOLERANCE_MICROS - 1)), None);
        // Set again before any change.
        assert_eq!(steps.note(step(1, 7 * SECOND)), Some(12 * SECOND));
        assert_eq!(steps.all(), [step(1, 7 * SECOND)]);
    }

    #[test]
    fn a_change_happened_when_it_did_whatever_the_clock_said() {
        let steps = ClockSteps::default();
        // The clock was an hour ahead from the tenth to the nineteenth change.
        steps.note(step(10, 3_600 * SECOND));
        steps.note(step(20, 0));
        let counted = |position, second| {
            steps.counted(Position(position), Timestamp::from_micros(second * SECOND)).as_micros()
        };
        assert_eq!(
            [counted(9, 100), counted(10, 3_701), counted(19, 3_702), counted(20, 103)],
            [100 * SECOND, 101 * SECOND, 102 * SECOND, 103 * SECOND]
        );
        let seen = steps.seen_from_now(Position(15), Timestamp::from_micros(3_701 * SECOND));
        assert_eq!(seen, Timestamp::from_micros(101 * SECOND));
    }

    #[test]
    fn only_what_happened_before_a_start_gets_older_with_what_passed_before_it() {
        let steps = ClockSteps::default();
        steps.note_start(step(10, 100 * SECOND));
        steps.note(step(12, 50 * SECOND));
        let counted =
            |position| steps.counted(Position(position), Timestamp::from_micros(0)).as_micros() / SECOND;
        assert_eq!([9, 10, 11, 12].map(counted), [0, -100, -100, -50]);
        steps.age_before(Position(10), 40 * SECOND);
        assert_eq!([9, 10, 11, 12].map(counted), [-40, -100, -100, -50]);
        steps.age_before(Position(12), SECOND);
        assert_eq!([9, 10, 11, 12].map(counted), [-41, -101, -101, -50]);
    }

    #[test]
    fn a_backoff_is_shown_as_the_clock_that_was_set_will_say_it() {
        let steps = ClockSteps::default();
        let due = steps.backoff_of_wall(Timestamp::from_micros(100 * SECOND));
        steps.note(step(5, -60 * SECOND));
        assert_eq!(steps.wall_of_backoff(due), Timestamp::from_micros(40 * SECOND));
        assert_eq!(steps.backoff_of_wall(Timestamp::from_micros(40 * SECOND)), due);
    }

    #[test]
    fn a_clock_that_is_set_all_the_time_fills_nothing_and_makes_nothing_older() {
        let steps = ClockSteps::default();
        let ahead = |position: i64| (position % 97) * (position % 5 - 2) * SECOND;
        for position in 1..=5_000 {
            steps.note(step(position, ahead(position)));
        }
        assert_eq!(steps.all().len(), STEPS_MAX);
        for position in 1..=5_000 {
            let wall = Timestamp::from_micros(ahead(position) + position);
            assert!(steps.counted(Position(position), wall).as_micros() >= position - TOLERANCE_MICROS);
        }
        assert_eq!(steps.last(), step(5_000, ahead(5_000)));
    }
}
