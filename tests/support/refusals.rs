//! What a refusal must be like, whatever it refuses.

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// A refusal's parts.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) reason: String,
    /// The fields that a BadRequest names.
    pub(crate) fields: Vec<String>,
    pub(crate) message: String,
    pub(crate) details: ErrorDetails,
}

/// Takes a refusal apart, and holds it to what all of them promise.
pub(crate) fn refusal(status: &Status) -> Refusal {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("{status:?} has no ErrorInfo"));
    assert_eq!(info.domain, "jobmill", "{status:?}");
    assert!(status.details().len() < 4096, "{} bytes: {status:?}", status.details().len());
    assert!(!status.message().chars().any(char::is_control), "{status:?}");
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    assert_eq!(status.code() == Code::InvalidArgument, !violations.is_empty(), "{status:?}");
    for violation in &violations {
        assert!(!violation.description.is_empty(), "{status:?}");
    }
    Refusal {
        code: status.code(),
        reason: info.reason.clone(),
        fields: violations.into_iter().map(|violation| violation.field).collect(),
        message: status.message().to_owned(),
        details,
    }
}

/// Whether an error promises that nothing was created.
pub(crate) fn is_definite(status: &Status) -> bool {
    let definite = [
        Code::InvalidArgument,
        Code::NotFound,
        Code::ResourceExhausted,
        Code::PermissionDenied,
        Code::Unauthenticated,
        Code::AlreadyExists,
        Code::FailedPrecondition,
    ];
    let info = status.get_details_error_info().filter(|info| info.domain == "jobmill");
    info.is_some_and(|info| info.reason == "STOPPING" || definite.contains(&status.code()))
}
