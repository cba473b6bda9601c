//! SubmitStream: a stream of submissions, many of which may be in flight to the committer at once.
//!
//! All of it is one stream that the connection polls: it reads requests only within its limits, and when the client
//! disconnects it is dropped with its state, including submissions that wait for room. No task outlives it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use prost::Message;
use tokio_stream::Stream;
use tonic::{Request, Status, Streaming};

use super::{
    caller::Caller,
    convert,
    core::{Core, trace_context},
    errors,
    sizes::ENOUGH_BYTES,
    submit::answered,
    validate::Validator,
};
use crate::{
    clock::Uptime,
    engine::{self, OfferError, Stopped, Submitted},
    intake::{SubmissionOptions, SubmitMethod},
    job::AtLeastOne,
    proto::v1::{self, submit_result::Result as Outcome},
    shard::{self, PendingAnswer},
    traces::SubmissionSpan,
};

/// Limit of a stream's items without a result: as many as the committer's batch holds.
pub(super) const CREDITS: usize = 1_024;
/// Byte limit of the items without a result, above which no more are read.
const BYTES_MAX: usize = 16 << 20;

/// Returns the response stream of a call.
pub(super) fn start(
    core: Core,
    caller: Arc<Caller>,
    call: Request<Streaming<v1::SubmitStreamRequest>>,
) -> impl Stream<Item = Result<v1::SubmitStreamResponse, Status>> + Send + use<> {
    let deadline = core.deadline(&call);
    let (traceparent, tracestate) = trace_context(call.metadata());
    let trace = (traceparent.to_owned(), tracestate.into_owned());
    let waits_as = core.shard.caller();
    let requests = call.into_inner();
    let items = Items { core, caller, waits_as, trace, deadline, asked: VecDeque::new(), bytes: 0 };
    let stream = SubmitStream { requests, items, credits: 0, granted: CREDITS, phase: Phase::Open };
    futures_util::stream::unfold(stream, |mut stream| async {
        let response = stream.next().await?;
        Some((response, stream))
    })
}

struct SubmitStream {
    requests: Streaming<v1::SubmitStreamRequest>,
    items: Items,
    /// Items that the client may still send.
    credits: usize,
    /// Credits to grant with the next response.
    granted: usize,
    phase: Phase,
}

enum Phase {
    /// The stream reads requests.
    Open,
    /// No more is read; the stream ends with this after the last result.
    Ending(Result<(), Status>),
    /// The stream has ended.
    Over,
}

impl SubmitStream {
    async fn next(&mut self) -> Option<Result<v1::SubmitStreamResponse, Status>> {
        loop {
            let (results, unknown) = self.items.decided();
            if let Some(status) = unknown {
                self.phase = Phase::Ending(Err(status));
            }
            self.granted += results.len();
            if self.granted > 0 {
                let granted = std::mem::take(&mut self.granted);
                self.credits += granted;
                self.items.caller.written().await;
                return Some(Ok(v1::SubmitStreamResponse { results, credits: granted as i32 }));
            }
            if self.items.asked.is_empty() && !matches!(self.phase, Phase::Open) {
                self.items.caller.written().await;
                return match std::mem::replace(&mut self.phase, Phase::Over) {
                    Phase::Ending(Err(status)) => Some(Err(status)),
                    Phase::Ending(Ok(())) | Phase::Open | Phase::Over => None,
                };
            }
            self.advance().await;
        }
    }

    /// Waits until the first item has a result, or a request was read.
    async fn advance(&mut self) {
        let open = matches!(self.phase, Phase::Open);
        let reads = open && self.items.bytes <= BYTES_MAX;
        tokio::select! {
            biased;
            () = self.items.core.draining.cancelled(), if open => {
                self.phase = Phase::Ending(Err(Stopped::Refused.into()));
            }
            () = first_decided(&mut self.items.asked), if !self.items.asked.is_empty() => {}
            message = self.requests.message(), if reads => {
                if let Err(end) = self.take(message).await {
                    self.phase = Phase::Ending(end);
                }
            }
        }
    }

    /// Processes a message, or returns how the stream ends.
    async fn take(
        &mut self,
        message: Result<Option<v1::SubmitStreamRequest>, Status>,
    ) -> Result<(), Result<(), Status>> {
        let message = message.map_err(Err)?.ok_or(Ok(()))?;
        let count = message.items.len();
        let Some(credits) = self.credits.checked_sub(count) else {
            return Err(Err(errors::credit_exceeded(count, self.credits)));
        };
        self.credits = credits;
        self.items.caller.recheck().map_err(Err)?;
        for item in message.items {
            let of = (message.namespace.as_str(), message.when_full);
            self.items.ask(item, of).await.map_err(|stopped| Err(stopped.into()))?;
        }
        Ok(())
    }
}

/// Items that were accepted and have no result yet.
struct Items {
    core: Core,
    caller: Arc<Caller>,
    /// All items share one waiter identity, so that a stream takes one turn among the callers that wait for room.
    waits_as: engine::Caller,
    /// `traceparent` and `tracestate`.
    trace: (String, String),
    deadline: Option<Uptime>,
    /// In the client's order.
    asked: VecDeque<PendingItem>,
    /// Bytes of the items in `asked`.
    bytes: usize,
}

