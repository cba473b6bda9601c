//! A log that can't be written loses lines, and nothing else suffers: the real program with its stderr on pipes and
//! files.

use std::{
    fs::File,
    io::{ErrorKind, PipeReader, PipeWriter, Read, Write, pipe},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use jobmill::{
    client::Client,
    proto::v1::{FailureReason, JobSpec, JobState},
    settings::TokenHash,
};
use rustix::{io::ioctl_fionbio, process::Signal};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    metrics::{Scrape, get},
    support::{Process, QUEUE, Rig, job, soon},
};

const CONFIGURATION: &str = r#"
    metrics.listen = "127.0.0.1:0"
    drain_timeout = "2s"
    [queues.default]
    consumers = 2
    [kinds.fail]
    command = ["false"]
    max_attempts = 1
    [kinds.ok]
    command = ["echo", "done"]
"#;

/// The byte that fills a full pipe.
const FILLER: u8 = b'.';

/// A folder with a configuration file.
struct Home(TempDir);

impl Home {
    fn new(configuration: &str) -> Self {
        let home = Home(tempfile::tempdir().unwrap());
        std::fs::write(home.configuration(), configuration).unwrap();
        home
    }

    fn configuration(&self) -> PathBuf {
        self.0.path().join("jobmill.toml")
    }

    /// Starts a server with this stderr.
    async fn serve(&self, arguments: &[&str], stderr: impl Into<Stdio>) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jobmill"));
        command.arg("serve").args(arguments).stderr(stderr);
        Process::of(command, &self.configuration(), &self.0.path().join("data")).await
    }

    /// Runs a server that fails to start; returns its output.
    async fn refused(&self, arguments: &[&str], stderr: impl Into<Stdio>) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jobmill"));
        command.args(["serve", "--config"]).arg(self.configuration()).args(arguments);
        let child = command.kill_on_drop(true).stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        soon(child.wait_with_output()).await.unwrap()
    }
}

fn metrics(process: &Process) -> SocketAddr {
    process.metrics.as_ref().unwrap().parse().unwrap()
}

/// Returns a pipe that is full until it is read.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().unwrap();
    ioctl_fionbio(&writer, true).unwrap();
    for length in [4_096, 1] {
        while writer.write(&vec![FILLER; length]).is_ok() {}
    }
    assert_eq!(writer.write(&[FILLER]).unwrap_err().kind(), ErrorKind::WouldBlock);
    // The flag belongs to the pipe's open file, which every writer shares.
    ioctl_fionbio(&writer, false).unwrap();
    (reader, writer)
}

fn full_disk() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

/// Fails more jobs than there are slots, one after the other, and then runs one that succeeds.
async fn jobs_end(process: &Process) {
    let rig = Rig::connect(&process.address).await;
    for _ in 0..4 {
        let failed = rig.ends(&rig.submit(job("fail")).await.id).await;
        assert_eq!(failed.last_failure.unwrap().reason(), FailureReason::HandlerError);
    }
    assert_eq!(rig.ends(&rig.submit(job("ok")).await.id).await.state(), JobState::Succeeded);
}

async fn drains(mut process: Process) {
    process.signal(Signal::TERM);
    assert_eq!(soon(process.exit()).await.code(), Some(0));
}

async fn lost(process: &Process) -> f64 {
    Scrape::of(metrics(process)).await.get("jobmill_log_lines_lost_total")
}

/// Asserts that `/readyz` says 200 and reports lost lines.
async fn is_ready_with_lost_lines(process: &Process) {
    let ready = get(metrics(process), "/readyz").await;
    let count = ready
        .body
        .strip_prefix("ok\nlog: ")
        .and_then(|rest| rest.strip_suffix(" lines lost since the start\n")?.parse::<u64>().ok());
    assert!(ready.status == 200 && count.is_some_and(|count| count > 0), "{} {}", ready.status, ready.body);
}

#[tokio::test]
async fn a_reader_of_the_log_that_leaves_takes_no_slot_with_it() {
    let home = Home::new(CONFIGURATION);
    let (reader, writer) = pipe().unwrap();
    // At the level `warn` nothing is logged before the first job fails.
    let process = home.serve(&["--log", "warn"], writer).await;
    drop(reader);
    jobs_end(&process).await;
    assert_eq!(lost(&process).await, 4.0, "a line for each failed attempt");
    is_ready_with_lost_lines(&process).await;
    drains(process).await;
}

