//! The reads of a batch, planned from its keys before anything is decided.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::{
    Allowance, Batch, Engine, Offer, ReportBody, claims::HEADS_MAX, due::EXPIRED_MAX, operations::PURGED_MAX,
    retention, tallies::Usage,
};
use crate::{
    job::JobId,
    store::{
        Space,
        sets::{HeadsWant, ReadSet},
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
    /// Queues with fewer ready jobs read than free slots.
    pub(super) short: HashSet<u32>,
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
        let mut short = HashSet::new();
        let mut wants = ReadSet { set_aside: has_unreadable.then_some(present.wall), ..ReadSet::default() };
        self.plan_named(batch, &mut wants);
        if is_full {
            return Plan { wants, ..Plan::default() };
        }
        if batch.claim {
            wants.heads = self.plan_heads(batch, &mut short);
        }
        if self.due.has_expired(present.wall) {
            wants.expiring = EXPIRED_MAX + 1;
        }
        wants.lines = self.due.plan(present.wall, self.times.backoffs());
        wants.walks = self.purges.plan(&self.tallies, &self.purged_by(batch), PURGED_MAX);
        let retention = self.sweeping.plan(self.times.retention(), swept(batch));
        wants.feed.clone_from(&retention.feed);
        (wants.tombstones, wants.bare_requests) = (retention.tombstones, retention.requests);
        Plan { wants, retention, short }
    }

    /// Adds the jobs and request ids that the batch names.
    fn plan_named(&self, batch: &Batch, wants: &mut ReadSet) {
        let mut job = |id: JobId| {
            if self.leases.get(id).is_none() {
                wants.jobs.push(id);
            }
        };
        for control in &batch.controls {
            control.action.job().into_iter().for_each(&mut job);
            wants.requests.extend(control.request.map(|request| request.key));
        }
        for report in &batch.reports {
            job(report.id);
        }
        let offered = batch.offers.iter().filter_map(|offer| offer.request);
        wants.requests.extend(offered.map(|request| request.key));
    }

    /// Returns the queues that the batch's controls purge.
    fn purged_by(&self, batch: &Batch) -> BTreeSet<u32> {
        let names = batch.controls.iter().filter_map(|control| self.queues.name(control.action.purges()?));
        names.map(|name| name.number).collect()
    }

    /// Plans the reads of ready jobs for the slots that will be free once controls and reports are decided.
    fn plan_heads(&self, batch: &Batch, short: &mut HashSet<u32>) -> Vec<HeadsWant> {
        let mut ends: HashMap<u32, i64> = HashMap::new();
        for report in &batch.reports {
            let is_end = !matches!(report.body, ReportBody::Progress(_));
            if let Some(job) = self.leases.get(report.id).filter(|_| is_end) {
                *ends.entry(job.spec.queue.number).or_default() += 1;
            }
        }
        let mut heads = Vec::new();
        for queue in self.tallies.queues_with_ready_jobs() {
            let consumers = i64::from(self.consumers_after(batch, queue));
            let ends = ends.get(&queue).copied().unwrap_or_default();
            let free = consumers - self.tallies.queue(queue).running + ends;
            let Some(free) = usize::try_from(free).ok().filter(|free| *free > 0) else { continue };
            let kinds: Vec<u32> =
                self.tallies.ready_kinds(queue).filter(|kind| self.served.contains(kind)).collect();
            if !kinds.is_empty() {
                heads.push(HeadsWant { queue, kinds, limit: free });
            }
        }
        // Some of the ready jobs may be cancelled, or expire, before the claim step.
        let lost =
            batch.controls.len() + if self.due.has_expired(batch.present.wall) { EXPIRED_MAX } else { 0 };
        let share = (HEADS_MAX / heads.len().max(1)).max(1);
        for want in &mut heads {
            if want.limit > share {
                short.insert(want.queue);
            }
            want.limit = (want.limit + lost).min(share);
        }
        heads.sort_unstable_by_key(|want| want.queue);
        heads
    }

    /// Returns the largest number of slots that a queue may have once the batch's controls are decided.
    fn consumers_after(&self, batch: &Batch, queue: u32) -> u32 {
        let told = self.queues.with(queue, |info| {
            let before = (info.settings.consumers, info.paused);
            let (consumers, paused) = batch.controls.iter().fold(before, |(consumers, paused), control| {
                control.action.consumers_after(info, consumers, paused)
            });
            if paused { 0 } else { consumers }
        });
        told.unwrap_or(0)
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
