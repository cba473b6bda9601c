//! The `sqlite3` shell beside a server.

use std::path::Path;

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
};

use crate::{
    served::Served,
    support::{job, soon},
};

const CONFIGURATION: &str = "[kinds.echo]\ncommand = ['cat']\n";

/// A shell that holds the database's lock until it is told to release it.
struct Shell {
    child: Child,
    input: ChildStdin,
}

impl Shell {
    async fn lock(folder: &Path) -> Self {
        let mut child = Command::new("sqlite3")
            .arg(folder.join("jobmill.db"))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("sqlite3, which .ci/setup installs");
        let mut input = child.stdin.take().unwrap();
        input.write_all(b".timeout 20000\nBEGIN IMMEDIATE;\nSELECT 'locked';\n").await.unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(soon(lines.next_line()).await.unwrap().as_deref(), Some("locked"));
        Shell { child, input }
    }

    async fn let_go(mut self) {
        self.input.write_all(b"COMMIT;\n").await.unwrap();
        drop(self.input);
        assert!(soon(self.child.wait()).await.unwrap().success());
    }
}

#[tokio::test]
async fn a_shell_that_holds_the_lock_is_named_in_the_log_and_outlasted() {
    let home = tempfile::tempdir().unwrap();
    let mut server = Served::start(home.path(), CONFIGURATION, &[]);
    let rig = server.connect().await;
    let shell = Shell::lock(&home.path().join("data")).await;
    let holder = format!("process={}", shell.child.id().unwrap());
    let mut jobs = rig.jobs.clone();
    let submitted = tokio::spawn(async move { jobs.submit(crate::support::submission(job("echo"))).await });
    // Waits for the message twice, which is longer than SQLite's own busy timeout would be.
    for _ in 0..2 {
        let line = server.says("another program holds the database's lock").await;
        assert!(line.contains(&holder), "{line} does not name {holder}");
    }
    shell.let_go().await;
    let accepted = soon(submitted).await.unwrap().unwrap().into_inner();
    rig.ends(accepted.id()).await;
    server.says("the database's lock is free again").await;
    server.stop().await;
}

#[tokio::test]
async fn a_start_beside_a_shell_that_holds_the_lock_says_what_it_waits_for_and_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let mut first = Served::start(home.path(), CONFIGURATION, &[]);
    first.connect().await;
    first.stop().await;
    let shell = Shell::lock(&home.path().join("data")).await;
    let mut server = Served::start(home.path(), CONFIGURATION, &[]);
    server.says("another program holds the database's lock").await;
    shell.let_go().await;
    let rig = server.connect().await;
    rig.submit(job("echo")).await;
    server.stop().await;
}
