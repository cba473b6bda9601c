//! The server's side of one command: it starts the guard, sends it orders, and receives its reports.
//!
//! All of it is one future that owns everything it uses and spawns no task. Whenever it is dropped, the control socket
//! closes with it, and the guard kills the command.

use std::{
    collections::VecDeque,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream as StdUnixStream},
    path::Path,
    pin::pin,
    process::Stdio,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
#[cfg(target_os = "linux")]
use rustix::fs::fstat;
use rustix::process::{Pid, Signal, kill_process_group};
#[cfg(target_os = "linux")]
use tokio::task::spawn_blocking;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::UnixStream,
    process::{Child, ChildStderr, ChildStdout, Command},
    task::yield_now,
};

#[cfg(target_os = "linux")]
use super::abandoned;
use super::{
    GUARD_ARGUMENT, OUTPUT_LINE_MAX_BYTES, RESULT_MAX_BYTES,
    checkpoint::CommandCheckpoints,
    frame::{Ending, FrameDecoder, GuardReport, Order, REPORT_MAX_BYTES, Start, VERSION},
    lines::{Lines, Overlong},
    progress,
};
use crate::{execute::Attempt, timeouts};

/// Time limit for the end of the output, if a process outside the guard's reach may keep the pipe open.
const OUTPUT_END_TIMEOUT: Duration = Duration::from_secs(1);

/// Limit of the parts of orders that wait for the guard to read them, above which answers about checkpoints are dropped.
const ANSWERS_MAX: usize = 1_024;

/// The outcome of a command.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The command ran to its end.
    Ended {
        ending: Ending,
        /// All of its standard output; absent if that was over the limit.
        result: Option<Bytes>,
        /// The last non-blank line on its standard error.
        last_line: Vec<u8>,
        /// The delay of the snooze that it asked for.
        snooze: Option<Duration>,
    },
    /// The attempt was asked to stop before the command started.
    NeverStarted,
    /// The command could not be started.
    StartFailed(String),
    /// The guard ended before the command, and the command was killed.
    GuardLost(String),
}

/// A guard's process and its descriptors.
pub(super) struct Guard {
    child: Child,
    control: UnixStream,
    stdout: ChildStdout,
    stderr: ChildStderr,
    /// Whether the guard was told what to run.
    in_charge: bool,
    /// The command's process group, once the guard has reported it.
    leader: Option<Pid>,
}

