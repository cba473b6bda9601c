//! Dependencies between jobs: what the end of a parent means for its children, and which new jobs wait.
//!
//! The children of a parent that ends are told in the same transaction, as far as their edges were read with it. The
//! others are told by an operation in the following batches. It needs no cursor: an edge that is decided does not wait any
//! more. Until it is over, the parent can't be retried, so that all children are told the same.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    ops::Bound,
    sync::Arc,
};

use super::{
    NewJob, Offer, OfferRefusal,
    decision::{AcceptedItem, AcceptedJob, Decision},
    transition::{Event, Refusal, forsaken},
};
use crate::{
    job::{
        AtLeastOne, Dependency, DependencyTarget, Edge, EdgeState, Job, JobId, ParentEnd, State,
    },
    store::sets::{DependencyWrites, Dependents, DependentsWant},
};

/// Limit of the edges that a batch decides at the end of parents, and again of those that the operation decides.
pub(super) const DECIDED_MAX: usize = 256;

/// Parents that are over, of whose children some still have to be told.
#[derive(Debug, Default)]
pub(super) struct OverParents {
    kept: BTreeMap<JobId, ParentEnd>,
    /// Those that the batch adds.
    begun: Vec<(JobId, ParentEnd)>,
    /// Those whose last children the batch tells.
    over: Vec<JobId>,
    /// The parent that goes first in the next batch.
    turn: Option<JobId>,
}

impl OverParents {
    pub(super) fn load(parents: &[(JobId, ParentEnd)]) -> Self {
        OverParents { kept: parents.iter().copied().collect(), ..OverParents::default() }
    }

    /// Returns whether all children have been told.
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Returns whether some children of a job still have to be told of its end.
    pub(super) fn has(&self, id: JobId) -> bool {
        self.kept.contains_key(&id) || self.begun.iter().any(|(begun, _)| *begun == id)
    }

    /// Plans the reads of a batch, with an equal share for each parent.
    pub(super) fn plan(&self) -> Vec<DependentsWant> {
        let from = self.turn.map_or(Bound::Unbounded, Bound::Included);
        let after = self.kept.range((from, Bound::Unbounded));
        let before = self.turn.into_iter().flat_map(|turn| self.kept.range(..turn));
        let parents: Vec<JobId> = after.chain(before).map(|(parent, _)| *parent).take(DECIDED_MAX).collect();
        let limit = DECIDED_MAX / parents.len().max(1);
        parents.into_iter().map(|parent| DependentsWant { parent, limit }).collect()
    }

    fn begin(&mut self, parent: JobId, end: ParentEnd) {
        if !self.has(parent) {
            self.begun.push((parent, end));
        }
    }

    /// Returns the rows that the batch writes: new ones, and those to delete.
    pub(super) fn rows(&self) -> (Vec<(JobId, ParentEnd)>, Vec<JobId>) {
        (self.begun.clone(), self.over.clone())
    }

    /// Takes over the changes of the batch, which is on disk.
    pub(super) fn commit(&mut self) {
        for parent in self.over.drain(..) {
            self.kept.remove(&parent);
        }
        self.kept.extend(self.begun.drain(..));
        let next = |turn| self.kept.range((Bound::Excluded(turn), Bound::Unbounded)).next().map(|(parent, _)| *parent);
        self.turn = self.turn.and_then(next).or_else(|| self.kept.keys().next().copied());
    }

    /// Drops the changes of the batch, which was not committed.
    pub(super) fn discard(&mut self) {
        self.begun.clear();
        self.over.clear();
    }
}

/// The dependencies that a batch changes.
#[derive(Debug, Default)]
pub(super) struct Ties {
    /// Parents that are over, until their children are told.
    over: VecDeque<(JobId, ParentEnd)>,
    /// Parents that have new edges that wait, which no read of the batch has found.
    new_parents: HashSet<JobId>,
    /// A new child of each parent that has one that has not ended.
    new_children: HashMap<JobId, JobId>,
    /// The number of edges of children that wait.
    waits: HashMap<JobId, usize>,
}

