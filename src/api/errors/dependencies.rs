//! Errors about dependencies between jobs.

use std::fmt::Display;

use tonic::{Code, Status};

use crate::{
    api::status::{about, status},
    job::{DependencyTarget, JobId},
};

/// Limit of the jobs of a cycle that its error names.
const PATH_MAX: usize = 20;

/// A job depends on one that does not exist.
pub(super) fn dependency_not_found(
    refusal: impl Display,
    index: Option<usize>,
    place: usize,
    on: DependencyTarget,
) -> Status {
    status(Code::NotFound, "DEPENDENCY_NOT_FOUND", &refusal, |details| {
        let job = index.map_or_else(|| "job".to_owned(), |index| format!("jobs[{index}]"));
        let job_id = match on {
            DependencyTarget::Job(id) => id.to_string(),
            DependencyTarget::Item(_) => String::new(),
        };
        about(details, [("job_id", job_id.clone()), ("field", format!("{job}.depends_on[{place}]"))]);
        details.set_resource_info("job", job_id, "", "");
    })
}

/// Jobs of a batch wait for each other in a circle.
pub(super) fn dependency_cycle(refusal: impl Display, path: &[usize]) -> Status {
    let message = refusal.to_string();
    status(Code::FailedPrecondition, "DEPENDENCY_CYCLE", &message, |details| {
        let path =
            path.iter().take(PATH_MAX).map(|index| format!("jobs[{index}]")).collect::<Vec<_>>().join(" ");
        about(details, [("path", path)]);
        details.add_precondition_failure_violation("DEPENDENCY_CYCLE", "jobs", message.clone());
    })
}

/// The end of a job has not reached all jobs that depend on it.
pub(super) fn children_are_told(refusal: impl Display, id: JobId) -> Status {
    let message = refusal.to_string();
    status(Code::FailedPrecondition, "OPERATION_RUNNING", &message, |details| {
        about(details, [("job_id", id.to_string())]);
        details.add_precondition_failure_violation("OPERATION_RUNNING", id.to_string(), message.clone());
    })
}

/// A job that depends on another one has not ended.
pub(super) fn has_dependents(refusal: impl Display, id: JobId, child: JobId) -> Status {
    let message = refusal.to_string();
    status(Code::FailedPrecondition, "HAS_DEPENDENTS", &message, |details| {
        about(details, [("job_id", id.to_string()), ("child_id", child.to_string())]);
        details.add_precondition_failure_violation("DEPENDENTS", id.to_string(), message.clone());
    })
}
