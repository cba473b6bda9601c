//! Edges between jobs that the engine exchanges with a store.

use std::collections::HashMap;

use crate::job::{Edge, EdgeState, JobId, ParentEnd};

/// Edges between jobs that a batch reads.
#[derive(Clone, Debug, Default)]
pub struct DependencyWants {
    /// Parents whose waiting edges are read, each with its child.
    pub dependents: Vec<DependentsWant>,
    /// Jobs among those that are read that may end. If they have dependents, these are read, too.
    pub may_end: Vec<JobId>,
    /// Maximum number of the edges that are read for all of these together.
    pub max: usize,
    /// A page of the ended jobs that retention has spared.
    pub spared: Option<SparedWant>,
}

/// Edges between jobs that a batch has read.
#[derive(Debug, Default)]
pub struct DependencyReads {
    /// The edges of parents. The children are among the jobs.
    pub dependents: HashMap<JobId, Dependents>,
    /// The number of edges of each of these children that wait.
    pub waits: HashMap<JobId, usize>,
    /// The children that have not ended, of each parent among the jobs that were named, the lines, the walks of purges and
    /// the ended jobs of the feed.
    pub live_children: HashMap<JobId, LiveChildren>,
    /// Jobs that retention has spared. Those that exist are among the jobs.
    pub spared: Vec<JobId>,
}

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

/// Children of a parent that have not ended.
#[derive(Clone, Debug, Default)]
pub struct LiveChildren {
    /// The first of them.
    pub children: Vec<JobId>,
    /// Whether the limit was met, so that there may be more.
    pub is_cut: bool,
}

impl LiveChildren {
    /// Limit of the children of a parent that are read.
    pub const MAX: usize = 8;
}

/// Read of a page of the ended jobs that retention has spared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SparedWant {
    /// The last job of the page before; absent for the first page.
    pub after: Option<JobId>,
    /// Maximum number of jobs.
    pub limit: usize,
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
    /// Ended jobs that retention spares for the sake of their children.
    pub spared: Vec<JobId>,
    /// Those that it spares no more.
    pub unspared: Vec<JobId>,
}

impl DependencyWrites {
    /// Returns whether nothing is written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let DependencyWrites { new, decided, ended, deleted, begun, over, spared, unspared } = self;
        new.is_empty()
            && decided.is_empty()
            && ended.is_empty()
            && deleted.is_empty()
            && begun.is_empty()
            && over.is_empty()
            && spared.is_empty()
            && unspared.is_empty()
    }
}
