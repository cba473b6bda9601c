//! Matching of changes that watchers by filter share. Changes are sorted by queue when they are published, and matched
//! against each distinct filter once, however many watchers have it. A watcher whose queue is quiet costs nothing.
//!
//! This needs no task of its own. Of the watchers that wait at a queue's [`Feed`] one is woken, and does the work for
//! all; if it goes away first, the wake-up passes to the next.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Weak,
        atomic::{AtomicI64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::Hub;
use crate::job::{Change, JobFilter, Position};

/// Maximum number of a queue's changes that wait to be matched against filters. Over it, they are dropped, and watchers
/// read from the store instead.
const PENDING_MAX: usize = 16_384;
/// Maximum number of changes that are kept for the watchers of a filter.
const KEPT_MAX: usize = 2_048;

/// Feeds of the queues that are watched by a filter.
#[derive(Debug, Default)]
pub(super) struct Feeds {
    by_queue: HashMap<Box<str>, Arc<Feed>>,
    /// Feed for filters that do not name exactly one queue.
    all: Option<Arc<Feed>>,
    /// Position up to which all changes have been given to the existing feeds.
    given: Position,
}

/// Changes of one queue, or of all, that are on their way to filters.
#[derive(Debug)]
pub(super) struct Feed {
    pending: Mutex<Pending>,
    /// Held by the watcher that matches changes against filters.
    sorting: Mutex<Sorting>,
    /// Position up to which all changes have been matched against all filters.
    sorted: AtomicI64,
    pub(super) arrived: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    changes: Vec<Change>,
    /// Whether changes were dropped.
    lost: bool,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.changes.is_empty() && !self.lost
    }
}

#[derive(Debug)]
struct Sorting {
    topics: HashMap<Arc<JobFilter>, Weak<Topic>>,
    /// Position up to which pending changes have been taken.
    taken: Position,
}

/// Changes that concern one filter.
#[derive(Debug)]
pub(super) struct Topic {
    kept: Mutex<RecentChanges>,
    /// Counter that grows whenever there is something new for the watchers.
    version: watch::Sender<u64>,
}

#[derive(Debug)]
struct RecentChanges {
    changes: VecDeque<Change>,
    /// Position after which all changes that concern the filter are here, as far as they have been matched.
    after: Position,
}

/// Result of a read of a topic.
pub(super) enum TopicRead {
    /// The next changes after the watcher's cursor, and the position up to which there are no others.
    Changes(Vec<Change>, Position),
    /// The topic does not reach back to the cursor.
    Behind,
}

/// Subscription of a watcher to a topic.
#[derive(Debug)]
pub(super) struct TopicSubscription {
    hub: Arc<Hub>,
    queue: Option<Box<str>>,
    feed: Arc<Feed>,
    topic: Arc<Topic>,
    version: watch::Receiver<u64>,
}

impl Feeds {
    pub(super) fn new(end: Position) -> Self {
        Feeds { given: end, ..Feeds::default() }
    }

    /// Returns whether there is no watch by filter.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_queue.is_empty() && self.all.is_none()
    }

    /// Gives changes to the feeds of their queues. `end` is the end of the change feed after them.
    pub(super) fn give(&mut self, changes: &[Change], end: Position) {
        self.given = end;
        if let Some(all) = &self.all {
            all.put(changes);
        }
        if self.by_queue.is_empty() {
            return;
        }
        let queue_of = |change: &Change| Arc::clone(&change.spec().queue);
        for run in changes.chunk_by(|a, b| Arc::ptr_eq(&queue_of(a), &queue_of(b))) {
            let queue = run.first().map(queue_of);
            if let Some(feed) = queue.and_then(|queue| self.by_queue.get(queue.as_str())) {
                feed.put(run);
            }
        }
    }

    fn feed(&mut self, queue: Option<&str>) -> Arc<Feed> {
        let given = self.given;
        let new = || Arc::new(Feed::new(given));
        let feed = match queue {
            Some(queue) => self.by_queue.entry(queue.into()).or_insert_with(new),
            None => self.all.get_or_insert_with(new),
        };
        Arc::clone(feed)
    }

    /// Removes a feed that only the caller still follows.
    fn leave(&mut self, queue: Option<&str>, feed: &Arc<Feed>) {
        // One reference is here, and one is the caller's.
        if Arc::strong_count(feed) > 2 {
            return;
        }
        match queue {
            Some(queue) => drop(self.by_queue.remove(queue)),
            None => self.all = None,
        }
    }
}

