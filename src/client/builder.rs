//! The builder of a client: address, TLS, token, time limits and retries.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use tonic::{
    Request, Status,
    codegen::http::Uri,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::{Client, ClientError, Shared, error::root_cause, retry::Retries};
use crate::job::RetryPolicy;

/// The port of a server whose address names none.
pub const DEFAULT_PORT: u16 = 7733;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Default time limit of a call. Longer than a submission waits for room in its queue by default.
const CALL_TIMEOUT: Duration = Duration::from_secs(40);
const RETRY_FOR: Duration = Duration::from_secs(30);
/// Interval and timeout of HTTP/2 keep-alive pings. Without them, a stream could wait for ever on a connection that
/// broke silently.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The builder of a [`Client`].
#[derive(Clone)]
#[must_use]
pub struct ClientBuilder {
    endpoint: String,
    connect_timeout: Duration,
    call_timeout: Duration,
    retries: Retries,
    ca_certificate: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    token: Option<String>,
    plaintext_token: bool,
    required: Vec<String>,
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl ClientBuilder {
    pub(super) fn new(endpoint: &str) -> Self {
        ClientBuilder {
            endpoint: endpoint.to_owned(),
            connect_timeout: CONNECT_TIMEOUT,
            call_timeout: CALL_TIMEOUT,
            retries: Retries {
                policy: RetryPolicy {
                    delays: None,
                    initial_delay: Duration::from_millis(100),
                    max_delay: Duration::from_secs(5),
                    multiplier: 2.0,
                    jitter: 0.5,
                },
                retry_for: RETRY_FOR,
                random: Arc::new(rand::random::<f64>),
            },
            ca_certificate: None,
            identity: None,
            token: None,
            plaintext_token: false,
            required: Vec::new(),
        }
    }

    /// Trusts servers whose certificates come from these authorities (PEM), in place of those that the system trusts.
    /// An address without a scheme then means `https://`.
    pub fn ca_certificate(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca_certificate = Some(pem.into());
        self
    }

    /// Presents this certificate (PEM, with its intermediate certificates) to servers that ask for one; `key` is its
    /// private key (PEM). An address without a scheme then means `https://`.
    pub fn identity(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// Sends this token with each call, over TLS or to this machine only: see [`ClientBuilder::plaintext_token`].
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Sends the token without TLS too, to any machine: for networks that are encrypted otherwise. Default false.
    pub fn plaintext_token(mut self, allowed: bool) -> Self {
        self.plaintext_token = allowed;
        self
    }

    /// Requires these features of the server in every call, in addition to those required before: names such as
    /// `expected-revision`, which [`Client::server_info`] lists. A server that does not know one of them refuses the
    /// call with [`FeatureUnknown`](crate::proto::v1::ErrorReason::FeatureUnknown) and changes nothing. Otherwise, it
    /// would ignore the fields of a request that it does not know.
    pub fn require<N: Into<String>>(mut self, features: impl IntoIterator<Item = N>) -> Self {
        self.required.extend(features.into_iter().map(Into::into));
        self
    }

    /// Sets the time limit of connecting. Default 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the time limit of one call. Default 40 s. A watch may go on for longer, but must start within it. The
    /// server is told the limit, so that it refuses a submission to a full queue in time.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Sets for how long calls with an unknown outcome are repeated, and a broken watch reconnects. Zero turns both
    /// off. Default 30 s.
    pub fn retry_for(mut self, duration: Duration) -> Self {
        self.retries.retry_for = duration;
        self
    }

    /// Sets the backoff between such retries. Default: from 100 ms, doubling up to 5 s, with a random reduction
    /// (jitter) of up to a half.
    pub fn retry_delays(mut self, policy: RetryPolicy) -> Self {
        self.retries.policy = policy;
        self
    }

    /// Sets the source of the jitter's random numbers, from 0 to 1.
    pub fn random(mut self, random: impl Fn() -> f64 + Send + Sync + 'static) -> Self {
        self.retries.random = Arc::new(random);
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// [`ClientError::InvalidEndpoint`], [`ClientError::InvalidFeature`], [`ClientError::Unreachable`] if nothing
    /// answers there, or [`ClientError::Untrusted`].
    pub async fn connect(self) -> Result<Client, ClientError> {
        let (text, endpoint) = self.endpoint()?;
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| ClientError::not_connected(text.clone(), root_cause(&error)))?;
        Ok(self.with_channel(text, channel))
    }

    /// Connects when the first call needs it, so that a server that is down now is no error.
    ///
    /// # Errors
    /// [`ClientError::InvalidEndpoint`] or [`ClientError::InvalidFeature`].
    pub fn connect_lazy(self) -> Result<Client, ClientError> {
        let (text, endpoint) = self.endpoint()?;
        let channel = endpoint.connect_lazy();
        Ok(self.with_channel(text, channel))
    }

    pub(crate) fn endpoint(&self) -> Result<(String, Endpoint), ClientError> {
        let has_tls = self.ca_certificate.is_some() || self.identity.is_some();
        let (text, encrypted, local) = normalize(&self.endpoint, has_tls)?;
        let invalid = |reason: &str| invalid(&self.endpoint, reason);
        if has_tls && !encrypted {
            return Err(invalid("http:// has no use for certificates; use https://"));
        }
        if self.token.is_some() && !encrypted && !local && !self.plaintext_token {
            return Err(invalid("the token could be read on the way; use https://"));
        }
        if self.token.is_some() && self.bearer().is_none() {
            return Err(invalid("the token has characters that are not allowed in a token"));
        }
        if let Some(name) = self.required.iter().find(|name| !is_feature_name(name)) {
            return Err(ClientError::InvalidFeature { name: name.clone() });
        }
        let mut endpoint = Endpoint::from_shared(text.clone())
            .map_err(|error| invalid(&error.to_string()))?
            .connect_timeout(self.connect_timeout)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .tcp_nodelay(true);
        if encrypted {
            let tls = match &self.ca_certificate {
                Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
                None => ClientTlsConfig::new().with_native_roots(),
            };
            let tls = match &self.identity {
                Some((certificate, key)) => tls.identity(Identity::from_pem(certificate, key)),
                None => tls,
            };
            let cause = |error: tonic::transport::Error| root_cause(&error);
            endpoint = endpoint
                .tls_config(tls)
                .map_err(|error| invalid(&format!("the certificates can't be used: {}", cause(error))))?;
        }
        Ok((text, endpoint))
    }

    fn bearer(&self) -> Option<MetadataValue<Ascii>> {
        let mut value: MetadataValue<Ascii> = format!("Bearer {}", self.token.as_ref()?).parse().ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    pub(crate) fn with_channel(self, endpoint: String, channel: Channel) -> Client {
        // `endpoint` has checked the characters of both before.
        let required = (!self.required.is_empty()).then(|| self.required.join(",").parse().ok()).flatten();
        let channel = InterceptedService::new(channel, Headers { bearer: self.bearer(), required });
        let shared = Shared { endpoint, call_timeout: self.call_timeout, retries: self.retries };
        Client { channel, shared: Arc::new(shared) }
    }
}

/// Interceptor that adds the token and the required features to each call.
#[derive(Clone)]
pub(crate) struct Headers {
    bearer: Option<MetadataValue<Ascii>>,
    required: Option<MetadataValue<Ascii>>,
}

impl fmt::Debug for Headers {
    /// Formats everything but the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Headers").field("required", &self.required).finish_non_exhaustive()
    }
}

impl Interceptor for Headers {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        for (name, value) in [("authorization", &self.bearer), ("jobmill-require", &self.required)] {
            if let Some(value) = value {
                request.metadata_mut().insert(name, value.clone());
            }
        }
        Ok(request)
    }
}

/// Returns the token that the text of a file holds, without the white space around it. `None` if it holds no token, which
/// is one or more visible ASCII characters.
#[must_use]
pub fn token_in(text: &str) -> Option<&str> {
    let token = text.trim();
    (!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic())).then_some(token)
}

