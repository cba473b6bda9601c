//! The turn of a schedule: what becomes of the instants that have come, and of the ends of its jobs.
//!
//! Everything is decided from the schedule's row, its jobs and the present. A turn that comes twice decides the same.

use std::sync::Arc;

use super::{
    super::{Offer, callers::Seat, decision::Decision, offers::answered},
    SET_BACK,
    times::Coming,
};
use crate::{
    clock::Timestamp,
    engine::transition::{Event, Refusal},
    job::{JobId, ScheduleId, ScheduleOrigin, StateName},
    settings::{Deferred, FutureInstant, LastRun, Late, Overlap, Pause, ScheduleInfo, SetBack, SkipCount, Waits},
    store::Space,
    timetable::Instant,
};

/// Limit of the jobs that all schedules together create in a batch.
const JOBS_MAX: usize = 512;
/// Byte limit of these jobs; the last one may exceed it.
const BYTES_MAX: u64 = 1 << 20;
/// Limit of the jobs that one schedule creates in a batch.
const JOBS_OF_ONE_MAX: usize = 64;
/// Limit of the instants that all schedules together count in a batch, which takes milliseconds.
const COUNTED_MAX: u64 = 20_000;

/// What schedules have used of a batch.
#[derive(Clone, Copy, Debug, Default)]
pub(in super::super) struct Budget {
    jobs: usize,
    bytes: u64,
    counted: u64,
}

impl Budget {
    fn is_spent(self) -> bool {
        self.jobs >= JOBS_MAX || self.bytes >= BYTES_MAX || self.counted >= COUNTED_MAX
    }
}

/// A schedule whose turn it is.
pub(super) struct Turn {
    /// The schedule with the changes of the turn so far.
    pub(super) info: ScheduleInfo,
    pub(super) now: Timestamp,
    pub(super) space: Space,
    /// The place in a waiting line that the turn comes from.
    pub(super) seat: Option<Seat>,
    /// Whether no further offer can be made: one of them waits for room.
    pub(super) is_parked: bool,
    /// Whether an instant waits for something else.
    pub(super) is_blocked: bool,
    /// Whether pause or settings have changed.
    pub(super) is_defined: bool,
    /// The jobs that the turn has created, which have not ended.
    pub(super) created: Vec<JobId>,
}

impl Turn {
    /// Begins a turn.
    pub(super) fn new(info: &ScheduleInfo, now: Timestamp, space: Space) -> Self {
        Turn {
            info: info.clone(),
            now,
            space,
            seat: None,
            is_parked: false,
            is_blocked: false,
            is_defined: false,
            created: Vec::new(),
        }
    }

    /// Gives settings and pause a new revision, which is never used again.
    pub(super) fn revise(&mut self) {
        self.info.revision = (self.info.revision + 1).max(self.now.as_micros());
        self.is_defined = true;
    }
}

/// What has become of one step of a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// There may be more.
    Go,
    /// There is no more for now.
    Stop,
}