impl Feed {
    fn new(given: Position) -> Self {
        Feed {
            pending: Mutex::default(),
            sorting: Mutex::new(Sorting { topics: HashMap::new(), taken: given }),
            sorted: AtomicI64::new(given.0),
            arrived: Notify::new(),
        }
    }

    fn put(&self, changes: &[Change]) {
        let mut pending = self.pending.lock();
        if pending.changes.len() + changes.len() > PENDING_MAX {
            pending.changes.clear();
            pending.lost = true;
        } else {
            pending.changes.extend_from_slice(changes);
        }
        drop(pending);
        self.arrived.notify_one();
    }

    /// Matches the pending changes against every filter, unless another watcher is doing so.
    fn sort(&self, hub: &Hub) {
        let Some(mut sorting) = self.sorting.try_lock() else { return };
        // Read first: all changes up to it are pending by now, or were.
        let end = hub.position();
        let Pending { changes, lost } = std::mem::take(&mut *self.pending.lock());
        let last = changes.last().map_or(end, Change::position);
        sorting.taken = sorting.taken.max(end).max(last);
        let taken = sorting.taken;
        if lost || !changes.is_empty() {
            sorting.topics.retain(|filter, topic| {
                let Some(topic) = topic.upgrade() else { return false };
                if lost {
                    topic.let_go(taken);
                } else {
                    topic.keep(changes.iter().filter(|change| filter.concerns(change)));
                }
                true
            });
        }
        self.sorted.store(taken.0, Ordering::Release);
        drop(sorting);
        // A watcher that was woken for later changes may have found this one at work, and gone back to waiting.
        if !self.pending.lock().is_empty() {
            self.arrived.notify_one();
        }
    }
}

impl Topic {
    fn keep<'a>(&self, changes: impl Iterator<Item = &'a Change>) {
        let mut kept = self.kept.lock();
        let after = kept.after;
        let before = kept.changes.len();
        kept.changes.extend(changes.filter(|change| change.position() > after).cloned());
        if kept.changes.len() == before {
            return;
        }
        while kept.changes.len() > KEPT_MAX {
            if let Some(oldest) = kept.changes.pop_front() {
                kept.after = oldest.position();
            }
        }
        drop(kept);
        self.version.send_modify(|version| *version += 1);
    }

    fn let_go(&self, up_to: Position) {
        *self.kept.lock() = RecentChanges { changes: VecDeque::new(), after: up_to };
        self.version.send_modify(|version| *version += 1);
    }
}

impl Hub {
    /// Returns the position up to which watchers by filter may have been told of all changes. While changes are published
    /// it is ahead of [`Self::position`]: who begins there is told nothing that another one knows already.
    pub(super) fn given(&self) -> Position {
        self.feeds.lock().given
    }

    /// Follows the changes that concern a filter. Equal filters share a topic.
    pub(super) fn follow(self: &Arc<Self>, filter: &Arc<JobFilter>) -> TopicSubscription {
        let feed = self.feeds.lock().feed(filter.only_queue());
        let mut sorting = feed.sorting.lock();
        let taken = sorting.taken;
        let known = sorting.topics.get(filter).and_then(Weak::upgrade);
        let topic = known.unwrap_or_else(|| {
            let kept = RecentChanges { changes: VecDeque::new(), after: taken };
            let topic = Arc::new(Topic { kept: Mutex::new(kept), version: watch::Sender::new(0) });
            sorting.topics.insert(Arc::clone(filter), Arc::downgrade(&topic));
            topic
        });
        drop(sorting);
        let version = topic.version.subscribe();
        TopicSubscription {
            hub: Arc::clone(self),
            queue: filter.only_queue().map(Into::into),
            feed,
            topic,
            version,
        }
    }
}

impl TopicSubscription {
    /// Returns the changes after `cursor` that concern the filter, at most `max`.
    pub(super) fn news(&mut self, cursor: Position, max: usize) -> TopicRead {
        self.version.mark_unchanged();
        self.feed.sort(&self.hub);
        // Read first: whatever is matched up to here is kept by now.
        let sorted = Position(self.feed.sorted.load(Ordering::Acquire));
        let kept = self.topic.kept.lock();
        if cursor < kept.after {
            return TopicRead::Behind;
        }
        let next = kept.changes.partition_point(|change| change.position() <= cursor);
        let changes: Vec<_> = kept.changes.iter().skip(next).take(max).cloned().collect();
        let told = changes.last().map_or(cursor, Change::position);
        let all = next + changes.len() == kept.changes.len();
        TopicRead::Changes(changes, if all { told.max(sorted) } else { told })
    }

