//! The connection pool of an endpoint: connections are opened on demand, reused, and limited in number.
//!
//! A request acquires a permit before it looks for a connection, and there are as many permits as connections are
//! allowed. A new connection is opened only if none is free, after those without a request were closed. So each
//! connection has a request with a permit, or became free after the last one was opened, and there are never more
//! connections than permits.
//!
//! A request that was certainly not processed is sent again: the endpoint refused it, or its connection accepted no
//! more requests (GOAWAY, or closed before a byte was written). All other errors are failures, as a POST is not
//! idempotent.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Response, StatusCode};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    connection::{ConnectError, Connection, Connector},
    exchange::{Body, Exchange, ExchangeError, Fate, Unanswered},
    http2::Http2,
    request::Request,
};

/// Age after which a connection gets no new requests. The host's name is then looked up again.
const AGE_MAX: Duration = Duration::from_secs(5 * 60);
/// Time limit for a connection to become free again once its response has been read.
const RELEASE_MAX: Duration = Duration::from_secs(1);
/// Maximum number of resends of a request that was certainly not processed.
const RESENDS_MAX: u32 = 10;
/// Number of resends without a pause, if the connection accepted no more requests. Another connection usually accepts
/// the request, unless other requests exhaust it first.
const HASTY_RESENDS: u32 = 3;
/// Backoff before the first other resend. It doubles with each further resend, up to a second.
const RESEND_PAUSE: Duration = Duration::from_millis(20);

/// The failure of a request that got no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the request was not answered")]
    Exchange(#[source] ExchangeError),
    #[error("the request was not processed, though sent {sent} times")]
    Unprocessed { sent: u32, source: ExchangeError },
}

/// A request's wait for a permit exceeded its limit.
#[derive(Debug, thiserror::Error)]
#[error("none of the {permits} connections was free within {}", humantime::format_duration(*waited))]
pub(super) struct PoolExhausted {
    permits: u32,
    waited: Duration,
}

/// The limits of a kind's connections.
pub(super) struct PoolLimits {
    pub(super) connections: u32,
    /// The longest wait of a request for a permit.
    pub(super) wait: Duration,
    /// The idle time after which a connection is not reused.
    pub(super) idle: Duration,
}

pub(super) struct Pool {
    connector: Connector,
    limits: PoolLimits,
    permits: Arc<Semaphore>,
    open: Mutex<Vec<Connection>>,
    /// Whether one connection is expected to serve all requests (HTTP/2): they then wait for it instead of opening
    /// their own.
    shares: AtomicBool,
    /// Held by the one request that opens or checks a connection, while the others wait for the outcome.
    turn: tokio::sync::Mutex<()>,
}

/// A request's permit for a connection, and the connection once it has one.
pub(super) struct PoolPermit {
    // Fields drop in this order: the connection is closed before the permit is released.
    exchange: Option<Exchange>,
    _permit: Option<OwnedSemaphorePermit>,
}

/// The result of a search among the open connections for one more request.
enum Available {
    Free(Exchange),
    /// A connection that may have died unnoticed.
    Doubtful(Arc<Http2>),
    Nothing,
}

impl Pool {
    pub(super) fn new(connector: Connector, limits: PoolLimits) -> Self {
        Pool {
            permits: Arc::new(Semaphore::new(limits.connections as usize)),
            limits,
            open: Mutex::default(),
            shares: AtomicBool::new(connector.may_share()),
            turn: tokio::sync::Mutex::default(),
            connector,
        }
    }

    /// Waits for a permit to send a request.
    pub(super) async fn acquire(&self) -> Result<PoolPermit, PoolExhausted> {
        let permit = Arc::clone(&self.permits).acquire_owned();
        let PoolLimits { connections: permits, wait: waited, .. } = self.limits;
        let permit =
            tokio::time::timeout(waited, permit).await.map_err(|_| PoolExhausted { permits, waited })?;
        // The semaphore is never closed.
        Ok(PoolPermit { exchange: None, _permit: permit.ok() })
    }

    /// Sends a request over an open connection, or over a new one, until it may have been processed.
    pub(super) async fn send(
        &self,
        permit: &mut PoolPermit,
        request: &Request,
    ) -> Result<Response<Body>, SendError> {
        let mut sent = 0;
        loop {
            let (exchange, is_new) = self.exchange().await?;
            sent += 1;
            let exchange = permit.exchange.insert(exchange);
            let Unanswered { error, fate } = match exchange.send(request).await {
                // The request reached a server that is no longer responsible; another connection may lead to another
                // server.
                Ok(answer)
                    if answer.status() == StatusCode::MISDIRECTED_REQUEST
                        && !is_new
                        && sent <= HASTY_RESENDS =>
                {
                    self.retire(permit.exchange.take());
                    continue;
                }
                Ok(answer) => return Ok(answer),
                Err(unanswered) => unanswered,
            };
            permit.exchange = None;
            match fate {
                Fate::Unknown => return Err(SendError::Exchange(error)),
                Fate::Unsent | Fate::Refused if sent > RESENDS_MAX => {
                    return Err(SendError::Unprocessed { sent, source: error });
                }
                Fate::Unsent if sent <= HASTY_RESENDS => {}
                Fate::Unsent | Fate::Refused => tokio::time::sleep(resend_pause(sent)).await,
            }
        }
    }

