//! The builder of a worker.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    num::NonZeroUsize,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{runtime::Handle, sync::oneshot};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::{
    WorkerError,
    connection::Driver,
    control::Event,
    dial::{Dialer, read_token},
    handlers::{self, Registered},
    health::{Health, Summary},
    mailbox::Mailbox,
    plan::{Plan, PlannedPool},
    session::Session,
};
use crate::{
    client::{Client, ClientBuilder},
    clock::Clock,
    execute::Handler,
    job::worker_limits::{
        HELLO_LEASES_MAX, INSTANCE_MAX_BYTES, POOL_KINDS_MAX, POOL_NAME_MAX_BYTES, POOL_QUEUES_MAX, POOLS_MAX,
    },
};

/// Default time for running attempts after the worker was asked to end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
const LABELS_MAX: usize = 32;
const LABEL_VALUE_MAX_BYTES: usize = 256;
const LABEL_MAX_BYTES: usize = 63;

/// Kinds that share a number of places, and the queues that their jobs come from.
#[must_use]
pub struct Pool {
    name: String,
    concurrency: Option<usize>,
    queues: Vec<String>,
    handlers: Vec<(String, Arc<dyn Handler>)>,
}

impl Pool {
    /// Creates a pool. Its name is shown to operators: at most 63 of a-z, A-Z, 0-9, `-`, `_`, `.`, possibly empty, and
    /// unique in the worker.
    pub fn new(name: impl Into<String>) -> Self {
        Pool { name: name.into(), concurrency: None, queues: Vec::new(), handlers: Vec::new() }
    }

    /// Sets the number of jobs that the pool runs at a time: 1 to 10,000, for all pools of a worker together. Default:
    /// the number of processors.
    pub fn concurrency(mut self, jobs: usize) -> Self {
        self.concurrency = Some(jobs);
        self
    }

    /// Adds queues to take jobs from: at most 1,000. Default: all queues for which the worker's token has the role
    /// `work`.
    pub fn queues<N: Into<String>>(mut self, queues: impl IntoIterator<Item = N>) -> Self {
        self.queues.extend(queues.into_iter().map(Into::into));
        self
    }

    /// Adds the handler of a kind. A kind has one handler in a worker.
    pub fn handler(self, kind: impl Into<String>, handler: impl Handler) -> Self {
        self.shared_handler(kind, Arc::new(handler))
    }