    /// Returns when there may be something new.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            // The topic, which this subscription holds, has the sender: it can't be gone.
            _ = self.version.changed() => {}
            () = self.feed.arrived.notified() => {}
        }
    }
}

impl Drop for TopicSubscription {
    fn drop(&mut self) {
        self.hub.feeds.lock().leave(self.queue.as_deref(), &self.feed);
        // The next watcher takes over the changes that this one was woken for.
        self.feed.arrived.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, time::Duration};

    use futures_util::poll;

    use super::*;
    use crate::{
        clock::Timestamp,
        job::{Job, JobId, Name, Remote, RetryPolicy, Spec, State, StateName},
    };

    /// A change that leaves job `id` of a queue in a state.
    fn change(queue: &Arc<Name>, id: i64, state: State, position: i64) -> Change {
        let now = Timestamp::from_micros(0);
        let spec = Spec {
            queue: Arc::clone(queue),
            kind: Name::new(0, "kind"),
            priority: 0,
            retry: RetryPolicy::DEFAULT,
            attempt_timeout: Duration::from_secs(1),
            bytes: 0,
            created: now,
            expires: None,
            extras: None,
        };
        let job = Job {
            id: JobId::from_raw(id),
            state,
            spec: Arc::new(spec),
            revision: 2,
            position: Position(position),
            attempt: 1,
            max_attempts: 1,
            updated: now,
            started: None,
            ended: None,
            progress: None,
            failure: None,
            result: None,
            remote: Remote::NONE,
            rare: None,
        };
        Change::Job { job: Arc::new(job), before: Some(StateName::Running) }
    }

    fn failures_in(queue: &str) -> Arc<JobFilter> {
        let states = vec![StateName::Failed];
        Arc::new(JobFilter { queues: vec![queue.to_owned()], states, ..JobFilter::default() })
    }

    fn positions(news: TopicRead) -> (Vec<i64>, i64) {
        match news {
            TopicRead::Changes(changes, reached) => {
                (changes.iter().map(|change| change.position().0).collect(), reached.0)
            }
            TopicRead::Behind => panic!("behind"),
        }
    }

    struct Rig {
        hub: Arc<Hub>,
        busy: Arc<Name>,
        other: Arc<Name>,
    }

    impl Rig {
        fn new() -> Self {
            let hub = Arc::new(Hub::new(Position(0)));
            Rig { hub, busy: Name::new(1, "busy"), other: Name::new(2, "other") }
        }

        fn publish(&self, changes: Vec<Change>) {
            let end = changes.last().expect("a change").position();
            self.hub.publish(changes, end);
        }
    }

    #[tokio::test]
    async fn changes_of_other_queues_wake_nobody_and_are_known_not_to_matter() {
        let rig = Rig::new();
        let mut follow = rig.hub.follow(&failures_in("other"));
        {
            let mut woken = pin!(follow.changed());
            assert!(poll!(&mut woken).is_pending());
            rig.publish(vec![change(&rig.busy, 1, State::Failed, 1), change(&rig.busy, 2, State::Failed, 2)]);
            assert!(poll!(&mut woken).is_pending(), "a change of another queue woke the watcher");
        }
        assert_eq!(positions(follow.news(Position(0), 10)), (vec![], 2));
        rig.publish(vec![change(&rig.busy, 1, State::Failed, 3), change(&rig.other, 3, State::Failed, 4)]);
        assert_eq!(positions(follow.news(Position(2), 10)), (vec![4], 4));
    }

    #[test]
    fn a_watcher_that_begins_now_is_not_told_what_another_one_was_told_before() {
        let rig = Rig::new();
        let filter = failures_in("busy");
        let mut first = rig.hub.follow(&filter);
        // As far as the committer has come when the first watcher is woken.
        rig.hub.feeds.lock().give(&[change(&rig.busy, 1, State::Failed, 1)], Position(1));
        assert_eq!(positions(first.news(Position(0), 10)), (vec![1], 1));
        let mut second = rig.hub.follow(&filter);
        let now = rig.hub.given();
        assert_eq!((rig.hub.position(), now), (Position(0), Position(1)));
        assert_eq!(positions(second.news(now, 10)), (vec![], 1));
    }

