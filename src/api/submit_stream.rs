//! SubmitStream: jobs one after another, many of them on their way to the committer at once.
//!
//! All of it is one stream that the connection pulls: it reads requests only while it may, and when the client goes
//! it is dropped with all that it holds, so that what still waits for room is let go of. No task outlives it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use prost::Message;
use tokio_stream::Stream;
use tonic::{Request, Status, Streaming};
use tonic_types::StatusExt;

use super::{
    caller::Caller,
    core::{Core, traceparent},
    errors,
    sizes::ENOUGH_BYTES,
    submit::answered,
    validate::{Validator, request},
};
use crate::{
    clock::Uptime,
    engine::{self, OfferError, Stopped, Submitted},
    job::AtLeastOne,
    proto::v1::{self, submit_result::Outcome},
    shard::{self, Answer},
    traces::Submission,
};

/// A stream has at most so many items without a result: as many as the committer takes into a batch.
const CREDITS: usize = 1_024;
/// No more is read while the items without a result take so many bytes.
const BYTES_MAX: usize = 16 << 20;

/// The answers to a call.
pub(super) fn start(
    core: Core,
    caller: Arc<Caller>,
    call: Request<Streaming<v1::SubmitStreamRequest>>,
) -> impl Stream<Item = Result<v1::SubmitStreamResponse, Status>> + Send + use<> {
    let deadline = core.deadline(&call);
    let traceparent = traceparent(call.metadata()).to_owned();
    let waits_as = core.shard.caller();
    let requests = call.into_inner();
    let items = Items { core, caller, waits_as, traceparent, deadline, asked: VecDeque::new(), bytes: 0 };
    let stream = SubmitStream { requests, items, credits: 0, granted: CREDITS, phase: Phase::Open };
    futures_util::stream::unfold(stream, |mut stream| async {
        let response = stream.next().await?;
        Some((response, stream))
    })
}

struct SubmitStream {
    requests: Streaming<v1::SubmitStreamRequest>,
    items: Items,
    /// The client may send so many more items,
    credits: usize,
    /// and, by the next response, these.
    granted: usize,
    phase: Phase,
}

enum Phase {
    /// Requests are read.
    Open,
    /// No more is read; the stream ends so after the last result.
    Ending(Result<(), Status>),
    /// Nothing comes any more.
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

    /// Waits until the first item is decided, or something was read.
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

    /// Takes a message, or says how the stream ends.
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
            self.items.ask(item, message.when_full).await.map_err(|stopped| Err(stopped.into()))?;
        }
        Ok(())
    }
}

/// Items that were taken and have no result yet.
struct Items {
    core: Core,
    caller: Arc<Caller>,
    /// All items wait in one name, so that a stream takes one place among those who wait for room.
    waits_as: engine::Caller,
    traceparent: String,
    deadline: Option<Uptime>,
    /// In the order of the client.
    asked: VecDeque<Asked>,
    /// Of those that are asked.
    bytes: usize,
}

/// An item without a result.
struct Asked {
    bytes: usize,
    /// Where it goes, if that is told in the audit.
    queue: Option<Arc<str>>,
    state: State,
    span: Submission,
}

enum State {
    /// The committer has it.
    Waiting(Answer),
    /// The committer has decided.
    Answered(Result<Submitted, OfferError>),
    /// It did not get as far as the committer.
    Refused(Status),
}

/// Returns once the first item is decided.
async fn first_decided(asked: &mut VecDeque<Asked>) {
    if let Some(first) = asked.front_mut()
        && let State::Waiting(answer) = &mut first.state
    {
        first.state = State::Answered(answer.decided().await);
    }
}

