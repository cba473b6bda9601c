//! Every error of an RPC, in one place: its code, its stable reason and its details.
//!
//! Reasons are part of the API. Details are kept small, because a status of more than 16 KiB breaks the HTTP/2 stream.

mod dependencies;
mod keys;
mod limits;

use std::{collections::HashMap, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use self::{
    dependencies::{children_are_told, dependency_cycle, dependency_not_found, has_dependents},
    keys::{key_conflict, key_held},
};
pub(super) use self::{keys::key_not_found, limits::limit_not_found};
use super::{
    errors_of_schedules,
    sizes::UNFINISHED_MAX_BYTES,
    status::{DOMAIN, MESSAGE_MAX_BYTES, about, quota, resource, status},
};
use crate::{
    access::Denied,
    engine::{
        AdmissionError, ControlError, ControlRefusal, NotAdmitted, OfferError, OfferRefusal, QueueFull,
        Stopped,
    },
    job::{JobId, LeaseToken},
    proto::v1,
    settings::Role,
    store::{ErrorClass, StoreError},
    watch::WatchError,
};

/// Retry delay for a full queue.
const RETRY_FULL_AFTER: Duration = Duration::from_secs(1);
/// Retry delay for a full disk, which is rarely cleared sooner.
const RETRY_DISK_AFTER: Duration = Duration::from_secs(5);
/// Retry delay for a locked database: programs hold its lock for seconds, or by mistake.
const RETRY_LOCKED_AFTER: Duration = Duration::from_secs(1);
/// Byte limit of a request's reported faults; the rest are only counted.
const FAULTS_BYTES: usize = 2_048;

/// The faults of a request, field by field.
#[derive(Debug, Default)]
pub(super) struct Faults {
    found: Vec<FieldViolation>,
    bytes: usize,
    more: usize,
}

impl Faults {
    pub(super) fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        let fault = FieldViolation::new(field, description);
        let bytes = fault.field.len() + fault.description.len();
        // After one fault is left out, all later ones are, so that the reported ones are the first.
        if self.more == 0 && self.bytes + bytes <= FAULTS_BYTES {
            self.bytes += bytes;
            self.found.push(fault);
        } else {
            self.more += 1;
        }
    }

    /// Returns an error if there are faults.
    pub(super) fn check(self) -> Result<(), Status> {
        if self.found.is_empty() && self.more == 0 { Ok(()) } else { Err(self.into_status()) }
    }

    /// Builds the error that reports the faults.
    pub(super) fn into_status(self) -> Status {
        let told: Vec<_> =
            self.found.iter().map(|fault| format!("{}: {}", fault.field, fault.description)).collect();
        let told = told.join("; ");
        let more = if self.more > 0 { format!("; and {} more", self.more) } else { String::new() };
        let message = format!("{}{more}", crate::execute::cut(&told, MESSAGE_MAX_BYTES - more.len()));
        let mut details = ErrorDetails::with_bad_request(self.found);
        details.set_error_info("INVALID_REQUEST", DOMAIN, HashMap::new());
        Status::with_error_details(Code::InvalidArgument, message, details)
    }
}

/// Converts a status to the error of one item of many.
pub(super) fn item(status: &Status) -> v1::ItemError {
    let details = status.get_error_details();
    let (reason, metadata) = details
        .error_info()
        .map(|info| (info.reason.clone(), info.metadata.clone().into_iter().collect()))
        .unwrap_or_default();
    let violations = details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
    v1::ItemError {
        code: status.code() as i32,
        reason,
        message: status.message().to_owned(),
        metadata,
        field_violations: violations
            .iter()
            .map(|fault| v1::FieldViolation {
                field: fault.field.clone(),
                description: fault.description.clone(),
            })
            .collect(),
        retry_delay: details
            .retry_info()
            .and_then(|info| info.retry_delay)
            .and_then(|delay| delay.try_into().ok()),
    }
}

/// Returns the stable reason of a status, if it has one.
pub(super) fn reason(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason)
}

/// The lease is not, or no longer, the worker's.
pub(super) fn lease_lost(id: JobId, lease: LeaseToken) -> Status {
    let message = format!(
        "the lease {} of the job {id} is not, or no longer, held by this worker: stop the attempt, and drop what it \
         has to report",
        lease.as_i64()
    );
    status(Code::FailedPrecondition, "LEASE_LOST", message, |details| {
        about(details, [("job_id", id.to_string()), ("lease", lease.as_i64().to_string())]);
    })
}

