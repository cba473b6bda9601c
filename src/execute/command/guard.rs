//! The guard: the small process between a server and one command.
//!
//! It has one thread, which polls all its file descriptors, so that no two parts can disagree about whether the command
//! is still alive.

use std::{
    fs::File,
    io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write},
    os::{
        fd::AsFd,
        unix::{net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode},
    sync::{Arc, atomic::AtomicBool},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use command_fds::{CommandFdExt, FdMapping};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{FileType, fstat},
    io::ioctl_fionbio,
    process::{Pid, Signal},
};
use signal_hook::consts::{SIGALRM, SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};

use super::{
    CHECKPOINT_ANSWER_FD, CHECKPOINT_FD, EARLIER_CHECKPOINT_FD, LOCK_FD, PROGRESS_FD, checkpoint,
    frame::{Ending, FrameDecoder, GuardReport, MESSAGE_MAX_BYTES, ORDER_MAX_BYTES, Order, Start, VERSION},
    lines::{Lines, Overlong},
    lock, progress, reap,
};

/// Size of the outbox above which the command's progress and checkpoints are not read.
const OUTBOX_MAX_BYTES: usize = 64 * 1024;

/// Size of the answers that the command has not read, beyond what its pipe holds, above which further ones are dropped.
const ANSWERS_MAX_BYTES: usize = 64 * 1024;

/// Runs the guard of one command, from its start to its end.
pub(super) fn main(lock_path: Option<PathBuf>) -> ExitCode {
    let stdin = io::stdin();
    let is_socket = fstat(&stdin).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket);
    if !is_socket {
        let _ = writeln!(io::stderr(), "error: `{}` is for the server's own use", super::GUARD_ARGUMENT);
        return ExitCode::from(2);
    }
    let guarded = stdin
        .as_fd()
        .try_clone_to_owned()
        .and_then(|control| guard(UnixStream::from(control), lock_path.as_deref()));
    match guarded {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The guard's standard error becomes part of the job's output.
            let _ = writeln!(io::stderr(), "error: the command's guard failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn guard(mut control: UnixStream, lock_path: Option<&Path>) -> io::Result<()> {
    let (children, lock) = match prepare(lock_path) {
        Ok(prepared) => prepared,
        Err(message) => return say(&mut control, GuardReport::StartFailed(cut(message))),
    };
    // The server may send the command only now that the lock is held: see the parent module's documentation.
    say(&mut control, GuardReport::Ready { version: VERSION })?;
    let mut decoder = FrameDecoder::new(ORDER_MAX_BYTES);
    let Some(Order::Start(start)) = hear(&mut control, &mut decoder)? else { return Ok(()) };
    let Some(Order::Payload(payload)) = hear(&mut control, &mut decoder)? else { return Ok(()) };
    let earlier = match start.has_checkpoint {
        true => match hear(&mut control, &mut decoder)? {
            Some(Order::EarlierCheckpoint(state)) => Some(state),
            Some(_) | None => return Ok(()),
        },
        false => None,
    };

    let (command_stdin, stdin) = input(payload)?;
    let (progress, command_progress) = io::pipe()?;
    let (checkpoints, command_checkpoints) = io::pipe()?;
    let (command_answers, answers) = input(Bytes::new())?;
    let (command_earlier, earlier) = earlier.map(input).transpose()?.unzip();
    ioctl_fionbio(&progress, true)?;
    ioctl_fionbio(&checkpoints, true)?;
    control.set_nonblocking(true)?;
    let descriptors = CommandDescriptors {
        stdin: command_stdin,
        progress: command_progress,
        checkpoints: command_checkpoints,
        answers: command_answers,
        earlier: command_earlier,
    };
    let child = match start_command(&start, descriptors, lock.as_ref()) {
        Ok(child) => child,
        Err(message) => {
            control.set_nonblocking(false)?;
            return say(&mut control, GuardReport::StartFailed(cut(message)));
        }
    };
    // From here to `reap::all` nothing may return early, as the command is running.
    let leader = Pid::from_child(&child);
    let mut guarded = GuardedCommand {
        leader,
        children,
        stdin,
        earlier,
        answers,
        progress: LineReader::new(progress, progress::LINE_MAX_BYTES, Overlong::Drop),
        checkpoints: LineReader::new(checkpoints, checkpoint::LINE_MAX_BYTES, Overlong::Cut),
        checkpoints_first: false,
        control: Some(control),
        decoder,
        outbox: BytesMut::new(),
    };
    post(&mut guarded.outbox, GuardReport::Started { pid: leader.as_raw_nonzero().get() });
    let ran = guarded.run_to_end();
    let ending = reap::all(leader, &guarded.children);
    ran?;
    guarded.report_end(ending?)
}

/// Sets up the process so that signals do not end it and that it adopts the command's orphans, and takes the lock.
fn prepare(lock_path: Option<&Path>) -> Result<(UnixStream, Option<File>), String> {
    // Best effort.
    #[cfg(target_os = "linux")]
    let _ = std::fs::write("/proc/self/comm", super::GUARD_NAME);

    // File descriptors that leaked from the server's parent would be inherited by the command.
    close_fds::set_fds_cloexec(PROGRESS_FD, &[]);

    let failed = |error: io::Error| format!("the command's guard could not be set up: {error}");
    // Empty signal handlers instead of ignored signals, since the command would inherit ignored ones. This also undoes
    // signals ignored by a parent such as nohup.
    let unused = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGALRM, SIGUSR1, SIGUSR2] {
        signal_hook::flag::register(signal, Arc::clone(&unused)).map_err(failed)?;
    }
    let (children, wake) = UnixStream::pair().map_err(failed)?;
    children.set_nonblocking(true).map_err(failed)?;
    signal_hook::low_level::pipe::register(SIGCHLD, wake).map_err(failed)?;
    reap::adopt_orphans().map_err(failed)?;

    let lock = match lock_path {
        Some(path) => {
            Some(lock::share(path).map_err(|error| format!("can't lock {}: {error}", path.display()))?)
        }
        None => None,
    };
    Ok((children, lock))
}

