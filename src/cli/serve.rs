//! `jobmill serve`: a server from its configuration to its end.

use std::{
    ffi::OsString,
    fs,
    io::{self, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{self, ExitCode},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, anyhow};
use jobmill::{
    config::{self, Environment, Faults, Flags, Loaded},
    serve::{ServeError, Server},
    settings::{Settings, StoreSettings},
};
use signal_hook::consts::SIGXFSZ;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::{JoinHandle, spawn_blocking},
};
use tracing::{info, warn};

use super::logging::{self, Log};

/// The exit code for a configuration that is not valid.
pub(crate) const EXIT_CONFIGURATION: u8 = 2;
/// The exit code for a store that failed while the server ran or during shutdown (`EX_IOERR` of `sysexits.h`).
const EXIT_STORE: u8 = 74;
/// The exit code for all other errors.
const EXIT_OTHER: u8 = 1;

/// The failure of a server: it did not start, or ended other than by a drain.
struct Failed {
    code: u8,
    error: anyhow::Error,
}

impl<E: Into<anyhow::Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Failed { code: EXIT_OTHER, error: error.into() }
    }
}

/// Runs the server until SIGTERM or SIGINT: the first one lets running attempts end, a second one stops at once. SIGHUP
/// reloads certificates and tokens.
#[derive(clap::Args, Debug)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Write the address to this file once the server listens, and remove the file when it ends
    #[arg(long, value_name = "PATH")]
    pub(crate) port_file: Option<PathBuf>,
    /// Start even if the database lacks acknowledged jobs, such as an old copy put in its place
    #[arg(long)]
    pub(crate) accept_loss: bool,
}

/// The sources of settings, by precedence: flags, environment variables, the configuration file, the defaults.
#[derive(clap::Args, Debug, Default)]
pub(crate) struct SourceArgs {
    /// Configuration file; by default ~/.config/jobmill/jobmill.toml, if there is one [env: JOBMILL_CONFIG]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Address and port to listen on; port 0 takes a free one [env: JOBMILL_LISTEN]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<OsString>,
    /// Listen beyond this machine even without TLS or tokens [env: JOBMILL_INSECURE]
    #[arg(long)]
    insecure: bool,
    /// Folder that keeps the jobs [env: JOBMILL_DATA_DIR]
    #[arg(long, value_name = "PATH")]
    data_dir: Option<PathBuf>,
    /// Keep the jobs in memory: they are gone when the server stops [env: JOBMILL_MEMORY]
    #[arg(long)]
    memory: bool,
    /// Time that running attempts have to end when the server stops, such as 30s [env: JOBMILL_DRAIN_TIMEOUT]
    #[arg(long, value_name = "DURATION")]
    drain_timeout: Option<OsString>,
    /// Address and port for metrics and health over HTTP, loopback only, or off [env: JOBMILL_METRICS_LISTEN]
    #[arg(long, value_name = "ADDRESS")]
    metrics_listen: Option<OsString>,
    /// URL of the OpenTelemetry collector that traces go to, or off [env: JOBMILL_TRACES_ENDPOINT]
    #[arg(long, value_name = "URL")]
    traces_endpoint: Option<OsString>,
    /// Filter of log lines, such as debug or info,jobmill=debug [env: JOBMILL_LOG]
    #[arg(long, value_name = "FILTER")]
    log: Option<OsString>,
    /// Format of log lines: text or json [env: JOBMILL_LOG_FORMAT]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<OsString>,
}

impl SourceArgs {
    /// Returns the sources for a caller that only needs the location of the store.
    pub(crate) fn of_store(config: Option<PathBuf>, data_dir: Option<PathBuf>) -> Self {
        SourceArgs { config, data_dir, ..SourceArgs::default() }
    }

    /// Returns the same sources with this configuration file, if one is given.
    pub(crate) fn with_file(mut self, file: Option<PathBuf>) -> Self {
        self.config = file.or(self.config);
        self
    }

    /// Reads and checks the configuration.
    pub(crate) fn load(self, environment: &Environment) -> Result<Loaded, Faults> {
        let flags = Flags {
            config: self.config,
            listen: self.listen,
            insecure: self.insecure,
            data_dir: self.data_dir,
            memory: self.memory,
            drain_timeout: self.drain_timeout,
            metrics_listen: self.metrics_listen,
            traces_endpoint: self.traces_endpoint,
            log: self.log,
            log_format: self.log_format,
        };
        config::load(&flags, environment)
    }
}

/// Time limit for a final message on stdout, where stderr does not take it.
const LAST_WORD_MAX: Duration = Duration::from_millis(500);

