//! `sqlite3`, the shell, beside a server.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
};

use crate::support::{Rig, job, soon};

const CONFIGURATION: &str = "[kinds.echo]\ncommand = ['cat']\n";

/// A shell that holds the database's lock until it is told to let go.
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

/// A server in a process of its own, with its log.
struct Served {
    child: Child,
    out: Lines<BufReader<ChildStdout>>,
    log: Lines<BufReader<ChildStderr>>,
}

impl Served {
    fn start(home: &Path) -> Self {
        std::fs::write(home.join("jobmill.toml"), CONFIGURATION).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_jobmill"))
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(home.join("jobmill.toml"))
            .arg("--data-dir")
            .arg(home.join("data"))
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Served { child, out, log }
    }

    async fn connect(&mut self) -> Rig {
        let line = soon(self.out.next_line()).await.unwrap().expect("a server that starts");
        Rig::connect(line.split(' ').nth(3).unwrap()).await
    }

    /// The next line of the log with these words.
    async fn says(&mut self, words: &str) -> String {
        soon(async {
            loop {
                let line =
                    self.log.next_line().await.unwrap().unwrap_or_else(|| panic!("no line says {words}"));
                if line.contains(words) {
                    return line;
                }
            }
        })
        .await
    }

    async fn stop(mut self) {
        kill_process(Pid::from_raw(self.child.id().unwrap() as i32).unwrap(), Signal::TERM).unwrap();
        assert!(soon(self.child.wait()).await.unwrap().success());
    }
}

#[tokio::test]
async fn a_shell_that_holds_the_lock_is_named_in_the_log_and_outlasted() {
    let home = tempfile::tempdir().unwrap();
    let mut server = Served::start(home.path());
    let rig = server.connect().await;
    let shell = Shell::lock(&home.path().join("data")).await;
    let holder = format!("process={}", shell.child.id().unwrap());
    let mut jobs = rig.jobs.clone();
    let submitted = tokio::spawn(async move { jobs.submit(crate::support::submission(job("echo"))).await });
    // Twice: for longer than SQLite itself would wait.
    for _ in 0..2 {
        let line = server.says("another program holds the database's lock").await;
        assert!(line.contains(&holder), "{line} does not name {holder}");
    }
    shell.let_go().await;
    let accepted = soon(submitted).await.unwrap().unwrap().into_inner();
    rig.ends(&accepted.job.unwrap().id).await;
    server.says("the database's lock is free again").await;
    server.stop().await;
}

#[tokio::test]
async fn a_start_beside_a_shell_that_holds_the_lock_says_what_it_waits_for_and_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let mut first = Served::start(home.path());
    first.connect().await;
    first.stop().await;
    let shell = Shell::lock(&home.path().join("data")).await;
    let mut server = Served::start(home.path());
    server.says("another program holds the database's lock").await;
    shell.let_go().await;
    let rig = server.connect().await;
    rig.submit(job("echo")).await;
    server.stop().await;
}
