//! A server that is paused for longer than any of its timeouts.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

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

/// Writes a guard program that creates a file of its own before it becomes the guard, and becomes it once somebody writes
/// to the pipe `go`. It costs nothing while it waits: many of them would slow each other down.
fn slow_guard(folder: &Path) -> std::path::PathBuf {
    assert!(Command::new("mkfifo").arg(folder.join("go")).status().unwrap().success());
    let path = folder.join("guard");
    let text = format!("#!/bin/sh\ncd {} && touch is.$$ && : < go\nexec {GUARD} \"$@\"\n", folder.display());
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

/// Polls until a condition holds.
fn until(what: impl Fn() -> bool) {
    let mut left = TEST_TIMEOUT;
    while !what() {
        let pause = Duration::from_millis(1);
        std::thread::sleep(pause);
        left = left.checked_sub(pause).expect("it is so in time");
    }
}

fn guards(folder: &Path) -> Vec<Pid> {
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    files.filter_map(|name| name.strip_prefix("is.")?.parse().ok()).filter_map(Pid::from_raw).collect()
}

/// Returns whether a process has become the guard and is about to report that it is ready.
#[cfg(target_os = "linux")]
fn is_one(guard: Pid) -> bool {
    fs::read_to_string(format!("/proc/{guard}/comm")).is_ok_and(|name| name.trim() == "job-guard")
}

#[cfg(target_os = "linux")]
#[test]
fn commands_that_were_about_to_start_when_the_server_was_paused_start_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let server = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "paused::server", "--nocapture"])
        .env(GUARD_VARIABLE, slow_guard(folder.path()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let Server(server) = &mut Server(server);
    until(|| guards(folder.path()).len() == COMMANDS);
    kill_process(Pid::from_child(server), Signal::STOP).unwrap();
    // Open until all have read it: some may not have got there yet.
    let go = fs::OpenOptions::new().write(true).open(folder.path().join("go")).unwrap();
    until(|| guards(folder.path()).into_iter().all(is_one));
    drop(go);
    // During the pause every awaited event arrives, and every timer of the server expires.
    std::thread::sleep(PAUSE);
    kill_process(Pid::from_child(server), Signal::CONT).unwrap();
    let lines = BufReader::new(server.stdout.take().unwrap()).lines().map(Result::unwrap);
    let outcomes: Vec<_> = lines.filter(|line| line.starts_with("outcome ")).collect();
    assert_eq!(outcomes, vec![r#"outcome Ok(b"well\n")"#; COMMANDS]);
    assert!(server.wait().unwrap().success());
}