/// A dependency of a job of an offer.
#[derive(Clone, Copy, Debug)]
struct Tie {
    child: usize,
    dependency: Dependency,
}

/// The dependencies of an offer's jobs.
#[derive(Debug, Default)]
pub(super) struct OfferTies {
    /// In the order of the children.
    ties: Vec<Tie>,
    /// The indexes of all jobs of the offer, each after those that it depends on.
    order: Vec<usize>,
}

fn ties_of(jobs: &AtLeastOne<NewJob>) -> Vec<Tie> {
    let ties = |(child, job): (usize, &NewJob)| {
        let ties = job.depends_on.iter().map(move |dependency| Tie { child, dependency: *dependency });
        ties.collect::<Vec<_>>()
    };
    jobs.iter().enumerate().filter(|(_, job)| !job.depends_on.is_empty()).flat_map(ties).collect()
}

/// Returns how a parent ended, if it has.
fn end_of(job: &Job) -> Option<ParentEnd> {
    job.state.is_done().then(|| ParentEnd::Ended(job.state.name()))
}

/// Returns the jobs of an offer, each after those that it depends on, or else the indexes of a cycle.
fn order_of(jobs: usize, ties: &[Tie]) -> Result<Vec<usize>, Vec<usize>> {
    let mut parents: Vec<Vec<usize>> = vec![Vec::new(); jobs];
    for Tie { child, dependency } in ties {
        if let (DependencyTarget::Item(parent), Some(own)) = (dependency.on, parents.get_mut(*child)) {
            own.push(parent as usize);
        }
    }
    let (mut order, mut is_placed, mut is_open) = (Vec::with_capacity(jobs), vec![false; jobs], vec![false; jobs]);
    for start in 0..jobs {
        // The path from the start to the job that is looked at, each with the number of its parents that are done.
        let mut path = vec![(start, 0)];
        while let Some((job, done)) = path.last_mut() {
            let job = *job;
            if is_placed.get(job).copied().unwrap_or(true) {
                path.pop();
                continue;
            }
            match parents.get(job).and_then(|own| own.get(*done)).copied() {
                Some(parent) => {
                    *done += 1;
                    if let Some(open) = is_open.get_mut(job) {
                        *open = true;
                    }
                    if parent == job || is_open.get(parent).copied().unwrap_or(false) {
                        let cycle = path.iter().map(|(job, _)| *job).skip_while(|job| *job != parent);
                        return Err(cycle.collect());
                    }
                    path.push((parent, 0));
                }
                None => {
                    order.push(job);
                    (is_placed[job], is_open[job]) = (true, false);
                    path.pop();
                }
            }
        }
    }
    Ok(order)
}

