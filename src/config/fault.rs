//! Faults of a configuration and where they are.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Source of a setting.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum SettingSource {
    /// A place in the configuration file.
    File {
        /// The file.
        path: Arc<Path>,
        /// The line, from 1.
        line: usize,
        /// The character in the line, from 1.
        column: usize,
    },
    /// An environment variable.
    Environment(&'static str),
    /// A flag of the command line.
    Flag(&'static str),
    /// The built-in default.
    Default,
}

impl fmt::Display for SettingSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SettingSource::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            SettingSource::Environment(variable) => write!(f, "environment {variable}"),
            SettingSource::Flag(flag) => write!(f, "flag {flag}"),
            SettingSource::Default => f.write_str("default"),
        }
    }
}

/// A fault of a configuration.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Fault {
    /// Source of the faulty setting.
    pub place: SettingSource,
    /// The key's full path; empty where the fault concerns the file as a whole.
    pub key: String,
    /// The problem, the limit, and the way out.
    pub message: String,
}

impl fmt::Display for Fault {
    /// Formats the fault as one line, in the form that editors and CI systems know from compilers.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// All faults of a configuration: the file's faults in its order, then those of variables and flags.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Faults(Vec<Fault>);

impl Faults {
    /// Returns the faults as an error, if there are any.
    pub(super) fn check(mut faults: Vec<Fault>) -> Result<(), Faults> {
        if faults.is_empty() {
            return Ok(());
        }
        faults.sort();
        Err(Faults(faults))
    }

    /// Returns the faults, of which there is at least one.
    #[must_use]
    pub fn as_slice(&self) -> &[Fault] {
        &self.0
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Text of a configuration file, and where its lines start.
pub(super) struct SourceText {
    path: Arc<Path>,
    text: String,
    line_starts: Vec<usize>,
}

impl SourceText {
    pub(super) fn new(path: PathBuf, text: String) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let line_starts = std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect();
        SourceText { path: path.into(), text, line_starts }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the place of the character that starts at or before byte `at`.
    pub(super) fn place(&self, at: usize) -> SettingSource {
        let line = self.line_starts.partition_point(|start| *start <= at);
        let start = self.line_starts[line - 1];
        let end = self.text.floor_char_boundary(at);
        SettingSource::File {
            path: Arc::clone(&self.path),
            line,
            column: self.text[start.min(end)..end].chars().count() + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters() {
        let source = SourceText::new("a.toml".into(), "é = 1\n\nxyz = 2".into());
        for (at, place) in
            [(0, "a.toml:1:1"), (3, "a.toml:1:3"), (7, "a.toml:2:1"), (8, "a.toml:3:1"), (12, "a.toml:3:5")]
        {
            assert_eq!(source.place(at).to_string(), place, "{at}");
        }
        assert_eq!(source.place(source.text().len()).to_string(), "a.toml:3:8");
        assert_eq!(source.place(usize::MAX).to_string(), "a.toml:3:8");
    }
}
