//! The fate of commands when their server or guard is killed.

use std::{
    io::{BufRead, BufReader, Read},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use jobmill::{
    execute::{
        Attempt, DetachedReport, Handler,
        command::{CommandHandler, wait_for_commands},
    },
    job::FailureReason,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::{GUARD, Running, TEST_TIMEOUT, ended, error, is_gone, parse_pid, script};

/// A script that ignores SIGTERM and reports the pids of its guard, itself and its child.
const COMMAND: &str = r#"
    trap '' TERM INT HUP
    echo "guard $PPID" >&2
    echo "leader $$" >&2
    sh -c 'echo "child $$" >&2; while :; do sleep 1000; done' &
    while :; do sleep 1000; done
"#;

const LOCK_VARIABLE: &str = "JOBMILL_TEST_LOCK";

/// The server process, which runs a command. It does nothing unless the test starts it as a child process.
#[tokio::test]
async fn server() {
    let Some(lock_path) = std::env::var_os(LOCK_VARIABLE) else { return };
    let attempt = Attempt::detached("", "", |report| {
        if let DetachedReport::OutputLine(line) = report {
            println!("\n{}", String::from_utf8_lossy(&line));
        }
    });
    let outcome = CommandHandler::new(script(COMMAND), GUARD, Some(lock_path.into())).run(attempt).await;
    panic!("the command ended by itself: {outcome:?}");
}

struct Server {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Server {
    fn start(lock_path: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "server_gone::server", "--nocapture"])
            .env(LOCK_VARIABLE, lock_path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Server { process, output }
    }

    fn pid(&mut self, name: &str) -> Pid {
        self.output.by_ref().lines().find_map(|line| parse_pid(&line.unwrap(), name)).expect("a pid")
    }

    fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Returns whether a server that starts now has to wait for the lock.
async fn waits(lock_path: &Path) -> bool {
    tokio::time::timeout(Duration::ZERO, wait_for_commands(lock_path)).await.is_err()
}

/// Waits as the next server does, until it may start attempts.
async fn next_server(lock_path: &Path) {
    tokio::time::timeout(TEST_TIMEOUT, wait_for_commands(lock_path))
        .await
        .expect("the lock in time")
        .unwrap();
}

#[tokio::test]
async fn commands_are_dead_before_the_next_server_starts() {
    let folder = tempfile::tempdir().unwrap();
    let lock_path = folder.path().join("commands.lock");
    let mut server = Server::start(&lock_path);
    let pids = [server.pid("guard"), server.pid("leader"), server.pid("child")];
    assert!(waits(&lock_path).await);

    server.kill();
    next_server(&lock_path).await;
    // The guard is left out: it releases the lock by ending.
    assert!(pids[1..].iter().all(|&pid| is_gone(pid)), "{pids:?}");
}

#[tokio::test]
async fn a_signal_to_a_guard_does_not_end_it() {
    let folder = tempfile::tempdir().unwrap();
    let lock_path = folder.path().join("commands.lock");
    let mut server = Server::start(&lock_path);
    let guard = server.pid("guard");
    let leader = server.pid("leader");
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        kill_process(guard, signal).unwrap();
    }
    // If one of the signals had ended the command, the server would report that instead of the child.
    server.pid("child");
    server.kill();
    next_server(&lock_path).await;
    assert!(is_gone(leader));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_command_whose_guard_was_killed_with_its_server_is_dead_before_the_next_one_starts() {
    let folder = tempfile::tempdir().unwrap();
    let lock_path = folder.path().join("commands.lock");
    let mut server = Server::start(&lock_path);
    let [guard, leader, child] = [server.pid("guard"), server.pid("leader"), server.pid("child")];
    // A stopped server can't see that the guard dies. Stopping the guard instead would not work: the kernel wakes a
    // stopped guard when the server's end orphans its process group.
    kill_process(Pid::from_child(&server.process), Signal::STOP).unwrap();
    kill_process(guard, Signal::KILL).unwrap();
    server.kill();
    next_server(&lock_path).await;
    ended(leader).await;
    ended(child).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_holds_the_lock_and_is_no_command_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let lock_path = folder.path().join("commands.lock");
    let file = std::fs::File::create(&lock_path).unwrap();
    file.lock_shared().unwrap();
    let mut other = Command::new("sleep").arg("1000").stdin(file).spawn().unwrap();
    assert!(waits(&lock_path).await);
    assert!(other.try_wait().unwrap().is_none(), "it lives");
    other.kill().unwrap();
    other.wait().unwrap();
    next_server(&lock_path).await;
}

#[tokio::test]
async fn a_guard_is_ready_once_it_holds_the_lock_and_starts_nothing_without_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let lock_path = folder.path().join("commands.lock");
    let (control, guards_end) = UnixStream::pair().unwrap();
    let mut guard = Command::new(GUARD)
        .arg("__guard")
        .arg(&lock_path)
        .stdin(Stdio::from(OwnedFd::from(guards_end)))
        .spawn()
        .unwrap();
    let mut ready = [0; 9];
    (&control).read_exact(&mut ready).unwrap();
    assert_eq!(&ready, b"r\0\0\0\x04\0\0\0\x02");
    assert!(waits(&lock_path).await);

    drop(control);
    assert!(guard.wait().unwrap().success());
    assert!(!waits(&lock_path).await);
}

/// A `jobmill serve` that waits for the command lock, which the test holds, and its log.
struct Starting {
    process: Child,
    said: BufReader<std::process::ChildStderr>,
}

impl Starting {
    fn new(data: &Path) -> Self {
        let mut process = Command::new(GUARD)
            .args(["serve", "--listen", "127.0.0.1:0", "--log", "info"])
            .env_remove("JOBMILL_CONFIG")
            .env("XDG_CONFIG_HOME", data)
            .arg("--data-dir")
            .arg(data)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(process.stderr.take().unwrap());
        Starting { process, said }
    }

    /// Reads the log up to a line with this text. Stops at the end of the process.
    fn says(&mut self, text: &str) -> String {
        let mut said = String::new();
        for line in self.said.by_ref().lines().map(Result::unwrap) {
            if line.contains(text) {
                return line;
            }
            said.push_str(&format!("{line}\n"));
        }
        panic!("it never says {text:?}:\n{said}");
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Takes the command lock of a data folder, as a guard does.
fn held(data: &Path) -> std::fs::File {
    let file = std::fs::File::create(data.join("commands.lock")).unwrap();
    file.lock_shared().unwrap();
    file
}

#[test]
fn a_start_says_at_once_what_it_waits_for_and_goes_on_as_soon_as_it_can() {
    let data = tempfile::tempdir().unwrap();
    let lock = held(data.path());
    let mut server = Starting::new(data.path());
    let line = server.says("waiting for commands of an earlier server to end");
    if cfg!(target_os = "linux") {
        assert!(line.contains(&std::process::id().to_string()), "{line}");
    }
    drop(lock);
    server.says("the commands of an earlier server have ended");
    // Only a running server drains: exit code 0 shows that it had started.
    kill_process(Pid::from_child(&server.process), Signal::TERM).unwrap();
    assert_eq!(server.process.wait().unwrap().code(), Some(0));
}

#[test]
fn a_start_that_waits_for_commands_ends_when_it_is_asked_to() {
    let data = tempfile::tempdir().unwrap();
    let _lock = held(data.path());
    let mut server = Starting::new(data.path());
    server.says("waiting for commands of an earlier server");
    kill_process(Pid::from_child(&server.process), Signal::TERM).unwrap();
    server.says("stopped before the server had started");
    assert_eq!(server.process.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_killed_guard_is_a_failed_attempt_and_its_command_dies() {
    let mut running = Running::start(script(COMMAND), None);
    let guard = running.pid("guard").await;
    let pids = [running.pid("leader").await, running.pid("child").await];
    kill_process(guard, Signal::KILL).unwrap();
    let error = error(running.outcome().await);
    assert_eq!((error.failure().reason, error.failure().retryable), (FailureReason::HandlerError, true));
    assert!(
        error.message().starts_with("the command's guard was lost: it ended (signal: 9 (SIGKILL))"),
        "{error:?}"
    );
    for pid in pids {
        ended(pid).await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn children_that_left_the_group_die_with_a_killed_guard_too() {
    let text =
        "echo \"guard $PPID\" >&2; setsid sh -c 'echo \"child $$\" >&2; sleep 1000; :' & sleep 1000; :";
    let mut running = Running::start(script(text), None);
    let pids = [running.pid("guard").await, running.pid("child").await];
    kill_process(pids[0], Signal::KILL).unwrap();
    assert!(error(running.outcome().await).message().starts_with("the command's guard was lost"));
    ended(pids[1]).await;
}
