//! A connection from its handshake on.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Sleep,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{
    Refusal,
    stats::{CountGuard, RefusalReason},
};
use crate::tls;

/// Length of the HTTP/2 connection preface; a request of HTTP/1 has more bytes.
const PREFACE_BYTES: usize = 24;

/// Number of calls without a complete response from which a write is delayed for further responses.
const DELAY_FROM_CALLS: usize = 2;

/// The peer of a connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The remote address.
    pub address: SocketAddr,
    /// The name in its client certificate, if it presented one.
    pub certificate: Option<Arc<str>>,
    state: Arc<ConnectionState>,
}

/// State of a connection, shared by the listener and the connection's calls.
#[derive(Debug, Default)]
struct ConnectionState {
    /// Whether the connection has made a call that was admitted.
    admitted: AtomicBool,
    /// Number of open calls.
    calls: AtomicUsize,
    /// Cancelled when the connection must close to make room.
    leaves: CancellationToken,
}

impl Peer {
    /// Marks that a call was admitted: the connection is then never closed to make room for others.
    pub(crate) fn mark_admitted(&self) {
        if !self.state.admitted.load(Ordering::Relaxed) {
            self.state.admitted.store(true, Ordering::Relaxed);
        }
    }

    /// Counts a call as open until the returned value is dropped.
    pub(crate) fn begin_call(&self) -> OpenCall {
        self.state.calls.fetch_add(1, Ordering::Relaxed);
        OpenCall(Arc::clone(&self.state))
    }
}

/// An open call of a connection.
#[derive(Debug)]
pub(crate) struct OpenCall(Arc<ConnectionState>);

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The listener's weak reference to an open connection.
#[derive(Debug)]
pub(super) struct Stranger(Weak<ConnectionState>);

impl Stranger {
    /// Whether the connection is still open and has made no admitted call.
    pub(super) fn is_one(&self) -> bool {
        self.0.upgrade().is_some_and(|state| !state.admitted.load(Ordering::Relaxed))
    }

    /// Closes the connection, unless a call of it was admitted or it is gone. Returns whether it was closed.
    pub(super) fn gives_way(&self) -> bool {
        let state = self.0.upgrade().filter(|state| !state.admitted.load(Ordering::Relaxed));
        state.inspect(|state| state.leaves.cancel()).is_some()
    }
}

/// An accepted connection whose peer has sent its first byte.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    peer: Peer,
    preface: Option<Preface>,
    /// Resolves when the connection must close to make room; absent once a call was admitted.
    leaves: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// Whether the writes since the last flush were delayed for further responses.
    write_delayed: bool,
    counted: CountGuard,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Applies an expression to either kind of stream.
macro_rules! either {
    ($stream:expr, $inner:ident => $do:expr) => {
        match $stream {
            Stream::Plain($inner) => $do,
            Stream::Tls($inner) => $do,
        }
    };
}

/// The bytes of the connection preface that are missing, and their deadline. Keepalive starts only after the preface.
#[derive(Debug)]
struct Preface {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Connection {
    /// Waits for the peer's TLS handshake, or without TLS for its first byte.
    pub(super) async fn greet(
        stream: TcpStream,
        address: SocketAddr,
        acceptor: Option<TlsAcceptor>,
        counted: CountGuard,
        timeout: Duration,
    ) -> Result<Self, Refusal> {
        let refused = |why, error| Refusal { peer: address, why, error };
        let deadline = Box::pin(tokio::time::sleep(timeout));
        match tokio::time::timeout_at(deadline.deadline(), begin(stream, acceptor)).await {
            Ok(Ok((stream, certificate))) => {
                let preface = Some(Preface { missing: PREFACE_BYTES, deadline });
                let state = Arc::<ConnectionState>::default();
                let leaves = Some(Box::pin(state.leaves.clone().cancelled_owned()));
                let peer = Peer { address, certificate, state };
                Ok(Connection { stream, peer, preface, leaves, write_delayed: false, counted })
            }
            Ok(Err((why, error))) => Err(refused(why, Some(error))),
            Err(_) => Err(refused(RefusalReason::TooSlow, None)),
        }
    }

    /// The peer of a connection.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    pub(super) fn stranger(&self) -> Stranger {
        Stranger(Arc::downgrade(&self.peer.state))
    }

