//! Lines beside the store that were lost.

use crate::lines::LostLines;

/// Lines beside the store that were lost.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lost {
    /// Of the log, where the program has told of its count.
    pub(crate) log: LostLines,
    /// Of the audit.
    pub(crate) audit: LostLines,
}

impl Lost {
    /// A line for each kind of lines of which some were lost.
    pub(crate) fn details(&self) -> String {
        let lost = |what, count: u64| match count {
            0 => String::new(),
            count => format!("{what}: {count} lines lost since the start\n"),
        };
        lost("log", self.log.get()) + &lost("audit", self.audit.get())
    }
}
