//! The rules: what a batch does, in which order. Pure decisions on what a store has found.
//!
//! One order in a batch: controls, reports, the end of expired jobs, the promotion of due jobs, the next steps of
//! purges and retention, offers, then one claim step over stored and new jobs together. A new job gets its final state
//! before it is written, so that a job which finds a free slot costs one insert as RUNNING.
//!
//! A batch goes through `Engine::plan` (what to read), `Engine::decide` (what to write and to tell), and then either
//! `Engine::commit` or `Engine::discard`. Each part of the engine keeps what is on disk apart from what the batch
//! changes, so that a batch which comes to nothing leaves nothing to undo.

mod ask;
pub(crate) mod batch;
mod callers;
mod claims;
mod controls;
mod decision;
mod due;
mod follow;
mod leases;
mod names;
mod numbers;
mod offers;
mod open;
mod operations;
mod plan;
mod purge;
mod queue_changes;
mod queues;
mod refusals;
mod reports;
mod retention;
mod settle;
mod tallies;
mod times;
pub mod transition;
mod waiters;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

pub(crate) use ask::{Asked, Told};
pub(crate) use callers::{Caller, Departures};
pub(crate) use waiters::Allowance;

pub use self::{
    ask::Ask,
    batch::{Batch, Claim, JobDone, NewJob, Offer, QueueDone, Report, ReportBody, Submitted},
    callers::CallerId,
    controls::{Action, Control, QueueCheck},
    queues::{Patience, QueueEntry, Queues},
    refusals::{
        AdmissionError, ControlError, ControlRefusal, NotAdmitted, OfferError, OfferRefusal, QueueFull,
        Stopped,
    },
};
use self::{
    decision::{AnsweredOffer, Decision, Sealed},
    due::Due,
    leases::Leases,
    names::NameBook,
    numbers::Numbers,
    purge::Purges,
    queues::QueueBook,
    retention::Sweeping,
    tallies::Tallies,
    times::Times,
    waiters::Waiters,
};
use crate::{
    clock::{Present, Uptime, Wake},
    engine::transition::Refusal,
    job::{Change, JobId, LeaseToken, Position},
    settings::{QueueSettings, Retention},
    store::{
        Names, Space, StoreError,
        sets::{Committed, Found, Writes},
    },
};

/// Limit of the waiting offers that are let go of before one batch. They take some 2 ms, for which all other callers
/// wait.
const LET_GO_MAX: usize = 2_048;

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

/// The rules of one store, and what they keep in memory.
pub(crate) struct Engine {
    names: Arc<Names>,
    seed: u64,
    served: HashSet<u32>,
    queues: QueueBook,
    kinds: NameBook,
    numbers: Numbers,
    tallies: Tallies,
    leases: Leases,
    due: Due,
    purges: Purges,
    sweeping: Sweeping,
    waiters: Waiters,
    times: Times,
}

/// A decided batch: what is to be written, and what is told once that is on disk.
pub(crate) struct Decided {
    pub(crate) writes: Writes,
    sealed: Sealed,
    /// Whether a queue is changed.
    queues_changed: bool,
}

/// What a committed batch came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The attempts that are to start now.
    pub claims: Vec<Claim>,
    /// The attempts that are to stop now.
    pub cancelling: Vec<LeaseToken>,
    /// What changed, in order.
    pub changes: Vec<Change>,
    /// The feed's end.
    pub position: Position,
    /// When there is something to do next without any input: a waiting job is due, or something is to be deleted.
    pub wake: Wake,
    /// Whether there is more to do at once that did not fit into this batch.
    pub more: bool,
    /// Whether a queue was created, changed or deleted.
    pub queues_changed: bool,
    /// Whether a queue has gained room.
    pub gained_room: bool,
    /// Submissions whose requests had come before.
    pub repeats: usize,
    /// Reports that came too late.
    pub late_reports: Vec<(JobId, LeaseToken, Refusal)>,
    /// What callers are to be told.
    pub(crate) answers: Vec<Answer>,
}

/// An answer that is true now, on its way to its caller.
#[derive(Debug)]
pub(crate) enum Answer {
    /// To a submission.
    Submitted(Told<Submitted, OfferError>),
    /// To a change of a job.
    Job(Told<JobDone, ControlRefusal>),
    /// To a deletion.
    Gone(Told<(), ControlRefusal>),
    /// To a change of a queue.
    Queue(Told<QueueDone, ControlRefusal>),
    /// To a purge.
    Purged(Told<u64, ControlRefusal>),
    /// To a report.
    Reported(Told<(), Refusal>),
}

impl Answer {
    /// Wakes the caller.
    pub(crate) fn send(self) {
        match self {
            Answer::Submitted(told) => told.send(),
            Answer::Job(told) => told.send(),
            Answer::Gone(told) => told.send(),
            Answer::Queue(told) => told.send(),
            Answer::Purged(told) => told.send(),
            Answer::Reported(told) => told.send(),
        }
    }
}

