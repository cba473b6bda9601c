//! The rules of a store: pure decisions on a batch and on the rows that the store read for it.
//!
//! Order within a batch: controls, reports, expiry of jobs, promotion of due jobs, the next steps of purges and
//! retention, offers, then one claim step over stored and new jobs together. A new job gets its final state before it
//! is written, so that a job that finds a free slot costs one insert as RUNNING.
//!
//! A batch goes through `Engine::plan` (what to read) and `Engine::decide` (what to write and to answer), then through
//! either `Engine::commit` or `Engine::discard`. Each part of the engine keeps the committed state apart from the
//! batch's changes, so that a dropped batch leaves nothing to undo.

mod actions;
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

pub(crate) use ask::{ReadyReply, Refusable};
pub(crate) use callers::{Caller, Departures};
pub(crate) use waiters::Allowance;

pub use self::{
    actions::Action,
    ask::ReplySlot,
    batch::{Batch, Claim, JobDone, NewJob, Offer, QueueDone, Report, ReportBody, Submitted},
    callers::CallerId,
    controls::{Control, QueueCheck},
    queues::{QueueEntry, Queues, WaitDeadlines},
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
    clock::{ClockReading, Uptime, WakeTime},
    engine::transition::Refusal,
    job::{Change, JobId, LeaseToken, Position},
    settings::{QueueSettings, Retention},
    store::{
        Names, Space, StoreError,
        sets::{Committed, ReadResults, WriteSet},
    },
};

/// Limit of the waiting offers that are removed before one batch. Removing them takes about 2 ms, during which all
/// other callers wait.
const LET_GO_MAX: usize = 2_048;

/// Settings of an engine at its start.
#[derive(Clone, Debug, Default)]
pub struct EngineSetup {
    /// The present time.
    pub present: ClockReading,
    /// Seed of the jitter of retry delays, which also depends on the job's id and attempt.
    pub seed: u64,
    /// The kinds that have a handler here.
    pub served_kinds: Vec<String>,
    /// The queues that the configuration file declares.
    pub declared_queues: BTreeMap<String, QueueSettings>,
    /// Default retention times of ended jobs, for queues that set none.
    pub retention: Retention,
}

/// The rules of one store and their state in memory.
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

/// A decided batch: its writes, and the answers and changes to release once the writes are on disk.
pub(crate) struct Decided {
    pub(crate) writes: WriteSet,
    sealed: Sealed,
    /// Whether the batch changes a queue.
    queues_changed: bool,
}

/// The result of a committed batch.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Attempts to start now.
    pub claims: Vec<Claim>,
    /// Leases of the attempts to cancel now.
    pub cancelling: Vec<LeaseToken>,
    /// Changes of jobs, in order.
    pub changes: Vec<Change>,
    /// The last position of the change feed.
    pub position: Position,
    /// Next time at which there is work without any input: a waiting job is due, or retention has something to delete.
    pub wake: WakeTime,
    /// Whether there is more work at once that did not fit into this batch.
    pub more: bool,
    /// Whether a queue was created, changed or deleted.
    pub queues_changed: bool,
    /// Whether a queue has gained free capacity.
    pub gained_room: bool,
    /// Number of submissions whose request id was seen before.
    pub repeats: usize,
    /// Reports that were refused because their lease was no longer valid.
    pub late_reports: Vec<(JobId, LeaseToken, Refusal)>,
    /// Replies to send to callers.
    pub(crate) answers: Vec<Reply>,
}

/// A reply whose verdict is committed, ready to be sent to its caller.
#[derive(Debug)]
pub(crate) enum Reply {
    /// Reply to a submission.
    Submitted(ReadyReply<Submitted, OfferError>),
    /// Reply to a change of a job.
    Job(ReadyReply<JobDone, ControlRefusal>),
    /// Reply to a deletion.
    Gone(ReadyReply<(), ControlRefusal>),
    /// Reply to a change of a queue.
    Queue(ReadyReply<QueueDone, ControlRefusal>),
    /// Reply to a purge.
    Purged(ReadyReply<u64, ControlRefusal>),
    /// Reply to a report.
    Reported(ReadyReply<(), Refusal>),
}

impl Reply {
    /// Sends the reply, which wakes the caller.
    pub(crate) fn send(self) {
        match self {
            Reply::Submitted(told) => told.send(),
            Reply::Job(told) => told.send(),
            Reply::Gone(told) => told.send(),
            Reply::Queue(told) => told.send(),
            Reply::Purged(told) => told.send(),
            Reply::Reported(told) => told.send(),
        }
    }
}

impl Outcome {
    /// Sends all replies.
    pub fn answer(&mut self) {
        self.answers.drain(..).for_each(Reply::send);
    }
}