    /// As [`Pool::handler`], for a handler that is shared.
    pub fn shared_handler(mut self, kind: impl Into<String>, handler: Arc<dyn Handler>) -> Self {
        self.handlers.push((kind.into(), handler));
        self
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The builder of a [`Worker`].
#[must_use]
#[derive(Debug)]
pub struct WorkerBuilder {
    client: ClientBuilder,
    token_file: Option<PathBuf>,
    instance: Option<String>,
    labels: BTreeMap<String, String>,
    pool: Pool,
    pools: Vec<Pool>,
    drain_timeout: Duration,
    max_jobs: Option<u64>,
    until_idle: Option<Duration>,
}

impl WorkerBuilder {
    /// Changes the options of the connection: certificates, a token, time limits. The options for retries have no
    /// effect, because a worker calls again for as long as it runs.
    pub fn connection(mut self, change: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Self {
        self.client = change(self.client);
        self
    }

    /// Sends the token in this file, which is read again for each connection, so that it can be replaced. The same
    /// rules as for [`ClientBuilder::token`] hold.
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token_file = Some(path.into());
        self
    }

    /// Sets the worker's name: 1 to 128 of a-z, A-Z, 0-9, `-`, `_`, `.`, `:`. No two workers may have the same: the
    /// later process takes over, and the other one ends with [`WorkerError::Superseded`]. With a name that a restarted
    /// worker keeps, the server learns at once that the attempts of the one before are lost. Default: the host name
    /// and a random part.
    pub fn instance(mut self, name: impl Into<String>) -> Self {
        self.instance = Some(name.into());
        self
    }

    /// Adds a name and a value by which operators select workers: at most 32, each name 1 to 63 of a-z, A-Z, 0-9, `-`,
    /// `_`, `.`, `/`, each value at most 256 bytes.
    pub fn label(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(name.into(), value.into());
        self
    }

    /// Adds the handler of a kind to the default pool, as [`Pool::handler`].
    pub fn handler(mut self, kind: impl Into<String>, handler: impl Handler) -> Self {
        self.pool = self.pool.handler(kind, handler);
        self
    }

    /// Sets the number of jobs that the default pool runs at a time, as [`Pool::concurrency`].
    pub fn concurrency(mut self, jobs: usize) -> Self {
        self.pool = self.pool.concurrency(jobs);
        self
    }

    /// Adds queues that the default pool takes jobs from, as [`Pool::queues`].
    pub fn queues<N: Into<String>>(mut self, queues: impl IntoIterator<Item = N>) -> Self {
        self.pool = self.pool.queues(queues);
        self
    }

    /// Adds a pool beside the default one: kinds with places of their own, so that slow jobs do not hold up others. At
    /// most 64.
    pub fn pool(mut self, pool: Pool) -> Self {
        self.pools.push(pool);
        self
    }

    /// Sets how long running attempts may go on once the worker was asked to end. After that they are asked to stop,
    /// and are dropped after their grace period. Default 30 s.
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// Ends the worker when it has run that many attempts. It takes no more jobs than these.
    pub fn max_jobs(mut self, jobs: u64) -> Self {
        self.max_jobs = Some(jobs);
        self
    }

    /// Ends the worker when it has had no job for this long while it was connected.
    pub fn until_idle(mut self, idle: Duration) -> Self {
        self.until_idle = Some(idle);
        self
    }

    /// Checks the options. Nothing is sent until the worker runs.
    ///
    /// # Errors
    /// [`WorkerError::Invalid`], [`WorkerError::TokenFile`], or [`WorkerError::Connection`] for an address or
    /// certificates that can't be used.
    pub fn build(self) -> Result<Worker, WorkerError> {
        let WorkerBuilder { mut client, token_file, instance, labels, pool, pools, .. } = self;
        if let Some(path) = &token_file {
            let token =
                read_token(path).map_err(|source| WorkerError::TokenFile { path: path.clone(), source })?;
            client = client.token(token);
        }
        client.endpoint().map_err(WorkerError::Connection)?;
        let instance = instance.unwrap_or_else(default_instance);
        check(&instance, "instance", INSTANCE_MAX_BYTES, "-_.:")?;
        if labels.len() > LABELS_MAX {
            return Err(invalid(format!(
                "{} labels are set; at most {LABELS_MAX} are allowed",
                labels.len()
            )));
        }
        for (name, value) in &labels {
            check(name, "label", LABEL_MAX_BYTES, "-_./")?;
            if value.len() > LABEL_VALUE_MAX_BYTES {
                let bytes = value.len();
                return Err(invalid(format!(
                    "the value of the label `{name}` has {bytes} bytes; at most {LABEL_VALUE_MAX_BYTES} are allowed"
                )));
            }
        }
        let pools = std::iter::once(pool).filter(|pool| !pool.handlers.is_empty()).chain(pools);
        let (pools, handlers) = plan(pools.collect())?;
        let plan = Plan {
            instance,
            process: Uuid::new_v4().simple().to_string(),
            labels,
            pools,
            handlers,
            drain_timeout: self.drain_timeout,
            max_jobs: self.max_jobs,
            until_idle: self.until_idle,
        };
        let mailbox = Arc::default();
        let health = Health::new(Clock::System);
        Ok(Worker { plan, dialer: Dialer { builder: client, token_file }, mailbox, health })
    }
}

/// The handlers of all pools, by kind.
type HandlersByKind = HashMap<String, Arc<Registered>>;

/// Plans the pools, and checks them.
fn plan(pools: Vec<Pool>) -> Result<(Vec<PlannedPool>, HandlersByKind), WorkerError> {
    if pools.is_empty() {
        return Err(invalid("the worker has no handler".to_owned()));
    }
    if pools.len() > POOLS_MAX {
        return Err(invalid(format!(
            "the worker has {} pools; at most {POOLS_MAX} are allowed",
            pools.len()
        )));
    }
    let mut handlers = HashMap::new();
    let mut planned: Vec<PlannedPool> = Vec::with_capacity(pools.len());
    for (at, pool) in pools.into_iter().enumerate() {
        let Pool { name, concurrency, queues, handlers: of_pool } = pool;
        if !name.is_empty() {
            check(&name, "pool", POOL_NAME_MAX_BYTES, "-_.")?;
        }
        if planned.iter().any(|before| before.name == name) {
            return Err(invalid(format!("two pools have the name `{name}`")));
        }
        let (kinds, most) = (of_pool.len(), POOL_KINDS_MAX);
        if kinds == 0 || kinds > most {
            return Err(invalid(format!("the pool `{name}` has {kinds} kinds; 1 to {most} are allowed")));
        }
        if queues.len() > POOL_QUEUES_MAX {
            let queues = queues.len();
            return Err(invalid(format!(
                "the pool `{name}` has {queues} queues; at most {POOL_QUEUES_MAX} are allowed"
            )));
        }
        let concurrency = concurrency
            .unwrap_or_else(|| std::thread::available_parallelism().map(NonZeroUsize::get).unwrap_or(1));
        if concurrency == 0 {
            return Err(invalid(format!("the pool `{name}` runs no jobs: its concurrency is 0")));
        }
        let mut kinds = Vec::with_capacity(of_pool.len());
        for (kind, handler) in of_pool {
            if handlers.insert(kind.clone(), Registered::new(&kind, at, handler)).is_some() {
                return Err(invalid(format!("the kind `{kind}` has two handlers")));
            }
            kinds.push(kind);
        }
        planned.push(PlannedPool { name, kinds, queues, concurrency });
    }
    let together: usize = planned.iter().map(|pool| pool.concurrency).sum();
    if together > HELLO_LEASES_MAX {
        return Err(invalid(format!(
            "the worker would run {together} jobs at a time; at most {HELLO_LEASES_MAX} are allowed"
        )));
    }
    Ok((planned, handlers))
}

fn invalid(message: String) -> WorkerError {
    WorkerError::Invalid(message)
}

fn check(text: &str, what: &str, max: usize, also: &str) -> Result<(), WorkerError> {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || also.contains(letter);
    if text.is_empty() || text.len() > max || !text.chars().all(fits) {
        let signs: Vec<_> = also.chars().map(|sign| format!("`{sign}`")).collect();
        return Err(invalid(format!(
            "{what}: `{}` is not 1 to {max} of a-z, A-Z, 0-9, {}",
            text.escape_debug(),
            signs.join(", ")
        )));
    }
    Ok(())
}

/// Returns the host name with a random part.
fn default_instance() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host: String = host
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() || "-_.".contains(letter) { letter } else { '-' })
        .take(INSTANCE_MAX_BYTES / 2)
        .collect();
    let random = Uuid::new_v4().simple().to_string();
    format!("{}:{}", if host.is_empty() { "worker" } else { &host }, &random[..8])
}

