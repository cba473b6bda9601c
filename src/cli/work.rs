//! `jobmill work`: a remote worker whose handlers are commands and HTTP endpoints.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jobmill::{
    config::Environment,
    execute::{Callbacks, Handler, command::wait_for_commands, configured_handler},
    serve::serve_worker,
    settings::{KindSettings, Settings},
    worker::{Pool, Summary, Worker, WorkerBuilder, WorkerError},
};
use tokio::net::TcpListener;
use tracing::{info, warn};

use super::{
    Global, client,
    exit::{Exit, Failure},
    logging,
    serve::{Signals, SourceArgs},
    values,
};

/// Time without a job after which a worker with `--once` ends.
const ONCE_IDLE: Duration = Duration::from_secs(2);

/// Runs jobs until SIGTERM or SIGINT: the first one hands back what has not started and lets running attempts end, a
/// second one stops at once. The handlers are the `[kinds]` of the same configuration file as the server's.
#[derive(clap::Args, Debug)]
pub(super) struct WorkArgs {
    /// Configuration file; by default ~/.config/jobmill/jobmill.toml, if there is one [env: JOBMILL_CONFIG]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Name of this worker; no two may have the same [default: host name and a random part]
    #[arg(long, env = "JOBMILL_INSTANCE", value_name = "NAME", hide_env_values = true)]
    instance: Option<String>,
    /// Name and value by which operators select workers; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = values::entry)]
    labels: Vec<(String, String)>,
    /// Jobs at a time: N, or KIND=N for a kind that has its own; may be repeated [default: number of processors]
    #[arg(long, value_name = "N|KIND=N", value_parser = concurrency)]
    concurrency: Vec<Concurrency>,
    /// Queue to take jobs from; may be repeated [default: all that the token may]
    #[arg(long = "queue", value_name = "NAME")]
    queues: Vec<String>,
    /// Kind to run, of those in the configuration file; may be repeated [default: all of them]
    #[arg(long = "kind", value_name = "KIND")]
    kinds: Vec<String>,
    /// End when there has been no job for 2 s
    #[arg(long)]
    once: bool,
    /// End after this number of attempts
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_jobs: Option<u64>,
    /// Time that running attempts have to end when the worker stops [default: as in the configuration file, or 30s]
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    drain_timeout: Option<Duration>,
    /// Address and port for metrics and health over HTTP [default: none]
    #[arg(long, env = "JOBMILL_WORK_METRICS_LISTEN", value_name = "ADDRESS", hide_env_values = true)]
    metrics_listen: Option<SocketAddr>,
    /// Existing folder for a lock, by which a restarted worker with the same --instance waits for the commands of the
    /// one before
    #[arg(
        long,
        env = "JOBMILL_STATE_DIR",
        value_name = "PATH",
        requires = "instance",
        hide_env_values = true
    )]
    state_dir: Option<PathBuf>,
}

/// A number of jobs at a time, of one kind or of all others.
#[derive(Clone, Debug)]
struct Concurrency {
    kind: Option<String>,
    jobs: usize,
}

fn concurrency(text: &str) -> Result<Concurrency, String> {
    let (kind, number) = match text.rsplit_once('=') {
        Some((kind, number)) => (Some(kind.to_owned()), number),
        None => (None, text),
    };
    match number.parse() {
        Ok(jobs @ 1..=10_000) => Ok(Concurrency { kind, jobs }),
        Ok(_) | Err(_) => Err("write it like 4 or resize=4, from 1 to 10000".to_owned()),
    }
}

