//! A reference ledger of the promises, independent of the engine.
//!
//! It sees what a client, a worker and a watcher see, and reports a violation as soon as that contradicts a promise. It
//! shares no code with the engine: its state table, its order and its counts are its own.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use jobmill::{
    clock::Timestamp,
    job::{Change, Job, JobId, KeyHash, LeaseToken, Position, RequestId, ScheduleOrigin, State, StateName},
    settings::QueueSettings,
};

use super::{
    batch::Gathered,
    dependencies::Dependencies,
    limits::{Limits, Words},
    numbers::Numbers,
    order::{self, Contender, Slot, Started, Waiting},
    purges::Purges,
    schedules::Schedules,
    times::{TimePoint, Times},
    turns::{self, Turns},
    workers::Workers,
};
use crate::store::batch::{Applied, Control, ControlDone};

/// A broken promise.
pub(crate) type Violation = String;

/// Returns a violation unless a condition holds.
macro_rules! promise {
    ($holds:expr, $($what:tt)*) => {
        if !$holds {
            return Err(format!($($what)*));
        }
    };
}
pub(crate) use promise;

/// The ledger's knowledge of a job.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) queue: String,
    pub(crate) kind: String,
    pub(crate) priority: i8,
    /// The value of the label by which queues are fair.
    pub(super) tenant: Option<String>,
    pub(crate) state: State,
    pub(crate) revision: u64,
    pub(crate) attempt: u32,
    /// Number of claims that count against the maximum.
    pub(crate) counted: u32,
    /// Number of attempts that asked to be run later, since the last reset.
    pub(crate) snoozes: u32,
    /// Number of attempts whose process died.
    pub(crate) losses: u32,
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) max_attempts: u32,
    pub(super) bytes: u64,
    /// Its unique key.
    pub(super) key: Option<KeyHash>,
    /// Number of submissions whose input it took over.
    replaced: u32,
    pub(crate) expires: Option<Timestamp>,
    /// The moment of its last change.
    pub(crate) since: TimePoint,
    /// The duration of its backoff, counted from that change.
    pub(crate) delay: Duration,
    /// Its place in line, fixed when it became ready.
    pub(crate) place: Position,
    /// Number of attempts that may have started: claims without those that were released.
    pub(super) starts: u32,
    /// Number of those of them that asked to be run later, or came before a reset.
    forgiven: u32,
    retried: bool,
    /// The remote worker that runs it.
    pub(crate) worker: Option<u32>,
    /// What it says for limits.
    pub(super) words: Words,
}

#[derive(Clone, Debug)]
pub(super) struct Queue {
    pub(super) settings: QueueSettings,
    paused: bool,
    pub(super) exists: bool,
}

/// The ledger: all that clients, workers and watchers have been told.
#[derive(Default)]
pub(crate) struct Ledger {
    /// The jobs that exist.
    pub(crate) jobs: BTreeMap<JobId, Known>,
    /// All jobs that ever existed, in the order of creation.
    pub(crate) ever: Vec<JobId>,
    /// All leases that ever existed, with their jobs.
    pub(crate) leases: Vec<(JobId, LeaseToken)>,
    pub(crate) end: Position,
    pub(crate) served: HashSet<String>,
    pub(super) queues: HashMap<String, Queue>,
    purges: Purges,
    pub(super) places: Numbers,
    tokens: Numbers,
    /// The requests, each with its digest and its jobs.
    pub(super) requests: HashMap<[u8; 16], (RequestId, Vec<JobId>)>,
    pub(crate) terminals: usize,
    pub(crate) times: Times,
    pub(crate) workers: Workers,
    pub(crate) schedules: Schedules,
    pub(super) turns: Turns,
    pub(crate) dependencies: Dependencies,
    pub(crate) limits: Limits,
}

