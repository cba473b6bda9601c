//! Wiring and shutdown: a server from its settings to its end.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

pub use crate::api::{ApiError, incoming as grpc_incoming, server as grpc_server};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admission::{Admission, Queues},
    api::{self, Core},
    clock::Clock,
    commit::{Committer, Committing},
    config::{
        DiskSettings, KindDefaults, Settings, StoreSettings,
        names::{self, NameError},
    },
    dispatch::{Dispatch, Handlers},
    execute::{
        Handler, SetupError,
        closures::{ClosureHandler, Closures},
        command::{self, WaitError},
        configured::Common,
    },
    handle::{self, Handle},
    store::{EngineSetup, Reads, Store, StoreError, memory::MemoryStore, sqlite::SqliteStore},
    watch::{Hub, TokenIssuer},
};

/// All queues together have at most 100,000 slots, each with a claim and a cancel on its way at most.
const HANDOUTS_MAX: usize = 200_000;
/// How long a starting server waits for the commands of one that was killed.
const COMMANDS_PATIENCE: Duration = Duration::from_secs(30);
/// Attempts are asked to stop so long before a drain's deadline, or a quarter of the drain if that is shorter.
const STOP_GRACE_MAX: Duration = Duration::from_secs(5);
/// How long answers may take to reach their callers once nothing is left to do,
const FAREWELL_MAX: Duration = Duration::from_secs(2);
/// and how long they have even where the deadline has come.
const FAREWELL_MIN: Duration = Duration::from_millis(250);
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
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    address: Option<SocketAddr>,
    handle: Handle,
    stopper: Stopper,
    running: JoinHandle<Result<(), ServeError>>,
}

/// Stops a server from elsewhere, such as a signal handler.
#[derive(Clone, Debug)]
pub struct Stopper {
    drain: CancellationToken,
    force: CancellationToken,
}

/// Why a server did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address can't be listened on.
    #[error("can't listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Commands of an earlier server would not end.
    #[error(transparent)]
    Commands(#[from] WaitError),
    /// A kind's handler can't be set up.
    #[error("the kind `{kind}` can't be run")]
    Handler {
        /// The kind.
        kind: String,
        /// Why.
        source: SetupError,
    },
    /// A handler's kind can't have this name.
    #[error("the kind {kind:?} can't have a handler")]
    KindName {
        /// The name.
        kind: String,
        /// What is wrong with it.
        source: NameError,
    },
    /// A kind has two handlers.
    #[error("the kind `{0}` has two handlers")]
    KindTwice(String),
    /// The gRPC server failed.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A part of the server ended that never should.
    #[error("a part of the server ended unexpectedly: {0}")]
    Ended(String),
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
        }
    }

    /// Where it listens: the port is real even where the settings asked for port 0. `None` where it does not listen.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Submits, watches and cancels from this process.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// A handle that stops it.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Returns when the server has ended: OK after a drain, an error when it had to end by itself.
    ///
    /// # Errors
    /// The reason for which it ended by itself.
    pub async fn finished(self) -> Result<(), ServeError> {
        self.running.await.unwrap_or_else(|error| Err(ServeError::Ended(error.to_string())))
    }
}

impl Stopper {
    /// Begins the drain: nothing more is started, and running attempts may end. Shortly before the deadline, which is
    /// [`Settings::drain_timeout`], those that still run see their token cancelled ([`crate::execute::Attempt::cancelled`]);
    /// at the deadline they are cut off, and their jobs are retried after the restart as far as they have attempts left.
    /// [`Server::finished`] returns then at the latest.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Ends a drain at once: running attempts are cut off.
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

