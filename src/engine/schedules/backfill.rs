//! Backfills: instants of the past that run one after the other. A backfill is a part of its schedule's row, and goes on
//! after a restart.

use super::{super::{ControlRefusal, decision::Decision}, ScheduleRefusal, times::Coming, turn::Turn};
use crate::{
    clock::Timestamp,
    job::ScheduleOrigin,
    settings::{Backfill, BackfillEnd},
    timetable::Instant,
};

/// Limit of the instants of a backfill.
pub(crate) const BACKFILL_MAX: u32 = 10_000;

/// A range of the past to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackfillRange {
    /// Its start.
    pub from: Timestamp,
    /// Its end, included.
    pub until: Timestamp,
    /// Limit of its instants; more are a refusal.
    pub at_most: u32,
    /// Whether instants that have run are run again.
    pub again: bool,
    /// Whether only to tell what would run.
    pub dry_run: bool,
}

impl Decision<'_> {
    /// Begins a backfill, or tells what it would run.
    pub(super) fn begin_backfill(
        &mut self,
        turn: &mut Turn,
        range: BackfillRange,
    ) -> Result<Vec<Timestamp>, ControlRefusal> {
        let name = || turn.info.name.to_string();
        let running = turn.info.run.backfill.as_ref().is_some_and(|backfill| backfill.end.is_none());
        if running && !range.dry_run {
            return Err(ScheduleRefusal::BackfillRunning(name()).into());
        }
        let coming = self.coming(turn).map_err(ControlRefusal::from)?;
        // What has not been decided yet is the schedule's own.
        let decided = if turn.info.paused.is_some() { turn.now } else { turn.info.run.cursor };
        let until = range.until.min(decided);
        let mut cursor = range.from.just_before();
        let mut instants = Vec::new();
        while let Some(instant) = next(turn, &coming, cursor, until, range.again) {
            if instants.len() as u64 >= u64::from(range.at_most) {
                return Err(ScheduleRefusal::BackfillTooLarge { schedule: name(), at_most: range.at_most }.into());
            }
            instants.push(instant.nominal);
            cursor = instant.nominal;
        }
        if range.dry_run {
            return Ok(instants);
        }
        let BackfillRange { from, at_most, again, .. } = range;
        let end = instants.is_empty().then_some(BackfillEnd { at: turn.now, cancelled: false });
        turn.info.run.backfill = Some(Backfill {
            from,
            until,
            at_most,
            again,
            cursor: from.just_before(),
            created: 0,
            job: None,
            started: turn.now,
            waits: String::new(),
            end,
        });
        self.engine.schedules.call(turn.info.id);
        Ok(instants)
    }

    /// Creates the next job of a backfill once the last one has ended.
    pub(super) fn backfill_step(&mut self, turn: &mut Turn, coming: &Coming) {
        let Some(mut backfill) = turn.info.run.backfill.take_if(|backfill| backfill.end.is_none()) else { return };
        let is_busy = backfill.job.is_some_and(|job| self.job(job).is_some_and(|job| !job.state.is_done()));
        if !is_busy {
            backfill.job = None;
            match next(turn, coming, backfill.cursor, backfill.until, backfill.again) {
                Some(instant) if backfill.created < backfill.at_most => {
                    match self.fire(turn, coming, instant.into(), ScheduleOrigin::Backfilled) {
                        Ok(job) => {
                            backfill.job = Some(job);
                            backfill.cursor = instant.nominal;
                            backfill.created += 1;
                            backfill.waits.clear();
                        }
                        Err(why) => backfill.waits = why.unwrap_or(backfill.waits),
                    }
                }
                Some(_) | None => {
                    backfill.end = Some(BackfillEnd { at: turn.now, cancelled: false });
                    backfill.waits.clear();
                }
            }
        }
        turn.info.run.backfill = Some(backfill);
    }
}

/// Returns the next instant of a backfill. The one that waits for the last scheduled job is the schedule's own.
fn next(turn: &Turn, coming: &Coming, cursor: Timestamp, until: Timestamp, again: bool) -> Option<Instant> {
    let deferred = turn.info.run.deferred.map(|deferred| deferred.instant.nominal);
    let mut after = cursor;
    loop {
        let instant = coming.table.next(after).filter(|instant| instant.nominal <= until)?;
        let ran_until = turn.info.run.ran.end_of(instant.nominal).filter(|_| !again);
        match deferred.filter(|deferred| *deferred == instant.nominal).or(ran_until) {
            Some(end) => after = end,
            None => return Some(instant),
        }
    }
}
