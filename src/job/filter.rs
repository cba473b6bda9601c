//! The filter of jobs for listing, counting and watching.

use std::collections::BTreeMap;

use super::{
    change::Change,
    ids::JobId,
    record::{Job, Spec},
    state::StateName,
};
use crate::clock::Timestamp;

/// Filter of jobs. A job must match every field that is set; the default matches all jobs.
#[derive(Clone, PartialEq, Eq, Debug, Default, Hash)]
pub struct JobFilter {
    /// Queues, one of which must hold the job.
    pub queues: Vec<String>,
    /// Kinds, one of which must be the job's.
    pub kinds: Vec<String>,
    /// States, one of which the job must be in.
    pub states: Vec<StateName>,
    /// Labels that the job must have, all of them.
    pub labels: BTreeMap<String, String>,
    /// Earliest time of acceptance, inclusive.
    pub created_after: Option<Timestamp>,
    /// Latest time of acceptance, exclusive.
    pub created_before: Option<Timestamp>,
    /// Whether the job must have ended, or must not.
    pub done: Option<bool>,
}

impl JobFilter {
    /// Returns whether the job matches.
    #[must_use]
    pub fn matches(&self, job: &Job) -> bool {
        self.matches_state(job.state.name()) && self.matches_spec(&job.spec)
    }

    /// Returns whether a job in this state can match.
    #[must_use]
    pub fn matches_state(&self, state: StateName) -> bool {
        (self.states.is_empty() || self.states.contains(&state))
            && self.done.is_none_or(|done| done == state.is_done())
    }

    /// Returns whether the part of a job that never changes matches.
    #[must_use]
    pub fn matches_spec(&self, spec: &Spec) -> bool {
        self.matches_queue(spec.queue.as_str())
            && (self.kinds.is_empty() || self.kinds.iter().any(|kind| kind == spec.kind.as_str()))
            && self.created_after.is_none_or(|after| spec.created >= after)
            && self.created_before.is_none_or(|before| spec.created < before)
            && self.matches_labels(spec)
    }

    /// Returns whether watchers of this filter receive the change: the job matches now, or matched before, or is
    /// deleted.
    #[must_use]
    pub fn concerns(&self, change: &Change) -> bool {
        if !self.matches_spec(change.spec()) {
            return false;
        }
        match change {
            Change::Deleted(_) => true,
            Change::Job { job, before } => {
                self.matches_state(job.state.name()) || self.fitted_before(job, *before)
            }
        }
    }

    /// Returns whether the job could match before a change from this state. An unknown state counts as matching, except
    /// for a new job.
    #[must_use]
    pub fn fitted_before(&self, job: &Job, before: Option<StateName>) -> bool {
        before.map_or(job.revision > 1, |before| self.matches_state(before))
    }

    /// Returns whether a job in this queue can match.
    #[must_use]
    pub fn matches_queue(&self, queue: &str) -> bool {
        self.queues.is_empty() || self.queues.iter().any(|named| named == queue)
    }

    /// Returns the queue, if the filter names a single one.
    #[must_use]
    pub fn only_queue(&self) -> Option<&str> {
        match &self.queues[..] {
            [queue] => Some(queue),
            [] | [_, _, ..] => None,
        }
    }

    /// Returns whether the filter is by queues, kinds and states alone, so that tallies can answer it.
    #[must_use]
    pub fn is_tallied(&self) -> bool {
        self.labels.is_empty() && self.created_after.is_none() && self.created_before.is_none()
    }

    /// Returns the smallest id that can match.
    #[must_use]
    pub(crate) fn lowest_id(&self) -> Option<JobId> {
        self.created_after.map(JobId::lowest_at)
    }

    fn matches_labels(&self, spec: &Spec) -> bool {
        if self.labels.is_empty() {
            return true;
        }
        spec.labels().is_some_and(|labels| {
            self.labels.iter().all(|(key, value)| labels.get(key).is_some_and(|actual| actual == value))
        })
    }
}
