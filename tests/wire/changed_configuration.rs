//! A store that is opened with another configuration, or by another version, than before.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use jobmill::proto::v1;
use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use crate::{
    doctor::{doctor, found},
    support::{Process, Rig, job, soon, update_of},
};

const NOW: &str = "listen = '127.0.0.1:0'\n[kinds.echo]\ncommand = ['cat']\n[queues.kept]\nconsumers = 0\n";
/// Number of old kinds, more than the log lists one by one.
const OLD_KINDS: usize = 12;

fn before() -> String {
    let kinds = (1..=OLD_KINDS).map(|n| format!("[kinds.old{n:02}]\ncommand = ['cat']\n"));
    format!("{NOW}[queues.dropped]\nconsumers = 0\n{}", kinds.collect::<String>())
}

fn spec(queue: &str, kind: &str) -> v1::JobSpec {
    v1::JobSpec { queue: queue.to_owned(), ..job(kind) }
}

/// Starts a server with the file's configuration and stops it; returns its log.
async fn log_of_a_start(home: &Path) -> Vec<String> {
    let mut server = tokio::process::Command::new(env!("CARGO_BIN_EXE_jobmill"))
        .args(["serve", "--config", "jobmill.toml", "--data-dir", "data", "--log", "warn"])
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(server.stdout.take().unwrap()).lines();
    soon(stdout.next_line()).await.unwrap().expect("a server that starts");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(server.id().unwrap() as i32).unwrap(),
        Signal::TERM,
    )
    .unwrap();
    let mut log = String::new();
    soon(server.stderr.take().unwrap().read_to_string(&mut log)).await.unwrap();
    soon(server.wait()).await.unwrap();
    log.lines().map(str::to_owned).collect()
}

fn lines_with<'a>(log: &'a [String], texts: &[&str]) -> Vec<&'a String> {
    log.iter().filter(|line| texts.iter().all(|text| line.contains(text))).collect()
}

#[tokio::test]
async fn jobs_that_a_new_configuration_leaves_behind_are_told_at_each_start_and_by_the_doctor() {
    let home = tempfile::tempdir().unwrap();
    let (file, data) = (home.path().join("jobmill.toml"), home.path().join("data"));
    fs::write(&file, before()).unwrap();
    let server = Process::start(&file, &data, &[]).await;
    let rig = Rig::connect(&server.address).await;
    // A queue that was created over the API is not reported as undeclared.
    let settings = Some(v1::QueueSettings { consumers: Some(0), ..Default::default() });
    let create = v1::CreateQueueRequest { name: "made".to_owned(), settings, ..Default::default() };
    rig.queues.clone().create_queue(create).await.unwrap();
    for queue in ["made", "kept", "dropped"] {
        rig.submit_batch(vec![spec(queue, "echo"); 3]).await;
    }
    for n in 1..=OLD_KINDS {
        rig.submit_batch(vec![spec("kept", &format!("old{n:02}")); 1 + usize::from(n == 7)]).await;
    }
    server.kill().await;
    let (code, report) = doctor(home.path(), &before(), &[]);
    assert_eq!(code, Some(0), "{report:#}");
    assert!(!report.to_string().contains(r#""check":"jobs""#), "{report:#}");

    // The doctor reports it before the first start, and each start reports it, also while the queue is paused.
    for start in 0..2 {
        for arguments in [&[][..], &["--quick"]] {
            let (code, report) = doctor(home.path(), NOW, arguments);
            assert_eq!(code, Some(0), "{report:#}");
            let [verdict, message, way_out] = found(&report, "jobs", "`dropped`");
            assert_eq!((verdict, message.split_once(" in ").unwrap().0), ("warning", "3 jobs"));
            assert!(way_out.contains("declare it again"), "{way_out}");
            let [verdict, message, way_out] = found(&report, "jobs", "`old07`");
            assert_eq!((verdict, message.split_once(" of ").unwrap().0), ("warning", "2 jobs"));
            assert!(way_out.contains("map the kind"), "{way_out}");
            found(&report, "jobs", "and 2 more like this");
            assert!(!report.to_string().contains("`made`"), "{report:#}");
        }
        let log = log_of_a_start(home.path()).await;
        assert_eq!(lines_with(&log, &["declare this queue", "dropped", "jobs=3"]).len(), 1, "{log:?}");
        assert_eq!(lines_with(&log, &["nothing runs this kind", "old07", "jobs=2"]).len(), 1, "{log:?}");
        assert_eq!(lines_with(&log, &["nothing runs this kind"]).len(), 10, "{log:?}");
        assert_eq!(lines_with(&log, &["untold=2"]).len(), 1, "{log:?}");
        assert_eq!(log.len(), 12, "start {start}: {log:?}");
        let server = Process::start(&file, &data, &[]).await;
        Rig::connect(&server.address).await.pause("dropped").await;
        // The doctor can count jobs while a server runs.
        let (_, report) = doctor(home.path(), NOW, &["--listen", &server.address]);
        found(&report, "jobs", "`dropped`");
        server.kill().await;
    }

    // After an update over the API the queue counts as created there.
    let server = Process::start(&file, &data, &[]).await;
    let settings = v1::QueueSettings { consumers: Some(1), ..Default::default() };
    let update = update_of("dropped", settings);
    Rig::connect(&server.address).await.queues.clone().update_queue(update).await.unwrap();
    server.kill().await;
    let (_, report) = doctor(home.path(), NOW, &[]);
    assert!(!report.to_string().contains("`dropped`"), "{report:#}");
}

#[tokio::test]
async fn a_store_of_a_newer_version_is_refused_in_the_same_words_by_all_that_opens_it() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("jobmill.toml"), NOW).unwrap();
    log_of_a_start(home.path()).await;
    let database = home.path().join("data/jobmill.db");
    let connection = rusqlite::Connection::open(&database).unwrap();
    let known: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    connection.pragma_update(None, "user_version", known + 3).unwrap();
    drop(connection);
    let kept = fs::read(&database).unwrap();
    let jobmill = |arguments: &[&str]| {
        let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_jobmill"))
            .args(arguments)
            .args(["--config", "jobmill.toml", "--data-dir", "data"])
            .current_dir(home.path())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
        (status.code(), told)
    };
    let what = format!(
        "the database has a newer schema (version {}) than this jobmill knows (up to version {known})",
        known + 3
    );
    let way_out = "run the version that changed it, or restore a backup from before";
    for (arguments, code) in [
        (&["serve"][..], 1),
        (&["compact"], 5),
        (&["backup", "copy"], 5),
        (&["doctor"], 1),
        (&["doctor", "--quick"], 1),
    ] {
        let (ended, told) = jobmill(arguments);
        assert_eq!(ended, Some(code), "{arguments:?}: {told}");
        let lines: Vec<_> = told.lines().filter(|line| line.contains(&what)).collect();
        assert!(lines.len() == 1 && lines[0].contains(way_out), "{arguments:?}: {told}");
    }
    assert_eq!(fs::read(&database).unwrap(), kept, "nothing has changed it");
    assert_eq!(fs::read_dir(home.path().join("copy")).map_or(0, Iterator::count), 0, "a copy is left");
}
