//! Schedules: an instant runs once at most, and each that comes is accounted for.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use jobmill::{
    clock::Timestamp,
    engine::{BackfillRange, ScheduleAction, ScheduleDone},
    job::{Job, JobId, ScheduleId, ScheduleOrigin, ScheduledBy},
    settings::{Backfill, Late, Overlap, ScheduleInfo, ScheduleRun, ScheduleSettings},
    store::Reader,
};

use super::{
    instants::Instants,
    ledger::{Ledger, Violation, promise},
};

/// Limit up to which instants are counted exactly.
const COUNTED_MAX: u64 = 10_000;
/// Smallest step back of the clock that schedules follow, in microseconds.
const SET_BACK: i64 = 1_000_000;

/// The ledger's knowledge of all schedules.
#[derive(Debug, Default)]
pub(crate) struct Schedules {
    known: BTreeMap<String, Known>,
    /// The instants that have had a job by coming, of all schedules that ever were.
    instants: HashSet<(ScheduleId, i64)>,
    /// The jobs of the batch that schedules created.
    created: Vec<ScheduledBy>,
    /// The jobs that callers triggered in the batch.
    triggered: HashSet<JobId>,
    pub(crate) heard: Scheduled,
}

/// Counts of what schedules have done, to see that programs cover enough.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scheduled {
    /// Jobs of instants that came.
    pub(crate) fired: usize,
    pub(crate) backfilled: usize,
    pub(crate) triggered: usize,
    /// Instants that came and did not run.
    pub(crate) left_out: u64,
    /// Steps of a schedule to a clock that was set back.
    pub(crate) set_back: usize,
    /// Schedules with an instant that waited.
    pub(crate) waiting: usize,
}

impl Scheduled {
    pub(crate) fn and(self, other: Scheduled) -> Scheduled {
        Scheduled {
            fired: self.fired + other.fired,
            backfilled: self.backfilled + other.backfilled,
            triggered: self.triggered + other.triggered,
            left_out: self.left_out + other.left_out,
            set_back: self.set_back + other.set_back,
            waiting: self.waiting + other.waiting,
        }
    }
}

/// The ledger's knowledge of a schedule. Instants are in microseconds.
#[derive(Debug)]
struct Known {
    id: ScheduleId,
    settings: ScheduleSettings,
    instants: Instants,
    /// The instant up to which everything is decided, as the store says.
    cursor: i64,
    /// The latest `cursor` since the schedule got its times.
    furthest: i64,
    /// The earliest time at which it may have got its times, by a clock that was set back since.
    earliest: i64,
    /// Number of instants that have run, wait for the last job, or are counted for what kept them from running.
    accounted: i64,
    fired: u64,
    left_out: u64,
    /// The instants that have run, by coming or by a backfill.
    ran: BTreeSet<i64>,
    is_paused: bool,
    /// The last job of an instant that came.
    last: Option<JobId>,
    /// The instant that waits for the end of the last job.
    deferred: Option<i64>,
    /// The latest backfill.
    backfill: Option<Backfill>,
    /// The instants that it is to run, unless the times have changed since.
    owed: BTreeSet<i64>,
    /// Whether the schedule has had other times before.
    had_other_times: bool,
    /// When it got its times, by the clock of then.
    since: i64,
}

impl Schedules {
    /// Takes in a change that a caller requested.
    pub(super) fn hear_change(
        &mut self,
        name: &str,
        action: &ScheduleAction,
        done: &ScheduleDone,
        now: Timestamp,
    ) -> Result<(), Violation> {
        let now = now.as_micros();
        self.triggered.extend(done.job.map(|(job, _)| job));
        let info = done.schedule.as_deref();
        match (action, info) {
            (ScheduleAction::Delete, None) => {
                let known = self.known.remove(name);
                promise!(known.is_some(), "{name} was deleted and was not there");
            }
            (ScheduleAction::Create(settings), Some(info)) => {
                let known = Known::created(settings, info, now)?;
                let before = self.known.insert(name.to_owned(), known);
                promise!(before.is_none(), "{name} was created and was there: {before:?}");
            }
            (_, Some(info)) => {
                let known = self.known.get_mut(name).ok_or_else(|| format!("{name} is unknown"))?;
                known.hear_change(action, info, now)?;
                if let ScheduleAction::Backfill(range) = action {
                    known.hear_backfill(*range, info, &done.instants, now)?;
                }
            }
            (_, None) => return Err(format!("{action:?} of {name} left nothing")),
        }
        Ok(())
    }

