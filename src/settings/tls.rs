//! TLS files.

use std::path::PathBuf;

/// TLS files, and the certificates required of clients.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsSettings {
    /// The server's certificate, followed by the chain to its authority: PEM.
    pub certificate: PathBuf,
    /// The certificate's private key: PEM, in PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
    /// The authorities of client certificates: PEM. Absent: clients are not asked for a certificate.
    pub client_ca: Option<PathBuf>,
    /// Whether a client must present a certificate, if `client_ca` is given.
    pub client_auth: ClientAuth,
}

impl TlsSettings {
    /// Creates the settings of a server that asks clients for no certificate.
    #[must_use]
    pub fn new(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        let (certificate, key) = (certificate.into(), key.into());
        TlsSettings { certificate, key, client_ca: None, client_auth: ClientAuth::Required }
    }
}

/// Whether clients must present a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientAuth {
    /// A connection needs a valid certificate.
    Required,
    /// A certificate is optional, but must be valid if presented.
    Optional,
}
