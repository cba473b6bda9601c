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
mod commit;
mod complete;
mod controls;
mod decision;
mod demand;
mod dependencies;
mod due;
mod follow;
mod heads;
mod job_changes;
mod keys;
mod leases;
mod limits;
mod meetings;
mod names;
mod numbers;
mod offers;
mod open;
mod operations;
mod outcome;
mod plan;
mod purge;
mod queue_changes;
mod queue_actions;
mod queues;
mod refusals;
mod reports;
mod retention;
mod schedules;
mod settle;
mod slots;
mod spared;
mod suspects;
mod tallies;
mod times;
pub mod transition;
mod turns;
mod updates;
mod waiters;
mod workers;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

pub(crate) use ask::Refusable;
pub(crate) use callers::{Caller, Departures};
pub(crate) use outcome::Reply;
pub(crate) use schedules::BACKFILL_MAX;
pub(crate) use waiters::Allowance;

pub use self::{
    actions::Action,
    ask::ReplySlot,
    batch::{
        AnswerSink, Batch, Claim, JobDone, KeyDone, NewJob, Offer, QueueDone, Report, ReportAnswer, ReportBody, Reporter,
        SeenIds, Submitted, SubmittedJob,
    },
    callers::CallerId,
    complete::Origin,
    controls::{Control, QueueCheck},
    demand::{DemandBoard, Grant, NewPool, PoolId, QueueScope, SessionId},
    limits::{LimitAction, LimitBoard, LimitDone, LimitRefusal, LimitValueView, LimitView, LimitWait},
    outcome::{WrittenCheckpoints, Met, Outcome, RemoteChanges},
    queues::{QueueEntry, Queues, WaitDeadlines},
    schedules::{
        BackfillRange, CalendarAction, CalendarDone, ChangedSchedules, InstantCounts, ScheduleAction, ScheduleCensus,
        ScheduleDone, ScheduleFeed, ScheduleRefusal, ScheduleSetup,
    },
    refusals::{
        AdmissionError, ControlError, ControlRefusal, NotAdmitted, OfferError, OfferRefusal, QueueFull,
        Stopped,
    },
    workers::{LeaseFate, Registered, WorkerHello, WorkerKinds},
};
use self::{
    decision::{Decision, Sealed},
    demand::Demand,
    dependencies::OverParents,
    due::Due,
    keys::Holds,
    leases::Leases,
    limits::LimitBook,
    names::NameBook,
    numbers::Numbers,
    purge::Purges,
    queues::QueueBook,
    retention::Sweeping,
    spared::Spared,
    suspects::Suspects,
    schedules::ScheduleBook,
    tallies::Tallies,
    times::Times,
    turns::Turns,
    waiters::Waiters,
    workers::WorkerBook,
};
use crate::{
    clock::{ClockReading, Timestamp, Uptime, WakeTime},
    job::{Job, Position},
    settings::{LimitSpec, QueueSettings, Retention},
    store::{
        Names, Space, StoreError,
        sets::{ReadResults, WriteSet},
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
    /// Those of them that run as code of this process, which a fault of theirs can end.
    pub native_kinds: HashSet<String>,
    /// The queues that the configuration file declares.
    pub declared_queues: BTreeMap<String, QueueSettings>,
    /// Default retention times of ended jobs, for queues that set none.
    pub retention: Retention,
    /// The board for the demand of remote workers.
    pub demand: Arc<DemandBoard>,
    /// Schedules, calendars, and the kinds of their jobs.
    pub schedules: ScheduleSetup,
    /// The limits that the configuration file declares.
    pub limits: BTreeMap<String, LimitSpec>,
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
    limits: LimitBook,
    due: Due,
    holds: Holds,
    purges: Purges,
    turns: Turns,
    over_parents: OverParents,
    sweeping: Sweeping,
    spared: Spared,
    waiters: Waiters,
    workers: WorkerBook,
    demand: Demand,
    suspects: Suspects,
    times: Times,
    schedules: ScheduleBook,
}

/// A decided batch: its writes, and the answers and changes to release once the writes are on disk.
pub(crate) struct Decided {
    pub(crate) writes: WriteSet,
    sealed: Sealed,
    /// Whether the batch changes a queue.
    queues_changed: bool,
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

    /// Returns the board for the demand of remote workers.
    pub(crate) fn demand_board(&self) -> &Arc<DemandBoard> {
        self.demand.board()
    }

    /// Returns the registry of the kinds that remote workers serve.
    pub(crate) fn worker_kinds(&self) -> &Arc<WorkerKinds> {
        self.workers.kinds()
    }

    /// Returns the limits, and what runs under them.
    pub(crate) fn limit_board(&self) -> &Arc<LimitBoard> {
        self.limits.board()
    }

    /// Returns the changes and numbers of schedules.
    pub(crate) fn schedule_feed(&self) -> &Arc<ScheduleFeed> {
        self.schedules.feed()
    }

    /// Returns the jobs that remote workers run, with the time for which each has run.
    pub(crate) fn remote_jobs(&self) -> Vec<(Arc<Job>, Timestamp)> {
        let jobs = self.leases.all().into_iter().filter(|job| job.remote.worker().is_some());
        jobs.map(|job| {
            let started = job.started.unwrap_or(job.updated);
            let seen = self.names.steps.seen_from_now(job.position, started);
            (job, seen)
        })
        .collect()
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
        let backoff = self.due.first_backoff().into_iter().chain(self.holds.wake()).chain(self.limits.wake()).min();
        let retention = self.sweeping.wake().into_iter().chain(self.spared.wake()).min();
        let wake = self.times.wake(self.due.first_instant(), backoff, retention);
        wake.or(self.schedules.wake())
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
        let retention_now = self.times.retention();
        let mut decision = Decision::new(self, present, found);
        decision.sealed.is_draining = !claim;
        decision.space = space;
        decision.take_set_aside();
        for control in controls {
            decision.control(control);
            decision.tell_children();
        }
        for mut report in reports {
            let verdict = decision.report(&report);
            report.ask.decide(verdict);
            decision.sealed.reports.push(report);
            decision.tell_children();
        }
        if !is_full {
            decision.expire()?;
            decision.promote()?;
            decision.purge();
            decision.retain(&plan.retention);
            decision.review_spared(plan.wants.dependencies.spared, retention_now);
            decision.tell_more_children(&plan.over_parents);
            decision.forget_keys();
        }
        decision.schedules(&plan.schedules, space);
        decision.tell_children();
        for offer in offers {
            decision.offer(offer, space);
            decision.tell_children();
        }
        // A batch that changes limits starts no job: what runs is counted anew at its commit.
        let is_changing = decision.engine.limits.are_changing();
        decision.sealed.more |= is_changing;
        let starting = if claim && !is_full && !is_changing { decision.choose(plan) } else { Vec::new() };
        decision.settle(starting)?;
        decision.wake_lanes();
        if !is_full {
            decision.renew_turns();
        }
        decision.tell_children();
        decision.write_edges();
        decision.write_keys()?;
        decision.write_jobs();
        let Decision { mut writes, mut sealed, instants, .. } = decision;
        sealed.instants = instants;
        self.write_rest(&mut writes, is_full)?;
        Ok(Decided { queues_changed: self.queues.has_changed(), writes, sealed })
    }

    /// Collects the batch's writes from each part of the engine.
    fn write_rest(&mut self, writes: &mut WriteSet, is_full: bool) -> Result<(), StoreError> {
        self.free_names(writes);
        writes.new_kinds = self.kinds.added().to_vec();
        (writes.workers, writes.forgotten_workers) = self.workers.rows();
        writes.served_kinds = self.workers.served_rows();
        let freed: HashSet<u32> = writes.freed_queues.iter().copied().collect();
        writes.suspects = self.suspects.rows();
        writes.queues = self.queues.rows(|number| freed.contains(&number));
        writes.tallies = self.tallies.rows()?;
        (writes.purges, writes.ended_purges) = self.purges.rows();
        (writes.turns, writes.ended_turns) = self.turns.rows();
        (writes.sweeps, writes.ended_sweeps) = self.sweeping.rows();
        writes.schedules = self.schedules.rows();
        writes.limits = self.limits.rows();
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
        // Only now it is known that the batch does not use them again.
        for kind in self.workers.forgotten_kinds() {
            if self.is_unused(kind) && self.kinds.free(kind) {
                writes.freed_kinds.push(kind);
            }
        }
        for (queue, kind) in touched {
            if self.is_unused(kind) && self.kinds.free(kind) {
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

    /// Returns whether a kind has no jobs, no handler here, and is not known from a worker.
    fn is_unused(&self, kind: u32) -> bool {
        self.tallies.kind(kind) == 0 && !self.served.contains(&kind) && !self.workers.knows_kind(kind)
    }

    fn free_queue(&mut self, queue: u32, writes: &mut WriteSet) {
        if self.tallies.queue(queue).all == 0 && self.queues.free_if_deleted(queue) {
            writes.freed_queues.push(queue);
        }
    }
}
