//! Counts of lost log and audit lines.

use crate::lines::LostLines;

/// Counts of lost log and audit lines.
#[derive(Clone, Debug, Default)]
pub(crate) struct LostLineCounts {
    /// Lost log lines, if the program reports them.
    pub(crate) log: LostLines,
    /// Lost audit lines.
    pub(crate) audit: LostLines,
}

impl LostLineCounts {
    /// Returns a line of text for each of the two with a count above zero.
    pub(crate) fn details(&self) -> String {
        let lost = |what, count: u64| match count {
            0 => String::new(),
            count => format!("{what}: {count} lines lost since the start\n"),
        };
        lost("log", self.log.get()) + &lost("audit", self.audit.get())
    }
}
