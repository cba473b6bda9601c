//! Connecting to an endpoint: name look-up, check of each address, TLS and the HTTP handshake.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{InvalidDnsNameError, ServerName},
    },
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    exchange::ExchangeError,
    http1::Http1,
    http2::Http2,
    socket::{Socket, SocketStats},
};
use crate::{
    clock::Clock,
    settings::{Authorities, HttpUrl, Refused, Targets},
    timeouts,
};

/// Byte limit of a response's status line and headers.
pub(super) const HEAD_MAX_BYTES: u32 = 32 << 10;
/// Maximum number of a host's addresses that are tried.
const ADDRESSES_MAX: usize = 8;

/// The failure of a connection attempt.
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
    #[error("the TLS handshake with the host {host} failed")]
    Tls { host: String, source: io::Error },
    #[error("the HTTP handshake with the host {host} failed")]
    Handshake { host: String, source: ExchangeError },
    #[error("the host {host} was not connected to within {}", humantime::format_duration(*limit))]
    TimedOut { host: String, limit: Duration },
}

/// TLS can't be set up.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("the host {host:?} is not a name that a TLS certificate can have")]
    Name { host: String, source: InvalidDnsNameError },
    #[error("TLS can't be set up")]
    Setup(#[from] rustls::Error),
}

/// A connector to one endpoint.
pub(super) struct Connector {
    url: HttpUrl,
    targets: Targets,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    timeout: Duration,
    clock: Clock,
    /// Tasks that do the I/O of open connections. Each ends with its [`Connection`].
    drivers: TaskTracker,
}

/// An open connection of either HTTP version.
pub(super) enum Connection {
    Http1(Http1),
    Http2(Arc<Http2>),
}

impl Connector {
    pub(super) fn new(
        url: HttpUrl,
        targets: Targets,
        authorities: Option<&Authorities>,
        timeout: Duration,
        clock: Clock,
    ) -> Result<Self, TlsError> {
        let tls = match url.is_tls() {
            true => Some(tls(url.host(), authorities)?),
            false => None,
        };
        Ok(Connector { url, targets, tls, timeout, clock, drivers: TaskTracker::new() })
    }

    /// Whether one connection may serve all requests: HTTP/2 is negotiated only over TLS.
    pub(super) fn may_share(&self) -> bool {
        self.tls.is_some()
    }

    pub(super) async fn connect(&self) -> Result<Connection, ConnectError> {
        let timed_out = || ConnectError::TimedOut { host: self.host(), limit: self.timeout };
        timeouts::within(self.timeout, self.open()).await.ok_or_else(timed_out)?
    }

    async fn open(&self) -> Result<Connection, ConnectError> {
        let stream = Socket::new(self.reach().await?, self.clock.clone());
        let stats = stream.stats();
        let Some((connector, name)) = &self.tls else {
            return self.http1(stream, stats).await;
        };
        let tls = connector.connect(name.clone(), stream).await;
        let stream = tls.map_err(|source| ConnectError::Tls { host: self.host(), source })?;
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => self.http2(stream, stats).await,
            Some(_) | None => self.http1(stream, stats).await,
        }
    }

    /// Connects to the first of the host's addresses that is allowed and accepts the connection.
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
        // An address that does not answer must leave time for the next.
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

    async fn http1<S>(&self, stream: S, stats: Arc<SocketStats>) -> Result<Connection, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = http1::Builder::new();
        builder.max_header_size(HEAD_MAX_BYTES as usize);
        let (sender, connection) = builder
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| ConnectError::Handshake { host: self.host(), source: error.into() })?;
        let closed = CancellationToken::new();
        let open = closed.clone().drop_guard();
        // Its error also reaches the request that waits for a response.
        self.drivers.spawn(async move { closed.run_until_cancelled(connection).await.map(drop) });
        Ok(Connection::Http1(Http1::new(sender, stats, open)))
    }

    async fn http2<S>(&self, stream: S, stats: Arc<SocketStats>) -> Result<Connection, ConnectError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let connection = Http2::new(stream, stats, &self.drivers)
            .await
            .map_err(|error| ConnectError::Handshake { host: self.host(), source: error.into() })?;
        Ok(Connection::Http2(connection))
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
