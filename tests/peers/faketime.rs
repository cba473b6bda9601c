//! A machine whose wall clock is set: `libfaketime` does it to one process alone, whose uptime goes on.

use std::{
    fs,
    path::{Path, PathBuf},
};

use jobmill::proto::v1::JobState;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr, Command},
};

use crate::support::{Rig, job, soon};

const CONFIGURATION: &str = "
[kinds.fail]
command = ['false']
max_attempts = 2
retry = { initial_delay = '1s', jitter = 0.0 }

[kinds.echo]
command = ['cat']
";

/// Where Debian has it, for whatever processor.
fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let library = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    library.expect("libfaketime, which .ci/setup installs")
}

/// Sets the clock: so much after or before the right time.
fn set(home: &Path, offset: &str) {
    // Never half of it: the library reads the file each time that the clock is read.
    fs::write(home.join("offset.new"), offset).unwrap();
    fs::rename(home.join("offset.new"), home.join("offset")).unwrap();
}

struct Served {
    child: Child,
    log: Lines<BufReader<ChildStderr>>,
    rig: Rig,
}

impl Served {
    async fn start(home: &Path) -> Self {
        fs::write(home.join("jobmill.toml"), CONFIGURATION).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_jobmill"))
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(home.join("jobmill.toml"))
            .arg("--data-dir")
            .arg(home.join("data"))
            .env("LD_PRELOAD", library())
            .env("FAKETIME_TIMESTAMP_FILE", home.join("offset"))
            .env("FAKETIME_NO_CACHE", "1")
            .env("DONT_FAKE_MONOTONIC", "1")
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = soon(out.next_line()).await.unwrap().expect("a server that starts");
        let rig = Rig::connect(line.split(' ').nth(3).unwrap()).await;
        Served { child, log, rig }
    }

    /// Waits for a line of the log with these words.
    async fn says(&mut self, words: &str) {
        soon(async {
            while let Some(line) = self.log.next_line().await.unwrap() {
                if line.contains(words) {
                    return;
                }
            }
            panic!("no line says {words}");
        })
        .await;
    }

    async fn stop(mut self) {
        kill_process(Pid::from_raw(self.child.id().unwrap() as i32).unwrap(), Signal::TERM).unwrap();
        assert!(soon(self.child.wait()).await.unwrap().success());
    }
}

#[tokio::test]
async fn a_retry_comes_on_time_though_the_machines_clock_was_set_back_by_an_hour() {
    let home = tempfile::tempdir().unwrap();
    set(home.path(), "+0");
    let mut server = Served::start(home.path()).await;
    let id = server.rig.submit(job("fail")).await.id;
    let mut watcher = server.rig.watch_ids(&[&id]).await;
    watcher.until(JobState::BackingOff).await;
    set(home.path(), "-3600");
    watcher.until(JobState::Failed).await;
    server.says("the clock was set").await;
    server.stop().await;
}

#[tokio::test]
async fn a_server_that_boots_with_a_clock_a_year_ahead_deletes_nothing_and_says_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    set(home.path(), "+0");
    let server = Served::start(home.path()).await;
    let id = server.rig.submit(job("echo")).await.id;
    server.rig.ends(&id).await;
    server.stop().await;
    set(home.path(), "+365d");
    let mut server = Served::start(home.path()).await;
    server.says("set it right within the hour").await;
    // Every batch looks for what is over.
    let next = server.rig.submit(job("echo")).await.id;
    server.rig.ends(&next).await;
    server.rig.get(&id).await;
    set(home.path(), "+0");
    let last = server.rig.submit(job("echo")).await.id;
    server.rig.ends(&last).await;
    server.rig.get(&id).await;
    server.stop().await;
}
