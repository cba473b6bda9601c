//! Wiring and shutdown: a server from its settings to its end.

mod credentials;
mod doors;
mod error;
mod leftover;
mod running;

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub use crate::api::{ApiError, incoming as grpc_incoming, server as grpc_server};
use credentials::Credentials;
use doors::{Doors, serve};
pub use error::ServeError;
use running::Running;
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::Admission,
    api::{Core, Outgoing},
    clock::Clock,
    counters::{Counters, Health},
    dispatch::{Claims, Dispatch, Handlers},
    engine::EngineSetup,
    execute::{
        Handler,
        closures::{ClosureHandler, Closures},
        command,
        configured::Common,
    },
    handle::{self, Handle},
    intake::Intake,
    job::names,
    lines::LostLines,
    listen::ListenStats,
    metrics::{Lost, Page, endpoint},
    settings::{DiskSettings, KindDefaults, Settings, StoreSettings},
    shard::{self, Committing},
    store::{Leftover, Store, memory::MemoryStore, sqlite::SqliteStore},
    traces::Traces,
    watch::TokenIssuer,
};

/// The lock that commands of a killed server hold until they are gone.
const COMMANDS_LOCK: &str = "commands.lock";

/// Puts something around a store before the server uses it.
type AroundStore = Box<dyn FnOnce(Box<dyn Store>) -> Box<dyn Store> + Send>;

/// A server that is being put together.
pub struct ServerBuilder {
    settings: Settings,
    clock: Clock,
    command_guard: Option<PathBuf>,
    around_store: Option<AroundStore>,
    handlers: Vec<(String, KindDefaults, Arc<dyn Handler>)>,
    listens: bool,
    lost_log_lines: LostLines,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    address: Option<SocketAddr>,
    metrics_address: Option<SocketAddr>,
    handle: Handle,
    connections: Arc<ListenStats>,
    stopper: Stopper,
    reload: Arc<Notify>,
    running: JoinHandle<Result<(), ServeError>>,
}

/// Stops a server from elsewhere, such as a signal handler.
#[derive(Clone, Debug)]
pub struct Stopper {
    drain: CancellationToken,
    force: CancellationToken,
}

/// Has a server's credentials read again, from elsewhere.
#[derive(Clone, Debug)]
pub struct Reloader(Arc<Notify>);

impl Reloader {
    /// Asks for it. It is done soon.
    pub fn reload(&self) {
        self.0.notify_one();
    }
}

impl Server {
    /// Begins a server with these settings.
    #[must_use]
    pub fn builder(settings: Settings) -> ServerBuilder {
        ServerBuilder {
            settings,
            clock: Clock::System,
            command_guard: None,
            around_store: None,
            handlers: Vec::new(),
            listens: true,
            lost_log_lines: LostLines::default(),
        }
    }

    /// Where it listens: the port is real even where the settings asked for port 0. `None` where it does not listen.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Where metrics and health are served, with the real port. `None` where they are not.
    #[must_use]
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Submits, watches and cancels from this process.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Has certificates, keys and tokens read again, and the audit's file opened anew. The files are looked at every
    /// few seconds anyway; what is wrong with them is told in the log, and leaves the old ones in use.
    #[must_use]
    pub fn reloader(&self) -> Reloader {
        Reloader(Arc::clone(&self.reload))
    }

    /// Counts of its connections.
    #[must_use]
    pub fn connections(&self) -> Arc<ListenStats> {
        Arc::clone(&self.connections)
    }

    /// A handle that stops it.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Returns when the server has ended: OK after a drain, an error when it had to end by itself, or when the store
    /// could not keep what came to an end in the drain.
    ///
    /// # Errors
    /// The reason for which it ended by itself, [`ServeError::Store`] or [`ServeError::Unwritten`].
    pub async fn finished(self) -> Result<(), ServeError> {
        self.running.await.unwrap_or_else(|error| Err(ServeError::Ended(error.to_string())))
    }
}

impl Stopper {
    /// Begins the drain: nothing more is started, and running attempts may end. Shortly before the deadline, which is
    /// [`Settings::drain_timeout`], those that still run see their token cancelled
    /// ([`crate::execute::Attempt::cancelled`]); at the deadline they are cut off, and their jobs are retried after the
    /// restart as far as they have attempts left. [`Server::finished`] returns then at the latest, and says what the
    /// store had not taken by then.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Ends a drain at once: running attempts are cut off, as at the deadline. What is acknowledged or has ended by
    /// then still goes to the disk, for which there are 2 s, or what is left until the deadline.
    pub fn force(&self) {
        self.force.cancel();
        self.drain.cancel();
    }
}

impl ServerBuilder {
    /// Runs jobs of `kind` by a Rust function.
    #[must_use]
    pub fn handler(mut self, kind: impl Into<String>, defaults: KindDefaults, handler: impl Handler) -> Self {
        self.handlers.push((kind.into(), defaults, Arc::new(handler)));
        self
    }

