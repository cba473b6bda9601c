//! A stream of submissions that survives broken connections.

use std::{collections::VecDeque, fmt};

use futures_util::{Stream, stream};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{Client, ClientError, Refusal, changes::identify, error::FieldFault, retry::Outage};
use crate::proto::v1::{self, ErrorReason, submit_result::Result as ItemOutcome};

/// Capacity of the channel between the two halves of a stream.
const GIVEN_MAX: usize = 256;
/// Capacity of the channel of messages into the connection, which takes them as fast as the server reads.
const MESSAGES_MAX: usize = 2;
/// Size from which on a message takes no more items.
const MESSAGE_ENOUGH_BYTES: usize = 256 << 10;
/// Byte limit of an item. The server reads messages of up to 4 MiB; the difference is room for the fields around the
/// item.
const ITEM_MAX_BYTES: usize = (4 << 20) - 64;

/// The outcome of an item of [`Client::submit_stream`].
#[derive(Clone, PartialEq, Debug)]
pub struct ItemResult {
    /// The item's request id, which [`SubmitSender::send`] returned.
    pub request_id: String,
    /// The job's id and the outcome of the submission, or the refusal of an item that changed nothing.
    pub result: Result<v1::Submitted, Refusal>,
}

/// The error of sending to a stream that has ended; [`SubmitResults::next`] has returned the reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the stream of submissions has ended")]
pub struct StreamOver;

/// The sending half of a stream. Clones feed the same stream; it is complete once all of them are dropped.
#[derive(Clone, Debug)]
pub struct SubmitSender {
    items: mpsc::Sender<v1::SubmitItem>,
}

impl SubmitSender {
    /// Sends the next item and returns its request id: the item's own, or else a new one. Waits while the number of
    /// items without a result is at the server's limit. Makes no progress unless [`SubmitResults::next`] is polled.
    ///
    /// # Errors
    /// [`StreamOver`] once the results have ended or were dropped.
    pub async fn send(&self, item: impl Into<v1::SubmitItem>) -> Result<String, StreamOver> {
        let mut item = item.into();
        identify(&mut item.request_id);
        let request_id = item.request_id.clone();
        self.items.send(item).await.map_err(|_| StreamOver)?;
        Ok(request_id)
    }
}

/// The receiving half of a stream: the results, in the order of the items. It also drives the stream: connects, sends,
/// and after a break reconnects and sends items without a result again, for as long as
/// [`super::ClientBuilder::retry_for`] says.
pub struct SubmitResults {
    client: Client,
    when_full: v1::WhenFull,
    given: mpsc::Receiver<v1::SubmitItem>,
    /// Whether no more items will come.
    complete: bool,
    /// Items whose result was not returned yet, and the number of the first one, counted from the start of the stream.
    entries: VecDeque<PendingItem>,
    first: u64,
    connection: Option<Connection>,
    outage: Option<Outage>,
    on_break: Option<BreakHandler>,
    over: bool,
}

type BreakHandler = Box<dyn FnMut(&ClientError) + Send>;

struct PendingItem {
    item: v1::SubmitItem,
    bytes: usize,
    result: Option<Result<v1::Submitted, Refusal>>,
}

struct Connection {
    /// The sender of messages; dropped once all items have been sent.
    requests: Option<mpsc::Sender<v1::SubmitStreamRequest>>,
    responses: Streaming<v1::SubmitStreamResponse>,
    credits: usize,
    /// The numbers of the items that were sent on this connection and have no result yet.
    sent: VecDeque<u64>,
    /// The number of the first item that was not considered for sending yet.
    next: u64,
}

/// The event that a step handles.
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once")]
enum StreamEvent {
    Response(Result<Option<v1::SubmitStreamResponse>, Status>),
    Item(Option<v1::SubmitItem>),
    /// There is room for a message.
    Room,
}

impl fmt::Debug for SubmitResults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubmitResults")
            .field("first", &self.first)
            .field("unacknowledged", &self.entries.len())
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Submits job after job, with many of them in flight: send items on one half while you poll the other for results.
    /// After a break, items without a result are sent again with the same request ids, so that none is lost or doubled.
    /// Connects when the first item comes.
    ///
    /// ```no_run
    /// # async fn example(client: jobmill::client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use jobmill::proto::v1::{JobSpec, WhenFull};
    ///
    /// let (sender, mut results) = client.submit_stream(WhenFull::Wait);
    /// let produce = async move {
    ///     for _ in 0..100_000 {
    ///         sender.send(JobSpec { queue: "default".into(), kind: "mail".into(), ..Default::default() }).await?;
    ///     }
    ///     Ok::<_, jobmill::client::StreamOver>(()) // Drops the sender: the stream is complete.
    /// };
    /// let consume = async {
    ///     while let Some(item) = results.next().await {
    ///         match item?.result {
    ///             Ok(submitted) => println!("{}", submitted.id),
    ///             Err(refusal) => eprintln!("{refusal}"),
    ///         }
    ///     }
    ///     Ok::<_, jobmill::client::ClientError>(())
    /// };
    /// let (produced, consumed) = tokio::join!(produce, consume);
    /// consumed?;
    /// produced?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn submit_stream(&self, when_full: v1::WhenFull) -> (SubmitSender, SubmitResults) {
        let (items, given) = mpsc::channel(GIVEN_MAX);
        let results = SubmitResults {
            client: self.clone(),
            when_full,
            given,
            complete: false,
            entries: VecDeque::new(),
            first: 0,
            connection: None,
            outage: None,
            on_break: None,
            over: false,
        };
        (SubmitSender { items }, results)
    }

    async fn open_submit_stream(&self, first: u64) -> Result<Connection, ClientError> {
        let (requests, outgoing) = mpsc::channel(MESSAGES_MAX);
        let mut service = self.job_queue();
        let responses = self.answer(service.submit_stream(ReceiverStream::new(outgoing))).await?;
        Ok(Connection { requests: Some(requests), responses, credits: 0, sent: VecDeque::new(), next: first })
    }
}

