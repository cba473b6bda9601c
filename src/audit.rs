//! The audit: one line of JSON for each call that changes something, and for each call that is denied.
//!
//! A line never holds a payload or a token. Text chosen by callers is escaped, so that one call is always one line.

mod writer;

pub use writer::is_on_own_thread;

use std::{
    fs::{File, OpenOptions},
    io,
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use rustix::{fs::OFlags, io::ioctl_fionbio};
use serde::Serialize;
use tokio::sync::oneshot;

use crate::{
    clock::{Clock, Uptime},
    lines::{Lines, LostLines},
};
use writer::{FailureLog, Writer};

/// Log target of audit lines.
pub const TARGET: &str = "jobmill::audit";
/// Maximum number of ids in a line; the line's `count` is the total.
const IDS_MAX: usize = 10;
/// Maximum number of lines for calls that are denied admission in a second; further ones are only counted.
const DENIED_LINES_MAX: u64 = 50;
/// Longest time that an answer waits for its audit line to be written.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// The audit, written to a file or to the log by a thread of its own.
#[derive(Debug)]
pub struct Audit {
    clock: Clock,
    /// Absent where the audit is off.
    writing: Option<Writing>,
    denied_admissions: Mutex<DeniedAdmissions>,
}

#[derive(Debug)]
struct Writing {
    lines: Lines,
    /// Number of lost lines that later lines have reported.
    told: AtomicU64,
    writer: Writer,
    complaints: FailureLog,
}

/// Number of lines for denied admissions in the present second, and of denied admissions without a line since the last
/// one.
#[derive(Debug, Default)]
struct DeniedAdmissions {
    since: Uptime,
    lines: u64,
    untold: u64,
}

/// An audit line in the queue. The answer to its call waits for it: see [`Audit::written`].
#[derive(Debug, Default)]
#[must_use]
pub struct Receipt(Option<oneshot::Receiver<()>>);

impl Receipt {
    /// Returns whether there is a line to wait for.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.is_some()
    }
}