impl Outcome {
    /// Answers all callers.
    pub fn answer(&mut self) {
        self.answers.drain(..).for_each(Answer::send);
    }
}

impl Engine {
    /// The queues, for all who ask.
    pub(crate) fn queues(&self) -> &Arc<Queues> {
        self.queues.registry()
    }

    /// Where callers say that they leave.
    pub(crate) fn departures(&self) -> &Arc<Departures> {
        self.waiters.departures()
    }

    /// Whether offers wait for room.
    pub(crate) fn has_waiters(&self) -> bool {
        !self.waiters.is_empty()
    }

    /// Whether offers wait for which there may be room now.
    pub(crate) fn can_offer_again(&self) -> bool {
        self.waiters.can_offer()
    }

    /// When the first offer stops to wait for room.
    pub(crate) fn next_deadline(&self) -> Option<Uptime> {
        self.waiters.next_deadline()
    }

    /// Lets go of some offers whose callers have left, and answers some whose callers stop to wait, as all do in a
    /// drain. Tells whether there are more.
    pub(crate) fn let_go_of_waiters(&mut self, now: Uptime, is_draining: bool) -> bool {
        let late_from = if is_draining { Uptime::MAX } else { now };
        let removed = self.waiters.remove_departed(LET_GO_MAX);
        for (mut offer, full) in self.waiters.remove_late(late_from, LET_GO_MAX - removed) {
            // In a drain the offer would have waited on: not the queue refuses it, the server stops.
            offer.ask.refuse(match is_draining {
                true => Stopped::Refused.into(),
                false => OfferError::Full { full, too_many_waiters: false },
            });
        }
        self.waiters.has_leaving(late_from)
    }

    /// When there is something to do without any input.
    pub(crate) fn wake(&self) -> Wake {
        self.times.wake(self.due.first_instant(), self.due.first_backoff(), self.sweeping.wake())
    }

    /// The feed's end.
    pub(crate) fn position(&self) -> Position {
        self.numbers.position()
    }

    /// Decides a batch on what was found for it.
    ///
    /// # Errors
    /// What was found contradicts itself or what is in memory.
    pub(crate) fn decide(
        &mut self,
        batch: Batch,
        plan: &plan::Plan,
        found: Found,
    ) -> Result<Decided, StoreError> {
        let Batch { present, controls, reports, offers, claim, space } = batch;
        let is_full = space == Space::Full;
        let mut decision = Decision::new(self, present, found);
        decision.sealed.is_draining = !claim;
        decision.take_set_aside();
        for control in controls {
            decision.control(control);
        }
        for mut report in reports {
            let verdict = decision.report(&report);
            report.ask.decide(verdict);
            decision.sealed.reports.push(report);
        }
        if !is_full {
            decision.expire()?;
            decision.promote()?;
            decision.purge();
            decision.retain(&plan.retention);
        }
        for offer in offers {
            decision.offer(offer, space);
        }
        let starting = if claim && !is_full { decision.choose(&plan.short) } else { Vec::new() };
        decision.settle(starting)?;
        decision.write_jobs();
        let Decision { mut writes, sealed, .. } = decision;
        self.write_rest(&mut writes, is_full)?;
        Ok(Decided { queues_changed: self.queues.has_changed(), writes, sealed })
    }

    /// What the batch writes of each part.
    fn write_rest(&mut self, writes: &mut Writes, is_full: bool) -> Result<(), StoreError> {
        self.free_names(writes);
        writes.new_kinds = self.kinds.added().to_vec();
        let freed: HashSet<u32> = writes.freed_queues.iter().copied().collect();
        writes.queues = self.queues.rows(|number| freed.contains(&number));
        writes.tallies = self.tallies.rows()?;
        (writes.purges, writes.ended_purges) = self.purges.rows();
        (writes.sweeps, writes.ended_sweeps) = self.sweeping.rows();
        if writes.is_empty() && (is_full || !self.times.are_kept_too_long_ago()) {
            return Ok(());
        }
        writes.steps = self.times.unkept_steps(&self.names.steps);
        writes.counters = Some(self.numbers.counters(self.times.kept()));
        Ok(())
    }

    /// Frees the names to which nothing refers any more.
    fn free_names(&mut self, writes: &mut Writes) {
        let touched: Vec<(u32, u32)> = self.tallies.touched().collect();
        let deleted = self.queues.deleted_now();
        for (queue, kind) in touched {
            if self.tallies.kind(kind) == 0 && !self.served.contains(&kind) && self.kinds.free(kind) {
                writes.freed_kinds.push(kind);
            }
            self.free_queue(queue, writes);
        }
        for queue in deleted {
            self.free_queue(queue, writes);
        }
        writes.freed_kinds.sort_unstable();
        writes.freed_queues.sort_unstable();
    }

    fn free_queue(&mut self, queue: u32, writes: &mut Writes) {
        if self.tallies.queue(queue).all == 0 && self.queues.free_if_deleted(queue) {
            writes.freed_queues.push(queue);
        }
    }

