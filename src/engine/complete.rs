//! Completion of a job that a client or a schedule describes with the defaults of its kind.

use std::{sync::Arc, time::Duration};

use super::{AdmissionError, NewJob};
use crate::{
    job::{ClientInput, Extras, JobDraft, Spec, When},
    settings::{JobBounds, KindDefaults, QueueSettings},
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

/// Returns a value that has to be kept with the job, because it is not what the job has without it.
fn unusual(value: u32, usual: u32) -> Option<u32> {
    (value != usual).then_some(value)
}

impl AdmissionError {
    /// Returns why a draft can't be admitted, apart from room. `queue` has the settings of its queue, if that exists,
    /// `defaults` those of its kind, if the configuration knows it; `is_served` tells whether workers run the kind, and
    /// `known` which kinds there are.
    pub(crate) fn of_draft(
        draft: &JobDraft,
        queue: Option<&QueueSettings>,
        defaults: Option<&KindDefaults>,
        is_served: impl FnOnce() -> bool,
        known: impl FnOnce() -> String,
    ) -> Option<Self> {
        match queue {
            None => Some(AdmissionError::QueueNotFound(draft.queue.clone())),
            Some(queue) if defaults.is_none() && !queue.accept_unknown_kinds && !is_served() => {
                let (kind, queue) = (draft.kind.clone(), draft.queue.clone());
                Some(AdmissionError::UnknownKind { kind, queue, known: known() })
            }
            Some(_) => Self::over_bound(defaults?, draft),
        }
    }

    /// Returns the first field in which a draft asks for more than its kind allows.
    fn over_bound(defaults: &KindDefaults, draft: &JobDraft) -> Option<Self> {
        let JobBounds { max_attempts, attempt_timeout, max_delay, max_snoozes, max_process_losses } = defaults.bounds;
        let count = |field, value: Option<u32>, bound: Option<u32>| {
            let (value, bound) = (value?, bound?);
            (value > bound).then(|| (field, value.to_string(), bound.to_string()))
        };
        let time = |field, value: Option<Duration>, bound: Option<Duration>| {
            let (value, bound) = (value?, bound?);
            let shown = |time| humantime::format_duration(time).to_string();
            (value > bound).then(|| (field, shown(value), shown(bound)))
        };
        let longest = || draft.retry.clone().map(|said| said.or(&defaults.retry).longest_delay());
        let (field, value, bound) = count("max_attempts", draft.max_attempts, max_attempts)
            .or_else(|| time("attempt_timeout", draft.attempt_timeout, attempt_timeout))
            .or_else(|| time("retry_policy", max_delay.and_then(|_| longest()), max_delay))
            .or_else(|| count("max_snoozes", draft.max_snoozes, max_snoozes))
            .or_else(|| count("max_process_losses", draft.max_process_losses, max_process_losses))?;
        Some(AdmissionError::OverBound { kind: draft.kind.clone(), field, bound, value })
    }
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
            retry: draft.retry.clone(),
            start: draft.start,
            expiry: draft.expiry,
            deadline: draft.deadline,
            max_snoozes: draft.max_snoozes,
            max_process_losses: draft.max_process_losses,
        };
        let extras = Extras {
            labels: draft.labels,
            headers: draft.headers,
            payload: draft.payload_info,
            request_id: origin.request_id.to_owned(),
            traceparent: origin.traceparent.to_owned(),
            tracestate: origin.tracestate.to_owned(),
            said,
            // The instant is known only once the job is accepted.
            deadline: None,
            max_snoozes: unusual(draft.max_snoozes.unwrap_or(defaults.max_snoozes), Spec::DEFAULT_MAX_SNOOZES),
            max_process_losses: unusual(
                draft.max_process_losses.unwrap_or(defaults.max_process_losses),
                Spec::DEFAULT_MAX_PROCESS_LOSSES,
            ),
            // By the caller's thread: the committer's has enough to do.
            key_hash: draft.unique.as_ref().map(|unique| unique.hash(&queue, &kind)).into(),
            unique: draft.unique,
            weights: draft.weights,
            // Counted once the job is accepted, as its bytes are.
            dependencies: 0,
            closure: draft.closure,
            schedule: None,
        };
        NewJob {
            queue,
            kind,
            priority: draft.priority.unwrap_or_default(),
            max_attempts: draft.max_attempts.unwrap_or(defaults.max_attempts),
            retry: draft.retry.map_or_else(|| defaults.retry.clone(), |said| said.or(&defaults.retry)),
            attempt_timeout: draft.attempt_timeout.unwrap_or(defaults.attempt_timeout),
            run_time: draft.start,
            expires: draft.expiry,
            deadline: draft.deadline.or(defaults.deadline.map(When::After)),
            extras: (!extras.is_empty()).then(|| Box::new(extras)),
            depends_on: draft.depends_on,
            payload: draft.payload,
        }
    }
}
