//! Errors about limits.

use std::fmt::Display;

use tonic::{Code, Status};

use crate::{
    api::status::{about, quota, resource, status},
    engine::LimitRefusal,
};

/// Returns the status of a refusal that concerns limits.
pub(super) fn of(refusal: &LimitRefusal) -> Status {
    let precondition = |reason: &str, kind: &str, name: &str, etag: Option<&String>| {
        status(Code::FailedPrecondition, reason, refusal, |details| {
            match etag {
                Some(etag) => about(details, [("limit", name.to_owned()), ("etag", etag.clone())]),
                None => about(details, [("limit", name.to_owned())]),
            }
            details.add_precondition_failure_violation(kind, name, refusal.to_string());
        })
    };
    match refusal {
        LimitRefusal::NotFound(name) => limit_not_found(name),
        LimitRefusal::Exists(name) => {
            status(Code::AlreadyExists, "LIMIT_EXISTS", refusal, resource("limit", name))
        }
        LimitRefusal::Declared(name) => precondition("LIMIT_DECLARED", "DECLARED", name, None),
        LimitRefusal::EtagMismatch { limit, etag } => {
            precondition("ETAG_MISMATCH", "ETAG", limit, Some(etag))
        }
        LimitRefusal::OtherSort(name) => precondition("LIMIT_OF_OTHER_SORT", "SORT", name, None),
        LimitRefusal::OverrideNotFound { limit, value } => {
            status(Code::NotFound, "LIMIT_OVERRIDE_NOT_FOUND", refusal, |details| {
                about(details, [("limit", limit.clone()), ("value", value.clone())]);
                details.set_resource_info("override", value, "", "");
            })
        }
        LimitRefusal::TooMany(max) => quota("TOO_MANY_LIMITS", refusal, "limits", max),
        LimitRefusal::TooManyOverrides(max) => quota("TOO_MANY_LIMIT_OVERRIDES", refusal, "overrides", max),
    }
}

/// No limit has this name.
pub(in crate::api) fn limit_not_found(name: &str) -> Status {
    let message = LimitRefusal::NotFound(name.to_owned());
    status(Code::NotFound, "LIMIT_NOT_FOUND", message, resource("limit", name))
}

/// A job has a weight under a limit that does not exist. The message has the field.
pub(super) fn weight_of_unknown_limit(refusal: impl Display, limit: &str) -> Status {
    status(Code::NotFound, "LIMIT_NOT_FOUND", refusal, resource("limit", limit))
}

/// A job weighs more than a limit allows.
pub(super) fn too_heavy(refusal: impl Display, (limit, value): (&str, &str), index: Option<usize>) -> Status {
    let message = refusal.to_string();
    status(Code::InvalidArgument, "TOO_HEAVY", &message, |details| {
        about(details, [("limit", limit.to_owned()), ("value", value.to_owned())]);
        details.add_bad_request_violation(weight_field(limit, index), message.clone());
    })
}

fn weight_field(limit: &str, index: Option<usize>) -> String {
    let job = index.map_or_else(|| "job".to_owned(), |index| format!("jobs[{index}]"));
    format!("{job}.weights[{limit:?}]")
}