/// A newer stream of the same worker process has taken over.
pub(super) fn worker_replaced(instance: &str) -> Status {
    let message =
        "a newer stream of this worker process has taken over: end the old stream before a new one is opened";
    status(Code::Aborted, "WORKER_REPLACED", message, |details| {
        about(details, [("instance", instance.to_owned())]);
    })
}

/// A newer process has taken over the worker's instance.
fn worker_superseded(refusal: &ControlRefusal, instance: &str) -> Status {
    status(Code::FailedPrecondition, "WORKER_SUPERSEDED", refusal, |details| {
        about(details, [("instance", instance.to_owned())]);
    })
}

/// The worker has sent nothing for too long.
pub(super) fn worker_silent(instance: &str, what: &str) -> Status {
    status(
        Code::DeadlineExceeded,
        "WORKER_SILENT",
        format!("the worker has sent no {what}: call again"),
        |details| {
            about(details, [("instance", instance.to_owned())]);
        },
    )
}

/// No worker matches.
pub(super) fn worker_not_found(instance: &str) -> Status {
    let message = "no worker matches: list the workers with WorkerService.ListWorkers";
    status(Code::NotFound, "WORKER_NOT_FOUND", message, |details| {
        about(details, [("instance", instance.to_owned())]);
    })
}

pub(super) fn namespace_not_found(name: &str) -> Status {
    let message = format!("no namespace is named `{name}`: leave it out, or use `default`");
    status(Code::NotFound, "NAMESPACE_NOT_FOUND", message, resource("namespace", name))
}

pub(super) fn job_not_found(id: &JobId) -> Status {
    let message = format!("no job has the id {id}: it never existed, or has been deleted");
    status(Code::NotFound, "JOB_NOT_FOUND", message, resource("job", id.to_string()))
}

pub(super) fn queue_not_found(name: &str) -> Status {
    let message = format!("no queue is named `{name}`: list the queues with QueueService.ListQueues");
    status(Code::NotFound, "QUEUE_NOT_FOUND", message, resource("queue", name))
}

fn queue_full(full: &QueueFull, too_many_waiters: bool) -> Status {
    let (reason, message) = if too_many_waiters {
        (
            "TOO_MANY_WAITERS",
            format!("{full}, and the limit of waiting submissions is reached: try again later"),
        )
    } else {
        ("QUEUE_FULL", format!("{full}: try again later, or raise the queue's limits"))
    };
    status(Code::ResourceExhausted, reason, message, |details| {
        let QueueFull { queue, jobs, max_jobs, bytes, max_bytes } = full;
        let number = |number: &u64| number.to_string();
        let values = [("jobs", jobs), ("max_jobs", max_jobs), ("bytes", bytes), ("max_bytes", max_bytes)];
        let [jobs, max_jobs, bytes, max_bytes] = values.map(|(key, value)| (key, number(value)));
        about(details, [("queue", queue.clone()), jobs, max_jobs, bytes, max_bytes]);
        details.set_retry_info(Some(RETRY_FULL_AFTER));
        let limit = format!("max_jobs {}, max_bytes {}", full.max_jobs, full.max_bytes);
        details.add_quota_failure_violation(format!("queue:{}", full.queue), limit);
    })
}

fn disk_full(refusal: impl std::fmt::Display) -> Status {
    status(Code::ResourceExhausted, "DISK_FULL", refusal, |details| {
        details.set_retry_info(Some(RETRY_DISK_AFTER));
        details.add_quota_failure_violation("disk", "no space is left where the server keeps its jobs");
    })
}

fn store_locked(refusal: impl std::fmt::Display) -> Status {
    status(Code::Unavailable, "STORE_LOCKED", refusal, |details| {
        details.set_retry_info(Some(RETRY_LOCKED_AFTER));
    })
}

/// Incomplete request messages take too much memory.
pub(super) fn too_much_unfinished() -> Status {
    let max = UNFINISHED_MAX_BYTES;
    let message = format!(
        "incomplete request messages take more than {} MiB of memory together: try again later",
        max >> 20
    );
    status(Code::ResourceExhausted, "TOO_MUCH_UNFINISHED", message, |details| {
        about(details, [("limit", max.to_string())]);
        details.set_retry_info(Some(RETRY_FULL_AFTER));
        details.add_quota_failure_violation("unfinished messages", format!("{max} bytes"));
    })
}

