//! A machine whose wall clock is set. `libfaketime` sets it for one process; its uptime goes on.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use jobmill::proto::v1::{self, JobState};
use tokio::process::Command;

use crate::{
    served::Served,
    support::{Rig, job},
};

const CONFIGURATION: &str = "
[kinds.fail]
command = ['false']
max_attempts = 2
retry = { initial_delay = '1s', jitter = 0.0 }

[kinds.echo]
command = ['cat']

[kinds.remote]
worker = true

[workers]
lease = '1s'
";

/// The handler of a remote worker, which waits for a file.
const WORKER: &str = "
[kinds.remote]
command = ['/bin/sh', '-c', 'until [ -e go ]; do sleep 0.02; done']
working_dir = 'HOME'
";

/// Finds the library where Debian installs it, on any architecture.
fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let library = folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    library.expect("libfaketime, which .ci/setup installs")
}

/// Sets the clock to an offset from the right time.
fn set(home: &Path, offset: &str) {
    // Replaced atomically: the library reads the file at each call of the clock.
    fs::write(home.join("offset.new"), offset).unwrap();
    fs::rename(home.join("offset.new"), home.join("offset")).unwrap();
}

/// Returns the environment of a process under the fake clock.
fn environment(home: &Path) -> [(&'static str, OsString); 4] {
    [
        ("LD_PRELOAD", library().into_os_string()),
        ("FAKETIME_TIMESTAMP_FILE", home.join("offset").into_os_string()),
        ("FAKETIME_NO_CACHE", OsString::from("1")),
        ("DONT_FAKE_MONOTONIC", OsString::from("1")),
    ]
}

/// Starts a server under the fake clock.
async fn start(home: &Path) -> (Served, Rig) {
    let environment = environment(home);
    let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_os_str())).collect();
    let mut server = Served::start(home, CONFIGURATION, &environment);
    let rig = server.connect().await;
    (server, rig)
}

#[tokio::test]
async fn a_retry_comes_on_time_though_the_machines_clock_was_set_back_by_an_hour() {
    let home = tempfile::tempdir().unwrap();
    set(home.path(), "+0");
    let (mut server, rig) = start(home.path()).await;
    let id = rig.submit(job("fail")).await.id;
    let mut watcher = rig.watch_ids(&[&id]).await;
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
    let (server, rig) = start(home.path()).await;
    let id = rig.submit(job("echo")).await.id;
    rig.ends(&id).await;
    server.stop().await;
    set(home.path(), "+365d");
    let (mut server, rig) = start(home.path()).await;
    server.says("correct it within an hour").await;
    // Every batch runs retention, so any commit triggers it.
    let next = rig.submit(job("echo")).await.id;
    rig.ends(&next).await;
    rig.get(&id).await;
    set(home.path(), "+0");
    let last = rig.submit(job("echo")).await.id;
    rig.ends(&last).await;
    rig.get(&id).await;
    server.stop().await;
}

#[tokio::test]
async fn a_remote_attempt_goes_on_though_the_clocks_of_its_server_and_its_worker_are_set_by_an_hour() {
    let home = tempfile::tempdir().unwrap();
    set(home.path(), "+0");
    let (server, rig) = start(home.path()).await;
    let configuration = home.path().join("work.toml");
    fs::write(&configuration, WORKER.replace("HOME", home.path().to_str().unwrap())).unwrap();
    let _worker = Command::new(env!("CARGO_BIN_EXE_jobmill"))
        .args(["work", "--instance", "w", "--server", &server.address, "--config"])
        .arg(&configuration)
        .envs(environment(home.path()))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let id = rig.submit(v1::JobSpec { max_attempts: 1, ..job("remote") }).await.id;
    rig.reaches(&id, JobState::Running).await;
    for offset in ["+3600", "-3600", "+0"] {
        set(home.path(), offset);
        // The passing of time is what is tested: two leases.
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(rig.get(&id).await.state(), JobState::Running, "{offset}");
    }
    fs::write(home.path().join("go"), "").unwrap();
    let job = rig.ends(&id).await;
    assert_eq!((job.state(), job.attempt), (JobState::Succeeded, 1));
    server.stop().await;
}
