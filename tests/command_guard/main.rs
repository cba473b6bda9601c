//! Commands as handlers, under their real guard.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod checkpoints;
#[cfg(target_os = "linux")]
mod paused;
mod reports;
mod results;
mod server_gone;
mod starting;
mod stopping;

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use jobmill::{
    execute::{Attempt, DetachedReport, Handler, HandlerError, command::CommandHandler},
    job::Output,
    settings::CommandSettings,
};
use rustix::{
    io::Errno,
    process::{Pid, test_kill_process},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const GUARD: &str = env!("CARGO_BIN_EXE_jobmill");

/// Timeout of a test's waits, far longer than any machine needs.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

fn command(argv: &[&str]) -> CommandSettings {
    CommandSettings { kill_grace: TEST_TIMEOUT, ..CommandSettings::new(argv.iter().copied()) }
}

fn script(text: &str) -> CommandSettings {
    command(&["/bin/sh", "-c", text])
}

type Outcome = Result<Output, HandlerError>;

/// Runs a command to its end.
async fn run(settings: CommandSettings, payload: impl Into<Bytes>) -> Outcome {
    let attempt = Attempt::detached(payload, "", |_| {});
    CommandHandler::new(settings, GUARD, None).run(attempt).await
}

/// A running command and the channel of its reports.
struct Running {
    task: tokio::task::JoinHandle<Outcome>,
    cancellation: CancellationToken,
    reports: mpsc::Receiver<DetachedReport>,
}

impl Running {
    fn start(settings: CommandSettings, lock_path: Option<PathBuf>) -> Self {
        Self::start_after(None, settings, lock_path)
    }

    /// Starts a command with the checkpoint of an earlier attempt.
    fn start_after(earlier: Option<Output>, settings: CommandSettings, lock_path: Option<PathBuf>) -> Self {
        let (tell, reports) = mpsc::channel(100_000);
        let attempt = Attempt::detached_after(earlier, "", "", move |report| {
            let _ = tell.try_send(report);
        });
        let cancellation = attempt.cancellation_token().clone();
        let task = tokio::spawn(CommandHandler::new(settings, GUARD, lock_path).run(attempt));
        Running { task, cancellation, reports }
    }

    async fn report(&mut self) -> DetachedReport {
        tokio::time::timeout(TEST_TIMEOUT, self.reports.recv())
            .await
            .expect("a report in time")
            .expect("a report")
    }

    async fn line(&mut self) -> String {
        match self.report().await {
            DetachedReport::OutputLine(line) => String::from_utf8(line).unwrap(),
            other @ (DetachedReport::Progress(_) | DetachedReport::Checkpoint { .. }) => {
                panic!("{other:?} is no line")
            }
        }
    }

    /// Reads a line of the form `name pid`.
    async fn pid(&mut self, name: &str) -> Pid {
        let line = self.line().await;
        parse_pid(&line, name).unwrap_or_else(|| panic!("{line:?} is no pid of {name}"))
    }

    async fn outcome(self) -> Outcome {
        tokio::time::timeout(TEST_TIMEOUT, self.task).await.expect("an end in time").expect("no panic")
    }
}

fn parse_pid(line: &str, name: &str) -> Option<Pid> {
    line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok().and_then(Pid::from_raw)
}

/// Returns whether the process does not exist, not even as a zombie.
fn is_gone(pid: Pid) -> bool {
    test_kill_process(pid) == Err(Errno::SRCH)
}

/// Returns once a process has been reaped by its parent. Polls, because only the parent gets a signal.
async fn reaped(pid: Pid) {
    let waited = async {
        while !is_gone(pid) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, waited).await.expect("the process ends in time");
}

/// Returns once a process has ended, whether or not its parent has reaped it.
#[cfg(target_os = "linux")]
async fn ended(pid: Pid) {
    use rustix::{
        event::{PollFd, PollFlags, Timespec, poll},
        process::{PidfdFlags, pidfd_open},
    };

    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return assert!(is_gone(pid)) };
    let patience = Timespec::try_from(TEST_TIMEOUT).unwrap();
    let waited = tokio::task::spawn_blocking(move || {
        poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&patience))
    });
    assert_eq!(waited.await.unwrap(), Ok(1), "the process ends in time");
}

/// Returns once a process has ended and been reaped. Process 1 reaps at once here.
#[cfg(not(target_os = "linux"))]
async fn ended(pid: Pid) {
    reaped(pid).await;
}

fn error(outcome: Outcome) -> HandlerError {
    outcome.expect_err("a failure")
}
