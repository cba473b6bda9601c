//! Times at which waiting jobs are due: the first time of each line, and the first expiry.
//!
//! A line has the waiting jobs of a queue in one state, in the order of their times.

use std::collections::{BTreeSet, HashMap};

use crate::{
    clock::{StoreTime, Timestamp},
    job::{Job, State, StateName},
    store::{
        ClockSteps,
        sets::{LineWant, WaitingLine},
    },
};

/// Limit of the due jobs that a batch promotes, shared by all queues.
const PROMOTED_MAX: usize = 1_000;
/// Limit of the jobs that expire in a batch.
pub(super) const EXPIRED_MAX: usize = 1_000;

/// A queue and one of its lines that are ordered by time.
type LineKey = (u32, WaitingLine);

/// The first known time of each line. It may be earlier than that of the line's first job, because a job has left the
/// line; the next read corrects it.
#[derive(Debug, Default)]
pub(super) struct Due {
    first: HashMap<LineKey, i64>,
    in_order: BTreeSet<(WaitingLine, i64, u32)>,
    expiry: Option<Timestamp>,
    /// Times of jobs that the batch adds to lines.
    earlier: Vec<(LineKey, i64)>,
    /// First time that is left in each line that the batch read, if any.
    looked: Vec<(LineKey, Option<i64>)>,
    earlier_expiry: Option<Timestamp>,
    /// First expiry that is left, if the batch read the expiring jobs.
    looked_expiry: Option<Option<Timestamp>>,
}

impl Due {
    pub(super) fn load(first_times: &[(u32, WaitingLine, i64)], expiry: Option<Timestamp>) -> Self {
        let mut due = Due { expiry, ..Due::default() };
        for (queue, line, time) in first_times {
            due.set((*queue, *line), Some(*time));
        }
        due
    }

    /// Returns the first instant at which a scheduled job is due or a job may expire.
    pub(super) fn first_instant(&self) -> Option<Timestamp> {
        let scheduled = self.first_in(WaitingLine::Scheduled).map(Timestamp::from_micros);
        scheduled.into_iter().chain(self.expiry).min()
    }

    /// Returns the first end of a backoff.
    pub(super) fn first_backoff(&self) -> Option<StoreTime> {
        self.first_in(WaitingLine::BackingOff).map(StoreTime::from_micros)
    }

    fn first_in(&self, line: WaitingLine) -> Option<i64> {
        let (found, time, _) = self.in_order.range((line, i64::MIN, 0)..).next()?;
        (*found == line).then_some(*time)
    }

    /// Returns whether a job may have expired.
    pub(super) fn has_expired(&self, now: Timestamp) -> bool {
        self.expiry.is_some_and(|expiry| expiry <= now)
    }

    /// Plans the pages of due jobs to read, with an equal share for each line that has some.
    pub(super) fn plan(&self, now: Timestamp, backoffs: StoreTime) -> Vec<LineWant> {
        let until =
            [(WaitingLine::Scheduled, now.as_micros()), (WaitingLine::BackingOff, backoffs.as_micros())];
        let due = |(line, until): (WaitingLine, i64)| {
            let times = self.in_order.range((line, i64::MIN, 0)..=(line, until, u32::MAX));
            times.map(move |(_, _, queue)| (*queue, line))
        };
        let due: Vec<LineKey> = until.into_iter().flat_map(due).take(PROMOTED_MAX).collect();
        let share = PROMOTED_MAX / due.len().max(1);
        // One more than the share, to know when the next job is due.
        due.into_iter().map(|(queue, line)| LineWant { queue, line, after: None, limit: share + 1 }).collect()
    }

    /// Records the time for which a job waits, given its state at the end of the batch.
    pub(super) fn left(&mut self, job: &Job, steps: &ClockSteps) {
        let queue = job.spec.queue.number;
        match job.state {
            State::Scheduled { due } => self.earlier.push(((queue, WaitingLine::Scheduled), due.as_micros())),
            State::BackingOff { due } => {
                let backoff = steps.backoff_of_wall(due);
                self.earlier.push(((queue, WaitingLine::BackingOff), backoff.as_micros()));
            }
            State::Blocked { .. }
            | State::Queued { .. }
            | State::Running { .. }
            | State::Cancelling { .. }
            | State::Succeeded
            | State::Failed
            | State::Cancelled
            | State::Expired => {}
        }
        if let Some(until) = job.waits_until() {
            let earlier = self.earlier_expiry.map_or(until, |earlier| earlier.min(until));
            self.earlier_expiry = Some(earlier);
        }
    }

