//! Who did what: a line of JSON for each call that changes something, and for each that was denied.
//!
//! A line never holds a payload or a token. What others chose is escaped, so that one line is one call.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use serde::Serialize;

use crate::clock::{Clock, Uptime};

/// A line names so many ids, and counts the others.
const IDS_MAX: usize = 10;
/// In a second, so many calls of those who were not let in have a line; the others are counted.
const STRANGERS_MAX: u64 = 50;
/// A file that can't be written is told of so often.
const COMPLAIN_EVERY: std::time::Duration = std::time::Duration::from_secs(10);

/// Where the lines go.
#[derive(Debug)]
pub struct Audit {
    clock: Clock,
    sink: Sink,
    strangers: Mutex<Strangers>,
}

/// How many lines of strangers there are in the present second, and how many calls have none since the last line.
#[derive(Debug, Default)]
struct Strangers {
    since: Uptime,
    lines: u64,
    untold: u64,
}

#[derive(Debug)]
enum Sink {
    Nowhere,
    Log,
    File { path: PathBuf, open: Mutex<Open> },
}

#[derive(Debug)]
struct Open {
    file: File,
    complained: Option<Uptime>,
}

/// One call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call<'a> {
    /// The token's name, or else the client certificate's.
    pub subject: Option<&'a str>,
    /// What the client's certificate calls it.
    pub certificate: Option<&'a str>,
    /// Where it came from.
    pub peer: Option<SocketAddr>,
    /// The RPC, such as `jobmill.v1.JobQueue/Submit`.
    pub rpc: &'a str,
    /// The queue that it is about, if it is about one.
    pub queue: Option<&'a str>,
    /// The jobs that it is about.
    pub ids: &'a [String],
    /// What it ended with: a gRPC status code by name, such as `OK`.
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
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Audit {
    /// To a file, which is appended to.
    ///
    /// # Errors
    /// The file can't be opened.
    pub fn to_file(path: &Path, clock: Clock) -> io::Result<Self> {
        let open = Mutex::new(Open { file: append_to(path)?, complained: None });
        Ok(Audit { clock, sink: Sink::File { path: path.to_owned(), open }, strangers: Mutex::default() })
    }

    /// To the log, with the target `jobmill::audit`.
    #[must_use]
    pub fn to_log(clock: Clock) -> Self {
        Audit { clock, sink: Sink::Log, strangers: Mutex::default() }
    }

    /// Nowhere.
    #[must_use]
    pub fn off() -> Self {
        Audit { clock: Clock::System, sink: Sink::Nowhere, strangers: Mutex::default() }
    }

    /// Whether lines go anywhere.
    #[must_use]
    pub fn is_on(&self) -> bool {
        !matches!(self.sink, Sink::Nowhere)
    }

    /// Opens the file anew, where it was moved away.
    ///
    /// # Errors
    /// The file can't be opened; the old one stays in use.
    pub fn reopen(&self) -> io::Result<()> {
        if let Sink::File { path, open } = &self.sink {
            open.lock().file = append_to(path)?;
        }
        Ok(())
    }

    /// Writes a line of a call that was not let in. Anybody may make as many of those as they like: where there are
    /// too many, some have no line, and the next one that has tells how many they were.
    pub fn record_stranger(&self, call: Call<'_>) {
        let now = self.clock.uptime();
        let mut strangers = self.strangers.lock();
        if now.since(strangers.since) >= std::time::Duration::from_secs(1) {
            *strangers = Strangers { since: now, lines: 0, untold: strangers.untold };
        }
        if strangers.lines >= STRANGERS_MAX {
            strangers.untold += 1;
            return;
        }
        strangers.lines += 1;
        let untold = std::mem::take(&mut strangers.untold);
        drop(strangers);
        self.write(call, untold);
    }

    /// Writes a line.
    pub fn record(&self, call: Call<'_>) {
        self.write(call, 0);
    }

    fn write(&self, call: Call<'_>, untold: u64) {
        let Call { subject, certificate, peer, rpc, queue, ids, code, reason } = call;
        let now = self.clock.uptime();
        let line = Line {
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
        };
        match &self.sink {
            Sink::Nowhere => {}
            Sink::Log => tracing::info!(target: "jobmill::audit", "{}", json(&line)),
            Sink::File { path, open } => {
                let mut text = json(&line);
                text.push('\n');
                let mut open = open.lock();
                // In one call, so that lines of several servers don't mix.
                if let Err(error) = open.file.write_all(text.as_bytes())
                    && open.complained.is_none_or(|at| now.since(at) >= COMPLAIN_EVERY)
                {
                    open.complained = Some(now);
                    tracing::error!(path = %path.display(), %error, "the audit's file can't be written");
                }
            }
        }
    }
}

fn json(line: &Line<'_>) -> String {
    // A line has no map with odd keys, the one thing that could fail.
    let text = serde_json::to_string(line).unwrap_or_default();
    // JSON escapes what controls a terminal by ASCII; these do so by Unicode.
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

    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::clock::{ManualClock, Timestamp};

    #[test]
    fn strangers_do_not_fill_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit");
        let clock = ManualClock::new(Timestamp::from_micros(0));
        let audit = Audit::to_file(&path, Clock::Manual(clock.clone())).unwrap();
        let lines = || fs::read_to_string(&path).unwrap().lines().count() as u64;
        for _ in 0..STRANGERS_MAX + 7 {
            audit.record_stranger(Call::default());
        }
        audit.record(Call::default());
        assert_eq!(lines(), STRANGERS_MAX + 1);
        clock.advance(std::time::Duration::from_secs(1));
        audit.record_stranger(Call::default());
        assert_eq!(lines(), STRANGERS_MAX + 2);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.lines().last().unwrap().ends_with(r#","untold":7}"#), "{text}");
    }

    #[test]
    fn a_call_is_one_line_whatever_others_chose() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit");
        let clock = ManualClock::new(Timestamp::from_micros(0));
        let audit = Audit::to_file(&path, Clock::Manual(clock)).unwrap();
        let ids: Vec<_> = (0..12).map(|n| n.to_string()).collect();
        audit.record(Call {
            subject: Some("a\n\u{1b}[31m\u{202e}\u{85}\""),
            rpc: "s/Submit",
            queue: Some("q"),
            ids: &ids,
            code: "OK",
            ..Call::default()
        });
        fs::rename(&path, dir.path().join("audit.1")).unwrap();
        audit.reopen().unwrap();
        audit.record(Call {
            rpc: "s/Get",
            code: "UNAUTHENTICATED",
            reason: Some("TOKEN_MISSING"),
            ..Call::default()
        });
        let read = |name| fs::read_to_string(dir.path().join(name)).unwrap();
        insta::assert_snapshot!(read("audit.1") + &read("audit"), @r#"
        {"time":"1970-01-01T00:00:00Z","subject":"a\n\u001b[31m\u202e\u0085\"","rpc":"s/Submit","queue":"q","ids":["0","1","2","3","4","5","6","7","8","9"],"count":12,"code":"OK"}
        {"time":"1970-01-01T00:00:00Z","rpc":"s/Get","code":"UNAUTHENTICATED","reason":"TOKEN_MISSING"}
        "#);
    }
}
