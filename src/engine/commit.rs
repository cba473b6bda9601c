//! The end of a batch: its changes are taken over once they are on disk, or dropped.

use std::sync::Arc;

use super::{
    Batch, ControlRefusal, Decided, Engine, Offer, OfferError, OfferRefusal, Outcome, QueueFull, Refusable, Reply,
    Report, ReportAnswer, Reporter, Stopped,
    decision::{AnsweredOffer, Sealed},
};
use crate::{
    clock::{ClockReading, Uptime},
    store::sets::Committed,
};

impl Engine {
    /// Takes over the changes of a batch that is on disk, and returns its outcome with the replies to send.
    pub(crate) fn commit(&mut self, decided: Decided, proof: &Committed, present: ClockReading) -> Outcome {
        let Decided { sealed, writes, queues_changed } = decided;
        if writes.counters.is_some() {
            self.times.commit();
        }
        self.commit_parts(queues_changed, present);
        let purged = self.purges.commit();
        let wake = self.wake();
        let mut outcome = Outcome {
            claims: sealed.claims,
            cancelling: sealed.cancelling,
            remote: sealed.remote,
            checkpoints: sealed.checkpoints,
            changes: sealed.changes,
            position: self.numbers.position(),
            more: sealed.more
                || !self.purges.is_empty()
                || !self.over_parents.is_empty()
                || self.turns.are_renewed()
                || wake.has_come(present),
            wake,
            queues_changed,
            gained_room: !sealed.gained_room.is_empty(),
            instants: sealed.instants,
            repeats: sealed.repeats,
            met: sealed.met,
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
            answer_report(report, proof, &mut outcome);
        }
        outcome
    }

    /// Takes over the changes of the parts of the engine.
    fn commit_parts(&mut self, queues_changed: bool, present: ClockReading) {
        self.numbers.commit();
        self.tallies.commit();
        self.leases.commit();
        self.suspects.commit();
        self.due.commit();
        self.holds.commit();
        self.over_parents.commit();
        self.sweeping.commit();
        self.spared.commit(self.times.retention());
        self.demand.commit();
        if queues_changed {
            self.demand.queues_changed();
        }
        if queues_changed || self.workers.kinds_change() {
            self.schedules.obstacles_changed();
        }
        for stray in self.schedules.commit() {
            self.waiters.remove_schedule(stray);
            self.schedules.unpark(stray, true);
        }
        // Before the kinds, whose freed names it looks up.
        self.workers.commit(&self.names, present.uptime);
        self.kinds.commit(&self.names.kinds, present.uptime);
        self.queues.commit(&self.names, present.uptime);
        self.turns.commit();
        let renewing = self.turns.renewing().filter_map(|queue| self.names.queues.get(queue));
        let renewing = renewing.map(|name| name.as_str().into()).collect();
        let Engine { limits, leases, tallies, .. } = self;
        limits.commit(|| leases.all(), |queue, kind| tallies.has_ready(queue, kind), renewing);
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
                // The offers of schedules are no callers that could be refused: each instant has its turn.
                let schedule = offer.schedule;
                let max = schedule.map_or(entry.info().settings.max_waiters as usize, |_| usize::MAX);
                let first = offer.jobs.iter().find(|job| *job.queue == **entry.name());
                let participant = self.turns.of_labels(queue, first.and_then(|job| job.extras.as_deref()));
                let parked = self.waiters.park((queue, participant), entry.waiters_count(), max, until, offer, full);
                match (parked, schedule) {
                    (Ok(()), Some(schedule)) => self.schedules.parked(schedule),
                    (Ok(()), None) => {}
                    (Err(refused), _) => {
                        let (offer, full) = *refused;
                        refuse(offer, full, true);
                    }
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
        self.suspects.discard();
        self.due.discard();
        self.holds.discard();
        self.over_parents.discard();
        self.demand.discard();
        self.workers.discard();
        self.sweeping.discard();
        self.turns.discard();
        self.limits.discard();
        self.spared.discard();
        self.schedules.discard();
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
            if let Some(schedule) = offer.schedule {
                self.schedules.unpark(schedule, true);
            }
            self.waiters.release(&mut offer);
            offer.ask.refuse(why.clone().into());
        }
    }
}

/// Adds the answer to a report to the outcome.
fn answer_report(report: Report, proof: &Committed, outcome: &mut Outcome) {
    let Some(result) = report.ask.verdict(proof).copied() else { return };
    // A checkpoint of this server that was overtaken by its attempt's end came with that, too.
    let is_overtaken = matches!(report.from, Reporter::Server) && report.checkpoint.is_some() && !report.is_final();
    if let Err(refusal) = result
        && !is_overtaken
    {
        outcome.late_reports.push((report.id, report.lease, refusal));
    }
    if let Reporter::Worker(_, sink) = &report.from {
        let answer = ReportAnswer {
            id: report.id,
            lease: report.lease,
            is_final: report.is_final(),
            checkpoint: report.checkpoint.as_ref().map(|checkpoint| checkpoint.number),
            result,
        };
        outcome.remote.answers.push((Arc::clone(sink), answer));
    }
    outcome.answers.extend(report.ask.open(proof).map(Reply::Reported));
}
