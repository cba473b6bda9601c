//! Completion of a job that a client or a schedule describes with the defaults of its kind.

use std::sync::Arc;

use super::NewJob;
use crate::{
    job::{ClientInput, Extras, JobDraft},
    settings::KindDefaults,
};

/// Request id and trace context of a submission.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// The request id; empty if the submission has none.
    pub request_id: &'a str,
    /// The W3C trace context.
    pub traceparent: &'a str,
    /// The W3C trace state.
    pub tracestate: &'a str,
}

impl NewJob {
    /// Completes a draft for the queue and the kind that it names.
    #[must_use]
    pub fn complete(
        draft: JobDraft,
        queue: Arc<str>,
        kind: Arc<str>,
        defaults: &KindDefaults,
        origin: Origin<'_>,
    ) -> Self {
        let said = ClientInput {
            priority: draft.priority == Some(0),
            max_attempts: draft.max_attempts,
            attempt_timeout: draft.attempt_timeout.is_some(),
            retry: draft.retry,
            start: draft.start,
            expiry: draft.expiry,
        };
        let extras = Extras {
            labels: draft.labels,
            headers: draft.headers,
            payload: draft.payload_info,
            request_id: origin.request_id.to_owned(),
            traceparent: origin.traceparent.to_owned(),
            tracestate: origin.tracestate.to_owned(),
            said,
            closure: draft.closure,
        };
        NewJob {
            queue,
            kind,
            priority: draft.priority.unwrap_or_default(),
            max_attempts: draft.max_attempts.unwrap_or(defaults.max_attempts),
            retry: draft.retry.map_or(defaults.retry, |said| said.or(defaults.retry)),
            attempt_timeout: draft.attempt_timeout.unwrap_or(defaults.attempt_timeout),
            run_time: draft.start,
            expires: draft.expiry,
            extras: (!extras.is_empty()).then(|| Box::new(extras)),
            payload: draft.payload,
        }
    }
}
