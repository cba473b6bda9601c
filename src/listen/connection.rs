//! A connection from its greeting on.

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
    stats::{Place, Refused},
};
use crate::tls;

/// What every HTTP/2 connection begins with has so many bytes; a request of HTTP/1 has more.
const PREFACE_BYTES: usize = 24;

/// Calls under way for whose answers a write is put off.
const CALLS_TO_WAIT_FOR: usize = 2;

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it connects from.
    pub address: SocketAddr,
    /// What its certificate calls it, if it showed one.
    pub certificate: Option<Arc<str>>,
    standing: Arc<Standing>,
}

/// What the listener and the calls of a connection know of it together.
#[derive(Debug, Default)]
struct Standing {
    /// It has made a call that was let in.
    welcome: AtomicBool,
    /// Calls under way.
    calls: AtomicUsize,
    /// It must make room.
    leaves: CancellationToken,
}

impl Peer {
    /// Notes that a call was let in: the connection need not make room for others any more.
    pub(crate) fn is_welcome(&self) {
        if !self.standing.welcome.load(Ordering::Relaxed) {
            self.standing.welcome.store(true, Ordering::Relaxed);
        }
    }

    /// Counts a call as under way until the returned value is dropped.
    pub(crate) fn begin_call(&self) -> OpenCall {
        self.standing.calls.fetch_add(1, Ordering::Relaxed);
        OpenCall(Arc::clone(&self.standing))
    }
}

/// A call under way on a connection.
#[derive(Debug)]
pub(crate) struct OpenCall(Arc<Standing>);

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the listener keeps of an open connection. It does not keep it open.
#[derive(Debug)]
pub(super) struct Stranger(Weak<Standing>);

impl Stranger {
    /// Whether the connection is still open, and has made no call that was let in.
    pub(super) fn is_one(&self) -> bool {
        self.0.upgrade().is_some_and(|standing| !standing.welcome.load(Ordering::Relaxed))
    }

    /// Closes the connection, unless it is welcome or has gone.
    pub(super) fn gives_way(&self) -> bool {
        let standing = self.0.upgrade().filter(|standing| !standing.welcome.load(Ordering::Relaxed));
        standing.inspect(|standing| standing.leaves.cancel()).is_some()
    }
}

/// A connection that has begun to speak.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    peer: Peer,
    preface: Option<Preface>,
    /// Ends once a stranger must make room; absent once it is none.
    leaves: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// The last attempt to write was put off for other answers.
    put_off: bool,
    place: Place,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Does the same with either.
macro_rules! either {
    ($stream:expr, $inner:ident => $do:expr) => {
        match $stream {
            Stream::Plain($inner) => $do,
            Stream::Tls($inner) => $do,
        }
    };
}

/// The first bytes, which must all come in time: what watches over a connection later starts only after them.
#[derive(Debug)]
struct Preface {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Connection {
    /// Waits until the peer has shown that it means to speak.
    pub(super) async fn greet(
        stream: TcpStream,
        address: SocketAddr,
        acceptor: Option<TlsAcceptor>,
        place: Place,
        timeout: Duration,
    ) -> Result<Self, Refusal> {
        let refused = |why, error| Refusal { peer: address, why, error };
        let deadline = Box::pin(tokio::time::sleep(timeout));
        match tokio::time::timeout_at(deadline.deadline(), begin(stream, acceptor)).await {
            Ok(Ok((stream, certificate))) => {
                let preface = Some(Preface { missing: PREFACE_BYTES, deadline });
                let standing = Arc::<Standing>::default();
                let leaves = Some(Box::pin(standing.leaves.clone().cancelled_owned()));
                let peer = Peer { address, certificate, standing };
                Ok(Connection { stream, peer, preface, leaves, put_off: false, place })
            }
            Ok(Err((why, error))) => Err(refused(why, Some(error))),
            Err(_) => Err(refused(Refused::TooSlow, None)),
        }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    pub(super) fn stranger(&self) -> Stranger {
        Stranger(Arc::downgrade(&self.peer.standing))
    }

    /// Whether this one must make room. Wakes the reader when it must.
    fn must_leave(&mut self, context: &mut Context<'_>) -> bool {
        if self.peer.standing.welcome.load(Ordering::Relaxed) {
            self.leaves = None;
        }
        self.leaves.as_mut().is_some_and(|leaves| leaves.as_mut().poll(context).is_ready())
    }

    /// Whether a write is put off, once, until tasks that are ready have run. A commit answers many calls at once; the
    /// first answer would go out alone, and each of the others with a system call of its own. With fewer than two other
    /// calls under way there is nothing to wait for.
    fn puts_off(&mut self, context: &Context<'_>) -> bool {
        self.put_off = !self.put_off && self.peer.standing.calls.load(Ordering::Relaxed) >= CALLS_TO_WAIT_FOR;
        if self.put_off {
            context.waker().wake_by_ref();
        }
        self.put_off
    }
}

/// Until the handshake is done, or, without one, the first byte has come.
async fn begin(
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
) -> Result<(Stream, Option<Arc<str>>), (Refused, io::Error)> {
    let failed = |error| (Refused::Handshake, error);
    // Answers are often small, and must not wait for the acknowledgement of the ones before.
    stream.set_nodelay(true).map_err(failed)?;
    match stream.peek(&mut [0]).await {
        Ok(0) => return Err((Refused::Left, io::ErrorKind::UnexpectedEof.into())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err((Refused::Left, error)),
        peeked => peeked.map_err(failed)?,
    };
    let Some(acceptor) = acceptor else {
        return Ok((Stream::Plain(stream), None));
    };
    let stream = acceptor.accept(stream).await.map_err(failed)?;
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates().and_then(|chain| tls::name(chain.first()?));
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
                this.place.stats.refused(Refused::TooSlow);
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
        if self.puts_off(context) {
            return Poll::Pending;
        }
        either!(&mut self.stream, stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
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
        if self.puts_off(context) {
            return Poll::Pending;
        }
        either!(&mut self.stream, stream => Pin::new(stream).poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        either!(&self.stream, stream => stream.is_write_vectored())
    }
}