pub(super) fn credit_exceeded(items: usize, credit: usize) -> Status {
    let message = format!(
        "a message has {items} items, and the client has {credit} credits left: send no more items than the server's \
         responses grant"
    );
    status(Code::FailedPrecondition, "CREDIT_EXCEEDED", &message, |details| {
        details.add_precondition_failure_violation("CREDIT", "items", message.clone());
    })
}

impl From<NotAdmitted> for Status {
    fn from(refused: NotAdmitted) -> Self {
        let is_over = matches!(*refused.error, AdmissionError::OverBound { .. });
        let code = if is_over { Code::InvalidArgument } else { Code::NotFound };
        status(code, refused.error.reason(), &refused, |details| match &*refused.error {
            AdmissionError::QueueNotFound(queue) => resource("queue", queue)(details),
            AdmissionError::UnknownKind { kind, queue, .. } => {
                about(details, [("kind", kind.clone()), ("queue", queue.clone())]);
                details.set_resource_info("kind", kind, "", "");
            }
            AdmissionError::OverBound { kind, field, bound, .. } => {
                let values = [("kind", kind.as_str()), ("field", field), ("bound", bound)];
                about(details, values.map(|(key, value)| (key, value.to_owned())));
                let path = match refused.index {
                    Some(index) => format!("jobs[{index}].{field}"),
                    None => format!("job.{field}"),
                };
                details.add_bad_request_violation(path, refused.error.to_string());
            }
        })
    }
}

impl From<OfferRefusal> for Status {
    fn from(refusal: OfferRefusal) -> Self {
        let reason = refusal.reason();
        match &refusal {
            OfferRefusal::RequestMismatch => status(Code::AlreadyExists, reason, &refusal, |_| {}),
            OfferRefusal::NotAdmitted(refused) => refused.clone().into(),
            OfferRefusal::LargerThanQueue { queue, max_jobs, max_bytes, .. } => {
                status(Code::FailedPrecondition, reason, &refusal, |details| {
                    let values = [("max_jobs", max_jobs), ("max_bytes", max_bytes)];
                    let [max_jobs_value, max_bytes_value] =
                        values.map(|(key, value)| (key, value.to_string()));
                    about(details, [("queue", queue.clone()), max_jobs_value, max_bytes_value]);
                    let limit = format!("max_jobs {max_jobs}, max_bytes {max_bytes}");
                    details.add_quota_failure_violation(format!("queue:{queue}"), limit);
                })
            }
            OfferRefusal::DiskFull => disk_full(&refusal),
            OfferRefusal::Locked => store_locked(&refusal),
            OfferRefusal::TooManyKinds(max) => quota(reason, &refusal, "kinds", max),
            OfferRefusal::WeightOfUnknownLimit { limit, .. } => {
                limits::weight_of_unknown_limit(&refusal, limit)
            }
            OfferRefusal::TooHeavy { limit, value, index, .. } => {
                limits::too_heavy(&refusal, (limit, value), *index)
            }
            OfferRefusal::KeyHeld { key, holder, state, .. }
            | OfferRefusal::KeyHeldBesideDependencies { key, holder, state, .. } => {
                key_held(&refusal, key, *holder, *state)
            }
            OfferRefusal::KeyConflict { key, holder, field, .. } => {
                key_conflict(&refusal, key, *holder, field)
            }
            OfferRefusal::DependencyNotFound { index, place, on } => {
                dependency_not_found(&refusal, *index, *place, *on)
            }
            OfferRefusal::DependencyCycle(path) => dependency_cycle(&refusal, path),
        }
    }
}