    /// Opens the store, puts back what a crash left, and serves.
    ///
    /// # Errors
    /// The first thing that is wrong; nothing listens then.
    pub async fn start(self) -> Result<Server, ServeError> {
        let closures = Arc::new(Closures::default());
        let (handlers, defaults) = self.handlers(&closures)?;
        let setup = EngineSetup {
            now: self.clock.now(),
            seed: rand::random(),
            served_kinds: defaults.keys().cloned().collect(),
            declared_queues: self.settings.queues.clone(),
            retention: self.settings.retention,
        };
        let (settings, disk) = (self.settings.store.clone(), self.settings.disk.clone());
        let store = tokio::task::spawn_blocking(move || open(&settings, disk, setup))
            .await
            .unwrap_or_else(|error| Err(ServeError::Ended(error.to_string())))?;
        let store = match self.around_store {
            Some(around) => around(store),
            None => store,
        };
        let listen = self.settings.listen;
        let listening = |source| ServeError::Listen { address: listen, source };
        let listener = match self.listens {
            true => Some(TcpListener::bind(listen).await.map_err(listening)?),
            false => None,
        };
        let address = listener.as_ref().map(TcpListener::local_addr).transpose().map_err(listening)?;

        let reader = store.reader();
        let queues = Arc::new(Queues::default());
        queues.set(reader.queues()?);
        let (_, end) = reader.jobs(&[])?;
        let hub = Arc::new(Hub::new(end));
        let (handout_sender, handouts) = mpsc::channel(HANDOUTS_MAX);
        let draining = CancellationToken::new();
        let issuer = Arc::new(TokenIssuer::new(reader.identity()));
        let reads = Reads::new(reader);
        let committing = Committer {
            store,
            clock: self.clock.clone(),
            queues: Arc::clone(&queues),
            hub: Arc::clone(&hub),
            handouts: handout_sender,
            draining: draining.clone(),
        }
        .start(tokio::runtime::Handle::current())?;
        let core = Core {
            admission: Arc::new(Admission::new(queues, defaults)),
            commit: committing.commit.clone(),
            reads: reads.clone(),
            hub: Arc::clone(&hub),
            issuer,
            clock: self.clock,
            draining: draining.clone(),
        };
        let stopper = Stopper { drain: CancellationToken::new(), force: CancellationToken::new() };
        let handle = Handle::new(handle::Parts {
            admission: Arc::clone(&core.admission),
            commit: core.commit.clone(),
            reads: reads.clone(),
            hub: Arc::clone(&hub),
            issuer: Arc::clone(&core.issuer),
            clock: core.clock.clone(),
            closures: Arc::clone(&closures),
            draining: stopper.drain.clone(),
        });
        let following = tokio::spawn(handle::follow(Arc::clone(&closures), Arc::clone(&hub), reads.clone()));
        let dispatch = Arc::new(Dispatch::new(handlers, committing.reports.clone(), Arc::clone(&hub), reads));
        let attempts = TaskTracker::new();
        let dispatched = CancellationToken::new();
        let farewell = CancellationToken::new();
        let running = Running {
            serving: tokio::spawn(serve(core, listener, farewell.clone())),
            dispatching: tokio::spawn(Arc::clone(&dispatch).run(
                handouts,
                attempts.clone(),
                dispatched.clone(),
            )),
            committing,
            dispatch,
            attempts,
            hub,
            closures,
            following,
            draining,
            dispatched,
            farewell,
            stopper: stopper.clone(),
            drain_timeout: self.settings.drain_timeout,
        };
        Ok(Server { address, handle, stopper, running: tokio::spawn(running.until_the_end()) })
    }

    /// What runs each kind, and what its jobs get by default.
    fn handlers(
        &self,
        closures: &Arc<Closures>,
    ) -> Result<(Handlers, HashMap<String, KindDefaults>), ServeError> {
        let mut handlers = Handlers::new();
        let mut defaults = HashMap::new();
        // Every server runs closures' jobs, if only to say that those of an earlier process are lost.
        handlers.insert(names::CLOSURE_KIND.into(), Arc::new(ClosureHandler(Arc::clone(closures))));
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
        Ok((handlers, defaults))
    }
}

/// Serves gRPC until `stopping` is cancelled, or waits for that where there is no port to serve it on.
async fn serve(
    core: Core,
    listener: Option<TcpListener>,
    stopping: CancellationToken,
) -> Result<(), ApiError> {
    match listener {
        Some(listener) => api::serve(core, listener, stopping).await,
        None => {
            stopping.cancelled().await;
            Ok(())
        }
    }
}

fn commands_lock(folder: &Path) -> PathBuf {
    folder.join(COMMANDS_LOCK)
}

fn open(
    settings: &StoreSettings,
    disk: DiskSettings,
    setup: EngineSetup,
) -> Result<Box<dyn Store>, ServeError> {
    match settings {
        StoreSettings::Memory => Ok(Box::new(MemoryStore::open(setup)?)),
        StoreSettings::Folder(folder) => {
            // The store's own lock comes first: only the one server of the folder may wait for commands.
            let store = SqliteStore::open_with(folder, disk, setup)?;
            command::wait_for_commands(&commands_lock(folder), COMMANDS_PATIENCE)?;
            Ok(Box::new(store))
        }
    }
}

