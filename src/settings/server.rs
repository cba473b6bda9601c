//! Settings of a whole server.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use super::{
    connections::LimitSettings,
    job_limit::LimitSpec,
    kind::KindSettings,
    queue::{DEFAULT_QUEUE, QueueSettings},
    retention::Retention,
    schedule::ScheduleSettings,
    storage::{DiskSettings, StoreSettings},
    tls::TlsSettings,
    traces::TracesSettings,
    workers::WorkerSettings,
};
use crate::timetable::DateRange;

/// A whole configuration, ready to use.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, Debug)]
pub struct Settings {
    /// Address of the API. Beyond loopback only with [`Settings::tls`] and [`Settings::tokens`], or if
    /// [`Settings::insecure`].
    pub listen: SocketAddr,
    /// Host names that callers may use, beside `localhost` and loopback addresses, for a server on loopback without
    /// TLS.
    pub hosts: Vec<String>,
    /// Whether to listen beyond loopback even without TLS or tokens.
    pub insecure: bool,
    /// Storage of the jobs.
    pub store: StoreSettings,
    /// Time for which a stopping server waits for running attempts.
    pub drain_timeout: Duration,
    /// Address of metrics and health over HTTP; absent: not served. Loopback only, for now.
    pub metrics_listen: Option<SocketAddr>,
    /// Settings of traces.
    pub traces: TracesSettings,
    /// Handling of a disk that fills up.
    pub disk: DiskSettings,
    /// Retention of ended jobs, for queues that set none of their own.
    pub retention: Retention,
    /// TLS settings; absent: connections are not encrypted.
    pub tls: Option<TlsSettings>,
    /// The token file; absent: callers need no token.
    pub tokens: Option<PathBuf>,
    /// The audit file. Absent: the audit goes to the log if callers need tokens or certificates, and is off otherwise.
    pub audit_file: Option<PathBuf>,
    /// Origins of pages that may call by gRPC-Web; empty: gRPC-Web is off.
    pub web_origins: Vec<String>,
    /// Limits of connections.
    pub limits: LimitSettings,
    /// Settings of remote workers.
    pub workers: WorkerSettings,
    /// The declared queues, by name.
    pub queues: BTreeMap<String, QueueSettings>,
    /// The declared kinds, by name.
    pub kinds: BTreeMap<String, KindSettings>,
    /// The declared schedules, by name.
    pub schedules: BTreeMap<String, ScheduleSettings>,
    /// The declared limits, by name.
    pub job_limits: BTreeMap<String, LimitSpec>,
    /// The declared calendars, by name.
    pub calendars: BTreeMap<String, Vec<DateRange>>,
}

impl Settings {
    /// Returns the defaults, with the jobs kept in a folder. It is created, and belongs to one server at a time.
    #[must_use]
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Settings::new(StoreSettings::Folder(folder.into()))
    }

    /// Returns the defaults, with the jobs kept in memory: they end with the server, as in a test.
    #[must_use]
    pub fn in_memory() -> Self {
        Settings::new(StoreSettings::Memory)
    }

    /// Adds a queue, or replaces its settings.
    #[must_use]
    pub fn queue(mut self, name: impl Into<String>, settings: QueueSettings) -> Self {
        self.queues.insert(name.into(), settings);
        self
    }

    /// Creates settings with the defaults: 127.0.0.1:7733, 30 s to drain, the queue `default`, and no kinds.
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
            workers: WorkerSettings::default(),
            queues: BTreeMap::from([(DEFAULT_QUEUE.to_owned(), QueueSettings::default())]),
            kinds: BTreeMap::new(),
            schedules: BTreeMap::new(),
            calendars: BTreeMap::new(),
            job_limits: BTreeMap::new(),
        }
    }

    /// Returns whether anyone on the network could use the server without the operator having allowed that by
    /// `insecure`.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        !self.insecure && self.lacks_protection()
    }

    /// Returns whether anyone on the network could use the server, for lack of TLS or tokens.
    #[must_use]
    pub fn lacks_protection(&self) -> bool {
        !self.listens_on_loopback() && (self.tls.is_none() || self.tokens.is_none())
    }

    /// Returns whether only this machine can reach the server.
    #[must_use]
    pub fn listens_on_loopback(&self) -> bool {
        self.listen.ip().to_canonical().is_loopback()
    }
}