/// The events of one batch that must explain its changes.
#[derive(Default)]
pub(super) struct Causes {
    retried: HashSet<JobId>,
    /// Those of them whose attempts so far no longer count, each with the revision of that change.
    reset: HashSet<(JobId, u64)>,
    /// Jobs whose attempts asked to be run later.
    pub(super) snoozed: HashSet<JobId>,
    /// Jobs whose attempts ended with their processes.
    pub(super) died: HashSet<JobId>,
    deleted: HashSet<JobId>,
    /// Jobs that the batch deletes, at whatever point of it.
    pub(super) may_be_gone: HashSet<JobId>,
    /// Jobs whose attempts ended, by whatever cause.
    pub(super) ended: HashSet<JobId>,
    /// Those of them whose attempts do not count.
    pub(super) released: HashSet<JobId>,
    /// Workers that were replaced, and those that may have been.
    pub(super) superseded: Vec<u32>,
    pub(super) may_be_superseded: Vec<u32>,
    /// The workers of the leases that the batch assigned.
    assigned: HashMap<LeaseToken, u32>,
    /// Leases of remote workers that ended or are to stop.
    pub(super) remote_ended: Vec<(u32, LeaseToken)>,
    pub(super) remote_cancelling: Vec<(u32, LeaseToken)>,
    grown: HashSet<String>,
    /// Whether controls of the batch may have ended children.
    may_end_children: bool,
    settings_changed: bool,
    contenders: HashMap<JobId, Contender>,
    pub(super) started: Vec<(JobId, LeaseToken)>,
}

impl Ledger {
    /// Returns an empty ledger that knows only the kinds with handlers.
    pub(crate) fn new(served: &[String], wall: Timestamp) -> Self {
        let mut ledger = Ledger { times: Times::begin(wall), ..Ledger::default() };
        ledger.served = served.iter().cloned().collect();
        ledger.hear_start(wall);
        ledger
    }

    pub(super) fn hear_start(&mut self, wall: Timestamp) {
        self.places.start(wall);
        self.tokens.start(wall);
        self.turns.hear_start();
        self.limits.hear_start();
        self.purges.hear_start();
    }

    /// Returns the jobs with running attempts and their leases, in the order of the jobs.
    pub(crate) fn running(&self) -> Vec<(JobId, LeaseToken)> {
        self.jobs.iter().filter_map(|(id, job)| job.state.lease().map(|lease| (*id, lease))).collect()
    }

    /// Takes in the results of a batch.
    pub(crate) fn hear(
        &mut self,
        gathered: &Gathered,
        applied: &Applied,
        now: Timestamp,
        passed: Duration,
        claim: bool,
    ) -> Result<(), Violation> {
        self.hear_time(now, passed, applied);
        self.begin_limits();
        let mut causes = Causes::default();
        for change in &applied.changes {
            if let Change::Deleted(tombstone) = change {
                causes.may_be_gone.insert(tombstone.id);
            }
        }
        let assigned = applied.assigned.iter().map(|one| (one.claim.lease, one.worker));
        causes.assigned.extend(assigned);
        self.hear_controls(gathered, applied, now, &mut causes)?;
        self.hear_reports(gathered, applied, &mut causes)?;
        for change in &applied.changes {
            self.places.hear("places in the feed", change.position().as_i64())?;
            self.end = change.position();
            match change {
                Change::Job { job, before } => self.hear_job(job, *before, now, &mut causes)?,
                Change::Deleted(tombstone) => self.hear_deleted(tombstone.id, &causes)?,
            }
        }
        self.places.hear_last("places in the feed", applied.position.as_i64())?;
        self.end = applied.position;
        self.hear_offers(gathered, applied)?;
        self.check_children(!applied.more)?;
        for (number, _) in &applied.purged {
            let left = self.purges.hear_end(*number);
            // The batch may have ended its children after the purge looked at it.
            let needless = left.iter().find(|id| !self.dependencies.was_parent(**id));
            promise!(needless.is_none(), "the purge {number} has ended and left {needless:?}");
        }
        self.hear_claims(applied, claim, &causes)?;
        self.hear_assigned(applied)?;
        self.check_told(applied, &causes)?;
        self.check_bounds(&causes)?;
        self.check_limits(&causes)?;
        let (started, waiting) = (self.started(applied, &causes), self.waiting(&causes));
        self.limits.done.2 += waiting.iter().filter(|one| one.standing.may_lack).count();
        if claim {
            order::check(&started, &waiting, applied.more)?;
        }
        let lapsed = |change: &Change| match change {
            Change::Job { job, .. } if matches!(job.state, State::Expired | State::Failed) => {
                Some(job.spec.queue.to_string())
            }
            Change::Job { .. } | Change::Deleted(_) => None,
        };
        let mut uncertain: Vec<String> = applied.changes.iter().filter_map(lapsed).collect();
        uncertain.extend(self.queues.keys().filter(|queue| self.purges.are_under_way(queue)).cloned());
        self.turns.hear_batch(&started, &waiting, applied.more, &uncertain)
    }