impl Guard {
    /// Starts a guard, which takes the lock and waits for its orders.
    pub(super) fn spawn(program: &Path, lock_path: Option<&Path>) -> io::Result<Self> {
        let (control, guards_end) = StdUnixStream::pair()?;
        control.set_nonblocking(true)?;
        let mut child = Command::new(program)
            // The name in process lists, as the program's path is `/proc/self/exe`.
            .arg0("jobmill-guard")
            .arg(GUARD_ARGUMENT)
            .args(lock_path)
            .stdin(Stdio::from(OwnedFd::from(guards_end)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Its own group, out of reach of a terminal's signals to the server's group.
            .process_group(0)
            .spawn()?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        Ok(Guard {
            child,
            control: UnixStream::from_std(control)?,
            stdout,
            stderr,
            in_charge: false,
            leader: None,
        })
    }

    /// Runs a command to its end. A guard that is not ready within `start_timeout` counts as failed to start.
    pub(super) async fn run(
        mut self,
        start: Start,
        start_timeout: Duration,
        kill_grace: Duration,
        attempt: &Attempt,
    ) -> Outcome {
        let (mut listen, speak) = self.control.split();
        let mut decoder = FrameDecoder::new(REPORT_MAX_BYTES);
        let mut orders = Orders { speak, parts: VecDeque::new(), is_killed: false };
        let mut result = ResultCollector::default();
        let mut output = OutputCollector::new(attempt);
        let mut checkpoints = CommandCheckpoints::new(attempt);
        let (mut start, mut stopping, mut snooze) = (Some(start), false, None);
        // The start timeout, and later the grace period between SIGTERM and SIGKILL. Time in which this process is
        // paused does not count, so that the guard's report is read before either expires.
        let mut deadline = pin!(timeouts::active(start_timeout));
        let mut has_deadline = true;

        let ended = loop {
            tokio::select! {
                report = next_report(&mut decoder, &mut listen) => match report {
                    Ok(GuardReport::Ready { version }) => {
                        if let Err(failed) = orders.answer_ready(version, start.take(), attempt) {
                            return failed;
                        }
                        self.in_charge = true;
                        has_deadline = false;
                    }
                    Ok(GuardReport::Started { pid }) => self.leader = Pid::from_raw(pid),
                    Ok(GuardReport::StartFailed(message)) => return start_failed(&mut self.child, message).await,
                    Ok(GuardReport::Progress(line)) => snooze = tell_progress(attempt, &line).await.or(snooze),
                    Ok(GuardReport::Checkpoint(line)) => orders.answer_checkpoint(checkpoints.take(&line).await),
                    Ok(GuardReport::Ended(ending)) => break Ok(ending),
                    Err(how) => break Err(how),
                },
                () = result.take_more(&mut self.stdout), if !result.is_complete => {
                    if result.is_over_cap && !self.in_charge {
                        return Outcome::StartFailed("the guard wrote over 1 MiB before it was ready".to_owned());
                    }
                    orders.kill_if(result.is_over_cap);
                }
                () = output.take_more(&mut self.stderr), if !output.is_complete => {
                    // One read may hold thousands of lines: without this, a verbose command would occupy a runtime
                    // thread for as long as tokio's budget lets it read.
                    yield_now().await;
                }
                answer = checkpoints.committed(), if checkpoints.is_committing() => orders.answer_checkpoint(answer),
                () = orders.flush(), if !orders.parts.is_empty() => {}
                () = attempt.cancelled(), if !stopping => {
                    if !self.in_charge {
                        return Outcome::NeverStarted;
                    }
                    stopping = true;
                    orders.give_short(Order::Terminate);
                    deadline.set(timeouts::active(kill_grace));
                    has_deadline = true;
                }
                () = &mut deadline, if has_deadline => {
                    if !self.in_charge {
                        return not_ready(start_timeout);
                    }
                    has_deadline = false;
                    orders.give_short(Order::Kill);
                }
            }
        };

        self.conclude(ended, result, output, snooze).await
    }

    /// Reaps the guard and returns the command's outcome. `ended` is the guard's report, or how the guard was lost.
    async fn conclude(
        mut self,
        ended: Result<Ending, String>,
        mut result: ResultCollector,
        mut output: OutputCollector<'_>,
        snooze: Option<Duration>,
    ) -> Outcome {
        match ended {
            // The process group's number may be reused.
            Ok(_) => self.leader = None,
            Err(_) if self.in_charge => self.kill_abandoned().await,
            Err(_) => {}
        }
        let rest_of_output = self.read_to_end(&mut result, &mut output);
        if ended.is_ok() && cfg!(target_os = "linux") {
            // No process is left that could keep the pipes open, so no time limit is needed that a busy machine could
            // exceed.
            rest_of_output.await;
        } else {
            let _ = timeouts::within(OUTPUT_END_TIMEOUT, rest_of_output).await;
        }
        output.finish();
        match ended {
            Ok(ending) => Outcome::Ended {
                ending,
                result: (!result.is_over_cap).then(|| result.bytes.freeze()),
                last_line: output.last_line,
                snooze,
            },
            Err(how) => {
                let status = self.child.try_wait().ok().flatten().map(|status| format!(" ({status})"));
                let how = format!("{how}{}", status.unwrap_or_default());
                if self.in_charge {
                    return Outcome::GuardLost(how);
                }
                let last_line = String::from_utf8_lossy(&output.last_line);
                let colon = if last_line.is_empty() { "" } else { ": " };
                Outcome::StartFailed(format!(
                    "the guard was lost before it was ready: {how}{colon}{last_line}"
                ))
            }
        }
    }

    /// Kills a command whose guard was lost, as no other process will.
    async fn kill_abandoned(&mut self) {
        if let Some(leader) = self.leader.take() {
            kill_group(leader);
        }
        #[cfg(target_os = "linux")]
        {
            let pipes = [fstat(&self.stdout), fstat(&self.stderr)];
            let pipes: Vec<u64> = pipes.into_iter().flatten().map(|stat| stat.st_ino).collect();
            // This searches all processes. It runs to its end even if this future is dropped.
            let _ = spawn_blocking(move || abandoned::kill_writers(&pipes)).await;
        }
    }

    /// Reads the rest of the output, and reaps the guard.
    async fn read_to_end(&mut self, result: &mut ResultCollector, output: &mut OutputCollector<'_>) {
        while !(result.is_complete && output.is_complete) {
            tokio::select! {
                () = result.take_more(&mut self.stdout), if !result.is_complete => {}
                () = output.take_more(&mut self.stderr), if !output.is_complete => yield_now().await,
            }
        }
        let _ = self.child.wait().await;
    }
}

impl Drop for Guard {
    /// A guard in charge kills its command when the socket closes, and its reports go unread; tokio reaps it. Any other
    /// guard is killed, as it has nothing to guard and may be another program.
    fn drop(&mut self) {
        if !self.in_charge {
            // An error means that the guard has ended.
            let _ = self.child.start_kill();
        } else if let Some(leader) = self.leader {
            // The guard may be lost or stopped, and the job may run again before the guard continues.
            kill_group(leader);
        }
    }
}

/// Reaps the guard of a command that could not be started. The guard ends by itself.
async fn start_failed(guard: &mut Child, message: String) -> Outcome {
    let _ = timeouts::within(OUTPUT_END_TIMEOUT, guard.wait()).await;
    Outcome::StartFailed(message)
}

fn not_ready(start_timeout: Duration) -> Outcome {
    Outcome::StartFailed(format!(
        "the guard was not ready within {}: is it a Jobmill, or a program whose `main` calls `guard_main` first?",
        humantime::format_duration(start_timeout),
    ))
}

/// Kills the process group of a command whose guard may be lost. `leader` is the pid that the guard reported.
///
/// The leader's pid may be free by now, but a group keeps its number while it has a member, and a free number is reused
/// only after all others.
fn kill_group(leader: Pid) {
    let _ = kill_process_group(leader, Signal::KILL);
}

/// Queue of orders to the guard.
struct Orders<W> {
    speak: W,
    parts: VecDeque<Bytes>,
    /// Whether the command is to be killed for its output.
    is_killed: bool,
}

impl<W: AsyncWrite + Unpin> Orders<W> {
    fn give(&mut self, order: Order) -> io::Result<()> {
        self.parts.extend(order.into_frame()?);
        Ok(())
    }

    /// Sends a ready guard its command and payload, once. Fails if the guard can't be used.
    fn answer_ready(&mut self, version: u32, start: Option<Start>, attempt: &Attempt) -> Result<(), Outcome> {
        let Some(start) = start.filter(|_| version == VERSION) else {
            return Err(Outcome::StartFailed(format!(
                "the guard is of another version of Jobmill: it speaks protocol {version}, not {VERSION}"
            )));
        };
        let payload = Order::Payload(attempt.payload().clone());
        let earlier = attempt.earlier_checkpoint().map(|state| Order::EarlierCheckpoint(state.bytes.clone()));
        self.give(Order::Start(start))
            .and_then(|()| self.give(payload))
            .and_then(|()| earlier.map_or(Ok(()), |earlier| self.give(earlier)))
            .map_err(|error| Outcome::StartFailed(format!("can't tell the guard what to run: {error}")))
    }

    /// Kills a command that has written too much, once.
    fn kill_if(&mut self, is_over_cap: bool) {
        if is_over_cap && !self.is_killed {
            self.is_killed = true;
            self.give_short(Order::Kill);
        }
    }

    /// Sends an answer about a checkpoint, unless too many are on their way to a command that does not read them.
    fn answer_checkpoint(&mut self, answer: Option<Bytes>) {
        if let Some(answer) = answer
            && self.parts.len() < ANSWERS_MAX
        {
            self.give_short(Order::CheckpointAnswer(answer));
        }
    }

    fn give_short(&mut self, order: Order) {
        // Framing fails only for bodies over 4 GiB.
        let _ = self.give(order);
    }

    /// Writes all queued orders. Cancel-safe: a later call continues where this one stopped.
    async fn flush(&mut self) {
        while let Some(part) = self.parts.front_mut() {
            if part.is_empty() {
                self.parts.pop_front();
            } else if self.speak.write_buf(part).await.is_err() {
                // The guard is gone; the reading side is about to get the error.
                self.parts.clear();
            }
        }
    }
}

/// Returns the next report, or how the guard was lost. Cancel-safe.
async fn next_report(
    decoder: &mut FrameDecoder,
    listen: &mut (impl AsyncRead + Unpin),
) -> Result<GuardReport, String> {
    let ended = || "it ended".to_owned();
    loop {
        if let Some(frame) = decoder.next().map_err(|error| error.to_string())? {
            return GuardReport::from_frame(frame).map_err(|error| error.to_string());
        }
        match listen.read_buf(decoder.space()).await {
            Ok(0) => return Err(ended()),
            Ok(_) => {}
            // The guard ended with orders unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(ended()),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Collector of a command's standard output.
#[derive(Default)]
struct ResultCollector {
    bytes: BytesMut,
    is_over_cap: bool,
    is_complete: bool,
}

impl ResultCollector {
    /// Reads the next bytes. Cancel-safe.
    async fn take_more(&mut self, stdout: &mut ChildStdout) {
        self.bytes.reserve(4 * 1024);
        let read = stdout.read_buf(&mut self.bytes).await;
        self.is_complete = !read.is_ok_and(|count| count > 0);
        self.is_over_cap |= self.bytes.len() > RESULT_MAX_BYTES;
        if self.is_over_cap {
            self.bytes.clear();
        }
    }
}

/// Collector of a command's standard error.
struct OutputCollector<'a> {
    attempt: &'a Attempt,
    space: BytesMut,
    lines: Lines,
    /// The last non-blank line.
    last_line: Vec<u8>,
    is_complete: bool,
}

impl<'a> OutputCollector<'a> {
    fn new(attempt: &'a Attempt) -> Self {
        OutputCollector {
            attempt,
            space: BytesMut::with_capacity(OUTPUT_LINE_MAX_BYTES),
            lines: Lines::new(OUTPUT_LINE_MAX_BYTES, Overlong::Cut),
            last_line: Vec::new(),
            is_complete: false,
        }
    }

    /// Reads the next bytes and reports the lines that end in them. Cancel-safe.
    async fn take_more(&mut self, stderr: &mut ChildStderr) {
        let read = stderr.read_buf(&mut self.space).await;
        self.is_complete = !read.is_ok_and(|count| count > 0);
        let (attempt, last_line) = (self.attempt, &mut self.last_line);
        self.lines.feed(&self.space, |line| tell(attempt, last_line, line));
        self.space.clear();
    }

    /// Reports the last line, if it has no newline.
    fn finish(&mut self) {
        let (attempt, last_line) = (self.attempt, &mut self.last_line);
        self.lines.finish(|line| tell(attempt, last_line, line));
    }
}

fn tell(attempt: &Attempt, last_line: &mut Vec<u8>, line: &[u8]) {
    attempt.output_line(line);
    let line = line.trim_ascii();
    if !line.is_empty() {
        last_line.clear();
        last_line.extend_from_slice(line);
    }
}

/// Reports a line of progress. Returns the delay of a snooze, if the line tells that instead.
async fn tell_progress(attempt: &Attempt, line: &[u8]) -> Option<Duration> {
    if let Some(parsed) = progress::parse(line) {
        attempt.progress(parsed.fraction, &parsed.text, &parsed.step);
    }
    yield_now().await;
    progress::parse_snooze(line)
}
