//! The reads of a batch, planned from its keys before anything is decided.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    Allowance, Batch, Engine, NewJob, Offer, Reporter, WorkerHello, claims::HEADS_MAX, demand::Takers, dependencies::DECIDED_MAX, due::EXPIRED_MAX,
    operations::PURGED_MAX, retention, tallies::Usage,
};
use crate::{
    clock::Uptime,
    job::{DependencyTarget, JobId, KeyHash, LeaseToken, ScheduleId, UniqueKey},
    store::{
        Space,
        sets::{DependentsWant, HeadsWant, ReadSet, ScheduleWant, SuspectsWant},
    },
};

/// Rows that retention looks at in a batch without other work.
const SWEPT_ALONE: usize = 512;
/// Rows that retention looks at in any other batch, plus two for each new job: deletion keeps up with them and catches
/// up slowly.
const SWEPT_BESIDE: usize = 32;

/// The reads of a batch, and the part of them that serves retention.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) wants: ReadSet,
    pub(super) retention: retention::RetentionPlan,
    /// The schedules that the batch looks at.
    pub(super) schedules: Vec<ScheduleId>,
    /// The parents whose children the batch goes on to tell of their end.
    pub(super) over_parents: Vec<DependentsWant>,
    /// The groups of lanes of which the ready jobs are read, in the order of the reads.
    pub(super) groups: Vec<LaneGroup>,
}

/// Lanes of a queue whose jobs can start in the same slots.
#[derive(Debug)]
pub(super) struct LaneGroup {
    pub(super) queue: u32,
    pub(super) kinds: Vec<u32>,
    /// Whether only the suspects among them are read, of which the server starts one at a time.
    pub(super) is_of_suspects: bool,
    /// Whether fewer ready jobs are read than could start.
    pub(super) is_short: bool,
}

impl Engine {
    /// Adds to a batch the waiting offers for which there is room now.
    pub(crate) fn offer_again(&mut self, batch: &mut Batch, allowance: Allowance) {
        // A batch that is tried again, after a locked store, has its share already.
        let has_some = batch.offers.iter().any(|offer| offer.seat.is_some());
        if batch.space != Space::Enough || has_some || !self.waiters.can_offer() {
            return;
        }
        let Engine { waiters, queues, tallies, .. } = self;
        let mut taken: HashMap<u32, Usage> = HashMap::new();
        let again = waiters.offer_again(allowance, |queue, offer| {
            let taken = taken.entry(queue).or_default();
            let Some(share) = queues.with(queue, |info| share_of(offer, info.name.as_str())) else {
                return true;
            };
            let live = tallies.queue(queue).live;
            let used = Usage { jobs: live.jobs + taken.jobs, bytes: live.bytes + taken.bytes };
            // An offer that never fits is passed on to be refused, so that it does not block the offers behind it.
            let lacks = |used| queues.with(queue, |info| queues.full(&info.name, used, share).is_some());
            let fits = lacks(used) != Some(true) || lacks(Usage::default()) == Some(true);
            if fits {
                taken.jobs += share.jobs;
                taken.bytes += share.bytes;
            }
            fits
        });
        let newcomers = std::mem::take(&mut batch.offers);
        batch.offers = again.into_iter().chain(newcomers).collect();
    }

    /// Plans the reads of a batch.
    pub(crate) fn plan(&mut self, batch: &Batch, has_unreadable: bool) -> Plan {
        let present = batch.present;
        if self.times.begin_batch(present, &self.names.steps, self.numbers.next_position()) {
            self.sweeping.look_again();
        }
        let is_full = batch.space == Space::Full;
        let mut groups = Vec::new();
        self.take_demand(present.uptime);
        let mut wants = ReadSet { set_aside: has_unreadable.then_some(present.wall), ..ReadSet::default() };
        self.plan_named(batch, &mut wants);
        let schedules = self.plan_schedules(batch, &mut wants);
        if is_full {
            return Plan { wants, ..Plan::default() };
        }
        if batch.claim {
            (wants.heads, groups) = self.plan_heads(batch, wants.schedules.len()).into_iter().unzip();
        }
        if self.due.has_expired(present.wall) {
            wants.expiring = EXPIRED_MAX + 1;
        }
        wants.held_keys = self.holds.plan(self.times.backoffs());
        wants.lines = self.due.plan(present.wall, self.times.backoffs());
        wants.renewals = self.turns.plan(&self.tallies);
        wants.walks = self.purges.plan(&self.tallies, &self.purged_by(batch), PURGED_MAX);
        let over_parents = self.over_parents.plan();
        wants.dependencies.dependents.extend(&over_parents);
        let retention = self.sweeping.plan(self.times.retention(), swept(batch));
        wants.feed.clone_from(&retention.feed);
        wants.dependencies.spared = self.spared.plan(self.times.retention(), swept(batch));
        (wants.tombstones, wants.bare_requests) = (retention.tombstones, retention.requests);
        Plan { wants, retention, schedules, over_parents, groups }
    }