    /// Schedules a read of the line of jobs in this state, if such jobs wait for a time.
    pub(super) fn look_at(&mut self, queue: u32, state: StateName) {
        let line = match state {
            StateName::Scheduled => WaitingLine::Scheduled,
            StateName::BackingOff => WaitingLine::BackingOff,
            StateName::Blocked
            | StateName::Queued
            | StateName::Running
            | StateName::Cancelling
            | StateName::Succeeded
            | StateName::Failed
            | StateName::Cancelled
            | StateName::Expired => return,
        };
        self.earlier.push(((queue, line), i64::MIN));
    }

    /// Records the first time that is left in a line that was read.
    pub(super) fn looked_at(&mut self, queue: u32, line: WaitingLine, left: Option<i64>) {
        self.looked.push(((queue, line), left));
    }

    /// Records the first expiry that is left after the expiring jobs were read.
    pub(super) fn looked_at_expiry(&mut self, left: Option<Timestamp>) {
        self.looked_expiry = Some(left);
    }

    fn set(&mut self, key: LineKey, time: Option<i64>) {
        let (queue, line) = key;
        if let Some(before) = self.first.remove(&key) {
            self.in_order.remove(&(line, before, queue));
        }
        if let Some(time) = time {
            self.first.insert(key, time);
            self.in_order.insert((line, time, queue));
        }
    }

    /// Takes over the changes of the batch, which is on disk.
    pub(super) fn commit(&mut self) {
        for (key, left) in std::mem::take(&mut self.looked) {
            self.set(key, left);
        }
        for (key, time) in std::mem::take(&mut self.earlier) {
            if self.first.get(&key).is_none_or(|first| time < *first) {
                self.set(key, Some(time));
            }
        }
        if let Some(left) = self.looked_expiry.take() {
            self.expiry = left;
        }
        self.expiry = self.expiry.into_iter().chain(self.earlier_expiry.take()).min();
    }

    /// Drops the changes of the batch, which was not committed.
    pub(super) fn discard(&mut self) {
        self.earlier.clear();
        self.looked.clear();
        self.earlier_expiry = None;
        self.looked_expiry = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(100);

    fn due(times: &[(u32, i64)]) -> Due {
        let times: Vec<_> =
            times.iter().map(|(queue, time)| (*queue, WaitingLine::Scheduled, *time)).collect();
        Due::load(&times, None)
    }

    #[test]
    fn every_queue_with_due_jobs_has_its_share_of_a_batch() {
        let due = due(&[(1, 50), (2, 100), (3, 101)]);
        let wants = due.plan(NOW, StoreTime::from_micros(0));
        let shares: Vec<_> = wants.iter().map(|want| (want.queue, want.limit)).collect();
        assert_eq!(shares, [(1, 501), (2, 501)]);
        assert_eq!(due.first_instant(), Some(Timestamp::from_micros(50)));
    }

    #[test]
    fn what_was_looked_at_goes_before_what_was_known_and_what_comes_goes_before_both() {
        let mut due = due(&[(1, 50)]);
        due.looked_at(1, WaitingLine::Scheduled, Some(120));
        due.discard();
        assert_eq!(due.first_instant(), Some(Timestamp::from_micros(50)));
        due.looked_at(1, WaitingLine::Scheduled, Some(120));
        due.commit();
        assert_eq!(due.first_instant(), Some(Timestamp::from_micros(120)));
        due.looked_at(1, WaitingLine::Scheduled, None);
        due.earlier.push(((1, WaitingLine::Scheduled), 110));
        due.commit();
        assert_eq!(due.first_instant(), Some(Timestamp::from_micros(110)));
        assert!(due.plan(NOW, StoreTime::from_micros(0)).is_empty());
    }

    #[test]
    fn the_two_lines_of_a_queue_have_times_of_their_own() {
        let times = [(1, WaitingLine::Scheduled, 10), (1, WaitingLine::BackingOff, 5_000)];
        let due = Due::load(&times, Some(Timestamp::from_micros(7)));
        assert_eq!(due.first_backoff(), Some(StoreTime::from_micros(5_000)));
        assert_eq!(due.first_instant(), Some(Timestamp::from_micros(7)), "the expiry");
        assert!(due.has_expired(NOW) && !due.has_expired(Timestamp::from_micros(6)));
    }
}