/// The command's ends of its pipes.
struct CommandDescriptors {
    stdin: PipeReader,
    progress: PipeWriter,
    checkpoints: PipeWriter,
    answers: PipeReader,
    earlier: Option<PipeReader>,
}

fn start_command(
    start: &Start,
    descriptors: CommandDescriptors,
    lock: Option<&File>,
) -> Result<Child, String> {
    let Some((program, arguments)) = start.argv.split_first() else {
        return Err("the command is empty".to_owned());
    };
    let failed = |error: io::Error| match &start.working_dir {
        // The operating system reports both a missing program and a missing folder as "not found".
        Some(folder) if !Path::new(folder).is_dir() => {
            format!(
                "can't start {}: its working folder {} does not exist",
                program.display(),
                folder.display()
            )
        }
        Some(_) | None => format!("can't start {}: {error}", program.display()),
    };
    // All of these numbers are in use in this process by now (by the control socket, the signals' pipe and the pipes of
    // the command), so the standard library's own descriptor, by which it learns whether exec worked, can't have one of
    // them.
    let CommandDescriptors { stdin, progress, checkpoints, answers, earlier } = descriptors;
    let mut descriptors = vec![
        FdMapping { parent_fd: progress.into(), child_fd: PROGRESS_FD },
        FdMapping { parent_fd: checkpoints.into(), child_fd: CHECKPOINT_FD },
        FdMapping { parent_fd: answers.into(), child_fd: CHECKPOINT_ANSWER_FD },
    ];
    if let Some(earlier) = earlier {
        descriptors.push(FdMapping { parent_fd: earlier.into(), child_fd: EARLIER_CHECKPOINT_FD });
    }
    if cfg!(target_os = "linux")
        && let Some(lock) = lock
    {
        descriptors
            .push(FdMapping { parent_fd: lock.try_clone().map_err(failed)?.into(), child_fd: LOCK_FD });
    }
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(start.env.iter().map(|(name, value)| (name, value)))
        .stdin(stdin)
        .process_group(0)
        .fd_mappings(descriptors)
        .map_err(|error| failed(io::Error::other(error)))?;
    if let Some(folder) = &start.working_dir {
        command.current_dir(folder);
    }
    command.spawn().map_err(failed)
}

/// State of the guard while its command runs.
struct GuardedCommand {
    leader: Pid,
    /// A socket that becomes readable when a child has ended.
    children: UnixStream,
    /// The payload.
    stdin: InputPipe,
    /// The state that an earlier attempt has left, if there is one.
    earlier: Option<InputPipe>,
    /// Answers about checkpoints.
    answers: InputPipe,
    progress: LineReader,
    checkpoints: LineReader,
    /// Whether checkpoints are read before progress this time.
    checkpoints_first: bool,
    /// The socket to the server; `None` once the server is gone.
    control: Option<UnixStream>,
    decoder: FrameDecoder,
    outbox: BytesMut,
}

