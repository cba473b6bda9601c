//! A machine whose wall clock is set. `libfaketime` sets it for one process; its uptime goes on.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use jobmill::proto::v1::JobState;

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

/// Starts a server under the fake clock.
async fn start(home: &Path) -> (Served, Rig) {
    let (library, offset) = (library(), home.join("offset"));
    let environment = [
        ("LD_PRELOAD", library.as_os_str()),
        ("FAKETIME_TIMESTAMP_FILE", offset.as_os_str()),
        ("FAKETIME_NO_CACHE", OsStr::new("1")),
        ("DONT_FAKE_MONOTONIC", OsStr::new("1")),
    ];
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