    /// Binds no port: the server is used through [`Server::handle`] only.
    #[must_use]
    pub fn without_listener(mut self) -> Self {
        self.listens = false;
        self
    }

    /// Takes the present from another clock.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The program that guards commands: a `jobmill` binary, or one whose `main` calls
    /// [`crate::execute::command::guard_main`] first. Default: the running program.
    #[must_use]
    pub fn command_guard(mut self, program: impl Into<PathBuf>) -> Self {
        self.command_guard = Some(program.into());
        self
    }

    /// Puts something around the store, such as a count of its batches or a fault in one of them.
    #[must_use]
    pub fn around_store(
        mut self,
        around: impl FnOnce(Box<dyn Store>) -> Box<dyn Store> + Send + 'static,
    ) -> Self {
        self.around_store = Some(Box::new(around));
        self
    }

    /// The count of lines that the program's log has lost, if it knows. The server shows it in its metrics and at
    /// `/readyz`.
    #[must_use]
    pub fn lost_log_lines(mut self, lost: LostLines) -> Self {
        self.lost_log_lines = lost;
        self
    }

    /// Opens the store, puts back what a crash left, and serves. Where commands of an earlier server are not dead yet,
    /// it says so in the log and waits for them, as long as it takes: to drop the future gives up.
    ///
    /// # Errors
    /// The first thing that is wrong; nothing listens then.
    pub async fn start(mut self) -> Result<Server, ServeError> {
        let credentials = match self.listens {
            true => Some(Arc::new(Credentials::load(&self.settings, &self.clock)?)),
            false => None,
        };
        let kinds = self.kinds()?;
        let traces = Traces::start(&self.settings.traces)?;
        let store = self.open_store().await?;
        let issuer = Arc::new(TokenIssuer::new(store.reader().identity()));
        let doors = Doors::open(&self.settings, credentials, &self.clock).await?;
        let draining = CancellationToken::new();
        let named = kinds.defaults.keys().map(String::as_str).filter(|kind| !names::is_reserved_kind(kind));
        let counters = Arc::new(Counters::new(named, Health::new(draining.clone()))?);
        let reader = store.reader();
        let committing = take_over(shard::Parts {
            store,
            setup: self.setup(&kinds),
            clock: self.clock.clone(),
            counters: Arc::clone(&counters),
            draining: draining.clone(),
        })
        .await?;
        leftover::tell(&Leftover::find(
            &reader.queues()?,
            &reader.tallies()?,
            |queue| self.settings.queues.contains_key(queue),
            |kind| kinds.defaults.contains_key(kind),
        ));
        let limits = &self.settings.limits;
        let core = Core {
            intake: Intake {
                admission: Arc::new(Admission::new(Arc::clone(&committing.shard.queues), kinds.defaults)),
                shard: committing.shard.clone(),
                clock: self.clock.clone(),
                traces,
            },
            shard: committing.shard.clone(),
            issuer,
            clock: self.clock,
            outgoing: Outgoing::new(
                limits.keepalive_interval + limits.keepalive_timeout,
                Arc::clone(&counters),
            ),
            counters,
            draining,
        };
        let parts = Parts {
            core,
            committing,
            closures: kinds.closures,
            handlers: kinds.handlers,
            doors,
            lost_log_lines: self.lost_log_lines,
            drain_timeout: self.settings.drain_timeout,
        };
        Ok(parts.run())
    }

    async fn open_store(&mut self) -> Result<Box<dyn Store>, ServeError> {
        let (settings, disk) = (self.settings.store.clone(), self.settings.disk.clone());
        let store = tokio::task::spawn_blocking(move || open(&settings, &disk))
            .await
            .unwrap_or_else(|error| Err(ServeError::Ended(error.to_string())))?;
        if let StoreSettings::Folder(folder) = &self.settings.store {
            // The store's own lock comes first: only the one server of the folder may wait for commands.
            command::wait_for_commands(&commands_lock(folder)).await?;
        }
        Ok(match self.around_store.take() {
            Some(around) => around(store),
            None => store,
        })
    }

    fn setup(&self, kinds: &Kinds) -> EngineSetup {
        EngineSetup {
            present: self.clock.present(),
            seed: rand::random(),
            served_kinds: kinds.defaults.keys().cloned().collect(),
            declared_queues: self.settings.queues.clone(),
            retention: self.settings.retention,
        }
    }

