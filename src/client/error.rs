//! Errors of calls.

use std::{collections::BTreeMap, error::Error, fmt, io, time::Duration};

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::proto::v1::ErrorReason;

/// The domain of the errors that Jobmill itself returns.
const DOMAIN: &str = "jobmill";
/// Prefix of the reasons' names in the protocol's enum. Error details carry the names without it.
const REASON_PREFIX: &str = "ERROR_REASON_";

/// An error of a call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server's address can't be used. Nothing was sent.
    #[error("`{endpoint}` is no server address: {reason}")]
    InvalidEndpoint {
        /// The address as it was given.
        endpoint: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A name given to [`super::ClientBuilder::require`] can't be the name of a feature. Nothing was sent.
    #[error("`{}` can't be the name of a feature", name.escape_debug())]
    InvalidFeature {
        /// The name as it was given.
        name: String,
    },
    /// The connection could not be made, or broke before the answer.
    #[error("no Jobmill server answers at {endpoint} ({cause})")]
    Unreachable {
        /// The server's address.
        endpoint: String,
        /// The cause.
        cause: String,
    },
    /// The server's certificate is not trusted: it has expired, is for another name, or comes from an unknown
    /// authority. Nothing was sent.
    #[error("the certificate of {endpoint} is not accepted ({cause})")]
    Untrusted {
        /// The server's address.
        endpoint: String,
        /// What is wrong with the certificate.
        cause: String,
    },
    /// The server at this address does not speak Jobmill's protocol.
    #[error("what answers at {endpoint} is not a Jobmill server ({cause})")]
    NotJobmill {
        /// The server's address.
        endpoint: String,
        /// The unexpected answer or protocol error.
        cause: String,
    },
    /// The server refused the call and gave a reason.
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// No answer came in time.
    #[error("no answer from {endpoint} within {}", humantime::format_duration(*after))]
    Timeout {
        /// The server's address.
        endpoint: String,
        /// The time that the caller waited.
        after: Duration,
    },
    /// The call failed without an explanation by the server: a proxy's error, a crash, an answer that violates the
    /// protocol.
    #[error("the call to {endpoint} failed: {message} ({code:?})")]
    Failed {
        /// The server's address.
        endpoint: String,
        /// The gRPC status code.
        code: Code,
        /// The status message.
        message: String,
    },
}

/// A refusal by the server, with its details.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Refusal {
    /// The gRPC status code.
    pub code: Code,
    /// The stable reason, such as `QUEUE_FULL`, as the server sent it: see [`Refusal::reason`].
    pub reason: String,
    /// The server's message, for people.
    pub message: String,
    /// Names and values that go with the reason, such as `queue` and `max_jobs`; [`ErrorReason`] documents them.
    pub metadata: BTreeMap<String, String>,
    /// The faults of single fields of the request.
    pub fields: Vec<FieldFault>,
    /// The delay after which a retry may succeed.
    pub retry_after: Option<Duration>,
}

/// A fault in one field of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct FieldFault {
    /// The field's path, such as `job.priority`.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl FieldFault {
    /// Creates a fault of a field.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        FieldFault { field: field.into(), description: description.into() }
    }
}

impl Refusal {
    /// Creates a refusal without further details, for tests of error handling.
    pub fn new(code: Code, reason: ErrorReason, message: impl Into<String>) -> Self {
        Refusal {
            code,
            reason: reason.as_str_name().trim_start_matches(REASON_PREFIX).to_owned(),
            message: message.into(),
            metadata: BTreeMap::new(),
            fields: Vec::new(),
            retry_after: None,
        }
    }

    /// Returns the reason, to be matched on, or [`ErrorReason::Unspecified`] for one that this version of the client
    /// does not know. In that case, act on the code.
    #[must_use]
    pub fn reason(&self) -> ErrorReason {
        ErrorReason::from_str_name(&format!("{REASON_PREFIX}{}", self.reason)).unwrap_or_default()
    }

    /// Returns whether it is certain that the call changed nothing.
    #[must_use]
    pub fn is_definite(&self) -> bool {
        self.reason() == ErrorReason::Stopping
            || matches!(
                self.code,
                Code::InvalidArgument
                    | Code::NotFound
                    | Code::AlreadyExists
                    | Code::FailedPrecondition
                    | Code::ResourceExhausted
                    | Code::PermissionDenied
                    | Code::Unauthenticated
                    | Code::Unimplemented
            )
    }
}

