//! Bounds of connections.

use std::time::Duration;

/// What connections may take, one by one and together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LimitSettings {
    /// How many connections may be open. Over it, the oldest that has made no call that was let in is closed; if there
    /// is none, the new one is.
    pub connections: u32,
    /// How many connections may be open that have not said anything yet. Over it, the oldest of them is closed.
    pub handshakes: u32,
    /// How long a connection has for its TLS handshake and its first bytes.
    pub handshake_timeout: Duration,
    /// How many calls one connection may have open.
    pub streams_per_connection: u32,
    /// How many bytes the headers of a call may take together.
    pub header_bytes: u32,
    /// A connection that is silent for so long is asked whether it is alive,
    pub keepalive_interval: Duration,
    /// and cut if it does not say so in this time.
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