    fn hear_controls(
        &mut self,
        gathered: &Gathered,
        applied: &Applied,
        now: Timestamp,
        causes: &mut Causes,
    ) -> Result<(), Violation> {
        for (control, result) in gathered.controls.iter().zip(&applied.controls) {
            causes.may_end_children |= result.is_ok();
            match (control, result) {
                // A repeated retry also answers with the job, but changes nothing.
                (Control::Retry { id, .. }, Ok(ControlDone::Job(job))) if job.position > self.end => {
                    causes.retried.insert(*id);
                    self.purges.is_over(*id);
                }
                (Control::Reset(id), Ok(ControlDone::Job(job))) if job.position > self.end => {
                    causes.retried.insert(*id);
                    causes.reset.insert((*id, job.revision));
                    self.purges.is_over(*id);
                }
                (Control::RetryAnew(id), Ok(_)) => {
                    causes.retried.insert(*id);
                    self.purges.is_over(*id);
                    self.workers.checkpoints.insert(*id, None);
                }
                (Control::Delete(id), Ok(_)) => {
                    let is_kept = self.is_waited_for(*id);
                    promise!(!is_kept || causes.may_end_children, "{id} was deleted, and others wait for it");
                    causes.deleted.insert(*id);
                }
                (Control::ForceDelete(id), Ok(_)) => {
                    causes.deleted.insert(*id);
                }
                (Control::Purge { name }, Ok(ControlDone::PurgeBegun(number))) => {
                    let waiting = self.jobs.iter().filter(|(_, job)| {
                        let ready = matches!(job.state.name(), StateName::Queued | StateName::Blocked)
                            || job.state.due().is_some();
                        job.queue == *name && ready
                    });
                    // An earlier control of the batch may have triggered a job.
                    let last = self.ever.last().copied().max(self.schedules.last_triggered());
                    self.purges.begin(*number, name, waiting.map(|(id, _)| *id), last);
                }
                (_, Ok(ControlDone::Queue(info))) => {
                    let is_new = self.queues.get(&*info.name.to_string()).is_none_or(|queue| !queue.exists);
                    self.turns.hear_queue(info.name.as_str(), info.settings.fair_by.is_some(), is_new);
                    let queue = Queue { settings: info.settings.clone(), paused: info.paused, exists: true };
                    self.queues.insert(info.name.to_string(), queue);
                    causes.settings_changed = true;
                }
                (Control::DeleteQueue { name }, Ok(_)) => {
                    if let Some(queue) = self.queues.get_mut(name) {
                        queue.exists = false;
                    }
                }
                (Control::Schedule { name, action }, Ok(ControlDone::Schedule(done))) => {
                    self.schedules.hear_change(name, action, done, now)?;
                }
                (Control::Limit { name, action }, answer) => self.hear_limit(name, action, answer)?,
                (Control::RegisterWorker(hello), answer) => self.hear_hello(hello, answer, causes)?,
                (Control::ReviewWorkers, _) => {
                    let holders = self.holders();
                    self.workers.hear_review(&holders);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn hear_job(
        &mut self,
        job: &Job,
        before: Option<StateName>,
        now: Timestamp,
        causes: &mut Causes,
    ) -> Result<(), Violation> {
        let id = job.id;
        let known = self.jobs.get(&id).cloned();
        let was = known.as_ref().map(|known| known.state.name());
        let revision = known.as_ref().map_or(0, |known| known.revision);
        promise!(
            job.revision == revision + 1,
            "{id} goes from revision {revision} to {}: {job:?}",
            job.revision
        );
        promise!(before == was, "{id} was {was:?}, not {before:?}");
        let retried = causes.retried.contains(&id);
        let (old, new) = (was, job.state.name());
        let replaced = job.rare().replaced - known.as_ref().map_or(0, |known| known.replaced);
        promise!(known.is_none() || replaced <= 1, "{id} took over {replaced} inputs in one change");
        let replaced = known.is_some() && replaced == 1;
        let is_same = known.as_ref().is_none_or(|known| {
            (&*known.queue, &*known.kind, known.key)
                == (job.spec.queue.as_str(), job.spec.kind.as_str(), job.spec.key_hash())
        });
        promise!(is_same, "{id} has another queue, kind or key: {job:?}");
        let same_words = known.as_ref().is_none_or(|known| {
            (known.priority, known.bytes, known.expires)
                == (job.spec.priority, job.spec.bytes, job.spec.expires)
        });
        promise!(same_words || replaced, "the words of {id} changed by nothing: {job:?}");
        promise!(
            !replaced || known.as_ref().is_some_and(|known| known.starts == 0),
            "{id} had started: {job:?}"
        );
        promise!(may_become(old, new, retried, replaced), "{id} went from {old:?} to {new}");
        if known.is_none() {
            promise!(self.ever.last().is_none_or(|last| *last < id), "{id} is not the newest id");
            let is_live = |id| self.jobs.get(&id).is_some_and(|job| !job.state.is_done());
            self.schedules.hear_job(job, now, is_live)?;
            self.ever.push(id);
        }
        // A new or retried job makes its queue grow. A retried or triggered one is left out where settings changed in this
        // batch: a queue whose limits were lowered after that control may exceed them.
        let is_triggered =
            job.spec.schedule().is_some_and(|schedule| schedule.origin == ScheduleOrigin::Triggered);
        let is_new = known.is_none() && !is_triggered;
        let returns = old.is_some_and(StateName::is_done) || (known.is_none() && is_triggered);
        if is_new || (returns && !causes.settings_changed) {
            causes.grown.insert(job.spec.queue.to_string());
        }
        if let Some(known) = &known
            && matches!(new, StateName::Queued | StateName::Running)
            && !retried
            && !replaced
        {
            self.check_not_early(known, now)?;
        }
        if new == StateName::Expired {
            let has_started = known.as_ref().is_some_and(|known| known.starts > 0);
            let over = job.spec.expires.is_some_and(|expires| expires <= now) && !has_started;
            promise!(over, "{id} expired too early: {job:?} at {now}");
        }
        if new == StateName::Failed && known.as_ref().is_none_or(|known| known.state.lease().is_none()) {
            let over = job.spec.deadline().is_some_and(|deadline| deadline <= now);
            promise!(over, "{id} failed while it waited, before its deadline: {job:?} at {now}");
        }
        self.hear_attempt(job, known.as_ref(), causes)?;
        if let (StateName::Cancelling, Some(StateName::Running)) = (new, old)
            && let Some(worker) = known.as_ref().and_then(|known| known.worker)
        {
            causes.remote_cancelling.extend(job.state.lease().map(|lease| (worker, lease)));
        }
        // A purge leaves parents, and the end of one that a crash cut off is not told.
        let starts_purged =
            new == StateName::Running && self.purges.covers(id) && !self.dependencies.was_parent(id);
        promise!(!starts_purged, "{id} waited when its queue was purged, and started");
        if new.is_done() {
            self.purges.is_over(id);
        }
        promise!(new.is_done() == job.ended.is_some(), "{id} is {new} and ended at {:?}", job.ended);
        self.terminals += usize::from(new.is_done());
        let mut next = Known {
            queue: job.spec.queue.to_string(),
            kind: job.spec.kind.to_string(),
            priority: job.spec.priority,
            tenant: job.spec.labels().and_then(|labels| labels.get(turns::LABEL)).cloned(),
            state: job.state,
            revision: job.revision,
            attempt: job.attempt,
            counted: job.counted_attempts(),
            snoozes: job.rare().snoozes,
            losses: job.rare().process_losses,
            deadline: job.spec.deadline(),
            forgiven: known.as_ref().map_or(0, |known| known.forgiven),
            max_attempts: job.max_attempts,
            bytes: job.spec.bytes,
            key: job.spec.key_hash(),
            replaced: job.rare().replaced,
            expires: job.spec.expires,
            since: self.times.time_point(),
            delay: backoff_of(job),
            place: order::place(known.as_ref(), job, causes.released.contains(&id)),
            starts: known.as_ref().map_or(0, |known| known.starts),
            retried: retried || known.as_ref().is_some_and(|known| known.retried),
            worker: self.worker_of(job, known.as_ref(), causes),
            words: Words::of(job),
        };
        promise!(
            job.remote.worker().map(|worker| worker.number()) == next.worker,
            "{id} is shown with another worker than {:?}: {job:?}",
            next.worker
        );
        if new == StateName::Running && old != Some(StateName::Running) {
            next.starts += 1;
        }
        if causes.released.contains(&id) && matches!(old, Some(StateName::Running | StateName::Cancelling)) {
            // The change is the release, unless it is progress that was reported before it.
            next.starts -= u32::from(job.state.lease().is_none());
        }
        if causes.reset.contains(&(id, job.revision)) && was.is_some_and(|was| was != StateName::Running) {
            next.forgiven = next.starts - u32::from(new == StateName::Running);
        }
        if causes.snoozed.contains(&id) && matches!(old, Some(StateName::Running | StateName::Cancelling)) {
            next.forgiven += u32::from(job.state.lease().is_none());
        }
        let starts = next.starts - next.forgiven;
        promise!(starts <= next.max_attempts, "{id} may have started {starts} times: {job:?}");
        promise!(
            next.retried || next.max_attempts > 1 || starts <= 1,
            "{id} has one attempt, and two started"
        );
        causes.contenders.insert(id, Contender::of(id, known.as_ref(), job, next.place, retried));
        let held = known.as_ref().and_then(|known| known.state.lease());
        self.jobs.insert(id, next);
        match (held, job.state.lease()) {
            (None, Some(_)) => self.hear_tokens(id, true)?,
            (Some(_), None) if causes.released.contains(&id) => self.hear_tokens(id, false)?,
            _ => {}
        }
        if retried && old.is_some_and(StateName::is_done) {
            self.dependencies.hear_retried(id);
        }
        self.dependencies.hear_job(job);
        Ok(())
    }

    fn hear_attempt(
        &mut self,
        job: &Job,
        known: Option<&Known>,
        causes: &mut Causes,
    ) -> Result<(), Violation> {
        let (attempt, counted, max_attempts) =
            known.map_or((0, 0, job.max_attempts), |one| (one.attempt, one.counted, one.max_attempts));
        let (snoozes, losses) = known.map_or((0, 0), |one| (one.snoozes, one.losses));
        let held = known.and_then(|known| known.state.lease());
        let starts = job.state.name() == StateName::Running && held.is_none();
        let released = causes.released.contains(&job.id) && held.is_some() && job.state.lease().is_none();
        let expected = attempt + u32::from(starts);
        promise!(job.attempt == expected, "attempts of {} went from {attempt} to {}", job.id, job.attempt);
        let over = held.is_some() && job.state.lease().is_none();
        let snoozed = over && causes.snoozed.contains(&job.id);
        // A batch may change a job twice: it is reset by the change that the answer shows.
        let reset = causes.reset.contains(&(job.id, job.revision)) && held.is_none() && !starts;
        let expected = if reset { 0 } else { counted + u32::from(starts) - u32::from(released || snoozed) };
        let now = job.counted_attempts();
        promise!(now == expected, "counted attempts of {} went from {counted} to {now}", job.id);
        let expected = if reset { 0 } else { snoozes + u32::from(snoozed) };
        promise!(job.rare().snoozes == expected, "{} was snoozed {expected} times: {job:?}", job.id);
        let died = over && causes.died.contains(&job.id) && job.state.name() != StateName::Cancelled;
        let expected = losses + u32::from(died);
        promise!(job.rare().process_losses <= expected + 1, "{} lost no process: {job:?}", job.id);
        promise!(job.rare().process_losses >= expected, "a process loss of {} is forgotten", job.id);
        promise!(now <= job.max_attempts, "{} has more attempts than it may have", job.id);
        let may_grow = causes.retried.contains(&job.id) && job.max_attempts == counted + 1;
        promise!(job.max_attempts == max_attempts || may_grow, "{} got more attempts by itself", job.id);
        if let Some(lease) = held.filter(|_| job.state.lease().is_none()) {
            promise!(causes.ended.contains(&job.id), "the attempt of {} was ended by nothing", job.id);
            causes.remote_ended.extend(known.and_then(|known| known.worker).map(|worker| (worker, lease)));
        }
        match (job.state.lease(), starts) {
            (Some(lease), true) => {
                self.workers.hear_attempt(lease, causes.assigned.get(&lease).copied());
                self.tokens.hear("lease tokens", lease.as_i64())?;
                self.leases.push((job.id, lease));
                causes.started.push((job.id, lease));
            }
            (lease, _) => promise!(lease.is_none() || lease == held, "{} changed its lease", job.id),
        }
        Ok(())
    }

    fn hear_deleted(&mut self, id: JobId, causes: &Causes) -> Result<(), Violation> {
        self.purges.is_over(id);
        let Some(known) = self.jobs.remove(&id) else {
            return Err(format!("{id} was deleted and was not there"));
        };
        self.dependencies.hear_deleted(id, known.state.is_done());
        promise!(known.state.lease().is_none(), "{id} was deleted while it ran");
        let purged = self.purges.may_delete(&known.queue, id) && !known.state.is_done();
        let over = self.is_over(&known);
        promise!(causes.deleted.contains(&id) || purged || over, "{id} was deleted by nobody: {known:?}");
        Ok(())
    }

    fn hear_claims(&self, applied: &Applied, claim: bool, causes: &Causes) -> Result<(), Violation> {
        promise!(claim || applied.claims.is_empty(), "a draining server claimed");
        promise!(claim || applied.assigned.is_empty(), "a draining server assigned");
        let assigned = applied.assigned.iter().map(|assignment| &assignment.claim);
        let claims = || applied.claims.iter().chain(assigned.clone());
        let mut handed: Vec<_> = claims().map(|claim| (claim.job.id, claim.lease)).collect();
        let mut started = causes.started.clone();
        handed.sort_unstable();
        started.sort_unstable();
        promise!(handed == started, "claims {handed:?} are not the starts {started:?}");
        for claim in claims() {
            let queue = &self.queues[&self.jobs[&claim.job.id].queue];
            promise!(queue.exists && !queue.paused, "{} started in a paused queue", claim.job.id);
        }
        for claim in &applied.claims {
            let job = &self.jobs[&claim.job.id];
            promise!(job.worker.is_none(), "{} was claimed here and has a worker", claim.job.id);
            promise!(self.served.contains(&job.kind), "{} has no handler and started", claim.job.id);
        }
        Ok(())
    }

    fn check_bounds(&self, causes: &Causes) -> Result<(), Violation> {
        for (name, queue) in &self.queues {
            let live = || self.jobs.values().filter(|job| job.queue == *name && !job.state.is_done());
            let here = |job: &Known| job.state.lease().is_some() && job.worker.is_none();
            let running = live().filter(|job| here(job)).count();
            let started = causes
                .started
                .iter()
                .any(|(id, lease)| self.jobs[id].queue == *name && !causes.assigned.contains_key(lease));
            let slots = queue.settings.consumers as usize;
            promise!(!started || running <= slots, "{running} attempts run in the {slots} slots of {name}");
            if causes.grown.contains(name) {
                let (jobs, bytes) = (live().count() as u64, live().map(|job| job.bytes).sum::<u64>());
                let settings = &queue.settings;
                let fits = jobs <= settings.max_jobs && bytes <= settings.max_bytes;
                promise!(fits, "{name} holds {jobs} jobs and {bytes} bytes: {settings:?}");
            }
        }
        Ok(())
    }

    /// Returns the jobs that a batch started, with their slots.
    fn started(&self, applied: &Applied, causes: &Causes) -> Vec<Started> {
        let pools: HashMap<_, _> = applied.assigned.iter().map(|one| (one.claim.lease, one.pool)).collect();
        let started = |(id, lease): &(JobId, LeaseToken)| Started {
            queue: self.jobs[id].queue.clone(),
            slot: pools.get(lease).map_or(Slot::Here, |pool| Slot::Pool(*pool)),
            participant: self.turns.participant(&self.jobs[id].queue, self.jobs[id].tenant.as_deref()),
            contender: causes.contenders[id],
        };
        let all = causes.started.iter().map(started);
        all.filter(|started| !self.purges.are_under_way(&started.queue)).collect()
    }

    /// Returns the jobs that wait, with the slots in which they could have started, and how many of these are free.
    fn waiting(&self, causes: &Causes) -> Vec<Waiting> {
        let mut waiting = Vec::new();
        // A job whose new input has expired already does so in the next batch.
        let is_over = |job: &Known| {
            let expires = job.expires.filter(|_| job.starts == 0);
            expires.into_iter().chain(job.deadline).any(|end| end <= self.times.wall())
        };
        let queued = |job: &Known| job.state.name() == StateName::Queued && !is_over(job);
        for (id, job) in self.jobs.iter().filter(|(_, job)| queued(job)) {
            let queue = self.queues.get(&job.queue).filter(|queue| queue.exists && !queue.paused);
            let Some(queue) = queue.filter(|_| !self.purges.are_under_way(&job.queue)) else { continue };
            let here =
                |one: &&Known| one.queue == job.queue && one.state.lease().is_some() && one.worker.is_none();
            let mut slots = Vec::new();
            if self.served.contains(&job.kind) {
                let running = self.jobs.values().filter(here).count() as u64;
                slots.push((Slot::Here, u64::from(queue.settings.consumers).saturating_sub(running)));
            }
            let pools = self.workers.pools_for(&job.queue, &job.kind);
            slots.extend(pools.into_iter().map(|(pool, credits)| (Slot::Pool(pool), credits)));
            let contender = causes.contenders.get(id).copied();
            let contender = contender.unwrap_or_else(|| Contender::stored(*id, job));
            let participant = self.turns.participant(&job.queue, job.tenant.as_deref());
            let standing = self.standing(job);
            waiting.push(Waiting { queue: job.queue.clone(), participant, contender, slots, standing });
        }
        waiting
    }

    /// Returns the remote worker that runs a job after a change.
    fn worker_of(&self, job: &Job, known: Option<&Known>, causes: &Causes) -> Option<u32> {
        let lease = job.state.lease()?;
        match known.filter(|known| known.state.lease() == Some(lease)) {
            Some(known) => known.worker,
            None => causes.assigned.get(&lease).copied(),
        }
    }
}

/// Returns the backoff's duration according to the job's change.
pub(super) fn backoff_of(job: &Job) -> Duration {
    job.state.due().map_or(Duration::ZERO, |due| due.since(job.updated))
}

/// Returns how long jobs that ended in this state are kept.
pub(crate) fn kept(state: StateName) -> Duration {
    const DAY: Duration = Duration::from_secs(24 * 3_600);
    match state {
        StateName::Failed => 14 * DAY,
        _ => DAY,
    }
}

/// Returns whether a job may go from one state to another in one step.
fn may_become(old: Option<StateName>, new: StateName, retried: bool, replaced: bool) -> bool {
    use StateName::{
        BackingOff, Blocked, Cancelled, Cancelling, Expired, Failed, Queued, Running, Scheduled, Succeeded,
    };
    let allowed: &[StateName] = match old {
        // A job whose dependency can't hold is created as cancelled.
        None => &[Scheduled, Blocked, Queued, Running, Cancelled, Expired, Failed],
        Some(Scheduled | Queued | Blocked | BackingOff) if replaced => {
            &[Scheduled, Blocked, Queued, BackingOff]
        }
        Some(Scheduled) => &[Queued, Running, Cancelled, Expired, Failed],
        Some(Blocked) => &[Scheduled, Queued, Cancelled, Expired, Failed],
        Some(BackingOff) => &[Queued, Running, Cancelled, Expired, Failed],
        Some(Queued) => &[Running, Cancelled, Expired, Failed],
        Some(Running) => &[Running, Succeeded, BackingOff, Failed, Queued, Cancelling],
        Some(Cancelling) => &[Cancelling, Succeeded, Cancelled],
        Some(Failed | Cancelled) if retried => &[Queued],
        Some(Failed | Cancelled | Succeeded | Expired) => &[],
    };
    allowed.contains(&new)
}
