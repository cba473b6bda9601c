//! The numbers that a store assigns: feed positions and lease tokens.

use jobmill::clock::Timestamp;

use super::ledger::{Violation, promise};

/// A sequence of numbers, each larger than all before it.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    last: i64,
    /// The latest start, until it assigns a number.
    start: Option<Start>,
}

/// A start that has not assigned a number yet.
#[derive(Clone, Copy, Debug)]
struct Start {
    /// The start's clock.
    clock: i64,
    /// The latest clock of this start and of the starts before it that assigned no number either. The store may have
    /// kept the number with which any of them would have begun.
    latest: i64,
}

impl Numbers {
    /// Records the start of a server.
    pub(crate) fn start(&mut self, wall: Timestamp) {
        let clock = wall.as_micros();
        let latest = self.start.map_or(clock, |start| start.latest.max(clock));
        self.start = Some(Start { clock, latest });
    }

    /// Checks an assigned number: without a gap within a start, and from the start's clock on at its first number,
    /// unless the clock is behind the last number.
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

    /// Checks the last number that the store reports. It may include numbers that a start skipped before its first one.
    pub(crate) fn hear_last(&mut self, what: &str, number: i64) -> Result<(), Violation> {
        let skipped = self.start.is_some_and(|start| (self.last..=start.latest).contains(&number));
        promise!(number == self.last || skipped, "{what} end at {number}, not {}", self.last);
        self.last = number;
        Ok(())
    }
}
