//! What becomes of commands when a server or a guard is killed.

use std::{
    io::{BufRead, BufReader, Read},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use jobmill::{
    execute::{
        Attempt, Handler, Report,
        command::{CommandHandler, WaitError, wait_for_commands},
    },
    job::FailureReason,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::{GUARD, PATIENCE, Running, ended, error, is_gone, parse_pid, script};

/// Ignores what asks it to end; tells its guard's, its own and its child's pid.
const COMMAND: &str = r#"
    trap '' TERM INT HUP
    echo "guard $PPID" >&2
    echo "leader $$" >&2
    sh -c 'echo "child $$" >&2; while :; do sleep 1000; done' &
    while :; do sleep 1000; done
"#;

const LOCK_VARIABLE: &str = "JOBMILL_TEST_LOCK";

/// The part of a server that runs a command; a test only when it is started as that.
#[tokio::test]
async fn server() {
    let Some(lock_path) = std::env::var_os(LOCK_VARIABLE) else { return };
    let attempt = Attempt::detached("", "", |report| {
        if let Report::OutputLine(line) = report {
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

#[test]
fn commands_are_dead_before_the_next_server_starts() {
    let folder = tempfile::tempdir().unwrap();
    let lock_path = folder.path().join("commands.lock");
    let mut server = Server::start(&lock_path);
    let pids = [server.pid("guard"), server.pid("leader"), server.pid("child")];
    let waited = wait_for_commands(&lock_path, Duration::ZERO);
    assert!(matches!(waited, Err(WaitError::StillRunning { .. })), "{waited:?}");

    server.kill();
    wait_for_commands(&lock_path, PATIENCE).unwrap();
    // Not the guard: it lets go of the lock by ending.
    assert!(pids[1..].iter().all(|&pid| is_gone(pid)), "{pids:?}");
}

#[test]
fn a_signal_to_a_guard_does_not_end_it() {
    let folder = tempfile::tempdir().unwrap();
    let lock_path = folder.path().join("commands.lock");
    let mut server = Server::start(&lock_path);
    let guard = server.pid("guard");
    let leader = server.pid("leader");
    for signal in [Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT] {
        kill_process(guard, signal).unwrap();
    }
    // Had one of them ended it, the server would tell of that instead of the child.
    server.pid("child");
    server.kill();
    wait_for_commands(&lock_path, PATIENCE).unwrap();
    assert!(is_gone(leader));
}

#[cfg(target_os = "linux")]
#[test]
fn a_command_whose_guard_was_killed_with_its_server_keeps_the_next_one_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let lock_path = folder.path().join("commands.lock");
    let mut server = Server::start(&lock_path);
    let [guard, leader] = [server.pid("guard"), server.pid("leader")];
    server.pid("child");
    // Stopped, the server can't see that the guard dies. (A stopped guard would not do: the system wakes it when its
    // server's end leaves its group without a parent.)
    kill_process(Pid::from_child(&server.process), Signal::STOP).unwrap();
    kill_process(guard, Signal::KILL).unwrap();
    server.kill();
    let waited = wait_for_commands(&lock_path, Duration::from_millis(50));
    assert!(matches!(waited, Err(WaitError::StillRunning { .. })), "{waited:?}");

    rustix::process::kill_process_group(leader, Signal::KILL).unwrap();
    wait_for_commands(&lock_path, PATIENCE).unwrap();
}

#[test]
fn a_guard_is_ready_once_it_holds_the_lock_and_starts_nothing_without_its_server() {
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
    assert_eq!(&ready, b"r\0\0\0\x04\0\0\0\x01");
    let waited = wait_for_commands(&lock_path, Duration::ZERO);
    assert!(matches!(waited, Err(WaitError::StillRunning { .. })), "{waited:?}");

    drop(control);
    assert!(guard.wait().unwrap().success());
    wait_for_commands(&lock_path, Duration::ZERO).unwrap();
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
