//! Handlers that run a command.
//!
//! # Input and output of a command
//! No shell is involved: the program and its arguments are passed unchanged. The job's payload is on its standard
//! input; its standard output is the job's result; its standard error is the job's output, line by line. It has the
//! environment variables `PATH`, `HOME`, `LANG`, `TZ`, those that the operator names or sets, and `JOBMILL_JOB_ID`,
//! `JOBMILL_QUEUE`, `JOBMILL_KIND`, `JOBMILL_ATTEMPT`, `JOBMILL_MAX_ATTEMPTS`, `JOBMILL_LEASE`, `JOBMILL_DEADLINE` (RFC
//! 3339), `JOBMILL_REQUEST_ID`, `JOBMILL_LABELS`, `JOBMILL_HEADERS` (JSON objects), `JOBMILL_PAYLOAD_TYPE`,
//! `JOBMILL_PAYLOAD_METADATA` (a JSON object), `JOBMILL_PROGRESS_FD`, `JOBMILL_CHECKPOINT_FD` and
//! `JOBMILL_CHECKPOINT_ANSWER_FD`; `JOBMILL_EARLIER_CHECKPOINT_FD` if an earlier attempt has left a checkpoint; and
//! `TRACEPARENT` and `TRACESTATE` if its job belongs to a trace.
//!
//! `JOBMILL_PROGRESS_FD` is the number of a file descriptor that takes progress, one line each, in any of these forms:
//! ```text
//! 0.42 resizing page 21
//! 42% resizing page 21
//! {"fraction": 0.42, "text": "resizing page 21", "step": "resize"}
//! ```
//! Only the fraction is required. Lines of another form, or longer than 4 KiB, are ignored.
//!
//! `JOBMILL_CHECKPOINT_FD` takes states for the next attempt, one line each, in either of these forms:
//! ```text
//! keep page 21
//! commit page 22
//! ```
//! The state is what follows the word, up to the newline: any other bytes, at most 256 KiB. A line without its newline
//! is none. The latest state is kept; `keep` lets it be written with the next progress, and `commit` asks that it be
//! written at once. Then `JOBMILL_CHECKPOINT_ANSWER_FD` gives a line: `committed 2`, with the number of a checkpoint up
//! to which all are on disk, or `refused` and the reason. Answers that are not read are lost beyond what a pipe holds.
//! `JOBMILL_EARLIER_CHECKPOINT_FD` gives the state that earlier attempts have left, to its end.
//!
//! Exit code 0 is success. Any other is a retryable failure, unless the operator lists it as permanent; 75
//! (`EX_TEMPFAIL`) is always retryable. A command that should stop gets `SIGTERM`, and `SIGKILL` after its grace
//! period. When its first process has ended, all other processes that it started are killed.
//!
//! # Why there is a guard
//! A process that a server starts does not die with the server, and a server that was killed can't clean up. So each
//! command has a *guard*: a process of this same program that runs [`guard_main`], with a control socket to its server.
//! The operating system closes that socket however the server ends, and the guard then kills the command. On Linux the
//! guard also adopts orphans of the command (as a child subreaper), so that none escapes by `setsid`. A guard ends only
//! after the last of its command's processes.
//!
//! That alone would leave a race: a new server could run the job again while the old command is not dead yet, or while
//! a guard that was just started has yet to see that its server is gone. A lock file prevents it:
//!
//! 1. A guard takes the lock, shared with the other guards, and then reports that it is ready. It holds the lock until
//!    it ends.
//! 2. A server sends a guard its command only after that report.
//! 3. A new server, once it is the only one on its data, takes the lock exclusively and releases it
//!    ([`wait_for_commands`]) before it starts any attempt.
//!
//! At step 3 the old server is dead. The new server waits for each guard that had the lock before. A guard that gets
//! the lock later has no server to report to: its server died before step 2, so the guard was never told what to run,
//! finds the socket closed, and ends. There is no third case. (If the order were sent before the lock is held, it could
//! wait in the socket of a dead server and be read after step 3.)
//!
//! When a guard is killed, its server kills the command's process group and, on Linux, all other processes that write
//! to the command's output. If the server and the guard are killed together, neither can kill the command; so on Linux
//! the command inherits the lock, and a new server starts attempts only when the lock is free. The new server does the
//! guard's work: once no guard holds the lock any more, it kills the processes that hold it and have a command's
//! environment variables. (On other systems commands do not inherit the lock: processes that left the group can outlive
//! their attempt, and would block the new server for ever.)

