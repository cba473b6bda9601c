//! Memory limit for large responses that clients have not read yet.
//!
//! The HTTP/2 library buffers a response as soon as it is produced, whether or not the client has flow-control window
//! for it, and a stream's encoder keeps the capacity of its largest message until the stream ends. Clients that request
//! large responses and read none would fill the memory. So these responses are encoded here and handed over in chunks,
//! and their unsent rest counts against one budget for the whole server. A call that finds the budget exhausted waits
//! its turn before it reads the store. While a call waits, a response of which the client has read nothing for some
//! time is aborted; a watch can be resumed by its token.

use std::{
    collections::BTreeMap,
    pin::{Pin, pin},
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Extensions, HeaderMap, Response as HttpResponse};
use http_body::{Body as HttpBody, Frame};
use parking_lot::Mutex;
use prost::Message;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep, sleep_until},
};
use tokio_stream::Stream;
use tonic::{Response, Status, body::Body};

use crate::counters::Counters;

/// Byte limit of all large responses together, in preparation or unsent.
const RESPONSES_MAX_BYTES: usize = 256 << 20;
/// Bytes reserved for a response in preparation: the jobs read for it, and their encoding.
const MAKING_BYTES: usize = 8 << 20;
/// Chunk size in which a large response is handed over. Smaller responses are sent whole and do not count.
const PIECE_BYTES: usize = 64 << 10;
/// Number of jobs, without payloads and results, whose message is smaller than a chunk.
pub(super) const FEW_JOBS: usize = 2;
/// Byte limit of a frame that small messages share, if they are ready together.
const FRAME_BYTES: usize = 32 << 10;
/// Bytes of one semaphore permit of the budget.
const UNIT_BYTES: usize = 1 << 10;
/// Length of a gRPC message's prefix: a compression flag, and the message's length.
const HEAD_BYTES: usize = 5;

/// The budget of large responses.
#[derive(Clone, Debug)]
pub(crate) struct ResponseBudget(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    free: Arc<Semaphore>,
    /// Time after which a response that its client does not read is aborted, if another one waits.
    stall_timeout: Duration,
    counters: Arc<Counters>,
    untaken: Mutex<UnreadResponses>,
}

/// Responses with an unsent rest, in the order of their last read.
#[derive(Debug, Default)]
struct UnreadResponses {
    next: u64,
    by_age: BTreeMap<u64, (Instant, Weak<Share>)>,
}

impl ResponseBudget {
    /// Creates the budget of a server.
    pub(crate) fn new(stall_timeout: Duration, counters: Arc<Counters>) -> Self {
        ResponseBudget::with(RESPONSES_MAX_BYTES, stall_timeout, counters)
    }

    fn with(bytes: usize, stall_timeout: Duration, counters: Arc<Counters>) -> Self {
        let free = Arc::new(Semaphore::new(bytes / UNIT_BYTES));
        ResponseBudget(Arc::new(Budget { free, stall_timeout, counters, untaken: Mutex::default() }))
    }

    /// Creates the share of one response, empty at first.
    pub(super) fn share(&self) -> Arc<Share> {
        Arc::new(Share { budget: Arc::clone(&self.0), held: Mutex::default() })
    }
}

impl Budget {
    /// Waits for budget for a response in preparation. Responses that are not read are aborted to make room.
    async fn turn(&self) -> Permit {
        let mut turn = pin!(Arc::clone(&self.free).acquire_many_owned(units(MAKING_BYTES)));
        loop {
            tokio::select! {
                biased;
                turn = &mut turn => match turn {
                    Ok(permit) => return Permit::new(permit, Arc::clone(&self.counters)),
                    // The semaphore is never closed.
                    Err(_) => std::future::pending().await,
                },
                () = self.oldest_is_stale() => self.cut_oldest(),
            }
        }
    }

