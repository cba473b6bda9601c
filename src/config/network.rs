//! What a file says of the network.

use super::{
    LimitSettings, limits,
    rules::{DurationIn, IntIn, SizeIn},
    section::{Reading, Section},
};

/// The keys of `[limits]`.
pub(super) const LIMIT_KEYS: [&str; 7] = [
    "connections",
    "handshakes",
    "handshake_timeout",
    "streams_per_connection",
    "header_bytes",
    "keepalive_interval",
    "keepalive_timeout",
];

/// What connections may take.
pub(super) fn limits(root: &Section<'_>, reading: &mut Reading<'_>) -> LimitSettings {
    let table = root.table("limits", reading);
    let section = Section::open("limits".to_owned(), table, &LIMIT_KEYS, reading);
    let default = LimitSettings::default();
    let connections = IntIn(limits::CONNECTIONS);
    let handshakes = IntIn(limits::HANDSHAKES);
    let handshake_timeout = DurationIn(limits::HANDSHAKE_TIMEOUT);
    let streams = IntIn(limits::STREAMS_PER_CONNECTION);
    let interval = DurationIn(limits::KEEPALIVE_INTERVAL);
    let timeout = DurationIn(limits::KEEPALIVE_TIMEOUT);
    let header_bytes_default = u64::from(default.header_bytes);
    LimitSettings {
        connections: section.setting("connections", &connections, default.connections, reading),
        handshakes: section.setting("handshakes", &handshakes, default.handshakes, reading),
        handshake_timeout: section.setting(
            "handshake_timeout",
            &handshake_timeout,
            default.handshake_timeout,
            reading,
        ),
        streams_per_connection: section.setting(
            "streams_per_connection",
            &streams,
            default.streams_per_connection,
            reading,
        ),
        header_bytes: section
            .setting("header_bytes", &SizeIn(limits::HEADER_BYTES), header_bytes_default, reading)
            .try_into()
            .unwrap_or(default.header_bytes),
        keepalive_interval: section.setting(
            "keepalive_interval",
            &interval,
            default.keepalive_interval,
            reading,
        ),
        keepalive_timeout: section.setting("keepalive_timeout", &timeout, default.keepalive_timeout, reading),
    }
}
