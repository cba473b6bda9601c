//! A server's side of one command: it starts the guard, tells it what to do, and hears how it goes.
//!
//! All of it is one future that owns all it uses and starts no task. Wherever it is dropped, the control socket
//! closes with it, which the guard takes as the order to kill.

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
    frame::{Ending, Inbox, Order, REPORT_MAX_BYTES, Report, Start, VERSION},
    lines::{Lines, Overlong},
    progress,
};
use crate::{execute::Attempt, timeouts};

/// How long to wait for the end of the output where something that is out of the guard's reach may keep it open.
const LAST_WORDS_PATIENCE: Duration = Duration::from_secs(1);

/// How a command went.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It ran to its end.
    Ended {
        ending: Ending,
        /// All of its standard output; absent if that was over the cap.
        result: Option<Bytes>,
        /// The last line on its standard error that was not blank.
        last_line: Vec<u8>,
    },
    /// It was asked to stop before it started.
    NeverStarted,
    /// It could not be started.
    StartFailed(String),
    /// Its guard ended before it, and the command was killed.
    GuardLost(String),
}

/// A guard's process and its descriptors.
pub(super) struct Guard {
    child: Child,
    control: UnixStream,
    stdout: ChildStdout,
    stderr: ChildStderr,
    /// It was told what to run.
    in_charge: bool,
    /// The command's group, once it has told.
    leader: Option<Pid>,
}