    /// Takes over the changes of the demand of remote workers.
    fn take_demand(&mut self, now: Uptime) {
        let Engine { demand, workers, names, .. } = self;
        let closed = demand.take_changes(&names.kinds, |worker| workers.is_registered(worker));
        for worker in closed {
            workers.saw(worker, now);
        }
    }

    /// Chooses the schedules that the batch looks at, and adds those to the reads, with those that the batch names.
    fn plan_schedules(&mut self, batch: &Batch, wants: &mut ReadSet) -> Vec<ScheduleId> {
        let chosen = self.schedules.plan(batch);
        wants.schedules = self.schedules.wants(&chosen);
        let named = batch.controls.iter().filter_map(|control| control.action.schedule());
        wants.schedules.extend(named.map(|name| ScheduleWant::Named(name.to_owned())));
        chosen
    }

    /// Adds the jobs and request ids that the batch names.
    fn plan_named(&self, batch: &Batch, wants: &mut ReadSet) {
        let mut reported = Vec::new();
        let mut keys = Vec::new();
        let mut job = |id: JobId| match self.leases.get(id) {
            // The key of a job that is read comes with it.
            Some(job) => keys.extend(job.spec.key_hash()),
            None => wants.jobs.push(id),
        };
        for control in &batch.controls {
            control.action.job().into_iter().for_each(&mut job);
            for (id, lease) in control.action.leases() {
                job(*id);
                reported.extend(self.may_be_reported(*id, *lease));
            }
            wants.requests.extend(control.request.map(|request| request.key));
        }
        for report in &batch.reports {
            job(report.id);
            if matches!(report.from, Reporter::Worker(..)) && report.is_final() {
                reported.extend(self.may_be_reported(report.id, report.lease));
            }
        }
        wants.reported = reported;
        self.plan_dependents(batch, wants);
        keys.extend(batch.controls.iter().filter_map(|control| control.action.key()));
        let introduced = batch.controls.iter().filter_map(|control| control.action.introduced());
        keys.extend(introduced.flat_map(|hello| self.keys_of_worker(hello)));
        let offered = batch.offers.iter().flat_map(|offer| offer.jobs.iter());
        keys.extend(offered.filter_map(NewJob::key_hash));
        wants.keys = keys;
        let offered = batch.offers.iter().filter_map(|offer| offer.request);
        wants.requests.extend(offered.map(|request| request.key));
    }

    /// Adds the parents that the batch's offers name, and the edges of those that its reports and controls may end.
    fn plan_dependents(&self, batch: &Batch, wants: &mut ReadSet) {
        let offered = batch.offers.iter().flat_map(|offer| offer.jobs.iter());
        let targets = offered.flat_map(|job| &job.depends_on).filter_map(|dependency| match dependency.on {
            DependencyTarget::Job(id) => Some(id),
            DependencyTarget::Item(_) => None,
        });
        let named: BTreeSet<JobId> = targets.filter(|id| self.leases.get(*id).is_none()).collect();
        wants.jobs.extend(named);
        let final_reports = batch.reports.iter().filter(|report| report.is_final());
        let ending: Vec<JobId> = final_reports
            .filter(|report| self.leases.get(report.id).is_some_and(|job| job.rare().has_dependents))
            .map(|report| report.id)
            .take(DECIDED_MAX)
            .collect();
        let limit = DECIDED_MAX / ending.len().max(1);
        wants.dependencies.dependents = ending.into_iter().map(|parent| DependentsWant { parent, limit }).collect();
        wants.dependencies.may_end = batch.controls.iter().filter_map(|control| control.action.job()).collect();
        wants.dependencies.max = DECIDED_MAX;
    }

    /// Returns the unique keys of the jobs that a worker's introduction may end.
    fn keys_of_worker(&self, hello: &WorkerHello) -> Vec<KeyHash> {
        let worker = self.workers.number_of(&hello.subject, &hello.instance);
        let jobs = worker.map(|worker| self.leases.of_worker(worker)).unwrap_or_default();
        jobs.iter().filter_map(|job| job.spec.key_hash()).collect()
    }

    /// Returns the lease if it is not held, so that an earlier report may have ended it.
    fn may_be_reported(&self, id: JobId, lease: LeaseToken) -> Option<(JobId, LeaseToken)> {
        let is_held = self.leases.get(id).is_some_and(|job| job.state.lease() == Some(lease));
        (!is_held).then_some((id, lease))
    }

    /// Returns the queues that the batch's controls purge.
    fn purged_by(&self, batch: &Batch) -> BTreeSet<u32> {
        let names = batch.controls.iter().filter_map(|control| self.queues.name(control.action.purges()?));
        names.map(|name| name.number).collect()
    }