    /// Waits until a response has not been read for too long.
    async fn oldest_is_stale(&self) {
        loop {
            let oldest = self.oldest();
            match oldest {
                Some((_, taken)) => sleep_until(taken + self.stall_timeout).await,
                // All of the budget is held by responses in preparation.
                None => sleep(self.stall_timeout).await,
            }
            // The client may have read from it meanwhile.
            if oldest.is_some() && self.oldest() == oldest {
                return;
            }
        }
    }

    fn oldest(&self) -> Option<(u64, Instant)> {
        self.untaken.lock().by_age.first_key_value().map(|(number, (taken, _))| (*number, *taken))
    }

    fn cut_oldest(&self) {
        let oldest = self.untaken.lock().by_age.pop_first();
        if let Some(share) = oldest.and_then(|(_, (_, share))| share.upgrade()) {
            self.counters.calls.answer_cut();
            share.cut();
        }
    }
}

/// A permit for a part of the budget.
#[derive(Debug)]
struct Permit {
    permit: OwnedSemaphorePermit,
    counters: Arc<Counters>,
}

impl Permit {
    fn new(permit: OwnedSemaphorePermit, counters: Arc<Counters>) -> Self {
        let permit = Permit { permit, counters };
        permit.count(permit.permit.num_permits() as i64);
        permit
    }

    /// Releases the part of the permit that `bytes` do not need.
    fn shrink(&mut self, bytes: usize) {
        let surplus = self.permit.num_permits().saturating_sub(units(bytes) as usize);
        if let Some(surplus) = self.permit.split(surplus) {
            self.count(-(surplus.num_permits() as i64));
        }
    }

    fn count(&self, units: i64) {
        self.counters.calls.untaken(units * UNIT_BYTES as i64);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.count(-(self.permit.num_permits() as i64));
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

/// The part of the budget that one response holds.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    held: Mutex<ShareState>,
}

#[derive(Debug, Default)]
struct ShareState {
    permit: Option<Permit>,
    /// Bytes that have not been handed over yet.
    rest: Bytes,
    /// Its key in [`UnreadResponses::by_age`].
    number: Option<u64>,
    cut: bool,
}

impl Share {
    /// Waits until there is budget for a large message. To be called before the message is prepared.
    pub(super) async fn reserve(&self) {
        if self.held.lock().permit.is_none() {
            let permit = self.budget.turn().await;
            self.held.lock().permit = Some(permit);
        }
    }

    /// Stores an encoded message, and returns its first chunk.
    fn keep(self: &Arc<Self>, message: Vec<u8>) -> Bytes {
        let mut held = self.held.lock();
        if message.len() <= PIECE_BYTES {
            held.permit = None;
            return message.into();
        }
        if let Some(permit) = &mut held.permit {
            permit.shrink(message.len());
        }
        held.rest = message.into();
        self.piece(&mut held)
    }

    /// Returns the next chunk, if there is one.
    fn next_piece(self: &Arc<Self>) -> Option<Result<Bytes, Status>> {
        let mut held = self.held.lock();
        if held.cut {
            return Some(Err(Status::cancelled(
                "the client did not read the response, and other calls waited for its memory",
            )));
        }
        (!held.rest.is_empty()).then(|| Ok(self.piece(&mut held)))
    }

    fn piece(self: &Arc<Self>, held: &mut ShareState) -> Bytes {
        let size = PIECE_BYTES.min(held.rest.len());
        // The chunk is copied, since a slice in the transport would keep the whole message alive.
        let piece = Bytes::copy_from_slice(&held.rest.split_to(size));
        let mut untaken = self.budget.untaken.lock();
        if let Some(number) = held.number.take() {
            untaken.by_age.remove(&number);
        }
        if held.rest.is_empty() {
            (held.rest, held.permit) = (Bytes::new(), None);
        } else {
            let now = sleep(Duration::ZERO).deadline();
            let number = untaken.next;
            untaken.next += 1;
            untaken.by_age.insert(number, (now, Arc::downgrade(self)));
            held.number = Some(number);
        }
        piece
    }