    /// Returns the newest job that was triggered in the batch so far.
    pub(super) fn last_triggered(&self) -> Option<JobId> {
        self.triggered.iter().max().copied()
    }

    /// Takes in a new job, before the ledger knows of it.
    pub(super) fn hear_job(
        &mut self,
        job: &Job,
        now: Timestamp,
        is_live: impl Fn(JobId) -> bool,
    ) -> Result<(), Violation> {
        let Some(by) = job.spec.schedule() else { return Ok(()) };
        let (instant, now) = (by.instant.as_micros(), now.as_micros());
        if by.origin == ScheduleOrigin::Triggered {
            self.heard.triggered += 1;
            promise!(self.triggered.contains(&job.id), "nobody triggered {}: {by:?}", job.id);
            promise!(instant == now, "{by:?} was triggered at {now}");
            return Ok(());
        }
        if by.origin == ScheduleOrigin::Scheduled {
            promise!(self.instants.insert((by.id, instant)), "the instant of {by:?} has two jobs");
        }
        let Some(known) = self.known.get_mut(&by.name).filter(|known| known.id == by.id) else {
            return Err(format!("{} is of a schedule that is not there: {by:?}", job.id));
        };
        promise!(!known.is_paused, "{} is of a paused schedule: {by:?}", job.id);
        promise!(known.instants.has(instant), "no time of {known:?} is that of {by:?}");
        if by.origin == ScheduleOrigin::Scheduled {
            self.heard.fired += 1;
            known.hear_fired(job.id, instant, now, is_live)?;
        } else {
            self.heard.backfilled += 1;
            let Some(backfill) = known.backfill.as_ref() else {
                return Err(format!("{by:?} is of no backfill"));
            };
            let is_in_range = backfill.from <= by.instant && by.instant <= backfill.until;
            promise!(is_in_range, "{by:?} is of no backfill: {backfill:?}");
            promise!(backfill.again || !known.ran.contains(&instant), "{by:?} was backfilled and had run");
        }
        self.created.push(by.clone());
        Ok(())
    }
}

impl Ledger {
    /// Takes in the schedules as they are after a batch.
    pub(crate) fn hear_schedules(
        &mut self,
        reader: &dyn Reader,
        now: Timestamp,
        is_settled: bool,
    ) -> Result<(), Violation> {
        let stored = reader.schedules(None, usize::MAX >> 1).map_err(|error| error.to_string())?;
        let names: Vec<_> = stored.iter().map(|info| info.name.to_string()).collect();
        promise!(
            self.schedules.known.keys().eq(&names),
            "{names:?} are not the schedules whose changes were acknowledged"
        );
        let created = std::mem::take(&mut self.schedules.created);
        self.schedules.triggered.clear();
        for info in &stored {
            let Some(known) = self.schedules.known.get_mut(&*info.name) else { continue };
            promise!(known.id == info.id, "{} is another schedule: {info:?}", info.name);
            known.hear_turn(info, now.as_micros(), &mut self.schedules.heard)?;
            let of_this: Vec<_> = created.iter().filter(|by| by.id == info.id).collect();
            promise!(info.paused.is_none() || of_this.is_empty(), "{of_this:?} are of a paused schedule");
            known.ran.extend(of_this.iter().map(|by| by.instant.as_micros()));
            known.check_backfill(&info.run)?;
            if is_settled && !known.is_paused {
                known.check_settled(info, now.as_micros())?;
            }
        }
        if is_settled {
            self.check_waiting(&stored)?;
        }
        Ok(())
    }

