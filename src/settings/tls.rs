//! Which files TLS takes.

use std::path::PathBuf;

/// Which files TLS takes, and what clients must show.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsSettings {
    /// The server's certificate, then those that lead to its authority: PEM.
    pub certificate: PathBuf,
    /// The certificate's private key: PEM, in PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
    /// The authorities that clients' certificates may come from: PEM. Absent: clients are not asked for one.
    pub client_ca: Option<PathBuf>,
    /// Whether a client must have a certificate, where `client_ca` is given.
    pub client_auth: ClientAuth,
}

/// Whether clients must have a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientAuth {
    /// Without a good one, there is no connection.
    Required,
    /// One that is shown must be good.
    Optional,
}