impl Decision<'_> {
    /// Notes the end of a job: its own edges are needed no more, and its children have to be told.
    pub(super) fn end_of_edges(&mut self, job: &Job) {
        if job.spec.dependencies() > 0 {
            self.writes.dependencies.ended.push(job.id);
            self.engine.spared.look_again();
        }
        if job.rare().has_dependents {
            self.ties.over.push_back((job.id, ParentEnd::Ended(job.state.name())));
        }
    }

    /// Notes the deletion of a job with its own edges.
    pub(super) fn deletion_of_edges(&mut self, job: &Job) {
        if job.spec.dependencies() > 0 {
            self.writes.dependencies.deleted.push(job.id);
            self.engine.spared.look_again();
        }
        if job.rare().has_dependents && !job.state.is_done() {
            self.ties.over.push_back((job.id, ParentEnd::Deleted));
        }
    }

    /// Notes that the row of a job, which may have had edges, was set aside.
    pub(super) fn set_aside_edges_of(&mut self, id: JobId) {
        self.writes.dependencies.deleted.push(id);
        self.ties.over.push_back((id, ParentEnd::Deleted));
    }

    /// Tells the children of the parents that have ended in the batch so far, and so on downwards. Those whose edges were
    /// not read are told by the operation.
    pub(super) fn tell_children(&mut self) {
        while let Some((parent, end)) = self.ties.over.pop_front() {
            let read = self.found.dependencies.dependents.remove(&parent);
            let has_more = read.as_ref().is_none_or(|read| read.is_cut) || self.ties.new_parents.contains(&parent);
            for edge in read.unwrap_or_default().waiting {
                self.decide_edge(edge, end);
            }
            if has_more {
                self.engine.over_parents.begin(parent, end);
            }
        }
    }

    /// Takes the next step of telling the children of parents that have ended before.
    pub(super) fn tell_more_children(&mut self, planned: &[DependentsWant]) {
        for DependentsWant { parent, .. } in planned {
            let Some(end) = self.engine.over_parents.kept.get(parent).copied() else { continue };
            let Some(Dependents { waiting, is_cut }) = self.found.dependencies.dependents.remove(parent) else { continue };
            for edge in waiting {
                self.decide_edge(edge, end);
            }
            if !is_cut {
                self.engine.over_parents.over.push(*parent);
            }
        }
        self.tell_children();
    }

    /// Decides an edge whose parent is over.
    fn decide_edge(&mut self, edge: Edge, end: ParentEnd) {
        let Edge { child, parent, .. } = edge;
        let state = edge.decided(end);
        self.writes.dependencies.decided.push((child, parent, state));
        let found = self.found.dependencies.waits.get(&child).copied().unwrap_or(1);
        let waits = self.ties.waits.entry(child).or_insert(found);
        *waits = waits.saturating_sub(1);
        let waits = *waits;
        let Some(job) = self.job(child).filter(|job| matches!(job.state, State::Blocked { .. })) else { return };
        if state == EdgeState::Impossible {
            let failure = forsaken(parent, end, edge.condition);
            // The job is blocked, which the event takes.
            let _: Result<_, Refusal> = self.try_change(&job, &Event::Forsake { failure });
        } else if waits == 0 {
            self.unblock(&job, None);
        }
    }

    /// Returns a child that the batch gives to a job.
    pub(super) fn new_child_of(&self, parent: JobId) -> Option<JobId> {
        self.ties.new_children.get(&parent).copied()
    }

    /// Returns the dependencies of an offer's jobs, after a check that the parents exist, and that the jobs don't wait for
    /// each other in a circle.
    pub(super) fn ties_of(&mut self, offer: &Offer) -> Result<OfferTies, OfferRefusal> {
        let ties = ties_of(&offer.jobs);
        if ties.is_empty() {
            return Ok(OfferTies::default());
        }
        let is_batch = offer.jobs.count() > 1;
        for (index, job) in offer.jobs.iter().enumerate() {
            for (place, dependency) in job.depends_on.iter().enumerate() {
                let is_there = match dependency.on {
                    DependencyTarget::Job(id) => self.parent(id).is_some(),
                    DependencyTarget::Item(item) => offer.jobs.get(item as usize).is_some(),
                };
                if !is_there {
                    let (index, on) = (is_batch.then_some(index), dependency.on);
                    return Err(OfferRefusal::DependencyNotFound { index, place, on });
                }
            }
        }
        let order = order_of(offer.jobs.count(), &ties).map_err(OfferRefusal::DependencyCycle)?;
        Ok(OfferTies { ties, order })
    }

    /// Returns a job that others may wait for. A waiting one that a purge covers is deleted first: it will never start.
    fn parent(&mut self, id: JobId) -> Option<Arc<Job>> {
        let job = self.job(id)?;
        let waits = job.state.lease().is_none() && !job.state.is_done();
        (!waits || !self.delete_if_purged(&job)).then_some(job)
    }

    /// Makes the jobs of the offer that was accepted last wait for those that they depend on. `first` is the id of its first
    /// job. Jobs with dependencies are accepted only among new ones, so that their ids are consecutive.
    pub(super) fn tie(&mut self, first: JobId, offered: &OfferTies) {
        let Some(offer) = self.accepted.len().checked_sub(1) else { return };
        let OfferTies { ties, order } = offered;
        // A parent that has ended already ends its children, and so on: parents come first.
        for &child in order {
            let begin = ties.partition_point(|tie| tie.child < child);
            let own = ties.iter().skip(begin).take_while(|tie| tie.child == child).map(|tie| tie.dependency);
            self.tie_child(offer, first, child, own);
        }
    }

    fn tie_child(&mut self, offer: usize, first: JobId, child: usize, own: impl Iterator<Item = Dependency>) {
        let mut failure = None;
        let mut edges = Vec::new();
        for dependency in own {
            let (parent, end) = match dependency.on {
                DependencyTarget::Job(id) => (id, self.job(id).and_then(|job| end_of(&job))),
                DependencyTarget::Item(item) => {
                    let end = self.accepted_item(offer, item as usize).and_then(|item| end_of(&item.job));
                    (first.plus(i64::from(item)), end)
                }
            };
            let edge = Edge {
                child: first.plus(child as i64),
                parent,
                condition: dependency.condition(),
                is_optional: dependency.is_optional,
                state: EdgeState::Waiting,
            };
            let state = end.map_or(EdgeState::Waiting, |end| edge.decided(end));
            if let Some(end) = end.filter(|_| state == EdgeState::Impossible) {
                failure.get_or_insert_with(|| forsaken(parent, end, edge.condition));
            }
            edges.push((dependency.on, Edge { state, ..edge }));
        }
        if edges.is_empty() {
            return;
        }
        let waits = edges.iter().any(|(_, edge)| edge.state == EdgeState::Waiting);
        let now = self.now();
        let Some(accepted) = self.accepted_item(offer, child) else { return };
        if let Some(failure) = failure.filter(|_| !accepted.job.state.is_done()) {
            accepted.job.failure = Some(failure);
            (accepted.job.state, accepted.job.ended) = (State::Cancelled, Some(now));
        } else if waits && !accepted.job.state.is_done() {
            accepted.job.state = State::Blocked { due: accepted.job.state.due().unwrap_or(now) };
        }
        if !accepted.job.state.is_done() {
            for (on, edge) in &edges {
                self.mark_parent(offer, *on);
                self.ties.new_children.insert(edge.parent, edge.child);
                if edge.state == EdgeState::Waiting {
                    self.ties.new_parents.insert(edge.parent);
                }
            }
        }
        self.writes.dependencies.new.extend(edges.into_iter().map(|(_, edge)| edge));
    }

    fn accepted_item(&mut self, offer: usize, item: usize) -> Option<&mut AcceptedJob> {
        match self.accepted.get_mut(offer)?.jobs.get_mut(item)? {
            AcceptedItem::New(accepted) => Some(accepted),
            AcceptedItem::Found { .. } => None,
        }
    }

    /// Notes in a parent that it has dependents, so that its end looks for them. This is no change that its watchers see.
    fn mark_parent(&mut self, offer: usize, on: DependencyTarget) {
        match on {
            DependencyTarget::Item(item) => {
                if let Some(accepted) = self.accepted_item(offer, item as usize) {
                    accepted.job.change_rare(|rare| rare.has_dependents = true);
                }
            }
            DependencyTarget::Job(id) => {
                let Some(job) = self.job(id).filter(|job| !job.rare().has_dependents) else { return };
                let mut marked = Job::clone(&job);
                marked.change_rare(|rare| rare.has_dependents = true);
                self.mark(&job, marked);
            }
        }
    }

    /// Collects the batch's writes of edges.
    pub(super) fn write_edges(&mut self) {
        let DependencyWrites { begun, over, .. } = &mut self.writes.dependencies;
        (*begun, *over) = self.engine.over_parents.rows();
    }
}
