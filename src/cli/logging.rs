//! The log: lines for people or for machines, written to stderr by a thread of its own.
//!
//! `tracing-appender` has such a thread, too, but does not fit. It drops a line that can't be written without counting
//! it, does not report dropped lines in the log, writes to stdout when it is stopped while a pipe is full, and limits
//! lines but not bytes.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    cell::RefCell,
    env,
    fs::File,
    io::{self, ErrorKind, IsTerminal, Write},
    os::fd::AsFd,
    panic, thread,
    time::Duration,
};

use anyhow::{Context, anyhow};
use jobmill::{
    audit,
    lines::{self, Lines, LostLines, Outlet},
    settings::{LogFormat, LogSettings},
};
use rustix::event::{PollFd, PollFlags, poll};
use tracing_subscriber::{
    filter::Targets,
    fmt::{self, MakeWriter},
    layer::{Layer, SubscriberExt},
    util::SubscriberInitExt,
};

/// Libraries that log what any remote peer sends: unbounded, and of no use to the operator.
const TALKATIVE: [&str; 2] = ["h2", "rustls"];
/// Time limit for writing the last lines when the program ends.
const LAST_LINES_MAX: Duration = Duration::from_millis(500);

thread_local! {
    /// Buffer that receives this thread's log lines in place of the queue.
    static CAUGHT: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// The log of the program. Dropping it waits up to [`LAST_LINES_MAX`] for its last lines to be written.
pub(crate) struct Log(Lines);

/// Starts the log, and sends panics to it. Lines for people have colours on a terminal, unless `NO_COLOR` is set.
///
/// # Errors
/// The filter is not valid, stderr can't be used, the log's thread can't be started, or the log was started before.
pub(crate) fn start(settings: &LogSettings) -> anyhow::Result<Log> {
    let filter = filter(&settings.filter)?;
    // A descriptor of its own, because a thread that is stuck in a write to `io::stderr` would hold its lock.
    let stderr = File::from(io::stderr().as_fd().try_clone_to_owned().context("stderr can't be used")?);
    let colour = stderr.is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (lines, outlet) = lines::queue();
    thread::Builder::new()
        .name("log".into())
        .spawn(move || write(stderr, outlet))
        .context("the log has no thread")?;
    let log = fmt::layer().with_writer(LogWriterFactory(lines.clone()));
    let log = match settings.format {
        LogFormat::Text => log.with_ansi(colour).with_filter(filter).boxed(),
        LogFormat::Json => log.json().flatten_event(true).with_filter(filter).boxed(),
    };
    tracing_subscriber::registry()
        .with(log)
        .try_init()
        .map_err(|error| anyhow!("the log could not be started: {error}"))?;
    // The standard hook writes to stderr itself, and so blocks or panics where stderr is stuck or closed.
    panic::set_hook(Box::new(log_panic));
    Ok(Log(lines))
}

fn log_panic(panic: &panic::PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("no message");
    let thread = thread::current();
    let thread = thread.name().unwrap_or("-");
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!(thread, location, %backtrace, "a thread panicked: {message}");
    } else {
        tracing::error!(thread, location, "a thread panicked: {message}");
    }
}

impl Log {
    /// Returns the counter of lost lines.
    pub(crate) fn lost(&self) -> LostLines {
        self.0.lost()
    }

    /// Writes text to stderr behind the queued lines. Returns whether it was written within [`LAST_LINES_MAX`].
    pub(crate) fn say(&self, text: &str) -> bool {
        let lost = self.0.lost();
        let before = lost.get();
        self.0.push(format!("{text}\n").into());
        self.0.wait_until_done(LAST_LINES_MAX) && lost.get() == before
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // A line that is not written by now has no reader.
        let _ = self.0.wait_until_done(LAST_LINES_MAX);
    }
}

/// Writes lines until the program ends.
fn write(stderr: File, mut outlet: Outlet) {
    let mut sink = Sink { stderr, torn: false, refused: 0, failed: 0 };
    while let Some(line) = outlet.take() {
        sink.tell_of_lost(line.refused_before);
        if !sink.write(&line.text) {
            sink.failed += 1;
            outlet.lose();
        }
        if let Some(refused) = outlet.refused_since_last() {
            sink.tell_of_lost(refused);
        }
    }
}

/// The destination of lines.
struct Sink<W> {
    stderr: W,
    /// Whether the previous line was cut short.
    torn: bool,
    /// Number of lines that the queue had refused at the last notice of lost lines.
    refused: u64,
    /// Number of lines that could not be written since that notice.
    failed: u64,
}

impl<W: Write + AsFd> Sink<W> {
    /// Writes a notice with the number of lines that were lost here, if there are any.
    fn tell_of_lost(&mut self, refused: u64) {
        let lost = refused - self.refused + self.failed;
        if lost > 0 && self.write(&notice(lost)) {
            (self.refused, self.failed) = (refused, 0);
        }
    }

    /// Writes a line, and returns whether all of it was written.
    fn write(&mut self, line: &[u8]) -> bool {
        if self.torn {
            self.torn = self.write_part(b"\n") == 0;
        }
        if self.torn {
            return false;
        }
        let written = self.write_part(line);
        self.torn = written > 0 && written < line.len();
        written == line.len()
    }

