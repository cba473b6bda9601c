//! The network settings of a configuration file.

use std::path::{Path, PathBuf};

use super::{
    fault::SettingSource,
    paths::FileIn,
    rules::{Choice, DurationIn, IntIn, Rule, SizeIn, quote},
    section::{Reading, Section},
    tokens,
};
use crate::{
    settings::{ClientAuth, LimitSettings, Settings, TlsSettings, WorkerSettings, limits},
    tls::{self, TlsFile},
};

/// The keys of `[tls]`.
pub(super) const TLS_KEYS: [&str; 4] = ["certificate", "key", "client_ca", "client_auth"];

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

/// The keys of `[workers]`.
pub(super) const WORKER_KEYS: [&str; 4] = ["lease", "receive_within", "stop_grace", "ping_every"];

/// Reads the settings of remote workers.
pub(super) fn workers(root: &Section<'_>, reading: &mut Reading<'_>) -> WorkerSettings {
    let table = root.table("workers", reading);
    let section = Section::open("workers".to_owned(), table, &WORKER_KEYS, reading);
    let default = WorkerSettings::default();
    let mut duration = |key, limits, default| section.setting(key, &DurationIn(limits), default, reading);
    WorkerSettings {
        lease: duration("lease", limits::LEASE, default.lease),
        receive_within: duration("receive_within", limits::RECEIVE_WITHIN, default.receive_within),
        stop_grace: duration("stop_grace", limits::STOP_GRACE, default.stop_grace),
        ping_every: duration("ping_every", limits::PING_EVERY, default.ping_every),
    }
}

/// Reads the limits of connections.
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

const CLIENT_AUTH: Choice<ClientAuth> =
    Choice(&[("required", ClientAuth::Required), ("optional", ClientAuth::Optional)]);

/// Reads the TLS settings. The files are read as well, so that their faults are reported at the start.
pub(super) fn tls(root: &Section<'_>, base: &Path, reading: &mut Reading<'_>) -> Option<TlsSettings> {
    let table = root.table("tls", reading);
    let section = Section::open("tls".to_owned(), table, &TLS_KEYS, reading);
    let file = FileIn { base };
    let certificate = section.optional("certificate", &file, reading);
    let key = section.optional("key", &file, reading);
    let client_ca = section.optional("client_ca", &file, reading);
    let client_auth = section.setting("client_auth", &CLIENT_AUTH, ClientAuth::Required, reading);
    for (has, lacks, way_out) in [
        ("certificate", "key", "write key = \"PATH\", the private key of the certificate"),
        ("key", "certificate", "write certificate = \"PATH\", the certificate of the key"),
        ("client_ca", "certificate", "clients can show theirs over TLS only: write certificate and key"),
        ("client_auth", "client_ca", "write client_ca = \"PATH\", where clients' certificates come from"),
    ] {
        if section.get(has).is_some() && section.get(lacks).is_none() {
            reading.fault_at(
                &section.key_span(has),
                section.key(has),
                format!("there is no `{lacks}`; {way_out}"),
            );
        }
    }
    let settings = TlsSettings { certificate: certificate?, key: key?, client_ca, client_auth };
    for error in tls::load(&settings, false).err().unwrap_or_default() {
        let key = match error.file {
            TlsFile::Certificate => "certificate",
            TlsFile::Key => "key",
            TlsFile::ClientCa => "client_ca",
        };
        let span = section.get(key).map_or(0..0, toml::Spanned::span);
        reading.fault_at(&span, section.key(key), error.to_string());
    }
    Some(settings)
}

/// Reads the path of the token file. The file is read as well, so that its faults are reported at the start.
pub(super) fn auth(root: &Section<'_>, base: &Path, reading: &mut Reading<'_>) -> Option<PathBuf> {
    let table = root.table("auth", reading);
    let section = Section::open("auth".to_owned(), table, &["tokens"], reading);
    let file = FileIn { base };
    let path = section.optional("tokens", &file, reading)?;
    let place = reading.place(&section.get("tokens").map_or(0..0, toml::Spanned::span));
    tokens::read(&path, &place, &mut reading.faults);
    Some(path)
}