    /// Returns a connection to the pool, once its response has been read to the end.
    pub(super) async fn give_back(&self, mut permit: PoolPermit) {
        match permit.exchange.take() {
            Some(Exchange::Http1(mut connection)) => {
                let is_ready = tokio::time::timeout(RELEASE_MAX, connection.ready()).await;
                if is_ready == Ok(true) {
                    self.open.lock().push(Connection::Http1(connection));
                }
            }
            Some(Exchange::Http2(stream)) => stream.done(),
            None => {}
        }
    }

    /// Opens a connection and closes it again, as a check.
    pub(super) async fn reach(&self) -> Result<(), SendError> {
        self.connector.connect().await?;
        Ok(())
    }

    /// Returns a connection for one more request, and whether the connection is new.
    async fn exchange(&self) -> Result<(Exchange, bool), SendError> {
        let mut turn = None;
        loop {
            let shares = self.shares.load(Ordering::Relaxed);
            match self.take() {
                Available::Free(exchange) => return Ok((exchange, false)),
                // The previous connection attempt failed or gave a connection that can't be shared: the waiting
                // requests connect in parallel.
                Available::Nothing if !shares => {
                    drop(turn);
                    return Ok((self.connect().await?, true));
                }
                Available::Nothing if turn.is_some() => return Ok((self.connect().await?, true)),
                Available::Doubtful(connection) if turn.is_some() => {
                    if !connection.answers().await {
                        self.close(&connection);
                    }
                }
                // Another request may open or check a connection meanwhile.
                Available::Doubtful(_) | Available::Nothing => turn = Some(self.turn.lock().await),
            }
        }
    }

    async fn connect(&self) -> Result<Exchange, SendError> {
        let connected = self.connector.connect().await;
        self.shares.store(matches!(connected, Ok(Connection::Http2(_))), Ordering::Relaxed);
        match connected? {
            Connection::Http1(connection) => Ok(Exchange::Http1(connection)),
            Connection::Http2(connection) => {
                let stream = connection.stream();
                self.open.lock().push(Connection::Http2(connection));
                Ok(Exchange::Http2(stream))
            }
        }
    }

    fn take(&self) -> Available {
        let mut open = self.open.lock();
        open.retain(|connection| self.is_kept(connection));
        let mut doubtful = None;
        for at in (0..open.len()).rev() {
            match &open[at] {
                Connection::Http1(_) => {
                    if let Connection::Http1(connection) = open.remove(at)
                        && connection.is_usable(self.limits.idle)
                    {
                        return Available::Free(Exchange::Http1(connection));
                    }
                }
                Connection::Http2(connection) if connection.is_full() => {}
                Connection::Http2(connection) if connection.is_trusted() => {
                    return Available::Free(Exchange::Http2(connection.stream()));
                }
                Connection::Http2(connection) => doubtful = Some(Arc::clone(connection)),
            }
        }
        match doubtful {
            Some(connection) => Available::Doubtful(connection),
            None => {
                // A new connection will be opened; idle connections are closed first, to stay within the limit.
                open.retain(|connection| matches!(connection, Connection::Http2(busy) if !busy.is_idle()));
                Available::Nothing
            }
        }
    }

    /// Whether a connection may still get requests, now or later.
    fn is_kept(&self, connection: &Connection) -> bool {
        match connection {
            Connection::Http1(connection) => connection.age() < AGE_MAX,
            Connection::Http2(connection) => {
                let is_stale = connection.is_idle() && connection.silence() >= self.limits.idle;
                connection.is_open() && connection.age() < AGE_MAX && !is_stale
            }
        }
    }

    /// Stops giving requests to the connection of an exchange.
    fn retire(&self, exchange: Option<Exchange>) {
        if let Some(Exchange::Http2(stream)) = exchange {
            self.close(stream.connection());
        }
    }

    /// Stops giving requests to a connection. Requests in flight go on.
    fn close(&self, closed: &Arc<Http2>) {
        self.open.lock().retain(|open| !matches!(open, Connection::Http2(open) if Arc::ptr_eq(open, closed)));
    }
}

fn resend_pause(sent: u32) -> Duration {
    (RESEND_PAUSE * 2_u32.saturating_pow(sent - 1)).min(Duration::from_secs(1))
}
