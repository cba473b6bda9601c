//! The order in which jobs must start: by priority, then by age.

use std::{collections::HashMap, time::Duration};

use jobmill::{
    clock::Timestamp,
    engine::PoolId,
    job::{Job, JobId, Participant, Position, State},
};

use super::{
    ledger::{Known, Violation, promise},
    limits::Standing,
};

/// Tolerance in the comparison of a backoff's end with another instant, since the clock may have been set.
const UNCERTAIN: Duration = Duration::from_secs(1);

/// A job's place in the line of its queue: the smaller one starts first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Contender {
    rank: i16,
    age: Age,
}

/// The order within a priority: jobs that were ready before, then those that became due, then new ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Age {
    Ready(Position),
    /// The due time, the job, and whether it backed off, which makes the time inexact.
    Due(Timestamp, JobId, bool),
    New(JobId),
}

impl Contender {
    /// Returns the place of a job that was ready before the batch.
    pub(crate) fn stored(id: JobId, job: &Known) -> Self {
        let age = match job.state {
            State::Queued { .. } => Age::Ready(job.place),
            _ => Age::New(id),
        };
        Contender { rank: -i16::from(job.priority), age }
    }

    /// Returns the place of a job that a batch changed from `before` to `after`, where `place` is its place in line.
    pub(crate) fn of(id: JobId, before: Option<&Known>, after: &Job, place: Position, retried: bool) -> Self {
        let age = match (before.map(|known| known.state), after.state) {
            (None, _) => Age::New(id),
            (Some(State::Queued { .. }), _) => Age::Ready(place),
            (Some(State::Scheduled { due }), _) if !retried => Age::Due(due, id, false),
            (Some(State::BackingOff { due }), _) if !retried => Age::Due(due, id, true),
            // Retried or released: the job was ready before the batch looked at due and new jobs.
            (Some(_), State::Queued { .. }) => Age::Ready(place),
            (Some(_), _) => Age::New(id),
        };
        Contender { rank: -i16::from(after.spec.priority), age }
    }
}

impl Contender {
    fn precedes(self, other: Contender) -> bool {
        match (self.age, other.age) {
            (Age::Due(due, _, backed_off), Age::Due(others, _, other_backed_off))
                if self.rank == other.rank && (backed_off || other_backed_off) =>
            {
                due.after(UNCERTAIN) < others
            }
            _ => self < other,
        }
    }
}

/// Returns a job's place in line after a change. A job whose attempt never started gets back the place that it had
/// before; a job that started as soon as it was ready has the place of its start.
pub(crate) fn place(before: Option<&Known>, after: &Job, released: bool) -> Position {
    match (before, after.state) {
        (Some(known), State::Queued { .. }) if released && known.state.lease().is_some() => known.place,
        (Some(known), State::Running { .. } | State::Cancelling { .. })
            if matches!(known.state, State::Queued { .. } | State::Running { .. }) =>
        {
            known.place
        }
        (_, State::Queued { order, .. }) => order,
        _ => after.position,
    }
}

/// The right to start a job.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Slot {
    /// A consumer slot of the queue.
    Here,
    /// A credit of a remote worker.
    Pool(PoolId),
}

/// A job that a batch started.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) queue: String,
    pub(crate) slot: Slot,
    /// The participant in the turns of its queue, if that is certain.
    pub(crate) participant: Option<Participant>,
    pub(crate) contender: Contender,
}

/// A job that waits, and what is left of the slots in which it could start.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) queue: String,
    /// The participant in the turns of its queue, if that is certain.
    pub(crate) participant: Option<Participant>,
    pub(crate) contender: Contender,
    pub(crate) slots: Vec<(Slot, u64)>,
    /// What its limits have to do with it.
    pub(super) standing: Standing,
}

/// Checks that no waiting job precedes one of the same participant that started in a slot for both, and that no job waits
/// while a slot is free, unless the store has `more` to do at once. Jobs whose limits lack places may wait and be passed.
pub(crate) fn check(started: &[Started], waiting: &[Waiting], more: bool) -> Result<(), Violation> {
    let mut last_started: HashMap<(&str, Slot, Participant), Contender> = HashMap::new();
    for Started { queue, slot, participant, contender } in started {
        let Some(participant) = participant else { continue };
        let last = last_started.entry((queue, *slot, *participant)).or_insert(*contender);
        *last = (*last).max(*contender);
    }
    for Waiting { queue, participant, contender, slots, standing } in waiting {
        for (slot, free) in slots {
            let may_wait = more || standing.may_lack;
            promise!(
                may_wait || *free == 0,
                "{contender:?} waits in {queue} while {free} of {slot:?} are free"
            );
            if standing.may_be_passed {
                continue;
            }
            if let Some(last) = participant.and_then(|one| last_started.get(&(&**queue, *slot, one))) {
                promise!(!contender.precedes(*last), "{contender:?} waits and {last:?} started in {queue}");
            }
        }
    }
    Ok(())
}