    fn kinds(&self) -> Result<Kinds, ServeError> {
        let closures = Arc::new(Closures::default());
        let mut handlers = Handlers::new();
        let mut defaults = HashMap::new();
        // Every server runs closures' jobs, if only to say that those of an earlier process are lost.
        handlers.insert(names::CLOSURE_KIND.into(), Arc::new(ClosureHandler(Arc::clone(&closures))));
        let once = KindDefaults { max_attempts: 1, ..KindDefaults::default() };
        defaults.insert(names::CLOSURE_KIND.to_owned(), once);
        let common = Common {
            command_guard: self.command_guard.as_ref(),
            commands_lock: match &self.settings.store {
                StoreSettings::Memory => None,
                StoreSettings::Folder(folder) => Some(commands_lock(folder)),
            },
            clock: &self.clock,
        };
        for (kind, settings) in &self.settings.kinds {
            let handler = common
                .handler(&settings.handler)
                .map_err(|source| ServeError::Handler { kind: kind.clone(), source })?;
            handlers.insert(kind.as_str().into(), handler);
            defaults.insert(kind.clone(), settings.defaults);
        }
        for (kind, kind_defaults, handler) in &self.handlers {
            names::check_free_kind_name(kind)
                .map_err(|source| ServeError::KindName { kind: kind.clone(), source })?;
            if handlers.insert(kind.as_str().into(), Arc::clone(handler)).is_some() {
                return Err(ServeError::KindTwice(kind.clone()));
            }
            defaults.insert(kind.clone(), *kind_defaults);
        }
        Ok(Kinds { closures, handlers, defaults })
    }
}

fn commands_lock(folder: &Path) -> PathBuf {
    folder.join(COMMANDS_LOCK)
}

/// Puts back what a crash left in a store, and starts its committer. Another program may hold the store's lock.
async fn take_over(parts: shard::Parts) -> Result<Committing, ServeError> {
    let runtime = tokio::runtime::Handle::current();
    let started = tokio::task::spawn_blocking(move || parts.start(runtime)).await;
    Ok(started.map_err(|error| ServeError::Ended(error.to_string()))??)
}

fn open(settings: &StoreSettings, disk: &DiskSettings) -> Result<Box<dyn Store>, ServeError> {
    match settings {
        StoreSettings::Memory => Ok(Box::new(MemoryStore::new())),
        StoreSettings::Folder(folder) => Ok(Box::new(SqliteStore::open_with(folder, disk)?)),
    }
}

/// What runs each kind, and what its jobs get by default.
struct Kinds {
    closures: Arc<Closures>,
    handlers: Handlers,
    defaults: HashMap<String, KindDefaults>,
}

/// What a server is made of.
struct Parts {
    core: Core,
    committing: Committing,
    closures: Arc<Closures>,
    handlers: Handlers,
    doors: Doors,
    lost_log_lines: LostLines,
    drain_timeout: Duration,
}

impl Parts {
    /// Starts all tasks.
    fn run(self) -> Server {
        let stopper = Stopper { drain: CancellationToken::new(), force: CancellationToken::new() };
        let page = self.page();
        let handle = self.handle(page.clone(), stopper.drain.clone());
        let Parts { core, committing, closures, handlers, doors, drain_timeout, .. } = self;
        let Committing { shard, reports, handouts, ended, ends_with_this } = committing;
        let Core { intake: Intake { traces, .. }, draining, .. } = core.clone();
        let following =
            tokio::spawn(handle::follow(Arc::clone(&closures), Arc::clone(&shard.hub), shard.reads.clone()));
        let dispatch = Arc::new(Dispatch::new(
            handlers,
            reports.clone(),
            Arc::clone(&shard.hub),
            shard.reads.clone(),
            traces.clone(),
        ));
        let attempts = TaskTracker::new();
        let claims = Claims::default();
        let farewell = CancellationToken::new();
        let showing = doors
            .metrics_listener
            .map(|listener| tokio::spawn(endpoint::serve(page, doors.metrics_hosts, listener)));
        let running = Running {
            serving: tokio::spawn(serve(core, doors.listening, farewell.clone())),
            dispatching: tokio::spawn(Arc::clone(&dispatch).run(handouts, attempts.clone(), claims.clone())),
            shard,
            reports,
            ended,
            ends_with_this,
            audit: doors.audit,
            dispatch,
            attempts,
            closures,
            following,
            showing,
            traces,
            draining,
            claims,
            farewell,
            stopper: stopper.clone(),
            drain_timeout,
        };
        Server {
            address: doors.address,
            metrics_address: doors.metrics_address,
            handle,
            connections: doors.connections,
            stopper,
            reload: doors.reload,
            running: tokio::spawn(running.until_the_end()),
        }
    }

    fn page(&self) -> Page {
        let core = &self.core;
        Page {
            counters: Arc::clone(&core.counters),
            shard: core.shard.clone(),
            connections: Arc::clone(&self.doors.connections),
            lost: Lost { log: self.lost_log_lines.clone(), audit: self.doors.audit.lost() },
            clock: core.clock.clone(),
            started: core.clock.present(),
        }
    }

    fn handle(&self, page: Page, draining: CancellationToken) -> Handle {
        let core = &self.core;
        Handle::new(handle::Parts {
            intake: core.intake.clone(),
            shard: core.shard.clone(),
            issuer: Arc::clone(&core.issuer),
            clock: core.clock.clone(),
            closures: Arc::clone(&self.closures),
            page,
            draining,
        })
    }
}
