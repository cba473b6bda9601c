//! States of a job.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    ids::{LeaseToken, Position},
    participant::Participant,
};
use crate::clock::Timestamp;

/// State of a job, with the state's data.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// The job waits for its start time.
    Scheduled {
        /// The start time.
        due: Timestamp,
    },
    /// The job waits for the end of the job that holds its unique key.
    Blocked {
        /// The earliest start after that.
        due: Timestamp,
    },
    /// The job is ready to run.
    Queued {
        /// Order among the jobs of its queue and priority: the position in the feed at which it became ready.
        order: Position,
        /// The participant in the turns of a fair queue.
        participant: Participant,
    },
    /// An attempt runs.
    Running {
        /// Lease of the attempt.
        lease: LeaseToken,
    },
    /// An attempt failed, or could not even start, and the job waits for the next one.
    BackingOff {
        /// Time of the next attempt.
        due: Timestamp,
    },
    /// An attempt was asked to stop.
    Cancelling {
        /// Lease of the attempt.
        lease: LeaseToken,
    },
    /// An attempt succeeded.
    Succeeded,
    /// Every attempt failed, or one failed for good.
    Failed,
    /// Cancelled before it succeeded.
    Cancelled,
    /// The job's expiry time came before an attempt started.
    Expired,
}

/// A [`State`] without its data. The numbers are those of the protocol and of the store.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[repr(u8)]
pub enum StateName {
    /// See [`State::Scheduled`].
    Scheduled = 1,
    /// See [`State::Blocked`].
    Blocked = 2,
    /// See [`State::Queued`].
    Queued = 3,
    /// See [`State::Running`].
    Running = 4,
    /// See [`State::BackingOff`].
    BackingOff = 5,
    /// See [`State::Cancelling`].
    Cancelling = 6,
    /// See [`State::Succeeded`].
    Succeeded = 7,
    /// See [`State::Failed`].
    Failed = 8,
    /// See [`State::Cancelled`].
    Cancelled = 9,
    /// See [`State::Expired`].
    Expired = 10,
}

impl StateName {
    /// Every state, in the order of a job's life.
    pub const ALL: [StateName; 10] = [
        StateName::Scheduled,
        StateName::Blocked,
        StateName::Queued,
        StateName::Running,
        StateName::BackingOff,
        StateName::Cancelling,
        StateName::Succeeded,
        StateName::Failed,
        StateName::Cancelled,
        StateName::Expired,
    ];

    pub(crate) fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as i64 == number)
    }

    /// Returns whether a job in this state has ended.
    #[must_use]
    pub const fn is_done(self) -> bool {
        match self {
            StateName::Succeeded | StateName::Failed | StateName::Cancelled | StateName::Expired => true,
            StateName::Scheduled
            | StateName::Blocked
            | StateName::Queued
            | StateName::Running
            | StateName::BackingOff
            | StateName::Cancelling => false,
        }
    }

    /// Returns the state's name as people and the protocol write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            StateName::Scheduled => "SCHEDULED",
            StateName::Blocked => "BLOCKED",
            StateName::Queued => "QUEUED",
            StateName::Running => "RUNNING",
            StateName::BackingOff => "BACKING_OFF",
            StateName::Cancelling => "CANCELLING",
            StateName::Succeeded => "SUCCEEDED",
            StateName::Failed => "FAILED",
            StateName::Cancelled => "CANCELLED",
            StateName::Expired => "EXPIRED",
        }
    }
}

impl fmt::Display for StateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl State {
    /// Returns the state without its data.
    #[must_use]
    pub const fn name(self) -> StateName {
        match self {
            State::Scheduled { .. } => StateName::Scheduled,
            State::Blocked { .. } => StateName::Blocked,
            State::Queued { .. } => StateName::Queued,
            State::Running { .. } => StateName::Running,
            State::BackingOff { .. } => StateName::BackingOff,
            State::Cancelling { .. } => StateName::Cancelling,
            State::Succeeded => StateName::Succeeded,
            State::Failed => StateName::Failed,
            State::Cancelled => StateName::Cancelled,
            State::Expired => StateName::Expired,
        }
    }

    /// Returns whether the job has ended.
    #[must_use]
    pub const fn is_done(self) -> bool {
        self.name().is_done()
    }

    /// Returns the lease of the running attempt.
    #[must_use]
    pub const fn lease(self) -> Option<LeaseToken> {
        match self {
            State::Running { lease } | State::Cancelling { lease } => Some(lease),
            State::Scheduled { .. }
            | State::Blocked { .. }
            | State::Queued { .. }
            | State::BackingOff { .. }
            | State::Succeeded
            | State::Failed
            | State::Cancelled
            | State::Expired => None,
        }
    }

    /// Returns the time that the job waits for.
    #[must_use]
    pub const fn due(self) -> Option<Timestamp> {
        match self {
            State::Scheduled { due } | State::BackingOff { due } => Some(due),
            State::Blocked { .. }
            | State::Queued { .. }
            | State::Running { .. }
            | State::Cancelling { .. }
            | State::Succeeded
            | State::Failed
            | State::Cancelled
            | State::Expired => None,
        }
    }
}
