//! `jobmill work` and `jobmill serve` in processes of their own.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use jobmill::proto::v1;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::{Child, Command},
};

use crate::{
    rig::client,
    support::{Process, Rig, soon},
};

/// A server's process, and the folder of its files.
pub(crate) struct ServerProcess {
    pub(crate) home: tempfile::TempDir,
    pub(crate) process: Process,
    pub(crate) rig: Rig,
    port: u16,
}

/// Returns a port that is free at present.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl ServerProcess {
    /// Starts a server whose jobs of the kinds in the text only remote workers run.
    pub(crate) async fn start(text: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let text = format!("{text}\n[queues.default]\nconsumers = 0\n");
        std::fs::write(home.path().join("jobmill.toml"), text).unwrap();
        let port = free_port();
        let process = ServerProcess::spawn(home.path(), port).await;
        let rig = Rig::connect(&process.address).await;
        ServerProcess { home, process, rig, port }
    }

    async fn spawn(home: &Path, port: u16) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_jobmill"));
        command.args(["serve", "--log", "error", "--metrics-listen", "127.0.0.1:0"]);
        command.arg("--data-dir").arg(home.join("data"));
        Process::at(command, &format!("127.0.0.1:{port}"), &home.join("jobmill.toml")).await
    }

    pub(crate) fn address(&self) -> String {
        self.process.address.clone()
    }

    /// Kills the server and starts another one in its place.
    pub(crate) async fn kill_and_start(&mut self) {
        self.process.signal(Signal::KILL);
        self.start_again().await;
    }

    /// Stops the server in order and starts another one in its place.
    pub(crate) async fn restart(&mut self) {
        self.process.signal(Signal::TERM);
        self.start_again().await;
    }

    /// Waits for the end of the server's process and starts another one in its place.
    pub(crate) async fn start_again(&mut self) {
        soon(self.process.exit()).await;
        self.process = ServerProcess::spawn(self.home.path(), self.port).await;
        self.rig = Rig::connect(&self.process.address).await;
    }

    /// Returns the value of a metric.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let address = self.process.metrics.as_ref().expect("metrics");
        let mut stream = soon(TcpStream::connect(address)).await.unwrap();
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        soon(stream.read_to_string(&mut text)).await.unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in {text}")).trim().parse().unwrap()
    }

    /// Returns the memory that the process takes.
    pub(crate) fn resident_kib(&self) -> u64 {
        let path = format!("/proc/{}/status", self.process.pid());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Checks that the rules of leases and credits were never violated.
    pub(crate) async fn no_faults(&self) {
        for fault in ["lease_overwritten", "job_leased_twice", "credits_exceeded"] {
            let name = format!("jobmill_worker_faults_total{{fault=\"{fault}\"}}");
            assert_eq!(self.metric(&name).await, 0.0, "{fault}");
        }
    }
}

/// A `jobmill work` in a process of its own, which is killed on drop.
pub(crate) struct WorkerProcess {
    child: Child,
}

impl WorkerProcess {
    /// Starts a worker with the handlers of a configuration.
    pub(crate) fn start(address: &str, configuration: &Path, arguments: &[&str]) -> Self {
        let child = Command::new(env!("CARGO_BIN_EXE_jobmill"))
            .args(["work", "--server", address, "--config"])
            .arg(configuration)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        WorkerProcess { child }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid as i32)).expect("a process");
        kill_process(pid, signal).unwrap();
    }

    /// Returns the exit code and all that was written to stderr.
    pub(crate) async fn ends(&mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().expect("taken once");
        let ends = async {
            stderr.read_to_string(&mut said).await.unwrap();
            self.child.wait().await.unwrap()
        };
        let status = soon(ends).await;
        (status.code(), said)
    }
}

/// Returns the workers as operators see them.
pub(crate) async fn workers(rig: &Rig) -> Vec<v1::Worker> {
    let request = v1::ListWorkersRequest::default();
    soon(client(&rig.channel).list_workers(request)).await.unwrap().into_inner().workers
}

/// Returns once the workers are as wanted.
pub(crate) async fn workers_are(rig: &Rig, wanted: impl Fn(&[v1::Worker]) -> bool) {
    let are = async {
        while !wanted(&workers(rig).await) {
            tokio::task::yield_now().await;
        }
    };
    soon(are).await;
}

/// Returns once a worker of this name is connected.
pub(crate) async fn connected(rig: &Rig, instance: &str) {
    let is_here = |worker: &v1::Worker| {
        worker.instance == instance
            && worker.state() == v1::WorkerState::Connected
            && !worker.pools.is_empty()
    };
    workers_are(rig, |workers| workers.iter().any(is_here)).await;
}

/// Returns the text of a file once there is a whole line.
pub(crate) async fn line_of(path: PathBuf) -> String {
    let is_there = async {
        loop {
            match std::fs::read_to_string(&path) {
                Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
                Ok(_) | Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    soon(is_there).await
}

/// Returns once a process is gone. Polls: it is not a child of this one.
pub(crate) async fn gone(pid: &str) {
    let is_gone = async {
        while Path::new("/proc").join(pid).exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(is_gone).await;
}
