//! JSON for what a client says of a job.

use serde_json::{Value, json};

use super::{Object, dependencies::said, keys::said_key};
use crate::cli::values::base64;
use jobmill::proto::v1::{
    JobSpec, Payload, RetryPolicy,
    job_spec::{Deadline, Expiry, Start},
};

/// Converts a job's spec, in the form that `submit --stream` reads.
pub(super) fn spec(spec: &JobSpec) -> Value {
    let object = Object::default()
        .put("queue", spec.queue.as_str())
        .put("kind", spec.kind.as_str())
        .maybe("payload", spec.payload.as_ref().map(payload))
        .maybe("labels", (!spec.labels.is_empty()).then(|| json!(spec.labels)))
        .maybe("headers", (!spec.headers.is_empty()).then(|| json!(spec.headers)))
        .maybe("priority", spec.priority)
        .maybe("maxAttempts", (spec.max_attempts != 0).then_some(spec.max_attempts))
        .maybe("retryPolicy", spec.retry_policy.as_deref().map(retry_policy))
        .duration("attemptTimeout", spec.attempt_timeout);
    let object = match spec.start {
        Some(Start::RunTime(time)) => object.time("runTime", Some(time)),
        Some(Start::Delay(delay)) => object.duration("delay", Some(delay)),
        None => object,
    };
    let object = match spec.expiry {
        Some(Expiry::ExpireTime(time)) => object.time("expireTime", Some(time)),
        Some(Expiry::ExpireAfter(time)) => object.duration("expireAfter", Some(time)),
        None => object,
    };
    let object = match spec.deadline {
        Some(Deadline::DeadlineTime(time)) => object.time("deadlineTime", Some(time)),
        Some(Deadline::DeadlineAfter(time)) => object.duration("deadlineAfter", Some(time)),
        None => object,
    };
    object
        .maybe("maxSnoozes", spec.max_snoozes)
        .maybe("maxProcessLosses", (spec.max_process_losses != 0).then_some(spec.max_process_losses))
        .maybe(
            "dependsOn",
            (!spec.depends_on.is_empty()).then(|| spec.depends_on.iter().map(said).collect::<Vec<_>>()),
        )
        .maybe("uniqueKey", spec.unique_key.as_deref().map(said_key))
        .maybe("weights", (!spec.weights.is_empty()).then(|| json!(spec.weights)))
        .done()
}

/// Converts a payload: as text where it is UTF-8, as base64 where it is not, and as its size alone where the bytes are
/// left out.
pub(super) fn payload(payload: &Payload) -> Value {
    let object = match (&payload.body, std::str::from_utf8(payload.bytes())) {
        (None, _) => Object::default(),
        (Some(_), Ok(text)) => Object::default().put("text", text),
        (Some(_), Err(_)) => Object::default().put("data", base64(payload.bytes())),
    };
    object
        .text("mediaType", &payload.media_type)
        .maybe("metadata", (!payload.metadata.is_empty()).then(|| json!(payload.metadata)))
        .put("sizeBytes", payload.size_bytes)
        .done()
}

pub(super) fn retry_policy(policy: &RetryPolicy) -> Value {
    Object::default()
        .duration("initialDelay", policy.initial_delay)
        .duration("maxDelay", policy.max_delay)
        .maybe("multiplier", policy.multiplier)
        .maybe("jitter", policy.jitter)
        .maybe(
            "delays",
            (!policy.delays.is_empty())
                .then(|| policy.delays.iter().map(ToString::to_string).collect::<Vec<_>>()),
        )
        .done()
}
