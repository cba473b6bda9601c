//! Places under limits in the claim step: the jobs of lanes that are offered slots, and those that find no place.

use std::collections::{BTreeMap, HashSet};

use super::{LaneKey, value_of};
use crate::{
    engine::{Engine, Offer, OfferRefusal, decision::Decision, settle::{ReadyJob, StartingJob}},
    job::{Job, JobId, Participant, State},
    store::sets::SortKey,
};

/// The lanes whose jobs the batch has read.
#[derive(Debug, Default)]
pub(in crate::engine) struct LanesRead {
    lanes: Vec<LaneRead>,
    keys: HashSet<LaneKey>,
    /// The queues and kinds of lanes that may have more jobs.
    cut: HashSet<(u32, u32)>,
    /// By queue, the last places that were read in lanes whose other jobs may have places, too.
    rests: BTreeMap<u32, Vec<SortKey>>,
}

/// A lane whose first jobs were read.
#[derive(Debug)]
struct LaneRead {
    key: LaneKey,
    /// The jobs that the batch has not changed before.
    jobs: Vec<(JobId, SortKey)>,
    /// Whether there may be more jobs.
    is_cut: bool,
}

impl Engine {
    /// Returns a job's place among the ready jobs of its queue, whether or not it is in a lane.
    pub(in crate::engine) fn place_of(&self, job: &Job) -> SortKey {
        let order = match job.state {
            // A new job gets its order with its state.
            State::Queued { order, .. } if job.revision > 0 => order.0,
            State::Queued { .. }
            | State::Scheduled { .. }
            | State::Blocked { .. }
            | State::Running { .. }
            | State::BackingOff { .. }
            | State::Cancelling { .. }
            | State::Succeeded
            | State::Failed
            | State::Cancelled
            | State::Expired => self.numbers.next_position().0,
        };
        let (participant, rank) = (self.turns.of(job), job.spec.priority.saturating_neg());
        SortKey { participant, rank, order, id: job.id }
    }

    /// Returns a QUEUED job's place as it is stored. The number of a lane is no participant: a turn is that of the job.
    pub(in crate::engine) fn stored_place_of(&self, job: &Job) -> Option<SortKey> {
        let State::Queued { participant, order } = job.state else { return None };
        let participant = if participant.is_lane() { self.turns.of(job) } else { participant };
        Some(SortKey { participant, rank: job.spec.priority.saturating_neg(), order: order.0, id: job.id })
    }
}

