//! Dependencies between jobs: their validation, and how they are shown.

use std::fmt::Display;

use tonic::Status;

use super::{
    caller::Caller,
    core::Core,
    validate::{Field, Validator},
};
use crate::{
    admission::dependencies,
    engine::OfferRefusal,
    job::{Dependency, DependencyCondition, DependencyTarget, Edge, EdgeState, Job, JobId, State},
    proto::v1::{self, dependency::On},
};

/// Limit of the ids in a reason why a job does not run.
const PENDING_IDS_MAX: usize = 10;
/// Limit of the parents that one read checks.
const PARENTS_READ_MAX: usize = 100;

impl Validator {
    /// Validates the dependencies of a job. `own` is its index in its batch and the number of the batch's jobs, if it is in
    /// one.
    pub(super) fn dependencies(
        &mut self,
        field: &dyn Display,
        list: &[v1::Dependency],
        own: Option<(usize, usize)>,
    ) -> Vec<Dependency> {
        let of = Field { of: field, name: "depends_on" };
        let mut read = Vec::with_capacity(list.len().min(dependencies::DEPENDENCIES_MAX + 1));
        for (place, said) in list.iter().take(dependencies::DEPENDENCIES_MAX + 1).enumerate() {
            let at = |name: &str| format!("{of}[{place}]{name}");
            let on = match &said.on {
                Some(On::JobId(id)) => DependencyTarget::Job(self.job_id(at(".job_id"), id)),
                Some(On::BatchIndex(index)) => match u32::try_from(*index) {
                    Ok(index) => DependencyTarget::Item(index),
                    Err(_) => {
                        self.fault(
                            at(".batch_index"),
                            format!("is {index}; it must be from 0 to the batch's last index"),
                        );
                        continue;
                    }
                },
                None => {
                    self.fault(at(""), "names no job: give job_id or, in SubmitBatch, batch_index");
                    continue;
                }
            };
            let condition = match self.known(&at(".condition"), said.condition) {
                v1::DependencyCondition::Unspecified => None,
                v1::DependencyCondition::Succeeded => Some(DependencyCondition::Succeeded),
                v1::DependencyCondition::Unsuccessful => Some(DependencyCondition::Unsuccessful),
                v1::DependencyCondition::Ended => Some(DependencyCondition::Ended),
            };
            read.push(Dependency { on, condition, is_optional: said.optional_edge });
        }
        if list.len() > read.len() && list.len() <= dependencies::DEPENDENCIES_MAX {
            // Some have faults of their own, and the places of the others are no longer those of the request.
            return read;
        }
        let is_too_long = list.len() > dependencies::DEPENDENCIES_MAX;
        for (place, problem) in dependencies::dependencies(&read, own) {
            match place {
                Some(place) => self.fault(format!("{of}[{place}]"), problem),
                None if is_too_long => self.fault(of, dependencies::too_many(list.len())),
                None => self.fault(of, problem),
            }
        }
        read
    }
}

impl Core {
    /// Checks that the caller may read the jobs that new ones depend on. A hidden one is reported as not found.
    pub(super) async fn check_parents<'a>(
        &self,
        caller: &Caller,
        jobs: impl Iterator<Item = &'a [Dependency]> + Send,
        is_batch: bool,
    ) -> Result<(), Status> {
        if caller.sees_all() {
            return Ok(());
        }
        let mut asked = Vec::new();
        for (index, on) in jobs.enumerate() {
            let known = on.iter().enumerate().filter_map(|(place, dependency)| match dependency.on {
                DependencyTarget::Job(id) => Some((index, place, id)),
                DependencyTarget::Item(_) => None,
            });
            asked.extend(known);
        }
        for some in asked.chunks(PARENTS_READ_MAX) {
            let ids: Vec<JobId> = some.iter().map(|(.., id)| *id).collect();
            let (read, _) = self.shard.reads.read(move |reader| reader.jobs(&ids)).await?;
            // The committer finds out whether the others exist.
            let is_hidden = |job: &Option<Job>| job.as_ref().is_some_and(|job| !caller.sees(job));
            if let Some((&(index, place, id), _)) = some.iter().zip(&read).find(|(_, job)| is_hidden(job)) {
                let (index, on) = (is_batch.then_some(index), DependencyTarget::Job(id));
                return Err(OfferRefusal::DependencyNotFound { index, place, on }.into());
            }
        }
        Ok(())
    }

    /// Returns the reason for which a job waits that depends on others. Its edges are read only if its view has none.
    pub(super) async fn pending_on_others(
        &self,
        job: &Job,
        view: &[v1::JobDependency],
    ) -> Result<Option<v1::Pending>, Status> {
        if job.spec.dependencies() == 0 || !matches!(job.state, State::Blocked { .. }) {
            return Ok(None);
        }
        let (id, mut read) = (job.id, Vec::new());
        if view.is_empty() {
            let edges = self.shard.reads.read(move |reader| reader.dependencies(id)).await?;
            read.extend(edges.iter().map(shown));
        }
        let waiting = view.iter().chain(&read).filter(|edge| edge.state() == v1::DependencyState::Waiting);
        let count = waiting.clone().count();
        Ok(Some(v1::Pending {
            reason: v1::PendingReason::Dependency as i32,
            subject: if count == 1 { "1 job".to_owned() } else { format!("{count} jobs") },
            until: None,
            job_ids: waiting.take(PENDING_IDS_MAX).map(|edge| edge.job_id.clone()).collect(),
        }))
    }
}

fn condition(condition: DependencyCondition) -> v1::DependencyCondition {
    match condition {
        DependencyCondition::Succeeded => v1::DependencyCondition::Succeeded,
        DependencyCondition::Unsuccessful => v1::DependencyCondition::Unsuccessful,
        DependencyCondition::Ended => v1::DependencyCondition::Ended,
    }
}

fn shown(edge: &Edge) -> v1::JobDependency {
    let state = match edge.state {
        EdgeState::Waiting => v1::DependencyState::Waiting,
        EdgeState::Met => v1::DependencyState::Met,
        EdgeState::FallenAway => v1::DependencyState::FallenAway,
        EdgeState::Impossible => v1::DependencyState::Impossible,
        EdgeState::Unneeded => v1::DependencyState::Unneeded,
    };
    v1::JobDependency {
        job_id: edge.parent.to_string(),
        condition: condition(edge.condition) as i32,
        optional_edge: edge.is_optional,
        state: state as i32,
    }
}

fn said(edge: &Edge) -> v1::Dependency {
    v1::Dependency {
        on: Some(On::JobId(edge.parent.to_string())),
        condition: condition(edge.condition) as i32,
        optional_edge: edge.is_optional,
    }
}

/// Converts an edge, with its child.
pub(super) fn edge(edge: &Edge) -> v1::JobEdge {
    v1::JobEdge { child_id: edge.child.to_string(), dependency: Some(shown(edge)) }
}

/// Adds the edges of a job, as they are now, and to its spec as they were submitted.
pub(super) fn add_edges(job: &mut v1::Job, edges: &[Edge]) {
    job.dependencies = edges.iter().map(shown).collect();
    if let Some(spec) = &mut job.spec {
        spec.depends_on = edges.iter().map(said).collect();
    }
}
