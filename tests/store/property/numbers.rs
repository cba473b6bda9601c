//! The numbers that a store gives: places in the feed, and lease tokens.

use jobmill::clock::Timestamp;

use super::ledger::{Violation, promise};

/// Numbers of one sort, each larger than all before it.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    last: i64,
    /// The latest start, until it gives a number.
    start: Option<Start>,
}

/// A start that has not given a number yet.
#[derive(Clone, Copy, Debug)]
struct Start {
    /// Its clock.
    clock: i64,
    /// The latest clock of this start and of the starts before it that gave no number either: the store may have kept
    /// where any of them would have begun.
    latest: i64,
}

impl Numbers {
    /// A server starts.
    pub(crate) fn start(&mut self, wall: Timestamp) {
        let clock = wall.as_micros();
        let latest = self.start.map_or(clock, |start| start.latest.max(clock));
        self.start = Some(Start { clock, latest });
    }

    /// Within a start there is no gap; a start begins with its clock, unless that is behind what was given before.
    pub(crate) fn hear(&mut self, what: &str, number: i64) -> Result<(), Violation> {
        let next = self.last + 1;
        match self.start.take() {
            Some(Start { clock, latest }) => {
                let begins = (next.max(clock)..=next.max(latest) + 1).contains(&number);
                promise!(begins, "{what} begin with {number} after {} under a clock at {clock}", self.last);
            }
            None => promise!(number == next, "{what} go from {} to {number}", self.last),
        }
        self.last = number;
        Ok(())
    }

    /// The store says that this is the last number. It may count what a start leaves out before it gives any.
    pub(crate) fn hear_last(&mut self, what: &str, number: i64) -> Result<(), Violation> {
        let skipped = self.start.is_some_and(|start| (self.last..=start.latest).contains(&number));
        promise!(number == self.last || skipped, "{what} end at {number}, not {}", self.last);
        self.last = number;
        Ok(())
    }
}
