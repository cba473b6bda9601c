//! Kinds that are mapped to a URL.

use std::{fmt, str::FromStr, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, Uri, uri::Scheme};

use super::{authorities::Authorities, limits, limits::DEFAULT_SNOOZE_DELAY, targets::Targets};

pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
pub(crate) const MAX_CONNECTIONS: u32 = 100;
pub(crate) const CONNECTION_WAIT: Duration = Duration::from_secs(30);
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// An endpoint that runs jobs: each attempt is one POST to it.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone)]
pub struct HttpSettings {
    /// URL of the endpoint.
    pub url: HttpUrl,
    /// Headers of every request, in addition to Jobmill's own. Their values are never shown.
    pub headers: HeaderMap,
    /// Secrets that requests are signed with. Each one adds a signature, so that receivers can change over one by one.
    /// Without any, requests are unsigned.
    pub signing_secrets: Vec<SigningSecret>,
    /// Addresses that may be connected to.
    pub targets: Targets,
    /// Authorities trusted for the endpoint's certificate, in place of the public ones.
    pub authorities: Option<Authorities>,
    /// Time limit for connecting, from name resolution to the end of the TLS handshake.
    pub connect_timeout: Duration,
    /// Maximum number of requests under way, and of open connections. Further attempts wait.
    pub max_connections: u32,
    /// Longest wait of an attempt for a connection. After it, the attempt ends without being counted, and its job backs
    /// off for a second.
    pub connection_wait: Duration,
    /// Time for which an idle connection is reused, counted from when it last received data.
    pub idle_timeout: Duration,
    /// Statuses by which the endpoint asks to be called again later.
    pub snooze_statuses: Vec<u16>,
    /// The delay after one of these statuses, unless the response has a `Retry-After`.
    pub snooze_delay: Duration,
    /// Name of a limit under which nothing starts until the end of such a delay: nothing of the job's own value.
    pub snooze_pauses: Option<String>,
    /// URL by which the endpoint reaches the address of metrics and health, to which `/checkpoint` is added. Without it,
    /// attempts have no checkpoints.
    pub callback_url: Option<HttpUrl>,
}

impl HttpSettings {
    /// Creates settings with the defaults: unsigned requests, public addresses only, 10 s to connect, 100 connections,
    /// 30 s to wait for a connection, and 30 s for a connection to be idle.
    #[must_use]
    pub fn new(url: HttpUrl) -> Self {
        HttpSettings {
            url,
            headers: HeaderMap::new(),
            signing_secrets: Vec::new(),
            targets: Targets::default(),
            authorities: None,
            connect_timeout: CONNECT_TIMEOUT,
            max_connections: MAX_CONNECTIONS,
            connection_wait: CONNECTION_WAIT,
            idle_timeout: IDLE_TIMEOUT,
            snooze_statuses: Vec::new(),
            snooze_delay: DEFAULT_SNOOZE_DELAY,
            snooze_pauses: None,
            callback_url: None,
        }
    }
}

impl fmt::Debug for HttpSettings {
    /// Shows the names of headers only: their values may be secret, and settings end up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HttpSettings {
            url,
            headers,
            signing_secrets,
            targets,
            authorities,
            connect_timeout,
            max_connections,
            connection_wait,
            idle_timeout,
            snooze_statuses,
            snooze_delay,
            snooze_pauses,
            callback_url,
        } = self;
        f.debug_struct("HttpSettings")
            .field("url", url)
            .field("headers", &headers.keys().collect::<Vec<_>>())
            .field("signing_secrets", signing_secrets)
            .field("targets", targets)
            .field("authorities", authorities)
            .field("connect_timeout", connect_timeout)
            .field("max_connections", max_connections)
            .field("connection_wait", connection_wait)
            .field("idle_timeout", idle_timeout)
            .field("snooze_statuses", snooze_statuses)
            .field("snooze_delay", snooze_delay)
            .field("snooze_pauses", snooze_pauses)
            .field("callback_url", callback_url)
            .finish()
    }
}

/// URL of an endpoint. `Debug` and `Display` leave out its query, which may hold a secret.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpUrl {
    uri: Uri,
    tls: bool,
    host: String,
    port: u16,
}

/// The error for text that is not the URL of an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct UrlError(&'static str);

impl HttpUrl {
    /// Returns the whole URL.
    pub(crate) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Returns whether the scheme is `https`.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls
    }

    /// Returns the host's name or address, without the brackets of IPv6.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port, or the scheme's default port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for HttpUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if !text.is_ascii() {
            return Err(UrlError("it has characters beyond ASCII; encode them, in a host's name as xn--…"));
        }
        if text.contains('#') {
            return Err(UrlError("it has a fragment, which is never sent; leave out all from the # on"));
        }
        let uri: Uri = text.parse().map_err(|_| UrlError("it is not a URL"))?;
        let tls = match uri.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => false,
            Some(_) | None => return Err(UrlError("it starts with neither https:// nor http://")),
        };
        let authority = uri.authority().ok_or(UrlError("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(UrlError("it has a user or password; use `headers` to say who you are"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(UrlError("it has no host"));
        }
        let port = match (authority.port_u16(), authority.as_str().ends_with(authority.host())) {
            (Some(0), _) | (None, false) => return Err(UrlError("its port is not one of 1 to 65535")),
            (Some(port), _) => port,
            (None, true) if tls => 443,
            (None, true) => 80,
        };
        Ok(HttpUrl { tls, host, port, uri })
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        let query = if self.uri.query().is_some() { "?…" } else { "" };
        write!(f, "{scheme}://{authority}{}{query}", self.uri.path())
    }
}

