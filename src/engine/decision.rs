//! A batch under decision: the rows that the store found, and the writes and replies to release at its commit.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    CallerId, Claim, Control, Engine, InstantCounts, Met, Offer, OfferError, QueueFull, RemoteChanges, ReplySlot, Report,
    SeenIds, Submitted, WrittenCheckpoints, callers::Seat, demand::Grant, dependencies::Ties, schedules::Budget, tallies::Usage,
};
use crate::{
    clock::{ClockReading, Timestamp},
    engine::transition::{Changed, Event, Moment, Refusal, transition},
    job::{
        AtLeastOne, Change, Job, JobId, KeyHash, KeyRow, LeaseToken, Spec, State, SubmitOutcome, Tombstone,
    },
    store::{
        Space, StoreError,
        sets::{ChangedJob, ReadResults, RequestKey, StoredRequest, WriteSet},
    },
};

/// A batch under decision.
pub(super) struct Decision<'e> {
    pub(super) engine: &'e mut Engine,
    pub(super) present: ClockReading,
    pub(super) found: ReadResults,
    /// The jobs that the batch changes, in the order of their first change.
    versions: Vec<Version>,
    by_id: HashMap<JobId, usize>,
    /// Due jobs, until the claim step has decided whether they start.
    pub(super) due: Vec<DueJob>,
    /// Accepted offers, until the claim step has decided which of their jobs start.
    pub(super) accepted: Vec<AcceptedOffer>,
    /// Where the accepted jobs with unique keys are: the index of the offer, and that of the item.
    pub(super) keyed: HashMap<JobId, (usize, usize)>,
    /// Unique keys that the batch changes; `None` for those that are free then.
    pub(super) keys: HashMap<KeyHash, Option<KeyRow>>,
    /// A job that has left its unique key, which the batch has not read.
    pub(super) unread_key: Option<JobId>,
    /// The dependencies that the batch changes.
    pub(super) ties: Ties,
    /// Whether the jobs that start have been chosen.
    pub(super) has_chosen: bool,
    /// Offers whose request ids were seen before, until all jobs of the batch have their final state.
    pub(super) repeated: Vec<RepeatedOffer>,
    /// Request ids that are new with the batch.
    pub(super) new_requests: HashMap<RequestKey, StoredRequest>,
    /// The share of each queue's capacity that accepted offers take.
    pub(super) reserved: HashMap<u32, Usage>,
    /// Queues that lacked room for an offer. Later offers wait behind it.
    pub(super) full: HashSet<u32>,
    /// Jobs whose unreadable rows are set aside with the batch.
    pub(super) set_aside: HashSet<JobId>,
    /// The number of jobs that each request id loses by deletion.
    pub(super) lost_jobs: HashMap<RequestKey, u32>,
    /// What schedules have used of the batch.
    pub(super) schedule_budget: Budget,
    /// What became of instants of schedules.
    pub(super) instants: InstantCounts,
    /// Free disk space.
    pub(super) space: Space,
    pub(super) writes: WriteSet,
    pub(super) sealed: Sealed,
}

/// A stored job that the batch changes.
struct Version {
    stored: Arc<Job>,
    /// Absent once the job is deleted.
    now: Option<Arc<Job>>,
}

/// A waiting job that is due.
pub(super) struct DueJob {
    pub(super) stored: Arc<Job>,
    pub(super) starts: Option<Slot>,
}

/// The right to start one job.
#[derive(Clone, Debug)]
pub(super) enum Slot {
    /// A consumer slot of the queue, in this server.
    Here,
    /// A credit of a remote worker.
    Remote(Grant),
}

/// An accepted offer.
pub(super) struct AcceptedOffer {
    pub(super) jobs: AtLeastOne<AcceptedItem>,
    pub(super) has_request: bool,
    pub(super) answer: AnsweredOffer,
}

/// An item of an accepted offer.
#[expect(clippy::large_enum_variant, reason = "nearly all are new jobs")]
pub(super) enum AcceptedItem {
    /// A new job.
    New(AcceptedJob),
    /// Another job, which holds the unique key or has taken over the input.
    Found { id: JobId, outcome: SubmitOutcome },
}

/// A new job of an accepted offer.
pub(super) struct AcceptedJob {
    pub(super) job: Job,
    pub(super) payload: Bytes,
    pub(super) starts: Option<Slot>,
}

/// An offer whose request id was seen before.
pub(super) struct RepeatedOffer {
    pub(super) key: RequestKey,
    pub(super) ids: SeenIds,
    pub(super) live: u32,
    pub(super) offer: Offer,
}