/// A call to be recorded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call<'a> {
    /// The token's name, or else the client certificate's.
    pub subject: Option<&'a str>,
    /// The name in the client's certificate.
    pub certificate: Option<&'a str>,
    /// The caller's address.
    pub peer: Option<SocketAddr>,
    /// The RPC, such as `jobmill.v1.JobQueue/Submit`.
    pub rpc: &'a str,
    /// The queue that the call concerns, if any.
    pub queue: Option<&'a str>,
    /// The jobs that the call concerns.
    pub ids: &'a [String],
    /// The call's gRPC status code by name, such as `OK`.
    pub code: &'a str,
    /// The stable reason of a refusal.
    pub reason: Option<&'a str>,
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<SocketAddr>,
    rpc: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    ids: &'a [String],
    #[serde(skip_serializing_if = "is_zero")]
    count: u64,
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "is_zero")]
    untold: u64,
    #[serde(skip_serializing_if = "is_zero")]
    lost: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Audit {
    /// Creates an audit that appends to a file.
    ///
    /// # Errors
    /// The file can't be opened, or there is no thread to write it.
    pub fn to_file(path: &Path, clock: Clock) -> io::Result<Self> {
        let complaints = FailureLog::new(clock.clone());
        let (lines, writer) = Writer::to_file(path, append_to(path)?, complaints.clone())?;
        Ok(Audit::new(lines, writer, complaints, clock))
    }

    /// Creates an audit that writes to the log, with the target [`TARGET`].
    ///
    /// # Errors
    /// There is no thread to write it.
    pub fn to_log(clock: Clock) -> io::Result<Self> {
        let (lines, writer) = Writer::to_log()?;
        Ok(Audit::new(lines, writer, FailureLog::new(clock.clone()), clock))
    }

    fn new(lines: Lines, writer: Writer, complaints: FailureLog, clock: Clock) -> Self {
        let writing = Some(Writing { lines, told: AtomicU64::new(0), writer, complaints });
        Audit { clock, writing, denied_admissions: Mutex::default() }
    }

    /// Creates an audit that records nothing.
    #[must_use]
    pub fn off() -> Self {
        Audit { clock: Clock::System, writing: None, denied_admissions: Mutex::default() }
    }

    /// Returns whether lines are written anywhere.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.writing.is_some()
    }

    /// Returns the number of lines that were never written, because the queue was full.
    #[must_use]
    pub fn lost(&self) -> LostLines {
        self.writing.as_ref().map(|writing| writing.lines.lost()).unwrap_or_default()
    }

    /// Makes the writing thread reopen the file, after log rotation has moved it away. If the new file can't be opened,
    /// the error is logged and the old file stays in use.
    pub fn reopen(&self) {
        if let Some(writing) = &self.writing {
            writing.writer.reopen();
            // Wakes the thread, even if there is no line to write.
            drop(writing.lines.push_mark());
        }
    }

    /// Records a call that is denied admission. Such calls can come from anyone, in any number, so that only 50 a
    /// second get a line; the next line tells how many got none.
    pub fn record_denied_admission(&self, call: Call<'_>) -> Receipt {
        let now = self.clock.uptime();
        let mut denied_admissions = self.denied_admissions.lock();
        if now.since(denied_admissions.since) >= Duration::from_secs(1) {
            *denied_admissions = DeniedAdmissions { since: now, lines: 0, untold: denied_admissions.untold };
        }
        if denied_admissions.lines >= DENIED_LINES_MAX {
            denied_admissions.untold += 1;
            return Receipt::default();
        }
        denied_admissions.lines += 1;
        let untold = std::mem::take(&mut denied_admissions.untold);
        drop(denied_admissions);
        self.add(call, untold)
    }

    /// Records a call without blocking. If the queue is full, the line is lost, and the next line tells how many were
    /// lost.
    pub fn record(&self, call: Call<'_>) -> Receipt {
        self.add(call, 0)
    }

    /// Waits until a line is written, for 1 s at most. After that, it is written late, or lost if the server ends
    /// first.
    pub async fn written(&self, receipt: Receipt) {
        let (Some(writing), Some(line)) = (&self.writing, receipt.0) else { return };
        if tokio::time::timeout(WAIT_MAX, line).await.is_err() {
            writing.complaints.late(WAIT_MAX);
        }
    }

    /// Returns the number of lines that wait to be written.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.writing.as_ref().map_or(0, |writing| writing.lines.waiting())
    }

    /// Waits until all lines so far are written.
    pub async fn flush(&self) {
        if let Some(writing) = &self.writing {
            let _ = writing.lines.push_mark().await;
        }
    }

    fn add(&self, call: Call<'_>, untold: u64) -> Receipt {
        let Some(Writing { lines, told, .. }) = &self.writing else { return Receipt::default() };
        let Call { subject, certificate, peer, rpc, queue, ids, code, reason } = call;
        let mut line = Line {
            time: self.clock.now().to_string(),
            subject,
            certificate: certificate.filter(|certificate| subject != Some(certificate)),
            peer,
            rpc,
            queue,
            ids: &ids[..ids.len().min(IDS_MAX)],
            count: ids.len() as u64,
            code,
            reason,
            untold,
            lost: 0,
        };
        Receipt(lines.push_awaited(|lost| {
            line.lost = lost - told.swap(lost, Ordering::Relaxed);
            let mut text = json(&line).into_bytes();
            text.push(b'\n');
            text
        }))
    }
}

impl Drop for Audit {
    /// Closes the queue. The thread writes the remaining lines as far as it can, and ends.
    fn drop(&mut self) {
        if let Some(writing) = &self.writing {
            writing.lines.close();
        }
    }
}

fn json(line: &Line<'_>) -> String {
    // Serialisation can fail only for a map with keys that are not text, and a line has no map.
    let text = serde_json::to_string(line).unwrap_or_default();
    // JSON escapes only ASCII's control characters. These are Unicode's.
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, c| {
        if c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            escaped.push_str(&format!("\\u{:04x}", c as u32));
        } else {
            escaped.push(c);
        }
        escaped
    })
}

