//! A server that is paused for longer than it would wait for anything.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use jobmill::execute::{Attempt, Handler, command::CommandHandler};
use rustix::process::{Pid, Signal, kill_process};

use crate::{GUARD, PATIENCE, script};

/// So many commands are about to start when the server is paused: by chance alone, none of them would get through.
const COMMANDS: usize = 32;
/// How long the server waits for a guard,
const START_TIMEOUT: Duration = Duration::from_secs(2);
/// and for how long it is paused.
const PAUSE: Duration = Duration::from_millis(2_500);

const GUARD_VARIABLE: &str = "JOBMILL_TEST_GUARD";

/// The part of a server that runs commands; a test only when it is started as that.
#[tokio::test]
async fn server() {
    let Some(guard) = std::env::var_os(GUARD_VARIABLE) else { return };
    let handler = CommandHandler::new(script("echo well"), guard, None).start_timeout(START_TIMEOUT);
    let attempts = (0..COMMANDS).map(|_| handler.run(Attempt::detached("", "", |_| {})));
    for outcome in futures_util::future::join_all(attempts).await {
        println!("\noutcome {:?}", outcome.map(|output| output.bytes));
    }
}

/// A guard that says in a file of its own when it is about to be one, and that is one once the file `go` is there.
fn slow_guard(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("guard");
    let text = format!(
        "#!/bin/sh\ncd {} && touch is.$$ && until [ -e go ]; do sleep 0.01; done\nexec {GUARD} \"$@\"\n",
        folder.display()
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Waits until something is so, of which the system tells nobody.
fn until(what: impl Fn() -> bool) {
    let mut left = PATIENCE;
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

/// Whether a guard has begun to be one: it is about to say that it is ready.
#[cfg(target_os = "linux")]
fn is_one(guard: Pid) -> bool {
    fs::read_to_string(format!("/proc/{guard}/comm")).is_ok_and(|name| name.trim() == "job-guard")
}

#[cfg(target_os = "linux")]
#[test]
fn commands_that_were_about_to_start_when_the_server_was_paused_start_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "paused::server", "--nocapture"])
        .env(GUARD_VARIABLE, slow_guard(folder.path()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    until(|| guards(folder.path()).len() == COMMANDS);
    kill_process(Pid::from_child(&server), Signal::STOP).unwrap();
    fs::write(folder.path().join("go"), "").unwrap();
    until(|| guards(folder.path()).into_iter().all(is_one));
    // The pause itself: all that the server waits for is there, and all of its timers run out.
    std::thread::sleep(PAUSE);
    kill_process(Pid::from_child(&server), Signal::CONT).unwrap();
    let lines = BufReader::new(server.stdout.take().unwrap()).lines().map(Result::unwrap);
    let outcomes: Vec<_> = lines.filter(|line| line.starts_with("outcome ")).collect();
    assert_eq!(outcomes, vec![r#"outcome Ok(b"well\n")"#; COMMANDS]);
    assert!(server.wait().unwrap().success());
}
