//! The reads of a batch, planned from its keys before anything is decided.

use std::collections::{BTreeSet, HashMap};

use super::{
    Allowance, Batch, Engine, NewJob, Offer, Reporter, WorkerHello, dependencies::DECIDED_MAX, due::EXPIRED_MAX,
    operations::PURGED_MAX, retention, tallies::Usage,
};
use crate::{
    clock::Uptime,
    job::{DependencyTarget, JobId, KeyHash, LeaseToken, ScheduleId},
    store::{
        Space,
        sets::{DependentsWant, ReadSet, ScheduleWant},
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
        self.limits.begin_batch(self.times.backoffs());
        let mut wants = ReadSet { set_aside: has_unreadable.then_some(present.wall), ..ReadSet::default() };
        self.plan_named(batch, &mut wants);
        let schedules = self.plan_schedules(batch, &mut wants);
        if is_full {
            return Plan { wants, ..Plan::default() };
        }
        if batch.claim {
            let Engine { limits, leases, turns, .. } = self;
            let ending = batch.reports.iter().filter(|report| report.is_final()).filter_map(|report| leases.get(report.id));
            limits.foresee_ends(ending, turns);
            (wants.heads, groups) = self.plan_heads(batch, wants.schedules.len(), &mut wants.lanes).into_iter().unzip();
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
