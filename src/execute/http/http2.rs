//! A connection of HTTP/2: shared by many requests, each a stream of it.
//!
//! It is written over `h2`, since only there a request's fate is certain: a stream above the last one that GOAWAY names,
//! and one that was refused, are told apart from those that may have been processed (RFC 9113, 8.7).

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
    exchange::{Broken, Fate, Unanswered},
    request::Request,
    socket::Vitals,
};
use crate::{execute::command::RESULT_MAX_BYTES, timeouts};

/// The silence after which a connection with requests is sent a ping.
const PING_AFTER: Duration = Duration::from_secs(10);
/// The further silence after which it has died.
const PONG_WITHIN: Duration = Duration::from_secs(10);
/// The silence after which a connection must prove that it is alive before it is given another request.
const TRUSTED_FOR: Duration = Duration::from_secs(2);
/// The time that it has for that.
const PROOF_WITHIN: Duration = Duration::from_secs(1);
/// The number of streams before the endpoint has said how many it takes.
const STREAMS_AT_FIRST: usize = 100;
/// The bytes that all answers of a connection may send ahead of being read.
const WINDOW_BYTES: u32 = 4 << 20;

/// An open connection. To drop it closes it.
pub(super) struct Http2 {
    sender: SendRequest<Bytes>,
    life: Arc<Life>,
    /// Counts the answers to pings.
    pongs: watch::Receiver<u64>,
    /// Where [`Vitals::reads`] was when a request was last given up: it takes more than that to be trusted again.
    doubted: AtomicU64,
    _open: DropGuard,
}

/// What the connection's driver and its users know of it.
struct Life {
    vitals: Arc<Vitals>,
    streams: AtomicUsize,
    /// Asks for a ping.
    doubts: Notify,
    has_died: AtomicBool,
}

/// The right to one request over a connection. To drop it resets its stream, if it is not done.
pub(super) struct Stream {
    connection: Arc<Http2>,
    request: Option<SendStream<Bytes>>,
    is_done: bool,
}

impl Http2 {
    pub(super) async fn new<S>(
        stream: S,
        vitals: Arc<Vitals>,
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
        // It is there until it has been taken once.
        let pings = connection.ping_pong().ok_or(Reason::INTERNAL_ERROR)?;
        let life = Arc::new(Life {
            vitals,
            streams: AtomicUsize::new(0),
            doubts: Notify::new(),
            has_died: AtomicBool::new(false),
        });
        let (pong, pongs) = watch::channel(0);
        let closed = CancellationToken::new();
        let open = closed.clone().drop_guard();
        drivers.spawn(drive(connection, Arc::clone(&life), pings, pong, closed));
        Ok(Arc::new(Http2 { sender, life, pongs, doubted: AtomicU64::new(u64::MAX), _open: open }))
    }

    /// Whether it takes requests at all: not after GOAWAY, and not once it is closed.
    pub(super) fn is_open(&self) -> bool {
        self.sender.clone().ready().now_or_never().is_some_and(|ready| ready.is_ok())
    }

    pub(super) fn is_idle(&self) -> bool {
        self.streams() == 0
    }

    /// Whether it has as many requests as the endpoint takes at once.
    pub(super) fn is_full(&self) -> bool {
        self.streams() >= self.sender.current_max_send_streams()
    }

    pub(super) fn age(&self) -> Duration {
        self.life.vitals.age()
    }

    pub(super) fn silence(&self) -> Duration {
        self.life.vitals.silence()
    }

    /// Whether something came in lately, and since a request was given up.
    pub(super) fn is_trusted(&self) -> bool {
        let vitals = &self.life.vitals;
        vitals.silence() < TRUSTED_FOR && self.doubted.load(Ordering::Relaxed) != vitals.reads()
    }

    /// Asks it whether it is alive.
    pub(super) async fn answers(&self) -> bool {
        let mut pongs = self.pongs.clone();
        pongs.mark_unchanged();
        self.life.doubts.notify_one();
        matches!(timeouts::within(PROOF_WITHIN, pongs.changed()).await, Some(Ok(())))
    }

    /// A place for one more request.
    pub(super) fn stream(self: &Arc<Self>) -> Stream {
        self.life.streams.fetch_add(1, Ordering::Relaxed);
        Stream { connection: Arc::clone(self), request: None, is_done: false }
    }

