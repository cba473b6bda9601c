//! The settings of a whole server.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{
    connections::LimitSettings,
    kind::KindSettings,
    queue::{DEFAULT_QUEUE, QueueSettings},
    retention::Retention,
    storage::{DiskSettings, StoreSettings},
    tls::TlsSettings,
    traces::TracesSettings,
};

/// A whole configuration, ready to use.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to listen. Beyond loopback only with [`Settings::tls`] and [`Settings::tokens`], or if
    /// [`Settings::insecure`].
    pub listen: SocketAddr,
    /// Names, beside `localhost` and loopback addresses, by which callers may call a server that listens on loopback
    /// without TLS.
    pub hosts: Vec<String>,
    /// Whether to listen beyond loopback without TLS or tokens all the same.
    pub insecure: bool,
    /// Where jobs are kept.
    pub store: StoreSettings,
    /// How long a stopping server waits for running attempts.
    pub drain_timeout: Duration,
    /// Where metrics and health are served over HTTP, if they are. Loopback only, for now.
    pub metrics_listen: Option<SocketAddr>,
    /// Where traces go.
    pub traces: TracesSettings,
    /// What is done about a disk that fills up.
    pub disk: DiskSettings,
    /// How long ended jobs are kept where their queue does not say.
    pub retention: Retention,
    /// How connections are encrypted; without it, they are not.
    pub tls: Option<TlsSettings>,
    /// The file of the tokens that callers must have one of; without it, they need none.
    pub tokens: Option<PathBuf>,
    /// Where to write who did what. Without it, that goes to the log if callers need tokens or certificates, and
    /// nowhere if not.
    pub audit_file: Option<PathBuf>,
    /// The origins of the pages that may call by gRPC-Web; without any, it is off.
    pub web_origins: Vec<String>,
    /// What connections may take.
    pub limits: LimitSettings,
    /// The queues that the file declares, by name.
    pub queues: BTreeMap<String, QueueSettings>,
    /// The kinds that the file declares, by name.
    pub kinds: BTreeMap<String, KindSettings>,
}

impl Settings {
    /// The defaults: 127.0.0.1:7733, 30 s to drain, the queue `default`, and no kinds.
    #[must_use]
    pub fn new(store: StoreSettings) -> Self {
        Settings {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7733)),
            hosts: Vec::new(),
            insecure: false,
            store,
            drain_timeout: Duration::from_secs(30),
            metrics_listen: None,
            traces: TracesSettings::default(),
            disk: DiskSettings::default(),
            retention: Retention::default(),
            tls: None,
            tokens: None,
            audit_file: None,
            web_origins: Vec::new(),
            limits: LimitSettings::default(),
            queues: BTreeMap::from([(DEFAULT_QUEUE.to_owned(), QueueSettings::default())]),
            kinds: BTreeMap::new(),
        }
    }

    /// Whether anybody on the network could use the server although nobody has said that this is meant.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        !self.insecure && self.lacks_protection()
    }

    /// Whether anybody on the network could use the server.
    #[must_use]
    pub fn lacks_protection(&self) -> bool {
        !self.listens_on_loopback() && (self.tls.is_none() || self.tokens.is_none())
    }

    /// Whether only this machine reaches the server.
    #[must_use]
    pub fn listens_on_loopback(&self) -> bool {
        self.listen.ip().to_canonical().is_loopback()
    }
}