impl GuardedCommand {
    /// Returns when the command's first process has ended, without reaping it.
    fn run_to_end(&mut self) -> io::Result<()> {
        loop {
            // All descriptors are non-blocking, so each is tried without a check of which one is ready.
            self.stdin.write(true);
            if let Some(earlier) = &mut self.earlier {
                earlier.write(true);
            }
            self.answers.write(false);
            self.read_reports();
            self.flush();
            self.take_orders();
            if reap::drain_wakes(&self.children) {
                if reap::is_over(self.leader)? {
                    return Ok(());
                }
                reap::orphans(self.leader);
            }
            self.wait()?;
        }
    }

    fn wait(&self) -> io::Result<()> {
        let mut interests = Vec::with_capacity(7);
        interests.push(PollFd::new(&self.children, PollFlags::IN));
        if let Some(control) = &self.control {
            let writes = if self.outbox.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            interests.push(PollFd::new(control, PollFlags::IN | writes));
        }
        for input in [Some(&self.stdin), self.earlier.as_ref(), Some(&self.answers)].into_iter().flatten() {
            if let Some(pipe) = input.pipe.as_ref().filter(|_| !input.bytes.is_empty()) {
                interests.push(PollFd::new(pipe, PollFlags::OUT));
            }
        }
        if self.has_room() {
            let open =
                [&self.progress, &self.checkpoints].into_iter().filter_map(|reader| reader.pipe.as_ref());
            interests.extend(open.map(|pipe| PollFd::new(pipe, PollFlags::IN)));
        }
        match poll(&mut interests, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => {
                // Without poll, the guard can't do its work.
                reap::kill(self.leader);
                Err(error.into())
            }
        }
    }

    /// Reads progress and checkpoints while the outbox has room. Each comes first in turn, so that a flood of one does not
    /// keep out the other.
    fn read_reports(&mut self) {
        let GuardedCommand { progress, checkpoints, outbox, checkpoints_first, .. } = self;
        *checkpoints_first = !*checkpoints_first;
        if *checkpoints_first {
            checkpoints.read(outbox, post_checkpoint);
            progress.read(outbox, post_progress);
        } else {
            progress.read(outbox, post_progress);
            checkpoints.read(outbox, post_checkpoint);
        }
    }

    fn take_orders(&mut self) {
        while let Some(control) = &mut self.control {
            let read = match receive(control, &mut self.decoder) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                read => read,
            };
            let orders = read.and_then(|alive| Ok((alive, self.obey()?)));
            if !matches!(orders, Ok((true, ()))) {
                // The server is gone, or sent an invalid order.
                self.control = None;
                reap::kill(self.leader);
            }
        }
    }

    fn obey(&mut self) -> io::Result<()> {
        while let Some(frame) = self.decoder.next()? {
            match Order::from_frame(frame)? {
                Order::Terminate => reap::signal_group(self.leader, Signal::TERM),
                Order::Kill => reap::kill(self.leader),
                Order::CheckpointAnswer(line) => self.answers.add(&line),
                Order::Start(_) | Order::Payload(_) | Order::EarlierCheckpoint(_) => {
                    return Err(ErrorKind::InvalidData.into());
                }
            }
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        has_room(&self.outbox)
    }

    fn flush(&mut self) {
        while !self.outbox.is_empty() {
            let Some(control) = &mut self.control else { return self.outbox.clear() };
            match control.write(&self.outbox) {
                Ok(written) => self.outbox.advance(written),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Reading from the socket tells whether the server is gone.
                Err(_) => return,
            }
        }
    }

    /// Sends the rest of the command's progress, and how it ended.
    fn report_end(mut self, ending: Ending) -> io::Result<()> {
        // More than any pipe holds; the limit is only for processes outside the guard's reach that still write.
        const ROUNDS: u32 = 64;
        let Some(control) = &mut self.control else { return Ok(()) };
        control.set_nonblocking(false)?;
        for _ in 0..ROUNDS {
            self.flush();
            self.read_reports();
            if self.outbox.is_empty() {
                break;
            }
        }
        let outbox = &mut self.outbox;
        self.progress.lines.finish(|line| post_progress(outbox, line));
        // The rest of a checkpoint's line without its newline is none: the command was killed while it wrote.
        post(outbox, GuardReport::Ended(ending));
        self.flush();
        Ok(())
    }
}

