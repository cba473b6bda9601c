//! `jobmill doctor` as an operator runs it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
};

use jobmill::proto::v1;
use rustix::process::Signal;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::support::{Process, Rig, job, soon};

/// Runs the doctor with this configuration in this folder; returns its exit code and its report.
pub(crate) fn doctor(home: &Path, configuration: &str, arguments: &[&str]) -> (Option<i32>, Value) {
    fs::write(home.join("jobmill.toml"), configuration).unwrap();
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_jobmill"))
        .args(["doctor", "--config", "jobmill.toml", "--data-dir", "data", "--output", "json"])
        .args(arguments)
        .current_dir(home)
        .env_clear()
        .env("PATH", "/bin:/usr/bin")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&stderr), "");
    (status.code(), serde_json::from_slice(&stdout).unwrap())
}

/// Returns the verdict, the message and the remedy of a check's only finding with this text.
pub(crate) fn found<'a>(report: &'a Value, check: &str, text: &str) -> [&'a str; 3] {
    let checks = report["checks"].as_array().unwrap();
    let mut matching = checks
        .iter()
        .filter(|found| found["check"] == check && found["message"].as_str().unwrap().contains(text));
    let first = matching.next().unwrap_or_else(|| panic!("no {check} with {text}: {report:#}"));
    assert!(matching.next().is_none(), "more than one {check} with {text}: {report:#}");
    ["verdict", "message", "wayOut"].map(|key| first[key].as_str().unwrap())
}

const ECHO: &str = "listen = '127.0.0.1:0'\n[kinds.echo]\ncommand = ['cat']\n";

#[tokio::test]
async fn an_installation_is_looked_over_before_during_and_after_its_server_runs() {
    let home = tempfile::tempdir().unwrap();
    let (code, report) = doctor(home.path(), ECHO, &[]);
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(found(&report, "data folder", "does not exist yet")[0], "ok");
    assert_eq!(found(&report, "handlers", "1 of 1 kinds run commands")[0], "ok");
    assert!(!home.path().join("data").exists(), "it makes nothing");

    let mut server = Process::start(&home.path().join("jobmill.toml"), &home.path().join("data"), &[]).await;
    let (code, report) = doctor(home.path(), ECHO, &["--listen", &server.address]);
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(found(&report, "data folder", "this user's alone")[0], "ok");
    assert_eq!(found(&report, "database", "a server has it open")[0], "ok");
    assert_eq!(found(&report, "server", "with 1 queue")[0], "ok");
    assert!(found(&report, "flush", "median")[1].contains("s (median of 21)"));

    server.signal(Signal::TERM);
    soon(server.exit()).await;
    let before: Vec<_> =
        fs::read_dir(home.path().join("data")).unwrap().map(|e| e.unwrap().file_name()).collect();
    let (code, report) = doctor(home.path(), ECHO, &[]);
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(found(&report, "database", "without a fault")[0], "ok");
    assert_eq!(found(&report, "port", "a free one will be taken")[0], "ok");
    for name in before {
        assert!(home.path().join("data").join(&name).exists(), "{name:?} is gone");
    }
    // The doctor's check leaves no lock that would keep a server from starting.
    Process::start(&home.path().join("jobmill.toml"), &home.path().join("data"), &[]).await.kill().await;
}

#[tokio::test]
async fn a_damaged_database_is_a_problem() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("jobmill.toml"), ECHO).unwrap();
    let mut server = Process::start(&home.path().join("jobmill.toml"), &home.path().join("data"), &[]).await;
    server.signal(Signal::TERM);
    soon(server.exit()).await;
    let path = home.path().join("data/jobmill.db");
    let whole = fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    // All pages but the first, which has the file's header.
    damaged[4096..].fill(0xff);
    fs::write(&path, damaged).unwrap();
    let (code, report) = doctor(home.path(), ECHO, &[]);
    assert_eq!(code, Some(1), "{report:#}");
    let [verdict, _, way_out] = found(&report, "database", "");
    assert_eq!(verdict, "problem");
    assert!(!way_out.is_empty());
    let (code, report) = doctor(home.path(), ECHO, &["--quick"]);
    assert_eq!((code, found(&report, "database", "can't be read")[0]), (Some(1), "problem"));

    fs::write(&path, whole).unwrap();
    let (code, report) = doctor(home.path(), ECHO, &["--quick"]);
    assert_eq!((code, found(&report, "database", "not checked")[0]), (Some(0), "ok"));
}