/// Runs the server until a signal. Exit codes: 0 after a drain, 2 for a configuration that is not valid, 74 for a store
/// that failed once it was open, 1 for all else.
pub(crate) async fn run(args: ServeArgs) -> ExitCode {
    let mut loaded = match args.source.load(&Environment::of_process()) {
        Ok(loaded) => loaded,
        Err(faults) => {
            let count = faults.as_slice().len();
            let noun = if count == 1 { "fault" } else { "faults" };
            complain(None, format!("{faults}\njobmill: not started: {count} {noun} in the configuration"))
                .await;
            return ExitCode::from(EXIT_CONFIGURATION);
        }
    };
    loaded.settings.disk.accept_loss = args.accept_loss;
    let log = match logging::start(&loaded.log) {
        Ok(log) => log,
        Err(error) => {
            complain(None, format!("jobmill: {error:#}")).await;
            return ExitCode::FAILURE;
        }
    };
    match serve(loaded, &log, args.port_file.as_deref()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed { code, error }) => {
            complain(Some(&log), format!("jobmill: {error:#}")).await;
            ExitCode::from(code)
        }
    }
}

async fn serve(loaded: Loaded, log: &Log, port_file: Option<&Path>) -> Result<(), Failed> {
    // Installed before anything starts, so that an early signal is neither lost nor kills the process.
    let mut signals = Signals::catch()?;
    let mut hang_up = signal(SignalKind::hangup()).context("signals can't be caught")?;
    let Settings { listen, store, drain_timeout, .. } = loaded.settings.clone();
    let builder = Server::builder(loaded.settings).lost_log_lines(log.lost());
    let started = tokio::select! {
        started = builder.start() => started,
        name = signals.next() => {
            info!(signal = name, "stopped before the server had started");
            return Ok(());
        }
    };
    let server = match started {
        Ok(server) => server,
        Err(error) => return Err(not_started(error, listen, &store)),
    };
    let reloader = server.reloader();
    let address = server.local_addr().context("the server does not listen")?;
    let stopper = server.stopper();
    let port_file = port_file.map(|path| PortFile::write(path, address)).transpose();
    if port_file.is_ok() {
        announce(address, server.metrics_addr(), &store);
    } else {
        // Without the port file, scripts can't find the server: stop it.
        stopper.drain();
    }

    let finished = server.finished();
    tokio::pin!(finished);
    let mut signals_seen = 0;
    let ended = loop {
        tokio::select! {
            ended = &mut finished => break ended,
            _ = hang_up.recv() => {
                info!("reading certificates and tokens again");
                reloader.reload();
            }
            name = signals.next() => {
                signals_seen += 1;
                if signals_seen == 1 {
                    let grace = humantime::format_duration(drain_timeout);
                    info!(
                        signal = name,
                        "draining: running attempts have up to {grace} to end; a second signal stops at once"
                    );
                    stopper.drain();
                } else {
                    warn!(signal = name, "stopping at once: running attempts are cut off");
                    stopper.force();
                }
            }
        }
    };
    ended.map_err(|error| {
        let code = if error.is_of_the_store() { EXIT_STORE } else { EXIT_OTHER };
        let how = if signals_seen > 0 { "failed while it stopped" } else { "ended by itself" };
        Failed { code, error: anyhow!(error).context(how) }
    })?;
    drop(port_file?);
    if signals_seen > 1 {
        let cut_off =
            "ended at once by a second signal; attempts that were cut off are retried after the next start";
        return Err(anyhow!(cut_off).into());
    }
    info!("stopped");
    Ok(())
}

/// Returns the failure of a server that did not start, with advice where there is some.
fn not_started(error: ServeError, listen: SocketAddr, store: &StoreSettings) -> Failed {
    let way_out = way_out(&error, listen, store);
    let error = anyhow!(error).context("not started");
    match way_out {
        Some(way_out) => anyhow!("{error:#}; {way_out}").into(),
        None => error.into(),
    }
}

/// Prints the server's address for people and scripts, and the address of metrics where they are served. A closed
/// stdout does not end the server, and one that takes nothing, such as a full pipe, does not delay it.
fn announce(address: SocketAddr, metrics: Option<SocketAddr>, store: &StoreSettings) {
    let store = match store {
        StoreSettings::Memory => "memory".to_owned(),
        StoreSettings::Folder(path) => path.display().to_string(),
    };
    let mut lines = format!("jobmill listening on {address} (store: {store})\n");
    if let Some(metrics) = metrics {
        lines.push_str(&format!("metrics and health on http://{metrics}/metrics\n"));
    }
    drop(to_stdout(lines));
}

/// Writes to stdout on a thread that may block.
fn to_stdout(text: String) -> JoinHandle<io::Result<()>> {
    spawn_blocking(move || {
        let mut stdout = io::stdout();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()
    })
}

