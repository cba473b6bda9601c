//! Retention: deletes ended jobs after their retention time, and old tombstones and request ids.
//!
//! Every change of a job gets the next feed position, so that an ended job's position tells when it ended, and the
//! feed's index has the ended jobs in the order of their ends. A sweep walks that index, one for each retention time:
//! it looks once at each job that has not changed for that time, deletes it if that is its own retention time, and
//! skips it otherwise. No skipped job can become due behind the sweep, because every change moves a job to the feed's
//! end, ahead of every sweep.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::ControlRefusal;
use crate::{
    clock::StoreTime,
    job::{Position, StateName},
    settings::{Keep, QueueInfo, Retention, limits::KEEP_TIMES_MAX},
    store::sets::{FeedEntry, FeedPage, FeedWant, RequestKey},
};

/// Retention time of tombstones, and of request ids without jobs.
const REMEMBERED_FOR: Duration = Duration::from_secs(24 * 3600);
/// Shortest pause of a sweep once nothing is due, so that ends of single jobs do not cause a flush each.
const REST: Duration = Duration::from_secs(1);
/// Wake time of a sweep that has rows to look at.
const AT_ONCE: StoreTime = StoreTime::FIRST;

/// State of the sweeps, tombstones and request ids that retention deletes.
#[derive(Debug, Default)]
pub(super) struct Sweeping {
    /// The default retention times, for queues that set none.
    server: Retention,
    kept: Sweeps,
    /// The state after the batch's reads; absent while the batch has not changed it.
    next: Option<Sweeps>,
    /// Additions by the batch, which its reads can't have found.
    new: Additions,
}

/// Times at which the batch adds something for retention, on the timeline of retention.
#[derive(Clone, Copy, Debug, Default)]
struct Additions {
    end: Option<StoreTime>,
    tombstone: Option<StoreTime>,
    bare_request: Option<StoreTime>,
}

#[derive(Clone, Debug, Default)]
struct Sweeps {
    by_time: BTreeMap<Duration, Sweep>,
    /// When the oldest tombstone is due; absent if there is none.
    tombstones: Option<StoreTime>,
    /// When the request id that has been without jobs for longest is due; absent if there is none.
    requests: Option<StoreTime>,
}

/// A walk over the feed's index.
#[derive(Clone, Copy, Debug)]
struct Sweep {
    /// The position up to which all jobs have been looked at.
    cursor: Position,
    /// The time before which nothing is due; absent if nothing is left to look at.
    wake: Option<StoreTime>,
}

impl Sweep {
    const BEGIN: Sweep = Sweep { cursor: Position(0), wake: Some(AT_ONCE) };
}

/// The reads of retention in a batch.
#[derive(Debug, Default)]
pub(super) struct RetentionPlan {
    pub(super) feed: Vec<FeedWant>,
    pub(super) tombstones: usize,
    pub(super) requests: usize,
}

impl Sweeping {
    /// Loads the sweeps from their stored cursors.
    pub(super) fn load(server: Retention, kept: &[(Duration, Position)]) -> Self {
        let sweep =
            |(keep, cursor): &(Duration, Position)| (*keep, Sweep { cursor: *cursor, ..Sweep::BEGIN });
        let (tombstones, requests) = (Some(AT_ONCE), Some(AT_ONCE));
        let kept = Sweeps { by_time: kept.iter().map(sweep).collect(), tombstones, requests };
        Sweeping { server, kept, next: None, new: Additions::default() }
    }

    /// Returns the time of the next deletion, by the committed state.
    pub(super) fn wake(&self) -> Option<StoreTime> {
        let Sweeps { by_time, tombstones, requests } = &self.kept;
        by_time.values().filter_map(|sweep| sweep.wake).chain(*tombstones).chain(*requests).min()
    }

    /// Returns the sweeps with the batch's changes so far.
    fn sweeps(&self) -> &Sweeps {
        self.next.as_ref().unwrap_or(&self.kept)
    }

    fn change(&mut self) -> &mut Sweeps {
        self.next.get_or_insert_with(|| self.kept.clone())
    }