#[tokio::test]
async fn dependencies_that_nothing_would_decide_are_a_problem() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("jobmill.toml"), ECHO).unwrap();
    let mut server = Process::start(&home.path().join("jobmill.toml"), &home.path().join("data"), &[]).await;
    let rig = Rig::connect(&server.address).await;
    let hour = prost_types::Duration { seconds: 3_600, nanos: 0 };
    let parent = v1::JobSpec { start: Some(v1::job_spec::Start::Delay(hour)), ..job("echo") };
    rig.submit_batch(vec![parent, job("echo").after(v1::Dependency::on_index(0))]).await;
    server.signal(Signal::TERM);
    soon(server.exit()).await;
    let (code, report) = doctor(home.path(), ECHO, &[]);
    assert_eq!((code, found(&report, "database", "without a fault")[0]), (Some(0), "ok"), "{report:#}");
    let database = rusqlite::Connection::open(home.path().join("data/jobmill.db")).unwrap();
    database
        .execute_batch("UPDATE job SET state = 7, detail = NULL, ended = updated WHERE state = 1")
        .unwrap();
    drop(database);
    let (code, report) = doctor(home.path(), ECHO, &[]);
    assert_eq!(
        (code, found(&report, "database", "1 dependencies wait")[0]),
        (Some(1), "problem"),
        "{report:#}"
    );
}

#[tokio::test]
async fn a_strangers_port_is_a_problem() {
    let home = tempfile::tempdir().unwrap();
    let stranger = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = stranger.local_addr().unwrap().to_string();
    let hanging_up = tokio::spawn(async move { while stranger.accept().await.is_ok() {} });
    let path = home.path().to_owned();
    let (code, report) =
        tokio::task::spawn_blocking(move || doctor(&path, ECHO, &["--listen", &address])).await.unwrap();
    assert_eq!(code, Some(1), "{report:#}");
    assert_eq!(found(&report, "server", "does not answer as jobmill")[0], "problem");
    hanging_up.abort();
}

#[test]
fn the_port_of_the_metrics_counts_too() {
    let home = tempfile::tempdir().unwrap();
    let stranger = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = stranger.local_addr().unwrap().to_string();
    let (code, report) = doctor(home.path(), ECHO, &["--metrics-listen", &address]);
    assert_eq!(code, Some(1), "{report:#}");
    assert_eq!(found(&report, "port", "is taken by another process")[0], "problem");
    drop(stranger);
}

#[tokio::test]
async fn what_others_may_read_is_warned_of() {
    let home = tempfile::tempdir().unwrap();
    let (data, secret) = (home.path().join("data"), home.path().join("a.secret"));
    fs::create_dir(&data).unwrap();
    fs::write(&secret, "whsec_AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=").unwrap();
    for path in [&data, &secret] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    // Nothing listens at port 1, and the other endpoint's loopback address is not allowed.
    let configuration = "listen = '127.0.0.1:0'\n[kinds.a]\nurl = 'http://127.0.0.1:1/'\nallow_private = true\n\
                         signing_secret_files = ['a.secret']\n[kinds.b]\nurl = 'http://localhost:1/'";
    let (code, report) = doctor(home.path(), configuration, &[]);
    assert_eq!(code, Some(0), "warnings are no problems: {report:#}");
    assert_eq!(report["verdict"], "warning");
    let [verdict, _, way_out] = found(&report, "data folder", "(mode 755)");
    assert_eq!(verdict, "warning");
    assert!(way_out.starts_with("chmod 700 ") && way_out.ends_with("/data"));
    assert_eq!(found(&report, "secrets", "a.secret is open to everyone")[0], "warning");
    assert_eq!(found(&report, "handlers", "the endpoint of a: can't connect to 127.0.0.1:1")[0], "warning");
    assert_eq!(
        found(&report, "handlers", "the endpoint of b: the host localhost is not allowed")[0],
        "warning"
    );
}

#[test]
fn a_configuration_that_is_not_valid_is_told_in_full() {
    let home = tempfile::tempdir().unwrap();
    let (code, report) = doctor(home.path(), "listne = 1\ndrain_timeout = '2h'", &[]);
    assert_eq!((code, report["checks"].as_array().unwrap().len()), (Some(1), 2), "{report:#}");
    assert_eq!(found(&report, "configuration", "jobmill.toml:1:1: listne: unknown key")[0], "problem");
    assert_eq!(found(&report, "configuration", "over the limit of 1h")[0], "problem");
}

#[test]
#[cfg(target_os = "linux")]
fn a_data_folder_on_tmpfs_is_a_warning() {
    if fs::metadata("/dev/shm").is_ok() {
        let home = tempfile::tempdir_in("/dev/shm").unwrap();
        let (code, report) = doctor(home.path(), ECHO, &["--quick"]);
        assert_eq!(code, Some(0), "{report:#}");
        assert_eq!(found(&report, "file system", "tmpfs")[0], "warning");
    }
}
