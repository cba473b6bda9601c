//! Validation rules for the job of a schedule, in addition to those of every job.

use super::rules::{FieldFault, HEADERS_MAX, LABELS_MAX, shown};
use crate::job::{JobDraft, RESERVED_PREFIX, When};

/// Labels that are left to the client: the others name schedule and instant.
const OWN_LABELS_MAX: usize = LABELS_MAX - 2;
/// Headers that are left to the client.
const OWN_HEADERS_MAX: usize = HEADERS_MAX - 3;

/// Returns every fault of a schedule's job that other jobs do not have.
pub(crate) fn check(job: &JobDraft) -> Vec<FieldFault> {
    let mut faults = Vec::new();
    let mut fault = |field, problem: String| faults.push(FieldFault { field, problem });
    for (field, when) in
        [("run_time", job.start), ("expire_time", job.expiry), ("deadline_time", job.deadline)]
    {
        if matches!(when, Some(When::At(_))) {
            let problem =
                "is one instant, and the jobs of a schedule have many: give a duration after their creation";
            fault(field, problem.to_owned());
        }
    }
    if job.unique.is_some() {
        let problem =
            "is not possible for a schedule: `overlap` tells what happens while its last job runs";
        fault("unique_key", problem.to_owned());
    }
    if !job.depends_on.is_empty() {
        let problem = "is not possible for a schedule, whose jobs come one after the other: let the job submit the others";
        fault("depends_on", problem.to_owned());
    }
    for (field, entries, max) in
        [("labels", &job.labels, OWN_LABELS_MAX), ("headers", &job.headers, OWN_HEADERS_MAX)]
    {
        if entries.len() > max {
            fault(field, format!("has {} entries; at most {max} are allowed", entries.len()));
        }
    }
    if let Some(key) = job.labels.keys().find(|key| key.starts_with(RESERVED_PREFIX)) {
        let shown = shown(key);
        fault("labels", format!("the key {shown} begins with `{RESERVED_PREFIX}`, which is reserved"));
    }
    faults
}