impl From<ControlRefusal> for Status {
    fn from(refusal: ControlRefusal) -> Self {
        let precondition = |reason: &str, kind: &str, subject: &str| {
            status(Code::FailedPrecondition, reason, &refusal, |details| {
                if let ControlRefusal::WrongState { id, state, .. } = &refusal {
                    about(details, [("job_id", id.to_string()), ("state", state.as_str().to_owned())]);
                } else if let ControlRefusal::RevisionMismatch { id, expected, revision } = &refusal {
                    let revisions = [("expected_revision", expected), ("revision", revision)];
                    let [expected, revision] = revisions.map(|(key, value)| (key, value.to_string()));
                    about(details, [("job_id", id.to_string()), expected, revision]);
                } else if let ControlRefusal::DeadlinePassed { id, deadline } = &refusal {
                    about(details, [("job_id", id.to_string()), ("deadline", deadline.to_string())]);
                } else if let ControlRefusal::EtagMismatch { queue, etag } = &refusal {
                    about(details, [("queue", queue.clone()), ("etag", etag.clone())]);
                } else {
                    about(details, [("queue", subject.to_owned())]);
                }
                details.add_precondition_failure_violation(kind, subject, refusal.to_string());
            })
        };
        match &refusal {
            ControlRefusal::NotAdmitted(refused) => refused.clone().into(),
            ControlRefusal::NeverFits(refused) => refused.clone().into(),
            ControlRefusal::JobNotFound(id) => job_not_found(id),
            ControlRefusal::QueueNotFound(name) => queue_not_found(name),
            ControlRefusal::QueueExists(name) => {
                status(Code::AlreadyExists, "QUEUE_EXISTS", &refusal, resource("queue", name))
            }
            ControlRefusal::QueueDeclared(name) => precondition("QUEUE_DECLARED", "DECLARED", name),
            ControlRefusal::QueueNotEmpty { queue, .. } => {
                precondition("QUEUE_NOT_EMPTY", "NOT_EMPTY", queue)
            }
            ControlRefusal::WrongState { id, state, .. } => {
                precondition("WRONG_STATE", state.as_str(), &id.to_string())
            }
            ControlRefusal::KeyHeld { key, holder, state, .. } => {
                key_held(&refusal, key, Some(*holder), *state)
            }
            ControlRefusal::KeyNotFound(key) => key_not_found(key),
            ControlRefusal::RevisionMismatch { id, .. } => {
                precondition("REVISION_MISMATCH", "REVISION", &id.to_string())
            }
            ControlRefusal::HasDependents { id, child } => has_dependents(&refusal, *id, *child),
            ControlRefusal::ChildrenAreTold(id) => children_are_told(&refusal, *id),
            ControlRefusal::DeadlinePassed { id, .. } => {
                precondition("DEADLINE_PASSED", "DEADLINE", &id.to_string())
            }
            ControlRefusal::EtagMismatch { queue, .. } => precondition("ETAG_MISMATCH", "ETAG", queue),
            ControlRefusal::TooManyQueues(max) => quota("TOO_MANY_QUEUES", &refusal, "queues", max),
            ControlRefusal::TooManyConsumers { max, .. } => {
                quota("TOO_MANY_CONSUMERS", &refusal, "consumers", max)
            }
            ControlRefusal::TooManyRetentionTimes(max) => {
                quota("TOO_MANY_RETENTION_TIMES", &refusal, "different times of retention", max)
            }
            ControlRefusal::RequestMismatch => {
                status(Code::AlreadyExists, "REQUEST_ID_REUSED", &refusal, |_| {})
            }
            ControlRefusal::DiskFull => disk_full(&refusal),
            ControlRefusal::Locked => store_locked(&refusal),
            ControlRefusal::QueueFull(full) => queue_full(full, false),
            ControlRefusal::TooManyKinds(max) => quota("TOO_MANY_KINDS", &refusal, "kinds", max),
            ControlRefusal::TooManyWorkers(max) => quota("TOO_MANY_WORKERS", &refusal, "workers", max),
            ControlRefusal::Schedule(refusal) => errors_of_schedules::of(refusal),
            ControlRefusal::Limit(refusal) => limits::of(refusal),
            ControlRefusal::WorkerSuperseded(instance) => worker_superseded(&refusal, instance),
        }
    }
}

impl From<OfferError> for Status {
    fn from(error: OfferError) -> Self {
        match error {
            OfferError::Full { full, too_many_waiters } => queue_full(&full, too_many_waiters),
            OfferError::Refused(refusal) => refusal.into(),
            OfferError::Stopped(stopped) => stopped.into(),
        }
    }
}

impl From<ControlError> for Status {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Refused(refusal) => refusal.into(),
            ControlError::Stopped(stopped) => stopped.into(),
        }
    }
}

