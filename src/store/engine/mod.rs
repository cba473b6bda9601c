//! The rules: what a batch does, in which order. Written once, over any place that keeps rows.
//!
//! One order in a transaction: controls, reports, the end of expired jobs, the next bites of purges and retention,
//! promotion of due jobs, offers, then one claim step over stored and new jobs together. A new job gets its final state
//! before it is written, so that a job which finds a free slot costs one insert as RUNNING.

mod claim;
mod control;
mod delete;
mod due;
mod offer;
mod open;
mod retain;
pub(crate) mod rows;
mod set_aside;
mod tallies;
mod times;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use retain::Sweeping;
use rows::{Counters, NextDue, Purge, RequestRow, Rows, corrupt};
use tallies::{Tallies, Usage};
use times::Times;

use super::{
    Applied, Batch, Claim, Names, Obstacle, Receipt, Report, ReportBody, Space, StoreError, Unapplied,
};
use crate::{
    clock::{Present, Stopwatch, Timestamp, Wake},
    job::{Change, Job, JobId, LeaseToken, Name, Position, State, StateName},
    settings::{QueueInfo, QueueSettings, Retention},
    transition::{Changed, Event, Moment, Refusal, expired, transition},
};

/// At most so many names of queues are ever known, deleted ones included.
const QUEUE_NAMES_MAX: usize = 100_000;
/// At most so many kinds are ever known: those of the configuration, and those that clients name where they may.
const KINDS_MAX: usize = 10_000;
/// Deleted jobs are remembered in the feed, and their request ids, for so long.
const TOMBSTONE_LIFE: Duration = Duration::from_secs(24 * 3600);

/// How an engine is set up at its start.
#[derive(Clone, Debug, Default)]
pub struct EngineSetup {
    /// The present.
    pub present: Present,
    /// Decides the random part of retry delays, together with the job's id and attempt.
    pub seed: u64,
    /// The kinds that have a handler here.
    pub served_kinds: Vec<String>,
    /// The queues that the configuration file declares.
    pub declared_queues: BTreeMap<String, QueueSettings>,
    /// How long ended jobs are kept where their queue does not say.
    pub retention: Retention,
}

/// The rules over some rows.
pub(crate) struct Engine<R> {
    rows: R,
    names: Arc<Names>,
    served: HashSet<u32>,
    queues: HashMap<u32, QueueState>,
    tallies: Tallies,
    counters: Counters,
    /// The jobs that run: what reports are checked against without reading.
    leased: HashMap<JobId, Arc<Job>>,
    purges: Vec<Purge>,
    next_due: NextDue,
    next_expiry: Option<Timestamp>,
    sweeping: Sweeping,
    times: Times,
    /// Whether there is a note of how the clock was set that is not kept yet.
    step_noted: bool,
    seed: u64,
    /// A batch failed halfway: what is in memory here may be ahead of the rows.
    poisoned: bool,
}

struct QueueState {
    info: QueueInfo,
    deleted: bool,
}

/// A job of this batch that is not written yet, because the claim step may still give it a slot.
struct Pending {
    job: Job,
    /// What is in the store now; absent for a new job.
    stored: Option<Job>,
    /// Absent where it was not read: the attempt reads it then.
    payload: Option<Bytes>,
    /// Which of the batch's offers it belongs to.
    offer: Option<usize>,
}

/// What a batch gathers on its way.
#[derive(Default)]
struct Progressing {
    applied: Applied,
    pending: Vec<Pending>,
    /// What the pending jobs will take of each queue's room.
    reserved: HashMap<u32, Usage>,
    /// Queues that had no room for an offer: whoever comes later waits behind it.
    full: HashSet<u32>,
    /// Offers that were seen before, with their first job.
    seen: Vec<(usize, RequestRow)>,
    promoted: bool,
    wrote: bool,
    queues_changed: bool,
}

impl<R: Rows> Engine<R> {
    /// Gives the rows back, as a crash would leave them.
    pub(crate) fn into_rows(self) -> R {
        self.rows
    }

    /// The rows, to ask how they are.
    pub(crate) fn rows(&self) -> &R {
        &self.rows
    }