impl Items {
    /// Sends an item on its way.
    async fn ask(&mut self, item: v1::SubmitItem, when_full: i32) -> Result<(), Stopped> {
        let bytes = item.encoded_len();
        let queue =
            item.job.as_ref().filter(|_| self.caller.audit.is_on()).map(|job| job.queue.as_str().into());
        let mut span = Submission::default();
        let state = match self.check(item, when_full, &mut span) {
            Ok(submission) => State::Waiting(self.core.shard.offer(&self.waits_as, submission).await?),
            Err(status) => State::Refused(status),
        };
        self.bytes += bytes;
        self.asked.push_back(Asked { bytes, queue, state, span });
        Ok(())
    }

    /// The submission that an item is. A valid item gets a span.
    fn check(
        &self,
        item: v1::SubmitItem,
        when_full: i32,
        span: &mut Submission,
    ) -> Result<shard::Submission, Status> {
        let core = &self.core;
        let mut validator = Validator::new(core.clock.now());
        let draft = validator.job_spec(&"job", item.job);
        validator.request_id(&item.request_id);
        let when_full = validator.when_full("when_full", when_full);
        validator.finish()?;
        self.caller.on_queue(&draft.queue)?;
        *span = core.traces.submission(&self.traceparent, (&draft.queue, &draft.kind), 1, core.clock.now());
        // As Submit's, so that an item may be repeated by either call.
        let request = request(&item.request_id, "submit", std::slice::from_ref(&draft));
        let (job, queue) = core
            .admission
            .admit(draft, &item.request_id, span.traceparent())
            .map_err(|error| errors::not_admitted(&error, None))?;
        let patience = queue.patience(core.clock.uptime(), when_full, self.deadline);
        Ok(shard::Submission { request, jobs: AtLeastOne::one(job), patience })
    }

    /// The results that are there, as many as go into a message. With an error, the stream must end after them: what
    /// became of the other items is not known.
    fn decided(&mut self) -> (Vec<v1::SubmitResult>, Option<Status>) {
        let (mut results, mut bytes) = (Vec::new(), 0);
        let mut accepted = BTreeMap::<Arc<str>, Vec<String>>::new();
        let mut unknown = None;
        while bytes < ENOUGH_BYTES
            && let Some(mut first) = self.asked.pop_front()
        {
            let outcome = match first.state {
                State::Waiting(mut answer) => match answer.take() {
                    Some(answer) => self.outcome(answer, &mut first.span),
                    None => {
                        first.state = State::Waiting(answer);
                        self.asked.push_front(first);
                        break;
                    }
                },
                State::Answered(answer) => self.outcome(answer, &mut first.span),
                State::Refused(status) => Ok(refused(&self.core, &status, &mut first.span)),
            };
            self.bytes -= first.bytes;
            match outcome {
                Ok(outcome) => {
                    if let (Outcome::Accepted(job), Some(queue)) = (&outcome, first.queue) {
                        accepted.entry(queue).or_default().push(job.id.clone());
                    }
                    let result = v1::SubmitResult { outcome: Some(outcome) };
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

    /// What an answer says to the client; an error where the outcome is unknown.
    fn outcome(
        &self,
        answer: Result<Submitted, OfferError>,
        span: &mut Submission,
    ) -> Result<Outcome, Status> {
        match answer {
            Ok(answer) => {
                answered(span, &answer);
                Ok(accepted(answer.first().id, answer.is_new()))
            }
            Err(OfferError::Stopped(stopped @ Stopped::Unknown)) => Err(stopped.into()),
            Err(error) => Ok(refused(&self.core, &error.into(), span)),
        }
    }
}

fn accepted(id: crate::job::JobId, created: bool) -> Outcome {
    Outcome::Accepted(v1::SubmitAccepted { id: id.to_string(), created })
}

/// What Submit would have ended with.
fn refused(core: &Core, status: &Status, span: &mut Submission) -> Outcome {
    let details = status.get_error_details();
    let reason = details.error_info().map(|info| info.reason.clone()).unwrap_or_default();
    core.counters.rejected(&reason);
    span.failed(&reason);
    let violations = details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
    Outcome::Refused(v1::SubmitRefused {
        code: status.code() as i32,
        reason,
        message: status.message().to_owned(),
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
    })
}
