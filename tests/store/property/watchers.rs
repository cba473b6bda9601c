//! Watchers that resume from an earlier position in the feed, read a few entries at a time, and must end with the true
//! state.

use std::collections::BTreeMap;

use jobmill::{
    job::{Change, JobId, Position, StateName},
    store::Reader,
};

use super::ledger::{Ledger, Violation, promise};

/// A watcher that knew everything up to a position and reads on from there.
struct Watcher {
    from: Position,
    cursor: Position,
    view: BTreeMap<JobId, (StateName, u64)>,
}

/// All watchers of a program.
#[derive(Default)]
pub(crate) struct Watchers {
    watchers: Vec<Watcher>,
    turns: usize,
}

impl Watchers {
    /// Runs one turn: a new watcher begins now and then, and each reads at its own pace.
    pub(crate) fn turn(&mut self, ledger: &Ledger, reader: &dyn Reader) -> Result<(), Violation> {
        self.turns += 1;
        if self.turns % 3 == 1 {
            self.watchers.push(Watcher { from: ledger.end, cursor: ledger.end, view: truth(ledger) });
        }
        for (index, watcher) in self.watchers.iter_mut().enumerate() {
            if (self.turns + index).is_multiple_of(index % 5 + 2) {
                watcher.read(reader, 1 + index % 4)?;
            }
        }
        self.forget_late(reader)
    }

    /// Lets each watcher read to the end, and checks that its state is true.
    pub(crate) fn catch_up(&mut self, ledger: &Ledger, reader: &dyn Reader) -> Result<(), Violation> {
        let truth = truth(ledger);
        self.forget_late(reader)?;
        for (index, watcher) in self.watchers.iter_mut().enumerate() {
            while watcher.cursor < ledger.end {
                let before = watcher.cursor;
                watcher.read(reader, 1 + index % 7)?;
                promise!(watcher.cursor > before, "a watcher gets nowhere from {before:?}");
            }
            let from = watcher.from;
            for (id, state) in &truth {
                let seen = watcher.view.get(id);
                promise!(
                    seen == Some(state),
                    "a watcher from {from:?} has {id} as {seen:?}; it is {state:?}"
                );
            }
            let extra: Vec<_> = watcher.view.keys().filter(|id| !truth.contains_key(id)).collect();
            promise!(extra.is_empty(), "a watcher from {from:?} was not told that {extra:?} are gone");
        }
        Ok(())
    }

    /// Restarts watchers behind the floor, which must be told that they are too late.
    fn forget_late(&mut self, reader: &dyn Reader) -> Result<(), Violation> {
        let floor = reader.changes(Position::default(), 1).map_err(|error| error.to_string())?.floor;
        self.watchers.retain(|watcher| watcher.cursor >= floor);
        Ok(())
    }
}

impl Watcher {
    fn read(&mut self, reader: &dyn Reader, limit: usize) -> Result<(), Violation> {
        let page = reader.changes(self.cursor, limit).map_err(|error| error.to_string())?;
        if self.cursor < page.floor {
            return Ok(());
        }
        promise!(page.entries.len() <= limit, "{} entries in a page of {limit}", page.entries.len());
        let mut last = self.cursor;
        for change in &page.entries {
            promise!(change.position() > last && change.position() <= page.up_to, "a page is out of order");
            last = change.position();
            match change {
                Change::Job { job, .. } => {
                    let state = (job.state.name(), job.revision);
                    let seen = self.view.insert(job.id, state);
                    let newer = seen.is_none_or(|(_, revision)| revision < job.revision);
                    promise!(newer, "{} was told as {state:?} after {seen:?}", job.id);
                }
                Change::Deleted(tombstone) => {
                    self.view.remove(&tombstone.id);
                }
            }
        }
        self.cursor = page.up_to;
        Ok(())
    }
}

fn truth(ledger: &Ledger) -> BTreeMap<JobId, (StateName, u64)> {
    ledger.jobs.iter().map(|(id, job)| (*id, (job.state.name(), job.revision))).collect()
}
