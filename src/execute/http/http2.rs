//! An HTTP/2 connection, shared by many requests, each a stream of it.
//!
//! It uses `h2` directly, since only that API tells whether a request was processed: streams above the last one that
//! GOAWAY names, and refused streams, can be told from those that may have been processed (RFC 9113, 8.7).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use h2::{
    Ping, PingPong, Reason, RecvStream, SendStream,
    client::{Builder, Connection, SendRequest},
};
use http::Response;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Notify, watch},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    connection::HEAD_MAX_BYTES,
    exchange::{ExchangeError, Fate, Unanswered},
    request::Request,
    socket::SocketStats,
};
use crate::{execute::command::RESULT_MAX_BYTES, timeouts};

/// Silence after which a connection with requests is sent a ping.
const PING_AFTER: Duration = Duration::from_secs(10);
/// Further silence after which the connection counts as dead.
const PONG_WITHIN: Duration = Duration::from_secs(10);
/// Silence after which a connection must answer a ping before it gets another request.
const TRUSTED_FOR: Duration = Duration::from_secs(2);
/// Time limit for that answer.
const PROOF_WITHIN: Duration = Duration::from_secs(1);
/// Stream limit until the endpoint has announced its own.
const STREAMS_AT_FIRST: usize = 100;
/// Flow-control window of a connection: unread bytes of all its responses.
const WINDOW_BYTES: u32 = 4 << 20;

/// An open connection. Dropping it closes the connection.
pub(super) struct Http2 {
    sender: SendRequest<Bytes>,
    health: Arc<ConnectionHealth>,
    /// Counter of answered pings.
    pongs: watch::Receiver<u64>,
    /// The value of [`SocketStats::reads`] when a request was last abandoned: the connection is trusted again only after a
    /// further read.
    doubted: AtomicU64,
    _open: DropGuard,
}

/// Health of the connection, shared by its driver task and its users.
struct ConnectionHealth {
    stats: Arc<SocketStats>,
    streams: AtomicUsize,
    /// Notified to request a ping.
    doubts: Notify,
    has_died: AtomicBool,
}

/// A slot for one request over a connection. Dropping it resets the stream, if the response is not complete.
pub(super) struct Stream {
    connection: Arc<Http2>,
    request: Option<SendStream<Bytes>>,
    is_done: bool,
}

impl Http2 {
    pub(super) async fn new<S>(
        stream: S,
        stats: Arc<SocketStats>,
        drivers: &TaskTracker,
    ) -> Result<Arc<Self>, h2::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, mut connection) = Builder::new()
            .initial_max_send_streams(STREAMS_AT_FIRST)
            .initial_window_size(RESULT_MAX_BYTES as u32)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_header_list_size(HEAD_MAX_BYTES)
            .enable_push(false)
            .handshake::<_, Bytes>(stream)
            .await?;
        // `ping_pong` returns `Some` on its first call.
        let pings = connection.ping_pong().ok_or(Reason::INTERNAL_ERROR)?;
        let health = Arc::new(ConnectionHealth {
            stats,
            streams: AtomicUsize::new(0),
            doubts: Notify::new(),
            has_died: AtomicBool::new(false),
        });
        let (pong, pongs) = watch::channel(0);
        let closed = CancellationToken::new();
        let open = closed.clone().drop_guard();
        drivers.spawn(drive(connection, Arc::clone(&health), pings, pong, closed));
        Ok(Arc::new(Http2 { sender, health, pongs, doubted: AtomicU64::new(u64::MAX), _open: open }))
    }

    /// Whether the connection accepts requests at all: not after GOAWAY, and not once it is closed.
    pub(super) fn is_open(&self) -> bool {
        self.sender.clone().ready().now_or_never().is_some_and(|ready| ready.is_ok())
    }

    pub(super) fn is_idle(&self) -> bool {
        self.streams() == 0
    }

    /// Whether the connection has reached the endpoint's limit of concurrent streams.
    pub(super) fn is_full(&self) -> bool {
        self.streams() >= self.sender.current_max_send_streams()
    }

    pub(super) fn age(&self) -> Duration {
        self.health.stats.age()
    }

    pub(super) fn silence(&self) -> Duration {
        self.health.stats.silence()
    }

    /// Whether something was received within [`TRUSTED_FOR`], and since a request was last abandoned.
    pub(super) fn is_trusted(&self) -> bool {
        let stats = &self.health.stats;
        stats.silence() < TRUSTED_FOR && self.doubted.load(Ordering::Relaxed) != stats.reads()
    }

    /// Sends a ping, and returns whether it was answered in time.
    pub(super) async fn answers(&self) -> bool {
        let mut pongs = self.pongs.clone();
        pongs.mark_unchanged();
        self.health.doubts.notify_one();
        matches!(timeouts::within(PROOF_WITHIN, pongs.changed()).await, Some(Ok(())))
    }

    /// Reserves a slot for one more request.
    pub(super) fn stream(self: &Arc<Self>) -> Stream {
        self.health.streams.fetch_add(1, Ordering::Relaxed);
        Stream { connection: Arc::clone(self), request: None, is_done: false }
    }

    fn streams(&self) -> usize {
        self.health.streams.load(Ordering::Relaxed)
    }
}