/// A worker: it takes jobs of a server, runs them, and reports their ends.
#[must_use = "a worker does nothing until it runs"]
pub struct Worker {
    plan: Plan,
    dialer: Dialer,
    mailbox: Arc<Mailbox<Event>>,
    health: Health,
}

/// A handle that ends a worker. Clones share it.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<Mailbox<Event>>);

impl Stopper {
    /// Takes no more jobs, hands back those that have not started, and ends when the others have, within the drain
    /// timeout.
    pub fn drain(&self) {
        self.0.push(Event::Drain);
    }

    /// Ends at once: running attempts are cut off, and reported as handed back.
    pub fn force(&self) {
        self.0.push(Event::Force);
    }
}

/// Ends the worker's thread if the future that owns it is dropped.
struct Running(Stopper);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.force();
    }
}

impl Worker {
    /// Creates the builder of a worker for a server: `http://host:port`, `https://host:port`, or `host:port`.
    pub fn builder(endpoint: &str) -> WorkerBuilder {
        Worker::with_connection(Client::builder(endpoint))
    }

    /// Creates the builder of a worker that connects as a client would: with its address, certificates and token.
    pub fn with_connection(client: ClientBuilder) -> WorkerBuilder {
        WorkerBuilder {
            client,
            token_file: None,
            instance: None,
            labels: BTreeMap::new(),
            pool: Pool::new(""),
            pools: Vec::new(),
            drain_timeout: DRAIN_TIMEOUT,
            max_jobs: None,
            until_idle: None,
        }
    }

    /// The worker's name.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.plan.instance
    }

    /// A handle on the worker's state.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// A handle that ends the worker.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.mailbox))
    }

    /// Runs jobs until the worker is told to end, by its [`Stopper`], by the server's operator, or by one of the
    /// builder's limits. While the server is away it calls again and again.
    ///
    /// Handlers run on the calling runtime, and everything else on a thread of the worker's own, so that a handler that
    /// blocks its runtime keeps its leases. If the future is dropped, the attempts are cut off.
    ///
    /// # Errors
    /// [`WorkerError::Superseded`], [`WorkerError::Refused`], [`WorkerError::Connection`], [`WorkerError::Thread`], or
    /// [`WorkerError::Crashed`].
    ///
    /// # Panics
    /// If it is not called on a tokio runtime.
    pub async fn run(self) -> Result<Summary, WorkerError> {
        let stopper = self.stopper();
        let _running = Running(stopper);
        let Worker { plan, dialer, mailbox, health } = self;
        let (runtime, attempts) = (Handle::current(), TaskTracker::new());
        let start = move |start| drop(attempts.spawn_on(handlers::run(start), &runtime));
        let driver = Driver::new(Session::new(plan, mailbox), dialer, start, rand::random::<f64>, health);
        let (done, ended) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("jobmill-worker".to_owned())
            .spawn(move || {
                let result = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => {
                        let result = runtime.block_on(driver.run());
                        // A name that is still being resolved must not hold up the end.
                        runtime.shutdown_background();
                        result
                    }
                    Err(error) => Err(WorkerError::Thread(error)),
                };
                // A caller that has dropped its future does not want the result.
                let _ = done.send(result);
            })
            .map_err(WorkerError::Thread)?;
        let result = ended.await.unwrap_or(Err(WorkerError::Crashed));
        // The thread has nothing left to do. Its panic, if any, is in the result.
        let _ = thread.join();
        result
    }

    /// As [`Worker::run`], and drains when `shutdown` resolves.
    ///
    /// # Errors
    /// As [`Worker::run`].
    ///
    /// # Panics
    /// As [`Worker::run`].
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<Summary, WorkerError> {
        let stopper = self.stopper();
        let mut run = std::pin::pin!(self.run());
        tokio::select! {
            biased;
            ended = &mut run => return ended,
            () = shutdown => stopper.drain(),
        }
        run.await
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("instance", &self.plan.instance).finish_non_exhaustive()
    }
}
