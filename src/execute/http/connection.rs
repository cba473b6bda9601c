//! From a URL to a connection, by way of the check of each address.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
    rt,
};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{InvalidDnsNameError, ServerName},
    },
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::request::Request;
use crate::config::{Authorities, HttpUrl, Refused, Targets};

/// The longest head of an answer, status line and headers.
const HEAD_MAX_BYTES: u32 = 32 << 10;
/// So many of a name's addresses are tried.
const ADDRESSES_MAX: usize = 8;

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("the host {host} can't be looked up")]
    LookUp { host: String, source: io::Error },
    #[error("the host {host} has no address")]
    NoAddress { host: String },
    #[error("the host {host} is not allowed: {refused}")]
    Refused { host: String, refused: Refused },
    #[error("can't connect to {address}")]
    Connect { address: SocketAddr, source: io::Error },
    #[error("no TLS with the host {host}")]
    Tls { host: String, source: io::Error },
    #[error("no HTTP with the host {host}")]
    Handshake { host: String, source: hyper::Error },
    #[error("the host {host} was not connected to within {}", humantime::format_duration(*limit))]
    TimedOut { host: String, limit: Duration },
}

/// Why TLS can't be set up.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("the host {host:?} is no name that a certificate could have")]
    Name { host: String, source: InvalidDnsNameError },
    #[error("TLS can't be set up")]
    Setup(#[from] rustls::Error),
}

/// Connects to one endpoint.
pub(super) struct Connector {
    url: HttpUrl,
    targets: Targets,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    timeout: Duration,
    /// What moves the bytes of open connections. Each ends with its [`Connection`].
    drivers: TaskTracker,
}

/// An open connection. To drop it closes it, and whatever it was about to say.
pub(super) enum Connection {
    /// Of use to one request at a time.
    Http1 { sender: http1::SendRequest<Full<Bytes>>, _open: DropGuard },
    /// Shared by all requests.
    Http2 { sender: http2::SendRequest<Full<Bytes>>, open: Arc<DropGuard> },
}

impl Connector {
    pub(super) fn new(
        url: HttpUrl,
        targets: Targets,
        authorities: Option<&Authorities>,
        timeout: Duration,
    ) -> Result<Self, TlsError> {
        let tls = match url.is_tls() {
            true => Some(tls(url.host(), authorities)?),
            false => None,
        };
        Ok(Connector { url, targets, tls, timeout, drivers: TaskTracker::new() })
    }

    /// Whether one connection may turn out to serve all requests.
    pub(super) fn may_share(&self) -> bool {
        self.tls.is_some()
    }

    pub(super) async fn connect(&self) -> Result<Connection, ConnectError> {
        let timed_out = |_| ConnectError::TimedOut { host: self.host(), limit: self.timeout };
        tokio::time::timeout(self.timeout, self.open()).await.map_err(timed_out)?
    }