impl fmt::Debug for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A secret that requests are signed with, as the Standard Webhooks specification defines it. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret([u8; KEY_BYTES]);

/// Length of an HMAC-SHA256 key in bytes. A shorter key is padded with zeros, as HMAC itself does.
const KEY_BYTES: usize = *limits::SIGNING_SECRET_BYTES.end();

/// The error for text that is not a signing secret. It does not quote the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SecretError {
    /// The text is not base64.
    #[error("the secret is not base64, with or without `whsec_` before it; make one with {MAKE_SECRET}")]
    Encoding,
    /// The secret is too short or too long.
    #[error(
        "the secret has {bytes} bytes once decoded, the limits are 24 to 64; make one with {MAKE_SECRET}"
    )]
    Length {
        /// Length of the secret in bytes.
        bytes: usize,
    },
}

const MAKE_SECRET: &str = "`echo whsec_$(openssl rand -base64 32)`";

impl SigningSecret {
    /// Returns the secret as a key of HMAC-SHA256.
    pub(crate) fn key(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl FromStr for SigningSecret {
    type Err = SecretError;

    /// Parses an optional `whsec_` and 24 to 64 bytes in base64. Surrounding white space is ignored.
    fn from_str(text: &str) -> Result<Self, SecretError> {
        let text = text.trim();
        let encoded = text.strip_prefix("whsec_").unwrap_or(text);
        let bytes = BASE64_STANDARD.decode(encoded).map_err(|_| SecretError::Encoding)?;
        if !limits::SIGNING_SECRET_BYTES.contains(&bytes.len()) {
            return Err(SecretError::Length { bytes: bytes.len() });
        }
        let mut key = [0; KEY_BYTES];
        key[..bytes.len()].copy_from_slice(&bytes);
        Ok(SigningSecret(key))
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        for (text, tls, host, port, path) in [
            ("https://example.org", true, "example.org", 443, "/"),
            ("http://example.org:8080/jobs", false, "example.org", 8080, "/jobs"),
            ("HTTPS://example.org/a/b", true, "example.org", 443, "/a/b"),
            ("http://[::1]:1/", false, "::1", 1, "/"),
            ("http://0x7f.1/", false, "0x7f.1", 80, "/"),
        ] {
            let url: HttpUrl = text.parse().unwrap();
            assert_eq!((url.tls, &*url.host, url.port, url.uri.path()), (tls, host, port, path), "{text}");
        }
        let secret: HttpUrl = "https://example.org/a?token=s3cret".parse().unwrap();
        assert_eq!(format!("{secret} {secret:?}"), "https://example.org/a?… https://example.org/a?…");
    }

    #[test]
    fn text_that_is_no_url_is_refused() {
        for (text, problem) in [
            ("", "it is not a URL"),
            ("/jobs", "neither https:// nor http://"),
            ("example.org", "neither https:// nor http://"),
            ("ftp://example.org/", "neither https:// nor http://"),
            ("file:///etc/passwd", "it is not a URL"),
            ("http://", "it is not a URL"),
            ("http://ada:s3cret@example.org/", "user or password"),
            ("http://@example.org/", "user or password"),
            ("http://example.org:99999/", "port"),
            ("http://example.org:0/", "port"),
            ("http://example.org:/", "port"),
            ("http://exämple.org/", "beyond ASCII"),
            ("http://example.org/#a", "fragment"),
            ("http://example.org/a b", "it is not a URL"),
            ("http://example.org/\r\nHost: other", "it is not a URL"),
        ] {
            let error = text.parse::<HttpUrl>().expect_err(text).to_string();
            assert!(error.contains(problem) && !error.contains("s3cret"), "{text}: {error}");
        }
    }

    #[test]
    fn secrets_have_a_form_and_are_never_shown() {
        let secret: SigningSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n".parse().unwrap();
        assert_eq!(secret.key().iter().rposition(|byte| *byte != 0), Some(23));
        assert_eq!("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse(), Ok(secret.clone()));
        assert_eq!(format!("{secret:?}"), "SigningSecret(…)");
        for (text, error) in [
            ("", SecretError::Length { bytes: 0 }),
            ("whsec_not base64", SecretError::Encoding),
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", SecretError::Encoding),
            ("whsec_c2hvcnQ=", SecretError::Length { bytes: 5 }),
        ] {
            assert_eq!(text.parse::<SigningSecret>(), Err(error), "{text}");
        }
    }
}
