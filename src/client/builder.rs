//! From an address to a client that has a connection.

use std::{fmt, sync::Arc, time::Duration};

use tonic::{
    codegen::http::Uri,
    transport::{Channel, Endpoint},
};

use super::{Client, ClientError, Shared, error::root_cause, retry::Retries};
use crate::job::RetryPolicy;

/// The port of a server whose address names none.
pub const DEFAULT_PORT: u16 = 7733;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than a submission waits for room in its queue by default.
const CALL_TIMEOUT: Duration = Duration::from_secs(40);
const RETRY_FOR: Duration = Duration::from_secs(30);
/// How soon a connection that died without a word is noticed: a stream could wait on it for ever.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// A client that is being put together.
#[must_use]
pub struct ClientBuilder {
    endpoint: String,
    connect_timeout: Duration,
    call_timeout: Duration,
    retries: Retries,
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
                    initial_delay: Duration::from_millis(100),
                    max_delay: Duration::from_secs(5),
                    multiplier: 2.0,
                    jitter: 0.5,
                },
                retry_for: RETRY_FOR,
                random: Arc::new(rand::random::<f64>),
            },
        }
    }

    /// How long to wait for a connection. Default 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long one call may take; a watch may go on for longer, but must start within it. The server is told, so that
    /// a submission to a full queue is refused in time. Default 40 s.
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// How long to repeat calls whose outcome is unknown, and to reconnect a broken watch. Zero turns both off. Default
    /// 30 s.
    pub fn retry_for(mut self, duration: Duration) -> Self {
        self.retries.retry_for = duration;
        self
    }

    /// How long to wait between such repeats. Default: from 100 ms, doubling up to 5 s, of which up to a half is taken
    /// off at random.
    pub fn retry_delays(mut self, policy: RetryPolicy) -> Self {
        self.retries.policy = policy;
        self
    }

    /// Takes the randomness of the delays from elsewhere: numbers from 0 to 1.
    pub fn random(mut self, random: impl Fn() -> f64 + Send + Sync + 'static) -> Self {
        self.retries.random = Arc::new(random);
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// [`ClientError::InvalidEndpoint`], or [`ClientError::Unreachable`] if nothing answers there.
    pub async fn connect(self) -> Result<Client, ClientError> {
        let (text, endpoint) = self.endpoint()?;
        let channel = endpoint.connect().await.map_err(|error| ClientError::Unreachable {
            endpoint: text.clone(),
            cause: root_cause(&error),
        })?;
        Ok(self.with_channel(text, channel))
    }

    /// Connects when the first call needs it, so that a server that is down now is no error.
    ///
    /// # Errors
    /// [`ClientError::InvalidEndpoint`].
    pub fn connect_lazy(self) -> Result<Client, ClientError> {
        let (text, endpoint) = self.endpoint()?;
        let channel = endpoint.connect_lazy();
        Ok(self.with_channel(text, channel))
    }

    pub(super) fn endpoint(&self) -> Result<(String, Endpoint), ClientError> {
        let text = normalize(&self.endpoint)?;
        let endpoint = Endpoint::from_shared(text.clone())
            .map_err(|error| invalid(&self.endpoint, &error.to_string()))?
            .connect_timeout(self.connect_timeout)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .tcp_nodelay(true);
        Ok((text, endpoint))
    }

    pub(super) fn with_channel(self, endpoint: String, channel: Channel) -> Client {
        let shared = Shared { endpoint, call_timeout: self.call_timeout, retries: self.retries };
        Client { channel, shared: Arc::new(shared) }
    }
}

fn invalid(endpoint: &str, reason: &str) -> ClientError {
    ClientError::InvalidEndpoint { endpoint: endpoint.to_owned(), reason: reason.to_owned() }
}

/// `http://host:port` from any of the forms that people write.
fn normalize(endpoint: &str) -> Result<String, ClientError> {
    let text = endpoint.trim();
    if text.is_empty() {
        return Err(invalid(endpoint, "it is empty"));
    }
    let rest = match text.split_once("://") {
        None => text,
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => {
            return Err(invalid(endpoint, "TLS is not supported; use http://"));
        }
        Some((scheme, _)) => return Err(invalid(endpoint, &format!("the scheme `{scheme}` is not http"))),
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
    // A port that is no number is lost by `port_u16`, and must not turn into the default.
    let port = match uri.port_u16() {
        Some(port) => port,
        None if authority.len() == host.len() => DEFAULT_PORT,
        None => return Err(invalid(endpoint, "its port is not a number from 1 to 65535")),
    };
    Ok(format!("http://{host}:{port}"))
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
        ] {
            assert_eq!(normalize(text).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused_with_the_reason() {
        let said: Vec<_> = [
            "",
            "https://host:1",
            "ftp://host",
            "host:port",
            "host:99999",
            "host:1/path",
            "user@host:1",
            "a b",
            ":7733",
        ]
        .into_iter()
        .map(|text| normalize(text).unwrap_err().to_string())
        .collect();
        insta::assert_snapshot!(said.join("\n"), @r"
        `` is no server address: it is empty
        `https://host:1` is no server address: TLS is not supported; use http://
        `ftp://host` is no server address: the scheme `ftp` is not http
        `host:port` is no server address: its port is not a number from 1 to 65535
        `host:99999` is no server address: its port is not a number from 1 to 65535
        `host:1/path` is no server address: it is not host:port
        `user@host:1` is no server address: it may not hold a user name
        `a b` is no server address: it is not host:port
        `:7733` is no server address: it is not host:port
        ");
    }
}
