//! Large answers on their way to clients that may not take them.
//!
//! HTTP/2 takes what a call has to send as soon as it is there, whether or not the client has room for it, and a
//! stream's encoder keeps the room of its largest message until the stream ends. Clients that ask for large answers and
//! read none would fill the memory. So these answers are encoded here and handed over in pieces, and what is left of
//! them counts against one budget for the whole server. A call that finds it used up waits its turn before it reads the
//! store. Where one waits, an answer of which nothing has been taken for some time is cut; a watch goes on from its
//! token.

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

/// Limit of the bytes that all answers together keep for their clients, in the making or made.
const UNTAKEN_MAX_BYTES: usize = 256 << 20;
/// What an answer may take while it is made: the jobs that are read for it, and their encoding.
const MAKING_BYTES: usize = 8 << 20;
/// Size of the pieces in which a large answer is handed over. Smaller answers go whole, and do not count.
const PIECE_BYTES: usize = 64 << 10;
/// Number of jobs, without payloads and results, whose message is smaller than a piece.
pub(super) const FEW_JOBS: usize = 2;
/// Small messages that are ready together share a frame up to this size.
const FRAME_BYTES: usize = 32 << 10;
/// The budget is counted in these.
const UNIT_BYTES: usize = 1 << 10;
/// What a message begins with: whether it is compressed, and its length.
const HEAD_BYTES: usize = 5;

/// The budget of large answers.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    free: Arc<Semaphore>,
    /// How long an answer of which nothing is taken is kept while another one waits.
    patience: Duration,
    counters: Arc<Counters>,
    untaken: Mutex<Untaken>,
}

/// Answers of which something is left, in the order in which something of them was taken last.
#[derive(Debug, Default)]
struct Untaken {
    next: u64,
    by_age: BTreeMap<u64, (Instant, Weak<Share>)>,
}

impl Outgoing {
    /// The budget of a server.
    pub(crate) fn new(patience: Duration, counters: Arc<Counters>) -> Self {
        Outgoing::with(UNTAKEN_MAX_BYTES, patience, counters)
    }

    fn with(bytes: usize, patience: Duration, counters: Arc<Counters>) -> Self {
        let free = Arc::new(Semaphore::new(bytes / UNIT_BYTES));
        Outgoing(Arc::new(Budget { free, patience, counters, untaken: Mutex::default() }))
    }

    /// What one answer will hold of it: nothing at first.
    pub(super) fn share(&self) -> Arc<Share> {
        Arc::new(Share { budget: Arc::clone(&self.0), held: Mutex::default() })
    }
}

impl Budget {
    /// Waits for room for an answer in the making. Answers that are not taken make room.
    async fn turn(&self) -> Permit {
        let mut turn = pin!(Arc::clone(&self.free).acquire_many_owned(units(MAKING_BYTES)));
        loop {
            tokio::select! {
                biased;
                turn = &mut turn => match turn {
                    Ok(permit) => return Permit::new(permit, Arc::clone(&self.counters)),
                    // Nothing closes the semaphore.
                    Err(_) => std::future::pending().await,
                },
                () = self.oldest_is_stale() => self.cut_oldest(),
            }
        }
    }

    /// Returns once nothing has been taken of some answer for too long.
    async fn oldest_is_stale(&self) {
        loop {
            let oldest = self.oldest();
            match oldest {
                Some((_, taken)) => sleep_until(taken + self.patience).await,
                // Others make their answers.
                None => sleep(self.patience).await,
            }
            // Something of it may have been taken meanwhile.
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

/// A part of the budget.
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

    /// Gives back what these bytes do not need.
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

/// What one answer holds of the budget.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    permit: Option<Permit>,
    /// What has not been handed over yet.
    rest: Bytes,
    /// Its place among the untaken ones.
    number: Option<u64>,
    cut: bool,
}

impl Share {
    /// Waits until there is room for a large message. To be called before it is made.
    pub(super) async fn reserve(&self) {
        if self.held.lock().permit.is_none() {
            let permit = self.budget.turn().await;
            self.held.lock().permit = Some(permit);
        }
    }

    /// Keeps an encoded message, and returns its first piece.
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

    /// The next piece, if something is left.
    fn next_piece(self: &Arc<Self>) -> Option<Result<Bytes, Status>> {
        let mut held = self.held.lock();
        if held.cut {
            return Some(Err(Status::cancelled("the client took nothing of the answer, and others waited")));
        }
        (!held.rest.is_empty()).then(|| Ok(self.piece(&mut held)))
    }

    fn piece(self: &Arc<Self>, held: &mut Held) -> Bytes {
        let size = PIECE_BYTES.min(held.rest.len());
        // A copy, or what the transport holds would keep all of the message.
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
        *self.held.lock() = Held { cut: true, ..Held::default() };
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(number) = self.held.get_mut().number {
            self.budget.untaken.lock().by_age.remove(&number);
        }
    }
}

/// An answer that is encoded here, in the place of the one that tonic would encode.
#[derive(Clone)]
struct Own(Arc<Mutex<Option<Body>>>);

impl Own {
    fn answer<T>(
        placeholder: T,
        body: impl HttpBody<Data = Bytes, Error = Status> + Send + 'static,
    ) -> Response<T> {
        let mut response = Response::new(placeholder);
        response.extensions_mut().insert(Own(Arc::new(Mutex::new(Some(Body::new(body))))));
        response
    }
}

/// What comes of a service, with the answer that was encoded here if there is one.
pub(super) fn own(mut response: HttpResponse<Body>) -> HttpResponse<Body> {
    match take(response.extensions_mut()) {
        Some(body) => response.map(|_| body),
        None => response,
    }
}

/// The answer that was encoded here.
pub(super) fn take(extensions: &mut Extensions) -> Option<Body> {
    extensions.remove::<Own>()?.0.lock().take()
}

type Messages<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// The answer of a call that streams.
pub(super) fn stream<M: Message + 'static>(
    messages: impl Stream<Item = Result<M, Status>> + Send + 'static,
    share: Arc<Share>,
) -> Response<Messages<M>> {
    let body = Encoded { messages: Box::pin(messages), share, end: End::NotYet };
    Own::answer(Box::pin(tokio_stream::empty()), body)
}

/// The answer of a unary call.
pub(super) fn message<M: Message + Default + 'static>(message: M, share: Arc<Share>) -> Response<M> {
    if HEAD_BYTES + message.encoded_len() <= PIECE_BYTES {
        return Response::new(message);
    }
    let messages: Messages<M> = Box::pin(tokio_stream::once(Ok(message)));
    Own::answer(M::default(), Encoded { messages, share, end: End::NotYet })
}

/// Messages as the frames of an answer.
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

    fn outgoing(bytes: usize) -> Outgoing {
        let health = Health::new(CancellationToken::new());
        Outgoing::with(bytes, PATIENCE, Arc::new(Counters::new([], health).unwrap()))
    }

    /// How much of the budget is free.
    fn free(outgoing: &Outgoing) -> usize {
        outgoing.0.free.available_permits() * UNIT_BYTES
    }

    fn text(length: usize) -> v1::OutputLine {
        v1::OutputLine { text: "x".repeat(length), ..Default::default() }
    }

    /// A large answer on its way.
    async fn large(outgoing: &Outgoing) -> Body {
        let share = outgoing.share();
        share.reserve().await;
        let (_, _, mut extensions) = message(text(LARGE), share).into_parts();
        take(&mut extensions).unwrap()
    }

    /// The next piece.
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
        // No other answer waits: both are kept, however long it takes.
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