#[tokio::test]
async fn a_pipe_of_the_log_that_nothing_reads_holds_up_no_job_and_no_drain() {
    for others_do_not_wait in [false, true] {
        let home = Home::new(CONFIGURATION);
        let (reader, writer) = full_pipe();
        // Another process that writes to the same pipe may have set this flag.
        ioctl_fionbio(&writer, others_do_not_wait).unwrap();
        let process = home.serve(&[], writer).await;
        jobs_end(&process).await;
        assert_eq!(get(metrics(&process), "/readyz").await.body, "ok\n", "all of them wait");
        drains(process).await;
        drop(reader);
    }
}

#[tokio::test]
async fn stdout_and_the_log_may_be_one_full_pipe() {
    let home = Home::new(CONFIGURATION);
    let (mut reader, writer) = full_pipe();
    let mut command = Command::new(env!("CARGO_BIN_EXE_jobmill"));
    let port = home.0.path().join("port");
    command.args(["serve", "--listen", "127.0.0.1:0", "--config"]).arg(home.configuration());
    command.arg("--data-dir").arg(home.0.path().join("data")).arg("--port-file").arg(&port);
    let mut child =
        command.stdout(writer.try_clone().unwrap()).stderr(writer).kill_on_drop(true).spawn().unwrap();
    drop(command);
    let listens = async {
        while !port.exists() {
            tokio::task::yield_now().await
        }
    };
    soon(listens).await;
    let rig = Rig::connect(std::fs::read_to_string(port).unwrap().trim()).await;
    assert_eq!(rig.ends(&rig.submit(job("ok")).await.id).await.state(), JobState::Succeeded);
    let pid = rustix::process::Pid::from_raw(child.id().unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(soon(child.wait()).await.unwrap().code(), Some(0));
    reader.read_to_end(&mut Vec::new()).unwrap();
}

#[tokio::test]
async fn a_full_disk_or_a_closed_stderr_does_not_keep_a_server_from_its_work() {
    for format in ["text", "json"] {
        let home = Home::new(CONFIGURATION);
        let process = home.serve(&["--log-format", format], full_disk()).await;
        jobs_end(&process).await;
        is_ready_with_lost_lines(&process).await;
        drains(process).await;
    }
    let home = Home::new(CONFIGURATION);
    let mut command = Command::new("sh");
    command.args(["-c", r#"exec "$0" "$@" 2>&-"#, env!("CARGO_BIN_EXE_jobmill"), "serve"]);
    let process = Process::of(command, &home.configuration(), &home.0.path().join("data")).await;
    jobs_end(&process).await;
    drains(process).await;
}

/// A log whose file size is limited: the limit's signal would kill a process that does not handle it.
#[tokio::test]
async fn a_log_that_has_reached_the_limit_on_files_does_not_end_the_server() {
    // Memory store, because the limit holds for all files of the process.
    let home = Home::new(CONFIGURATION);
    let log = home.0.path().join("log");
    let mut command = Command::new("sh");
    let script = r#"exec 2>"$1"; ulimit -f 1; shift; exec "$0" serve --memory "$@""#;
    command.args(["-c", script, env!("CARGO_BIN_EXE_jobmill")]).arg(&log).args(["--log", "h2=trace,info"]);
    let process = Process::in_memory(command, &home.configuration()).await;
    let rig = Rig::connect(&process.address).await;
    let limit_is_reached = async {
        while lost(&process).await == 0.0 {
            rig.total().await;
        }
    };
    soon(limit_is_reached).await;
    jobs_end(&process).await;
    drains(process).await;
}

/// Reads until the text has arrived; returns what was read.
fn read_until(pipe: &mut PipeReader, text: &str) -> String {
    let (mut all, mut part) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        let count = pipe.read(&mut part).unwrap();
        assert!(count > 0, "the log ended");
        all.extend_from_slice(&part[..count]);
        let found = String::from_utf8_lossy(&all);
        if found.contains(text) && found.ends_with('\n') {
            return found.trim_start_matches(char::from(FILLER)).to_owned();
        }
    }
}

/// Makes calls until lines of the log are lost. Each call logs dozens of lines here.
async fn overflow(process: &Process) {
    let rig = Rig::connect(&process.address).await;
    let lines_are_lost = async {
        while lost(process).await == 0.0 {
            rig.total().await;
        }
    };
    soon(lines_are_lost).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_says_how_many_lines_it_lost_once_it_is_read_again() {
    let home = Home::new(CONFIGURATION);
    let (mut reader, writer) = full_pipe();
    let arguments = ["--log", "h2=trace,info", "--log-format", "json"];
    let process = home.serve(&arguments, writer).await;
    overflow(&process).await;
    is_ready_with_lost_lines(&process).await;
    let reading = tokio::task::spawn_blocking(move || (read_until(&mut reader, "were lost"), reader));
    let (log, _reader) = soon(reading).await.unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: f64 = lines.iter().filter_map(|line| line["lines"].as_f64()).sum();
    assert_eq!(told, lost(&process).await);
    // The message stands where lines are missing: behind all that had waited.
    let place = lines.iter().position(|line| line["lines"].is_number()).unwrap();
    assert!(place >= jobmill::lines::LINES_MAX / 2, "{place}");
    assert_eq!(lines[place]["level"], "ERROR");
    drains(process).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_in_the_log_loses_nothing_where_the_log_does() {
    let home = Home::new(&format!("auth.tokens = 'tokens.toml'\n{CONFIGURATION}"));
    let entry = |name: &str| {
        let hash = TokenHash::of(name);
        format!("[tokens.{name}]\nhash = 'sha256:{hash}'\nroles = ['admin']\nqueues = ['*']\n")
    };
    std::fs::write(home.0.path().join("tokens.toml"), entry("boss")).unwrap();
    let (mut reader, writer) = full_pipe();
    let process = home.serve(&["--log", "h2=trace,info"], writer).await;
    let client = Client::builder(&process.address).token("boss").connect_lazy().unwrap();
    let lines_are_lost = async {
        while lost(&process).await == 0.0 {
            client.list_queues().await.unwrap();
        }
    };
    soon(lines_are_lost).await;
    // The call is answered although its line can't be written yet.
    let spec = JobSpec { queue: QUEUE.to_owned(), kind: "ok".to_owned(), ..JobSpec::default() };
    let id = soon(client.submit(spec)).await.unwrap().id().to_owned();
    let text = format!(r#""ids":["{id}"]"#);
    let reading = tokio::task::spawn_blocking(move || (read_until(&mut reader, &text), reader));
    let (log, _reader) = soon(reading).await.unwrap();
    assert!(log.contains("jobmill::audit"), "{log}");
    assert_eq!(Scrape::of(metrics(&process)).await.get("jobmill_audit_lines_lost_total"), 0.0);
    drains(process).await;
}

#[tokio::test]
async fn a_server_that_does_not_start_says_so_on_stdout_where_stderr_takes_nothing() {
    let home = Home::new(CONFIGURATION);
    let file: &Path = &home.configuration();
    let output = home.refused(&["--data-dir", file.to_str().unwrap()], full_disk()).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("a file is in the way"), "{said}");

    let home = Home::new("listen = 7");
    let output = home.refused(&[], full_disk()).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(2) && said.contains("1 fault in the configuration"), "{said}");
}

/// Runs the program with these as its output.
async fn run(arguments: &[&str], server: &str, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jobmill"));
    let child = command
        .args(arguments)
        .env("JOBMILL_SERVER", server)
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(stderr)
        .spawn()
        .unwrap();
    soon(child.wait_with_output()).await.unwrap()
}

#[tokio::test]
async fn results_that_can_not_be_written_are_an_error_and_not_silence() {
    let home = Home::new(CONFIGURATION);
    let process = home.serve(&["--log", "off"], Stdio::null()).await;
    for arguments in [
        "--help",
        "--version",
        "submit --help",
        "check-config",
        "check-config --output json",
        "completions bash",
        "man",
        "token new x --role read --save",
        "submit ok",
        "submit ok --watch",
        "list",
        "count",
        "queue list",
        "queue pause default",
        "doctor",
    ] {
        let mut arguments: Vec<_> = arguments.split(' ').collect();
        let token = home.0.path().join("token");
        if arguments.contains(&"--save") {
            arguments.push(token.to_str().unwrap());
        }
        let output = run(&arguments, &process.address, full_disk(), Stdio::piped()).await;
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(70), "{arguments:?}: {said}");
        assert!(said.contains("the output can't be written: No space left"), "{arguments:?}: {said}");
    }
    drains(process).await;
}

#[tokio::test]
async fn a_token_that_can_not_be_shown_has_no_entry() {
    let output = run(&["token", "new", "x", "--role", "read"], "", Stdio::piped(), full_disk()).await;
    assert_eq!((output.status.code(), &*output.stdout), (Some(70), &b""[..]));
}
