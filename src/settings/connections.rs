//! Limits of connections.

use std::time::Duration;

/// Limits of each connection and of all connections together.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LimitSettings {
    /// Maximum number of open connections. Over it, the oldest connection without an admitted call is closed; if there
    /// is none, the new connection is closed.
    pub connections: u32,
    /// Maximum number of open connections that have not sent anything yet. Over it, the oldest of them is closed.
    pub handshakes: u32,
    /// Time limit for a connection's TLS handshake and first bytes.
    pub handshake_timeout: Duration,
    /// Maximum number of open calls on one connection.
    pub streams_per_connection: u32,
    /// Limit of the total size of a call's headers, in bytes.
    pub header_bytes: u32,
    /// Time of silence after which a connection is sent a keepalive ping.
    pub keepalive_interval: Duration,
    /// Time limit for the answer to a keepalive ping. After it, the connection is closed.
    pub keepalive_timeout: Duration,
}

impl Default for LimitSettings {
    fn default() -> Self {
        LimitSettings {
            connections: 10_000,
            handshakes: 1_000,
            handshake_timeout: Duration::from_secs(10),
            streams_per_connection: 1_024,
            header_bytes: 16 << 10,
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(20),
        }
    }
}