impl Guard {
    /// Starts a guard. It takes the lock and waits to be told what to run.
    pub(super) fn spawn(program: &Path, lock_path: Option<&Path>) -> io::Result<Self> {
        let (control, guards_end) = StdUnixStream::pair()?;
        control.set_nonblocking(true)?;
        let mut child = Command::new(program)
            // What people see in a list of processes, where the program is `/proc/self/exe`.
            .arg0("jobmill-guard")
            .arg(GUARD_ARGUMENT)
            .args(lock_path)
            .stdin(Stdio::from(OwnedFd::from(guards_end)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Out of reach of what a terminal sends to the server's group.
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

    /// Runs a command to its end. A guard that is not ready within `start_timeout` is none.
    pub(super) async fn run(
        mut self,
        start: Start,
        start_timeout: Duration,
        kill_grace: Duration,
        attempt: &Attempt,
    ) -> Outcome {
        let (mut listen, speak) = self.control.split();
        let mut inbox = Inbox::new(REPORT_MAX_BYTES);
        let mut orders = Orders { speak, parts: VecDeque::new() };
        let mut result = ResultTaken::default();
        let mut output = OutputTaken::new(attempt);
        let (mut start, mut is_killed, mut stopping) = (Some(start), false, false);
        // The limit on getting ready, and later the grace between asking and killing. After a pause of this process the
        // guard's answer is there, too, and is heard before either is over.
        let mut deadline = pin!(timeouts::active(start_timeout));
        let mut has_deadline = true;

        let ended = loop {
            tokio::select! {
                report = next_report(&mut inbox, &mut listen) => match report {
                    Ok(Report::Ready { version }) => {
                        if let Err(failed) = orders.answer_ready(version, start.take(), attempt) {
                            return failed;
                        }
                        self.in_charge = true;
                        has_deadline = false;
                    }
                    Ok(Report::Started { pid }) => self.leader = Pid::from_raw(pid),
                    Ok(Report::StartFailed(message)) => return start_failed(&mut self.child, message).await,
                    Ok(Report::Progress(line)) => tell_progress(attempt, &line).await,
                    Ok(Report::Ended(ending)) => break Ok(ending),
                    Err(how) => break Err(how),
                },
                () = result.take_more(&mut self.stdout), if !result.is_complete => {
                    if result.is_over_cap && !self.in_charge {
                        return Outcome::StartFailed("the guard writes as no guard does".to_owned());
                    }
                    if result.is_over_cap && !is_killed {
                        is_killed = true;
                        orders.give_short(Order::Kill);
                    }
                }
                () = output.take_more(&mut self.stderr), if !output.is_complete => {
                    // One read may hold thousands of lines: without this, a command that tells too much would keep
                    // a thread of the runtime to itself for as long as tokio's budget lets it read.
                    yield_now().await;
                }
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

        self.conclude(ended, result, output).await
    }

    /// Ends the guard, and tells how its command went. `ended` is what the guard said, or how it was lost.
    async fn conclude(
        mut self,
        ended: Result<Ending, String>,
        mut result: ResultTaken,
        mut output: OutputTaken<'_>,
    ) -> Outcome {
        match ended {
            // Its number is free again.
            Ok(_) => self.leader = None,
            Err(_) if self.in_charge => self.kill_abandoned().await,
            Err(_) => {}
        }
        let last_words = self.hear_out(&mut result, &mut output);
        if ended.is_ok() && cfg!(target_os = "linux") {
            // Nothing is left that could keep it open, so that no busy machine can cut a result short here.
            last_words.await;
        } else {
            let _ = timeouts::within(LAST_WORDS_PATIENCE, last_words).await;
        }
        output.finish();
        match ended {
            Ok(ending) => Outcome::Ended {
                ending,
                result: (!result.is_over_cap).then(|| result.bytes.freeze()),
                last_line: output.last_line,
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

    /// Kills a command whose guard was lost: nobody else is left to do it.
    async fn kill_abandoned(&mut self) {
        if let Some(leader) = self.leader.take() {
            kill_group(leader);
        }
        #[cfg(target_os = "linux")]
        {
            let pipes = [fstat(&self.stdout), fstat(&self.stderr)];
            let pipes: Vec<u64> = pipes.into_iter().flatten().map(|stat| stat.st_ino).collect();
            // It looks through all processes. Should this future be dropped meanwhile, it still comes to its end.
            let _ = spawn_blocking(move || abandoned::kill_writers(&pipes)).await;
        }
    }

    /// Reads the rest of the output, and reaps the guard.
    async fn hear_out(&mut self, result: &mut ResultTaken, output: &mut OutputTaken<'_>) {
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
    /// A guard in charge learns from the closing socket that it must kill its command, and reports to nobody; tokio
    /// reaps it. Any other is no use, and may not even be a guard.
    fn drop(&mut self) {
        if !self.in_charge {
            // An error means that it has ended.
            let _ = self.child.start_kill();
        } else if let Some(leader) = self.leader {
            // The guard may have been lost, or be stopped, and the job may run anew before it goes on.
            kill_group(leader);
        }
    }
}

/// A command could not be started. Its guard ends by itself, so that it can be reaped at once.
async fn start_failed(guard: &mut Child, message: String) -> Outcome {
    let _ = timeouts::within(LAST_WORDS_PATIENCE, guard.wait()).await;
    Outcome::StartFailed(message)
}

fn not_ready(start_timeout: Duration) -> Outcome {
    Outcome::StartFailed(format!(
        "the guard was not ready within {}: is it a Jobmill, or a program whose `main` calls `guard_main` first?",
        humantime::format_duration(start_timeout),
    ))
}

/// Kills the group of a command whose guard may be lost. `leader` is what the guard told.
///
/// Nobody may hold the leader's pid any more, but a group keeps its number while it has a member, and a number that is
/// free is given out again only after all others.
fn kill_group(leader: Pid) {
    let _ = kill_process_group(leader, Signal::KILL);
}

/// Orders on their way to the guard.
struct Orders<W> {
    speak: W,
    parts: VecDeque<Bytes>,
}

impl<W: AsyncWrite + Unpin> Orders<W> {
    fn give(&mut self, order: Order) -> io::Result<()> {
        self.parts.extend(order.into_frame()?);
        Ok(())
    }

    /// Tells a guard that is ready what to run, once; or tells why not.
    fn answer_ready(&mut self, version: u32, start: Option<Start>, attempt: &Attempt) -> Result<(), Outcome> {
        let Some(start) = start.filter(|_| version == VERSION) else {
            return Err(Outcome::StartFailed(format!(
                "the guard is of another version of Jobmill: it speaks protocol {version}, not {VERSION}"
            )));
        };
        let payload = Order::Payload(attempt.payload().clone());
        self.give(Order::Start(start))
            .and_then(|()| self.give(payload))
            .map_err(|error| Outcome::StartFailed(format!("can't tell the guard what to run: {error}")))
    }

    fn give_short(&mut self, order: Order) {
        // Only what is too large can't be framed.
        let _ = self.give(order);
    }

    /// Writes all that was given. Dropped half-way, it goes on where it was.
    async fn flush(&mut self) {
        while let Some(part) = self.parts.front_mut() {
            if part.is_empty() {
                self.parts.pop_front();
            } else if self.speak.write_buf(part).await.is_err() {
                // The guard is gone, which the listening side is about to learn.
                self.parts.clear();
            }
        }
    }
}

/// The next report; or how the guard was lost. Dropped half-way, it loses nothing.
async fn next_report(inbox: &mut Inbox, listen: &mut (impl AsyncRead + Unpin)) -> Result<Report, String> {
    let ended = || "it ended".to_owned();
    loop {
        if let Some(frame) = inbox.next().map_err(|error| error.to_string())? {
            return Report::from_frame(frame).map_err(|error| error.to_string());
        }
        match listen.read_buf(inbox.space()).await {
            Ok(0) => return Err(ended()),
            Ok(_) => {}
            // It left orders unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(ended()),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// What a command has written to its standard output.
#[derive(Default)]
struct ResultTaken {
    bytes: BytesMut,
    is_over_cap: bool,
    is_complete: bool,
}

impl ResultTaken {
    /// Takes what comes next. Dropped half-way, it loses nothing.
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

/// What a command has written to its standard error.
struct OutputTaken<'a> {
    attempt: &'a Attempt,
    space: BytesMut,
    lines: Lines,
    /// The last line that was not blank.
    last_line: Vec<u8>,
    is_complete: bool,
}

impl<'a> OutputTaken<'a> {
    fn new(attempt: &'a Attempt) -> Self {
        OutputTaken {
            attempt,
            space: BytesMut::with_capacity(OUTPUT_LINE_MAX_BYTES),
            lines: Lines::new(OUTPUT_LINE_MAX_BYTES, Overlong::Cut),
            last_line: Vec::new(),
            is_complete: false,
        }
    }

    /// Takes what comes next, and tells the lines that end in it. Dropped half-way, it loses nothing.
    async fn take_more(&mut self, stderr: &mut ChildStderr) {
        let read = stderr.read_buf(&mut self.space).await;
        self.is_complete = !read.is_ok_and(|count| count > 0);
        let (attempt, last_line) = (self.attempt, &mut self.last_line);
        self.lines.feed(&self.space, |line| tell(attempt, last_line, line));
        self.space.clear();
    }

    /// Tells the line that the end has cut short.
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

async fn tell_progress(attempt: &Attempt, line: &[u8]) {
    if let Some(told) = progress::parse(line) {
        attempt.progress(told.fraction, &told.text, &told.step);
    }
    yield_now().await;
}
