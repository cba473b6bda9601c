//! The listening socket: admission of connections within limits.
//!
//! A connection is *pending* until its TLS handshake is done and its first byte has arrived; only then is it handed to
//! the HTTP/2 server. A client that connects and stays silent costs a file descriptor for a few seconds, and is closed
//! to make room for newer connections. So is a *stranger*, a connection without an admitted call, once the connection
//! limit is reached.

mod connection;
mod host;
mod stats;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinError, JoinSet},
    time::Sleep,
};

pub(crate) use connection::OpenCall;
use connection::Stranger;
pub use connection::{Connection, Peer};
pub(crate) use host::Hosts;
use stats::{CountGuard, RefusalLog};
pub use stats::{ListenStats, RefusalReason};

use crate::{
    audit::{self, Audit},
    clock::Clock,
    settings::LimitSettings,
    tls::{self, Tls},
};

/// First pause before the next accept, if the system has no file descriptor left for a connection. It doubles each
/// time.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest such pause. Connections wait in the kernel's backlog meanwhile.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The name that the audit records for a handshake, in place of an RPC.
const HANDSHAKE: &str = "TLS handshake";

/// A listener that accepts connections from a socket, within limits.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    limits: LimitSettings,
    tls: Option<Arc<Tls>>,
    audit: Arc<Audit>,
    stats: Arc<ListenStats>,
    notice: RefusalLog,
    pending: JoinSet<(u64, Result<Connection, Refusal>)>,
    /// The pending connections, in the order of arrival.
    oldest: BTreeMap<u64, AbortHandle>,
    next: u64,
    /// Connections without an admitted call, in the order of their first bytes. Entries of closed or admitted
    /// connections are removed lazily.
    strangers: VecDeque<Stranger>,
    /// Set while the system can't provide connections.
    pause: Option<Pin<Box<Sleep>>>,
    pause_for: Duration,
}

/// A pending connection that was refused.
#[derive(Debug)]
struct Refusal {
    peer: SocketAddr,
    why: RefusalReason,
    error: Option<io::Error>,
}

impl Listener {
    /// Creates a listener; with TLS, it accepts only TLS connections. Handshakes that fail because of a certificate are
    /// audited.
    #[must_use]
    pub fn new(
        socket: TcpListener,
        limits: LimitSettings,
        tls: Option<Arc<Tls>>,
        audit: Arc<Audit>,
        stats: Arc<ListenStats>,
        clock: Clock,
    ) -> Self {
        Listener {
            socket,
            limits,
            tls,
            audit,
            stats: Arc::clone(&stats),
            notice: RefusalLog::new(clock, stats),
            pending: JoinSet::new(),
            oldest: BTreeMap::new(),
            next: 0,
            strangers: VecDeque::new(),
            pause: None,
            pause_for: PAUSE_MIN,
        }
    }

    /// Returns the next connection whose peer has sent its first byte.
    pub async fn next(&mut self) -> Connection {
        loop {
            tokio::select! {
                accepted = self.socket.accept(), if self.pause.is_none() => match accepted {
                    Ok((stream, peer)) => self.admit(stream, peer),
                    Err(error) => self.failed(&error),
                },
                () = async { if let Some(pause) = &mut self.pause { pause.await } }, if self.pause.is_some() => {
                    self.pause = None;
                }
                Some(ended) = self.pending.join_next(), if !self.pending.is_empty() => {
                    if let Some(connection) = self.ended(ended) {
                        self.remember(connection.stranger());
                        return connection;
                    }
                }
            }
        }
    }

    /// Starts the handshake of a connection, and makes room for it if the limits are reached.
    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) {
        self.pause_for = PAUSE_MIN;
        self.stats.accepted();
        let full = self.stats.open() >= u64::from(self.limits.connections);
        if full || self.oldest.len() >= self.limits.handshakes as usize {
            // The connection that has been pending for longest is closed first, so that a flood of silent ones does not
            // block others.
            if let Some((_, oldest)) = self.oldest.pop_first() {
                oldest.abort();
            } else if self.strangers_give_way() {
                self.stats.refused(RefusalReason::GaveWay);
            } else {
                self.refuse(&Refusal { peer, why: RefusalReason::TooMany, error: None });
                return;
            }
        }
        let counted = CountGuard::open(&self.stats);
        let timeout = self.limits.handshake_timeout;
        let number = self.next;
        self.next += 1;
        let pending = CountGuard::pending(&self.stats);
        let acceptor = self.tls.as_ref().map(|tls| tls.acceptor());
        let greeting = async move {
            let _pending = pending;
            (number, Connection::greet(stream, peer, acceptor, counted, timeout).await)
        };
        self.oldest.insert(number, self.pending.spawn(greeting));
    }

    /// Closes the connection that has been open for longest without an admitted call, if there is one.
    fn strangers_give_way(&mut self) -> bool {
        std::iter::from_fn(|| self.strangers.pop_front()).any(|stranger| stranger.gives_way())
    }

    fn remember(&mut self, stranger: Stranger) {
        if self.strangers.len() >= self.limits.connections as usize {
            self.strangers.retain(Stranger::is_one);
        }
        self.strangers.push_back(stranger);
    }

    fn ended(&mut self, ended: Result<(u64, Result<Connection, Refusal>), JoinError>) -> Option<Connection> {
        let greeted = match ended {
            Ok((number, greeted)) => {
                self.oldest.remove(&number);
                greeted
            }
            Err(error) => {
                self.oldest.retain(|_, handle| handle.id() != error.id());
                self.stats.refused(RefusalReason::GaveWay);
                return None;
            }
        };
        greeted.map_err(|refusal| self.refuse(&refusal)).ok()
    }

    fn refuse(&mut self, refusal: &Refusal) {
        self.stats.refused(refusal.why);
        if let Some(reason) = refusal.error.as_ref().and_then(tls::certificate_fault) {
            // There is no response that could wait for the audit.
            let _ = self.audit.record_denied_admission(audit::Call {
                peer: Some(refusal.peer),
                rpc: HANDSHAKE,
                code: "UNAUTHENTICATED",
                reason: Some(reason),
                ..audit::Call::default()
            });
        }
        if refusal.why == RefusalReason::Left {
            // Health probes do so regularly.
            tracing::debug!(peer = %refusal.peer, "a connection was closed before it sent anything");
            return;
        }
        self.notice.tell(refusal.why, || match &refusal.error {
            Some(error) => format!("{}: {error}", refusal.peer),
            None => refusal.peer.to_string(),
        });
    }

    /// Handles a failed accept. Unless the failure concerns only that connection, the listener pauses, as an immediate
    /// retry would fail again.
    fn failed(&mut self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};

        if [ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted].contains(&error.kind()) {
            return;
        }
        self.pause = Some(Box::pin(tokio::time::sleep(self.pause_for)));
        self.pause_for = (self.pause_for * 2).min(PAUSE_MAX);
        self.stats.refused(RefusalReason::NoResources);
        self.notice.tell(RefusalReason::NoResources, || error.to_string());
    }
}