/// The parts of a running server.
struct Running {
    serving: JoinHandle<Result<(), ApiError>>,
    dispatching: JoinHandle<()>,
    committing: Committing,
    dispatch: Arc<Dispatch>,
    attempts: TaskTracker,
    hub: Arc<Hub>,
    closures: Arc<Closures>,
    /// Lets go of closures that are of no use any more.
    following: JoinHandle<Infallible>,
    /// Nothing more is claimed.
    draining: CancellationToken,
    /// Nothing more is handed out.
    dispatched: CancellationToken,
    /// No more calls are taken.
    farewell: CancellationToken,
    stopper: Stopper,
    drain_timeout: Duration,
}

impl Running {
    async fn until_the_end(mut self) -> Result<(), ServeError> {
        let reason = tokio::select! {
            () = self.stopper.drain.cancelled() => Ok(()),
            ended = &mut self.committing.ended => Err(match ended {
                Ok(Err(error)) => error.into(),
                Ok(Ok(())) | Err(_) => ServeError::Ended("the committer".into()),
            }),
            ended = &mut self.serving => Err(match ended {
                Ok(Err(error)) => error.into(),
                Ok(Ok(())) | Err(_) => ServeError::Ended("the gRPC server".into()),
            }),
        };
        if reason.is_err() {
            // Nothing can be kept any more, or nobody can be reached: no time is given.
            self.stopper.force();
        }
        self.drain().await;
        reason
    }

    /// Ends at the deadline, give or take the moment that a cut takes.
    async fn drain(self) {
        let Running { mut serving, mut dispatching, committing, dispatch, attempts, hub, stopper, .. } = self;
        let (closures, following) = (self.closures, self.following);
        let Committing { commit, reports, mut ended } = committing;
        let deadline = tokio::time::sleep(self.drain_timeout).deadline();
        let stop_at = deadline - STOP_GRACE_MAX.min(self.drain_timeout / 4);
        self.draining.cancel();
        hub.close();
        self.farewell.cancel();
        let force = &stopper.force;

        // After an empty batch nothing more is claimed; what was claimed before is on its way to dispatch. A disk that
        // hangs must not hold up the drain.
        tokio::select! {
            () = commit.flush() => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = force.cancelled() => {}
        }
        self.dispatched.cancel();
        let _ = (&mut dispatching).await;
        attempts.close();
        tokio::select! {
            () = attempts.wait() => {}
            () = tokio::time::sleep_until(stop_at) => {
                tracing::info!(attempts = attempts.len(), "asking running attempts to stop");
                dispatch.stop();
                tokio::select! {
                    () = attempts.wait() => {}
                    () = tokio::time::sleep_until(deadline) => {}
                    () = force.cancelled() => {}
                }
            }
            () = force.cancelled() => {}
        }
        if !attempts.is_empty() {
            tracing::warn!(
                attempts = attempts.len(),
                "cutting off running attempts; their jobs are retried later"
            );
        }
        dispatch.cut_off();
        // A handler that never yields can't be cut off; it ends with the process.
        let _ = tokio::time::timeout_at(farewell_until(deadline), attempts.wait()).await;
        let farewell = async {
            let _ = (&mut serving).await;
        };
        tokio::select! {
            _ = tokio::time::timeout_at(farewell_until(deadline), farewell) => {}
            () = force.cancelled() => {}
        }
        serving.abort();
        following.abort();
        // Handles may outlive the server; what closures own must not.
        closures.close();
        drop((dispatch, reports));
        commit.end();
        // Dropping the store ends its checkpoint thread, too.
        if !ended.is_terminated() {
            let _ = tokio::time::timeout_at(farewell_until(deadline), &mut ended).await;
        }
    }
}

/// When to stop waiting for the last answers: soon, and before the deadline if that leaves them any time.
fn farewell_until(deadline: Instant) -> Instant {
    let least = tokio::time::sleep(FAREWELL_MIN).deadline();
    let most = tokio::time::sleep(FAREWELL_MAX).deadline();
    deadline.clamp(least, most)
}
