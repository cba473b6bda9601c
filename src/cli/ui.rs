//! Destinations and format of output.

use std::io::{self, IsTerminal, Write};

use super::exit::Failure;
use jobmill::clock::Clock;

/// The format of results.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// The destinations and format of output.
#[derive(Clone, Debug)]
pub(super) struct Ui {
    pub(super) format: Format,
    /// Whether text on stdout may have colours.
    pub(super) colour: bool,
    /// Whether bars can be drawn on stderr.
    pub(super) bars: bool,
    /// Whether stdout is a terminal, read by a person.
    pub(super) stdout_is_terminal: bool,
    pub(super) clock: Clock,
}

impl Ui {
    pub(super) fn new(format: Format, no_progress: bool) -> Self {
        let stdout_is_terminal = io::stdout().is_terminal();
        // As no-color.org says: set and not empty.
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Ui {
            format,
            colour: stdout_is_terminal && !no_color && !dumb,
            bars: format == Format::Text && !no_progress && !dumb && io::stderr().is_terminal(),
            stdout_is_terminal,
            clock: Clock::System,
        }
    }

    pub(super) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Writes a line, or several, to stdout.
    pub(super) fn print(&self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        if !text.ends_with('\n') {
            out.write_all(b"\n")?;
        }
        Ok(out.flush()?)
    }

    /// Writes bytes to stdout as they are.
    pub(super) fn print_raw(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        Ok(out.flush()?)
    }

    /// Writes one JSON object as a line to stdout.
    pub(super) fn print_json(&self, value: &serde_json::Value) -> Result<(), Failure> {
        self.print(&value.to_string())
    }

    /// Writes a line to stderr.
    #[expect(clippy::unused_self, reason = "all output goes through here")]
    pub(super) fn note(&self, text: &str) {
        // A failure to write to stderr can't be reported anywhere.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }
}
