//! The checks that every refusal must pass.

use std::{collections::HashMap, sync::LazyLock};

use jobmill::proto::v1;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The protocol's documentation of each reason: its code, and its metadata keys in order.
static DOCUMENTED: LazyLock<HashMap<&str, (&str, Vec<&str>)>> = LazyLock::new(|| {
    let text = include_str!("../../proto/jobmill/v1/common.proto");
    let (_, entries) = text.split_once("enum ErrorReason {").expect("the reasons");
    let mut comment = "";
    let mut documented = HashMap::new();
    for line in entries.lines().map(str::trim) {
        match (line.strip_prefix("// "), line.strip_prefix("ERROR_REASON_")) {
            // The code is on the first line of a comment.
            (Some(first), _) if comment.is_empty() => comment = first,
            (_, Some(entry)) => {
                let reason = entry.split(' ').next().unwrap_or_default();
                let (head, _) = comment.split_once(':').expect("a code");
                let (code, keys) = head.split_once(" [").unwrap_or((head, "]"));
                let keys = keys.trim_end_matches(']').split(", ").filter(|key| !key.is_empty());
                documented.insert(reason, (code, keys.collect()));
                comment = "";
            }
            _ => {}
        }
    }
    documented
});

/// The parts of a refusal.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) reason: String,
    /// The fields that its BadRequest names.
    pub(crate) fields: Vec<String>,
    pub(crate) message: String,
    /// The metadata of its ErrorInfo.
    pub(crate) metadata: HashMap<String, String>,
    pub(crate) details: ErrorDetails,
}

/// Asserts that an error has the code and the metadata keys that the protocol documents for its reason.
fn assert_documented(
    code: Code,
    reason: &str,
    metadata: &HashMap<String, String>,
    error: &dyn std::fmt::Debug,
) {
    let name = format!("ERROR_REASON_{reason}");
    assert!(v1::ErrorReason::from_str_name(&name).is_some(), "no reason of the protocol: {error:?}");
    let (expected, keys) = &DOCUMENTED[reason];
    assert_eq!(format!("{code:?}").to_uppercase(), expected.replace('_', ""), "{error:?}");
    let mut keys = keys.clone();
    keys.sort_unstable();
    let mut told: Vec<_> = metadata.keys().map(String::as_str).collect();
    told.sort_unstable();
    // A key such as `queue|schedule` stands for one of its parts.
    for key in &mut keys {
        *key = key.split('|').find(|part| told.contains(part)).unwrap_or(key);
    }
    keys.sort_unstable();
    assert_eq!(told, keys, "{error:?}");
}

/// Parses the error of one of several items, and checks it as every refusal.
pub(crate) fn refused_item(error: &v1::ItemError) -> (Code, &str) {
    let code = Code::from_i32(error.code);
    let metadata = error.metadata.clone().into_iter().collect();
    assert_documented(code, &error.reason, &metadata, error);
    assert!(!error.message.is_empty() && !error.message.chars().any(char::is_control), "{error:?}");
    assert_eq!(code == Code::InvalidArgument, !error.field_violations.is_empty(), "{error:?}");
    (code, &error.reason)
}

/// Parses a refusal, and checks what every refusal must have.
pub(crate) fn refusal(status: &Status) -> Refusal {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("{status:?} has no ErrorInfo"));
    assert_eq!(info.domain, "jobmill", "{status:?}");
    assert_documented(status.code(), &info.reason, &info.metadata, status);
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
        metadata: info.metadata.clone(),
        details,
    }
}

/// Returns whether an error promises that nothing was created.
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