/// A decided offer without its jobs.
#[derive(Debug)]
pub(super) struct AnsweredOffer {
    pub(super) ask: ReplySlot<Submitted, OfferError>,
    pub(super) caller: CallerId,
    pub(super) seat: Option<Seat>,
}

/// Replies, claims and changes that are released only once the batch is committed.
#[derive(Debug, Default)]
pub(super) struct Sealed {
    pub(super) controls: Vec<Control>,
    pub(super) reports: Vec<Report>,
    pub(super) answered: Vec<AnsweredOffer>,
    /// Decided offers whose request ids were seen before. They change nothing, and are kept when a batch does not fit
    /// on the disk.
    pub(super) repeated: Vec<Offer>,
    /// Offers that found no room, each with the queue that lacks it.
    pub(super) full: Vec<(u32, Offer, QueueFull)>,
    pub(super) claims: Vec<Claim>,
    pub(super) cancelling: Vec<LeaseToken>,
    /// Changes of leases of remote workers.
    pub(super) remote: RemoteChanges,
    pub(super) checkpoints: WrittenCheckpoints,
    pub(super) changes: Vec<Change>,
    /// Queues that have gained free capacity.
    pub(super) gained_room: BTreeSet<u32>,
    /// What became of instants of schedules.
    pub(super) instants: InstantCounts,
    pub(super) repeats: usize,
    pub(super) met: Met,
    /// Whether there is more work at once that did not fit into the batch.
    pub(super) more: bool,
    /// Whether the server drains. No offer waits for room then.
    pub(super) is_draining: bool,
}