    /// Applies a batch in one transaction. After an error every further batch is refused: going on would write
    /// counters that the rows never had.
    pub(crate) fn apply(&mut self, mut batch: Batch) -> Result<Applied, StoreError> {
        if self.poisoned {
            return corrupt("an earlier batch failed; only a new start tells what is kept");
        }
        match self.rows.begin() {
            // Nothing was begun: the batch is as it came.
            Err(StoreError::Locked(error)) => {
                tracing::debug!(%error, "a batch waits for the database's lock");
                return Ok(self.unapplied(batch, Obstacle::Locked));
            }
            Err(StoreError::DiskFull(error)) => {
                tracing::debug!(%error, "a batch could not be begun on the full disk");
                batch.offers.clear();
                return Ok(self.unapplied(batch, Obstacle::DiskFull));
            }
            begun => begun?,
        }
        self.poisoned = true;
        let applied = match self.transact(&mut batch) {
            // This error alone says what is on disk: nothing of the batch. A commit's last page could not be written,
            // or was never tried.
            Err(StoreError::DiskFull(error)) => {
                tracing::debug!(%error, "a batch did not fit on the disk");
                self.undo()?;
                self.unapplied(batch, Obstacle::DiskFull)
            }
            applied => applied?,
        };
        self.poisoned = false;
        Ok(applied)
    }

    fn unapplied(&self, batch: Batch, obstacle: Obstacle) -> Applied {
        Applied {
            unapplied: Some(Box::new(Unapplied { batch, obstacle })),
            position: Position(self.counters.position),
            wake: self.wake(),
            ..Applied::default()
        }
    }

    /// When there is something to do without any input.
    fn wake(&self) -> Wake {
        let NextDue { scheduled, backoff } = self.next_due;
        let wall = scheduled.into_iter().chain(self.next_expiry).min();
        self.times.wake(wall, backoff, self.sweeping.wake())
    }

    fn transact(&mut self, batch: &mut Batch) -> Result<Applied, StoreError> {
        let now = batch.present.wall;
        self.go_on(batch.present);
        let bite = retain::bite(batch);
        let full = batch.space == Space::Full;
        let mut progressing = Progressing::default();
        self.set_aside(now, &mut progressing)?;
        // They stay in the batch: if the disk is full, it comes back.
        for control in batch.controls.iter().cloned() {
            let done = self.control(control, now, &mut progressing)?;
            progressing.applied.controls.push(done);
        }
        for report in &batch.reports {
            let done = self.report(report, now, &mut progressing)?;
            progressing.applied.reports.push(done);
        }
        // Before promotion: a job that expires, or that a purge deletes, must not be among the pending ones.
        if !full {
            self.expire(now, &mut progressing)?;
            self.purge(&mut progressing)?;
            self.retain(bite, &mut progressing)?;
            self.promote(now, &mut progressing)?;
        }
        let offers = std::mem::take(&mut batch.offers);
        self.offers(offers, batch.space, now, &mut progressing)?;
        let chosen =
            if batch.claim && !full { self.choose(&progressing.pending)? } else { claim::Chosen::default() };
        self.settle(chosen, now, &mut progressing)?;
        self.answer_seen(&mut progressing)?;
        if progressing.wrote || (!full && self.times.are_kept_too_long_ago()) {
            self.tallies.write(&mut self.rows)?;
            self.write_sweeps()?;
            self.keep_times()?;
            self.rows.put_counters(&self.counters)?;
        }
        let stopwatch = Stopwatch::start();
        self.rows.commit()?;

        let mut applied = progressing.applied;
        applied.flush = stopwatch.elapsed();
        if progressing.queues_changed {
            applied.queues = Some(self.queue_infos());
        }
        applied.position = Position(self.counters.position);
        applied.wake = self.wake();
        // On a full disk there is nothing that can be done at once.
        applied.more = !full
            && (!self.purges.is_empty()
                || self.rows.has_unreadable()
                || applied.wake.has_come(batch.present));
        Ok(applied)
    }

    /// The queues that exist, by name.
    pub(crate) fn queue_infos(&self) -> Vec<QueueInfo> {
        let mut infos: Vec<_> =
            self.queues.values().filter(|queue| !queue.deleted).map(|queue| queue.info.clone()).collect();
        infos.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
        infos
    }

