//! The real server in a process of its own, for tests beside other programs.

use std::{ffi::OsStr, path::Path};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdout, Command},
};

use crate::support::{Rig, soon};

/// A server process and its log.
pub(crate) struct Served {
    child: Child,
    out: Lines<BufReader<ChildStdout>>,
    log: Lines<BufReader<ChildStderr>>,
    /// Empty until the server listens.
    pub(crate) address: String,
}

impl Served {
    /// Starts a server with its configuration and data in `home`, and with additional environment variables.
    pub(crate) fn start(home: &Path, configuration: &str, environment: &[(&str, &OsStr)]) -> Self {
        std::fs::write(home.join("jobmill.toml"), configuration).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_jobmill"))
            .args(["serve", "--listen", "127.0.0.1:0", "--config"])
            .arg(home.join("jobmill.toml"))
            .arg("--data-dir")
            .arg(home.join("data"))
            .envs(environment.iter().copied())
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Served { child, out, log, address: String::new() }
    }

    /// Connects to the server once it listens.
    pub(crate) async fn connect(&mut self) -> Rig {
        let line = soon(self.out.next_line()).await.unwrap().expect("a server that starts");
        self.address = line.split(' ').nth(3).unwrap().to_owned();
        Rig::connect(&self.address).await
    }

    /// Returns the next line of the log with these words.
    pub(crate) async fn says(&mut self, words: &str) -> String {
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

    pub(crate) async fn stop(mut self) {
        kill_process(Pid::from_raw(self.child.id().unwrap() as i32).unwrap(), Signal::TERM).unwrap();
        assert!(soon(self.child.wait()).await.unwrap().success());
    }
}
