//! JSON of dependencies between jobs.

use serde_json::{Value, json};

use super::{Object, job, named};
use jobmill::proto::v1::{
    Dependency, DependencyCondition, DependencyState, GetJobGraphResponse, JobDependency, dependency::On,
};

fn condition(number: i32) -> Option<Value> {
    (number != 0).then(|| named::<DependencyCondition>(number, DependencyCondition::as_str_name))
}

/// Converts a dependency, as the client submitted it.
pub(super) fn said(dependency: &Dependency) -> Value {
    let object = match &dependency.on {
        Some(On::JobId(id)) => Object::default().put("jobId", id.as_str()),
        Some(On::BatchIndex(index)) => Object::default().put("batchIndex", *index),
        None => Object::default(),
    };
    object
        .maybe("condition", condition(dependency.condition))
        .maybe("optionalEdge", dependency.optional_edge.then_some(true))
        .done()
}

/// Converts a dependency of a job, with what became of it.
pub(super) fn dependency(dependency: &JobDependency) -> Value {
    Object::default()
        .put("jobId", dependency.job_id.as_str())
        .maybe("condition", condition(dependency.condition))
        .maybe("optionalEdge", dependency.optional_edge.then_some(true))
        .put("state", named::<DependencyState>(dependency.state, DependencyState::as_str_name))
        .done()
}

/// Converts the jobs around a job, with their dependencies.
pub(in crate::cli) fn graph(graph: &GetJobGraphResponse) -> Value {
    let edge =
        |(child, on): (&str, &JobDependency)| json!({ "childId": child, "dependency": dependency(on) });
    let edges =
        graph.edges.iter().filter_map(|edge| Some((edge.child_id.as_str(), edge.dependency.as_ref()?)));
    json!({
        "jobs": graph.jobs.iter().map(job).collect::<Vec<_>>(),
        "edges": edges.map(edge).collect::<Vec<_>>(),
        "truncated": graph.truncated,
    })
}
