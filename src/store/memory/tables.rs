//! What the store in memory keeps, with its indexes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use crate::{
    clock::{StoreTime, Timestamp},
    job::{AttemptRecord, Job, JobId, Output, Position, State, StateName, Tombstone},
    settings::{QueueInfo, Retention},
    store::{
        Names,
        engine::rows::{Counters, Lane, Place, Purge, RequestRow},
        steps::Step,
    },
};

#[derive(Default)]
pub(super) struct Tables {
    pub(super) jobs: BTreeMap<JobId, Kept>,
    pub(super) by_position: BTreeMap<Position, JobId>,
    pub(super) ready: HashMap<Lane, BTreeSet<Place>>,
    pub(super) scheduled: BTreeSet<(Timestamp, JobId)>,
    pub(super) backing_off: BTreeSet<(StoreTime, JobId)>,
    pub(super) expiring: BTreeSet<(Timestamp, JobId)>,
    pub(super) requests: HashMap<[u8; 16], (RequestRow, Option<StoreTime>)>,
    pub(super) requests_gone: BTreeSet<(StoreTime, [u8; 16])>,
    pub(super) tombstones: BTreeMap<Position, Tombstone>,
    pub(super) tallies: HashMap<(u32, u32, u8), (i64, i64)>,
    pub(super) queues: BTreeMap<u32, (QueueInfo, bool)>,
    pub(super) purges: BTreeMap<i64, Purge>,
    pub(super) sweeps: BTreeMap<Duration, Position>,
    pub(super) retention: Option<Retention>,
    pub(super) counters: Counters,
    pub(super) steps: Vec<Step>,
}

pub(super) struct Kept {
    pub(super) job: Arc<Job>,
    /// When its backoff ends.
    pub(super) backoff: Option<StoreTime>,
    pub(super) payload: Bytes,
    pub(super) attempts: Vec<AttemptRecord>,
    pub(super) result: Option<Output>,
    pub(super) output_tail: String,
}

impl Kept {
    pub(super) fn new(job: &Job, payload: Bytes, names: &Names) -> Self {
        Kept {
            job: Arc::new(job.clone()),
            backoff: backoff_of(job, names),
            payload,
            attempts: Vec::new(),
            result: None,
            output_tail: String::new(),
        }
    }

    /// The job, with the end of its backoff as the clock as it is now will say it.
    pub(super) fn shown(&self, names: &Names) -> Arc<Job> {
        match self.backoff.map(|backoff| State::BackingOff { due: names.steps.wall_of_backoff(backoff) }) {
            Some(state) if state != self.job.state => Arc::new(Job { state, ..Job::clone(&self.job) }),
            Some(_) | None => Arc::clone(&self.job),
        }
    }
}

impl Tables {
    pub(super) fn index(&mut self, job: &Job, backoff: Option<StoreTime>) {
        self.by_position.insert(job.position, job.id);
        self.expiring.extend(expiry_of(job));
        match job.state {
            State::Queued { order } => {
                let (lane, place) = place_of(job, order);
                self.ready.entry(lane).or_default().insert(place);
            }
            State::Scheduled { due } => {
                self.scheduled.insert((due, job.id));
            }
            State::BackingOff { .. } => self.backing_off.extend(backoff.map(|backoff| (backoff, job.id))),
            State::Running { .. }
            | State::Cancelling { .. }
            | State::Succeeded
            | State::Failed
            | State::Cancelled
            | State::Expired => {}
        }
    }

    pub(super) fn unindex(&mut self, job: &Job, backoff: Option<StoreTime>) {
        self.by_position.remove(&job.position);
        if let Some(expiry) = expiry_of(job) {
            self.expiring.remove(&expiry);
        }
        match job.state {
            State::Queued { order } => {
                let (lane, place) = place_of(job, order);
                self.ready.entry(lane).or_default().remove(&place);
            }
            State::Scheduled { due } => {
                self.scheduled.remove(&(due, job.id));
            }
            State::BackingOff { .. } => {
                if let Some(backoff) = backoff {
                    self.backing_off.remove(&(backoff, job.id));
                }
            }
            State::Running { .. }
            | State::Cancelling { .. }
            | State::Succeeded
            | State::Failed
            | State::Cancelled
            | State::Expired => {}
        }
    }
}

pub(super) fn backoff_of(job: &Job, names: &Names) -> Option<StoreTime> {
    let due = job.state.due().filter(|_| job.state.name() == StateName::BackingOff);
    due.map(|due| names.steps.backoff_of_wall(due))
}

fn expiry_of(job: &Job) -> Option<(Timestamp, JobId)> {
    let waits = matches!(job.state, State::Scheduled { .. } | State::Queued { .. }) && job.attempt == 0;
    job.spec.expires.filter(|_| waits).map(|expires| (expires, job.id))
}

fn place_of(job: &Job, order: Position) -> (Lane, Place) {
    let lane = Lane { queue: job.spec.queue.number, kind: job.spec.kind.number };
    (lane, Place { rank: job.spec.priority.saturating_neg(), order, id: job.id })
}
