//! State shared by all RPCs.

use std::{borrow::Cow, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, metadata::MetadataMap};

use super::{errors, outgoing::ResponseBudget};
use crate::{
    clock::{Clock, Uptime},
    counters::Counters,
    intake::Intake,
    shard::{Shard, answer_margin},
    watch::TokenIssuer,
    workers::Workers,
};

/// State shared by all RPCs.
#[derive(Clone)]
pub(crate) struct Core {
    pub(crate) intake: Intake,
    pub(crate) shard: Shard,
    pub(crate) issuer: Arc<TokenIssuer>,
    pub(crate) clock: Clock,
    pub(crate) counters: Arc<Counters>,
    pub(crate) workers: Workers,
    pub(crate) outgoing: ResponseBudget,
    /// Cancelled when the server shuts down: streams then end.
    pub(crate) draining: CancellationToken,
}

impl Core {
    /// Counts a rejected submission by the reason of its status.
    pub(super) fn rejected(&self, status: &Status) {
        self.counters.rejected(&errors::reason(status).unwrap_or_default());
    }

    /// Returns the call's deadline, less a margin for the response; `None` if the client set none.
    pub(super) fn deadline<T>(&self, request: &Request<T>) -> Option<Uptime> {
        let timeout = grpc_timeout(request.metadata())?;
        let margin = answer_margin(timeout);
        Some(self.clock.uptime().after(timeout.saturating_sub(margin)))
    }

    /// Returns the time until which a call about a queue waits while the store accepts no writes.
    pub(super) fn store_deadline(&self, queue: &str, deadline: Option<Uptime>) -> Uptime {
        self.shard.queues.store_deadline(queue, self.clock.uptime(), deadline)
    }
}

/// Parses the `grpc-timeout` header: up to eight digits and a unit.
fn grpc_timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Byte limit of a trace state.
pub(super) const TRACESTATE_MAX_BYTES: usize = 512;

/// Returns the W3C trace context of a call, `traceparent` and `tracestate`; empty if there is none. A trace state of
/// more than 512 bytes is dropped, as the W3C specification allows for values that can't be passed on.
pub(super) fn trace_context(metadata: &MetadataMap) -> (&str, Cow<'_, str>) {
    let texts = |key| metadata.get_all(key).into_iter().filter_map(|value| value.to_str().ok());
    let mut states = texts("tracestate");
    let state = states.next().unwrap_or_default();
    // Several `tracestate` headers form one list.
    let state = states.fold(Cow::from(state), |all, more| format!("{all},{more}").into());
    let state = if state.len() <= TRACESTATE_MAX_BYTES { state } else { Cow::default() };
    (texts("traceparent").next().unwrap_or_default(), state)
}
