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
    config::{self, Faults, Flags, Loaded, Surroundings},
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
/// The exit code for a store that failed while the server ran, or in its last moments (`EX_IOERR` of `sysexits.h`).
const EXIT_STORE: u8 = 74;
/// The exit code for all else.
const EXIT_OTHER: u8 = 1;

/// Why a server did not run, or ended other than by a drain.
struct Failed {
    code: u8,
    error: anyhow::Error,
}

impl<E: Into<anyhow::Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Failed { code: EXIT_OTHER, error: error.into() }
    }
}

/// Runs the server until SIGTERM or SIGINT: the first lets running attempts end, a second ends at once. SIGHUP has
/// certificates and tokens read again.
#[derive(clap::Args, Debug)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    /// Write the address to this file once the server listens, and remove the file when it ends
    #[arg(long, value_name = "PATH")]
    pub(crate) port_file: Option<PathBuf>,
    /// Start even with a database that lacks acknowledged jobs, as after an old copy was put in its place
    #[arg(long)]
    pub(crate) accept_loss: bool,
}

/// Where settings come from: flags go before variables, those before the file, that before the defaults.
#[derive(clap::Args, Debug, Default)]
pub(crate) struct SourceArgs {
    /// Configuration file; by default ~/.config/jobmill/jobmill.toml, if there is one [env: JOBMILL_CONFIG]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Address and port to listen on; port 0 takes a free one [env: JOBMILL_LISTEN]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<OsString>,
    /// Listen beyond this machine without TLS or tokens [env: JOBMILL_INSECURE]
    #[arg(long)]
    insecure: bool,
    /// Folder that keeps the jobs [env: JOBMILL_DATA_DIR]
    #[arg(long, value_name = "PATH")]
    data_dir: Option<PathBuf>,
    /// Keep the jobs in memory: they are gone when the server stops [env: JOBMILL_MEMORY]
    #[arg(long)]
    memory: bool,
    /// How long a stopping server waits for running attempts, such as 30s [env: JOBMILL_DRAIN_TIMEOUT]
    #[arg(long, value_name = "DURATION")]
    drain_timeout: Option<OsString>,
    /// Address and port for metrics and health over HTTP, loopback only, or off [env: JOBMILL_METRICS_LISTEN]
    #[arg(long, value_name = "ADDRESS")]
    metrics_listen: Option<OsString>,
    /// URL of the OpenTelemetry collector that traces go to, or off [env: JOBMILL_TRACES_ENDPOINT]
    #[arg(long, value_name = "URL")]
    traces_endpoint: Option<OsString>,
    /// Which log lines to show, such as debug or info,jobmill=debug [env: JOBMILL_LOG]
    #[arg(long, value_name = "FILTER")]
    log: Option<OsString>,
    /// Form of log lines: text or json [env: JOBMILL_LOG_FORMAT]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<OsString>,
}

impl SourceArgs {
    /// For who needs to know no more than where the jobs are kept.
    pub(crate) fn of_store(config: Option<PathBuf>, data_dir: Option<PathBuf>) -> Self {
        SourceArgs { config, data_dir, ..SourceArgs::default() }
    }

    /// The same with this file, if there is one.
    pub(crate) fn with_file(mut self, file: Option<PathBuf>) -> Self {
        self.config = file.or(self.config);
        self
    }

    /// Reads and checks the configuration.
    pub(crate) fn load(self, surroundings: &Surroundings) -> Result<Loaded, Faults> {
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
        config::load(&flags, surroundings)
    }
}

/// The time that a last word on stdout has, where stderr does not take it.
const LAST_WORD_MAX: Duration = Duration::from_millis(500);

/// Serves until a signal. Exit codes: 0 after a drain, 2 for a configuration that is not valid, 74 for a store that failed
/// once it was open, 1 for all else.
pub(crate) async fn run(args: ServeArgs) -> ExitCode {
    let mut loaded = match args.source.load(&Surroundings::of_process()) {
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
    // Before anything starts, so that a signal in between is neither lost nor kills.
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
        // Nobody will learn where it listens: no use in going on.
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
                    let patience = humantime::format_duration(drain_timeout);
                    info!(
                        signal = name,
                        "draining: running attempts have up to {patience}; a second signal ends at once"
                    );
                    stopper.drain();
                } else {
                    warn!(signal = name, "ending at once: running attempts are cut off");
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

/// Why a server did not start, with the way out where there is one.
fn not_started(error: ServeError, listen: SocketAddr, store: &StoreSettings) -> Failed {
    let way_out = way_out(&error, listen, store);
    let error = anyhow!(error).context("not started");
    match way_out {
        Some(way_out) => anyhow!("{error:#}; {way_out}").into(),
        None => error.into(),
    }
}

/// Writes a line for people and scripts, and another one where metrics are served. A closed stdout is no reason to end,
/// and one that takes nothing, such as a full pipe, is no reason to wait.
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

/// Writes a last word to stderr, or to stdout where stderr does not take it, such as on a full disk.
async fn complain(log: Option<&Log>, text: String) {
    let told = match log {
        Some(log) => log.say(&text),
        None => writeln!(io::stderr(), "{text}").is_ok(),
    };
    if !told {
        // There is nowhere left to tell that this failed, too.
        let _ = tokio::time::timeout(LAST_WORD_MAX, to_stdout(text + "\n")).await;
    }
}

/// What to do about an error of the operating system that lies under `error`.
fn way_out(
    error: &(dyn std::error::Error + 'static),
    listen: SocketAddr,
    store: &StoreSettings,
) -> Option<String> {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    let cause = causes.find_map(|cause| cause.downcast_ref::<io::Error>())?;
    let port = listen.port();
    // Only a few kinds have a way out that is worth a sentence.
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
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn catch() -> anyhow::Result<Self> {
        // A file that has reached a limit of the process (`ulimit -f`), such as the log's, can't be written any more. It
        // is to fail there, and not to end the server.
        signal_hook::flag::register(SIGXFSZ, Arc::default()).context("signals can't be caught")?;
        let catch = |kind| signal(kind).context("signals can't be caught");
        Ok(Signals { terminate: catch(SignalKind::terminate())?, interrupt: catch(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The file that tells scripts the real address. It is there only while the server listens, unless that is killed.
struct PortFile {
    path: PathBuf,
    text: String,
}

impl PortFile {
    /// Writes it whole or not at all, so that a script never reads half an address.
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
    /// Leaves a file alone that another server has written since.
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
