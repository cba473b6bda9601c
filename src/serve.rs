//! Start, wiring and shutdown of a server.

mod credentials;
mod error;
mod kinds;
mod leftover;
mod listeners;
mod running;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

#[cfg(feature = "internals")]
#[doc(hidden)]
pub use crate::api::{incoming as grpc_incoming, server as grpc_server};
#[cfg(all(feature = "internals", feature = "worker"))]
#[doc(hidden)]
pub use crate::metrics::serve_worker;
pub use crate::{
    api::ApiError,
    counters::MetricsError,
    execute::{SetupError, command::LockError},
    lines::LostLines,
    traces::TracesError,
};
use credentials::Credentials;
pub use error::ServeError;
use kinds::Kinds;
use listeners::{Listeners, serve};
use running::Running;
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::Admission,
    api::{Core, ResponseBudget},
    clock::Clock,
    counters::{Counters, Health},
    dispatch::{Claims, Dispatch, Handlers},
    engine::{EngineSetup, ScheduleSetup},
    execute::{Callbacks, Handler, closures::Closures, command},
    handle::{self, Handle},
    intake::Intake,
    job::names,
    listen::ListenStats,
    metrics::{LostLineCounts, Page, endpoint},
    settings::{DiskSettings, KindDefaults, Settings, StoreSettings},
    shard::{self, Committing},
    store::{Leftover, Store, memory::MemoryStore, sqlite::SqliteStore},
    traces::Traces,
    watch::TokenIssuer,
    workers::{Roster, Workers},
};

/// Lock file that commands hold until they end, even if their server was killed.
const COMMANDS_LOCK: &str = "commands.lock";

/// A function that wraps a store before the server uses it.
type AroundStore = Box<dyn FnOnce(Box<dyn Store>) -> Box<dyn Store> + Send>;

/// Builder of a server.
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

/// A handle that stops a server, for example from a signal handler.
#[derive(Clone, Debug)]
pub struct Stopper {
    drain: CancellationToken,
    force: CancellationToken,
}

/// A handle that reloads a server's credentials.
#[derive(Clone, Debug)]
pub struct Reloader(Arc<Notify>);

impl Reloader {
    /// Requests a reload, which is done in the background.
    pub fn reload(&self) {
        self.0.notify_one();
    }
}

impl Server {
    /// Creates a builder with these settings.
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

    /// The address that the server listens on, with the actual port if the settings have port 0. `None` if it does not
    /// listen.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The address of the metrics and health endpoint, with the actual port. `None` if there is none.
    #[must_use]
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Returns a handle to submit, watch and cancel jobs from this process.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Returns a handle that reloads certificates, keys and tokens, and reopens the audit file. Changed files are also
    /// detected every few seconds. If a file is invalid, the log says so and the old credentials stay in use.
    #[must_use]
    pub fn reloader(&self) -> Reloader {
        Reloader(Arc::clone(&self.reload))
    }

    /// Counters of the server's connections.
    #[cfg(feature = "internals")]
    #[doc(hidden)]
    #[must_use]
    pub fn connections(&self) -> Arc<ListenStats> {
        Arc::clone(&self.connections)
    }

    /// Returns a handle that stops the server.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Waits until the server has ended. Returns OK after a drain, and an error if the server failed, or if the store
    /// could not write all results of the drain.
    ///
    /// # Errors
    /// The error with which the server failed, [`ServeError::Store`] or [`ServeError::Unwritten`].
    pub async fn finished(self) -> Result<(), ServeError> {
        self.running.await.unwrap_or_else(|error| Err(ServeError::Ended(error.to_string())))
    }
}

impl Stopper {
    /// Begins the drain: no more attempts are started, and running ones may finish. Shortly before the deadline
    /// ([`Settings::drain_timeout`]), attempts that still run see their token cancelled
    /// ([`crate::execute::Attempt::cancelled`]). At the deadline they are dropped, and their jobs are retried after the
    /// restart if they have attempts left. [`Server::finished`] then returns, with an error if the store had not
    /// written everything.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Ends a drain at once: running attempts are dropped, as at the deadline. Acknowledged jobs and results are still
    /// written to disk, within 2 s or until the deadline if that is sooner.
    pub fn force(&self) {
        self.force.cancel();
        self.drain.cancel();
    }
}

impl ServerBuilder {
    /// Runs jobs of `kind` by a Rust handler.
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

    /// Sets the clock; the default is the system's.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Sets the guard program for commands: a `jobmill` binary, or one whose `main` calls
    /// [`crate::execute::command::guard_main`] first. The default is the running program.
    #[must_use]
    pub fn command_guard(mut self, program: impl Into<PathBuf>) -> Self {
        self.command_guard = Some(program.into());
        self
    }

    /// Wraps the store, for example to count its batches or to inject a fault.
    #[cfg(feature = "internals")]
    #[doc(hidden)]
    #[must_use]
    pub fn around_store(
        mut self,
        around: impl FnOnce(Box<dyn Store>) -> Box<dyn Store> + Send + 'static,
    ) -> Self {
        self.around_store = Some(Box::new(around));
        self
    }

    /// Sets the program's counter of lost log lines. The server reports it in its metrics and at `/readyz`.
    #[must_use]
    pub fn lost_log_lines(mut self, lost: LostLines) -> Self {
        self.lost_log_lines = lost;
        self
    }