    fn streams(&self) -> usize {
        self.life.streams.load(Ordering::Relaxed)
    }
}

impl Stream {
    pub(super) async fn send(&mut self, request: &Request) -> Result<Response<RecvStream>, Unanswered> {
        let (head, body) = request.to_http2();
        // A clone takes its request whatever the others wait for.
        let (answer, mut sending) = match self.connection.sender.clone().send_request(head, body.is_empty()) {
            Ok(streams) => streams,
            Err(error) => return Err(Unanswered { error: error.into(), fate: Fate::Unsent }),
        };
        if !body.is_empty() {
            // It is in memory anyway, and flows as the endpoint takes it. If the stream has ended already, its answer
            // says why.
            let _ = sending.send_data(body, true);
        }
        self.request = Some(sending);
        answer.await.map_err(|error| {
            // Its stream has ended, and there is nothing to doubt.
            self.is_done = true;
            self.unanswered(error)
        })
    }

    pub(super) fn connection(&self) -> &Arc<Http2> {
        &self.connection
    }

    /// Takes note that the answer has been read to its end.
    pub(super) fn done(mut self) {
        self.is_done = true;
    }

    fn unanswered(&self, error: h2::Error) -> Unanswered {
        let fate = fate(&error);
        if self.connection.life.has_died.load(Ordering::Acquire) {
            return Unanswered { error: Broken::Died { silence: PONG_WITHIN }, fate };
        }
        Unanswered { error: error.into(), fate }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.life.streams.fetch_sub(1, Ordering::Relaxed);
        match &mut self.request {
            // An answer may come before the endpoint has taken the whole request, and it need not take the rest. Where
            // nothing is left to send, this does nothing.
            Some(request) if self.is_done => request.send_reset(Reason::CANCEL),
            // Given up: to drop it resets the stream.
            Some(_) => self.connection.doubted.store(self.connection.life.vitals.reads(), Ordering::Relaxed),
            None => {}
        }
    }
}

/// What a stream's error says of its request, before any answer.
fn fate(error: &h2::Error) -> Fate {
    match error.reason() {
        // `h2` gives streams the error of a GOAWAY only where they are above the last one that it names.
        Some(Reason::NO_ERROR) if error.is_remote() && error.is_go_away() => Fate::Unsent,
        Some(_) if error.is_remote() && error.is_go_away() => Fate::Refused,
        Some(Reason::REFUSED_STREAM) if error.is_remote() => Fate::Refused,
        _ => Fate::Unknown,
    }
}

/// Moves a connection's bytes until it ends, dies, or is dropped. Its error comes to its streams, too.
async fn drive<S>(
    connection: Connection<S, Bytes>,
    life: Arc<Life>,
    pings: PingPong,
    pong: watch::Sender<u64>,
    closed: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    tokio::select! {
        _ = connection => {}
        () = closed.cancelled() => {}
        () = death(&life, pings, &pong) => {}
    }
}

/// Returns once a connection that is in use or in doubt has been silent for too long. Its streams learn of it when it is
/// dropped.
///
/// Pings are sent here alone, since an answer that nothing waits for any more would pass for that to the next ping.
async fn death(life: &Life, mut pings: PingPong, pong: &watch::Sender<u64>) {
    loop {
        let mut heard = life.vitals.reads();
        tokio::select! {
            () = tokio::time::sleep(PING_AFTER) => {
                if life.streams.load(Ordering::Relaxed) == 0 || life.vitals.reads() != heard {
                    continue;
                }
            }
            () = life.doubts.notified() => heard = life.vitals.reads(),
        }
        let answer = pings.ping(Ping::opaque());
        tokio::pin!(answer);
        loop {
            match timeouts::within(PONG_WITHIN, &mut answer).await {
                Some(Ok(_)) => break pong.send_modify(|pongs| *pongs += 1),
                // It is at its end, as its driver will notice.
                Some(Err(_)) => return std::future::pending().await,
                // Whatever comes is a sign of life: the answer to a ping may have to wait behind much else.
                None if life.vitals.reads() != heard => heard = life.vitals.reads(),
                None => return life.has_died.store(true, Ordering::Release),
            }
        }
    }
}