impl Engine {
    /// Returns the registry of queues, which other modules read.
    pub(crate) fn queues(&self) -> &Arc<Queues> {
        self.queues.registry()
    }

    /// Returns the registry of callers that have disconnected.
    pub(crate) fn departures(&self) -> &Arc<Departures> {
        self.waiters.departures()
    }

    /// Returns whether any offer waits for room.
    pub(crate) fn has_waiters(&self) -> bool {
        !self.waiters.is_empty()
    }

    /// Returns whether a queue with waiting offers has gained room.
    pub(crate) fn can_offer_again(&self) -> bool {
        self.waiters.can_offer()
    }

    /// Returns the earliest deadline of the offers that wait for room.
    pub(crate) fn next_deadline(&self) -> Option<Uptime> {
        self.waiters.next_deadline()
    }

    /// Removes waiting offers whose callers have disconnected, and refuses those whose deadline has passed; in a drain,
    /// all of them count as past it. Handles a limited number and returns whether more are left.
    pub(crate) fn let_go_of_waiters(&mut self, now: Uptime, is_draining: bool) -> bool {
        let late_from = if is_draining { Uptime::MAX } else { now };
        let removed = self.waiters.remove_departed(LET_GO_MAX);
        for (mut offer, full) in self.waiters.remove_late(late_from, LET_GO_MAX - removed) {
            // In a drain the reason for the refusal is the stop of the server, not the full queue.
            offer.ask.refuse(match is_draining {
                true => Stopped::Refused.into(),
                false => OfferError::Full { full, too_many_waiters: false },
            });
        }
        self.waiters.has_leaving(late_from)
    }

    /// Returns the next time at which there is work without any input.
    pub(crate) fn wake(&self) -> WakeTime {
        self.times.wake(self.due.first_instant(), self.due.first_backoff(), self.sweeping.wake())
    }

    /// The last position of the change feed.
    pub(crate) fn position(&self) -> Position {
        self.numbers.position()
    }

    /// Decides a batch on the rows that the store found for it.
    ///
    /// # Errors
    /// When the rows contradict each other or the state in memory.
    pub(crate) fn decide(
        &mut self,
        batch: Batch,
        plan: &plan::Plan,
        found: ReadResults,
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

    /// Collects the batch's writes from each part of the engine.
    fn write_rest(&mut self, writes: &mut WriteSet, is_full: bool) -> Result<(), StoreError> {
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

    /// Frees the names that nothing refers to any more.
    fn free_names(&mut self, writes: &mut WriteSet) {
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

    fn free_queue(&mut self, queue: u32, writes: &mut WriteSet) {
        if self.tallies.queue(queue).all == 0 && self.queues.free_if_deleted(queue) {
            writes.freed_queues.push(queue);
        }
    }

    /// Takes over the changes of a batch that is on disk, and returns its outcome with the replies to send.
    pub(crate) fn commit(&mut self, decided: Decided, proof: &Committed, present: ClockReading) -> Outcome {
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
            outcome.answers.extend(ask.open(proof).map(Reply::Submitted));
        }
        for mut offer in sealed.repeated {
            self.waiters.release(&mut offer);
            outcome.answers.extend(offer.ask.open(proof).map(Reply::Submitted));
        }
        for (queue, offer, full) in sealed.full {
            self.park(queue, offer, full, sealed.is_draining, present.uptime);
        }
        // After the offers that have just begun to wait, because they may take the room.
        for queue in sealed.gained_room {
            self.waiters.gained_room(queue);
        }
        outcome.answers.extend(sealed.controls.into_iter().filter_map(|control| control.action.open(proof)));
        outcome.answers.extend(purged.into_iter().filter_map(|ask| ask.open(proof)).map(Reply::Purged));
        for report in sealed.reports {
            if let Some(Err(refusal)) = report.ask.verdict(proof) {
                outcome.late_reports.push((report.id, report.lease, *refusal));
            }
            outcome.answers.extend(report.ask.open(proof).map(Reply::Reported));
        }
        outcome
    }

    /// Puts an offer that found no room into the waiting line, or refuses it. The store keeps nothing of it, so that a
    /// refusal needs no commit.
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

    /// Drops a batch that did not fit on the disk. Refuses its offers apart from repeats, and returns the repeats,
    /// reports and controls unchanged.
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
            control.action.ask_mut().reset();
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

    /// Refuses the offers of a batch that was not begun.
    pub(crate) fn refuse_offers(&mut self, offers: Vec<Offer>, why: &OfferRefusal) {
        for mut offer in offers {
            self.waiters.release(&mut offer);
            offer.ask.refuse(why.clone().into());
        }
    }
}
