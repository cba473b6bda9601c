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
    LOCK_FD, PROGRESS_FD,
    frame::{Ending, FrameDecoder, GuardReport, ORDER_MAX_BYTES, Order, REPORT_MAX_BYTES, Start, VERSION},
    lines::{Lines, Overlong},
    lock, progress, reap,
};

/// Size of the outbox above which the command's progress is not read.
const OUTBOX_MAX_BYTES: usize = 64 * 1024;

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

    let (command_stdin, stdin) = io::pipe()?;
    let (progress, command_progress) = io::pipe()?;
    ioctl_fionbio(&stdin, true)?;
    ioctl_fionbio(&progress, true)?;
    control.set_nonblocking(true)?;
    let child = match start_command(&start, command_stdin, command_progress, lock.as_ref()) {
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
        stdin: Some(stdin),
        payload,
        progress: Some(progress),
        lines: Lines::new(progress::LINE_MAX_BYTES, Overlong::Drop),
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

fn start_command(
    start: &Start,
    stdin: PipeReader,
    progress: PipeWriter,
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
    // The numbers `PROGRESS_FD` and `LOCK_FD` are in use in this process by now (by the control socket and others), so
    // the standard library's own descriptor, by which it learns whether exec worked, can't have one of them.
    let mut descriptors = vec![FdMapping { parent_fd: progress.into(), child_fd: PROGRESS_FD }];
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
    /// Open until the payload is written.
    stdin: Option<PipeWriter>,
    payload: Bytes,
    progress: Option<PipeReader>,
    lines: Lines,
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
            self.feed_command();
            self.read_progress();
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
        let mut interests = Vec::with_capacity(4);
        interests.push(PollFd::new(&self.children, PollFlags::IN));
        if let Some(control) = &self.control {
            let writes = if self.outbox.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            interests.push(PollFd::new(control, PollFlags::IN | writes));
        }
        if let Some(stdin) = &self.stdin {
            interests.push(PollFd::new(stdin, PollFlags::OUT));
        }
        if let Some(progress) = &self.progress
            && self.has_room()
        {
            interests.push(PollFd::new(progress, PollFlags::IN));
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

    /// Writes as much of the payload as fits. A command may close its standard input early, or never read it.
    fn feed_command(&mut self) {
        let Some(stdin) = &mut self.stdin else { return };
        while !self.payload.is_empty() {
            match stdin.write(&self.payload) {
                Ok(written) => self.payload.advance(written),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => break,
            }
        }
        self.payload = Bytes::new();
        self.stdin = None;
    }

    fn read_progress(&mut self) {
        let mut buffer = [0; 4 * 1024];
        while self.has_room()
            && let Some(progress) = &mut self.progress
        {
            match progress.read(&mut buffer) {
                Ok(0) => self.progress = None,
                Ok(count) => {
                    let outbox = &mut self.outbox;
                    self.lines.feed(&buffer[..count], |line| post_progress(outbox, line));
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.progress = None,
            }
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
                Order::Start(_) | Order::Payload(_) => return Err(ErrorKind::InvalidData.into()),
            }
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.outbox.len() < OUTBOX_MAX_BYTES
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
            self.read_progress();
            if self.outbox.is_empty() {
                break;
            }
        }
        let outbox = &mut self.outbox;
        self.lines.finish(|line| post_progress(outbox, line));
        post(outbox, GuardReport::Ended(ending));
        self.flush();
        Ok(())
    }
}

fn post_progress(outbox: &mut BytesMut, line: &[u8]) {
    post(outbox, GuardReport::Progress(Bytes::copy_from_slice(line)));
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
    crate::execute::cut(&message, REPORT_MAX_BYTES).to_owned()
}
