//! The real program, for tests in which a process must die.

use std::{path::Path, process::ExitStatus, process::Stdio};

use futures_util::FutureExt;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use super::soon;

/// A server in a process of its own, which is killed on drop.
pub(crate) struct Process {
    child: Child,
    pub(crate) address: String,
    /// The address of the metrics endpoint, if it is enabled.
    pub(crate) metrics: Option<String>,
}

impl Process {
    /// Starts a server and returns once it listens.
    pub(crate) async fn start(configuration: &Path, data: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jobmill"));
        command.args(["serve", "--log", "error"]).args(arguments);
        Process::of(command, configuration, data).await
    }

    /// Starts a server by a command, to which the listen address, the configuration and the data folder are added.
    pub(crate) async fn of(mut command: Command, configuration: &Path, data: &Path) -> Self {
        command.arg("--data-dir").arg(data);
        Process::in_memory(command, configuration).await
    }

    /// Starts a server as [`Process::of`] does, in memory.
    pub(crate) async fn in_memory(command: Command, configuration: &Path) -> Self {
        Process::at(command, "127.0.0.1:0", configuration).await
    }

    /// Starts a server by a command with all but the configuration, on a listen address.
    pub(crate) async fn at(mut command: Command, listen: &str, configuration: &Path) -> Self {
        let mut child = command
            .args(["--listen", listen, "--config"])
            .arg(configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = soon(lines.next_line()).await.unwrap().expect("a server that starts");
        let address = line.split(' ').nth(3).unwrap_or_else(|| panic!("{line}")).to_owned();
        // The server writes both lines at once.
        let metrics = lines.next_line().now_or_never().and_then(|line| {
            let line = line.unwrap()?;
            Some(line.strip_prefix("metrics and health on http://")?.strip_suffix("/metrics")?.to_owned())
        });
        Process { child, address, metrics }
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