    /// Checks that an instant waits only for the end of a job, for a queue, or for room in it.
    fn check_waiting(&mut self, stored: &[ScheduleInfo]) -> Result<(), Violation> {
        /// Size of a job of a schedule, more or less.
        const BYTES: u64 = 2_000;
        for info in stored.iter().filter(|info| info.run.waits.is_some()) {
            self.schedules.heard.waiting += 1;
            let Some(queue) = self.queues.get(info.queue()).filter(|queue| queue.exists) else { continue };
            let live = || self.jobs.values().filter(|job| job.queue == info.queue() && !job.state.is_done());
            let (jobs, bytes) = (live().count() as u64, live().map(|job| job.bytes).sum::<u64>());
            let is_full = jobs >= queue.settings.max_jobs || bytes + BYTES > queue.settings.max_bytes;
            promise!(is_full, "an instant waits for room where {jobs} jobs are: {info:?}");
        }
        Ok(())
    }
}

impl Known {
    fn created(settings: &ScheduleSettings, info: &ScheduleInfo, now: i64) -> Result<Self, Violation> {
        let cursor = info.run.cursor.as_micros();
        promise!(cursor == now, "a schedule that was created at {now} begins at {cursor}");
        promise!(accounted_of(&info.run) == 0 && info.paused.is_none(), "a new schedule has run: {info:?}");
        Ok(Known {
            id: info.id,
            settings: settings.clone(),
            instants: Instants::of(&settings.times, Timestamp::from_micros(now)),
            cursor,
            furthest: cursor,
            earliest: now,
            accounted: 0,
            fired: 0,
            left_out: 0,
            ran: BTreeSet::new(),
            is_paused: false,
            last: None,
            deferred: None,
            backfill: None,
            owed: BTreeSet::new(),
            had_other_times: false,
            since: now,
        })
    }

    /// Takes in a change that a caller requested.
    fn hear_change(
        &mut self,
        action: &ScheduleAction,
        info: &ScheduleInfo,
        now: i64,
    ) -> Result<(), Violation> {
        let cursor = info.run.cursor.as_micros();
        let mut expected = self.cursor;
        match action {
            ScheduleAction::Update { change, .. } => {
                let settings = change.applied(&self.settings);
                if settings.times != self.settings.times {
                    self.account(&info.run, now)?;
                    self.instants = Instants::of(&settings.times, Timestamp::from_micros(now));
                    (expected, self.earliest) = (now, now);
                    (self.furthest, self.since, self.had_other_times) = (now, now, true);
                    self.owed.clear();
                }
                self.settings = settings;
            }
            ScheduleAction::Pause(_) if !self.is_paused => {
                self.account(&info.run, now)?;
                expected = self.cursor.max(now);
                self.is_paused = true;
            }
            ScheduleAction::Resume if self.is_paused => {
                expected = self.cursor.max(now);
                self.is_paused = false;
            }
            _ => {}
        }
        promise!(cursor == expected, "{action:?} at {now} went on to {cursor}: {self:?}");
        self.go_to(cursor);
        let accounted = accounted_of(&info.run);
        promise!(accounted == self.accounted, "{action:?} at {now} accounted for {accounted}: {self:?}");
        Ok(())
    }

    /// Takes in the begin of a backfill and the instants that it is to run.
    fn hear_backfill(
        &mut self,
        range: BackfillRange,
        info: &ScheduleInfo,
        told: &[Timestamp],
        now: i64,
    ) -> Result<(), Violation> {
        let Some(begun) = info.run.backfill.clone() else { return Err(format!("{range:?} began nothing")) };
        let decided = if self.is_paused { now } else { self.cursor };
        let is_past = begun.until <= range.until && begun.until.as_micros() <= decided;
        promise!(is_past, "{range:?} of {self:?} became {begun:?}");
        self.owed = told.iter().map(|instant| instant.as_micros()).collect();
        if !self.had_other_times {
            let until = begun.until.as_micros();
            // The instant that waits for the last job is the schedule's own.
            let waits = info.run.deferred.map(|deferred| deferred.instant.nominal.as_micros());
            let following = |after: &i64| self.instants.next(*after).filter(|next| *next <= until);
            let in_range = std::iter::successors(following(&(range.from.as_micros() - 1)), following);
            let expected: BTreeSet<_> = in_range
                .filter(|one| range.again || !self.ran.contains(one))
                .filter(|one| waits != Some(*one))
                .collect();
            promise!(self.owed == expected, "{range:?} is to run {told:?}, not {expected:?}: {self:?}");
        }
        self.backfill = Some(begun);
        Ok(())
    }