    /// The batch is on disk: what it changed is true now, and its callers can be told.
    pub(crate) fn commit(&mut self, decided: Decided, proof: &Committed, present: Present) -> Outcome {
        let Decided { sealed, writes, queues_changed } = decided;
        if writes.counters.is_some() {
            self.times.commit();
        }
        self.numbers.commit();
        self.tallies.commit();
        self.leases.commit();
        self.due.commit();
        self.sweeping.commit();
        self.kinds.commit(&self.names.kinds, present.uptime);
        self.queues.commit(&self.names, present.uptime);
        let purged = self.purges.commit();
        let wake = self.wake();
        let mut outcome = Outcome {
            claims: sealed.claims,
            cancelling: sealed.cancelling,
            changes: sealed.changes,
            position: self.numbers.position(),
            more: sealed.more || !self.purges.is_empty() || wake.has_come(present),
            wake,
            queues_changed,
            gained_room: !sealed.gained_room.is_empty(),
            repeats: sealed.repeats,
            late_reports: Vec::new(),
            answers: Vec::with_capacity(sealed.answered.len() + sealed.controls.len()),
        };
        for AnsweredOffer { ask, caller, seat } in sealed.answered {
            if let Some(seat) = seat {
                self.waiters.free(seat, caller);
            }
            outcome.answers.extend(ask.open(proof).map(Answer::Submitted));
        }
        for mut offer in sealed.repeated {
            self.waiters.release(&mut offer);
            outcome.answers.extend(offer.ask.open(proof).map(Answer::Submitted));
        }
        for (queue, offer, full) in sealed.full {
            self.park(queue, offer, full, sealed.is_draining, present.uptime);
        }
        // After those that have just begun to wait: the room may be theirs.
        for queue in sealed.gained_room {
            self.waiters.gained_room(queue);
        }
        outcome.answers.extend(sealed.controls.into_iter().filter_map(|control| control.open(proof)));
        outcome.answers.extend(purged.into_iter().filter_map(|ask| ask.open(proof)).map(Answer::Purged));
        for report in sealed.reports {
            if let Some(Err(refusal)) = report.ask.verdict(proof) {
                outcome.late_reports.push((report.id, report.lease, *refusal));
            }
            outcome.answers.extend(report.ask.open(proof).map(Answer::Reported));
        }
        outcome
    }

    /// Has an offer without room wait, if it may. Nothing of it is kept, so that a refusal needs no commit.
    fn park(&mut self, queue: u32, mut offer: Offer, full: QueueFull, is_draining: bool, now: Uptime) {
        let refuse = |mut offer: Offer, full, too_many_waiters| {
            offer.ask.refuse(OfferError::Full { full, too_many_waiters });
        };
        if offer.ask.is_gone() {
            self.waiters.release(&mut offer);
            return;
        }
        let entry = self.queues.registry().numbered(queue);
        match (offer.wait.filter(|until| *until > now), entry) {
            (Some(_), _) if is_draining => {
                self.waiters.release(&mut offer);
                offer.ask.refuse(Stopped::Refused.into());
            }
            (Some(until), Some(entry)) => {
                let max = entry.info().settings.max_waiters as usize;
                let parked = self.waiters.park(queue, entry.waiters_count(), max, until, offer, full);
                if let Err(refused) = parked {
                    let (offer, full) = *refused;
                    refuse(offer, full, true);
                }
            }
            (Some(_) | None, _) => {
                self.waiters.release(&mut offer);
                refuse(offer, full, false);
            }
        }
    }

    /// The batch did not fit on the disk. Its offers are refused, but for repeats; these, its reports and controls come
    /// back as they were.
    pub(crate) fn discard(&mut self, decided: Decided) -> Batch {
        self.numbers.discard();
        self.tallies.discard();
        self.leases.discard();
        self.due.discard();
        self.sweeping.discard();
        self.kinds.discard(&self.names.kinds);
        self.queues.discard(&self.names);
        for mut ask in self.purges.discard() {
            ask.refuse(ControlRefusal::DiskFull);
        }
        let Sealed { mut controls, mut reports, answered, mut repeated, full, .. } = decided.sealed;
        for AnsweredOffer { mut ask, caller, seat } in answered {
            if let Some(seat) = seat {
                self.waiters.free(seat, caller);
            }
            ask.refuse(OfferRefusal::DiskFull.into());
        }
        for (_, mut offer, _) in full {
            self.waiters.release(&mut offer);
            offer.ask.refuse(OfferRefusal::DiskFull.into());
        }
        for control in &mut controls {
            control.ask_mut().reset();
        }
        for report in &mut reports {
            report.ask.reset();
        }
        for offer in &mut repeated {
            self.waiters.release(offer);
            offer.ask.reset();
        }
        Batch { reports, controls, offers: repeated, ..Batch::default() }
    }

    /// Refuses the offers of a batch that was never begun.
    pub(crate) fn refuse_offers(&mut self, offers: Vec<Offer>, why: &OfferRefusal) {
        for mut offer in offers {
            self.waiters.release(&mut offer);
            offer.ask.refuse(why.clone().into());
        }
    }
}