/// Writes a final message to stderr, or to stdout where stderr does not take it, such as on a full disk.
async fn complain(log: Option<&Log>, text: String) {
    let told = match log {
        Some(log) => log.say(&text),
        None => writeln!(io::stderr(), "{text}").is_ok(),
    };
    if !told {
        // A failure of this can't be reported anywhere.
        let _ = tokio::time::timeout(LAST_WORD_MAX, to_stdout(text + "\n")).await;
    }
}

/// Returns advice for the error of the operating system that caused `error`.
fn way_out(
    error: &(dyn std::error::Error + 'static),
    listen: SocketAddr,
    store: &StoreSettings,
) -> Option<String> {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    let cause = causes.find_map(|cause| cause.downcast_ref::<io::Error>())?;
    let port = listen.port();
    // Advice is known for a few kinds of errors only.
    if matches!(cause.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory) {
        return Some("a file is in the way: choose another folder with --data-dir".to_owned());
    }
    if cause.kind() == io::ErrorKind::AddrInUse {
        return Some(format!(
            "another process listens on {listen}: stop it, or choose another port with --listen (port 0 takes a \
             free one)"
        ));
    }
    if matches!(cause.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) {
        return Some(match store {
            StoreSettings::Folder(path) if !(1..1024).contains(&port) => format!(
                "make {} writable for this user, or choose another folder with --data-dir",
                path.display()
            ),
            StoreSettings::Folder(path) => format!(
                "this user needs the right to take port {port} (or another --listen) and to write to {}",
                path.display()
            ),
            StoreSettings::Memory => {
                format!("this user may not take port {port}: choose another with --listen")
            }
        });
    }
    if cause.kind() == io::ErrorKind::StorageFull {
        return Some("make room on the disk that holds the data folder".to_owned());
    }
    None
}

/// The signals that ask a server to stop.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn catch() -> anyhow::Result<Self> {
        // A write beyond the process's limit of file sizes (`ulimit -f`), such as to the log's file, must fail, and
        // must not end the server by this signal.
        signal_hook::flag::register(SIGXFSZ, Arc::default()).context("signals can't be caught")?;
        let catch = |kind| signal(kind).context("signals can't be caught");
        Ok(Signals { terminate: catch(SignalKind::terminate())?, interrupt: catch(SignalKind::interrupt())? })
    }

    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The port file, which tells scripts the server's address. It exists while the server listens; only a kill leaves it
/// behind.
struct PortFile {
    path: PathBuf,
    text: String,
}

impl PortFile {
    /// Writes the file atomically, so that a script never reads half an address.
    fn write(path: &Path, address: SocketAddr) -> anyhow::Result<Self> {
        let text = format!("{address}\n");
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}", process::id()));
        fs::write(&beside, &text)
            .and_then(|()| fs::rename(&beside, path))
            .inspect_err(|_| {
                let _ = fs::remove_file(&beside);
            })
            .with_context(|| format!("the port file {} can't be written", path.display()))?;
        Ok(PortFile { path: path.to_owned(), text })
    }
}

impl Drop for PortFile {
    /// Deletes the file, unless another server has written it since.
    fn drop(&mut self) {
        if fs::read_to_string(&self.path).is_ok_and(|text| text == self.text) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 7733);

    #[test]
    fn a_port_file_lives_as_long_as_its_server() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("port");
        let file = PortFile::write(&path, ADDRESS).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "127.0.0.1:7733\n");
        drop(file);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);

        let file = PortFile::write(&path, ADDRESS).unwrap();
        fs::write(&path, "[::1]:1\n").unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "[::1]:1\n", "another server's file stays");
    }

    #[test]
    fn a_port_file_that_cannot_be_written_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("port/inside")).unwrap();
        let refusal = PortFile::write(&dir.path().join("port"), ADDRESS).err().map(|error| error.to_string());
        assert!(refusal.is_some_and(|text| text.starts_with("the port file ")));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn errors_of_the_system_come_with_a_way_out() {
        let folder = StoreSettings::Folder("/data".into());
        let way_out = |kind: io::ErrorKind, store: &StoreSettings| {
            way_out(&io::Error::from(kind), ADDRESS, store).unwrap_or_default()
        };
        for (kind, store, text) in [
            (io::ErrorKind::AddrInUse, &folder, "another process listens on 127.0.0.1:7733"),
            (io::ErrorKind::PermissionDenied, &folder, "make /data writable"),
            (io::ErrorKind::PermissionDenied, &StoreSettings::Memory, "may not take port 7733"),
            (io::ErrorKind::StorageFull, &folder, "make room"),
            (io::ErrorKind::NotADirectory, &folder, "choose another folder"),
        ] {
            assert!(way_out(kind, store).contains(text), "{kind}");
        }
        assert_eq!(way_out(io::ErrorKind::NotFound, &folder), "");
    }
}