    async fn open(&self) -> Result<Connection, ConnectError> {
        let stream = self.reach().await?;
        // Requests are written whole: there is nothing to wait for.
        let _ = stream.set_nodelay(true);
        let Some((connector, name)) = &self.tls else {
            return self.http1(stream).await;
        };
        let tls = connector.connect(name.clone(), stream).await;
        let stream = tls.map_err(|source| ConnectError::Tls { host: self.host(), source })?;
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => self.http2(stream).await,
            Some(_) | None => self.http1(stream).await,
        }
    }

    /// Connects to the first of the host's addresses that is allowed and answers.
    async fn reach(&self) -> Result<TcpStream, ConnectError> {
        let found = lookup_host((self.url.host(), self.url.port())).await;
        let found = found.map_err(|source| ConnectError::LookUp { host: self.host(), source })?;
        let mut problem = ConnectError::NoAddress { host: self.host() };
        let mut allowed = Vec::new();
        for address in found {
            match self.targets.check(address.ip()) {
                Ok(()) => allowed.push(address),
                Err(refused) => problem = ConnectError::Refused { host: self.host(), refused },
            }
        }
        allowed.truncate(ADDRESSES_MAX);
        // One that does not answer must leave time for the next.
        let share = self.timeout / u32::try_from(allowed.len().max(1)).unwrap_or(u32::MAX);
        for address in allowed {
            let late = |_| Err(io::Error::from(io::ErrorKind::TimedOut));
            let connected = tokio::time::timeout(share, TcpStream::connect(address)).await;
            match connected.unwrap_or_else(late) {
                Ok(stream) => return Ok(stream),
                Err(source) => problem = ConnectError::Connect { address, source },
            }
        }
        Err(problem)
    }

    async fn http1<S>(&self, stream: S) -> Result<Connection, ConnectError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = http1::Builder::new();
        builder.max_header_size(HEAD_MAX_BYTES as usize);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(self.no_http())?;
        Ok(Connection::Http1 { sender, _open: self.drive(connection) })
    }

    async fn http2<S>(&self, stream: S) -> Result<Connection, ConnectError>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = http2::Builder::new(Drivers(self.drivers.clone()));
        builder.max_header_list_size(HEAD_MAX_BYTES);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(self.no_http())?;
        Ok(Connection::Http2 { sender, open: Arc::new(self.drive(connection)) })
    }

    /// Moves a connection's bytes until what is returned is dropped.
    fn drive(
        &self,
        connection: impl Future<Output = Result<(), hyper::Error>> + Send + 'static,
    ) -> DropGuard {
        let closed = CancellationToken::new();
        let guard = closed.clone().drop_guard();
        // Its error comes to whoever waits for an answer, too.
        self.drivers.spawn(async move { closed.run_until_cancelled(connection).await.map(drop) });
        guard
    }

    fn no_http(&self) -> impl Fn(hyper::Error) -> ConnectError {
        |source| ConnectError::Handshake { host: self.host(), source }
    }

    fn host(&self) -> String {
        self.url.host().to_owned()
    }
}

fn tls(
    host: &str,
    authorities: Option<&Authorities>,
) -> Result<(TlsConnector, ServerName<'static>), TlsError> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|source| TlsError::Name { host: host.to_owned(), source })?;
    let roots = match authorities {
        Some(authorities) => authorities.store(),
        None => Arc::new(RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned())),
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((TlsConnector::from(Arc::new(config)), name))
}

/// The owner of the tasks that HTTP/2 starts for its streams.
#[derive(Clone)]
struct Drivers(TaskTracker);

impl<F> rt::Executor<F> for Drivers
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

/// Why a request has no answer.
pub(super) struct Unanswered {
    pub(super) error: hyper::Error,
    /// Whether nothing of it was written.
    pub(super) was_unsent: bool,
}

impl Connection {
    pub(super) async fn send(&mut self, request: &Request) -> Result<Response<Incoming>, Unanswered> {
        let unanswered = |mut error: TrySendError<_>| {
            let was_unsent = error.take_message().is_some();
            Unanswered { error: error.into_error(), was_unsent }
        };
        match self {
            Connection::Http1 { sender, .. } => {
                sender.try_send_request(request.to_http1()).await.map_err(unanswered)
            }
            Connection::Http2 { sender, .. } => {
                sender.try_send_request(request.to_http2()).await.map_err(unanswered)
            }
        }
    }

    /// Returns once it can take another request; false if it never will.
    pub(super) async fn ready(&mut self) -> bool {
        match self {
            Connection::Http1 { sender, .. } => sender.ready().await.is_ok(),
            Connection::Http2 { sender, .. } => sender.ready().await.is_ok(),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        match self {
            Connection::Http1 { sender, .. } => sender.is_closed(),
            Connection::Http2 { sender, .. } => sender.is_closed(),
        }
    }

    /// The same connection for another request, if it can be shared.
    pub(super) fn share(&self) -> Option<Connection> {
        match self {
            Connection::Http1 { .. } => None,
            Connection::Http2 { sender, open } => {
                Some(Connection::Http2 { sender: sender.clone(), open: Arc::clone(open) })
            }
        }
    }
}