/// An item without a result.
struct PendingItem {
    bytes: usize,
    /// The item's queue, if the audit is on.
    queue: Option<Arc<str>>,
    state: ItemState,
    span: SubmissionSpan,
}

enum ItemState {
    /// The committer has the submission.
    Waiting(PendingAnswer),
    /// The committer has decided the submission.
    Answered(Result<Submitted, OfferError>),
    /// The submission was refused before it reached the committer.
    Refused(Status),
}

/// Waits until the first item is decided.
async fn first_decided(asked: &mut VecDeque<PendingItem>) {
    if let Some(first) = asked.front_mut()
        && let ItemState::Waiting(answer) = &mut first.state
    {
        first.state = ItemState::Answered(answer.decided().await);
    }
}

impl Items {
    /// Submits an item.
    async fn ask(&mut self, item: v1::SubmitItem, of: (&str, i32)) -> Result<(), Stopped> {
        let bytes = item.encoded_len();
        let queue =
            item.job.as_ref().filter(|_| self.caller.audit.is_on()).map(|job| job.queue.as_str().into());
        let mut span = SubmissionSpan::default();
        let checked = match self.check(item, of, &mut span) {
            Ok(submission) => {
                let parents = std::iter::once(&submission.jobs.first.depends_on[..]);
                self.core.check_parents(&self.caller, parents, false).await.map(|()| submission)
            }
            Err(status) => Err(status),
        };
        let state = match checked {
            Ok(submission) => ItemState::Waiting(self.core.shard.offer(&self.waits_as, submission).await?),
            Err(status) => ItemState::Refused(status),
        };
        self.bytes += bytes;
        self.asked.push_back(PendingItem { bytes, queue, state, span });
        Ok(())
    }

    /// Validates an item and builds its submission. A valid item gets a span.
    fn check(
        &self,
        mut item: v1::SubmitItem,
        (namespace, when_full): (&str, i32),
        span: &mut SubmissionSpan,
    ) -> Result<shard::Submission, Status> {
        let core = &self.core;
        let mut validator = Validator::new(core.clock.now(), namespace);
        let draft = validator.job_spec(&"job", item.job.as_mut(), None);
        validator.request_id(&item.request_id);
        let when_full = validator.when_full("when_full", when_full);
        validator.finish()?;
        self.caller.on_queue(&draft.queue)?;
        self.caller.on_unique(&draft)?;
        let options = SubmissionOptions {
            call: SubmitMethod::Submit,
            request_id: &item.request_id,
            traceparent: &self.trace.0,
            tracestate: &self.trace.1,
            when_full,
            deadline: self.deadline,
        };
        let drafts = AtLeastOne::one(draft);
        *span = core.intake.span(&drafts, &options);
        Ok(core.intake.submission(drafts, &options, span)?)
    }

    /// Returns the available results, as many as fit into a message. If there is an error, the stream must end after
    /// them: the outcome of the other items is unknown.
    fn decided(&mut self) -> (Vec<v1::SubmitResult>, Option<Status>) {
        let (mut results, mut bytes) = (Vec::new(), 0);
        let mut accepted = BTreeMap::<Arc<str>, Vec<String>>::new();
        let mut unknown = None;
        while bytes < ENOUGH_BYTES
            && let Some(mut first) = self.asked.pop_front()
        {
            let outcome = match first.state {
                ItemState::Waiting(mut answer) => match answer.take() {
                    Some(answer) => self.outcome(answer, &mut first.span),
                    None => {
                        first.state = ItemState::Waiting(answer);
                        self.asked.push_front(first);
                        break;
                    }
                },
                ItemState::Answered(answer) => self.outcome(answer, &mut first.span),
                ItemState::Refused(status) => Ok(refused(&self.core, &status, &mut first.span)),
            };
            self.bytes -= first.bytes;
            match outcome {
                Ok(outcome) => {
                    if let (Outcome::Submitted(job), Some(queue)) = (&outcome, first.queue) {
                        accepted.entry(queue).or_default().push(job.id.clone());
                    }
                    let result = v1::SubmitResult { result: Some(outcome) };
                    bytes += result.encoded_len();
                    results.push(result);
                }
                Err(status) => {
                    self.asked.clear();
                    self.bytes = 0;
                    unknown = Some(status);
                }
            }
        }
        for (queue, ids) in &accepted {
            self.caller.record(Some(queue), ids, Ok(()));
        }
        (results, unknown)
    }

    /// Converts the engine's answer to the client's result; an error if the outcome is unknown.
    fn outcome(
        &self,
        answer: Result<Submitted, OfferError>,
        span: &mut SubmissionSpan,
    ) -> Result<Outcome, Status> {
        match answer {
            Ok(answer) => {
                answered(span, &answer);
                Ok(Outcome::Submitted(convert::submitted(answer.first(), answer.outcome())))
            }
            Err(OfferError::Stopped(stopped @ Stopped::Unknown)) => Err(stopped.into()),
            Err(error) => Ok(refused(&self.core, &error.into(), span)),
        }
    }
}

/// Returns the error with which Submit would have failed.
fn refused(core: &Core, status: &Status, span: &mut SubmissionSpan) -> Outcome {
    let error = errors::item(status);
    core.counters.rejected(&error.reason);
    span.failed(&error.reason);
    Outcome::Error(error)
}
