//! What the log shows.

/// What the log shows, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogSettings {
    /// Which lines: a level, or levels by module.
    pub filter: String,
    /// In which form.
    pub format: LogFormat,
}

impl Default for LogSettings {
    fn default() -> Self {
        LogSettings { filter: "info".to_owned(), format: LogFormat::Text }
    }
}

/// The form of log lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
