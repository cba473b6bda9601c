//! The connections to an endpoint: opened when needed, used again, and never more than allowed.
//!
//! A request has a place before it looks for a connection, and there are as many places as connections may be. A new
//! connection is opened only where no open one is free; so there are never more than places.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::Response;
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    connection::{ConnectError, Connection, Connector},
    request::Request,
};
use crate::clock::{Clock, Uptime};

/// A connection is not used again after so long: what is between may have forgotten it without a word.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// How long a connection may take to be free again once its answer has been read.
const RELEASE_MAX: Duration = Duration::from_secs(1);

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the request was not answered")]
    Exchange(#[source] hyper::Error),
}

pub(super) struct Pool {
    connector: Connector,
    clock: Clock,
    places: Arc<Semaphore>,
    open: Mutex<Vec<Open>>,
    /// Whether one connection is expected to serve all requests: then they wait for it instead of opening their own.
    shares: AtomicBool,
    connecting: tokio::sync::Mutex<()>,
}

/// A connection that a request may take.
struct Open {
    connection: Connection,
    used: Uptime,
}

/// A request's right to a connection, and the connection once it has one.
pub(super) struct Place {
    connection: Option<Connection>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Pool {
    pub(super) fn new(connector: Connector, max_connections: u32, clock: Clock) -> Self {
        Pool {
            clock,
            places: Arc::new(Semaphore::new(max_connections as usize)),
            open: Mutex::default(),
            shares: AtomicBool::new(connector.may_share()),
            connecting: tokio::sync::Mutex::default(),
            connector,
        }
    }

    /// Waits until there may be another request.
    pub(super) async fn place(&self) -> Place {
        // The semaphore is never closed.
        Place { connection: None, _permit: Arc::clone(&self.places).acquire_owned().await.ok() }
    }

    /// Sends a request over an open connection, or over a new one. One that turns out to have been closed before
    /// anything was written gives way to the next.
    pub(super) async fn send(
        &self,
        place: &mut Place,
        request: &Request,
    ) -> Result<Response<Incoming>, SendError> {
        loop {
            let (connection, is_new) = match self.take() {
                Some(connection) => (connection, false),
                None => self.connect().await?,
            };
            let connection = place.connection.insert(connection);
            match connection.send(request).await {
                Ok(response) => return Ok(response),
                Err(unanswered) if unanswered.was_unsent && !is_new => self.unshare(),
                Err(unanswered) => return Err(SendError::Exchange(unanswered.error)),
            }
        }
    }

    /// Keeps a request's connection for the next one, once its answer has been read to the end.
    pub(super) async fn give_back(&self, mut place: Place) {
        let Some(mut connection) = place.connection.take_if(|connection| connection.share().is_none()) else {
            return;
        };
        if tokio::time::timeout(RELEASE_MAX, connection.ready()).await == Ok(true) {
            self.open.lock().push(Open { connection, used: self.clock.uptime() });
        }
    }

    /// Gives no more requests to a connection that takes none: those on it go on.
    fn unshare(&self) {
        self.open.lock().retain(|open| open.connection.share().is_none());
    }

    /// Opens a connection, and closes it again.
    pub(super) async fn reach(&self) -> Result<(), SendError> {
        self.connector.connect().await?;
        Ok(())
    }

    fn take(&self) -> Option<Connection> {
        let now = self.clock.uptime();
        let mut open = self.open.lock();
        open.retain(|open| !open.connection.is_closed() && now.since(open.used) < IDLE_MAX);
        let last = open.last_mut()?;
        last.used = now;
        last.connection.share().or_else(|| open.pop().map(|open| open.connection))
    }

    /// A connection, and whether it is new.
    async fn connect(&self) -> Result<(Connection, bool), SendError> {
        let turn = match self.shares.load(Ordering::Relaxed) {
            true => {
                let turn = self.connecting.lock().await;
                if let Some(connection) = self.take() {
                    return Ok((connection, false));
                }
                // Where the one before has failed, or can't be shared, those who waited go on side by side.
                self.shares.load(Ordering::Relaxed).then_some(turn)
            }
            false => None,
        };
        let connected = self.connector.connect().await;
        let shared = connected.as_ref().ok().and_then(Connection::share);
        self.shares.store(shared.is_some(), Ordering::Relaxed);
        if let Some(connection) = shared {
            self.open.lock().push(Open { connection, used: self.clock.uptime() });
        }
        drop(turn);
        Ok((connected?, true))
    }
}