impl ClientError {
    /// Returns the refusal, if the server refused the call.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            ClientError::Refused(refusal) => Some(refusal),
            ClientError::InvalidEndpoint { .. }
            | ClientError::InvalidFeature { .. }
            | ClientError::Unreachable { .. }
            | ClientError::Untrusted { .. }
            | ClientError::NotJobmill { .. }
            | ClientError::Timeout { .. }
            | ClientError::Failed { .. } => None,
        }
    }

    /// Returns the refusal's reason, to be matched on, or [`ErrorReason::Unspecified`] if the server did not refuse the
    /// call, or for a reason that this version of the client does not know.
    #[must_use]
    pub fn reason(&self) -> ErrorReason {
        self.refusal().map(Refusal::reason).unwrap_or_default()
    }

    /// Returns whether the call may have taken effect despite the error.
    #[must_use]
    pub fn is_unknown_outcome(&self) -> bool {
        match self {
            ClientError::InvalidEndpoint { .. }
            | ClientError::InvalidFeature { .. }
            | ClientError::Untrusted { .. }
            | ClientError::NotJobmill { .. } => false,
            ClientError::Refused(refusal) => !refusal.is_definite(),
            ClientError::Unreachable { .. } | ClientError::Timeout { .. } | ClientError::Failed { .. } => {
                true
            }
        }
    }

    /// Returns whether a retry could help: the outcome is unknown, or the server is stopping and the next one may take
    /// the call. Codes that a proxy returns permanently (no permission, unknown method, too large) are excluded,
    /// because a retry would end the same way.
    pub(super) fn is_retryable(&self) -> bool {
        let code = match self {
            ClientError::InvalidEndpoint { .. }
            | ClientError::InvalidFeature { .. }
            | ClientError::Untrusted { .. }
            | ClientError::NotJobmill { .. } => return false,
            ClientError::Unreachable { .. } | ClientError::Timeout { .. } => return true,
            ClientError::Refused(refusal) => refusal.code,
            ClientError::Failed { code, .. } => *code,
        };
        matches!(
            code,
            Code::Unavailable
                | Code::Cancelled
                | Code::Internal
                | Code::Unknown
                | Code::Aborted
                | Code::DeadlineExceeded
        )
    }

    pub(crate) fn not_connected(endpoint: String, cause: String) -> ClientError {
        // The prefix of rustls' messages about a peer's certificate.
        match cause.strip_prefix("invalid peer certificate: ") {
            Some(cause) => ClientError::Untrusted { endpoint, cause: cause.to_owned() },
            None => ClientError::Unreachable { endpoint, cause },
        }
    }

    pub(super) fn from_status(endpoint: &str, call_timeout: Duration, status: &Status) -> ClientError {
        let endpoint = endpoint.to_owned();
        if let Some(refusal) = refusal(status) {
            return ClientError::Refused(Box::new(refusal));
        }
        if let Some(error) = status.source() {
            return match transport_fault(status, error) {
                Fault::Connection(cause) => ClientError::not_connected(endpoint, cause),
                Fault::Protocol(cause) => ClientError::NotJobmill { endpoint, cause },
                Fault::Timeout => ClientError::Timeout { endpoint, after: call_timeout },
                Fault::Other(message) => ClientError::Failed { endpoint, code: status.code(), message },
            };
        }
        if status.code() == Code::DeadlineExceeded {
            return ClientError::Timeout { endpoint, after: call_timeout };
        }
        if is_foreign(status) {
            return ClientError::NotJobmill { endpoint, cause: status.message().to_owned() };
        }
        ClientError::Failed { endpoint, code: status.code(), message: status.message().to_owned() }
    }
}

/// Returns Jobmill's own refusal, if the status is one.
fn refusal(status: &Status) -> Option<Refusal> {
    let details = status.get_error_details();
    let info = details.error_info().filter(|info| info.domain == DOMAIN)?;
    let fields = details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
    Some(Refusal {
        code: status.code(),
        reason: info.reason.clone(),
        message: status.message().to_owned(),
        metadata: info.metadata.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        fields: fields.iter().map(|fault| FieldFault::new(&fault.field, &fault.description)).collect(),
        retry_after: details.retry_info().and_then(|info| info.retry_delay),
    })
}

/// Returns whether this status stands for an answer that is not gRPC, or for a gRPC server without Jobmill's services.
fn is_foreign(status: &Status) -> bool {
    match status.code() {
        Code::Unimplemented => true,
        // Proxies answer with this code while the server behind them is away.
        Code::Unavailable => false,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => status.message().starts_with("grpc-status header missing"),
    }
}

enum Fault {
    Connection(String),
    Protocol(String),
    Timeout,
    Other(String),
}

/// Classifies the transport error of a call without an answer.
fn transport_fault(status: &Status, error: &(dyn Error + 'static)) -> Fault {
    let mut next = Some(error);
    let mut words = String::new();
    while let Some(error) = next {
        if error.is::<tonic::TimeoutExpired>() {
            return Fault::Timeout;
        }
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Fault::Connection(io_cause(error));
        }
        words = error.to_string();
        next = error.source();
    }
    // A server that speaks HTTP/1, or no HTTP, sends bytes that are not HTTP/2 frames.
    if ["frame with invalid size", "invalid preface", "http2 error: protocol", "unspecific protocol error"]
        .iter()
        .any(|sign| words.contains(sign))
    {
        return Fault::Protocol(words);
    }
    if status.code() == Code::Unavailable || status.code() == Code::Cancelled {
        return Fault::Connection(words);
    }
    Fault::Other(words)
}

/// Returns the innermost cause of an error, in words for people.
pub(crate) fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return io_cause(error);
        }
        innermost = error;
        next = error.source();
    }
    innermost.to_string()
}

#[expect(clippy::wildcard_enum_match_arm, reason = "all other kinds speak for themselves")]
fn io_cause(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => "the connection broke".to_owned(),
        io::ErrorKind::TimedOut => "timed out".to_owned(),
        _ => error.to_string(),
    }
}