fn append_to(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;

    // Non-blocking, so that a named pipe without a reader is an error instead of a start that never ends.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().create(true).append(true).mode(0o600).custom_flags(flags).open(path)?;
    ioctl_fionbio(&file, false)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        clock::{ManualClock, Timestamp},
        lines::LINES_MAX,
    };

    #[tokio::test]
    async fn strangers_do_not_fill_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit");
        let clock = ManualClock::new(Timestamp::from_micros(0));
        let audit = Audit::to_file(&path, Clock::Manual(clock.clone())).unwrap();
        let lines = || fs::read_to_string(&path).unwrap().lines().count() as u64;
        for _ in 0..DENIED_LINES_MAX + 7 {
            let _ = audit.record_denied_admission(Call::default());
        }
        audit.written(audit.record(Call::default())).await;
        assert_eq!(lines(), DENIED_LINES_MAX + 1);
        clock.advance(Duration::from_secs(1));
        audit.written(audit.record_denied_admission(Call::default())).await;
        assert_eq!(lines(), DENIED_LINES_MAX + 2);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.lines().last().unwrap().ends_with(r#","untold":7}"#), "{text}");
    }

    #[tokio::test]
    async fn lines_that_no_longer_fit_are_counted_by_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit");
        std::os::unix::fs::symlink("/dev/full", &path).unwrap();
        let clock = ManualClock::new(Timestamp::from_micros(0));
        let audit = Audit::to_file(&path, Clock::Manual(clock)).unwrap();
        let (mut kept, mut lost) = (0, 0);
        for _ in 0..LINES_MAX + 100 {
            if audit.record(Call::default()).is_open() { kept += 1 } else { lost += 1 }
        }
        // The thread may have taken a line from the queue.
        assert!(lost == 99 || lost == 100, "{lost}");
        assert_eq!(audit.lost().get(), lost);
        fs::remove_file(&path).unwrap();
        audit.reopen();
        audit.flush().await;
        audit.written(audit.record(Call::default())).await;
        audit.written(audit.record(Call::default())).await;
        let text = fs::read_to_string(&path).unwrap();
        let told: Vec<_> = text.lines().map(|line| line.contains("lost").then_some(line)).collect();
        assert_eq!(told.len(), kept + 2);
        let line = told[kept].unwrap_or_default();
        assert!(line.ends_with(&format!(r#","lost":{lost}}}"#)), "{line}");
        assert_eq!(told.iter().flatten().count(), 1);
    }

    fn named_pipe(path: &Path) {
        rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    }

    #[test]
    fn a_named_pipe_that_nothing_reads_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit");
        named_pipe(&path);
        let error = Audit::to_file(&path, Clock::System).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::NXIO.raw_os_error()), "{error}");
    }

    /// The file blocks writes: a full pipe.
    #[tokio::test(start_paused = true)]
    async fn an_answer_waits_a_second_for_a_line_that_is_stuck_and_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit");
        named_pipe(&path);
        // Both ends are opened, so that opening either one does not wait for the other.
        let mut pipe = File::options().read(true).write(true).open(&path).unwrap();
        rustix::io::ioctl_fionbio(&pipe, true).unwrap();
        while io::Write::write(&mut pipe, &[b' '; 4096]).is_ok() {}
        rustix::io::ioctl_fionbio(&pipe, false).unwrap();
        let audit = Audit::to_file(&path, Clock::System).unwrap();
        let start = tokio::time::sleep(Duration::ZERO).deadline();
        audit.written(audit.record(Call::default())).await;
        let waited = tokio::time::sleep(Duration::ZERO).deadline() - start;
        assert!(waited >= WAIT_MAX && waited < WAIT_MAX * 2, "{waited:?}");
        // The line arrives once the pipe is read.
        let mut text = String::new();
        while !text.ends_with('\n') {
            let mut part = [0; 4096];
            let count = io::Read::read(&mut pipe, &mut part).unwrap();
            text.push_str(&String::from_utf8_lossy(&part[..count]));
        }
        assert!(text.trim().starts_with(r#"{"time":"#), "{text}");
    }

    #[tokio::test]
    async fn a_call_is_one_line_whatever_others_chose() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit");
        let clock = ManualClock::new(Timestamp::from_micros(0));
        let audit = Audit::to_file(&path, Clock::Manual(clock)).unwrap();
        let ids: Vec<_> = (0..12).map(|n| n.to_string()).collect();
        let first = audit.record(Call {
            subject: Some("a\n\u{1b}[31m\u{202e}\u{85}\""),
            rpc: "s/Submit",
            queue: Some("q"),
            ids: &ids,
            code: "OK",
            ..Call::default()
        });
        audit.written(first).await;
        fs::rename(&path, dir.path().join("audit.1")).unwrap();
        audit.reopen();
        let second = audit.record(Call {
            rpc: "s/Get",
            code: "UNAUTHENTICATED",
            reason: Some("TOKEN_MISSING"),
            ..Call::default()
        });
        audit.written(second).await;
        let read = |name| fs::read_to_string(dir.path().join(name)).unwrap();
        insta::assert_snapshot!(read("audit.1") + &read("audit"), @r#"
        {"time":"1970-01-01T00:00:00Z","subject":"a\n\u001b[31m\u202e\u0085\"","rpc":"s/Submit","queue":"q","ids":["0","1","2","3","4","5","6","7","8","9"],"count":12,"code":"OK"}
        {"time":"1970-01-01T00:00:00Z","rpc":"s/Get","code":"UNAUTHENTICATED","reason":"TOKEN_MISSING"}
        "#);
    }
}
