//! Jobs that a change of the configuration leaves behind.

use std::collections::{HashMap, HashSet};

use crate::{job::Tally, settings::QueueInfo};

/// Jobs that have not ended and whose queue or handler is no longer configured. They are no error, and no refused call
/// reports them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Leftover {
    /// Queues that the configuration file no longer declares, with their numbers of jobs, most jobs first. Queues that
    /// were created or changed over the API are left out.
    pub queues: Vec<(String, u64)>,
    /// Kinds without a handler, with their numbers of jobs, most jobs first.
    pub kinds: Vec<(String, u64)>,
}

impl Leftover {
    /// Finds the leftover jobs among the store's queues and tallies.
    pub fn find(
        queues: &[QueueInfo],
        tallies: &[Tally],
        declares: impl Fn(&str) -> bool,
        serves: impl Fn(&str) -> bool,
    ) -> Self {
        let dropped: HashSet<u32> = (queues.iter())
            .filter(|queue| (queue.declared || queue.formerly_declared) && !declares(queue.name.as_str()))
            .map(|queue| queue.name.number)
            .collect();
        let (mut by_queue, mut by_kind) = (HashMap::new(), HashMap::new());
        for tally in tallies.iter().filter(|tally| !tally.state.is_done()) {
            if dropped.contains(&tally.queue.number) {
                *by_queue.entry(tally.queue.as_str().to_owned()).or_default() += tally.jobs;
            }
            if !serves(tally.kind.as_str()) {
                *by_kind.entry(tally.kind.as_str().to_owned()).or_default() += tally.jobs;
            }
        }
        Leftover { queues: most_first(by_queue), kinds: most_first(by_kind) }
    }
}

fn most_first(jobs: HashMap<String, u64>) -> Vec<(String, u64)> {
    let mut jobs: Vec<_> = jobs.into_iter().filter(|(_, jobs)| *jobs > 0).collect();
    jobs.sort_by(|(a, a_jobs), (b, b_jobs)| b_jobs.cmp(a_jobs).then_with(|| a.cmp(b)));
    jobs
}
