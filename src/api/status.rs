//! Builders of error statuses.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

pub(super) const DOMAIN: &str = "jobmill";
pub(super) const MESSAGE_MAX_BYTES: usize = 1_024;

/// Builds a status with a stable reason.
pub(super) fn status(
    code: Code,
    reason: &str,
    message: impl std::fmt::Display,
    add: impl FnOnce(&mut ErrorDetails),
) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new());
    add(&mut details);
    Status::with_error_details(code, shortened(&message.to_string()), details)
}

pub(super) fn shortened(message: &str) -> &str {
    crate::execute::cut(message, MESSAGE_MAX_BYTES)
}

/// Sets the error's metadata: see `ErrorReason` in the protocol.
pub(super) fn about<const N: usize>(details: &mut ErrorDetails, values: [(&str, String); N]) {
    if let Some(info) = details.error_info().cloned() {
        let metadata = values.into_iter().map(|(key, value)| (key.to_owned(), value));
        details.set_error_info(info.reason, info.domain, metadata.collect::<HashMap<_, _>>());
    }
}

/// Builds the error of an exceeded quota.
pub(super) fn quota(
    reason: &str,
    message: impl std::fmt::Display,
    subject: &str,
    max: impl std::fmt::Display,
) -> Status {
    status(Code::ResourceExhausted, reason, message, |details| {
        about(details, [("limit", max.to_string())]);
        details.add_quota_failure_violation(subject, format!("at most {max}"));
    })
}

pub(super) fn resource(kind: &'static str, name: impl Into<String>) -> impl FnOnce(&mut ErrorDetails) {
    let name = name.into();
    move |details| {
        let key = if kind == "job" { "job_id" } else { kind };
        about(details, [(key, name.clone())]);
        details.set_resource_info(kind, name, "", "");
    }
}
