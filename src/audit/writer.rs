//! The thread that writes the audit.

use std::{
    cell::Cell,
    fs::File,
    io::{self, ErrorKind, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;

use super::{TARGET, append_to};
use crate::{
    clock::{Clock, Uptime},
    lines::{self, Lines, Outlet},
};

/// Interval between attempts to write a line.
const TRY_EVERY: Duration = Duration::from_millis(250);
/// Shortest interval between two log lines about an audit that can't be written.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

thread_local! {
    static IS_OWN_THREAD: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether the current thread writes an audit. Such a thread may wait for room in the log; no other thread may.
#[must_use]
pub fn is_on_own_thread() -> bool {
    IS_OWN_THREAD.get()
}

/// Handle of the thread that writes the audit.
#[derive(Debug)]
pub(super) struct Writer {
    reopen: Arc<AtomicBool>,
}

impl Writer {
    /// Starts a thread that writes lines to this file.
    pub(super) fn to_file(path: &Path, file: File, complaints: FailureLog) -> io::Result<(Lines, Writer)> {
        let writer = Writer { reopen: Arc::default() };
        let mut sink =
            AuditFile { path: path.to_owned(), file, reopen: Arc::clone(&writer.reopen), complaints };
        Ok((start(move |line, outlet| sink.take(&line, outlet))?, writer))
    }

    /// Starts a thread that writes lines to the log. If the log is full, this thread waits, and not the callers.
    pub(super) fn to_log() -> io::Result<(Lines, Writer)> {
        let lines = start(|line, _| {
            if !line.is_empty() {
                tracing::info!(target: TARGET, "{}", String::from_utf8_lossy(line.trim_ascii_end()));
            }
        })?;
        Ok((lines, Writer { reopen: Arc::default() }))
    }

    /// Makes the thread reopen the file before the next line.
    pub(super) fn reopen(&self) {
        self.reopen.store(true, Ordering::Release);
    }
}

/// Starts a thread that passes each line to `write` until the queue is closed. The thread is never joined, because a
/// write to a file may block for ever.
fn start(mut write: impl FnMut(Vec<u8>, &Outlet) + Send + 'static) -> io::Result<Lines> {
    let (lines, mut outlet) = lines::queue();
    thread::Builder::new().name("audit".into()).spawn(move || {
        IS_OWN_THREAD.set(true);
        while let Some(line) = outlet.take() {
            // The log's subscriber belongs to the embedding program, and may panic.
            if catch_unwind(AssertUnwindSafe(|| write(line.text, &outlet))).is_err() {
                outlet.lose();
            }
        }
    })?;
    Ok(lines)
}

/// An audit file, written by one thread.
struct AuditFile {
    path: PathBuf,
    file: File,
    /// Set when the file is to be reopened.
    reopen: Arc<AtomicBool>,
    complaints: FailureLog,
}

impl AuditFile {
    /// Writes a line, with retries while the queue is open. Later lines wait in the queue, and are lost only when that
    /// is full.
    fn take(&mut self, line: &[u8], outlet: &Outlet) {
        self.reopen_if_asked();
        let mut rest = line;
        while !rest.is_empty() {
            // One write call if the file takes it, so that lines of several servers don't mix.
            let error = match self.file.write(rest) {
                Ok(0) => ErrorKind::WriteZero.into(),
                Ok(count) => {
                    rest = &rest[count..];
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            self.complaints.failed(&self.path, &error);
            if !outlet.rest(TRY_EVERY) {
                outlet.lose();
                return;
            }
            if self.reopen_if_asked() {
                rest = line;
            }
        }
    }

    /// Reopens the file if that was requested. Returns whether there is a new file.
    fn reopen_if_asked(&mut self) -> bool {
        if !self.reopen.swap(false, Ordering::Acquire) {
            return false;
        }
        match append_to(&self.path) {
            Ok(file) => {
                self.file = file;
                true
            }
            Err(error) => {
                tracing::error!(
                    path = %self.path.display(), %error,
                    "the audit's new file can't be opened; the old one stays"
                );
                false
            }
        }
    }
}

/// Rate limit of log lines about an audit that can't be written.
#[derive(Clone, Debug)]
pub(super) struct FailureLog {
    clock: Clock,
    latest: Arc<Mutex<Option<Uptime>>>,
}

impl FailureLog {
    pub(super) fn new(clock: Clock) -> Self {
        FailureLog { clock, latest: Arc::default() }
    }

    /// Logs that a line could not be written.
    fn failed(&self, path: &Path, error: &io::Error) {
        if self.may_come() {
            tracing::error!(path = %path.display(), %error, "the audit's file can't be written");
        }
    }

    /// Logs that an answer was sent before its audit line was written, after waiting for `waited`.
    pub(super) fn late(&self, waited: Duration) {
        if self.may_come() {
            let waited = humantime::format_duration(waited);
            tracing::error!("the audit takes no lines: answers go out {waited} late, and before their lines");
        }
    }

    /// Returns whether a log line is due, and counts it as written.
    fn may_come(&self) -> bool {
        let now = self.clock.uptime();
        let mut latest = self.latest.lock();
        let may = latest.is_none_or(|at| now.since(at) >= COMPLAIN_EVERY);
        if may {
            *latest = Some(now);
        }
        may
    }
}
