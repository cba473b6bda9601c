//! Which jobs: one filter for listing, counting and watching.

use std::collections::BTreeMap;

use super::{
    change::Change,
    ids::JobId,
    record::{Job, Spec},
    state::StateName,
};
use crate::clock::Timestamp;

/// Which jobs. A job must fit every field that is set; the default fits all.
#[derive(Clone, PartialEq, Eq, Debug, Default, Hash)]
pub struct JobFilter {
    /// In one of these queues.
    pub queues: Vec<String>,
    /// Of one of these kinds.
    pub kinds: Vec<String>,
    /// In one of these states.
    pub states: Vec<StateName>,
    /// With all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Accepted at or after this instant.
    pub created_after: Option<Timestamp>,
    /// Accepted before this instant.
    pub created_before: Option<Timestamp>,
    /// Whether they have ended.
    pub done: Option<bool>,
}

impl JobFilter {
    /// Whether the job fits.
    #[must_use]
    pub fn matches(&self, job: &Job) -> bool {
        self.matches_state(job.state.name()) && self.matches_spec(&job.spec)
    }

    /// Whether a job in this state could fit.
    #[must_use]
    pub fn matches_state(&self, state: StateName) -> bool {
        (self.states.is_empty() || self.states.contains(&state))
            && self.done.is_none_or(|done| done == state.is_done())
    }

    /// Whether the part of the job that never changes fits.
    #[must_use]
    pub fn matches_spec(&self, spec: &Spec) -> bool {
        self.matches_queue(spec.queue.as_str())
            && (self.kinds.is_empty() || self.kinds.iter().any(|kind| kind == spec.kind.as_str()))
            && self.created_after.is_none_or(|after| spec.created >= after)
            && self.created_before.is_none_or(|before| spec.created < before)
            && self.matches_labels(spec)
    }

    /// Whether the change is to be told to who watches this filter: the job fits now, or did before, or is deleted.
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

    /// Whether the job could fit before a change that came from this state. Unknown counts as fitting, except for a job
    /// that is new.
    #[must_use]
    pub fn fitted_before(&self, job: &Job, before: Option<StateName>) -> bool {
        before.map_or(job.revision > 1, |before| self.matches_state(before))
    }

    /// Whether a job in this queue could fit.
    #[must_use]
    pub fn matches_queue(&self, queue: &str) -> bool {
        self.queues.is_empty() || self.queues.iter().any(|named| named == queue)
    }

    /// The queue, where the filter names a single one.
    #[must_use]
    pub fn only_queue(&self) -> Option<&str> {
        match &self.queues[..] {
            [queue] => Some(queue),
            [] | [_, _, ..] => None,
        }
    }

    /// Whether queues, kinds and states say all that this filter says, so that tallies can answer it.
    #[must_use]
    pub fn is_tallied(&self) -> bool {
        self.labels.is_empty() && self.created_after.is_none() && self.created_before.is_none()
    }

    /// No job with a smaller id fits.
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