    /// Opens the store, recovers interrupted jobs after a crash, and starts serving. If commands of an earlier server
    /// are still alive, it logs that and waits for them without a time limit; dropping the future stops the wait.
    ///
    /// # Errors
    /// The first error; the server then does not listen.
    pub async fn start(mut self) -> Result<Server, ServeError> {
        let credentials = match self.listens {
            true => Some(Arc::new(Credentials::load(&self.settings, &self.clock)?)),
            false => None,
        };
        let callbacks = Callbacks::default();
        let kinds = self.kinds(&callbacks)?;
        let traces = Traces::start(&self.settings.traces)?;
        let store = self.open_store().await?;
        let issuer = Arc::new(TokenIssuer::new(store.reader().identity()));
        let listeners = Listeners::open(&self.settings, credentials, &self.clock).await?;
        let draining = CancellationToken::new();
        let named = kinds.defaults.keys().map(String::as_str).filter(|kind| !names::is_reserved_kind(kind));
        let counters = Arc::new(Counters::new(named, Health::new(draining.clone()))?);
        let reader = store.reader();
        let roster =
            Arc::new(Roster::new(self.settings.workers, self.clock.clone(), Arc::clone(&counters.workers)));
        let committing = take_over(shard::Parts {
            store,
            setup: self.setup(&kinds, &roster),
            remote: Arc::clone(&roster) as Arc<_>,
            clock: self.clock.clone(),
            counters: Arc::clone(&counters),
            draining: draining.clone(),
        })
        .await?;
        leftover::tell(&Leftover::find(
            &reader.queues()?,
            &reader.tallies()?,
            |queue| self.settings.queues.contains_key(queue),
            |kind| kinds.defaults.contains_key(kind) || committing.shard.worker_kinds.knows(kind),
        ));
        let workers = Workers::new(roster, committing.shard.clone(), committing.reports.clone());
        let limits = &self.settings.limits;
        let core = Core {
            intake: Intake {
                admission: Arc::new(Admission::new(
                    Arc::clone(&committing.shard.queues),
                    kinds.defaults,
                    kinds.handlers.keys().map(|kind| kind.to_string()).collect(),
                    Arc::clone(&committing.shard.worker_kinds),
                )),
                shard: committing.shard.clone(),
                clock: self.clock.clone(),
                traces,
            },
            shard: committing.shard.clone(),
            issuer,
            clock: self.clock,
            outgoing: ResponseBudget::new(
                limits.keepalive_interval + limits.keepalive_timeout,
                Arc::clone(&counters),
            ),
            counters,
            workers,
            draining,
        };
        let parts = Parts {
            core,
            committing,
            closures: kinds.closures,
            callbacks,
            handlers: kinds.handlers,
            listeners,
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
            // The store's own lock is taken first: only the one server on the folder may wait for commands.
            command::wait_for_commands(&commands_lock(folder)).await?;
        }
        Ok(match self.around_store.take() {
            Some(around) => around(store),
            None => store,
        })
    }

    fn setup(&self, kinds: &Kinds, roster: &Roster) -> EngineSetup {
        EngineSetup {
            present: self.clock.present(),
            seed: rand::random(),
            served_kinds: kinds.handlers.keys().map(|kind| kind.to_string()).collect(),
            native_kinds: kinds.native.clone(),
            declared_queues: self.settings.queues.clone(),
            retention: self.settings.retention,
            demand: Arc::clone(roster.board()),
            schedules: ScheduleSetup {
                kinds: kinds.defaults.clone(),
                declared: self.settings.schedules.clone(),
                calendars: self.settings.calendars.clone(),
            },
            limits: self.settings.job_limits.clone(),
        }
    }
}

fn commands_lock(folder: &Path) -> PathBuf {
    folder.join(COMMANDS_LOCK)
}

/// Recovers interrupted jobs after a crash, and starts the committer. It blocks while another program holds the store's
/// lock.
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

/// The parts of a server, before its tasks are started.
struct Parts {
    core: Core,
    committing: Committing,
    /// The attempts that endpoints may call back.
    callbacks: Callbacks,
    closures: Arc<Closures>,
    handlers: Handlers,
    listeners: Listeners,
    lost_log_lines: LostLines,
    drain_timeout: Duration,
}

impl Parts {
    /// Starts all tasks.
    fn run(self) -> Server {
        let stopper = Stopper { drain: CancellationToken::new(), force: CancellationToken::new() };
        let page = self.page();
        let handle = self.handle(page.clone(), stopper.drain.clone());
        let Parts { core, committing, closures, callbacks, handlers, listeners, drain_timeout, .. } = self;
        let Committing { shard, reports, dispatches, ended, ends_with_this } = committing;
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
        let stop_accepting = CancellationToken::new();
        let showing = listeners.metrics_listener.map(|listener| {
            tokio::spawn(endpoint::serve(page, listeners.metrics_hosts, callbacks, listener))
        });
        let running = Running {
            workers: Arc::clone(&core.workers.roster),
            keeping: tokio::spawn(core.workers.clone().keep()),
            serving: tokio::spawn(serve(core, listeners.listening, stop_accepting.clone())),
            dispatching: tokio::spawn(Arc::clone(&dispatch).run(
                dispatches,
                attempts.clone(),
                claims.clone(),
            )),
            shard,
            reports,
            ended,
            ends_with_this,
            audit: listeners.audit,
            dispatch,
            attempts,
            closures,
            following,
            showing,
            traces,
            draining,
            claims,
            stop_accepting,
            stopper: stopper.clone(),
            drain_timeout,
        };
        Server {
            address: listeners.address,
            metrics_address: listeners.metrics_address,
            handle,
            connections: listeners.connections,
            stopper,
            reload: listeners.reload,
            running: tokio::spawn(running.until_the_end()),
        }
    }

    fn page(&self) -> Page {
        let core = &self.core;
        Page {
            counters: Arc::clone(&core.counters),
            shard: core.shard.clone(),
            connections: Arc::clone(&self.listeners.connections),
            workers: Arc::clone(&core.workers.roster),
            lost: LostLineCounts { log: self.lost_log_lines.clone(), audit: self.listeners.audit.lost() },
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