impl Decision<'_> {
    /// Returns the jobs of the lanes that were read, by queue, in their order.
    pub(in crate::engine) fn jobs_of_lanes(
        &mut self,
    ) -> (BTreeMap<u32, Vec<(SortKey, ReadyJob)>>, LanesRead) {
        let (mut by_queue, mut read) = (BTreeMap::<u32, Vec<_>>::new(), LanesRead::default());
        for (key, heads) in std::mem::take(&mut self.found.lanes) {
            let (queue, kind, _) = key;
            let mut jobs = Vec::with_capacity(heads.jobs.len());
            for (job, payload) in heads.jobs {
                if self.is_untouched(job.id) && !self.engine.purges.covers(queue, job.id) {
                    jobs.push((self.engine.place_of(&job), (job, payload)));
                }
            }
            jobs.sort_unstable_by_key(|(place, _)| *place);
            // How many of its jobs have places was not known when the read was planned.
            if heads.is_cut && !self.engine.limits.knows_lane(key) {
                read.rests.entry(queue).or_default().extend(jobs.last().map(|(place, _)| *place));
            }
            if let Some((place, (job, _))) = jobs.first() {
                self.engine.limits.lane_found(key, job, *place);
            }
            read.keys.insert(key);
            if heads.is_cut {
                read.cut.insert((queue, kind));
            } else {
                self.engine.limits.lane_is_whole(key);
            }
            let ids = jobs.iter().map(|(place, (job, _))| (job.id, *place)).collect();
            read.lanes.push(LaneRead { key, jobs: ids, is_cut: heads.is_cut });
            by_queue.entry(queue).or_default().extend(jobs);
        }
        by_queue.values_mut().for_each(|jobs| jobs.sort_unstable_by_key(|(place, _)| *place));
        (by_queue, read)
    }

    /// Returns the lane in which a job that has become ready waits, if its limits have no place for it.
    pub(in crate::engine) fn lane_of_new(&mut self, job: &Job) -> Option<Participant> {
        if self.engine.limits.is_unused() {
            return None;
        }
        let place = self.engine.place_of(job);
        let (lane, has_places) = self.engine.limits.lane_of_new(job, place)?;
        self.sealed.more |= has_places && self.engine.has_slot(job.spec.queue.number);
        Some(lane)
    }

    /// Ends the claim step: the lanes that were read begin with the first job that has not started, and places that are
    /// free open others.
    pub(in crate::engine) fn settle_lanes(&mut self, read: &LanesRead, starting: &[StartingJob]) {
        if self.engine.limits.is_unused() {
            return;
        }
        self.engine.limits.end_choice();
        let started: HashSet<JobId> = match read.lanes.is_empty() {
            true => HashSet::new(),
            false => starting.iter().map(|((job, _), _)| job.id).collect(),
        };
        // The jobs of a lane that suspects were left out of are not all known.
        let knows_all = self.engine.suspects.is_empty();
        for LaneRead { key, jobs, is_cut } in &read.lanes {
            let left = jobs.iter().find(|(id, _)| !started.contains(id));
            match (left, jobs.last()) {
                (Some((_, place)), _) => self.engine.limits.lane_begins(*key, *place),
                (None, Some((_, last))) if *is_cut => self.engine.limits.lane_begins(*key, *last),
                (None, _) if *is_cut || !knows_all => {}
                (None, _) => self.engine.limits.lane_emptied(*key),
            }
        }
    }

    /// Opens lanes for the places that are free at the end of the batch.
    pub(in crate::engine) fn wake_lanes(&mut self) {
        let engine = &mut *self.engine;
        self.sealed.more |= engine.limits.wake_lanes(&engine.turns);
    }

    /// Checks that limits allow what the jobs of an offer weigh.
    pub(in crate::engine) fn check_weights(&self, offer: &Offer) -> Result<(), OfferRefusal> {
        let limits = &self.engine.limits;
        for (index, job) in offer.jobs.iter().enumerate() {
            let Some(extras) = job.extras.as_deref().filter(|extras| !extras.weights.is_empty()) else { continue };
            let index = (offer.jobs.count() > 1).then_some(index);
            if let Some(limit) = extras.weights.keys().find(|limit| limits.find(limit).is_none()) {
                return Err(OfferRefusal::WeightOfUnknownLimit { limit: limit.clone(), index });
            }
            for info in limits.covering(&job.queue, &job.kind) {
                let (Some(weight), Some(value)) =
                    (extras.weights.get(&*info.name), value_of(info, &job.queue, &job.kind, Some(extras)))
                else {
                    continue;
                };
                let rule = limits.rule_of(info, value);
                if !rule.is_paused() && rule.heaviest() < *weight {
                    let (limit, value, weight, max) = (info.name.to_string(), value.to_owned(), *weight, rule.heaviest());
                    return Err(OfferRefusal::TooHeavy { limit, value, weight, max, index });
                }
            }
        }
        Ok(())
    }
}

impl LanesRead {
    /// Returns the lanes.
    pub(in crate::engine) fn keys(&self) -> &HashSet<LaneKey> {
        &self.keys
    }

    /// Returns the last places that were read in lanes of a queue whose other jobs may have places, too.
    pub(in crate::engine) fn rests(&self, queue: u32) -> &[SortKey] {
        self.rests.get(&queue).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns whether a lane of a queue and a kind may have more jobs than were read.
    pub(in crate::engine) fn is_cut(&self, queue: u32, kind: u32) -> bool {
        self.cut.contains(&(queue, kind))
    }
}
