//! What the operator says, checked and ready to use before any port is bound.
//!
//! [`load()`] takes it from a file, the environment and flags; another Rust program may as well start from
//! [`Settings::new`].

mod addresses;
mod declared;
#[cfg(feature = "http")]
mod endpoint;
mod fault;
#[cfg(feature = "http")]
mod http;
pub mod limits;
mod load;
pub mod names;
mod network;
mod paths;
mod program;
mod rules;
mod section;
mod surroundings;
#[cfg(feature = "http")]
mod targets;
mod tokens;
mod units;

use std::{
    collections::BTreeMap,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

#[cfg(feature = "http")]
pub use self::http::{
    Authorities, HttpSettings, HttpUrl, Refused, SecretError, SigningSecret, Targets, UrlError,
};
pub use self::{
    fault::{Fault, Faults, Place},
    load::{Flags, Loaded, keys, load},
    surroundings::Surroundings,
    tokens::load_tokens,
};
use crate::job::RetryPolicy;
pub use crate::tls::{ClientAuth, TlsSettings};

/// The queue that always exists.
pub const DEFAULT_QUEUE: &str = "default";

/// How long a command has between `SIGTERM` and `SIGKILL` unless its kind says otherwise.
pub const DEFAULT_KILL_GRACE: Duration = Duration::from_secs(10);

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

/// Where traces go, and which.
#[derive(Clone, PartialEq, Debug)]
pub struct TracesSettings {
    /// The collector's URL, which takes OTLP over gRPC: `http://host:port` or `https://host:port`. Without one nothing
    /// is recorded. Needs the cargo feature `otel`.
    pub endpoint: Option<String>,
    /// Of the submissions that come without a trace context, so many begin a trace: 0 to 1, and of at most 100 jobs
    /// a second.
    /// Those that come with one are recorded if it says so.
    pub sample_ratio: f64,
}

impl Default for TracesSettings {
    fn default() -> Self {
        TracesSettings { endpoint: None, sample_ratio: 1.0 }
    }
}

/// What the log shows, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogSettings {
    /// Which lines: a level, or levels by module.
    pub filter: String,
    /// In which form.
    pub format: LogFormat,
}

impl Default for LogSettings {
    fn default() -> Self {
        LogSettings { filter: "info".to_owned(), format: LogFormat::Text }
    }
}

/// The form of log lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A setting as it came out of file, environment, flags and defaults.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// The key's full path.
    pub key: String,
    /// Its value as the file would have it; of `env` only the names, since the values may be secret.
    pub value: serde_json::Value,
    /// Where it comes from.
    pub place: Place,
}

/// Where jobs are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreSettings {
    /// In memory: gone when the server stops.
    Memory,
    /// In a folder, which is made where it does not exist.
    Folder(PathBuf),
}

/// What is done about a disk that fills up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSettings {
    /// Space in bytes that a file keeps for the ends of attempts, cancels and deletes.
    pub ballast_bytes: u64,
    /// No new jobs are taken while the file system has less space than this, in bytes.
    pub min_free_bytes: u64,
    /// Whether a start goes on with a database that lacks what was acknowledged. For one start, at an operator's word: no
    /// configuration file can say it.
    pub accept_loss: bool,
    /// The name of a SQLite VFS that this process has registered; absent: the system's own. For tests of faults: no
    /// configuration file can say it.
    pub vfs: Option<String>,
}

impl Default for DiskSettings {
    fn default() -> Self {
        DiskSettings { ballast_bytes: 16 << 20, min_free_bytes: 64 << 20, accept_loss: false, vfs: None }
    }
}

/// How a queue is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// How many jobs may wait and run.
    pub max_jobs: u64,
    /// How many bytes they may take.
    pub max_bytes: u64,
    /// How many attempts run at once.
    pub consumers: u32,
    /// What to do when it is full.
    pub when_full: WhenFull,
    /// How long a submission may wait for room.
    pub max_wait: Duration,
    /// How many callers may wait for room.
    pub max_waiters: u32,
    /// Whether kinds that have no handler here are accepted.
    pub accept_unknown_kinds: bool,
    /// How long its ended jobs are kept, where that differs from the server's own times.
    pub retention: QueueRetention,
}

/// How long something is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keep {
    /// For so long.
    For(Duration),
    /// Until somebody deletes it.
    Forever,
}

