//! Recording of batches in the counters.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::set::Counters;
use crate::{
    clock::Uptime,
    engine::Outcome,
    job::{Change, JobId, StateName},
};

/// Durations of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchTimes {
    /// Applying the batch, from its start to its commit.
    pub(crate) commit: Duration,
    /// The part of it for making the batch durable.
    pub(crate) flush: Duration,
}

/// Records batches, on the committer's thread.
#[derive(Debug)]
pub(crate) struct Recorder {
    counters: Arc<Counters>,
    /// Start times of the running attempts, by uptime, because the wall clock may be set meanwhile.
    running: HashMap<JobId, Uptime>,
}

impl Recorder {
    pub(crate) fn new(counters: Arc<Counters>) -> Self {
        Recorder { counters, running: HashMap::new() }
    }

    /// Records the outcome and durations of a batch.
    pub(crate) fn batch(&mut self, outcome: &Outcome, times: BatchTimes, now: Uptime) {
        let Recorder { counters, running } = self;
        let batches = &counters.batches;
        batches.commit_seconds.observe(times.commit.as_secs_f64());
        batches.flush_seconds.observe(times.flush.as_secs_f64());
        if !outcome.changes.is_empty() {
            batches.changes.observe(outcome.changes.len() as f64);
        }
        batches.repeated.inc_by(outcome.repeats as u64);
        batches.existing.inc_by(outcome.met.existing as u64);
        batches.replaced.inc_by(outcome.met.replaced as u64);
        for claim in &outcome.claims {
            let kind = batches.of(&claim.job.spec.kind);
            kind.started.inc();
            // Claims that were given back before they had started are no attempts to retry.
            if claim.job.attempt > claim.job.rare().never_started + 1 {
                kind.retries.inc();
            }
            let started = claim.job.started.unwrap_or(claim.ready);
            kind.wait_seconds.observe(started.since(claim.ready).as_secs_f64());
        }
        for change in &outcome.changes {
            match change {
                Change::Job { job, before } => {
                    let ran_before = matches!(before, Some(StateName::Running | StateName::Cancelling));
                    let ran = match (ran_before, job.state.lease().is_some()) {
                        (true, false) => running.remove(&job.id).map(|began| now.since(began)),
                        (false, true) => {
                            running.insert(job.id, now);
                            None
                        }
                        // The job still runs, or did not run before either.
                        (true, true) | (false, false) => None,
                    };
                    batches.of(&job.spec.kind).changed(job, *before, ran);
                }
                Change::Deleted(tombstone) => {
                    // A job whose row was set aside may have been running.
                    running.remove(&tombstone.id);
                    batches.deleted.inc();
                }
            }
        }
        counters.schedules.record(&outcome.instants);
        batches.refused_reports.inc_by(outcome.late_reports.len() as u64);
        batches.checkpoints.inc_by(outcome.checkpoints.count);
        batches.checkpoint_bytes.inc_by(outcome.checkpoints.bytes);
    }
}