impl Decision<'_> {
    /// Gives schedules their turn, as far as the batch's budget reaches.
    pub(in super::super) fn schedules(&mut self, chosen: &[ScheduleId], space: Space) {
        for id in chosen {
            if self.schedule_budget.is_spent() {
                self.sealed.more = true;
                break;
            }
            self.turn(*id, None, space);
        }
    }

    /// Gives a schedule its turn whose offer has waited for room.
    pub(in super::super) fn schedule_has_turn(&mut self, id: ScheduleId, offer: Offer, space: Space) {
        let seat = offer.seat;
        if let Some(seat) = self.turn(id, seat, space) {
            // Nothing has taken the place: the room goes to the next in line.
            self.sealed.gained_room.insert(seat.queue());
            let mut answer = answered(offer);
            answer.seat = Some(seat);
            self.sealed.answered.push(answer);
        } else if let Some(seat) = seat
            && !self.full.contains(&seat.queue())
        {
            self.sealed.gained_room.insert(seat.queue());
        }
    }

    /// Gives a schedule its turn, and returns the seat if it is left.
    fn turn(&mut self, id: ScheduleId, seat: Option<Seat>, space: Space) -> Option<Seat> {
        let Some(before) = self.schedule(id) else {
            self.engine.schedules.lost(id);
            return seat;
        };
        let is_parked = seat.is_none() && self.engine.schedules.is_parked(id);
        let mut turn = Turn { is_parked, seat, ..Turn::new(&before, self.now(), space) };
        self.engine.schedules.looks_at(id);
        self.account_for_ends(&mut turn);
        if turn.info.paused.is_none() {
            self.run_turn(&mut turn);
        }
        let Turn { info, seat, is_blocked, is_defined, .. } = turn;
        let has_changed = info.run != before.run || is_defined;
        if has_changed || is_blocked != self.engine.schedules.is_blocked(id) {
            self.engine.schedules.change(Some(&before), Arc::new(info), is_defined, is_blocked);
        }
        seat
    }

    /// Takes notice of the jobs of a schedule that have ended.
    fn account_for_ends(&mut self, turn: &mut Turn) {
        let ends = self.engine.schedules.ends_of(turn.info.id);
        let run = &mut turn.info.run;
        let mut states = Vec::new();
        for (job, state) in ends {
            if let Some(last) = run.last.as_mut().filter(|last| last.job == job) {
                last.outcome = Some(state);
            }
            let of_backfill = run.backfill.as_ref().is_some_and(|backfill| backfill.job == Some(job));
            if !of_backfill {
                states.push(state);
            }
        }
        // After a crash nothing else tells of an end just before it.
        if let Some(last) = run.last.as_mut().filter(|last| last.outcome.is_none()) {
            let ended = match self.job(last.job) {
                Some(job) if job.state.is_done() => Some(job.state.name()),
                Some(_) => None,
                None => Some(StateName::Cancelled),
            };
            last.outcome = ended;
            states.extend(ended);
        }
        for state in states {
            match state {
                StateName::Succeeded => run.failures = 0,
                StateName::Failed => run.failures = run.failures.saturating_add(1),
                StateName::Cancelled
                | StateName::Expired
                | StateName::Scheduled
                | StateName::Blocked
                | StateName::Queued
                | StateName::Running
                | StateName::BackingOff
                | StateName::Cancelling => {}
            }
        }
        let failures = turn.info.run.failures;
        let limit = turn.info.settings.pause_after_failures;
        if limit.is_some_and(|limit| failures >= limit) && turn.info.paused.is_none() && failures > 0 {
            let reason = format!("{failures} jobs in a row have failed");
            tracing::warn!(schedule = &*turn.info.name, failures, "a schedule is paused, because its jobs have failed");
            let since = turn.now;
            self.pause(turn, Pause { since, reason, by_failures: true });
        }
    }

    /// Pauses a schedule. What has come before and does not run is counted.
    pub(super) fn pause(&mut self, turn: &mut Turn, pause: Pause) {
        if let Ok(coming) = self.coming(turn) {
            self.give_up(turn, &coming);
        }
        turn.info.paused = Some(pause);
        turn.info.run.next = None;
        turn.revise();
    }

    /// Counts the instants that have come and do not run any more.
    pub(super) fn give_up(&mut self, turn: &mut Turn, coming: &Coming) {
        let run = &mut turn.info.run;
        if let Some(deferred) = run.deferred.take() {
            run.counts.overlapped.add(1, deferred.instant.nominal);
            self.instants.overlapped += 1;
        }
        let waited = run.waits.take().is_some();
        if let Some(newest) = coming.newest(run.cursor) {
            self.count_late(turn, coming, newest.nominal, waited);
        }
        let run = &mut turn.info.run;
        run.cursor = run.cursor.max(turn.now);
    }

    pub(super) fn coming(&self, turn: &Turn) -> Result<Coming, crate::timetable::TimetableFault> {
        Coming::of(&turn.info, &self.engine.schedules.calendars(), turn.now)
    }

    fn run_turn(&mut self, turn: &mut Turn) {
        follow_clock(turn);
        let coming = match self.coming(turn) {
            Ok(coming) => coming,
            Err(fault) => {
                // The settings were valid once: a time zone has gone, or a calendar's row could not be read.
                let (instant, since) = (turn.info.run.cursor, turn.now);
                let reason = format!("its times can't be computed: {fault}");
                turn.info.run.waits = Some(Waits { instant, since, reason, until: None });
                turn.info.run.next = None;
                turn.is_blocked = true;
                return;
            }
        };
        let waited = turn.info.run.waits.take();
        self.miss(turn, &coming, waited.is_some());
        let mut reason = None;
        let is_cut = loop {
            if turn.created.len() >= JOBS_OF_ONE_MAX || self.schedule_budget.is_spent() {
                self.engine.schedules.call(turn.info.id);
                break true;
            }
            if self.step(turn, &coming, waited.is_some(), &mut reason) == Step::Stop {
                break false;
            }
        };
        self.backfill_step(turn, &coming);
        let run = &turn.info.run;
        // After a crash nothing else tells of instants that a later batch was to decide on.
        let left = is_cut.then(|| coming.oldest(run.cursor)).flatten().map(FutureInstant::from);
        let next = left.or_else(|| coming.future(&turn.info, run.cursor.max(turn.now)));
        let deferred = self.due_deferred(turn).map(|deferred| deferred.instant);
        let oldest = deferred.or_else(|| coming.oldest(run.cursor).map(FutureInstant::from));
        let waits = oldest.filter(|_| turn.is_parked || reason.is_some()).map(|oldest| Waits {
            instant: oldest.nominal,
            since: waited.as_ref().map_or(turn.now, |waited| waited.since),
            reason: reason.or(waited.map(|waited| waited.reason)).unwrap_or_default(),
            until: coming.missed_from(oldest.fires),
        });
        turn.info.run.next = next;
        turn.info.run.waits = waits;
    }

    /// Counts the instants that are too late.
    fn miss(&mut self, turn: &mut Turn, coming: &Coming, waited: bool) {
        if let Some(deferred) = turn.info.run.deferred
            && coming.is_missed(deferred.instant.fires)
        {
            turn.info.run.deferred = None;
            turn.info.run.counts.overlapped.add(1, deferred.instant.nominal);
            self.instants.overlapped += 1;
        }
        if let Some(newest) = coming.newest_missed(turn.info.run.cursor) {
            self.count_late(turn, coming, newest.nominal, waited);
        }
        if turn.info.settings.late == Late::All
            && let Some(last) = coming.last_before_limit(turn.info.run.cursor)
        {
            self.count_late(turn, coming, last, waited);
        }
    }

    /// Counts the instants up to one as missed, or as those that could not be accepted in time.
    fn count_late(&mut self, turn: &mut Turn, coming: &Coming, last: Timestamp, waited: bool) {
        let number = self.count(turn, coming, last);
        let counts = &mut turn.info.run.counts;
        let count = if waited { &mut counts.no_room } else { &mut counts.missed };
        add(count, number, last);
        if waited {
            self.instants.no_room += number;
        } else {
            self.instants.missed += number;
        }
        tracing::warn!(
            schedule = &*turn.info.name, number, newest = %last, waited,
            "instants of a schedule are missed, because they are later than its catch_up"
        );
        turn.info.run.cursor = turn.info.run.cursor.max(last);
    }

    fn count(&mut self, turn: &Turn, coming: &Coming, last: Timestamp) -> u64 {
        let number = coming.count(turn.info.run.cursor, last);
        self.schedule_budget.counted += number;
        number
    }

    /// Decides on the deferred instant, or else on the next one that has come.
    fn step(&mut self, turn: &mut Turn, coming: &Coming, waited: bool, reason: &mut Option<String>) -> Step {
        if let Some(deferred) = self.due_deferred(turn) {
            return match self.fire(turn, coming, deferred.instant, ScheduleOrigin::Scheduled) {
                Ok(_) => {
                    turn.info.run.deferred = None;
                    Step::Go
                }
                Err(why) => {
                    *reason = why;
                    Step::Stop
                }
            };
        }
        let cursor = turn.info.run.cursor;
        let found = match turn.info.settings.late {
            Late::Latest => coming.newest(cursor),
            Late::All => coming.oldest(cursor),
        };
        let Some(instant) = found else { return Step::Stop };
        if turn.info.run.ran.has(instant.nominal) {
            // The clock was set back, and comes to it again.
            turn.info.run.cursor = instant.nominal;
            return Step::Go;
        }
        if self.is_busy(turn) {
            match turn.info.settings.overlap {
                Overlap::Allow => {}
                Overlap::Skip => {
                    self.supersede(turn, coming, instant, waited);
                    self.overlap(turn, instant.nominal);
                    return Step::Go;
                }
                Overlap::QueueOne => {
                    self.supersede(turn, coming, instant, waited);
                    self.defer(turn, coming, instant);
                    return Step::Go;
                }
                Overlap::CancelRunning => {
                    self.supersede(turn, coming, instant, waited);
                    self.defer(turn, coming, instant);
                    self.cancel_last(turn);
                    return Step::Go;
                }
            }
        }
        match self.fire(turn, coming, instant.into(), ScheduleOrigin::Scheduled) {
            Ok(_) => {
                self.supersede(turn, coming, instant, waited);
                turn.info.run.cursor = turn.info.run.cursor.max(instant.nominal);
                Step::Go
            }
            Err(why) => {
                *reason = why;
                Step::Stop
            }
        }
    }

    /// Counts the instants before one that runs in their place.
    fn supersede(&mut self, turn: &mut Turn, coming: &Coming, instant: Instant, waited: bool) {
        if turn.info.settings.late == Late::All {
            turn.info.run.cursor = turn.info.run.cursor.max(instant.nominal);
            return;
        }
        let number = self.count(turn, coming, instant.nominal).saturating_sub(1);
        if number > 0
            && let Some(last) = coming.table.latest(
                turn.info.run.cursor,
                instant.nominal.just_before(),
            )
        {
            let counts = &mut turn.info.run.counts;
            let count = if waited { &mut counts.no_room } else { &mut counts.superseded };
            add(count, number, last.nominal);
            if waited {
                self.instants.no_room += number;
            } else {
                self.instants.superseded += number;
            }
        }
        turn.info.run.cursor = turn.info.run.cursor.max(instant.nominal);
    }

    fn overlap(&mut self, turn: &mut Turn, instant: Timestamp) {
        turn.info.run.counts.overlapped.add(1, instant);
        self.instants.overlapped += 1;
    }

    /// Has an instant wait for the end of the last job, in place of one that waits already.
    fn defer(&mut self, turn: &mut Turn, coming: &Coming, instant: Instant) {
        if let Some(earlier) = turn.info.run.deferred.take() {
            self.overlap(turn, earlier.instant.nominal);
        }
        let until = coming.missed_from(instant.fires);
        turn.info.run.deferred = Some(Deferred { instant: instant.into(), until });
    }

    /// Returns whether the last scheduled job has not ended.
    fn is_busy(&self, turn: &Turn) -> bool {
        let Some(last) = &turn.info.run.last else { return false };
        turn.created.contains(&last.job) || self.job(last.job).is_some_and(|job| !job.state.is_done())
    }

    /// Returns the deferred instant once the last scheduled job has ended. By a clock that was set back, the instant may
    /// have yet to come.
    fn due_deferred(&self, turn: &Turn) -> Option<Deferred> {
        let deferred = turn.info.run.deferred.filter(|_| !self.is_busy(turn))?;
        (deferred.instant.nominal <= turn.now.after(SET_BACK)).then_some(deferred)
    }

    fn cancel_last(&mut self, turn: &Turn) {
        let Some(job) = turn.info.run.last.as_ref().and_then(|last| self.job(last.job)) else { return };
        // A job that is cancelled already, or has just ended, needs no cancel.
        let _: Result<_, Refusal> = self.try_change(&job, &Event::Cancel);
    }

    /// Creates the job of an instant. Otherwise returns why not, unless an earlier offer still waits.
    pub(super) fn fire(
        &mut self,
        turn: &mut Turn,
        coming: &Coming,
        instant: FutureInstant,
        origin: ScheduleOrigin,
    ) -> Result<JobId, Option<String>> {
        if turn.is_parked {
            return Err(None);
        }
        let job = self.offer_instant(turn, instant.nominal, origin)?;
        let run = &mut turn.info.run;
        run.ran.add(instant.nominal, |after| coming.following(after));
        turn.created.push(job);
        match origin {
            ScheduleOrigin::Scheduled => {
                run.last = Some(LastRun { job, instant: instant.nominal, fired: turn.now, outcome: None });
                run.counts.fired.add(1, instant.nominal);
                self.instants.fired.push(turn.now.since(instant.fires));
            }
            ScheduleOrigin::Backfilled | ScheduleOrigin::Triggered => self.instants.backfilled += 1,
        }
        Ok(job)
    }

    /// Counts a job of a schedule against the batch's budget.
    pub(super) fn spend(&mut self, bytes: u64) {
        self.schedule_budget.jobs += 1;
        self.schedule_budget.bytes += bytes;
    }
}

/// Goes on from now if the clock was set back, and from where the schedule had come once the clock is there again.
fn follow_clock(turn: &mut Turn) {
    let Turn { info, now, .. } = turn;
    let run = &mut info.run;
    if run.cursor > now.after(SET_BACK) {
        run.high = run.high.max(Some(run.cursor));
        run.set_back = Some(SetBack { to: *now, from: run.cursor });
        run.cursor = *now;
        run.waits = None;
    } else if let Some(high) = run.high
        && high <= *now
    {
        run.cursor = run.cursor.max(high);
        run.high = None;
    }
}

fn add(count: &mut SkipCount, number: u64, last: Timestamp) {
    count.is_least |= number >= super::times::COUNTED_MAX;
    count.add(number, last);
}
