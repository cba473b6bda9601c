//! Errors about unique keys.

use std::fmt::Display;

use tonic::{Code, Status};

use crate::api::status::{about, resource, status};
use crate::{
    engine::ControlRefusal,
    job::{JobId, StateName},
};

pub(in crate::api) fn key_not_found(key: &str) -> Status {
    let message = ControlRefusal::KeyNotFound(key.to_owned());
    status(Code::NotFound, "KEY_NOT_FOUND", message, resource("key", key))
}

/// Another job holds a unique key.
pub(super) fn key_held(
    refusal: impl Display,
    key: &str,
    holder: Option<JobId>,
    state: Option<StateName>,
) -> Status {
    let message = refusal.to_string();
    status(Code::FailedPrecondition, "KEY_HELD", &message, |details| {
        let job_id = holder.map(|id| id.to_string()).unwrap_or_default();
        let state = state.map(|state| state.as_str().to_owned()).unwrap_or_default();
        about(details, [("key", key.to_owned()), ("job_id", job_id), ("state", state)]);
        details.add_precondition_failure_violation("UNIQUE_KEY", key, message.clone());
    })
}

/// The holder of a unique key differs in a field that can't change.
pub(super) fn key_conflict(refusal: impl Display, key: &str, holder: Option<JobId>, field: &str) -> Status {
    let message = refusal.to_string();
    status(Code::FailedPrecondition, "KEY_CONFLICT", &message, |details| {
        let job_id = holder.map(|id| id.to_string()).unwrap_or_default();
        about(details, [("key", key.to_owned()), ("job_id", job_id), ("field", field.to_owned())]);
        details.add_precondition_failure_violation("UNIQUE_KEY", key, message.clone());
    })
}
