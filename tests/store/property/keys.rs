//! Unique keys: each held key has exactly one live holder, or a time.

use std::collections::HashMap;

use jobmill::{
    job::{JobId, KeyHash, StateName},
    store::Reader,
};

use super::ledger::{Ledger, Violation, promise};

impl Ledger {
    /// Checks the keys that a store holds against its jobs.
    pub(super) fn check_keys(&self, reader: &dyn Reader) -> Result<(), Violation> {
        let rows = reader.unique_keys(None, i64::MAX as usize).map_err(|error| error.to_string())?;
        let mut holders: HashMap<KeyHash, JobId> = HashMap::new();
        let mut successors: HashMap<KeyHash, JobId> = HashMap::new();
        for (hash, held) in rows {
            let row = &held.row;
            let holder = self.jobs.get(&row.holder).filter(|job| !job.state.is_done());
            match holder {
                Some(job) => {
                    promise!(job.key == Some(hash), "{} holds the key of another: {row:?}", row.holder);
                    let is_free =
                        job.state.name() != StateName::Blocked || self.dependencies.is_child(row.holder);
                    promise!(is_free, "{} is blocked by itself", row.holder);
                    holders.insert(hash, row.holder);
                    successors.extend(row.successor.map(|id| (hash, id)));
                }
                None => {
                    promise!(
                        held.held_until.is_some(),
                        "{} has ended and holds its key: {row:?}",
                        row.holder
                    );
                    promise!(row.successor.is_none(), "{} has ended and is followed: {row:?}", row.holder);
                    promise!(held.name.is_some(), "the key of {} has no name: {row:?}", row.holder);
                }
            }
        }
        for (id, job) in self.jobs.iter().filter(|(_, job)| !job.state.is_done()) {
            let Some(hash) = job.key else { continue };
            let expected = match job.state.name() {
                StateName::Blocked if !self.dependencies.is_child(*id) => successors.remove(&hash),
                _ => holders.remove(&hash),
            };
            promise!(
                expected == Some(*id),
                "{id} is {:?}, and {expected:?} is in its place",
                job.state.name()
            );
        }
        promise!(successors.is_empty(), "these follow and are not blocked: {successors:?}");
        Ok(())
    }
}
