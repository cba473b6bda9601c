//! A watch of jobs that survives broken connections.

use std::{collections::VecDeque, fmt};

use futures_util::{Stream, stream};
use tonic::{Code, Streaming};

use super::{Client, ClientError, changes::identify, retry::Outage};
use crate::proto::v1::{
    self, SubmitOutcome, submit_and_watch_response::Event as SubmitAndWatchEvent, watch_event::Event,
};

/// An item of a [`Watch`].
#[derive(Clone, PartialEq, Debug)]
pub enum WatchItem {
    /// An event from the server, except *closing*: the watch then reconnects by itself.
    Event {
        /// The event.
        event: Event,
        /// The token to resume after this event. Absent where other events of the same message follow: a message is
        /// resumed as a whole.
        resume_token: Option<String>,
    },
    /// The connection broke. The watch reconnects and misses nothing. There is one such item for each break.
    Interrupted {
        /// The cause, for people.
        cause: String,
    },
}

/// A watch that reconnects when its connection breaks.
///
/// It reconnects with the last resume token, for as long as [`super::ClientBuilder::retry_for`] says after each break.
/// It ends when the server ends it: with ids, once all of them have ended.
pub struct Watch {
    client: Client,
    /// The request of the next connection; each message moves its resume token on.
    request: v1::WatchStatusRequest,
    stream: Option<Incoming>,
    ready: VecDeque<WatchItem>,
    outage: Option<Outage>,
    closing: bool,
    over: bool,
}

enum Incoming {
    Watch(Streaming<v1::WatchStatusResponse>),
    Submitted(Streaming<v1::SubmitAndWatchResponse>),
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("request", &self.request)
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Watches jobs, by ids or by a filter. Connects when the first item is asked for.
    #[must_use]
    pub fn watch(&self, request: v1::WatchStatusRequest) -> Watch {
        Watch {
            client: self.clone(),
            request,
            stream: None,
            ready: VecDeque::new(),
            outage: None,
            closing: false,
            over: false,
        }
    }

    /// Submits a job and watches it until it ends. The submission is repeated as in [`Client::submit`]; the watch
    /// reconnects as in [`Client::watch`]. If the request id was used before, the watch begins with the job's present
    /// state. If its job was deleted since, there is nothing to watch, and the watch ends at once.
    ///
    /// # Errors
    /// [`ClientError`]; see `Submit` in the protocol for the refusals.
    pub async fn submit_and_watch(
        &self,
        request: impl Into<v1::SubmitAndWatchRequest>,
    ) -> Result<(v1::SubmitResponse, Watch), ClientError> {
        let mut request = request.into();
        identify(&mut request.request_id);
        let submit = || async {
            let started =
                tokio::time::timeout(self.shared.call_timeout, self.open_submission(request.clone()));
            started.await.unwrap_or_else(|_| Err(self.timed_out()))
        };
        let (answer, stream) = self.shared.retries.run(submit).await?;
        let submitted = self.present(answer.submitted.as_ref(), "submitted")?;
        let mut watch = self.watch(v1::WatchStatusRequest {
            ids: vec![submitted.id.clone()],
            // A repeat has no token: a reconnect then begins with the job's present state, too.
            resume_token: answer.resume_token.clone(),
            detail: request.detail,
            output: request.output,
            view: request.view,
            ..Default::default()
        });
        match submitted.outcome() {
            SubmitOutcome::Gone => watch.over = true,
            SubmitOutcome::Created
            | SubmitOutcome::Repeated
            | SubmitOutcome::Existing
            | SubmitOutcome::Replaced
            | SubmitOutcome::Unspecified => {
                watch.stream = Some(Incoming::Submitted(stream));
            }
        }
        Ok((answer, watch))
    }