/// How long ended jobs are kept, by the state in which they ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// SUCCEEDED ones.
    pub succeeded: Keep,
    /// FAILED ones.
    pub failed: Keep,
    /// CANCELLED ones.
    pub cancelled: Keep,
    /// EXPIRED ones.
    pub expired: Keep,
}

impl Default for Retention {
    fn default() -> Self {
        const DAY: Keep = Keep::For(Duration::from_secs(24 * 3600));
        const FORTNIGHT: Keep = Keep::For(Duration::from_secs(14 * 24 * 3600));
        Retention { succeeded: DAY, failed: FORTNIGHT, cancelled: DAY, expired: DAY }
    }
}

/// How long a queue's ended jobs are kept. What is absent is as the server has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueRetention {
    /// SUCCEEDED ones.
    pub succeeded: Option<Keep>,
    /// FAILED ones.
    pub failed: Option<Keep>,
    /// CANCELLED ones.
    pub cancelled: Option<Keep>,
    /// EXPIRED ones.
    pub expired: Option<Keep>,
}

impl QueueRetention {
    /// The times that hold for the queue on a server with these times of its own.
    #[must_use]
    pub fn over(self, server: Retention) -> Retention {
        Retention {
            succeeded: self.succeeded.unwrap_or(server.succeeded),
            failed: self.failed.unwrap_or(server.failed),
            cancelled: self.cancelled.unwrap_or(server.cancelled),
            expired: self.expired.unwrap_or(server.expired),
        }
    }
}

/// What to do when a queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Wait for room.
    Wait,
    /// Refuse at once.
    Reject,
}

impl Default for QueueSettings {
    fn default() -> Self {
        QueueSettings {
            max_jobs: 100_000,
            max_bytes: 1 << 30,
            consumers: default_consumers(),
            when_full: WhenFull::Wait,
            max_wait: Duration::from_secs(30),
            max_waiters: 1_000,
            accept_unknown_kinds: false,
            retention: QueueRetention::default(),
        }
    }
}

/// One for each core, as far as a queue may have so many.
fn default_consumers() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(cores).unwrap_or(u32::MAX).min(*limits::QUEUE_CONSUMERS.end())
}

/// How jobs of a kind run, and what they get where a submission does not say.
#[derive(Clone, Debug)]
pub struct KindSettings {
    /// What runs them.
    pub handler: HandlerSettings,
    /// What submissions of the kind get unless they say otherwise.
    pub defaults: KindDefaults,
}

/// What runs the jobs of a kind.
#[derive(Clone, Debug)]
pub enum HandlerSettings {
    /// A command.
    Command(CommandSettings),
    /// An endpoint that is called over HTTP.
    #[cfg(feature = "http")]
    Http(Box<HttpSettings>),
}

/// What submissions of a kind get unless they say otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KindDefaults {
    /// How many attempts may start.
    pub max_attempts: u32,
    /// How long to wait between them.
    pub retry: RetryPolicy,
    /// How long one may take.
    pub attempt_timeout: Duration,
}

impl Default for KindDefaults {
    fn default() -> Self {
        KindDefaults {
            max_attempts: 5,
            retry: RetryPolicy::DEFAULT,
            attempt_timeout: Duration::from_secs(15 * 60),
        }
    }
}

/// A command that runs jobs. No shell is involved.
#[derive(Clone, PartialEq, Eq)]
pub struct CommandSettings {
    /// The program and its arguments, each one element as it is. [`load()`] makes the program's path absolute.
    pub argv: Vec<String>,
    /// Variables that the command gets beside `PATH`, `HOME`, `LANG` and `TZ` and Jobmill's own.
    pub env: BTreeMap<String, String>,
    /// Names of the server's own variables that the command gets too.
    pub env_allow: Vec<String>,
    /// Where it runs; the server's own working folder if absent.
    pub working_dir: Option<PathBuf>,
    /// How long it has between `SIGTERM` and `SIGKILL`.
    pub kill_grace: Duration,
    /// Exit codes that no other attempt would mend.
    pub permanent_exit_codes: Vec<i32>,
}

impl fmt::Debug for CommandSettings {
    /// Shows the names of variables only: their values may be secret, and settings end up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CommandSettings { argv, env, env_allow, working_dir, kill_grace, permanent_exit_codes } = self;
        f.debug_struct("CommandSettings")
            .field("argv", argv)
            .field("env", &env.keys())
            .field("env_allow", env_allow)
            .field("working_dir", working_dir)
            .field("kill_grace", kill_grace)
            .field("permanent_exit_codes", permanent_exit_codes)
            .finish()
    }
}
