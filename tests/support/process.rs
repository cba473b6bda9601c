//! The real program, where a process must die.

use std::{path::Path, process::ExitStatus, process::Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::soon;

/// A server in a process of its own. It is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: String,
}

impl Process {
    /// Starts a server and returns once it listens.
    pub(crate) async fn start(configuration: &Path, data: &Path, arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_jobmill"))
            .args(["serve", "--listen", "127.0.0.1:0", "--log", "error"])
            .arg("--config")
            .arg(configuration)
            .arg("--data-dir")
            .arg(data)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = soon(lines.next_line()).await.unwrap().expect("a server that starts");
        let address = line.split(' ').nth(3).unwrap_or_else(|| panic!("{line}")).to_owned();
        Process { child, address }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub(crate) fn pid(&self) -> Pid {
        self.child.id().and_then(|pid| Pid::from_raw(pid as i32)).expect("a process")
    }

    pub(crate) async fn exit(&mut self) -> ExitStatus {
        self.child.wait().await.unwrap()
    }

    pub(crate) async fn kill(mut self) {
        self.signal(Signal::KILL);
        soon(self.exit()).await;
    }
}