    fn cut(&self) {
        *self.held.lock() = ShareState { cut: true, ..ShareState::default() };
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(number) = self.held.get_mut().number {
            self.budget.untaken.lock().by_age.remove(&number);
        }
    }
}

/// A response body that is encoded here, in place of tonic's encoder.
#[derive(Clone)]
struct PreEncoded(Arc<Mutex<Option<Body>>>);

impl PreEncoded {
    fn answer<T>(
        placeholder: T,
        body: impl HttpBody<Data = Bytes, Error = Status> + Send + 'static,
    ) -> Response<T> {
        let mut response = Response::new(placeholder);
        response.extensions_mut().insert(PreEncoded(Arc::new(Mutex::new(Some(Body::new(body))))));
        response
    }
}

/// Replaces a service's response body with the one that was encoded here, if there is one.
pub(super) fn own(mut response: HttpResponse<Body>) -> HttpResponse<Body> {
    match take(response.extensions_mut()) {
        Some(body) => response.map(|_| body),
        None => response,
    }
}

/// Takes the response body that was encoded here.
pub(super) fn take(extensions: &mut Extensions) -> Option<Body> {
    extensions.remove::<PreEncoded>()?.0.lock().take()
}

type Messages<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// Builds the response of a streaming call.
pub(super) fn stream<M: Message + 'static>(
    messages: impl Stream<Item = Result<M, Status>> + Send + 'static,
    share: Arc<Share>,
) -> Response<Messages<M>> {
    let body = Encoded { messages: Box::pin(messages), share, end: End::NotYet };
    PreEncoded::answer(Box::pin(tokio_stream::empty()), body)
}

/// Builds the response of a unary call.
pub(super) fn message<M: Message + Default + 'static>(message: M, share: Arc<Share>) -> Response<M> {
    if HEAD_BYTES + message.encoded_len() <= PIECE_BYTES {
        return Response::new(message);
    }
    let messages: Messages<M> = Box::pin(tokio_stream::once(Ok(message)));
    PreEncoded::answer(M::default(), Encoded { messages, share, end: End::NotYet })
}

/// Messages encoded as the frames of a response body.
struct Encoded<M> {
    messages: Messages<M>,
    share: Arc<Share>,
    end: End,
}

enum End {
    NotYet,
    With(Status),
    Over,
}

impl<M: Message> HttpBody for Encoded<M> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if let Some(piece) = this.share.next_piece() {
            return Poll::Ready(Some(piece.map(Frame::data)));
        }
        let mut encoded = Vec::new();
        while matches!(this.end, End::NotYet) && encoded.len() < FRAME_BYTES {
            let polled = this.messages.as_mut().poll_next(context);
            if polled.is_pending() && !encoded.is_empty() {
                break;
            }
            match ready!(polled) {
                Some(Ok(message)) => encode(&message, &mut encoded),
                Some(Err(status)) => this.end = End::With(status),
                None => this.end = End::With(Status::ok("")),
            }
        }
        if !encoded.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(this.share.keep(encoded)))));
        }
        match std::mem::replace(&mut this.end, End::Over) {
            End::With(status) => {
                let mut trailers = HeaderMap::new();
                Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
            }
            End::NotYet | End::Over => Poll::Ready(None),
        }
    }
}

