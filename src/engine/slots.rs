//! The slots of one queue in the claim step, and which jobs take them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{
    Engine,
    claims::{Candidate, Offered},
    decision::{AcceptedItem, AcceptedOffer, DueJob, Slot},
    demand::Takers,
    limits::{Lack, LanesRead},
    settle::{ReadyJob, StartingJob},
};
use crate::{
    job::{Job, JobId, Participant},
    store::sets::SortKey,
};

/// Index of a job that becomes ready with this batch, among the due jobs or the accepted offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Newcomer {
    Due(usize),
    Accepted(usize, usize),
}

/// The slots of a queue, which the claim step offers to its jobs.
pub(super) struct Slots<'d> {
    pub(super) engine: &'d mut Engine,
    pub(super) due: &'d mut [DueJob],
    pub(super) accepted: &'d mut [AcceptedOffer],
    pub(super) starting: &'d mut Vec<StartingJob>,
    /// The jobs that move to lanes.
    pub(super) participants: &'d mut Vec<(JobId, Participant)>,
    /// Free slots of this server.
    pub(super) free: usize,
    pub(super) takers: &'d Takers,
    /// The classes of remote workers that take jobs of a kind.
    pub(super) classes: HashMap<u32, Vec<u32>>,
    pub(super) is_served: SameAsLast,
    pub(super) is_fair: bool,
    pub(super) is_limited: bool,
    /// The place of the first job of a lane that the batch has not read, which none passes.
    pub(super) unread: Option<SortKey>,
    /// The ends of truncated lists, which no job of their kinds passes.
    pub(super) ends: HashMap<u32, SortKey>,
    /// The kinds whose lanes were read, and these.
    pub(super) kinds: &'d [u32],
    pub(super) read: &'d LanesRead,
    /// Whether limits had no place for some job.
    pub(super) has_blocked: bool,
    /// The kinds of jobs that did not start for the turn of others alone.
    pub(super) behind: BTreeSet<u32>,
}

/// The answer to a job that is offered a slot.
enum Answer {
    Taken(Slot),
    NoSlot,
    /// Its limits have no place for it.
    NoPlace(SortKey, Lack),
    /// Jobs before it have not been read.
    OutOfTurn,
}

impl Slots<'_> {
    /// Offers a slot to a job.
    pub(super) fn offer(&mut self, candidate: Candidate<ReadyJob, Newcomer>) -> Offered {
        match candidate {
            Candidate::Ready(ready) => match self.take(&ready.0) {
                Answer::Taken(slot) => {
                    self.starting.push((ready, slot));
                    return self.taken();
                }
                Answer::NoPlace(place, lack) => {
                    let lane = self.engine.limits.let_wait(&ready.0, place, lack);
                    self.participants.extend(lane.map(|lane| (ready.0.id, lane)));
                }
                Answer::NoSlot | Answer::OutOfTurn => {}
            },
            Candidate::New(Newcomer::Due(index)) => {
                let job = self.due.get(index).map(|due| Arc::clone(&due.stored));
                let answer = job.map_or(Answer::NoSlot, |job| self.take(&job));
                if let (Answer::Taken(slot), Some(due)) = (&answer, self.due.get_mut(index)) {
                    due.starts = Some(slot.clone());
                    return self.taken();
                }
            }
            Candidate::New(Newcomer::Accepted(offer, index)) => {
                let accepted = std::mem::take(&mut self.accepted);
                let item = accepted.get_mut(offer).and_then(|offer| offer.jobs.get_mut(index));
                let mut answer = Answer::NoSlot;
                if let Some(AcceptedItem::New(new)) = item {
                    answer = self.take(&new.job);
                    if let Answer::Taken(slot) = &answer {
                        new.starts = Some(slot.clone());
                    }
                }
                self.accepted = accepted;
                if matches!(answer, Answer::Taken(_)) {
                    return self.taken();
                }
            }
        }
        Offered::default()
    }

    fn taken(&self) -> Offered {
        Offered { is_taken: true, is_last: self.free == 0 && self.takers.is_empty() }
    }

    /// Gives a job a slot, and places under its limits.
    fn take(&mut self, job: &Job) -> Answer {
        let place = self.is_limited.then(|| self.engine.place_of(job));
        if place.is_some_and(|place| self.passes_unread(job, place)) {
            return Answer::OutOfTurn;
        }
        let Slots { engine, free, takers, classes, is_served, .. } = self;
        let Engine { demand, served, suspects, limits, .. } = &mut **engine;
        let kind = job.spec.kind.number;
        let is_here =
            *free > 0 && is_served.of(kind, |kind| served.contains(&kind)) && suspects.may_start(job.id);
        let classes = match is_here || takers.is_empty() {
            true => &[][..],
            false => classes.entry(kind).or_insert_with(|| demand.takers_of(takers, kind)),
        };
        if !is_here && !demand.can_take(classes) {
            return Answer::NoSlot;
        }
        if let Some(place) = place
            && let Err(lack) = limits.choose(job, place, self.is_fair)
        {
            self.has_blocked = true;
            if lack.is_behind {
                self.behind.insert(kind);
            }
            return Answer::NoPlace(place, lack);
        }
        if is_here {
            *free -= 1;
            return Answer::Taken(Slot::Here);
        }
        demand.take(classes, job).map_or(Answer::NoSlot, |grant| Answer::Taken(Slot::Remote(grant)))
    }

    /// Returns whether jobs that come before this place may not have been read.
    fn passes_unread(&self, job: &Job, place: SortKey) -> bool {
        if self.is_fair {
            let queue = job.spec.queue.number;
            return self.unread.is_some() && self.engine.limits.passes_unread(queue, self.kinds, self.read, place);
        }
        let end = self.ends.get(&job.spec.kind.number).copied();
        end.into_iter().chain(self.unread).any(|end| place > end)
    }

    /// Returns whether a slot is left for jobs of a kind.
    pub(super) fn is_left(&self, kind: u32) -> bool {
        (self.free > 0 && self.engine.served.contains(&kind)) || self.is_left_remotely(kind)
    }

    /// Returns whether a remote worker takes jobs of a kind.
    pub(super) fn is_left_remotely(&self, kind: u32) -> bool {
        let demand = &self.engine.demand;
        demand.can_take(&demand.takers_of(self.takers, kind))
    }
}

/// The answer to a question about a kind. Most jobs of a batch are of the same kind as the one before.
#[derive(Default)]
pub(super) struct SameAsLast(Option<(u32, bool)>);

impl SameAsLast {
    pub(super) fn of(&mut self, kind: u32, ask: impl FnOnce(u32) -> bool) -> bool {
        match self.0 {
            Some((last, answer)) if last == kind => answer,
            _ => self.0.insert((kind, ask(kind))).1,
        }
    }
}
