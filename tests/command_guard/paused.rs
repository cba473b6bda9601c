//! A server that is paused for longer than any of its timeouts.

use std::{
    fs,
    io::{self, BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use jobmill::execute::{Attempt, Handler, command::CommandHandler};
use rustix::process::{Pid, Signal, kill_process};

use crate::{GUARD, TEST_TIMEOUT, script};

/// Number of commands that are about to start when the server is paused: enough that not all can succeed by chance.
const COMMANDS: usize = 32;
/// The server's timeout for a guard to start.
const START_TIMEOUT: Duration = Duration::from_secs(8);
/// Duration of the pause, longer than [`START_TIMEOUT`].
const PAUSE: Duration = Duration::from_millis(8_500);

const GUARD_VARIABLE: &str = "JOBMILL_TEST_GUARD";

/// The server process, which runs commands. It does nothing unless the test starts it as a child process.
#[tokio::test]
async fn server() {
    let Some(guard) = std::env::var_os(GUARD_VARIABLE) else { return };
    let handler = CommandHandler::new(script("echo well"), guard, None).start_timeout(START_TIMEOUT);
    let attempts = (0..COMMANDS).map(|_| handler.run(Attempt::detached("", "", |_| {})));
    for outcome in futures_util::future::join_all(attempts).await {
        println!("\noutcome {:?}", outcome.map(|output| output.bytes));
    }
}

/// Descriptor to which each guard writes its process id.
const STARTED_FD: i32 = 8;
/// Descriptor at whose end a guard goes on.
const GO_FD: i32 = 9;

/// Writes a guard program that tells its process id before it becomes the guard, and becomes it once the pipe that it
/// inherited has ended. It starts no process and touches no disk, as a slow one would use up [`START_TIMEOUT`].
fn slow_guard(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("guard");
    let text = format!("#!/bin/sh\necho $$ >&{STARTED_FD}\nread -r end <&{GO_FD}\nexec {GUARD} \"$@\"\n");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A server process, which is killed with the test: a stopped one would not end by itself.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns whether a process has become the guard and is about to report that it is ready.
fn is_guard(process: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    assert!(!stat.contains(") Z "), "the guard has ended: {stat}");
    stat.contains("(job-guard)")
}

#[test]
fn commands_that_were_about_to_start_when_the_server_was_paused_start_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let (started, tell_started) = io::pipe().unwrap();
    let (wait, go) = io::pipe().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "paused::server", "--nocapture"])
        .env(GUARD_VARIABLE, slow_guard(folder.path()))
        .stdout(Stdio::piped())
        .fd_mappings(vec![
            FdMapping { parent_fd: tell_started.into(), child_fd: STARTED_FD },
            FdMapping { parent_fd: wait.into(), child_fd: GO_FD },
        ])
        .unwrap();
    let Server(server) = &mut Server(command.spawn().unwrap());
    // It holds the child's ends of the pipes.
    drop(command);
    let pids =
        BufReader::new(started).lines().map(|line| Pid::from_raw(line.unwrap().parse().unwrap()).unwrap());
    let guards: Vec<Pid> = pids.take(COMMANDS).collect();
    assert_eq!(guards.len(), COMMANDS);
    kill_process(Pid::from_child(server), Signal::STOP).unwrap();
    drop(go);
    let mut left = TEST_TIMEOUT;
    while !guards.iter().copied().all(is_guard) {
        let pause = Duration::from_millis(1);
        std::thread::sleep(pause);
        left = left.checked_sub(pause).expect("all have become guards in time");
    }
    // During the pause every awaited event arrives, and every timer of the server expires.
    std::thread::sleep(PAUSE);
    kill_process(Pid::from_child(server), Signal::CONT).unwrap();
    let lines = BufReader::new(server.stdout.take().unwrap()).lines().map(Result::unwrap);
    let outcomes: Vec<_> = lines.filter(|line| line.starts_with("outcome ")).collect();
    assert_eq!(outcomes, vec![r#"outcome Ok(b"well\n")"#; COMMANDS]);
    assert!(server.wait().unwrap().success());
}