    /// Checks that a backfill that has come to its end has run its instants.
    fn check_backfill(&mut self, run: &ScheduleRun) -> Result<(), Violation> {
        let is_done = |one: &&Backfill| one.end.is_some_and(|end| !end.cancelled);
        if let Some(done) = run.backfill.as_ref().filter(is_done) {
            let left = self.owed.iter().find(|instant| !self.ran.contains(instant));
            promise!(left.is_none(), "{left:?} was not backfilled: {done:?} {self:?}");
        }
        Ok(())
    }

    /// Takes in the job of an instant that came.
    fn hear_fired(
        &mut self,
        job: JobId,
        instant: i64,
        now: i64,
        is_live: impl Fn(JobId) -> bool,
    ) -> Result<(), Violation> {
        let ScheduleSettings { overlap, late, catch_up, .. } = self.settings;
        promise!(instant > self.earliest, "{instant} ran before the schedule had these times: {self:?}");
        let lateness = (now - instant).unsigned_abs();
        let in_time = catch_up.is_none_or(|longest| u128::from(lateness) <= longest.as_micros());
        promise!(in_time, "{instant} ran too late, at {now}: {self:?}");
        let is_busy = self.last.is_some_and(&is_live);
        promise!(!is_busy || overlap == Overlap::Allow, "{instant} ran beside the last job: {self:?}");
        let was_deferred = self.deferred == Some(instant);
        let earliest = if was_deferred { instant - SET_BACK } else { instant };
        promise!(earliest <= now, "{instant} ran before its time, at {now}: {self:?}");
        promise!(!self.ran.contains(&instant), "{instant} came at {now}, and had run: {self:?}");
        if late == Late::Latest && matches!(overlap, Overlap::Skip | Overlap::Allow) && !was_deferred {
            let newer = self.next_to_run(instant).filter(|newer| *newer <= now);
            promise!(newer.is_none(), "{instant} ran at {now} in place of {newer:?}: {self:?}");
        }
        self.last = Some(job);
        self.fired += 1;
        Ok(())
    }

    /// Takes in how far the schedule has come in a batch, after what callers requested.
    fn hear_turn(&mut self, info: &ScheduleInfo, now: i64, heard: &mut Scheduled) -> Result<(), Violation> {
        let (run, before) = (&info.run, self.left_out);
        let cursor = run.cursor.as_micros();
        self.earliest = self.earliest.min(now);
        let mut settings = ScheduleSettings::clone(&info.settings);
        settings.times.spec.crons.clone_from(&self.settings.times.spec.crons);
        promise!(settings == self.settings, "the settings {settings:?} are not those of {self:?}");
        promise!(run.counts.fired.number == self.fired, "{} of {self:?} have run", run.counts.fired.number);
        let pauses = info.paused.is_some() && !self.is_paused;
        promise!(info.paused.is_some() || !self.is_paused, "the pause of {self:?} is over");
        if self.is_paused {
            promise!(cursor == self.cursor, "a paused schedule came to {cursor}: {self:?}");
        } else if pauses {
            let by_failures = info.paused.as_ref().is_some_and(|pause| pause.by_failures);
            promise!(by_failures && self.settings.pause_after_failures.is_some(), "{self:?} was paused");
            promise!(cursor == self.cursor.max(now), "a pause at {now} is from {cursor} on: {self:?}");
            self.account(run, now)?;
            self.is_paused = true;
        } else if cursor < self.cursor {
            heard.set_back += 1;
            let is_set_back = now + SET_BACK < self.cursor && cursor == now;
            promise!(is_set_back, "at {now} it went back to {cursor}, and no clock did: {self:?}");
        } else {
            promise!(cursor == self.cursor || cursor <= now, "it was ahead at {cursor}: {self:?}");
            self.account(run, cursor)?;
        }
        self.go_to(cursor);
        let accounted = accounted_of(run);
        promise!(accounted == self.accounted, "{accounted} are accounted for, and none came: {self:?}");
        self.deferred = run.deferred.map(|deferred| deferred.instant.nominal.as_micros());
        self.left_out = left_out_of(run);
        heard.left_out += self.left_out - before;
        Ok(())
    }