impl SubmitResults {
    /// Returns the next result, or `None` once the stream is complete and every item has one, or after an error. After
    /// an error, the outcome of the [unacknowledged](Self::unacknowledged) items is unknown.
    ///
    /// The future may be dropped at any time: the next call goes on where it was.
    pub async fn next(&mut self) -> Option<Result<ItemResult, ClientError>> {
        loop {
            if let Some(first) = self.take_first() {
                return Some(Ok(first));
            }
            if self.over || (self.complete && self.entries.is_empty()) {
                self.over = true;
                self.connection = None;
                return None;
            }
            match self.advance().await {
                Ok(()) => {}
                // No item is without a result: the next item reconnects, with the full time for retries.
                Err(error) if error.is_retryable() && self.entries.is_empty() => {
                    self.connection = None;
                    self.outage = None;
                }
                Err(error) if error.is_retryable() && !self.time_is_up() => self.broken(&error),
                Err(error) => {
                    self.over = true;
                    self.connection = None;
                    self.given.close();
                    return Some(Err(error));
                }
            }
        }
    }

    /// Converts the results to a [`Stream`].
    pub fn into_stream(self) -> impl Stream<Item = Result<ItemResult, ClientError>> + Send {
        stream::unfold(self, async |mut results| results.next().await.map(|item| (item, results)))
    }

    /// Sets a callback for breaks of the connection, called once for each. The stream goes on after them by itself.
    #[must_use]
    pub fn on_break(mut self, tell: impl FnMut(&ClientError) + Send + 'static) -> Self {
        self.on_break = Some(Box::new(tell));
        self
    }

    /// Returns the items that were taken from the sending half and have no result, in their order.
    pub fn unacknowledged(&self) -> impl Iterator<Item = &v1::SubmitItem> {
        self.entries.iter().filter(|entry| entry.result.is_none()).map(|entry| &entry.item)
    }

    fn take_first(&mut self) -> Option<ItemResult> {
        let result = self.entries.front_mut()?.result.take()?;
        let entry = self.entries.pop_front()?;
        self.first += 1;
        Some(ItemResult { request_id: entry.item.request_id, result })
    }

    /// Makes one step: takes an item, connects, sends a message, or handles a response.
    async fn advance(&mut self) -> Result<(), ClientError> {
        if self.connection.is_none() && self.entries.is_empty() {
            match self.given.recv().await {
                Some(item) => self.take(item),
                None => self.complete = true,
            }
            return Ok(());
        }
        if self.connection.is_none() {
            if let Some(outage) = &mut self.outage {
                outage.backoff().await;
            }
            self.connection = Some(self.client.open_submit_stream(self.first).await?);
        }
        let unsent = self.unsent();
        let Some(connection) = &mut self.connection else { return Ok(()) };
        if self.complete && unsent == 0 {
            connection.requests = None;
        }
        let credits = connection.credits;
        let event = tokio::select! {
            biased;
            response = connection.responses.message() => StreamEvent::Response(response),
            item = self.given.recv(), if !self.complete && unsent < credits => StreamEvent::Item(item),
            () = room(connection.requests.as_ref()), if unsent > 0 && credits > 0 => StreamEvent::Room,
        };
        match event {
            StreamEvent::Response(Ok(Some(response))) => self.handle_response(response)?,
            StreamEvent::Response(Ok(None)) => {
                return Err(self.failed(Code::Unavailable, "the stream ended early"));
            }
            StreamEvent::Response(Err(status)) => return Err(self.client.error(&status)),
            StreamEvent::Item(None) => self.complete = true,
            StreamEvent::Item(Some(item)) => {
                self.take(item);
                // Other items that are ready go into the same message.
                for _ in unsent + 1..credits {
                    let Ok(item) = self.given.try_recv() else { break };
                    self.take(item);
                }
            }
            StreamEvent::Room => {
                let message = connection.message(&self.entries, self.first, self.when_full);
                // There is room, and this is the only sender. If the receiver is gone, the responses give the reason.
                if let Some(requests) = &connection.requests {
                    let _ = requests.try_send(message);
                }
            }
        }
        Ok(())
    }