/// Reads the path of the audit file.
pub(super) fn audit(root: &Section<'_>, base: &Path, reading: &mut Reading<'_>) -> Option<PathBuf> {
    let table = root.table("audit", reading);
    let section = Section::open("audit".to_owned(), table, &["file"], reading);
    let file = FileIn { base };
    let path = section.optional("file", &file, reading)?;
    if !path.parent().is_some_and(Path::is_dir) || path.is_dir() {
        let span = section.get("file").map_or(0..0, toml::Spanned::span);
        let shown = quote(&path.to_string_lossy());
        reading.fault_at(
            &span,
            "audit.file",
            format!("{shown} is not in a folder that exists; make the folder or correct the path"),
        );
    }
    Some(path)
}

/// Reads the origins of pages that may call by gRPC-Web.
pub(super) fn grpc_web(root: &Section<'_>, reading: &mut Reading<'_>) -> Vec<String> {
    let table = root.table("grpc_web", reading);
    let section = Section::open("grpc_web".to_owned(), table, &["origins"], reading);
    section.list_setting("origins", limits::HOSTS_MAX, &Origin, reading)
}

/// Refuses to listen beyond loopback without TLS and tokens: anyone who reaches the port could run the operator's
/// commands.
pub(super) fn check_exposure(settings: &Settings, reading: &mut Reading<'_>) {
    if !settings.is_exposed() {
        return;
    }
    let place = place_of("listen", reading);
    let missing = match (&settings.tls, &settings.tokens) {
        (None, None) => "TLS and tokens (tls.certificate, tls.key and auth.tokens)",
        (None, Some(_)) => "TLS (tls.certificate and tls.key)",
        (Some(_), _) => "tokens (auth.tokens)",
    };
    let message = format!(
        "\"{}\" is not a loopback address, and anyone who reaches it could run this server's commands; set {missing}, \
         or listen on \"127.0.0.1:{}\", or say insecure = true or --insecure if the network can be trusted",
        settings.listen,
        settings.listen.port()
    );
    reading.fault(place, "listen", message);
}

/// Refuses one address for both the API and the metrics.
pub(super) fn check_ports(settings: &Settings, reading: &mut Reading<'_>) {
    let (api, metrics) = (settings.listen, settings.metrics_listen);
    let clash = metrics.filter(|metrics| {
        metrics.port() == api.port()
            && api.port() != 0
            && (metrics.ip() == api.ip() || api.ip().is_unspecified())
    });
    if let Some(metrics) = clash {
        let message = format!("\"{metrics}\" is the address of `listen` too; write another port");
        let place = place_of("metrics.listen", reading);
        reading.fault(place, "metrics.listen", message);
    }
}

fn place_of(key: &str, reading: &Reading<'_>) -> SettingSource {
    let entry = reading.entries.iter().find(|entry| entry.key == key);
    entry.map_or(SettingSource::Default, |entry| entry.place.clone())
}

/// The name of a host, without a port.
pub(super) struct Host;

impl Rule for Host {
    type Value = String;

    fn wanted(&self) -> String {
        "the name of a host without a port, such as \"jobs.internal\"".to_owned()
    }

    fn text(&self, text: &str) -> Result<String, String> {
        if is_host(text) {
            return Ok(text.to_ascii_lowercase());
        }
        Err(format!("{} is not the name of a host; write {}", quote(text), self.wanted()))
    }

    fn show(&self, value: &String) -> serde_json::Value {
        value.as_str().into()
    }
}

fn is_host(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

/// The origin of a page.
struct Origin;

impl Rule for Origin {
    type Value = String;

    fn wanted(&self) -> String {
        "scheme and host of a page, such as \"https://app.example.org\" or \"http://localhost:3000\""
            .to_owned()
    }

    fn text(&self, text: &str) -> Result<String, String> {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let fits = rest.is_some_and(|authority| {
            let (host, port) = authority.split_once(':').unwrap_or((authority, "1"));
            is_host(host) && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        if fits && !text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Ok(text.to_owned());
        }
        Err(format!("{} is not an origin; write {}", quote(text), self.wanted()))
    }

    fn show(&self, value: &String) -> serde_json::Value {
        value.as_str().into()
    }
}