/// A pipe that the command reads from.
struct InputPipe {
    /// Open until all is written. A command may close its end early, or never read it.
    pipe: Option<PipeWriter>,
    bytes: Bytes,
}

/// Creates a pipe for the command, with what it is to read. Returns the command's end first.
fn input(bytes: Bytes) -> io::Result<(PipeReader, InputPipe)> {
    let (reader, writer) = io::pipe()?;
    ioctl_fionbio(&writer, true)?;
    Ok((reader, InputPipe { pipe: Some(writer), bytes }))
}

impl InputPipe {
    /// Writes as much as fits, and closes the pipe after the last byte if there are no more to come.
    fn write(&mut self, is_last: bool) {
        let Some(pipe) = &mut self.pipe else { return };
        while !self.bytes.is_empty() {
            match pipe.write(&self.bytes) {
                Ok(written) => self.bytes.advance(written),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.close(),
            }
        }
        if is_last {
            self.close();
        }
    }

    /// Adds bytes, unless too many wait already, so that a command that does not read them costs no memory.
    fn add(&mut self, more: &[u8]) {
        if self.pipe.is_some() && self.bytes.len() + more.len() <= ANSWERS_MAX_BYTES {
            let mut bytes = BytesMut::from(&self.bytes[..]);
            bytes.put_slice(more);
            self.bytes = bytes.freeze();
        }
    }

    fn close(&mut self) {
        self.pipe = None;
        self.bytes = Bytes::new();
    }
}

/// A pipe to which the command writes lines.
struct LineReader {
    /// Open until the command has closed its end.
    pipe: Option<PipeReader>,
    lines: Lines,
}

impl LineReader {
    fn new(pipe: PipeReader, line_max_bytes: usize, overlong: Overlong) -> Self {
        LineReader { pipe: Some(pipe), lines: Lines::new(line_max_bytes, overlong) }
    }

    /// Reads what is there, while the outbox has room.
    fn read(&mut self, outbox: &mut BytesMut, mut post: impl FnMut(&mut BytesMut, &[u8])) {
        let mut buffer = [0; 4 * 1024];
        while has_room(outbox)
            && let Some(pipe) = &mut self.pipe
        {
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(count) => self.lines.feed(&buffer[..count], |line| post(outbox, line)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.pipe = None,
            }
        }
    }
}

fn has_room(outbox: &BytesMut) -> bool {
    outbox.len() < OUTBOX_MAX_BYTES
}

fn post_progress(outbox: &mut BytesMut, line: &[u8]) {
    post(outbox, GuardReport::Progress(Bytes::copy_from_slice(line)));
}

fn post_checkpoint(outbox: &mut BytesMut, line: &[u8]) {
    post(outbox, GuardReport::Checkpoint(Bytes::copy_from_slice(line)));
}

fn post(outbox: &mut BytesMut, report: GuardReport) {
    // Framing fails only for bodies over 4 GiB.
    for part in report.into_frame().iter().flatten() {
        outbox.put_slice(part);
    }
}

fn say(control: &mut UnixStream, report: GuardReport) -> io::Result<()> {
    let [head, body] = report.into_frame()?;
    control.write_all(&head)?;
    control.write_all(&body)
}

/// Waits for the next order; returns `None` when the server is gone.
fn hear(control: &mut UnixStream, decoder: &mut FrameDecoder) -> io::Result<Option<Order>> {
    loop {
        if let Some(frame) = decoder.next()? {
            return Order::from_frame(frame).map(Some);
        }
        if !receive(control, decoder)? {
            return Ok(None);
        }
    }
}

/// Receives available bytes; returns `false` when the server is gone.
fn receive(control: &mut UnixStream, decoder: &mut FrameDecoder) -> io::Result<bool> {
    let mut buffer = [0; 16 * 1024];
    loop {
        match control.read(&mut buffer) {
            Ok(count) => {
                decoder.space().put_slice(&buffer[..count]);
                return Ok(count > 0);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // The server died with reports unread.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

fn cut(message: String) -> String {
    crate::execute::cut(&message, MESSAGE_MAX_BYTES).to_owned()
}