fn is_feature_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
}

fn invalid(endpoint: &str, reason: &str) -> ClientError {
    ClientError::InvalidEndpoint { endpoint: endpoint.to_owned(), reason: reason.to_owned() }
}

/// Normalizes an address to `http://host:port` or `https://host:port`. Also returns whether it is encrypted, and
/// whether it is this machine.
fn normalize(endpoint: &str, prefers_tls: bool) -> Result<(String, bool, bool), ClientError> {
    let text = endpoint.trim();
    if text.is_empty() {
        return Err(invalid(endpoint, "it is empty"));
    }
    let (encrypted, rest) = match text.split_once("://") {
        None => (prefers_tls, text),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
        Some((scheme, _)) => {
            return Err(invalid(endpoint, &format!("the scheme `{scheme}` is not http or https")));
        }
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let uri: Uri =
        format!("http://{authority}").parse().map_err(|_| invalid(endpoint, "it is not host:port"))?;
    let (Some(host), true) = (uri.host().filter(|host| !host.is_empty()), uri.path() == "/") else {
        return Err(invalid(endpoint, "it is not host:port"));
    };
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(invalid(endpoint, "it may not hold a user name"));
    }
    // `port_u16` loses a port that is no number, which must not turn into the default.
    let port = match uri.port_u16() {
        Some(port) => port,
        None if authority.len() == host.len() => DEFAULT_PORT,
        None => return Err(invalid(endpoint, "its port is not a number from 1 to 65535")),
    };
    let scheme = if encrypted { "https" } else { "http" };
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let local = host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback());
    Ok((format!("{scheme}://{host}:{port}"), encrypted, local))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_may_be_written_in_several_ways() {
        for (text, expected) in [
            ("http://127.0.0.1:7733", "http://127.0.0.1:7733"),
            ("HTTP://example.org:80/", "http://example.org:80"),
            ("127.0.0.1:9000", "http://127.0.0.1:9000"),
            ("localhost", "http://localhost:7733"),
            ("[::1]:9000", "http://[::1]:9000"),
            ("[::1]", "http://[::1]:7733"),
            (" queue.internal:1 ", "http://queue.internal:1"),
            ("https://queue.internal", "https://queue.internal:7733"),
        ] {
            assert_eq!(normalize(text, false).unwrap().0, expected, "{text:?}");
        }
        assert_eq!(normalize("queue.internal:1", true).unwrap().0, "https://queue.internal:1");
    }

    #[test]
    fn a_token_goes_only_over_tls_or_to_this_machine() {
        for (endpoint, fits) in [
            ("http://127.0.0.1:1", true),
            ("localhost:1", true),
            ("[::1]:1", true),
            ("https://queue.internal", true),
            ("http://queue.internal", false),
            ("localhost.evil.example:1", false),
        ] {
            let builder = ClientBuilder::new(endpoint).token("secret");
            assert_eq!(builder.endpoint().is_ok(), fits, "{endpoint}");
            assert!(builder.plaintext_token(true).endpoint().is_ok(), "{endpoint}");
        }
        let refusal = ClientBuilder::new("localhost").token("a\nb").endpoint().unwrap_err().to_string();
        assert!(!refusal.contains("a\nb"), "{refusal}");
        assert!(ClientBuilder::new("http://localhost").ca_certificate("").endpoint().is_err());
    }

    #[test]
    fn what_is_no_endpoint_is_refused_with_the_reason() {
        let said: Vec<_> =
            ["", "ftp://host", "host:port", "host:99999", "host:1/path", "user@host:1", "a b", ":7733"]
                .into_iter()
                .map(|text| normalize(text, false).unwrap_err().to_string())
                .collect();
        insta::assert_snapshot!(said.join("\n"), @r"
        `` is no server address: it is empty
        `ftp://host` is no server address: the scheme `ftp` is not http or https
        `host:port` is no server address: its port is not a number from 1 to 65535
        `host:99999` is no server address: its port is not a number from 1 to 65535
        `host:1/path` is no server address: it is not host:port
        `user@host:1` is no server address: it may not hold a user name
        `a b` is no server address: it is not host:port
        `:7733` is no server address: it is not host:port
        ");
    }
}
