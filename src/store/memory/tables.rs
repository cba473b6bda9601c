//! Tables and indexes of the store in memory.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::{dependencies::Dependencies, limits::LimitTables, schedules::Schedules};
use crate::{
    clock::{StoreTime, Timestamp},
    job::{AttemptRecord, StoredCheckpoint, Job, JobId, KeyHash, KeyRow, Participant, Position, State, StateName, Tombstone, WorkerRow},
    settings::{QueueInfo, Retention},
    store::{
        ClockStep, Names,
        sets::{Counters, Purge, RequestRow, SortKey, TurnsRow, WaitingLine},
    },
};

#[derive(Default)]
pub(super) struct Tables {
    pub(super) jobs: BTreeMap<JobId, StoredJob>,
    pub(super) by_position: BTreeMap<Position, JobId>,
    /// Waiting jobs, by queue and line.
    pub(super) lines: HashMap<(u32, WaitingLine), BTreeSet<SortKey>>,
    pub(super) expiring: BTreeSet<(Timestamp, JobId)>,
    pub(super) requests: HashMap<[u8; 16], (RequestRow, Option<StoreTime>)>,
    pub(super) requests_gone: BTreeSet<(StoreTime, [u8; 16])>,
    pub(super) keys: BTreeMap<KeyHash, KeyRow>,
    pub(super) held_keys: BTreeSet<(StoreTime, KeyHash)>,
    pub(super) tombstones: BTreeMap<Position, Tombstone>,
    pub(super) tallies: HashMap<(u32, u32, StateName), (i64, i64)>,
    pub(super) queues: BTreeMap<u32, (QueueInfo, bool)>,
    pub(super) kinds: BTreeMap<u32, String>,
    pub(super) served_kinds: BTreeMap<u32, StoreTime>,
    pub(super) suspects: BTreeSet<JobId>,
    pub(super) workers: BTreeMap<u32, WorkerRow>,
    pub(super) purges: BTreeMap<u32, Purge>,
    pub(super) turns: BTreeMap<u32, TurnsRow>,
    pub(super) limits: LimitTables,
    pub(super) sweeps: BTreeMap<Duration, Position>,
    pub(super) retention: Option<Retention>,
    pub(super) counters: Counters,
    pub(super) steps: Vec<ClockStep>,
    pub(super) schedules: Schedules,
    pub(super) dependencies: Dependencies,
}

pub(super) struct StoredJob {
    pub(super) job: Arc<Job>,
    /// End of the job's backoff.
    pub(super) backoff: Option<StoreTime>,
    pub(super) payload: Bytes,
    pub(super) attempts: Vec<AttemptRecord>,
    pub(super) result: Bytes,
    pub(super) output_tail: String,
    pub(super) checkpoint: Option<StoredCheckpoint>,
}

impl StoredJob {
    pub(super) fn new(job: &Job, payload: Bytes, names: &Names) -> Self {
        StoredJob {
            job: Arc::new(job.clone()),
            backoff: backoff_of(job, names),
            payload,
            attempts: Vec::new(),
            result: Bytes::new(),
            output_tail: String::new(),
            checkpoint: None,
        }
    }

    /// Returns the job, with the end of its backoff by the wall clock's present setting.
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
        if let Some((line, place)) = sort_key_of(job, backoff) {
            self.lines.entry((job.spec.queue.number, line)).or_default().insert(place);
        }
    }

    pub(super) fn unindex(&mut self, job: &Job, backoff: Option<StoreTime>) {
        self.by_position.remove(&job.position);
        if let Some(expiry) = expiry_of(job) {
            self.expiring.remove(&expiry);
        }
        if let Some((line, place)) = sort_key_of(job, backoff) {
            let key = (job.spec.queue.number, line);
            if let Some(places) = self.lines.get_mut(&key) {
                places.remove(&place);
                if places.is_empty() {
                    self.lines.remove(&key);
                }
            }
        }
    }

    /// Gives a ready job another participant in the turns of its queue.
    pub(super) fn set_participant(&mut self, id: JobId, participant: Participant) {
        let Some(kept) = self.jobs.get_mut(&id) else { return };
        let State::Queued { order, .. } = kept.job.state else { return };
        let before = Arc::clone(&kept.job);
        let after = Arc::new(Job { state: State::Queued { order, participant }, ..Job::clone(&before) });
        kept.job = Arc::clone(&after);
        self.unindex(&before, None);
        self.index(&after, None);
    }

    /// Returns the lanes of jobs that wait for limits.
    pub(super) fn lanes(&self) -> Vec<(u32, u32, Participant)> {
        let mut lanes: BTreeSet<(u32, u32, Participant)> = BTreeSet::new();
        for ((queue, line), places) in &self.lines {
            if let WaitingLine::Ready(kind) = line {
                let of_lanes = places.iter().take_while(|place| place.participant.is_lane());
                lanes.extend(of_lanes.map(|place| (*queue, *kind, place.participant)));
            }
        }
        lanes.into_iter().collect()
    }

    /// Returns the earliest time in each line that is ordered by time.
    pub(super) fn first_times(&self) -> Vec<(u32, WaitingLine, i64)> {
        let timed = self
            .lines
            .iter()
            .filter(|((_, line), _)| matches!(line, WaitingLine::Scheduled | WaitingLine::BackingOff));
        timed.filter_map(|((queue, line), places)| Some((*queue, *line, places.first()?.order))).collect()
    }
}

pub(super) fn backoff_of(job: &Job, names: &Names) -> Option<StoreTime> {
    let due = job.state.due().filter(|_| job.state.name() == StateName::BackingOff);
    due.map(|due| names.steps.backoff_of_wall(due))
}

fn expiry_of(job: &Job) -> Option<(Timestamp, JobId)> {
    job.waits_until().map(|until| (until, job.id))
}

/// Returns the line of a waiting job, and the job's place in it.
fn sort_key_of(job: &Job, backoff: Option<StoreTime>) -> Option<(WaitingLine, SortKey)> {
    let timed = |order| SortKey { participant: Participant::NONE, rank: 0, order, id: job.id };
    match job.state {
        State::Queued { order, participant } => {
            let place = SortKey { participant, rank: job.spec.priority.saturating_neg(), order: order.0, id: job.id };
            Some((WaitingLine::Ready(job.spec.kind.number), place))
        }
        State::Scheduled { due } => Some((WaitingLine::Scheduled, timed(due.as_micros()))),
        State::Blocked { due } => Some((WaitingLine::Blocked, timed(due.as_micros()))),
        State::BackingOff { .. } => Some((WaitingLine::BackingOff, timed(backoff?.as_micros()))),
        State::Running { .. }
        | State::Cancelling { .. }
        | State::Succeeded
        | State::Failed
        | State::Cancelled
        | State::Expired => None,
    }
}
