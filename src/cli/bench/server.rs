//! The server's side of the bench: a process of its own, with the real server or one that does nothing.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io::{self, BufRead, Write},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use jobmill::{
    audit::Audit,
    clock::Clock,
    execute::{Attempt, HandlerError},
    job::Output,
    listen::Listener,
    serve::{Server, grpc_incoming, grpc_server},
    settings::{
        ClientAuth, Keep, KindDefaults, LimitSettings, LogSettings, QueueSettings, Settings, StoreSettings,
        TlsSettings,
    },
    store::{
        Names, Reader, Store, StoreError,
        sets::{Committed, Loaded, ReadResults, ReadSet, WriteSet},
    },
    worker::{Stopper, Worker},
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    gate::{Gate, RESULT},
    proto::{
        CallRequest, CallResponse, StreamRequest, StreamResponse,
        empty_service_server::{EmptyService, EmptyServiceServer},
    },
    table::Table,
};
use crate::cli::logging;

/// The queue whose jobs run at once, as long as no more than [`CONSUMERS`] are under way.
pub(super) const WORK: &str = "work";
/// The queue that the bench pauses, so that its jobs wait.
pub(super) const INTAKE: &str = "intake";
/// The queue whose jobs only remote workers run.
pub(super) const REMOTE: &str = "remote";
/// A kind that has no handler anywhere.
pub(super) const UNSERVED: &str = "unserved";
/// The kind whose handler does nothing.
pub(super) const KIND: &str = "noop";
/// Number of jobs that run at once in [`WORK`].
pub(super) const CONSUMERS: u32 = 4_096;
/// File names of the server's certificate and key, where it has them.
pub(super) const CERTIFICATE: &str = "certificate.pem";
pub(super) const KEY: &str = "key.pem";
/// The question for the number of flushes of the server's process.
pub(super) const ASK_FLUSHES: &str = "flushes";
/// The question for the number of attempts that wait at the gate of the server's process.
pub(super) const ASK_WAITING: &str = "waiting";
/// The command to open the gate of the server's process; the answer is the number of attempts that it lets pass.
pub(super) const ASK_OPEN: &str = "open";
/// The questions for the times from the commit of a claim until a remote worker had received the job, in microseconds.
pub(super) const ASK_RECEIVED_P50: &str = "received p50";
pub(super) const ASK_RECEIVED_P99: &str = "received p99";
/// Limits of a queue that no run of the bench fills.
const JOBS_MAX: u64 = 100_000_000;
const BYTES_MAX: u64 = 1 << 40;

/// Serves the bench until standard input ends.
#[derive(clap::Args, Debug)]
pub(crate) struct BenchServerArgs {
    /// The folder of the store; without it, a service whose calls are empty
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Store the payload of each call in a bare table in this folder
    #[arg(long, conflicts_with = "data_dir")]
    table_dir: Option<PathBuf>,
    /// Run remote workers for the server with this address
    #[arg(long, conflicts_with = "data_dir")]
    work_for: Option<String>,
    /// The number of these workers
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// The number of jobs that each of them runs at once
    #[arg(long, default_value_t = 1)]
    concurrency: usize,
    #[command(flatten)]
    variant: Variant,
}

/// Optional features of a measured server.
#[derive(clap::Args, Clone, Debug, Default)]
pub(super) struct Variant {
    /// Retention time of succeeded jobs, in milliseconds.
    #[arg(long)]
    pub(super) keep_succeeded_millis: Option<u64>,
    /// Folder with the certificate and the key that encrypt connections.
    #[arg(long)]
    pub(super) tls_dir: Option<PathBuf>,
    /// URI of the collector that traces go to. Metrics are served, too.
    #[arg(long)]
    pub(super) collector: Option<String>,
}