    #[tokio::test]
    async fn one_of_equal_watchers_sorts_for_all_and_wakes_the_others_only_for_what_concerns_them() {
        let rig = Rig::new();
        let filter = failures_in("busy");
        let (mut first, mut second) = (rig.hub.follow(&filter), rig.hub.follow(&filter));
        let mut first_woken = Box::pin(first.changed());
        let mut second_woken = Box::pin(second.changed());
        assert!(poll!(&mut first_woken).is_pending() && poll!(&mut second_woken).is_pending());
        rig.publish(vec![change(&rig.busy, 1, State::Succeeded, 1)]);
        assert!(poll!(&mut first_woken).is_ready(), "somebody must sort");
        assert!(poll!(&mut second_woken).is_pending(), "one is enough");
        drop(first_woken);
        assert_eq!(positions(first.news(Position(0), 10)), (vec![], 1));
        assert!(poll!(&mut second_woken).is_pending(), "a success does not concern it");

        let mut first_woken = Box::pin(first.changed());
        assert!(poll!(&mut first_woken).is_pending());
        rig.publish(vec![change(&rig.busy, 2, State::Failed, 2)]);
        // The watcher that is woken first does the matching, which wakes the other one.
        if poll!(&mut second_woken).is_ready() {
            drop((first_woken, second_woken));
            assert_eq!(positions(second.news(Position(1), 10)), (vec![2], 2));
            assert!(first.version.has_changed().expect("the topic is there"));
            assert_eq!(positions(first.news(Position(1), 10)), (vec![2], 2));
        } else {
            assert!(poll!(&mut first_woken).is_ready());
            drop(first_woken);
            assert_eq!(positions(first.news(Position(1), 10)), (vec![2], 2));
            assert!(poll!(&mut second_woken).is_ready(), "a failure concerns it");
            drop(second_woken);
            assert_eq!(positions(second.news(Position(0), 10)), (vec![2], 2));
        }
    }

    #[tokio::test]
    async fn a_watcher_that_goes_away_passes_its_wake_up_on() {
        let rig = Rig::new();
        let filter = failures_in("busy");
        let (mut first, mut second) = (rig.hub.follow(&filter), rig.hub.follow(&filter));
        let mut first_woken = Box::pin(first.changed());
        let mut second_woken = Box::pin(second.changed());
        assert!(poll!(&mut first_woken).is_pending() && poll!(&mut second_woken).is_pending());
        rig.publish(vec![change(&rig.busy, 1, State::Failed, 1)]);
        drop(first_woken);
        drop(first);
        assert!(poll!(&mut second_woken).is_ready(), "nobody was left to sort");
        drop(second_woken);
        assert_eq!(positions(second.news(Position(0), 10)), (vec![1], 1));
    }

    #[tokio::test]
    async fn what_is_not_kept_any_more_is_behind() {
        let rig = Rig::new();
        let mut follow = rig.hub.follow(&failures_in("busy"));
        let count = KEPT_MAX as i64 + 5;
        rig.publish((1..=count).map(|at| change(&rig.busy, at, State::Failed, at)).collect());
        assert!(matches!(follow.news(Position(0), 10), TopicRead::Behind));
        assert!(matches!(follow.news(Position(4), 10), TopicRead::Behind));
        assert_eq!(positions(follow.news(Position(5), 2)), (vec![6, 7], 7));

        // No watcher does the matching for so long that changes are dropped.
        for begin in [count, count + PENDING_MAX as i64] {
            let changes = (1..=PENDING_MAX as i64).map(|at| change(&rig.busy, at, State::Failed, begin + at));
            rig.publish(changes.collect());
        }
        let end = count + 2 * PENDING_MAX as i64;
        assert!(matches!(follow.news(Position(count), 10), TopicRead::Behind));
        assert_eq!(positions(follow.news(Position(end), 10)), (vec![], end));
    }

    #[tokio::test]
    async fn a_queue_that_nobody_watches_any_more_is_forgotten() {
        let rig = Rig::new();
        let (one, other) = (rig.hub.follow(&failures_in("busy")), rig.hub.follow(&failures_in("busy")));
        let all = rig.hub.follow(&Arc::default());
        drop(one);
        assert_eq!(rig.hub.feeds.lock().by_queue.len(), 1);
        drop((other, all));
        assert!(rig.hub.feeds.lock().is_empty());
        // A later watcher does not receive earlier changes.
        rig.publish(vec![change(&rig.busy, 1, State::Failed, 1)]);
        let mut late = rig.hub.follow(&failures_in("busy"));
        assert!(matches!(late.news(Position(0), 10), TopicRead::Behind));
        assert_eq!(positions(late.news(Position(1), 10)), (vec![], 1));
    }
}