    fn put_queue(&mut self, info: QueueInfo) -> Result<(), StoreError> {
        self.rows.put_queue(&info, false)?;
        let number = info.name.number;
        let before = self.retention_of(number);
        self.queues.insert(number, QueueState { info, deleted: false });
        self.retention_changed(number, before)
    }

    fn intern_queue(&mut self, text: &str) -> Arc<Name> {
        self.names.queues.find(text).unwrap_or_else(|| self.names.queues.add(text))
    }

    fn intern_kind(&mut self, text: &str) -> Result<Arc<Name>, StoreError> {
        if let Some(kind) = self.names.kinds.find(text) {
            return Ok(kind);
        }
        let kind = self.names.kinds.add(text);
        self.rows.put_kind(&kind)?;
        Ok(kind)
    }

    fn existing_queue(&self, name: &str) -> Option<&QueueState> {
        let name = self.names.queues.find(name)?;
        self.queues.get(&name.number).filter(|queue| !queue.deleted)
    }

    /// When and where the next change of a job happens. The random part depends on nothing but the seed, the job and
    /// its attempt, so that a run can be repeated.
    fn moment(&self, job: &Job, now: Timestamp) -> Moment {
        Moment {
            now,
            backoffs: self.names.steps.wall_of_backoff(self.times.backoffs()),
            position: Position(self.counters.position).next(),
            random: random(self.seed, job.id, job.attempt),
        }
    }