    fn write_part(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match self.stderr.write(&bytes[written..]) {
                Ok(0) => break,
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Another process that shares the descriptor has made it non-blocking; this thread may wait.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let _ = poll(&mut [PollFd::new(&self.stderr, PollFlags::OUT)], None);
                }
                Err(_) => break,
            }
        }
        written
    }
}

/// Returns the notice of lost lines in the log's own format, or nothing where the filter leaves it out.
fn notice(lost: u64) -> Vec<u8> {
    CAUGHT.set(Some(Vec::new()));
    tracing::error!(
        lines = lost,
        "log lines were lost: stderr could not be written to, or its reader was too slow"
    );
    CAUGHT.take().unwrap_or_default()
}

/// Writer factory that adds log lines to the queue.
struct LogWriterFactory(Lines);

/// Writer of one log line.
struct LogLineWriter<'a> {
    lines: &'a Lines,
    /// Whether the thread waits for room in the queue, and until the line is written.
    waits: bool,
}

impl<'a> MakeWriter<'a> for LogWriterFactory {
    type Writer = LogLineWriter<'a>;

    /// Lets the audit's thread wait for room, so that its lines are not lost with the log's. The audit has a limit of
    /// its own.
    fn make_writer(&'a self) -> LogLineWriter<'a> {
        LogLineWriter { lines: &self.0, waits: audit::is_on_own_thread() }
    }
}

impl Write for LogLineWriter<'_> {
    /// Adds a line. Never fails: a line that is lost is counted.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        CAUGHT.with_borrow_mut(|caught| match caught {
            Some(caught) => caught.extend_from_slice(line),
            None if self.waits => self.lines.push_blocking(line.to_vec()),
            None => {
                self.lines.push(line.to_vec());
            }
        });
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Parses a filter. Libraries in [`TALKATIVE`] are silent unless the filter names them.
fn filter(text: &str) -> anyhow::Result<Targets> {
    let quiet = TALKATIVE.iter().filter(|library| !text.contains(*library));
    let all = quiet.map(|library| format!("{library}=off"));
    let all = all.chain(text.split(',').map(|directive| directive.trim().to_owned()));
    let all = all.filter(|directive| !directive.is_empty()).collect::<Vec<_>>().join(",");
    all.parse().context("the log filter is not valid")
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Writer that takes the scripted number of bytes at each write, or fails as scripted; then takes everything.
    struct ScriptedWriter {
        takes: Vec<io::Result<usize>>,
        written: Vec<u8>,
        descriptor: File,
    }

    impl Write for ScriptedWriter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let takes = if self.takes.is_empty() { Ok(bytes.len()) } else { self.takes.remove(0) };
            let count = takes?.min(bytes.len());
            self.written.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl AsFd for ScriptedWriter {
        fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
            self.descriptor.as_fd()
        }
    }

    #[test]
    fn a_line_that_was_cut_short_does_not_run_into_the_next_one() {
        let full = || Err(ErrorKind::StorageFull.into());
        let takes = vec![
            Ok(2),
            Err(ErrorKind::Interrupted.into()),
            Err(ErrorKind::WouldBlock.into()),
            full(),
            full(),
        ];
        let descriptor = File::options().write(true).open("/dev/null").unwrap();
        let stderr = ScriptedWriter { takes, written: Vec::new(), descriptor };
        let mut sink = Sink { stderr, torn: false, refused: 0, failed: 0 };
        let written: Vec<_> =
            ["one\n", "two\n", "three\n", "four\n"].iter().map(|line| sink.write(line.as_bytes())).collect();
        assert_eq!(written, [false, false, true, true]);
        assert_eq!(String::from_utf8(sink.stderr.written).unwrap(), "on\nthree\nfour\n");
    }

    /// Writer whose clones share one buffer.
    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_panic_is_a_line_of_the_log() {
        const THREAD: &str = "panics to the log";
        // Other tests may panic meanwhile.
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |panic| match thread::current().name() {
            Some(THREAD) => log_panic(panic),
            _ => others(panic),
        }));
        let page = Page::default();
        let own = page.clone();
        let panicking = thread::Builder::new().name(THREAD.into()).spawn(move || {
            let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || own.clone()).finish();
            tracing::subscriber::with_default(log, || panic!("out of {}", "luck"));
        });
        panicking.unwrap().join().unwrap_err();
        let line = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
        for part in ["ERROR", "a thread panicked: out of luck", THREAD, "src/cli/logging.rs:"] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }

    #[test]
    fn strangers_do_not_write_the_log() {
        for (text, expected) in [
            ("info", "h2=off,rustls=off,info"),
            ("", "h2=off,rustls=off"),
            ("warn,rustls=debug", "rustls=debug,h2=off,warn"),
            ("h2=trace,rustls=info", "rustls=info,h2=trace"),
            ("info, h2=off , rustls=off,", "info,h2=off,rustls=off"),
        ] {
            let mut shown: Vec<_> = filter(text).unwrap().to_string().split(',').map(str::to_owned).collect();
            let mut expected: Vec<_> = expected.split(',').collect();
            shown.sort();
            expected.sort_unstable();
            assert_eq!(shown, expected, "{text}");
        }
    }
}