    fn go_to(&mut self, cursor: i64) {
        self.cursor = cursor;
        self.furthest = self.furthest.max(cursor);
    }

    /// Checks that each instant up to `until` is accounted for. Those that had come before a clock was set back are
    /// accounted for once more unless they have run, or a newer one has.
    fn account(&mut self, run: &ScheduleRun, until: i64) -> Result<(), Violation> {
        let accounted = accounted_of(run);
        let number = accounted - self.accounted;
        let came = match until > self.cursor && !self.is_paused {
            true => self.instants.count(self.cursor, until, COUNTED_MAX),
            false => 0,
        };
        let has_run = until > self.cursor && self.ran.range(self.cursor + 1..=until).next().is_some();
        let is_repeated = has_run || (self.cursor < self.furthest && self.furthest <= until);
        let is_right = match came as i64 {
            _ if came == COUNTED_MAX => is_repeated || number >= came as i64,
            came if is_repeated => (0..=came).contains(&number),
            came => number == came,
        };
        let from = self.cursor;
        promise!(
            is_right,
            "{number} of the {came} instants from {from} to {until} are accounted for: {self:?} {run:?}"
        );
        self.accounted = accounted;
        Ok(())
    }

    /// Returns the first instant after another one that has not run.
    fn next_to_run(&self, after: i64) -> Option<i64> {
        let mut next = self.instants.next(after)?;
        while self.ran.contains(&next) {
            next = self.instants.next(next)?;
        }
        Some(next)
    }

    /// Checks that an instant that has come has run, or that the schedule says why not, and that it tells the next one.
    fn check_settled(&self, info: &ScheduleInfo, now: i64) -> Result<(), Violation> {
        if self.had_other_times && self.cursor < self.since {
            // The clock was set back beyond the change: instants before it may run or not.
            return Ok(());
        }
        let (run, next) = (&info.run, self.next_to_run(self.cursor));
        let has_come = next.is_some_and(|next| next <= now);
        let waits = run.waits.is_some();
        promise!(
            !has_come || waits,
            "{next:?} has come by {now}, and nothing says why it does not run: {info:?}"
        );
        // A small correction of the clock is no step back.
        let is_near = run.waits.as_ref().is_some_and(|waits| waits.instant.as_micros() <= now + SET_BACK);
        let is_reason = has_come || run.deferred.is_some() || is_near;
        promise!(!waits || is_reason, "nothing waits at {now}: {info:?}");
        if !waits {
            let told = run.next.map(|next| next.nominal.as_micros());
            promise!(told == next, "{next:?} is next at {now}, and {told:?} is told: {info:?}");
        }
        Ok(())
    }
}

/// Returns the number of instants that are accounted for.
fn accounted_of(run: &ScheduleRun) -> i64 {
    let number = run.counts.fired.number + left_out_of(run) + u64::from(run.deferred.is_some());
    number as i64
}

/// Returns the number of instants that did not run.
fn left_out_of(run: &ScheduleRun) -> u64 {
    let counts = &run.counts;
    let counts = [counts.missed, counts.superseded, counts.overlapped, counts.no_room];
    counts.iter().map(|count| count.number).sum()
}
