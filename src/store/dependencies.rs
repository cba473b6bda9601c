//! Edges between jobs that the engine exchanges with a store.

use crate::job::{Edge, EdgeState, JobId, ParentEnd};

/// Read of the edges of a parent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DependentsWant {
    /// The parent.
    pub parent: JobId,
    /// Maximum number of the edges.
    pub limit: usize,
}

/// The edges of a parent.
#[derive(Clone, Debug, Default)]
pub struct Dependents {
    /// The edges whose children wait, in the order of the children.
    pub waiting: Vec<Edge>,
    /// Whether the limit was met, so that there may be more.
    pub is_cut: bool,
}

/// Writes of edges. Their order is that of the fields.
#[derive(Debug, Default)]
pub struct DependencyWrites {
    /// Edges of new jobs.
    pub new: Vec<Edge>,
    /// Edges that wait no more: child, parent, and what has become of the edge.
    pub decided: Vec<(JobId, JobId, EdgeState)>,
    /// Children that have ended. Their edges that still wait are UNNEEDED.
    pub ended: Vec<JobId>,
    /// Children that are deleted, with their edges.
    pub deleted: Vec<JobId>,
    /// Parents that are over, of whose children some still have to be told.
    pub begun: Vec<(JobId, ParentEnd)>,
    /// Those of whose children all have been told.
    pub over: Vec<JobId>,
}

impl DependencyWrites {
    /// Returns whether nothing is written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let DependencyWrites { new, decided, ended, deleted, begun, over } = self;
        new.is_empty()
            && decided.is_empty()
            && ended.is_empty()
            && deleted.is_empty()
            && begun.is_empty()
            && over.is_empty()
    }
}