impl From<Stopped> for Status {
    fn from(stopped: Stopped) -> Self {
        status(Code::Unavailable, stopped.reason(), stopped, |_| {})
    }
}

impl From<StoreError> for Status {
    fn from(error: StoreError) -> Self {
        if let StoreError::Unreadable { id, .. } = &error {
            let message = format!(
                "the row of job {id} can't be read, and has been set aside: the server's operator finds it with \
                 `jobmill doctor`"
            );
            return status(Code::DataLoss, "JOB_UNREADABLE", message, resource("job", id.to_string()));
        }
        if error.class() == ErrorClass::Retryable {
            return store_locked("the store can't be read just now: try again");
        }
        // The error may name files, so it goes to the log, and callers get only the fact.
        tracing::error!(error = &error as &dyn std::error::Error, "the store failed");
        status(Code::Internal, "STORE_FAILED", "the store failed: the server's log has the reason", |_| {})
    }
}

impl From<WatchError> for Status {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::Closing => status(Code::Unavailable, "STOPPING", error, |_| {}),
            WatchError::TooOld => resume_token_too_old(error),
            WatchError::Store(error) => error.into(),
        }
    }
}

/// The caller is not authenticated.
pub(super) fn unauthenticated(denied: Denied) -> Status {
    let reason = match denied {
        Denied::Missing => "TOKEN_MISSING",
        Denied::Several | Denied::Unknown => "TOKEN_INVALID",
        Denied::Expired => "TOKEN_EXPIRED",
        Denied::Changed => "TOKEN_CHANGED",
    };
    status(Code::Unauthenticated, reason, denied, |_| {})
}

/// The caller does not have a role on any queue.
pub(super) fn role_missing(subject: &str, role: Role) -> Status {
    denied(subject, role, ":", "*")
}

/// The caller lacks a role on a queue, or on some of all queues.
pub(super) fn permission_denied(subject: &str, role: Role, queue: Option<&str>) -> Status {
    match queue {
        Some(queue) => denied(subject, role, &format!(" on the queue `{queue}`:"), queue),
        None => denied(subject, role, " on all queues, and the call names none: name one, or", "*"),
    }
}

fn denied(subject: &str, role: Role, on: &str, queue: &str) -> Status {
    let subject = crate::admission::rules::shown(subject);
    let message = format!("{subject} lacks the role `{role}`{on} ask the server's operator for it");
    status(Code::PermissionDenied, "ROLE_MISSING", message, |details| {
        let metadata = [("role", role.as_str()), ("queue", queue)];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned()));
        details.set_error_info("ROLE_MISSING", DOMAIN, HashMap::from(metadata));
    })
}

pub(super) fn host_not_allowed(host: &str) -> Status {
    let host = crate::admission::rules::shown(host);
    let message = format!(
        "the server was called by the name {host}: call it by `localhost`, or add the name to `hosts`"
    );
    status(Code::PermissionDenied, "HOST_NOT_ALLOWED", message, |_| {})
}

pub(super) fn origin_not_allowed(origin: &str) -> Status {
    let origin = crate::admission::rules::shown(origin);
    let message = format!("pages from {origin} may not call: add the origin to `grpc_web.origins`");
    status(Code::PermissionDenied, "ORIGIN_NOT_ALLOWED", message, |_| {})
}

pub(super) fn web_is_off() -> Status {
    let message = "gRPC-Web is off: name the pages that may call in `grpc_web.origins`";
    status(Code::Unimplemented, "GRPC_WEB_OFF", message, |_| {})
}

/// The call requires a feature that this server does not have.
pub(super) fn feature_unknown(name: &str) -> Status {
    let shown = crate::admission::rules::shown(name);
    let message = format!(
        "the call requires the feature {shown}, which this server does not know: GetServerInfo lists its features"
    );
    status(Code::Unimplemented, "FEATURE_UNKNOWN", message, |details| {
        about(details, [("feature", name.to_owned())]);
    })
}

/// The standard status of gRPC libraries for an unknown method, without a reason of Jobmill's own.
pub(super) fn no_such_rpc() -> Status {
    Status::unimplemented("there is no such RPC")
}

pub(super) fn resume_token_too_old(message: impl std::fmt::Display) -> Status {
    status(Code::OutOfRange, "RESUME_TOKEN_TOO_OLD", message, |_| {})
}
