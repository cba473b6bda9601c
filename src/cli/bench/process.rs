//! A server in a process of its own: started, queried and stopped by the bench.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use super::server::{ASK_FLUSHES, ASK_OPEN, ASK_RECEIVED_P50, ASK_RECEIVED_P99, ASK_WAITING, Variant};

/// Time limit for a server to start, to answer or to end.
const TIME_LIMIT: Duration = Duration::from_secs(60);
/// Part of a failed server's log that is shown.
const LOG_SHOWN_BYTES: usize = 2_000;

/// Indexes of user time and system time in /proc/PID/stat, counted from the state.
const USER_TICKS: usize = 11;
const SYSTEM_TICKS: usize = 12;
/// Unit of these times, which Linux keeps the same on all machines.
const TICKS_PER_SECOND: f64 = 100.0;

/// The service of a server.
#[derive(Clone, Copy)]
pub(super) enum Serves<'a> {
    /// None: its calls are empty.
    Nothing,
    /// A bare table in this folder, which stores the payload of each call.
    Table { folder: &'a Path },
    /// Jobs, stored in this folder.
    Jobs { folder: &'a Path, variant: &'a Variant },
    /// None: remote workers of another server.
    Work { uri: &'a str, workers: usize, concurrency: usize },
}

/// A running server. It is killed when dropped.
pub(super) struct ServerProcess {
    child: Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    address: SocketAddr,
}

impl ServerProcess {
    /// Starts a server. Its log goes to the file `log`.
    pub(super) async fn start(serves: Serves<'_>, log: &Path) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("can't find this program's file")?;
        let log_file = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(program);
        command.arg("__bench-server");
        match serves {
            Serves::Nothing => {}
            Serves::Jobs { folder, variant } => {
                command.arg("--data-dir").arg(folder).args(variant.arguments());
            }
            Serves::Work { uri, workers, concurrency } => {
                let numbers = [workers, concurrency].map(|number| number.to_string());
                command.arg("--work-for").arg(uri).arg("--workers").arg(&numbers[0]);
                command.arg("--concurrency").arg(&numbers[1]);
            }
            Serves::Table { folder } => {
                command.arg("--table-dir").arg(folder);
            }
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log_file)
            .kill_on_drop(true)
            .spawn()
            .context("can't start a server")?;
        let (Some(questions), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("a server has no pipes");
        };
        let mut answers = BufReader::new(stdout).lines();
        let Ok(Ok(Some(line))) = timeout(TIME_LIMIT, answers.next_line()).await else {
            let log = fs::read(log).unwrap_or_default();
            let shown =
                String::from_utf8_lossy(log.get(log.len().saturating_sub(LOG_SHOWN_BYTES)..).unwrap_or(&[]))
                    .into_owned();
            bail!("a server did not start; its log ends with:\n{shown}");
        };
        let address = line.parse().with_context(|| format!("a server announced `{line}`"))?;
        Ok(ServerProcess { child, questions, answers, address })
    }

    /// Returns the server's address.
    pub(super) fn uri(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the server's address for encrypted connections, by the name in its certificate.
    pub(super) fn tls_uri(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// Returns the number of commits that the server has flushed since it started.
    pub(super) async fn flushes(&mut self) -> anyhow::Result<u64> {
        self.ask(ASK_FLUSHES).await
    }

    /// Returns the number of attempts that wait at the server's gate.
    pub(super) async fn waiting_attempts(&mut self) -> anyhow::Result<u64> {
        self.ask(ASK_WAITING).await
    }

    /// Opens the server's gate, and returns the number of attempts that it lets end.
    pub(super) async fn open_gate(&mut self) -> anyhow::Result<u64> {
        self.ask(ASK_OPEN).await
    }

    /// Returns the median and the 99th percentile of the time until a remote worker had received a job, in
    /// milliseconds.
    pub(super) async fn received_millis(&mut self) -> anyhow::Result<[f64; 2]> {
        let micros = [self.ask(ASK_RECEIVED_P50).await?, self.ask(ASK_RECEIVED_P99).await?];
        Ok(micros.map(|micros| micros as f64 / 1e3))
    }

    async fn ask(&mut self, question: &str) -> anyhow::Result<u64> {
        self.questions.write_all(format!("{question}\n").as_bytes()).await?;
        let line = timeout(TIME_LIMIT, self.answers.next_line()).await??;
        line.and_then(|line| line.parse().ok())
            .ok_or_else(|| anyhow!("a server did not answer the question `{question}`"))
    }

    /// Returns the resident memory in bytes, or `None` where the system does not report it.
    pub(super) fn resident_bytes(&self) -> Option<u64> {
        Some(self.proc_number("status", "VmRSS:")? * 1024)
    }

    /// Returns the bytes that the server has caused to be written to the disk, or `None` where the system does not
    /// report them.
    pub(super) fn written_bytes(&self) -> Option<u64> {
        self.proc_number("io", "write_bytes:")
    }

    /// Returns the processor time that the server has used, in seconds, or `None` where the system does not report it.
    pub(super) fn processor_seconds(&self) -> Option<f64> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id()?)).ok()?;
        // The program's name may hold anything, but it ends with the last bracket; the state is next.
        let (_, fields) = text.rsplit_once(") ")?;
        let ticks = |index| fields.split(' ').nth(index)?.parse::<f64>().ok();
        Some((ticks(USER_TICKS)? + ticks(SYSTEM_TICKS)?) / TICKS_PER_SECOND)
    }

    fn proc_number(&self, file: &str, field: &str) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/{file}", self.child.id()?)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(field))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// Stops the server, and waits for its end.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.questions);
        let status = timeout(TIME_LIMIT, self.child.wait()).await.context("a server does not end")??;
        if !status.success() {
            bail!("a server ended with {status}");
        }
        Ok(())
    }

    /// Kills the server, as a crash would end it.
    pub(super) async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }
}