fn encode(message: &impl Message, into: &mut Vec<u8>) {
    let length = message.encoded_len();
    into.reserve_exact(HEAD_BYTES + length);
    into.push(0);
    into.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    message.encode_raw(into);
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tokio::time::timeout;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{counters::Health, proto::v1};

    const PATIENCE: Duration = Duration::from_secs(50);
    const LARGE: usize = 5 << 20;

    fn outgoing(bytes: usize) -> ResponseBudget {
        let health = Health::new(CancellationToken::new());
        ResponseBudget::with(bytes, PATIENCE, Arc::new(Counters::new([], health).unwrap()))
    }

    /// Returns the free bytes of the budget.
    fn free(outgoing: &ResponseBudget) -> usize {
        outgoing.0.free.available_permits() * UNIT_BYTES
    }

    fn text(length: usize) -> v1::OutputLine {
        v1::OutputLine { text: "x".repeat(length), ..Default::default() }
    }

    /// Creates a large response.
    async fn large(outgoing: &ResponseBudget) -> Body {
        let share = outgoing.share();
        share.reserve().await;
        let (_, _, mut extensions) = message(text(LARGE), share).into_parts();
        take(&mut extensions).unwrap()
    }

    /// Returns the next chunk.
    async fn piece(body: &mut Body) -> Bytes {
        body.frame().await.unwrap().unwrap().into_data().unwrap()
    }

    #[tokio::test]
    async fn a_large_answer_comes_whole_in_pieces_and_counts_until_all_of_it_is_taken() {
        let outgoing = outgoing(2 * MAKING_BYTES);
        let mut body = large(&outgoing).await;
        assert_eq!(free(&outgoing), MAKING_BYTES, "it is in the making");
        let mut taken = piece(&mut body).await.to_vec();
        assert_eq!(taken.len(), PIECE_BYTES);
        let kept = 2 * MAKING_BYTES - free(&outgoing);
        assert!((LARGE..LARGE + 2 * UNIT_BYTES).contains(&kept), "{kept}");
        let length = HEAD_BYTES + text(LARGE).encoded_len();
        while taken.len() < length {
            assert_eq!(2 * MAKING_BYTES - free(&outgoing), kept);
            taken.extend(piece(&mut body).await);
        }
        assert_eq!(free(&outgoing), 2 * MAKING_BYTES);
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        assert!(body.frame().await.is_none());
        assert_eq!(taken[0], 0, "it is not compressed");
        assert_eq!(v1::OutputLine::decode(&taken[HEAD_BYTES..]), Ok(text(LARGE)));
    }

    #[tokio::test]
    async fn small_messages_that_are_ready_share_a_frame_and_an_error_comes_after_them() {
        let outgoing = outgoing(MAKING_BYTES);
        let messages = [Ok(text(3)), Ok(text(4)), Err(Status::not_found("gone"))];
        let answer = stream(tokio_stream::iter(messages), outgoing.share());
        let (_, _, mut extensions) = answer.into_parts();
        let mut body = take(&mut extensions).unwrap();
        let [one, other] = [3, 4].map(|length| text(length).encoded_len() + HEAD_BYTES);
        assert_eq!(piece(&mut body).await.len(), one + other);
        let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "5");
        assert!(body.frame().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_takes_is_cut_once_another_waits_and_one_that_is_taken_slowly_is_not() {
        let outgoing = outgoing(2 * MAKING_BYTES);
        let mut stalled = large(&outgoing).await;
        piece(&mut stalled).await;
        let mut slow = large(&outgoing).await;
        piece(&mut slow).await;
        // No other response waits: both are kept for any length of time.
        sleep(2 * PATIENCE).await;
        piece(&mut stalled).await;
        piece(&mut slow).await;

        let next = outgoing.share();
        let mut turn = Box::pin(next.reserve());
        assert!(
            timeout(PATIENCE - Duration::from_secs(1), &mut turn).await.is_err(),
            "the budget is used up"
        );
        piece(&mut slow).await;
        timeout(Duration::from_secs(2), turn).await.expect("its turn");
        assert!(stalled.frame().await.unwrap().is_err());
        let rest = slow.collect().await.unwrap().to_bytes().len();
        assert_eq!(3 * PIECE_BYTES + rest, HEAD_BYTES + text(LARGE).encoded_len());
        drop((stalled, next));
        assert_eq!(free(&outgoing), 2 * MAKING_BYTES);
    }

    #[tokio::test]
    async fn a_client_that_goes_gives_back_what_was_kept_for_it() {
        let outgoing = outgoing(2 * MAKING_BYTES);
        let mut body = large(&outgoing).await;
        piece(&mut body).await;
        drop(body);
        let in_the_making = outgoing.share();
        in_the_making.reserve().await;
        drop(in_the_making);
        assert_eq!(free(&outgoing), 2 * MAKING_BYTES);
        assert!(outgoing.0.untaken.lock().by_age.is_empty());
    }
}
