//! The jobs around a job: those that it depends on, and those that depend on it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use prost::Message;
use tonic::{Request, Response, Status};

use super::{
    caller::Caller, convert, core::Core, dependencies, errors, outgoing, sizes::ENOUGH_BYTES,
    validate::Validator,
};
use crate::{
    job::{Edge, Job, JobId},
    proto::v1,
    store::{Reader, StoreError},
};

/// Limit of the jobs in a graph, if the caller names none.
const JOBS_DEFAULT: u32 = 100;
/// Limit of the jobs in a graph.
pub(super) const JOBS_MAX: u32 = 1_000;
/// Limit of the edges in a graph.
const EDGES_MAX: usize = 10_000;

/// The direction of a walk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    /// To the jobs that a job depends on.
    Up,
    /// To those that depend on it.
    Down,
}

#[derive(Default)]
struct Graph {
    jobs: BTreeMap<JobId, Job>,
    /// By child and parent.
    edges: BTreeMap<(JobId, JobId), Edge>,
    is_cut: bool,
}

impl Graph {
    /// Walks in one direction from a job that is in the graph. Each read is a short one of its own.
    fn walk(
        &mut self,
        reader: &dyn Reader,
        start: JobId,
        direction: Direction,
        max: usize,
        sees: impl Fn(&Job) -> bool,
    ) -> Result<(), StoreError> {
        let mut visited = BTreeSet::from([start]);
        let mut open = VecDeque::from([start]);
        while let Some(id) = open.pop_front() {
            let Some(job) = self.jobs.get(&id) else { continue };
            let edges = match direction {
                Direction::Up if job.spec.dependencies() > 0 => reader.dependencies(id)?,
                Direction::Down if job.rare().has_dependents => reader.dependents(id, None, EDGES_MAX + 1)?,
                Direction::Up | Direction::Down => Vec::new(),
            };
            for edge in edges {
                let other = if direction == Direction::Up { edge.parent } else { edge.child };
                if !self.jobs.contains_key(&other) {
                    if self.jobs.len() >= max {
                        self.is_cut = true;
                        continue;
                    }
                    match reader.job(other) {
                        Ok(Some(job)) if sees(&job) => {
                            self.jobs.insert(other, job);
                        }
                        Ok(Some(_)) => continue,
                        // It is deleted, or its row can't be read.
                        Ok(None) | Err(StoreError::Unreadable { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
                if self.edges.len() >= EDGES_MAX {
                    self.is_cut = true;
                    return Ok(());
                }
                self.edges.insert((edge.child, edge.parent), edge);
                if visited.insert(other) {
                    open.push_back(other);
                }
            }
        }
        Ok(())
    }

    fn shown(self) -> v1::GetJobGraphResponse {
        let mut shown = v1::GetJobGraphResponse { truncated: self.is_cut, ..Default::default() };
        let mut bytes = 0;
        for job in self.jobs.values() {
            let job = convert::job(job);
            bytes += job.encoded_len();
            if bytes > ENOUGH_BYTES && !shown.jobs.is_empty() {
                shown.truncated = true;
                break;
            }
            shown.jobs.push(job);
        }
        shown.edges = self.edges.values().map(dependencies::edge).collect();
        shown
    }
}

impl Core {
    /// Returns the jobs around a job.
    pub(super) async fn get_job_graph(
        &self,
        call: Request<v1::GetJobGraphRequest>,
    ) -> Result<Response<v1::GetJobGraphResponse>, Status> {
        let caller = Caller::of(&call)?;
        let body = call.into_inner();
        let mut validator = Validator::new(self.clock.now(), &body.namespace);
        let id = validator.job_id("id", &body.id);
        let max = validator.limit("max_jobs", body.max_jobs, JOBS_MAX, JOBS_DEFAULT);
        validator.finish()?;
        let job = self.shard.reads.read(move |reader| reader.job(id)).await?;
        let job = job.ok_or_else(|| errors::job_not_found(&id))?;
        caller.on_job(&job)?;
        let share = self.outgoing.share();
        share.reserve().await;
        let walked = self.shard.reads.read(move |reader| {
            let mut graph = Graph { jobs: [(id, job)].into(), ..Graph::default() };
            for direction in [Direction::Up, Direction::Down] {
                graph.walk(reader, id, direction, max as usize, |job| caller.sees(job))?;
            }
            Ok(graph.shown())
        });
        Ok(outgoing::message(walked.await?, share))
    }
}