#[cfg(target_os = "linux")]
mod abandoned;
mod checkpoint;
mod environment;
mod frame;
mod guard;
mod lines;
mod lock;
mod progress;
mod reap;
mod supervise;

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

pub use lock::{LockError, wait_for_commands};

use crate::{
    execute::{Attempt, Handler, HandlerError, HandlerFuture, cut},
    job::{FailureReason, Output},
    settings::CommandSettings,
};
use frame::{Ending, Start};
use supervise::{Guard, Outcome};

/// Byte limit of a result. A command that writes more is killed.
pub const RESULT_MAX_BYTES: usize = 1024 * 1024;

/// Byte limit of a line of output; the rest of a longer line is dropped.
pub const OUTPUT_LINE_MAX_BYTES: usize = crate::job::OUTPUT_LINE_MAX_BYTES;

/// The first argument of a guard.
const GUARD_ARGUMENT: &str = "__guard";

/// The process name of a guard. It differs from the server's, so that `killall -9 jobmill` does not kill the guards,
/// and a starting server recognises guards by it.
#[cfg(target_os = "linux")]
const GUARD_NAME: &str = "job-guard";

/// File descriptor for a command's progress.
const PROGRESS_FD: i32 = 3;

/// File descriptor by which a command holds its guard's lock.
const LOCK_FD: i32 = 4;

/// File descriptor for a command's checkpoints.
const CHECKPOINT_FD: i32 = 5;

/// File descriptor of the answers to checkpoints that were to be written at once.
const CHECKPOINT_ANSWER_FD: i32 = 6;

/// File descriptor of the state that an earlier attempt has left.
const EARLIER_CHECKPOINT_FD: i32 = 7;

/// Default time limit for a guard to become ready. Only another program, or a severely overloaded machine, takes
/// longer.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// The exit code by which programs say "try again later" (`EX_TEMPFAIL` of `sysexits.h`).
const TEMPORARY_FAILURE_CODE: i32 = 75;

/// Makes this process the guard of a command if a server started it as one.
///
/// A program that runs a server with commands calls this first in its `main`, and exits with the code that it returns:
/// ```
/// # use std::process::ExitCode;
/// fn main() -> ExitCode {
///     if let Some(code) = jobmill::execute::command::guard_main() {
///         return code;
///     }
///     // …
///     ExitCode::SUCCESS
/// }
/// ```
/// Returns `None` unless the process was started with the argument `__guard`.
#[must_use = "a guard must do nothing else"]
pub fn guard_main() -> Option<ExitCode> {
    let mut arguments = env::args_os().skip(1);
    if arguments.next()? != GUARD_ARGUMENT {
        return None;
    }
    Some(guard::main(arguments.next().map(PathBuf::from)))
}

/// Returns the path of the running program, to be used as the guard of its own commands.
///
/// # Errors
/// When the operating system can't tell which program runs.
pub fn this_program() -> io::Result<PathBuf> {
    // The link is not resolved: an upgrade may have replaced or removed the file at its target.
    let magic = Path::new("/proc/self/exe");
    if cfg!(target_os = "linux") && magic.exists() {
        return Ok(magic.to_owned());
    }
    env::current_exe()
}

/// A handler that runs a command for each attempt.
#[derive(Clone, Debug)]
pub struct CommandHandler {
    plan: Arc<Plan>,
}

/// Settings shared by all attempts of a kind.
#[derive(Clone, Debug)]
struct Plan {
    settings: CommandSettings,
    environment: BTreeMap<OsString, OsString>,
    guard: PathBuf,
    lock_path: Option<PathBuf>,
    start_timeout: Duration,
}

