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

/// A line that can't be written is tried again after this time.
const TRY_EVERY: Duration = Duration::from_millis(250);
/// An audit that can't be written is told of at most once in this time.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

thread_local! {
    static IS_OWN_THREAD: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread writes an audit. It may wait for the log to have room; no other thread that logs may.
#[must_use]
pub fn is_on_own_thread() -> bool {
    IS_OWN_THREAD.get()
}

/// The thread that writes the audit, as others see it.
#[derive(Debug)]
pub(super) struct Writer {
    reopen: Arc<AtomicBool>,
}

impl Writer {
    /// Starts a thread that writes lines to this file.
    pub(super) fn to_file(path: &Path, file: File, complaints: Complaints) -> io::Result<(Lines, Writer)> {
        let writer = Writer { reopen: Arc::default() };
        let mut sink = Sink { path: path.to_owned(), file, reopen: Arc::clone(&writer.reopen), complaints };
        Ok((start(move |line, outlet| sink.take(&line, outlet))?, writer))
    }

    /// Starts a thread that adds lines to the log. Where that is full, it is this thread that waits.
    pub(super) fn to_log() -> io::Result<(Lines, Writer)> {
        let lines = start(|line, _| {
            if !line.is_empty() {
                tracing::info!(target: TARGET, "{}", String::from_utf8_lossy(line.trim_ascii_end()));
            }
        })?;
        Ok((lines, Writer { reopen: Arc::default() }))
    }

    /// Has the file opened anew before the next line.
    pub(super) fn reopen(&self) {
        self.reopen.store(true, Ordering::Release);
    }
}

/// Starts a thread that gives each line to `write`. It ends with the queue: nothing waits for it, since a file may be
/// stuck for ever.
fn start(mut write: impl FnMut(Vec<u8>, &Outlet) + Send + 'static) -> io::Result<Lines> {
    let (lines, mut outlet) = lines::queue();
    thread::Builder::new().name("audit".into()).spawn(move || {
        IS_OWN_THREAD.set(true);
        while let Some(line) = outlet.take() {
            // The log's subscriber is the embedding program's own.
            if catch_unwind(AssertUnwindSafe(|| write(line.text, &outlet))).is_err() {
                outlet.lose();
            }
        }
    })?;
    Ok(lines)
}

/// A file, written by one thread.
struct Sink {
    path: PathBuf,
    file: File,
    /// Set where the file is to be opened anew.
    reopen: Arc<AtomicBool>,
    complaints: Complaints,
}

impl Sink {
    /// Writes a line, or keeps trying while the queue is open: others wait behind it, and are lost only when there is
    /// no room for more.
    fn take(&mut self, line: &[u8], outlet: &Outlet) {
        self.reopen_if_asked();
        let mut rest = line;
        while !rest.is_empty() {
            // In one call if the file takes it, so that lines of several servers don't mix.
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

    /// Whether there is another file now.
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

/// When the log was last told that the audit can't be written.
#[derive(Clone, Debug)]
pub(super) struct Complaints {
    clock: Clock,
    latest: Arc<Mutex<Option<Uptime>>>,
}

impl Complaints {
    pub(super) fn new(clock: Clock) -> Self {
        Complaints { clock, latest: Arc::default() }
    }

    /// A line could not be written.
    fn failed(&self, path: &Path, error: &io::Error) {
        if self.may_come() {
            tracing::error!(path = %path.display(), %error, "the audit's file can't be written");
        }
    }

    /// An answer has waited so long for its line, and no longer.
    pub(super) fn late(&self, waited: Duration) {
        if self.may_come() {
            let waited = humantime::format_duration(waited);
            tracing::error!("the audit takes no lines: answers go out {waited} late, and before their lines");
        }
    }

    /// Whether it is time to tell the log again, which is then counted as told.
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