impl Variant {
    /// Returns the features as arguments.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let mut arguments = Vec::new();
        let mut add = |name: &str, value: OsString| arguments.extend([name.into(), value]);
        if let Some(millis) = self.keep_succeeded_millis {
            add("--keep-succeeded-millis", millis.to_string().into());
        }
        if let Some(folder) = &self.tls_dir {
            add("--tls-dir", folder.into());
        }
        if let Some(uri) = &self.collector {
            add("--collector", uri.into());
        }
        arguments
    }

    fn apply(self, settings: &mut Settings) {
        if let Some(millis) = self.keep_succeeded_millis {
            settings.retention.succeeded = Keep::For(Duration::from_millis(millis));
        }
        settings.tls = self.tls_dir.map(|folder| TlsSettings {
            certificate: folder.join(CERTIFICATE),
            key: folder.join(KEY),
            client_ca: None,
            client_auth: ClientAuth::Required,
        });
        if self.collector.is_some() {
            settings.metrics_listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        }
        settings.traces.endpoint = self.collector;
    }
}

/// Serves until standard input ends.
pub(crate) async fn run(args: BenchServerArgs) -> ExitCode {
    let served = match (args.data_dir, args.work_for) {
        (Some(folder), _) => serve_jobs(folder, args.variant).await,
        (None, Some(uri)) => work(&uri, args.workers, args.concurrency).await,
        (None, None) => serve_nothing(args.table_dir).await,
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve_jobs(folder: PathBuf, variant: Variant) -> anyhow::Result<()> {
    // The log runs as in any server, so that the cost of spans and log lines is part of the figures.
    let log = logging::start(&LogSettings::default())?;
    let queue = |consumers| QueueSettings {
        max_jobs: JOBS_MAX,
        max_bytes: BYTES_MAX,
        consumers,
        ..QueueSettings::default()
    };
    let mut settings = Settings {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        drain_timeout: Duration::from_secs(2),
        queues: BTreeMap::from([
            (WORK.to_owned(), queue(CONSUMERS)),
            (INTAKE.to_owned(), queue(1)),
            (REMOTE.to_owned(), QueueSettings { accept_unknown_kinds: true, ..queue(0) }),
        ]),
        ..Settings::new(StoreSettings::Folder(folder))
    };
    variant.apply(&mut settings);
    let flushes = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&flushes);
    let gate = Gate::closed();
    let server = Server::builder(settings)
        .handler(KIND, KindDefaults::default(), nothing)
        .handler(RESULT, KindDefaults::default(), gate.handler())
        .around_store(|store| Box::new(CountingStore { store, flushes: counted }))
        .lost_log_lines(log.lost())
        .start()
        .await?;
    announce(server.local_addr().context("the server does not listen")?)?;
    let stopper = server.stopper();
    let (handle, runtime) = (server.handle(), tokio::runtime::Handle::current());
    let received = move |quantile| {
        let page = runtime.block_on(handle.metrics()).unwrap_or_default();
        received_micros(&page, quantile)
    };
    let input_ended = answer_questions(move |question| match question {
        ASK_FLUSHES => flushes.load(Ordering::Relaxed),
        ASK_WAITING => gate.waiting(),
        ASK_OPEN => gate.open(),
        ASK_RECEIVED_P50 => received(0.5),
        ASK_RECEIVED_P99 => received(0.99),
        _ => 0,
    })?;
    tokio::spawn(async move {
        input_ended.cancelled().await;
        stopper.drain();
    });
    Ok(server.finished().await?)
}

/// Returns a quantile of the times until jobs were received, in microseconds, interpolated within its bucket.
fn received_micros(page: &str, quantile: f64) -> u64 {
    let bucket = |line: &str| {
        let (bound, count) =
            line.strip_prefix("jobmill_worker_received_seconds_bucket{le=\"")?.split_once("\"} ")?;
        Some((bound.parse::<f64>().ok()?, count.parse::<f64>().ok()?))
    };
    let buckets: Vec<(f64, f64)> = page.lines().filter_map(bucket).collect();
    let wanted = buckets.last().map_or(0.0, |(_, all)| all * quantile);
    let mut below = (0.0, 0.0);
    for (bound, count) in buckets {
        if count >= wanted && count > below.1 {
            let share = (wanted - below.1) / (count - below.1);
            let upper = if bound.is_finite() { bound } else { below.0 };
            return ((below.0 + share * (upper - below.0)) * 1e6) as u64;
        }
        below = (bound, count);
    }
    0
}

async fn nothing(_attempt: Attempt) -> Result<Output, HandlerError> {
    Ok(Output::default())
}

/// Runs remote workers until standard input ends.
async fn work(uri: &str, workers: usize, concurrency: usize) -> anyhow::Result<()> {
    let mut running = JoinSet::new();
    let mut stoppers = Vec::new();
    for _ in 0..workers {
        let worker =
            Worker::builder(uri).queues([REMOTE]).concurrency(concurrency).handler(KIND, nothing).build()?;
        let health = worker.health();
        stoppers.push(worker.stopper());
        running.spawn(worker.run_until(std::future::pending()));
        health.connected().await;
    }
    announce(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let input_ended = answer_questions(|_question| 0)?;
    tokio::spawn(async move {
        input_ended.cancelled().await;
        stoppers.iter().for_each(Stopper::drain);
    });
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(())
}

async fn serve_nothing(table_dir: Option<PathBuf>) -> anyhow::Result<()> {
    let table = table_dir.map(|folder| Table::open(&folder)).transpose()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("can't listen")?;
    announce(listener.local_addr()?)?;
    let input_ended = answer_questions(|_question| 0)?;
    let limits = LimitSettings::default();
    let listener =
        Listener::new(listener, limits.clone(), None, Arc::new(Audit::off()), Arc::default(), Clock::System);
    grpc_server(&limits)
        .add_service(EmptyServiceServer::new(EmptyOrTable { table }))
        .serve_with_incoming_shutdown(grpc_incoming(listener), input_ended.cancelled_owned())
        .await?;
    Ok(())
}

fn announce(address: SocketAddr) -> io::Result<()> {
    let mut stdout = io::stdout();
    writeln!(stdout, "{address}")?;
    stdout.flush()
}

/// Answers the bench's questions on a thread that may block. The token is cancelled when standard input ends, so that
/// no server outlives its bench.
fn answer_questions(answer: impl Fn(&str) -> u64 + Send + 'static) -> io::Result<CancellationToken> {
    let ended = CancellationToken::new();
    let ending = ended.clone().drop_guard();
    // The thread ends with the process, because a read of standard input can't be cancelled.
    std::thread::Builder::new().name("questions".into()).spawn(move || {
        let _ending = ending;
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            let answer = answer(&line);
            let mut stdout = io::stdout();
            if writeln!(stdout, "{answer}").and_then(|()| stdout.flush()).is_err() {
                return;
            }
        }
    })?;
    Ok(ended)
}

/// Store that counts the batches that wrote something. Each of them is one flush of the log. A checkpoint, once in
/// thousands of pages, adds two flushes, which are not counted.
struct CountingStore {
    store: Box<dyn Store>,
    flushes: Arc<AtomicU64>,
}

impl Store for CountingStore {
    fn names(&self) -> Arc<Names> {
        self.store.names()
    }

    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.store.load()
    }

    fn fetch(&mut self, wants: &ReadSet) -> Result<ReadResults, StoreError> {
        self.store.fetch(wants)
    }

    fn write(&mut self, writes: &WriteSet) -> Result<Committed, StoreError> {
        let committed = self.store.write(writes)?;
        if !writes.is_empty() {
            self.flushes.fetch_add(1, Ordering::Relaxed);
        }
        Ok(committed)
    }

    fn reader(&self) -> Arc<dyn Reader> {
        self.store.reader()
    }
}

/// The id in answers, as long as a job's id.
const ID: &str = "0123456789ABC";

/// Capacity of a stream's channel of answers. A channel is used because any service does that answers from elsewhere
/// than the stream itself.
const ANSWERS_MAX: usize = 1_024;

/// A service that does nothing with the payload of a call, or stores it in a table.
struct EmptyOrTable {
    table: Option<Table>,
}

#[tonic::async_trait]
impl EmptyService for EmptyOrTable {
    async fn call(&self, request: Request<CallRequest>) -> Result<Response<CallResponse>, Status> {
        if let Some(table) = &self.table {
            table.keep(request.into_inner().payload).await?;
        }
        Ok(Response::new(CallResponse { id: ID.to_owned() }))
    }

    type StreamStream = std::pin::Pin<Box<dyn Stream<Item = Result<StreamResponse, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<StreamRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let mut messages = request.into_inner();
        let (answers, answered) = mpsc::channel(ANSWERS_MAX);
        tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                let answer = message.map(|_message| StreamResponse { id: ID.to_owned() });
                if answers.send(answer).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answered))))
    }
}