    fn report(
        &mut self,
        report: &Report,
        now: Timestamp,
        progressing: &mut Progressing,
    ) -> Result<Result<(), Refusal>, StoreError> {
        let Report { id, lease, body } = report;
        let (id, lease) = (*id, *lease);
        let job = match self.leased.get(&id) {
            Some(job) => Arc::clone(job),
            None => match self.rows.job(id)? {
                Some(job) => Arc::new(job),
                None => return Ok(Err(Refusal::LeaseLost(StateName::Cancelled))),
            },
        };
        let (event, outcome) = match body {
            ReportBody::Progress(progress) => {
                (Event::Progress { lease, progress: Arc::clone(progress) }, None)
            }
            ReportBody::Succeeded { output, tail } => (Event::Succeed { lease }, Some((Some(output), tail))),
            ReportBody::Failed { failure, delay, tail } => {
                let failure = Arc::clone(failure);
                (Event::Fail { lease, failure, delay: *delay }, Some((None, tail)))
            }
            ReportBody::Released { delay } => (Event::Release { lease, delay: *delay }, None),
        };
        let moment = self.moment(&job, now);
        let changed = match transition(&job, &event, moment) {
            Ok(changed) => changed,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Some((output, tail)) = outcome {
            let output = output.filter(|output| !output.bytes.is_empty() || !output.media_type.is_empty());
            // A later attempt that left nothing must not be shown with what an earlier one left.
            if output.is_some() || !tail.is_empty() || job.attempt > 1 {
                self.rows.put_outcome(id, output, tail)?;
            }
        }
        self.write_change(&job, changed, progressing)?;
        Ok(Ok(()))
    }

    /// Writes one change of a stored job, with all that follows from it.
    fn write_change(
        &mut self,
        before: &Job,
        changed: Changed,
        progressing: &mut Progressing,
    ) -> Result<Arc<Job>, StoreError> {
        let Changed { job, ended_attempt } = changed;
        self.rows.update_job(before, &job)?;
        if let Some(attempt) = &ended_attempt {
            self.rows.insert_attempt(job.id, attempt)?;
        }
        Ok(self.record(Some(before), job, progressing))
    }

    /// Takes note of a change that has been written.
    fn record(&mut self, before: Option<&Job>, job: Job, progressing: &mut Progressing) -> Arc<Job> {
        let job = Arc::new(job);
        self.counters.position = job.position.0;
        self.tallies.moved(&job, before.map(|before| before.state.name()), Some(job.state.name()));
        let leased_before = before.is_some_and(|before| before.state.lease().is_some());
        match job.state {
            State::Running { .. } => {
                self.leased.insert(job.id, Arc::clone(&job));
            }
            State::Cancelling { lease } => {
                self.leased.insert(job.id, Arc::clone(&job));
                if before.is_some_and(|before| before.state.name() == StateName::Running) {
                    progressing.applied.cancelling.push(lease);
                }
            }
            State::Scheduled { due } => {
                let next = &mut self.next_due.scheduled;
                *next = Some(next.map_or(due, |next| next.min(due)));
            }
            State::BackingOff { due } => {
                let due = self.names.steps.backoff_of_wall(due);
                let next = &mut self.next_due.backoff;
                *next = Some(next.map_or(due, |next| next.min(due)));
            }
            State::Queued { .. } | State::Succeeded | State::Failed | State::Cancelled | State::Expired => {}
        }
        if let Some(expires) = job.spec.expires
            && matches!(job.state, State::Scheduled { .. } | State::Queued { .. })
            && job.attempt == 0
        {
            self.next_expiry = Some(self.next_expiry.map_or(expires, |next| next.min(expires)));
        }
        if leased_before && job.state.lease().is_none() {
            self.leased.remove(&job.id);
        }
        if job.state.is_done() {
            progressing.applied.room = true;
            self.sweeping.ended(self.times.retention());
        }
        progressing.wrote = true;
        let before = before.map(|before| before.state.name());
        progressing.applied.changes.push(Change::Job { job: Arc::clone(&job), before });
        job
    }

    /// Writes the pending jobs, each in its final state, and starts the chosen ones.
    fn settle(
        &mut self,
        chosen: claim::Chosen,
        now: Timestamp,
        progressing: &mut Progressing,
    ) -> Result<(), StoreError> {
        for id in chosen.stored {
            let Some((job, payload)) = self.rows.job_and_payload(id)? else {
                // Its row is in the index of what is ready, and can't be read: the next batch sets it aside.
                if self.rows.has_unreadable() {
                    continue;
                }
                return corrupt(format!("the ready job {id} is gone"));
            };
            if expired(&job, now) {
                // Where very many expire at once, some of them are in line still.
                self.end_expired(&job, now, progressing)?;
                continue;
            }
            let (started, lease) = self.start(&job, now)?;
            let ready = self.names.steps.seen_from_now(job.position, job.updated);
            let job = self.write_change(&job, started, progressing)?;
            progressing.applied.claims.push(Claim { job, lease, payload, ready });
        }
        for (index, pending) in std::mem::take(&mut progressing.pending).into_iter().enumerate() {
            let Pending { job, stored, payload, offer } = pending;
            let (job, lease) = if chosen.pending.get(index).copied().unwrap_or(false) {
                let (started, lease) = self.start(stored.as_ref().unwrap_or(&job), now)?;
                (started.job, Some(lease))
            } else {
                (self.placed(job), None)
            };
            match (&stored, &payload) {
                (Some(stored), _) => self.rows.update_job(stored, &job)?,
                (None, Some(payload)) => self.rows.insert_job(&job, payload)?,
                (None, None) => return corrupt("a new job has no payload"),
            }
            let job = self.record(stored.as_ref(), job, progressing);
            if let Some(Receipt::Created { jobs }) =
                offer.and_then(|offer| progressing.applied.offers.get_mut(offer))
            {
                jobs.push(Arc::clone(&job));
            }
            if let Some(lease) = lease {
                let ready = stored.and_then(|stored| stored.state.due()).unwrap_or(now);
                progressing.applied.claims.push(Claim { job, lease, payload, ready });
            }
        }
        if progressing.promoted {
            self.next_due = self.rows.next_due()?;
        }
        Ok(())
    }

    /// A pending job that gets no slot, in its place in line.
    fn placed(&self, mut job: Job) -> Job {
        let position = Position(self.counters.position).next();
        job.position = position;
        job.revision = job.revision.max(1);
        if let State::Queued { order } = &mut job.state {
            *order = position;
        }
        job
    }

    fn start(&mut self, job: &Job, now: Timestamp) -> Result<(Changed, LeaseToken), StoreError> {
        self.counters.last_lease += 1;
        let lease = LeaseToken::from_raw(self.counters.last_lease);
        let changed = transition(job, &Event::Start { lease }, self.moment(job, now))
            .map_err(|refusal| StoreError::Corrupt(format!("job {} can't start: {refusal}", job.id)))?;
        Ok((changed, lease))
    }
}

/// A number from 0 to 1 that looks random (splitmix64).
fn random(seed: u64, id: JobId, attempt: u32) -> f64 {
    let mut z =
        seed ^ (id.raw() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(attempt).rotate_left(32);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}
