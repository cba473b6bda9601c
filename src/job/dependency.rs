//! Dependencies between jobs: a child waits for its parents.

use super::{ids::JobId, state::StateName};

/// A dependency as a client gives it.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dependency {
    /// The parent.
    pub on: DependencyTarget,
    /// The condition under which the child may start; SUCCEEDED if it is not given.
    pub condition: Option<DependencyCondition>,
    /// Whether the dependency falls away once its condition can't hold any more, instead of ending the child.
    pub is_optional: bool,
}

/// The parent of a dependency.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DependencyTarget {
    /// A job that exists.
    Job(JobId),
    /// The job of the same batch with this index.
    Item(u32),
}

/// The condition of a dependency. The numbers are those of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum DependencyCondition {
    /// The parent has succeeded.
    Succeeded = 1,
    /// The parent has ended otherwise, or was deleted before its end.
    Unsuccessful = 2,
    /// The parent has ended, or was deleted before its end.
    Ended = 3,
}

/// The end of a parent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ParentEnd {
    /// It ended in this state.
    Ended(StateName),
    /// It was deleted before its end.
    Deleted,
}

/// What has become of an edge. The numbers are those of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum EdgeState {
    /// The child waits for the parent.
    Waiting = 1,
    /// The condition holds.
    Met = 2,
    /// The condition can't hold any more, and the child does without.
    FallenAway = 3,
    /// The condition can't hold any more, which has ended the child.
    Impossible = 4,
    /// The child has ended before.
    Unneeded = 5,
}

/// A stored dependency of a child on a parent.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Edge {
    /// The job that waits.
    pub child: JobId,
    /// The job that it waits for.
    pub parent: JobId,
    /// The condition.
    pub condition: DependencyCondition,
    /// Whether the edge falls away once its condition can't hold any more.
    pub is_optional: bool,
    /// What has become of the edge.
    pub state: EdgeState,
}

impl Dependency {
    /// Bytes that a dependency counts against the child's queue's limit.
    pub const BYTES: u64 = 32;

    /// Creates a dependency on the success of a parent.
    #[must_use]
    pub fn new(on: DependencyTarget) -> Self {
        Dependency { on, condition: None, is_optional: false }
    }

    /// Creates a dependency on the success of a job that exists.
    #[must_use]
    pub fn on_job(id: JobId) -> Self {
        Self::new(DependencyTarget::Job(id))
    }

    /// Creates a dependency on the success of the job of the same batch with this index.
    #[must_use]
    pub fn on_item(index: u32) -> Self {
        Self::new(DependencyTarget::Item(index))
    }

    /// Sets the condition under which the child may start.
    #[must_use]
    pub fn when(self, condition: DependencyCondition) -> Self {
        Dependency { condition: Some(condition), ..self }
    }

    /// Lets the dependency fall away once its condition can't hold any more.
    #[must_use]
    pub fn optional(self) -> Self {
        Dependency { is_optional: true, ..self }
    }

    /// Returns the condition in force.
    #[must_use]
    pub fn condition(&self) -> DependencyCondition {
        self.condition.unwrap_or(DependencyCondition::Succeeded)
    }
}

impl DependencyCondition {
    /// Returns the condition with this number.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        [Self::Succeeded, Self::Unsuccessful, Self::Ended]
            .into_iter()
            .find(|condition| *condition as i64 == number)
    }

    /// Returns whether the condition holds for a parent that is over.
    #[must_use]
    pub fn holds(self, end: ParentEnd) -> bool {
        let has_succeeded = end == ParentEnd::Ended(StateName::Succeeded);
        match self {
            DependencyCondition::Succeeded => has_succeeded,
            DependencyCondition::Unsuccessful => !has_succeeded,
            DependencyCondition::Ended => true,
        }
    }

    /// Returns the name that people and the protocol use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            DependencyCondition::Succeeded => "SUCCEEDED",
            DependencyCondition::Unsuccessful => "UNSUCCESSFUL",
            DependencyCondition::Ended => "ENDED",
        }
    }
}

impl EdgeState {
    /// Returns the state with this number.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        [Self::Waiting, Self::Met, Self::FallenAway, Self::Impossible, Self::Unneeded]
            .into_iter()
            .find(|state| *state as i64 == number)
    }
}

impl Edge {
    /// Returns what becomes of the edge at the end of the parent.
    #[must_use]
    pub fn decided(&self, end: ParentEnd) -> EdgeState {
        match (self.condition.holds(end), self.is_optional) {
            (true, _) => EdgeState::Met,
            (false, true) => EdgeState::FallenAway,
            (false, false) => EdgeState::Impossible,
        }
    }
}

impl std::fmt::Display for ParentEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ParentEnd::Ended(state) => write!(f, "ended as {state}"),
            ParentEnd::Deleted => f.write_str("was deleted before its end"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_condition_is_decided_by_every_end() {
        let ends = [StateName::Succeeded, StateName::Failed, StateName::Cancelled, StateName::Expired];
        let ends = ends.map(ParentEnd::Ended).into_iter().chain([ParentEnd::Deleted]);
        for (index, end) in ends.enumerate() {
            assert_eq!(DependencyCondition::Succeeded.holds(end), index == 0);
            assert_eq!(DependencyCondition::Unsuccessful.holds(end), index > 0);
            assert!(DependencyCondition::Ended.holds(end));
        }
    }
}