    /// Returns whether this connection must close to make room, and registers the reader to be woken for that.
    fn must_leave(&mut self, context: &mut Context<'_>) -> bool {
        if self.peer.state.admitted.load(Ordering::Relaxed) {
            self.leaves = None;
        }
        self.leaves.as_mut().is_some_and(|leaves| leaves.as_mut().poll(context).is_ready())
    }

    /// Delays the writes up to the next flush, once, until the tasks that are ready have run; returns whether it does. A
    /// commit completes many calls at once: without the delay, the first response is written alone, and each of the
    /// others with a system call of its own. With fewer than two calls whose responses are not complete there is nothing to wait for.
    fn delays_write(&mut self, context: &Context<'_>) -> bool {
        if self.write_delayed || self.peer.state.calls.load(Ordering::Relaxed) < DELAY_FROM_CALLS {
            return false;
        }
        self.write_delayed = true;
        context.waker().wake_by_ref();
        true
    }
}

/// Waits for the first byte, and does the TLS handshake if there is an acceptor.
async fn begin(
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
) -> Result<(Stream, Option<Arc<str>>), (RefusalReason, io::Error)> {
    let failed = |error| (RefusalReason::Handshake, error);
    // Responses are often small, and must not wait for the acknowledgement of earlier ones (Nagle's algorithm).
    stream.set_nodelay(true).map_err(failed)?;
    match stream.peek(&mut [0]).await {
        Ok(0) => return Err((RefusalReason::Left, io::ErrorKind::UnexpectedEof.into())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
            return Err((RefusalReason::Left, error));
        }
        peeked => peeked.map_err(failed)?,
    };
    let Some(acceptor) = acceptor else {
        return Ok((Stream::Plain(stream), None));
    };
    let stream = acceptor.accept(stream).await.map_err(failed)?;
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates().and_then(<[_]>::first).map(tls::name);
    Ok((Stream::Tls(Box::new(stream)), certificate))
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.leaves.is_some() && this.must_leave(context) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let before = buffer.filled().len();
        let polled = either!(&mut this.stream, stream => Pin::new(stream).poll_read(context, buffer));
        if let Some(preface) = &mut this.preface {
            let read = buffer.filled().len() - before;
            preface.missing = preface.missing.saturating_sub(read);
            if preface.missing == 0 {
                this.preface = None;
            } else if polled.is_pending() && preface.deadline.as_mut().poll(context).is_ready() {
                this.counted.stats.refused(RefusalReason::TooSlow);
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.delays_write(context) {
            return Poll::Pending;
        }
        either!(&mut self.stream, stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write_delayed = false;
        either!(&mut self.stream, stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(&mut self.stream, stream => Pin::new(stream).poll_shutdown(context))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.delays_write(context) {
            return Poll::Pending;
        }
        either!(&mut self.stream, stream => Pin::new(stream).poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        either!(&self.stream, stream => stream.is_write_vectored())
    }
}

#[cfg(test)]
mod tests {
    use std::task::Wake;

    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;
    use crate::listen::{ListenStats, stats::CountGuard};

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn connection() -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(b"P").await.unwrap();
        let (stream, address) = listener.accept().await.unwrap();
        let counted = CountGuard::open(&Arc::new(ListenStats::default()));
        let greeted = Connection::greet(stream, address, None, counted, Duration::from_secs(60)).await;
        (greeted.unwrap_or_else(|refusal| panic!("{:?}", refusal.why)), client)
    }

    #[tokio::test]
    async fn writes_up_to_a_flush_are_delayed_once_while_two_other_calls_are_open() {
        let (mut connection, _client) = connection().await;
        let wakes = Arc::new(Wakes::default());
        let waker = Arc::clone(&wakes).into();
        let mut context = Context::from_waker(&waker);
        let mut write = |connection: &mut Connection| {
            let written = Pin::new(&mut *connection).poll_write(&mut context, b"response");
            (written.is_ready(), wakes.0.swap(0, Ordering::Relaxed))
        };
        let peer = connection.peer().clone();
        assert_eq!(write(&mut connection), (true, 0), "no call is open");
        let one = peer.begin_call();
        assert_eq!(write(&mut connection), (true, 0), "one call is open");
        let two = peer.begin_call();
        assert_eq!(write(&mut connection), (false, 1), "the writer is woken at once");
        assert_eq!([write(&mut connection), write(&mut connection)], [(true, 0); 2]);
        connection.flush().await.unwrap();
        assert_eq!(write(&mut connection), (false, 1));
        drop(two);
        connection.flush().await.unwrap();
        assert_eq!(write(&mut connection), (true, 0));
        drop(one);
    }
}
