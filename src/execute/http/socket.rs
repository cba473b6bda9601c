//! A TCP connection that records when it last received bytes, and how many it has sent.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::net::{RecvFlags, Shutdown, sockopt};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::clock::{Clock, Uptime};

/// TCP keepalive: silence before the first probe.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// TCP keepalive: interval between probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// TCP keepalive: number of unanswered probes that end the connection.
const KEEPALIVE_COUNT: u32 = 3;
/// The longest time for which sent bytes may stay unacknowledged, in milliseconds.
#[cfg(target_os = "linux")]
const USER_TIMEOUT_MS: u32 = 30_000;

/// A connected socket.
pub(super) struct Socket {
    stream: Arc<TcpStream>,
    stats: Arc<SocketStats>,
}

/// Counters of a socket, readable while another task owns it.
pub(super) struct SocketStats {
    clock: Clock,
    opened: Uptime,
    /// Time of the last receive, in microseconds of uptime.
    heard: AtomicU64,
    reads: AtomicU64,
    sent_bytes: AtomicU64,
    /// A weak reference, so as not to keep the socket open.
    stream: Weak<TcpStream>,
}

impl Socket {
    /// Wraps a new connection, and sets TCP options by which the kernel detects a dead peer.
    pub(super) fn new(stream: TcpStream, clock: Clock) -> Self {
        // These options are best effort: no exchange needs them to succeed. Requests are written whole, so Nagle's
        // algorithm would only delay them.
        let _ = stream.set_nodelay(true);
        let _ = sockopt::set_socket_keepalive(&stream, true);
        let _ = sockopt::set_tcp_keepidle(&stream, KEEPALIVE_IDLE);
        let _ = sockopt::set_tcp_keepintvl(&stream, KEEPALIVE_INTERVAL);
        let _ = sockopt::set_tcp_keepcnt(&stream, KEEPALIVE_COUNT);
        #[cfg(target_os = "linux")]
        let _ = sockopt::set_tcp_user_timeout(&stream, USER_TIMEOUT_MS);
        let stream = Arc::new(stream);
        let now = clock.uptime();
        let stats = SocketStats {
            clock,
            opened: now,
            heard: AtomicU64::new(now.as_micros()),
            reads: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            stream: Arc::downgrade(&stream),
        };
        Socket { stream, stats: Arc::new(stats) }
    }

    pub(super) fn stats(&self) -> Arc<SocketStats> {
        Arc::clone(&self.stats)
    }
}

impl SocketStats {
    /// The time since the connection was opened.
    pub(super) fn age(&self) -> Duration {
        self.clock.uptime().since(self.opened)
    }

    /// The time since anything was received, or since the connection was opened.
    pub(super) fn silence(&self) -> Duration {
        let heard = Uptime::new(Duration::from_micros(self.heard.load(Ordering::Relaxed)));
        self.clock.uptime().since(heard)
    }

    /// The number of reads that received something.
    pub(super) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// The number of bytes that the kernel has accepted for sending.
    pub(super) fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// Whether the connection is open and the kernel holds no unread bytes and no end of stream.
    ///
    /// The kernel knows of a peer's close before the task that owns the socket has been woken for it.
    pub(super) fn is_quiet(&self) -> bool {
        let Some(stream) = self.stream.upgrade() else { return false };
        let mut byte = [0];
        let peeked = rustix::net::recv(&*stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
        peeked.is_err_and(|error| error == rustix::io::Errno::WOULDBLOCK)
    }

    fn heard(&self) {
        self.heard.store(self.clock.uptime().as_micros(), Ordering::Relaxed);
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    fn sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

// Implemented with the `try_…` methods, which need no exclusive access, so that a peek is possible at any time.

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            match self.stream.try_read(buffer.initialize_unfilled()) {
                Ok(bytes) => {
                    buffer.advance(bytes);
                    if bytes > 0 {
                        self.stats.heard();
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Socket {
    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        send: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match send(&self.stream) {
                Ok(bytes) => {
                    self.stats.sent(bytes);
                    return Poll::Ready(Ok(bytes));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, |stream| stream.try_write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(rustix::net::shutdown(&*self.stream, Shutdown::Write).map_err(io::Error::from))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;
    use crate::clock::{ManualClock, Timestamp};

    async fn pair(clock: Clock) -> (Socket, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Socket::new(stream, clock), listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_peer_that_is_no_longer_there_is_given_up_by_the_kernel() {
        let (socket, _peer) = pair(Clock::System).await;
        assert!(sockopt::socket_keepalive(&*socket.stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&*socket.stream).unwrap(), KEEPALIVE_IDLE);
        assert_eq!(sockopt::tcp_keepintvl(&*socket.stream).unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(sockopt::tcp_keepcnt(&*socket.stream).unwrap(), KEEPALIVE_COUNT);
        #[cfg(target_os = "linux")]
        assert_eq!(sockopt::tcp_user_timeout(&*socket.stream).unwrap(), USER_TIMEOUT_MS);
    }

    #[tokio::test]
    async fn silence_counts_from_what_was_received_and_not_from_what_was_sent() {
        let clock = ManualClock::new(Timestamp::from_micros(1_800_000_000_000_000));
        let (mut socket, mut peer) = pair(Clock::Manual(clock.clone())).await;
        let stats = socket.stats();
        clock.advance(Duration::from_secs(3));
        socket.write_all(b"ping").await.unwrap();
        assert_eq!((stats.sent_bytes(), stats.reads()), (4, 0));
        assert_eq!(stats.silence(), Duration::from_secs(3));
        peer.write_all(b"pong").await.unwrap();
        socket.read_exact(&mut [0; 4]).await.unwrap();
        assert!(stats.reads() > 0);
        assert_eq!((stats.silence(), stats.age()), (Duration::ZERO, Duration::from_secs(3)));
    }

    #[tokio::test]
    async fn what_an_idle_connection_has_received_is_seen_before_it_is_read() {
        let (socket, mut peer) = pair(Clock::System).await;
        let stats = socket.stats();
        assert!(stats.is_quiet());
        peer.write_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n").await.unwrap();
        socket.stream.readable().await.unwrap();
        assert!(!stats.is_quiet());

        let (socket, peer) = pair(Clock::System).await;
        let stats = socket.stats();
        drop(peer);
        socket.stream.readable().await.unwrap();
        assert!(!stats.is_quiet(), "its end has come");
        drop(socket);
        assert!(!stats.is_quiet(), "it is closed");
    }
}