/// Runs the worker. Exit codes: 0 when it has ended as it was told to, and those of [`Exit`].
pub(super) async fn run(args: WorkArgs, global: &Global) -> Result<Exit, Failure> {
    let loaded = SourceArgs::of_store(args.config.clone(), None).load(&Environment::of_process()).map_err(
        |faults| {
            Failure::usage(format!("the configuration is not valid: {faults}"))
                .with_next("`jobmill check-config` shows each setting.")
        },
    )?;
    let internal = |error: anyhow::Error| Failure::new(Exit::Internal, format!("{error:#}"));
    let log = logging::start(&loaded.log).map_err(internal)?;
    let mut signals = Signals::catch().map_err(internal)?;
    let lock = args.state_dir.as_deref().zip(args.instance.as_deref()).map(lock_path);
    if let Some(lock) = &lock {
        let waited = wait_for_commands(lock).await;
        waited.map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            Failure::usage(format!("{error}: {cause}")).with_next("Name another folder with --state-dir.")
        })?;
    }
    let callbacks = Callbacks::default();
    let worker = builder(&args, &loaded.settings, global, lock, &callbacks)?.build().map_err(failure)?;
    let metrics = match args.metrics_listen {
        Some(address) => Some(TcpListener::bind(address).await.map_err(|error| {
            Failure::usage(format!("--metrics-listen: {address} can't be listened on: {error}"))
                .with_next("Choose another port; port 0 takes a free one.")
        })?),
        None => None,
    };
    if let Some(address) = metrics.as_ref().and_then(|listener| listener.local_addr().ok()) {
        info!(%address, "metrics and health");
    }
    info!(instance = worker.instance(), server = global.server, "the worker starts");
    let ended = work(worker, metrics, callbacks, &mut signals).await;
    drop(log);
    ended
}

/// Runs the worker to its end, with its metrics and its signals.
async fn work(
    worker: Worker,
    metrics: Option<TcpListener>,
    callbacks: Callbacks,
    signals: &mut Signals,
) -> Result<Exit, Failure> {
    let (stopper, health) = (worker.stopper(), worker.health());
    let mut run = std::pin::pin!(worker.run());
    let mut serving = std::pin::pin!(async {
        match metrics {
            Some(listener) => serve_worker(health, callbacks, listener).await,
            None => std::future::pending().await,
        }
    });
    let mut signals_seen = 0;
    let ended = loop {
        tokio::select! {
            ended = &mut run => break ended,
            never = &mut serving => match never {},
            name = signals.next() => {
                signals_seen += 1;
                if signals_seen == 1 {
                    info!(signal = name, "draining: running attempts may end; a second signal stops at once");
                    stopper.drain();
                } else {
                    warn!(signal = name, "stopping at once: running attempts are cut off");
                    stopper.force();
                }
            }
        }
    };
    let Summary { counts, unreported, .. } = ended.map_err(failure)?;
    info!(
        started = counts.started,
        succeeded = counts.succeeded,
        failed = counts.failed,
        released = counts.released,
        lost = counts.lost,
        unreported,
        "the worker has ended"
    );
    if unreported > 0 {
        let message = format!("the server has not confirmed {unreported} ends of attempts");
        return Err(Failure::new(Exit::Unreachable, message)
            .with_next("Their jobs are retried when their leases are over."));
    }
    Ok(if signals_seen > 1 { Exit::Interrupted } else { Exit::Ok })
}

fn lock_path((folder, instance): (&Path, &str)) -> PathBuf {
    folder.join(format!("work-{}.lock", instance.replace(['/', ':'], "_")))
}