impl<'e> Decision<'e> {
    pub(super) fn new(engine: &'e mut Engine, present: ClockReading, found: ReadResults) -> Self {
        Decision {
            engine,
            present,
            found,
            versions: Vec::new(),
            by_id: HashMap::new(),
            due: Vec::new(),
            accepted: Vec::new(),
            keyed: HashMap::new(),
            keys: HashMap::new(),
            unread_key: None,
            ties: Ties::default(),
            has_chosen: false,
            repeated: Vec::new(),
            new_requests: HashMap::new(),
            reserved: HashMap::new(),
            full: HashSet::new(),
            set_aside: HashSet::new(),
            lost_jobs: HashMap::new(),
            schedule_budget: Budget::default(),
            instants: InstantCounts::default(),
            space: Space::Enough,
            writes: WriteSet::default(),
            sealed: Sealed::default(),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.present.wall
    }

    /// Returns a job with the batch's changes so far.
    pub(super) fn job(&self, id: JobId) -> Option<Arc<Job>> {
        if let Some(version) = self.by_id.get(&id).and_then(|index| self.versions.get(*index)) {
            return version.now.clone();
        }
        if self.set_aside.contains(&id) {
            return None;
        }
        self.engine.leases.get(id).or_else(|| self.found.jobs.get(&id)).cloned()
    }

    /// Returns whether the batch has neither changed nor deleted the job.
    pub(super) fn is_untouched(&self, id: JobId) -> bool {
        !self.by_id.contains_key(&id)
    }

    /// Returns the jobs that the batch has moved to QUEUED so far.
    pub(super) fn queued_anew(&self) -> impl Iterator<Item = &Arc<Job>> {
        let jobs = self.versions.iter().filter_map(|version| version.now.as_ref());
        jobs.filter(|job| matches!(job.state, State::Queued { .. }))
    }

    /// Returns the jobs that the batch has changed so far and that wait now.
    pub(super) fn waiting_anew(&self) -> Vec<Arc<Job>> {
        let jobs = self.versions.iter().filter_map(|version| version.now.as_ref());
        let waits = |job: &&Arc<Job>| match job.state {
            State::Scheduled { .. }
            | State::Blocked { .. }
            | State::Queued { .. }
            | State::BackingOff { .. } => true,
            State::Running { .. }
            | State::Cancelling { .. }
            | State::Succeeded
            | State::Failed
            | State::Cancelled
            | State::Expired => false,
        };
        jobs.filter(waits).cloned().collect()
    }

    /// Returns the times, feed position and random number of a job's next change. The random number depends only on the
    /// seed, the job and its attempt, so that a run can be repeated.
    pub(super) fn moment(&self, job: &Job) -> Moment {
        let engine = &self.engine;
        Moment {
            now: self.now(),
            backoffs: engine.names.steps.wall_of_backoff(engine.times.backoffs()),
            elapsed: engine.times.backoffs(),
            position: engine.numbers.next_position(),
            random: random(engine.seed, job.id, job.attempt),
            participant: engine.turns.of(job),
        }
    }

    /// Applies an event that the job's state may refuse.
    pub(super) fn try_change(&mut self, job: &Arc<Job>, event: &Event) -> Result<Arc<Job>, Refusal> {
        let changed = transition(job, event, self.moment(job))?;
        Ok(self.change(job, changed))
    }

    /// Applies an event that the job's state must allow.
    pub(super) fn must(&mut self, job: &Arc<Job>, event: &Event) -> Result<Arc<Job>, StoreError> {
        let corrupt = |refusal| StoreError::Corrupt(format!("job {} at {event:?}: {refusal}", job.id));
        self.try_change(job, event).map_err(corrupt)
    }

    /// Records a change of a stored job and its follow-ups. Nothing else may change or be deleted between it and the
    /// transition, whose moment has the next position.
    pub(super) fn change(&mut self, before: &Arc<Job>, changed: Changed) -> Arc<Job> {
        let Changed { job, ended_attempt } = changed;
        debug_assert_eq!(job.position, self.engine.numbers.next_position(), "each change has a position of its own");
        let job = Arc::new(job);
        if let Some(attempt) = ended_attempt {
            self.writes.attempts.push((job.id, attempt));
        }
        self.keep_version(before, Some(Arc::clone(&job)));
        self.follow(Some(before), &job);
        job
    }

    /// Records a new job in its final state.
    pub(super) fn create(&mut self, job: Job, payload: Bytes) -> Arc<Job> {
        let job = Arc::new(job);
        self.writes.new_jobs.push((Arc::clone(&job), payload));
        self.follow(None, &job);
        job
    }

    /// Records a change of a stored job that is none for its watchers: its revision and its position stay.
    pub(super) fn mark(&mut self, before: &Arc<Job>, job: Job) {
        let job = Arc::new(job);
        self.keep_version(before, Some(Arc::clone(&job)));
        self.engine.leases.changed(Some(before), &job);
    }

    /// Deletes a job that is not running.
    pub(super) fn delete(&mut self, job: &Arc<Job>) {
        self.keep_version(job, None);
        self.engine.numbers.position_taken();
        let tombstone = Tombstone {
            id: job.id,
            position: self.engine.numbers.position(),
            deleted: self.engine.times.retention(),
            spec: Spec::of_deleted(&job.spec),
        };
        self.follow_deletion(job);
        self.writes.tombstones.push(tombstone.clone());
        self.sealed.changes.push(Change::Deleted(tombstone));
        if !job.state.is_done() {
            self.deletion_of_key(job);
        }
    }

    fn keep_version(&mut self, before: &Arc<Job>, now: Option<Arc<Job>>) {
        self.due_changed(before.id, now.as_ref());
        let next = self.versions.len();
        let index = *self.by_id.entry(before.id).or_insert(next);
        match self.versions.get_mut(index) {
            Some(version) => version.now = now,
            None => self.versions.push(Version { stored: Arc::clone(before), now }),
        }
    }

    /// Counts the deletion of one of a request id's jobs.
    pub(super) fn lose_job(&mut self, key: RequestKey) {
        *self.lost_jobs.entry(key).or_default() += 1;
    }

    /// Collects the batch's writes of jobs and request ids.
    pub(super) fn write_jobs(&mut self) {
        let Engine { due, names, .. } = &mut *self.engine;
        for (job, _) in &self.writes.new_jobs {
            due.left(job, &names.steps);
        }
        for Version { stored, now } in self.versions.drain(..) {
            match &now {
                Some(job) => due.left(job, &names.steps),
                None => self.writes.payloads.retain(|(id, _)| *id != stored.id),
            }
            match now {
                Some(after) => self.writes.changed_jobs.push(ChangedJob { before: stored, after }),
                None => self.writes.deleted_jobs.push(stored),
            }
        }
        let gone = self.engine.times.retention();
        let mut lost: Vec<_> = self.lost_jobs.drain().map(|(key, count)| (key, count, gone)).collect();
        // A run can be repeated only if it does not depend on the order of a hash map.
        lost.sort_unstable_by_key(|(key, ..)| *key);
        self.writes.lost_jobs = lost;
    }
}

/// Returns a pseudo-random number from 0 to 1 (splitmix64).
fn random(seed: u64, id: JobId, attempt: u32) -> f64 {
    let mut z =
        seed ^ (id.raw() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(attempt).rotate_left(32);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}