    /// Returns the number of items, at most, that are not sent on this connection. Skips items at the front that have a
    /// result.
    fn unsent(&mut self) -> usize {
        let Some(connection) = &mut self.connection else { return self.entries.len() };
        while let Some(entry) = self.entries.get((connection.next - self.first) as usize)
            && entry.result.is_some()
        {
            connection.next += 1;
        }
        self.entries.len() - (connection.next - self.first) as usize
    }

    fn take(&mut self, item: v1::SubmitItem) {
        let bytes = item.encoded_len();
        let result = (bytes > ITEM_MAX_BYTES).then(|| Err(too_large(bytes)));
        self.entries.push_back(PendingItem { item, bytes, result });
    }

    fn handle_response(&mut self, response: v1::SubmitStreamResponse) -> Result<(), ClientError> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        connection.credits += usize::try_from(response.credits).unwrap_or(0);
        let mut let_go = None;
        let mut progress = !response.results.is_empty();
        for result in response.results {
            let number = connection.sent.pop_front();
            let entry = number.and_then(|number| self.entries.get_mut((number - self.first) as usize));
            let (Some(entry), Some(told)) = (entry, result.result) else {
                return Err(self.failed(Code::Internal, "a result that belongs to no item"));
            };
            match told {
                ItemOutcome::Submitted(submitted) => entry.result = Some(Ok(submitted)),
                ItemOutcome::Error(error) => match refusal(error) {
                    // The server is stopping; the next one gets the item again.
                    refusal if refusal.code == Code::Unavailable => let_go = Some(refusal),
                    refusal => entry.result = Some(Err(refusal)),
                },
            }
        }
        let all_told = connection.sent.is_empty();
        progress |= self.entries.is_empty();
        match let_go {
            Some(refusal) if all_told => Err(ClientError::Refused(Box::new(refusal))),
            Some(_) => Ok(()),
            None => {
                if progress {
                    self.outage = None;
                }
                Ok(())
            }
        }
    }

    fn time_is_up(&self) -> bool {
        match &self.outage {
            Some(outage) => outage.time_is_up(),
            None => self.client.shared.retries.retry_for.is_zero(),
        }
    }

    /// Drops the broken connection, and prepares the next one.
    fn broken(&mut self, error: &ClientError) {
        self.connection = None;
        let retries = &self.client.shared.retries;
        if self.outage.is_none()
            && let Some(tell) = &mut self.on_break
        {
            tell(error);
        }
        self.outage.get_or_insert_with(|| Outage::new(retries)).failed(retries);
    }

    fn failed(&self, code: Code, message: &str) -> ClientError {
        ClientError::Failed {
            endpoint: self.client.shared.endpoint.clone(),
            code,
            message: message.to_owned(),
        }
    }
}

impl Connection {
    /// Builds a message of the next items, up to the credits and the byte limit.
    fn message(
        &mut self,
        entries: &VecDeque<PendingItem>,
        first: u64,
        when_full: v1::WhenFull,
    ) -> v1::SubmitStreamRequest {
        let (mut items, mut bytes) = (Vec::new(), 0);
        while self.credits > 0
            && bytes < MESSAGE_ENOUGH_BYTES
            && let Some(entry) = entries.get((self.next - first) as usize)
        {
            if entry.result.is_none() {
                // An item that does not fit starts the next message.
                if bytes > 0 && bytes + entry.bytes > ITEM_MAX_BYTES {
                    break;
                }
                bytes += entry.bytes;
                items.push(entry.item.clone());
                self.sent.push_back(self.next);
                self.credits -= 1;
            }
            self.next += 1;
        }
        v1::SubmitStreamRequest { items, when_full: when_full.into(), ..Default::default() }
    }
}

/// Waits for room for a message. Never returns if the receiver is gone: the responses give the reason.
async fn room<T>(requests: Option<&mpsc::Sender<T>>) {
    let room = match requests {
        Some(requests) => requests.reserve().await.is_ok(),
        None => false,
    };
    if !room {
        std::future::pending().await
    }
}

fn refusal(error: v1::ItemError) -> Refusal {
    Refusal {
        code: Code::from_i32(error.code),
        reason: error.reason,
        message: error.message,
        metadata: error.metadata,
        fields: error
            .field_violations
            .into_iter()
            .map(|fault| FieldFault::new(fault.field, fault.description))
            .collect(),
        retry_after: error.retry_delay.and_then(|delay| delay.try_into().ok()),
    }
}

/// Returns the refusal of an item that the server could not read, and that would end the stream for all items.
fn too_large(bytes: usize) -> Refusal {
    let description = format!("has {bytes} bytes; the limit of a message is 4 MiB");
    let message = format!("job: {description}");
    let mut refusal = Refusal::new(Code::InvalidArgument, ErrorReason::InvalidRequest, message);
    refusal.fields.push(FieldFault::new("job", description));
    refusal
}
