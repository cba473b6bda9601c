//! What operators see of remote workers, and what they may ask of them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    entry::{Introduction, WorkerEntry},
    outbox::WorkerEvent,
    roster::Roster,
};
use crate::{
    clock::Timestamp,
    job::{Job, LeaseToken},
};

/// Whether a worker is connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WorkerState {
    /// A stream is open, or LeaseJobs was called a short time ago.
    Connected,
    /// No stream is open.
    Away,
    /// It takes no more jobs.
    Draining,
}

/// A worker, as operators see it.
#[derive(Clone, Debug)]
pub(crate) struct WorkerStatus {
    pub(crate) subject: String,
    pub(crate) instance: String,
    pub(crate) process: String,
    pub(crate) state: WorkerState,
    pub(crate) since: Timestamp,
    pub(crate) about: Introduction,
    /// Unused credits of each pool; empty without a stream.
    pub(crate) credits: Vec<i64>,
    /// Oldest first.
    pub(crate) leases: Vec<LeaseStatus>,
}

/// A lease, as operators see it.
#[derive(Clone, Debug)]
pub(crate) struct LeaseStatus {
    pub(crate) lease: LeaseToken,
    pub(crate) job: Arc<Job>,
    pub(crate) assigned: Timestamp,
    pub(crate) is_received: bool,
    pub(crate) is_stopping: bool,
    /// How long the lease lasts without a further heartbeat.
    pub(crate) remaining: Duration,
}

/// The number of workers and leases.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WorkerFigures {
    pub(crate) connected: u64,
    pub(crate) away: u64,
    pub(crate) draining: u64,
    pub(crate) credits: u64,
    pub(crate) leases: u64,
    pub(crate) unreceived: u64,
}

fn matches(
    entry: &WorkerEntry,
    about: &Introduction,
    instance: &str,
    labels: &BTreeMap<String, String>,
) -> bool {
    (instance.is_empty() || entry.process.instance() == instance)
        && labels.iter().all(|(key, value)| about.labels.get(key) == Some(value))
}

impl Roster {
    /// Returns the workers that match, by instance.
    pub(crate) fn list(&self, instance: &str, labels: &BTreeMap<String, String>) -> Vec<WorkerStatus> {
        let now = self.active.observe();
        let mut found = Vec::new();
        for entry in self.all() {
            let state = entry.state.lock();
            if !matches(&entry, &state.about, instance, labels) {
                continue;
            }
            let is_here = state.is_here(now, self.settings.lease);
            if !is_here && state.leases.is_empty() {
                continue;
            }
            let mut leases: Vec<_> = state
                .leases
                .iter()
                .map(|(lease, held)| LeaseStatus {
                    lease: *lease,
                    job: Arc::clone(&held.job),
                    assigned: held.assigned,
                    is_received: held.is_received,
                    is_stopping: held.stop.is_some(),
                    remaining: held.end().since(now),
                })
                .collect();
            leases.sort_by_key(|held| held.lease);
            found.push(WorkerStatus {
                subject: entry.process.owner.subject.to_string(),
                instance: entry.process.owner.instance.to_string(),
                process: entry.process.owner.process.to_string(),
                state: match (is_here, state.is_draining) {
                    (true, true) => WorkerState::Draining,
                    (true, false) => WorkerState::Connected,
                    (false, _) => WorkerState::Away,
                },
                since: state.since,
                about: state.about.clone(),
                credits: state.stream.as_ref().map_or_else(Vec::new, |stream| stream.credits.clone()),
                leases,
            });
        }
        found.sort_by(|a, b| (&a.instance, &a.process).cmp(&(&b.instance, &b.process)));
        found
    }

    /// Asks the workers that match to finish what they run and to end. Returns their instances, in order.
    pub(crate) fn drain(
        &self,
        instance: &str,
        labels: &BTreeMap<String, String>,
        within: Duration,
    ) -> Vec<String> {
        let now = self.active.observe();
        let mut asked = Vec::new();
        for entry in self.all() {
            let mut state = entry.state.lock();
            let is_known = state.is_here(now, self.settings.lease) || !state.leases.is_empty();
            if !is_known || !matches(&entry, &state.about, instance, labels) {
                continue;
            }
            state.is_draining = true;
            state.drains_until = Some(now.after(within));
            if let Some(stream) = &mut state.stream {
                self.board.void(stream.session);
                stream.outbox.push(WorkerEvent::Drain(within));
            }
            asked.push(entry.process.owner.instance.to_string());
        }
        asked.sort();
        asked
    }

    /// Returns the number of workers and leases.
    pub(crate) fn figures(&self) -> WorkerFigures {
        let mut figures = WorkerFigures::default();
        for worker in self.list("", &BTreeMap::new()) {
            match worker.state {
                WorkerState::Connected => figures.connected += 1,
                WorkerState::Away => figures.away += 1,
                WorkerState::Draining => figures.draining += 1,
            }
            figures.credits += worker.credits.iter().map(|credits| (*credits).max(0) as u64).sum::<u64>();
            figures.leases += worker.leases.len() as u64;
            figures.unreceived += worker.leases.iter().filter(|lease| !lease.is_received).count() as u64;
        }
        figures
    }
}