    async fn open_submission(
        &self,
        request: v1::SubmitAndWatchRequest,
    ) -> Result<(v1::SubmitResponse, Streaming<v1::SubmitAndWatchResponse>), ClientError> {
        let opened = self.job_queue().submit_and_watch(request).await;
        let mut stream = opened.map_err(|status| self.error(&status))?.into_inner();
        let first = stream.message().await.map_err(|status| self.error(&status))?;
        match first.and_then(|response| response.event) {
            Some(SubmitAndWatchEvent::Submitted(answer)) => Ok((answer, stream)),
            Some(SubmitAndWatchEvent::Status(_)) | None => self.present(None, "submitted"),
        }
    }
}

impl Watch {
    /// Returns the next item, or `None` once the server has ended the watch, or after an error.
    ///
    /// The future may be dropped at any time: the next call goes on where it was.
    pub async fn next(&mut self) -> Option<Result<WatchItem, ClientError>> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some(Ok(item));
            }
            if self.over {
                return None;
            }
            match self.receive().await {
                Ok(Some(message)) => self.take(message),
                Ok(None) if !self.closing => self.over = true,
                Ok(None) => self.interrupted(self.closed()),
                Err(error) if error.is_retryable() && !self.time_is_up() => self.interrupted(error),
                Err(error) => {
                    self.over = true;
                    return Some(Err(error));
                }
            }
        }
    }

    /// Converts the watch to a [`Stream`].
    pub fn into_stream(self) -> impl Stream<Item = Result<WatchItem, ClientError>> + Send {
        stream::unfold(self, async |mut watch| watch.next().await.map(|item| (item, watch)))
    }

    /// Returns the token to resume after the last item: a new watch of the same ids or filter with this token misses
    /// nothing. Empty before the first message.
    #[must_use]
    pub fn resume_token(&self) -> &str {
        &self.request.resume_token
    }

    async fn receive(&mut self) -> Result<Option<v1::WatchStatusResponse>, ClientError> {
        if let Some(outage) = &mut self.outage {
            outage.backoff().await;
        }
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => none.insert(Incoming::Watch(self.client.open_watch(self.request.clone()).await?)),
        };
        let message = match stream {
            Incoming::Watch(stream) => stream.message().await,
            Incoming::Submitted(stream) => stream.message().await.map(|response| {
                response.map(|response| match response.event {
                    Some(SubmitAndWatchEvent::Status(status)) => status,
                    // An empty message changes nothing.
                    Some(SubmitAndWatchEvent::Submitted(_)) | None => v1::WatchStatusResponse::default(),
                })
            }),
        };
        message.map_err(|status| self.client.error(&status))
    }

    fn take(&mut self, message: v1::WatchStatusResponse) {
        self.outage = None;
        if !message.resume_token.is_empty() {
            self.request.resume_token = message.resume_token;
        }
        for event in message.events.into_iter().filter_map(|event| event.event) {
            if matches!(event, Event::Closing(_)) {
                self.closing = true;
            } else {
                self.ready.push_back(WatchItem::Event { event, resume_token: None });
            }
        }
        if let Some(WatchItem::Event { resume_token, .. }) = self.ready.back_mut()
            && !self.request.resume_token.is_empty()
        {
            *resume_token = Some(self.request.resume_token.clone());
        }
    }

    fn time_is_up(&self) -> bool {
        match &self.outage {
            Some(outage) => outage.time_is_up(),
            None => self.client.shared.retries.retry_for.is_zero(),
        }
    }

    /// Drops the broken connection, and prepares the next one.
    fn interrupted(&mut self, error: ClientError) {
        self.stream = None;
        self.closing = false;
        let retries = &self.client.shared.retries;
        let outage = self.outage.get_or_insert_with(|| {
            self.ready.push_back(WatchItem::Interrupted { cause: error.to_string() });
            Outage::new(retries)
        });
        outage.failed(retries);
    }

    fn closed(&self) -> ClientError {
        ClientError::Failed {
            endpoint: self.client.shared.endpoint.clone(),
            code: Code::Unavailable,
            message: "the server stops".to_owned(),
        }
    }
}

impl Client {
    async fn open_watch(
        &self,
        request: v1::WatchStatusRequest,
    ) -> Result<Streaming<v1::WatchStatusResponse>, ClientError> {
        let mut service = self.job_queue();
        self.answer(service.watch_status(request)).await
    }
}