impl CommandHandler {
    /// Prepares a command. The server's own environment variables are read now, not at each attempt.
    ///
    /// `guard` is the guard program: [`this_program`], or a `jobmill`. `lock_path` is the file that
    /// [`wait_for_commands`] gets at the next start; a server without persistent data needs none.
    #[must_use]
    pub fn new(settings: CommandSettings, guard: impl Into<PathBuf>, lock_path: Option<PathBuf>) -> Self {
        let environment = environment::of_kind(&settings);
        let (guard, start_timeout) = (guard.into(), START_TIMEOUT);
        CommandHandler { plan: Arc::new(Plan { settings, environment, guard, lock_path, start_timeout }) }
    }

    /// Sets the time limit for a guard to become ready; the default is 30 s. Time in which this process is paused does
    /// not count.
    #[must_use]
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        Arc::make_mut(&mut self.plan).start_timeout = timeout;
        self
    }
}

impl Handler for CommandHandler {
    fn run(&self, attempt: Attempt) -> HandlerFuture {
        let plan = Arc::clone(&self.plan);
        Box::pin(async move { plan.run(attempt).await })
    }

    fn stop_grace(&self) -> Duration {
        // The guard's own grace period, and time for it to clean up and report.
        self.plan.settings.kill_grace + Duration::from_secs(2)
    }
}

impl Plan {
    async fn run(&self, attempt: Attempt) -> Result<Output, HandlerError> {
        let start = Start {
            argv: self.settings.argv.iter().map(OsString::from).collect(),
            env: environment::of_attempt(&self.environment, &attempt),
            working_dir: self.settings.working_dir.clone().map(PathBuf::into_os_string),
            has_checkpoint: attempt.earlier_checkpoint().is_some(),
        };
        let guard = Guard::spawn(&self.guard, self.lock_path.as_deref()).map_err(|error| {
            start_failed(format!("can't start the command's guard {}: {error}", self.guard.display()))
        })?;
        match guard.run(start, self.start_timeout, self.settings.kill_grace, &attempt).await {
            Outcome::Ended { result: None, .. } => Err(HandlerError::new(
                FailureReason::ResultTooLarge,
                format!("the command wrote more than {RESULT_MAX_BYTES} bytes to its standard output"),
                false,
            )),
            Outcome::Ended { ending: Ending::Code(0), result: Some(bytes), .. } => {
                Ok(Output { bytes, ..Output::default() })
            }
            Outcome::Ended { ending: Ending::Code(code), result: Some(_), snooze, .. }
                if self.settings.snooze_exit_codes.contains(&code) =>
            {
                let error = HandlerError::snooze(snooze.unwrap_or(self.settings.snooze_delay));
                Err(HandlerError { pause: self.settings.snooze_pauses.as_deref().map(Into::into), ..error })
            }
            Outcome::Ended { ending, result: Some(_), last_line, .. } => {
                Err(self.failure(ending, &last_line))
            }
            Outcome::NeverStarted => {
                Err(HandlerError::not_started("stopped before the command was started", None))
            }
            Outcome::StartFailed(message) => Err(start_failed(message)),
            Outcome::GuardLost(how) => Err(HandlerError::retryable(format!(
                "the command's guard was lost: {how}; the command was killed"
            ))),
        }
    }

    fn failure(&self, ending: Ending, last_line: &[u8]) -> HandlerError {
        const LAST_LINE_MAX_BYTES: usize = 512;
        let (what, code, retryable) = match ending {
            Ending::Code(code) => {
                let permanent =
                    self.settings.permanent_exit_codes.contains(&code) && code != TEMPORARY_FAILURE_CODE;
                (format!("exited with code {code}"), code, !permanent)
            }
            Ending::Signal(signal) => {
                let name = signal_hook::low_level::signal_name(signal).unwrap_or("unknown");
                (format!("killed by signal {signal} ({name})"), 128 + signal, true)
            }
        };
        let last_line = String::from_utf8_lossy(last_line);
        let colon = if last_line.is_empty() { "" } else { ": " };
        let message = format!("{what}{colon}{}", cut(&last_line, LAST_LINE_MAX_BYTES));
        let error = HandlerError::new(FailureReason::HandlerError, message, retryable).with_exit_code(code);
        match ending {
            Ending::Code(_) => error,
            // The guard's own signals end attempts that were asked to stop, where the error does not count.
            Ending::Signal(_) => error.of_dead_process(),
        }
    }
}

fn start_failed(message: String) -> HandlerError {
    HandlerError::new(FailureReason::StartFailed, message, true)
}