impl Stream {
    pub(super) async fn send(&mut self, request: &Request) -> Result<Response<RecvStream>, Unanswered> {
        let (head, body) = request.to_http2();
        // A clone of the sender is independent of requests that wait on other clones.
        let (answer, mut sending) = match self.connection.sender.clone().send_request(head, body.is_empty()) {
            Ok(streams) => streams,
            Err(error) => return Err(Unanswered { error: error.into(), fate: Fate::Unsent }),
        };
        if !body.is_empty() {
            // The body is in memory anyway, and `h2` sends it as flow control allows. If the stream has ended already,
            // its response says why.
            let _ = sending.send_data(body, true);
        }
        self.request = Some(sending);
        answer.await.map_err(|error| {
            // The stream has ended with an error, so the connection itself is not in doubt.
            self.is_done = true;
            self.unanswered(error)
        })
    }

    pub(super) fn connection(&self) -> &Arc<Http2> {
        &self.connection
    }

    /// Marks the response as read to its end.
    pub(super) fn done(mut self) {
        self.is_done = true;
    }

    fn unanswered(&self, error: h2::Error) -> Unanswered {
        let fate = fate(&error);
        if self.connection.health.has_died.load(Ordering::Acquire) {
            return Unanswered { error: ExchangeError::Died { silence: PONG_WITHIN }, fate };
        }
        Unanswered { error: error.into(), fate }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.health.streams.fetch_sub(1, Ordering::Relaxed);
        match &mut self.request {
            // A response may arrive before the endpoint has read the whole request; the rest is cancelled. If nothing
            // is left to send, this does nothing.
            Some(request) if self.is_done => request.send_reset(Reason::CANCEL),
            // The request was abandoned: dropping it resets the stream.
            Some(_) => self.connection.doubted.store(self.connection.health.stats.reads(), Ordering::Relaxed),
            None => {}
        }
    }
}

/// Returns whether a request may have been processed, by the error of its stream before any response.
fn fate(error: &h2::Error) -> Fate {
    match error.reason() {
        // `h2` gives a stream the GOAWAY error only if it is above the last one that the GOAWAY names.
        Some(Reason::NO_ERROR) if error.is_remote() && error.is_go_away() => Fate::Unsent,
        Some(_) if error.is_remote() && error.is_go_away() => Fate::Refused,
        Some(Reason::REFUSED_STREAM) if error.is_remote() => Fate::Refused,
        _ => Fate::Unknown,
    }
}

/// Does the connection's I/O until it ends, dies, or is dropped. Its error also reaches its streams.
async fn drive<S>(
    connection: Connection<S, Bytes>,
    health: Arc<ConnectionHealth>,
    pings: PingPong,
    pong: watch::Sender<u64>,
    closed: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    tokio::select! {
        _ = connection => {}
        () = closed.cancelled() => {}
        () = death(&health, pings, &pong) => {}
    }
}

/// Returns once a connection that is in use or in doubt has been silent for too long. Its streams get the error when
/// the connection is dropped.
///
/// Pings are sent only here, since a late answer to an earlier ping would be taken for the answer to the next one.
async fn death(health: &ConnectionHealth, mut pings: PingPong, pong: &watch::Sender<u64>) {
    loop {
        let mut heard = health.stats.reads();
        tokio::select! {
            () = tokio::time::sleep(PING_AFTER) => {
                if health.streams.load(Ordering::Relaxed) == 0 || health.stats.reads() != heard {
                    continue;
                }
            }
            () = health.doubts.notified() => heard = health.stats.reads(),
        }
        let answer = pings.ping(Ping::opaque());
        tokio::pin!(answer);
        loop {
            match timeouts::within(PONG_WITHIN, &mut answer).await {
                Some(Ok(_)) => break pong.send_modify(|pongs| *pongs += 1),
                // The connection has ended; its driver will notice.
                Some(Err(_)) => return std::future::pending().await,
                // Any received bytes prove that the peer is alive: the answer to a ping may be queued behind other
                // data.
                None if health.stats.reads() != heard => heard = health.stats.reads(),
                None => return health.has_died.store(true, Ordering::Release),
            }
        }
    }
}