/// Returns the builder of a worker with the handlers of the configuration.
fn builder(
    args: &WorkArgs,
    settings: &Settings,
    global: &Global,
    lock: Option<PathBuf>,
    callbacks: &Callbacks,
) -> Result<WorkerBuilder, Failure> {
    if settings.kinds.is_empty() {
        return Err(Failure::usage("the configuration has no kinds, so that there is nothing to run").with_next(
            "Add a section such as [kinds.resize] with a `command` to the configuration file, or name another file \
             with --config.",
        ));
    }
    let known = || settings.kinds.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let named = args.concurrency.iter().filter_map(|concurrency| concurrency.kind.as_ref());
    for (flag, kind) in
        args.kinds.iter().map(|kind| ("--kind", kind)).chain(named.map(|kind| ("--concurrency", kind)))
    {
        if !settings.kinds.contains_key(kind) {
            return Err(Failure::usage(format!("{flag}: the configuration has no kind `{kind}`"))
                .with_next(format!("Its kinds are: {}.", known())));
        }
    }
    let mut own: BTreeMap<&str, usize> = BTreeMap::new();
    let mut shared = Pool::new("").queues(&args.queues);
    for Concurrency { kind, jobs } in &args.concurrency {
        match kind {
            Some(kind) => drop(own.insert(kind, *jobs)),
            None => shared = shared.concurrency(*jobs),
        }
    }
    let mut worker = Worker::with_connection(client(global)?)
        .drain_timeout(args.drain_timeout.unwrap_or(settings.drain_timeout));
    let (mut shares, mut own_names) = (false, 0);
    for (kind, of_kind) in &settings.kinds {
        if !args.kinds.is_empty() && !args.kinds.contains(kind) {
            continue;
        }
        let handler = handler_of(kind, of_kind, args, lock.clone(), callbacks)?;
        // Other workers run a kind that is only declared.
        let Some(handler) = handler else { continue };
        match own.get(kind.as_str()) {
            Some(jobs) => {
                own_names += 1;
                let pool = Pool::new(format!("kind-{own_names}")).concurrency(*jobs).queues(&args.queues);
                worker = worker.pool(pool.shared_handler(kind, handler));
            }
            None => {
                shares = true;
                shared = shared.shared_handler(kind, handler);
            }
        }
    }
    if shares {
        worker = worker.pool(shared);
    }
    for (name, value) in &args.labels {
        worker = worker.label(name, value);
    }
    if let Some(instance) = &args.instance {
        worker = worker.instance(instance);
    }
    if let Some(path) = global.credentials.token_file() {
        worker = worker.token_file(path);
    }
    if let Some(jobs) = args.max_jobs {
        worker = worker.max_jobs(jobs);
    }
    Ok(if args.once { worker.until_idle(ONCE_IDLE) } else { worker })
}

/// Returns the handler of a kind; `None` for a kind that is only declared for workers.
fn handler_of(
    kind: &str,
    settings: &KindSettings,
    args: &WorkArgs,
    lock: Option<PathBuf>,
    callbacks: &Callbacks,
) -> Result<Option<Arc<dyn Handler>>, Failure> {
    if settings.handler.wants_callbacks() && args.metrics_listen.is_none() {
        let problem = format!("kind `{kind}`: it has a `callback_url`, and nothing answers there");
        return Err(Failure::usage(problem)
            .with_next("Name the address with --metrics-listen, or leave the URL out."));
    }
    configured_handler(&settings.handler, lock, callbacks)
        .map_err(|error| Failure::usage(format!("kind `{kind}`: {error}")))
}

fn failure(error: WorkerError) -> Failure {
    let said = error.to_string();
    match error {
        WorkerError::Invalid(_) => Failure::usage(said),
        WorkerError::TokenFile { .. } => Failure::usage(said)
            .with_next("Make a token with `jobmill token new`, and name its file with --token-file."),
        WorkerError::Superseded { .. } => Failure::new(Exit::Refused, said).with_next("See --instance."),
        WorkerError::Refused(error) | WorkerError::Connection(error) => error.into(),
        WorkerError::Thread(_) | WorkerError::Crashed => Failure::new(Exit::Internal, said),
        // `WorkerError` is non-exhaustive: later versions may add variants.
        _ => Failure::new(Exit::Internal, said),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_jobs_at_a_time_may_be_set_for_all_kinds_or_one() {
        let read = |text| concurrency(text).map(|Concurrency { kind, jobs }| (kind, jobs));
        assert_eq!(read("4"), Ok((None, 4)));
        assert_eq!(read("a=b=4"), Ok((Some("a=b".to_owned()), 4)));
        for wrong in ["", "0", "k=", "k=0", "10001", "-1"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
