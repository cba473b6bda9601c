//! The listening socket: who comes in, and who does not.
//!
//! A connection is *pending* until its TLS handshake is done and its first byte has come; only then the protocol gets to
//! see it. Whoever connects and stays silent costs a file descriptor for a few seconds, and gives way to newcomers. So
//! does a *stranger*, who speaks the protocol but has made no call that was let in, once all connections are taken.

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
pub use stats::{ListenStats, Refused};
use stats::{Notice, Place};

use crate::{
    audit::{self, Audit},
    clock::Clock,
    settings::LimitSettings,
    tls::{self, Tls},
};

/// Where the system has no file descriptor left for a new connection, it is asked again after this time,
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// and at last only so often. Connections wait in the system's own queue meanwhile.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What stands for the RPC in the audit of a handshake.
const HANDSHAKE: &str = "TLS handshake";

/// Takes connections from a socket within its limits.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    limits: LimitSettings,
    tls: Option<Arc<Tls>>,
    audit: Arc<Audit>,
    stats: Arc<ListenStats>,
    notice: Notice,
    pending: JoinSet<(u64, Result<Connection, Refusal>)>,
    /// The pending ones in the order in which they came.
    oldest: BTreeMap<u64, AbortHandle>,
    next: u64,
    /// Those that speak, in the order in which they began to, until one is known to have gone or to be welcome.
    strangers: VecDeque<Stranger>,
    /// Set while the system can't give a connection.
    pause: Option<Pin<Box<Sleep>>>,
    pause_for: Duration,
}

/// A pending connection that did not make it.
#[derive(Debug)]
struct Refusal {
    peer: SocketAddr,
    why: Refused,
    error: Option<io::Error>,
}

impl Listener {
    /// Listens for connections: with TLS, only for those that speak it. Handshakes that fail for a certificate are
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
            notice: Notice::new(clock, stats),
            pending: JoinSet::new(),
            oldest: BTreeMap::new(),
            next: 0,
            strangers: VecDeque::new(),
            pause: None,
            pause_for: PAUSE_MIN,
        }
    }

    /// The next connection that has something to say.
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

    /// Lets a connection in as far as it can prove that it is one.
    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) {
        self.pause_for = PAUSE_MIN;
        self.stats.accepted();
        let full = self.stats.open() >= u64::from(self.limits.connections);
        if full || self.oldest.len() >= self.limits.handshakes as usize {
            // Those that have been silent for longest go first, so that a flood of them keeps nobody out.
            if let Some((_, oldest)) = self.oldest.pop_first() {
                oldest.abort();
            } else if self.strangers_give_way() {
                self.stats.refused(Refused::GaveWay);
            } else {
                self.refuse(&Refusal { peer, why: Refused::TooMany, error: None });
                return;
            }
        }
        let place = Place::open(&self.stats);
        let timeout = self.limits.handshake_timeout;
        let number = self.next;
        self.next += 1;
        let pending = Place::pending(&self.stats);
        let acceptor = self.tls.as_ref().map(|tls| tls.acceptor());
        let greeting = async move {
            let _pending = pending;
            (number, Connection::greet(stream, peer, acceptor, place, timeout).await)
        };
        self.oldest.insert(number, self.pending.spawn(greeting));
    }

    /// Closes the connection that has been open for longest without a call that was let in, if there is one.
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
                self.stats.refused(Refused::GaveWay);
                return None;
            }
        };
        greeted.map_err(|refusal| self.refuse(&refusal)).ok()
    }

    fn refuse(&mut self, refusal: &Refusal) {
        self.stats.refused(refusal.why);
        if let Some(reason) = refusal.error.as_ref().and_then(tls::certificate_fault) {
            // There is no answer that could wait for it.
            let _ = self.audit.record_stranger(audit::Call {
                peer: Some(refusal.peer),
                rpc: HANDSHAKE,
                code: "UNAUTHENTICATED",
                reason: Some(reason),
                ..audit::Call::default()
            });
        }
        if refusal.why == Refused::Left {
            // Probes do so for ever.
            tracing::debug!(peer = %refusal.peer, "a connection was closed before it said anything");
            return;
        }
        self.notice.tell(refusal.why, || match &refusal.error {
            Some(error) => format!("{}: {error}", refusal.peer),
            None => refusal.peer.to_string(),
        });
    }

    /// The system gave no connection. Unless that is the fault of the one that it would have given, it is left alone
    /// for a while: it would only say the same again, as fast as it can be asked.
    fn failed(&mut self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};

        if [ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted].contains(&error.kind()) {
            return;
        }
        self.pause = Some(Box::pin(tokio::time::sleep(self.pause_for)));
        self.pause_for = (self.pause_for * 2).min(PAUSE_MAX);
        self.stats.refused(Refused::NoResources);
        self.notice.tell(Refused::NoResources, || error.to_string());
    }
}
