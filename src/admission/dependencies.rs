//! Validation rules for the dependencies of a submission.

use std::collections::HashSet;

use crate::job::{Dependency, DependencyTarget};

/// Limit of the dependencies of one job.
pub(crate) const DEPENDENCIES_MAX: usize = 1_000;
/// Limit of the dependencies of all jobs of one call.
pub(crate) const CALL_DEPENDENCIES_MAX: usize = 10_000;

/// Returns every fault of a job's dependencies, each with the index of the dependency, or without one. `own` is the job's
/// index in its batch and the number of the batch's jobs; absent outside of a batch.
pub(crate) fn dependencies(on: &[Dependency], own: Option<(usize, usize)>) -> Vec<(Option<usize>, String)> {
    if on.len() > DEPENDENCIES_MAX {
        return vec![(None, too_many(on.len()))];
    }
    let mut seen = HashSet::new();
    let fault = |(place, dependency): (usize, &Dependency)| {
        let problem = match (dependency.on, own) {
            _ if !seen.insert(dependency.on) => {
                "names the same job as an earlier entry: give each job once, with one condition".to_owned()
            }
            (DependencyTarget::Item(_), None) => {
                "has a batch_index, which only SubmitBatch knows: give the job_id, or submit both in one batch".to_owned()
            }
            (DependencyTarget::Item(index), Some((own, _))) if index as usize == own => {
                "is the job itself, which could never start: name another one".to_owned()
            }
            (DependencyTarget::Item(index), Some((_, count))) if index as usize >= count => {
                format!("has the batch_index {index}, and the batch has {count} jobs: it must be from 0 to {}", count - 1)
            }
            (DependencyTarget::Item(_) | DependencyTarget::Job(_), _) => return None,
        };
        Some((Some(place), problem))
    };
    on.iter().enumerate().filter_map(fault).collect()
}

/// Returns every fault of the dependencies of a job that is submitted alone.
pub(crate) fn alone(on: &[Dependency]) -> impl Iterator<Item = String> {
    dependencies(on, None).into_iter().map(|(_, problem)| problem)
}

/// Returns the fault of a job with too many dependencies.
pub(crate) fn too_many(count: usize) -> String {
    format!("has {count} entries; at most {DEPENDENCIES_MAX} are allowed: let jobs between wait for a part of them each")
}

/// Checks the number of dependencies of all jobs of a call.
pub(crate) fn of_call(count: usize) -> super::rules::RuleResult {
    if count <= CALL_DEPENDENCIES_MAX {
        return Ok(());
    }
    Err(format!(
        "have {count} dependencies; at most {CALL_DEPENDENCIES_MAX} are allowed in one call: submit the parents first, and the \
         others in calls of their own, by job_id"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{DependencyCondition, JobId};

    #[test]
    fn faults_name_their_place() {
        let job = |id| Dependency::on_job(JobId::from_raw(id));
        let on = [job(1), Dependency::on_item(0), job(1).when(DependencyCondition::Ended), Dependency::on_item(3)];
        let places = |own| dependencies(&on, own).into_iter().map(|(place, _)| place).collect::<Vec<_>>();
        assert_eq!(places(Some((0, 3))), [Some(1), Some(2), Some(3)]);
        assert_eq!(places(Some((1, 4))), [Some(2)]);
        assert_eq!(places(None), [Some(1), Some(2), Some(3)]);
        let many: Vec<_> = (0..1_001).map(job).collect();
        assert_eq!(dependencies(&many[..1_000], None), []);
        let (place, told) = &dependencies(&many, None)[0];
        assert!(place.is_none() && told.starts_with("has 1001 entries; at most 1000 are allowed"), "{told}");
        assert!(of_call(10_000).is_ok() && of_call(10_001).is_err());
    }
}