    /// Wakes all sweeps, because ended jobs may be older than was known.
    pub(super) fn look_again(&mut self) {
        for sweep in self.kept.by_time.values_mut() {
            sweep.wake = Some(AT_ONCE);
        }
    }

    /// Notes that a job has ended.
    pub(super) fn ended(&mut self, now: StoreTime) {
        self.new.end = Some(now);
    }

    /// Notes that a job was deleted.
    pub(super) fn deleted(&mut self, now: StoreTime) {
        self.new.tombstone = Some(now);
    }

    /// Notes that a request id may have lost its last job.
    pub(super) fn request_bare(&mut self, now: StoreTime) {
        self.new.bare_request = Some(now);
    }

    /// Plans the reads of a batch, at most `limit` rows in all. Each part that is due has an equal share, so that none
    /// starves another.
    pub(super) fn plan(&self, now: StoreTime, limit: usize) -> RetentionPlan {
        let Sweeps { by_time, tombstones, requests } = &self.kept;
        let is_due = |wake: Option<StoreTime>| wake.is_some_and(|wake| wake <= now);
        let due: Vec<_> = by_time.iter().filter(|(_, sweep)| is_due(sweep.wake)).collect();
        let rest = [is_due(*tombstones), is_due(*requests)];
        let parts = due.len() + rest.iter().filter(|due| **due).count();
        let share = (limit / parts.max(1)).max(1);
        let [tombstones, requests] = rest.map(|due| if due { share + 1 } else { 0 });
        let want =
            |(keep, sweep): (&Duration, &Sweep)| FeedWant { keep: *keep, after: sweep.cursor, limit: share };
        RetentionPlan { feed: due.into_iter().map(want).collect(), tombstones, requests }
    }

    /// Advances a sweep over the changes of a page that are at least as old as its retention time, and returns their
    /// number. `counted` returns the time of a change.
    pub(super) fn sweep(
        &mut self,
        want: FeedWant,
        page: &FeedPage,
        now: StoreTime,
        counted: impl Fn(&FeedEntry) -> StoreTime,
    ) -> usize {
        let FeedWant { keep, after, .. } = want;
        // If the batch restarts the sweep, the page belongs to the old walk.
        if self.sweeps().by_time.get(&keep).is_none_or(|sweep| sweep.cursor != after) {
            return 0;
        }
        let is_old = |changed: StoreTime| changed < now.before(keep);
        let old = page.places.iter().take_while(|place| is_old(counted(place))).count();
        let next = page.places.get(old).map(counted);
        let wake = match next {
            Some(changed) => Some(rested(changed.after(keep), now)),
            None if page.is_cut => Some(AT_ONCE),
            None => None,
        };
        let reached = old.checked_sub(1).and_then(|last| page.places.get(last)).map(|place| place.position);
        if let Some(sweep) = self.change().by_time.get_mut(&keep) {
            sweep.cursor = reached.unwrap_or(sweep.cursor);
            sweep.wake = wake;
        }
        old
    }

    /// Returns the position up to which tombstones are deleted.
    pub(super) fn forget_tombstones(
        &mut self,
        oldest: &[(Position, StoreTime)],
        now: StoreTime,
        limit: usize,
    ) -> Option<Position> {
        let over = oldest.iter().take(limit).take_while(|(_, deleted)| *deleted < now.before(REMEMBERED_FOR));
        let over: Vec<Position> = over.map(|(position, _)| *position).collect();
        let next = oldest.get(over.len()).map(|(_, deleted)| next_look(*deleted, now));
        self.change().tombstones = next;
        over.last().copied()
    }

    /// Returns the request ids that are deleted.
    pub(super) fn forget_requests(
        &mut self,
        oldest: &[(StoreTime, RequestKey)],
        now: StoreTime,
        limit: usize,
    ) -> Vec<RequestKey> {
        let over = oldest.iter().take(limit).take_while(|(bare, _)| *bare < now.before(REMEMBERED_FOR));
        let over: Vec<RequestKey> = over.map(|(_, key)| *key).collect();
        let next = oldest.get(over.len()).map(|(bare, _)| next_look(*bare, now));
        self.change().requests = next;
        over
    }

