//! The environment variables of a command.

use std::{collections::BTreeMap, env, ffi::OsString};

use super::{CHECKPOINT_ANSWER_FD, CHECKPOINT_FD, EARLIER_CHECKPOINT_FD, PROGRESS_FD};
use crate::{execute::Attempt, settings::CommandSettings};

/// Variable that holds the job's id.
pub(super) const JOB_ID_VARIABLE: &str = "JOBMILL_JOB_ID";
/// Variable that holds the attempt's lease token.
pub(super) const LEASE_VARIABLE: &str = "JOBMILL_LEASE";

/// Server variables that every command inherits, if they are set.
const INHERITED: [&str; 4] = ["PATH", "HOME", "LANG", "TZ"];

/// Returns the variables of every attempt of a kind: the allowed ones of the server, then the operator's own.
pub(super) fn of_kind(settings: &CommandSettings) -> BTreeMap<OsString, OsString> {
    let allowed = settings.env_allow.iter().map(String::as_str);
    let inherited =
        INHERITED.into_iter().chain(allowed).filter_map(|name| Some((name.into(), env::var_os(name)?)));
    let own = settings.env.iter().map(|(name, value)| (name.into(), value.into()));
    inherited.chain(own).collect()
}

/// Returns the variables of one attempt: its kind's variables, and those that describe the attempt.
pub(super) fn of_attempt(
    kind: &BTreeMap<OsString, OsString>,
    attempt: &Attempt,
) -> Vec<(OsString, OsString)> {
    let job = attempt.job();
    let payload = attempt.payload_info();
    // A variable's value can't hold a zero byte; JSON escapes it.
    let json = |entries: &BTreeMap<String, String>| serde_json::json!(entries).to_string();
    let jobmill = [
        (JOB_ID_VARIABLE, job.id.to_string()),
        ("JOBMILL_QUEUE", job.spec.queue.to_string()),
        ("JOBMILL_KIND", job.spec.kind.to_string()),
        ("JOBMILL_ATTEMPT", attempt.number().to_string()),
        ("JOBMILL_MAX_ATTEMPTS", job.max_attempts.to_string()),
        (LEASE_VARIABLE, attempt.lease().as_i64().to_string()),
        ("JOBMILL_PROGRESS_FD", PROGRESS_FD.to_string()),
        ("JOBMILL_CHECKPOINT_FD", CHECKPOINT_FD.to_string()),
        ("JOBMILL_CHECKPOINT_ANSWER_FD", CHECKPOINT_ANSWER_FD.to_string()),
        ("JOBMILL_DEADLINE", attempt.deadline().to_string()),
        ("JOBMILL_REQUEST_ID", attempt.request_id().to_owned()),
        ("JOBMILL_LABELS", json(attempt.labels())),
        ("JOBMILL_HEADERS", json(attempt.headers())),
        ("JOBMILL_PAYLOAD_TYPE", payload.media_type.clone()),
        ("JOBMILL_PAYLOAD_METADATA", json(&payload.metadata)),
    ];
    let mut variables = kind.clone();
    variables.extend(jobmill.map(|(name, value)| (name.into(), value.into())));
    if attempt.earlier_checkpoint().is_some() {
        let descriptor = EARLIER_CHECKPOINT_FD.to_string();
        variables.insert("JOBMILL_EARLIER_CHECKPOINT_FD".into(), descriptor.into());
    }
    if let Some(context) = attempt.traceparent() {
        variables.insert("TRACEPARENT".into(), context.into());
    }
    if let Some(state) = attempt.tracestate() {
        variables.insert("TRACESTATE".into(), state.into());
    }
    variables.into_iter().collect()
}