    /// Plans the reads of ready jobs for the slots that will be free once controls and reports are decided, and for the
    /// credits of remote workers. Each of the `schedules` may cancel its last job.
    fn plan_heads(&mut self, batch: &Batch, schedules: usize) -> Vec<(HeadsWant, LaneGroup)> {
        let queues: Vec<u32> = self.tallies.queues_with_ready_jobs().collect();
        if queues.is_empty() {
            return Vec::new();
        }
        let mut ends: HashMap<u32, i64> = HashMap::new();
        for report in batch.reports.iter().filter(|report| report.is_final()) {
            let job = self.leases.get(report.id).filter(|job| job.remote.worker().is_none());
            if let Some(job) = job {
                *ends.entry(job.spec.queue.number).or_default() += 1;
            }
        }
        let mut heads = Vec::new();
        for queue in queues {
            let (consumers, paused) = self.consumers_after(batch, queue);
            let consumers = if paused { 0 } else { i64::from(consumers) };
            let ends = ends.get(&queue).copied().unwrap_or_default();
            let free = usize::try_from(consumers - self.running_here(queue) + ends).unwrap_or(0);
            let takers = self.takers_of(queue, paused);
            if free == 0 && takers.is_empty() {
                continue;
            }
            let last_turn = self.turns.last(queue);
            // In turns, a slot that a job of one group takes costs its participant the turn that a job of another group would
            // have had: each list reaches as far as all slots together.
            let all_slots = free.saturating_add(usize::try_from(takers.all_credits()).unwrap_or(usize::MAX));
            // Lanes that the same slots serve are read as one list.
            let mut groups: BTreeMap<(bool, Vec<u32>), Vec<u32>> = BTreeMap::new();
            for kind in self.tallies.ready_kinds(queue) {
                let is_served = free > 0 && self.served.contains(&kind);
                let classes = self.demand.takers_of(&takers, kind);
                if is_served || !classes.is_empty() {
                    groups.entry((is_served, classes)).or_default().push(kind);
                }
            }
            for ((is_served, classes), kinds) in groups {
                let credits = usize::try_from(takers.credits(&classes)).unwrap_or(usize::MAX);
                let mut add = |kinds: &[u32], suspects, slots| {
                    let kinds = kinds.to_vec();
                    let is_of_suspects = suspects == SuspectsWant::Alone;
                    let group = LaneGroup { queue, kinds: kinds.clone(), is_of_suspects, is_short: false };
                    let limit = if last_turn.is_some() { all_slots } else { credits.saturating_add(slots) };
                    heads.push((HeadsWant { queue, kinds, suspects, last_turn, limit }, group));
                };
                if !is_served || self.suspects.is_empty() {
                    add(&kinds, SuspectsWant::Included, if is_served { free } else { 0 });
                } else {
                    // Suspects wait for each other. Read together with the others, many of them would hide those.
                    add(&kinds, SuspectsWant::LeftOut, free);
                    add(&kinds, SuspectsWant::Alone, 1);
                }
            }
        }
        // Some of the ready jobs may be cancelled, expire, or be changed by submissions with their unique keys before the
        // claim step.
        let expired = if self.due.has_expired(batch.present.wall) { EXPIRED_MAX } else { 0 };
        let offered = batch.offers.iter().flat_map(|offer| offer.jobs.iter());
        let met = offered.filter(|job| job.unique().is_some_and(UniqueKey::changes_holder)).count();
        let lost = batch.controls.len() + schedules + expired + met;
        let share = (HEADS_MAX / heads.len().max(1)).max(1);
        for (want, group) in &mut heads {
            group.is_short = want.limit > share && !group.is_of_suspects;
            want.limit = want.limit.saturating_add(lost).min(share);
        }
        heads.sort_by(|(a, _), (b, _)| (a.queue, &a.kinds).cmp(&(b.queue, &b.kinds)));
        heads
    }

    /// Returns the number of a queue's jobs that this server runs.
    pub(super) fn running_here(&self, queue: u32) -> i64 {
        self.tallies.queue(queue).running - self.leases.remote(queue)
    }

    /// Returns the remote workers' classes that can take a job of a queue, which may be paused.
    pub(super) fn takers_of(&mut self, queue: u32, paused: bool) -> Takers {
        match self.queues.with(queue, |info| Arc::clone(&info.name)) {
            Some(name) if !paused => self.demand.takers(queue, name.as_str()),
            Some(_) | None => Takers::default(),
        }
    }

    /// Returns the largest number of slots that a queue may have once the batch's controls are decided, and whether it
    /// is paused then.
    fn consumers_after(&self, batch: &Batch, queue: u32) -> (u32, bool) {
        let told = self.queues.with(queue, |info| {
            let before = (info.settings.consumers, info.paused);
            batch.controls.iter().fold(before, |(consumers, paused), control| {
                control.action.consumers_after(info, consumers, paused)
            })
        });
        told.unwrap_or((0, true))
    }
}

/// Returns the jobs and bytes that an offer takes of one of its queues.
fn share_of(offer: &Offer, queue: &str) -> Usage {
    let jobs = offer.jobs.iter().filter(|job| &*job.queue == queue);
    jobs.fold(Usage::default(), |usage, job| Usage {
        jobs: usage.jobs + 1,
        bytes: usage.bytes + job.bytes() as i64,
    })
}

/// Returns the number of rows that retention may look at in a batch.
fn swept(batch: &Batch) -> usize {
    let jobs: usize = batch.offers.iter().map(|offer| offer.jobs.count()).sum();
    match jobs + batch.reports.len() + batch.controls.len() {
        0 => SWEPT_ALONE,
        _ => SWEPT_BESIDE + 2 * jobs,
    }
}
