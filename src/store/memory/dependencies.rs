//! Dependencies between jobs in the store in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use crate::{
    job::{Edge, EdgeState, JobId, ParentEnd},
    store::sets::{DependencyWrites, Dependents, LiveChildren, SparedWant},
};

/// The edges, and the parents that are over.
#[derive(Default)]
pub(super) struct Dependencies {
    /// By child and parent.
    edges: BTreeMap<(JobId, JobId), Edge>,
    /// Parent and child of each edge.
    by_parent: BTreeSet<(JobId, JobId)>,
    /// Parent and child of each edge that waits.
    waiting: BTreeSet<(JobId, JobId)>,
    /// Parent and child of each edge whose child has not ended.
    live: BTreeSet<(JobId, JobId)>,
    /// Ended jobs that retention has spared.
    spared: BTreeSet<JobId>,
    /// Parents of whose children some still have to be told.
    pub(super) over: BTreeMap<JobId, ParentEnd>,
}

impl Dependencies {
    pub(super) fn of_child(&self, child: JobId) -> Vec<Edge> {
        self.edges.range((child, FIRST)..=(child, LAST)).map(|(_, edge)| *edge).collect()
    }

    pub(super) fn of_parent(&self, parent: JobId, after: Option<JobId>, limit: usize) -> Vec<Edge> {
        let from = after.map_or(Bound::Included((parent, FIRST)), |after| Bound::Excluded((parent, after)));
        let pairs = self.by_parent.range((from, Bound::Included((parent, LAST)))).take(limit);
        pairs.filter_map(|(parent, child)| self.edges.get(&(*child, *parent)).copied()).collect()
    }

    pub(super) fn waiting(&self, parent: JobId, limit: usize) -> Dependents {
        let pairs = self.waiting.range((parent, FIRST)..=(parent, LAST)).take(limit);
        let waiting: Vec<Edge> =
            pairs.filter_map(|(parent, child)| self.edges.get(&(*child, *parent)).copied()).collect();
        Dependents { is_cut: waiting.len() == limit, waiting }
    }

    /// Returns the first children of a parent that have not ended. Those that wait come first.
    pub(super) fn live_children(&self, parent: JobId) -> LiveChildren {
        let limit = LiveChildren::MAX;
        let of_parent = (parent, FIRST)..=(parent, LAST);
        let state = |child: JobId| self.edges.get(&(child, parent)).map(|edge| edge.state as u8);
        let mut children: Vec<JobId> = self.live.range(of_parent).map(|(_, child)| *child).collect();
        children.sort_by_key(|child| (state(*child), *child));
        children.truncate(limit);
        LiveChildren { is_cut: children.len() == limit, children }
    }

    pub(super) fn spared(&self, want: SparedWant) -> Vec<JobId> {
        let from = want.after.map_or(Bound::Unbounded, Bound::Excluded);
        self.spared.range((from, Bound::Unbounded)).take(want.limit).copied().collect()
    }

    /// Counts the edges of a child that wait.
    pub(super) fn waits(&self, child: JobId) -> usize {
        self.of_child(child).iter().filter(|edge| edge.state == EdgeState::Waiting).count()
    }

    pub(super) fn write(&mut self, writes: &DependencyWrites) {
        let DependencyWrites { new, decided, ended, deleted, begun, over, spared, unspared } = writes;
        for edge in new {
            self.edges.insert((edge.child, edge.parent), *edge);
            self.by_parent.insert((edge.parent, edge.child));
            self.live.insert((edge.parent, edge.child));
            if edge.state == EdgeState::Waiting {
                self.waiting.insert((edge.parent, edge.child));
            }
        }
        for (child, parent, state) in decided {
            self.decide((*child, *parent), *state);
        }
        for child in ended {
            for edge in self.of_child(*child) {
                self.live.remove(&(edge.parent, edge.child));
                if edge.state == EdgeState::Waiting {
                    self.decide((edge.child, edge.parent), EdgeState::Unneeded);
                }
            }
        }
        for child in deleted {
            for Edge { parent, .. } in self.of_child(*child) {
                self.edges.remove(&(*child, parent));
                self.by_parent.remove(&(parent, *child));
                self.waiting.remove(&(parent, *child));
                self.live.remove(&(parent, *child));
            }
        }
        self.over.extend(begun.iter().copied());
        for job in over {
            self.over.remove(job);
        }
        self.spared.extend(spared);
        for job in unspared {
            self.spared.remove(job);
        }
    }

    fn decide(&mut self, (child, parent): (JobId, JobId), state: EdgeState) {
        if let Some(edge) = self.edges.get_mut(&(child, parent)) {
            edge.state = state;
            self.waiting.remove(&(parent, child));
        }
    }
}

const FIRST: JobId = JobId::from_raw(i64::MIN);
const LAST: JobId = JobId::from_raw(i64::MAX);
