//! Dependencies: a child never starts before its edges hold, never waits once they are decided, and is cancelled for their
//! sake exactly when one is impossible.

use std::collections::{BTreeMap, BTreeSet};

use jobmill::{
    engine::NewJob,
    job::{Dependency, DependencyCondition, DependencyTarget, FailureReason, Job, JobId, StateName},
};

use super::ledger::{Ledger, Violation, promise};

/// The edges of the children that have not ended, and of those that were never retried.
#[derive(Debug, Default)]
pub(crate) struct Dependencies {
    edges: BTreeMap<JobId, Vec<Edge>>,
    /// The jobs that others have ever depended on.
    parents: BTreeSet<JobId>,
    /// Jobs that were cancelled in the batch because of a parent.
    forsaken: Vec<(JobId, Option<JobId>)>,
    /// Number of children that were cancelled because of a parent, and of those that could start.
    pub(crate) done: (usize, usize),
}

#[derive(Clone, Copy, Debug)]
struct Edge {
    parent: JobId,
    condition: DependencyCondition,
    is_optional: bool,
    /// Whether the condition holds, once that is decided.
    holds: Option<bool>,
}

impl Edge {
    fn decide(&mut self, has_succeeded: bool) {
        self.holds.get_or_insert(match self.condition {
            DependencyCondition::Succeeded => has_succeeded,
            DependencyCondition::Unsuccessful => !has_succeeded,
            DependencyCondition::Ended => true,
        });
    }

    fn is_impossible(&self) -> bool {
        self.holds == Some(false) && !self.is_optional
    }
}

impl Dependencies {
    /// Returns whether a job depends on others.
    pub(crate) fn is_child(&self, id: JobId) -> bool {
        self.edges.contains_key(&id)
    }

    /// Returns whether others have ever depended on a job.
    pub(crate) fn was_parent(&self, id: JobId) -> bool {
        self.parents.contains(&id)
    }

    /// Takes in the end of a job, or its deletion before the end.
    pub(crate) fn hear_over(&mut self, parent: JobId, has_succeeded: bool) {
        for edge in self.edges.values_mut().flatten().filter(|edge| edge.parent == parent) {
            edge.decide(has_succeeded);
        }
    }

    /// Takes in a change of a job.
    pub(crate) fn hear_job(&mut self, job: &Job) {
        let state = job.state.name();
        if state.is_done() {
            self.hear_over(job.id, state == StateName::Succeeded);
        }
        let failure = job.failure.as_deref();
        if let Some(failure) = failure.filter(|failure| failure.reason == FailureReason::Dependency)
            && state == StateName::Cancelled
        {
            self.forsaken.push((job.id, failure.parent));
        }
    }

    /// Takes in the deletion of a job, which had ended or not.
    pub(crate) fn hear_deleted(&mut self, id: JobId, had_ended: bool) {
        if !had_ended {
            self.hear_over(id, false);
        }
        self.forget(id);
    }

    /// Takes in a job that was retried, which depends on nothing any more.
    pub(crate) fn hear_retried(&mut self, id: JobId) {
        self.forget(id);
    }

    /// Forgets the edges of a job, unless the batch has cancelled it before, which they have to explain.
    fn forget(&mut self, id: JobId) {
        if !self.forsaken.iter().any(|(forsaken, _)| *forsaken == id) {
            self.edges.remove(&id);
        }
    }
}

impl Ledger {
    /// Takes in the dependencies of an accepted offer's jobs.
    pub(super) fn hear_edges(&mut self, new: &[NewJob], ids: &[JobId]) {
        for (job, id) in new.iter().zip(ids).filter(|(job, _)| !job.depends_on.is_empty()) {
            let edge = |dependency: &Dependency| {
                let parent = match dependency.on {
                    DependencyTarget::Job(id) => id,
                    DependencyTarget::Item(index) => ids[index as usize],
                };
                let condition = dependency.condition();
                let mut edge = Edge { parent, condition, is_optional: dependency.is_optional, holds: None };
                let state = self.jobs.get(&parent).map(|parent| parent.state.name());
                if state.is_none_or(StateName::is_done) {
                    edge.decide(state == Some(StateName::Succeeded));
                }
                edge
            };
            let edges: Vec<Edge> = job.depends_on.iter().map(edge).collect();
            self.dependencies.parents.extend(edges.iter().map(|edge| edge.parent));
            self.dependencies.edges.insert(*id, edges);
        }
    }

    /// Returns whether a job has children that have not ended.
    pub(super) fn is_waited_for(&self, id: JobId) -> bool {
        let of_parent = |edges: &Vec<Edge>| edges.iter().any(|edge| edge.parent == id);
        let children = self.dependencies.edges.iter().filter(|(_, edges)| of_parent(edges));
        children
            .into_iter()
            .any(|(child, _)| self.jobs.get(child).is_some_and(|child| !child.state.is_done()))
    }

    /// Checks the children after a batch. With `is_settled`, the store has no more work at this moment.
    pub(super) fn check_children(&mut self, is_settled: bool) -> Result<(), Violation> {
        for (id, parent) in std::mem::take(&mut self.dependencies.forsaken) {
            let edges = self.dependencies.edges.get(&id).map(Vec::as_slice).unwrap_or_default();
            let cause = edges.iter().find(|edge| edge.is_impossible() && Some(edge.parent) == parent);
            promise!(
                cause.is_some(),
                "{id} was cancelled because of {parent:?}, without a reason: {edges:?}"
            );
            self.dependencies.done.0 += 1;
            self.dependencies.edges.remove(&id);
        }
        let mut over = Vec::new();
        for (id, edges) in &self.dependencies.edges {
            let Some(child) = self.jobs.get(id) else { continue };
            let state = child.state.name();
            if state.is_done() {
                over.push(*id);
            } else if state == StateName::Blocked {
                let waits =
                    edges.iter().any(|edge| edge.holds.is_none()) && !edges.iter().any(Edge::is_impossible);
                promise!(waits || !is_settled, "{id} still waits, and all is decided: {edges:?}");
            } else {
                let may_start = edges.iter().all(|edge| edge.holds.is_some() && !edge.is_impossible());
                promise!(may_start, "{id} is {state} before its dependencies hold: {edges:?}");
                self.dependencies.done.1 += usize::from(child.state.lease().is_some());
            }
        }
        for id in over {
            self.dependencies.edges.remove(&id);
        }
        Ok(())
    }
}
