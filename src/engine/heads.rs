//! The reads of ready jobs for free slots and credits.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    Batch, Engine,
    claims::HEADS_MAX,
    demand::{ClassId, Takers},
    due::EXPIRED_MAX,
    plan::LaneGroup,
};
use crate::{
    job::{Participant, UniqueKey},
    settings::QueueInfo,
    store::sets::{HeadsWant, LaneWant, SuspectsWant},
};

/// The slots and credits for the jobs of a queue.
struct QueueSlots {
    queue: u32,
    /// Free slots of this server.
    free: usize,
    takers: Takers,
    /// The participant that had the last turn, if the queue is fair.
    last_turn: Option<Participant>,
}

impl QueueSlots {
    /// Returns the number of jobs that can start.
    fn all(&self) -> usize {
        self.free.saturating_add(usize::try_from(self.takers.all_credits()).unwrap_or(usize::MAX))
    }
}

/// Kinds whose jobs the same slots serve: whether those of this server do, and the classes of remote workers.
type Groups = BTreeMap<(bool, Vec<ClassId>), Vec<u32>>;

impl Engine {
    /// Plans the reads of ready jobs for the slots that will be free once controls and reports are decided, and for the
    /// credits of remote workers. Each of the `schedules` may cancel its last job. The reads of `lanes` of jobs that wait
    /// for limits are added there.
    pub(super) fn plan_heads(
        &mut self,
        batch: &Batch,
        schedules: usize,
        lanes: &mut Vec<LaneWant>,
    ) -> Vec<(HeadsWant, LaneGroup)> {
        let queues: Vec<u32> = self.tallies.queues_with_ready_jobs().collect();
        if queues.is_empty() {
            return Vec::new();
        }
        let ends = self.ends_here(batch);
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
            let slots = QueueSlots { queue, free, takers, last_turn: self.turns.last(queue) };
            let groups = self.groups(&slots);
            if !self.limits.is_unused() {
                let kinds: Vec<u32> = groups.values().flatten().copied().collect();
                // Suspects of kinds that are served here are read apart.
                let has_suspects = slots.free > 0 && !self.suspects.is_empty();
                let (last_turn, all) = (slots.last_turn, slots.all());
                let Engine { limits, served, .. } = self;
                let leaves_out = |kind| has_suspects && served.contains(&kind);
                lanes.extend(limits.plan(queue, &kinds, last_turn, all, leaves_out));
            }
            self.plan_groups(&slots, groups, &mut heads);
        }
        let lost = self.may_be_lost(batch, schedules);
        let share = (HEADS_MAX / heads.len().max(1)).max(1);
        for (want, group) in &mut heads {
            group.is_short = want.limit > share && !group.is_of_suspects;
            want.limit = want.limit.saturating_add(lost).min(share);
        }
        heads.sort_by(|(a, _), (b, _)| (a.queue, &a.kinds).cmp(&(b.queue, &b.kinds)));
        heads
    }

    /// Returns the number of attempts of this server that the batch's reports end, by queue.
    fn ends_here(&self, batch: &Batch) -> HashMap<u32, i64> {
        let mut ends: HashMap<u32, i64> = HashMap::new();
        for report in batch.reports.iter().filter(|report| report.is_final()) {
            let job = self.leases.get(report.id).filter(|job| job.remote.worker().is_none());
            if let Some(job) = job {
                *ends.entry(job.spec.queue.number).or_default() += 1;
            }
        }
        ends
    }

    /// Returns the kinds of a queue's ready jobs that have slots. Lanes that the same slots serve are read as one list.
    fn groups(&self, slots: &QueueSlots) -> Groups {
        let mut groups = Groups::new();
        for kind in self.tallies.ready_kinds(slots.queue) {
            let is_served = slots.free > 0 && self.served.contains(&kind);
            let classes = self.demand.takers_of(&slots.takers, kind);
            if is_served || !classes.is_empty() {
                groups.entry((is_served, classes)).or_default().push(kind);
            }
        }
        groups
    }

    /// Adds the reads of a queue's ready jobs.
    fn plan_groups(&self, slots: &QueueSlots, groups: Groups, heads: &mut Vec<(HeadsWant, LaneGroup)>) {
        let QueueSlots { queue, free, ref takers, last_turn } = *slots;
        let ahead = self.limits.ahead(queue);
        for ((is_served, classes), kinds) in groups {
            let credits = usize::try_from(takers.credits(&classes)).unwrap_or(usize::MAX);
            let mut add = |kinds: &[u32], suspects, of_server| {
                let kinds = kinds.to_vec();
                let is_of_suspects = suspects == SuspectsWant::Alone;
                let group = LaneGroup { queue, kinds: kinds.clone(), is_of_suspects, is_short: false };
                // In turns, a slot that a job of one group takes costs its participant the turn that a job of another group
                // would have had: each list reaches as far as all slots together.
                let limit = if last_turn.is_some() { slots.all() } else { credits.saturating_add(of_server) };
                let limit = limit.saturating_add(ahead);
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

    /// Returns the number of ready jobs that may be cancelled, expire, or be changed by submissions with their unique keys
    /// before the claim step.
    fn may_be_lost(&self, batch: &Batch, schedules: usize) -> usize {
        let expired = if self.due.has_expired(batch.present.wall) { EXPIRED_MAX } else { 0 };
        let offered = batch.offers.iter().flat_map(|offer| offer.jobs.iter());
        let met = offered.filter(|job| job.unique().is_some_and(UniqueKey::changes_holder)).count();
        batch.controls.len() + schedules + expired + met
    }

    /// Returns the number of a queue's jobs that this server runs.
    fn running_here(&self, queue: u32) -> i64 {
        self.tallies.queue(queue).running - self.leases.remote(queue)
    }

    /// Returns the remote workers' classes that can take a job of a queue, which may be paused.
    fn takers_of(&mut self, queue: u32, paused: bool) -> Takers {
        match self.queues.with(queue, |info| Arc::clone(&info.name)) {
            Some(name) if !paused => self.demand.takers(queue, name.as_str()),
            Some(_) | None => Takers::default(),
        }
    }

    /// Returns the number of a queue's free slots in this server, and the remote workers that take its jobs.
    pub(super) fn slots_of(&mut self, queue: u32) -> (usize, Takers) {
        let slots = |info: &QueueInfo| (i64::from(info.settings.consumers), info.paused);
        let (consumers, paused) = self.queues.with(queue, slots).unwrap_or((0, true));
        let consumers = if paused { 0 } else { consumers };
        let free = usize::try_from(consumers - self.running_here(queue)).unwrap_or(0);
        (free, self.takers_of(queue, paused))
    }

    /// Returns whether any slot for jobs of a queue is free.
    pub(super) fn has_slot(&mut self, queue: u32) -> bool {
        let (free, takers) = self.slots_of(queue);
        free > 0 || !takers.is_empty()
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