    /// Returns the retention times of a queue's ended jobs; without a queue, the server's.
    pub(super) fn of_queue(&self, queue: Option<&QueueInfo>) -> Retention {
        queue.map_or(self.server, |queue| queue.settings.retention.over(self.server))
    }

    /// Returns all retention times in use.
    fn times<'a>(&self, queues: impl IntoIterator<Item = &'a QueueInfo>) -> BTreeSet<Duration> {
        let own = queues.into_iter().flat_map(|queue| times_of(self.of_queue(Some(queue))));
        own.chain(times_of(self.server)).collect()
    }

    /// Checks that these queues do not use too many different retention times.
    pub(super) fn check_times<'a>(
        &self,
        queues: impl IntoIterator<Item = &'a QueueInfo>,
    ) -> Result<(), ControlRefusal> {
        if self.times(queues).len() > KEEP_TIMES_MAX {
            return Err(ControlRefusal::TooManyRetentionTimes(KEEP_TIMES_MAX));
        }
        Ok(())
    }

    /// Sets up one sweep for each retention time of these queues, and restarts the sweeps for which `anew` returns
    /// true, because they may have passed jobs that they would delete now.
    pub(super) fn replan<'a>(
        &mut self,
        queues: impl IntoIterator<Item = &'a QueueInfo>,
        anew: impl Fn(Duration) -> bool,
    ) {
        let times = self.times(queues);
        let sweeps = &mut self.change().by_time;
        sweeps.retain(|keep, _| times.contains(keep));
        for keep in times {
            let sweep = sweeps.entry(keep).or_insert(Sweep::BEGIN);
            if anew(keep) {
                *sweep = Sweep::BEGIN;
            }
        }
    }

    /// Returns the rows that the batch writes: the sweeps that have moved, and those that have ended.
    pub(super) fn rows(&self) -> (Vec<(Duration, Position)>, Vec<Duration>) {
        let Some(next) = &self.next else { return (Vec::new(), Vec::new()) };
        let before = &self.kept.by_time;
        let moved = next
            .by_time
            .iter()
            .filter(|(keep, sweep)| before.get(keep).is_none_or(|before| before.cursor != sweep.cursor));
        let gone = before.keys().filter(|keep| !next.by_time.contains_key(keep)).copied().collect();
        (moved.map(|(keep, sweep)| (*keep, sweep.cursor)).collect(), gone)
    }

    /// Takes over the changes of the batch, which is on disk.
    pub(super) fn commit(&mut self) {
        if let Some(next) = self.next.take() {
            self.kept = next;
        }
        let Additions { end, tombstone, bare_request } = std::mem::take(&mut self.new);
        if let Some(now) = end {
            for (keep, sweep) in &mut self.kept.by_time {
                sweep.wake.get_or_insert_with(|| rested(now.after(*keep), now));
            }
        }
        let over = |since: Option<StoreTime>| since.map(|since| since.after(REMEMBERED_FOR));
        self.kept.tombstones = self.kept.tombstones.or(over(tombstone));
        self.kept.requests = self.kept.requests.or(over(bare_request));
    }

    /// Drops the changes of the batch, which was not committed.
    pub(super) fn discard(&mut self) {
        self.next = None;
        self.new = Additions::default();
    }
}

impl Retention {
    /// Returns the retention time of a job that ended in this state; `None` for a state that is no end.
    pub(super) fn of(&self, state: StateName) -> Option<Keep> {
        match state {
            StateName::Succeeded => Some(self.succeeded),
            StateName::Failed => Some(self.failed),
            StateName::Cancelled => Some(self.cancelled),
            StateName::Expired => Some(self.expired),
            StateName::Scheduled
            | StateName::Blocked
            | StateName::Queued
            | StateName::Running
            | StateName::BackingOff
            | StateName::Cancelling => None,
        }
    }
}

/// Returns the finite retention times of a setting.
pub(super) fn times_of(retention: Retention) -> impl Iterator<Item = Duration> {
    let Retention { succeeded, failed, cancelled, expired } = retention;
    [succeeded, failed, cancelled, expired].into_iter().filter_map(|keep| match keep {
        Keep::For(time) => Some(time),
        Keep::Forever => None,
    })
}

