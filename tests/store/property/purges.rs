//! Running purges: jobs that waited when a purge began are deleted and never start, and no others are deleted.

use std::collections::{BTreeMap, HashSet};

use jobmill::job::JobId;

/// The purges that have begun.
#[derive(Debug, Default)]
pub(crate) struct Purges(BTreeMap<i64, Purge>);

#[derive(Debug)]
struct Purge {
    queue: String,
    /// Jobs that waited when the purge began, until they are deleted or over.
    waiting: HashSet<JobId>,
    /// The newest job when the purge began.
    last: Option<JobId>,
}

impl Purges {
    pub(crate) fn begin(
        &mut self,
        number: i64,
        queue: &str,
        waiting: impl Iterator<Item = JobId>,
        last: Option<JobId>,
    ) {
        let purge = || Purge { queue: queue.to_owned(), waiting: HashSet::new(), last };
        let purge = self.0.entry(number).or_insert_with(purge);
        purge.waiting.extend(waiting);
        purge.last = purge.last.max(last);
    }

    /// Records a start, which numbers purges from 1 again. Those under way go on, and no caller is told of their end.
    pub(crate) fn hear_start(&mut self) {
        let first = self.0.keys().next().copied().unwrap_or_default().min(0);
        let under_way = std::mem::take(&mut self.0).into_values();
        self.0 = (1..).zip(under_way).map(|(index, purge)| (first - index, purge)).collect();
    }

    /// Records that a job was deleted, has ended, or was retried.
    pub(crate) fn is_over(&mut self, id: JobId) {
        for purge in self.0.values_mut() {
            purge.waiting.remove(&id);
        }
    }

    /// Returns whether a purge still has to delete this job.
    pub(crate) fn covers(&self, id: JobId) -> bool {
        self.0.values().any(|purge| purge.waiting.contains(&id))
    }

    /// Returns whether a purge of this queue may delete this job.
    pub(crate) fn may_delete(&self, queue: &str, id: JobId) -> bool {
        self.0.values().any(|purge| purge.queue == queue && Some(id) <= purge.last)
    }

    /// Returns whether a purge still has to delete jobs of this queue.
    pub(crate) fn are_under_way(&self, queue: &str) -> bool {
        self.0.values().any(|purge| purge.queue == queue && !purge.waiting.is_empty())
    }

    /// Records the end of a purge, and returns the jobs that it has left.
    pub(crate) fn hear_end(&mut self, number: i64) -> HashSet<JobId> {
        self.0.remove(&number).map(|purge| purge.waiting).unwrap_or_default()
    }
}
