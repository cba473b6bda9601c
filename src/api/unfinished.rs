//! Memory limit of incomplete request messages.
//!
//! Flow control limits the bytes in flight of a connection, but each call buffers its message of up to 4 MiB, and a
//! connection has many calls: a client that never completes its messages would fill the memory.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::{Status, body::Body};

use super::{
    errors,
    sizes::{MESSAGE_MAX_BYTES, UNFINISHED_MAX_BYTES},
};

/// Length of a gRPC message's prefix: a compression flag, and the message's length.
const HEAD_BYTES: usize = 5;

/// Total bytes of all incomplete messages of a server.
#[derive(Clone, Debug, Default)]
pub(super) struct Unfinished(Arc<AtomicUsize>);

impl Unfinished {
    /// Wraps a request body so that its messages count.
    pub(super) fn count(&self, body: Body) -> Body {
        Body::new(CountedBody {
            body,
            message: Message::default(),
            held: CountedBytes { all: self.clone(), bytes: 0 },
        })
    }
}

/// One call's part of the bytes of all incomplete messages.
struct CountedBytes {
    all: Unfinished,
    bytes: usize,
}

impl CountedBytes {
    /// Sets this part to `bytes`; returns false if the limit would be exceeded.
    fn set(&mut self, bytes: usize) -> bool {
        let all = &self.all.0;
        if bytes <= self.bytes {
            all.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        } else {
            let more = bytes - self.bytes;
            if all.fetch_add(more, Ordering::Relaxed) + more > UNFINISHED_MAX_BYTES {
                all.fetch_sub(more, Ordering::Relaxed);
                return false;
            }
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for CountedBytes {
    fn drop(&mut self) {
        self.all.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Progress of the message that is being received.
#[derive(Default)]
struct Message {
    head: [u8; HEAD_BYTES],
    /// Received bytes, including the prefix.
    come: usize,
}

impl Message {
    /// The message's length including the prefix; `None` until the prefix is complete.
    fn length(&self) -> Option<usize> {
        let [_, length @ ..] = self.head;
        (self.come >= HEAD_BYTES).then(|| HEAD_BYTES + u32::from_be_bytes(length) as usize)
    }

    /// The bytes that the message counts for: zero unless it is incomplete. The length is capped, as longer messages
    /// are refused anyway.
    fn takes(&self) -> usize {
        if self.come == 0 {
            0
        } else {
            self.length().unwrap_or(HEAD_BYTES).min(HEAD_BYTES + MESSAGE_MAX_BYTES)
        }
    }

    /// Processes received bytes, which may complete this message and others after it.
    fn read(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let taken = match self.length() {
                Some(length) => data.len().min(length - self.come),
                None => {
                    self.head[self.come] = data[0];
                    1
                }
            };
            data = &data[taken..];
            self.come += taken;
            if self.length() == Some(self.come) {
                self.come = 0;
            }
        }
    }
}

/// A request body that counts its incomplete message.
struct CountedBody {
    body: Body,
    message: Message,
    held: CountedBytes,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            this.message.read(data);
            if !this.held.set(this.message.takes()) {
                return Poll::Ready(Some(Err(errors::too_much_unfinished())));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};
    use tonic::Code;

    use super::*;

    fn message(bytes: usize) -> Vec<u8> {
        [&[0][..], &(bytes as u32).to_be_bytes(), &vec![7; bytes]].concat()
    }

    #[test]
    fn only_what_is_not_whole_counts_wherever_it_is_cut() {
        let stream = [message(3), message(0), message(300), message(1)].concat();
        // The offsets at which messages begin.
        let starts = [0, 8, 13, 318, 324];
        let lengths = [8, 5, 305, 6, 0];
        for size in [1, 2, 3, 5, 7, 64, 400] {
            let (mut read, mut at) = (Message::default(), 0);
            for chunk in stream.chunks(size) {
                read.read(chunk);
                at += chunk.len();
                let now = starts.iter().rposition(|start| *start <= at).unwrap();
                let takes = match at - starts[now] {
                    0 => 0,
                    1..HEAD_BYTES => HEAD_BYTES,
                    _ => lengths[now],
                };
                assert_eq!(read.takes(), takes, "{size} {at}");
            }
        }
    }

    #[test]
    fn no_length_counts_for_more_than_a_message_may_have() {
        let mut read = Message::default();
        read.read(&[0, 255, 255, 255, 255, 1]);
        assert_eq!(read.takes(), HEAD_BYTES + MESSAGE_MAX_BYTES);
    }

    #[test]
    fn all_of_them_have_a_limit_and_who_goes_gives_back() {
        let all = Unfinished::default();
        let held = || CountedBytes { all: all.clone(), bytes: 0 };
        let (mut one, mut other) = (held(), held());
        assert!(one.set(UNFINISHED_MAX_BYTES - 10));
        assert!(other.set(10));
        assert!(!other.set(11), "one byte too many");
        assert!(one.set(0) && other.set(11));
        drop((one, other));
        assert_eq!(all.0.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn in_a_full_house_whole_messages_come_through_and_others_are_refused() {
        let all = Unfinished::default();
        let mut rest = CountedBytes { all: all.clone(), bytes: 0 };
        assert!(rest.set(UNFINISHED_MAX_BYTES));
        let call = |frames: Vec<Vec<u8>>| {
            let frames = frames.into_iter().map(|data| Ok::<_, Status>(Frame::data(Bytes::from(data))));
            all.count(Body::new(StreamBody::new(futures_util::stream::iter(frames))))
        };
        let whole = call(vec![message(9), message(3)]).collect().await.unwrap();
        assert_eq!(whole.to_bytes().len(), 22);
        let refused = call(vec![message(9)[..13].to_vec(), vec![7]]).collect().await.unwrap_err();
        assert_eq!(
            (refused.code(), errors::reason(&refused).as_deref()),
            (Code::ResourceExhausted, Some("TOO_MUCH_UNFINISHED"))
        );
        assert!(rest.set(0));
        let cut = call(vec![message(9)[..13].to_vec(), vec![7]]).collect().await.unwrap();
        assert_eq!(cut.to_bytes().len(), 14);
        assert_eq!(all.0.load(Ordering::Relaxed), 0);
    }
}