/// Returns when to look again at a tombstone or request id that has been kept since `since`.
fn next_look(since: StoreTime, now: StoreTime) -> StoreTime {
    match since.after(REMEMBERED_FOR) {
        // The limit was reached: more is due at once.
        due if due < now => AT_ONCE,
        due => rested(due, now),
    }
}

fn rested(due: StoreTime, now: StoreTime) -> StoreTime {
    due.max(now.after(REST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> StoreTime {
        StoreTime::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn sweeps_that_are_behind_leave_their_share_to_requests_and_tombstones() {
        let times = [(Duration::from_secs(1), Position(0)), (Duration::from_secs(2), Position(0))];
        let sweeping = Sweeping::load(Retention::default(), &times);
        let plan = sweeping.plan(at(0), 40);
        assert_eq!(plan.feed.iter().map(|want| want.limit).collect::<Vec<_>>(), [10, 10]);
        assert_eq!(
            (plan.tombstones, plan.requests),
            (11, 11),
            "and one more, which says when the next is over"
        );
        assert_eq!(sweeping.plan(at(0), 1).requests, 2, "one at least");
    }

    #[test]
    fn a_sweep_that_a_batch_begins_anew_is_not_led_by_the_page_of_the_old_one() {
        let keep = Duration::from_secs(9);
        let mut sweeping = Sweeping::load(Retention::default(), &[(keep, Position(70))]);
        let queue = QueueInfo {
            name: crate::job::Name::new(1, "mail"),
            settings: crate::settings::QueueSettings {
                retention: crate::settings::QueueRetention {
                    succeeded: Some(Keep::For(keep)),
                    ..Default::default()
                },
                ..Default::default()
            },
            paused: false,
            declared: false,
            formerly_declared: false,
            revision: 0,
        };
        sweeping.replan([&queue], |_| true);
        let want = FeedWant { keep, after: Position(70), limit: 9 };
        assert_eq!(sweeping.sweep(want, &FeedPage::default(), at(1), |_| at(0)), 0);
        sweeping.commit();
        let sweep = sweeping.kept.by_time[&keep];
        assert_eq!((sweep.cursor, sweep.wake), (Position(0), Some(AT_ONCE)));
    }

    #[test]
    fn what_a_batch_brings_is_not_forgotten_for_what_it_saw() {
        let mut sweeping = Sweeping::load(Retention::default(), &[(Duration::from_secs(9), Position(0))]);
        sweeping.ended(at(1));
        sweeping.request_bare(at(1));
        let want = FeedWant { keep: Duration::from_secs(9), after: Position(0), limit: 9 };
        sweeping.sweep(want, &FeedPage::default(), at(1), |_| at(0));
        sweeping.forget_requests(&[], at(1), 9);
        sweeping.forget_tombstones(&[], at(1), 9);
        sweeping.commit();
        assert_eq!(sweeping.wake(), Some(at(10)));
        assert_eq!(sweeping.kept.requests, Some(at(1).after(REMEMBERED_FOR)));
        assert_eq!(sweeping.kept.tombstones, None);
    }

    #[test]
    fn requests_go_when_a_day_has_passed_and_the_next_one_is_waited_for() {
        let mut sweeping = Sweeping::load(Retention::default(), &[]);
        let day = REMEMBERED_FOR.as_secs() as i64;
        let bare = [(at(0), [1; 16]), (at(5), [2; 16])];
        assert_eq!(sweeping.forget_requests(&bare, at(day + 1), 9), [[1; 16]]);
        assert_eq!(sweeping.forget_tombstones(&[], at(day + 1), 9), None);
        sweeping.discard();
        assert_eq!(sweeping.wake(), Some(AT_ONCE), "the batch came to nothing");
        sweeping.forget_requests(&bare, at(day + 1), 9);
        sweeping.forget_tombstones(&[], at(day + 1), 9);
        sweeping.commit();
        assert_eq!(sweeping.wake(), Some(at(day + 5)));
    }
}
