//! Watches of jobs by a filter. A watch goes on until the client ends it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use tokio::time::Interval;

use super::{
    Detail, EVENTS_MAX, Hub, ResumeToken, TokenIssuer, WatchError, WatchEvent, WatchMessage,
    by_ids::BOOKMARK_EVERY,
    hub::FilterPresence,
    token::{FORM, SnapshotCursor},
    topics::{TopicRead, TopicSubscription},
};
use crate::{
    clock::Timestamp,
    job::{Canonical, Change, JobFilter, JobId, Position},
    store::{Reads, Scan, ScanOrder},
};

/// Maximum number of jobs that a page of a snapshot examines.
const SCAN_BUDGET: usize = 10_000;

/// A watch of the jobs that match a filter.
#[derive(Debug)]
pub struct FilterWatch {
    hub: Arc<Hub>,
    // Held, never read: it counts the watch while it lives.
    _presence: FilterPresence,
    follow: TopicSubscription,
    reads: Reads,
    issuer: Arc<TokenIssuer>,
    watched: [u8; 8],
    filter: Arc<JobFilter>,
    detail: Detail,
    /// Whether a token that is too old leads to a fresh snapshot instead of an error.
    resync: bool,
    phase: Phase,
    /// Position up to which all changes have been sent.
    cursor: Position,
    /// Pages of the snapshot: the last id of each, and the position as of which it was read. Changes that a page
    /// includes are not sent again.
    covered: Vec<(JobId, Position)>,
    /// Whether changes are read from the store, which has only each job's latest state. This ends with a page that
    /// reaches the feed's end. Changing over to the changes in memory sooner would send a job's next change as if none
    /// had been merged into it, and could, after a snapshot, go back to a change that the snapshot included.
    from_store: bool,
    /// Ticks when no message has been sent for so long that a bookmark is due.
    quiet: Interval,
    bookmark_due: bool,
}

#[derive(Debug)]
enum Phase {
    /// The snapshot is being sent.
    Snapshot { cursor: Option<SnapshotCursor>, begun: bool, resync: bool },
    /// Changes are being sent.
    Live,
    /// *closing* has been sent.
    Closing,
}

/// Start of a filter watch.
#[derive(Clone, Copy, Debug)]
pub enum Start {
    /// With a snapshot of the existing jobs.
    Snapshot,
    /// With the next change.
    Now,
    /// After the position of a token.
    Resume(ResumeToken),
    /// With a snapshot, after a token that is no longer accepted.
    Resync,
}

impl FilterWatch {
    /// Watches the jobs that match `filter`. With `resync`, a gap is filled by a fresh snapshot; otherwise it is an
    /// error.
    #[must_use]
    pub fn new(
        hub: &Arc<Hub>,
        reads: Reads,
        issuer: Arc<TokenIssuer>,
        filter: JobFilter,
        detail: Detail,
        start: Start,
        resync: bool,
    ) -> Self {
        let filter = Arc::new(filter);
        // Before the position is read, so that no change falls between the two.
        let follow = hub.follow(&filter);
        let now = hub.given();
        let mut covered = Vec::new();
        let (phase, cursor) = match start {
            Start::Snapshot => {
                (Phase::Snapshot { cursor: None, begun: false, resync: false }, Position::default())
            }
            Start::Resync => {
                (Phase::Snapshot { cursor: None, begun: false, resync: true }, Position::default())
            }
            Start::Now => (Phase::Live, now),
            Start::Resume(token) => match token.snapshot {
                Some(cursor) => {
                    // The pages that were sent before, as of the first of them.
                    covered.push((cursor.after, token.position));
                    let phase = Phase::Snapshot { cursor: Some(cursor), begun: true, resync: false };
                    (phase, token.position)
                }
                None => (Phase::Live, token.position),
            },
        };
        // The earlier watch may have issued the token between two pages from the store.
        let from_store = matches!(start, Start::Resume(_));
        let mut quiet = tokio::time::interval(BOOKMARK_EVERY);
        quiet.reset();
        FilterWatch {
            hub: Arc::clone(hub),
            _presence: hub.watched_by_filter(),
            follow,
            reads,
            issuer,
            watched: Self::watched(&filter),
            filter,
            detail,
            resync,
            phase,
            cursor,
            covered,
            from_store,
            quiet,
            bookmark_due: false,
        }
    }

    /// Returns the digest of this filter for tokens.
    #[must_use]
    pub fn watched(filter: &JobFilter) -> [u8; 8] {
        let mut canonical = Canonical::of(FORM, "filter");
        for (name, named) in [("queue", &filter.queues), ("kind", &filter.kinds)] {
            for text in named.iter().collect::<BTreeSet<_>>() {
                canonical.put_text(name, text);
            }
        }
        for state in filter.states.iter().collect::<BTreeSet<_>>() {
            canonical.put_text("state", state.as_str());
        }
        canonical.put_entries("labels", &filter.labels);
        canonical.put_number("created_after", filter.created_after.map(Timestamp::as_micros));
        canonical.put_number("created_before", filter.created_before.map(Timestamp::as_micros));
        canonical.put_number("done", filter.done);
        TokenIssuer::watched(canonical)
    }

    /// Returns the next message. Never `None`: the client ends a filter watch.
    pub async fn next(&mut self) -> Option<Result<WatchMessage, WatchError>> {
        loop {
            let step = match self.phase {
                Phase::Snapshot { cursor, begun, resync } => self.snapshot_page(cursor, begun, resync).await,
                Phase::Live => self.live().await,
                Phase::Closing => Err(WatchError::Closing),
            };
            match step {
                Ok(Some(message)) => return Some(Ok(message)),
                Ok(None) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    async fn snapshot_page(
        &mut self,
        cursor: Option<SnapshotCursor>,
        begun: bool,
        resync: bool,
    ) -> Result<Option<WatchMessage>, WatchError> {
        let filter = Arc::clone(&self.filter);
        let order = ScanOrder::OldestFirst {
            after: cursor.map(|cursor| cursor.after),
            last: cursor.map(|cursor| cursor.last),
        };
        let scan = Scan { order, limit: EVENTS_MAX, budget: SCAN_BUDGET };
        let page = self.reads.read(move |reader| reader.scan(&filter, scan)).await?;
        if !begun {
            self.cursor = page.position;
        }
        self.from_store = page.position > self.cursor;
        let last = cursor.map_or(page.newest, |cursor| cursor.last);
        let mut events = Vec::with_capacity(page.jobs.len() + 2);
        if resync {
            self.hub.resynced();
            events.push(WatchEvent::Resync);
        }
        // The first page can't have newer jobs than the last id that it announces, because both are as of one moment.
        events.extend(page.jobs.into_iter().map(WatchEvent::Snapshot));
        self.covered.push((page.next.unwrap_or(last), page.position));
        let snapshot = match page.next.filter(|next| *next < last) {
            Some(after) => {
                let cursor = SnapshotCursor { after, last };
                self.phase = Phase::Snapshot { cursor: Some(cursor), begun: true, resync: false };
                Some(cursor)
            }
            None => {
                events.push(WatchEvent::Synced);
                self.phase = Phase::Live;
                None
            }
        };
        Ok((!events.is_empty()).then(|| self.message(events, snapshot)))
    }

    async fn live(&mut self) -> Result<Option<WatchMessage>, WatchError> {
        let before = self.cursor;
        let news = if self.from_store {
            TopicRead::Behind
        } else {
            self.covered.clear();
            self.follow.news(self.cursor, 2 * EVENTS_MAX)
        };
        let events = match news {
            TopicRead::Changes(changes, reached) => {
                self.cursor = reached;
                self.tell(changes, Some(0))
            }
            TopicRead::Behind => {
                let after = self.cursor;
                let changes = self.reads.read(move |reader| reader.changes(after, EVENTS_MAX)).await?;
                if self.cursor < changes.floor {
                    if !self.resync {
                        return Err(WatchError::TooOld);
                    }
                    self.covered.clear();
                    self.phase = Phase::Snapshot { cursor: None, begun: false, resync: true };
                    return Ok(None);
                }
                self.cursor = changes.up_to;
                self.from_store = !changes.reaches_end;
                self.tell(changes.entries, None)
            }
        };
        if !events.is_empty() {
            return Ok(Some(self.message(events, None)));
        }
        if self.cursor > before {
            return Ok(None);
        }
        if self.bookmark_due {
            return Ok(Some(self.message(vec![WatchEvent::Bookmark], None)));
        }
        let closing = self.hub.closing().clone();
        tokio::select! {
            () = self.follow.changed() => Ok(None),
            () = closing.cancelled() => {
                self.phase = Phase::Closing;
                Ok(Some(self.message(vec![WatchEvent::Closing], None)))
            }
            _ = self.quiet.tick() => {
                // Reads once more, so that the bookmark reaches as far as possible.
                self.bookmark_due = true;
                Ok(None)
            }
        }
    }

    fn message(&mut self, events: Vec<WatchEvent>, snapshot: Option<SnapshotCursor>) -> WatchMessage {
        self.bookmark_due = false;
        self.quiet.reset();
        let token = ResumeToken { watched: self.watched, position: self.cursor, snapshot };
        WatchMessage { events, token: self.issuer.issue(&token) }
    }

    /// Converts changes to events for the watcher. `merged` is the number of changes merged outside of them, if it is
    /// known.
    fn tell(&self, changes: Vec<Change>, merged: Option<u64>) -> Vec<WatchEvent> {
        let mut events: Vec<WatchEvent> = Vec::with_capacity(changes.len());
        // For each job: the index of its event, whether it matched before the first of the changes here, and its merged
        // changes.
        let mut latest: HashMap<JobId, (usize, bool, u64)> = HashMap::new();
        for change in changes {
            let id = change.id();
            if !self.filter.concerns(&change) || self.is_covered(id, change.position()) {
                continue;
            }
            let (fitted, merged_here) = match (&change, latest.get(&id)) {
                (_, Some((_, fitted, merged))) if self.detail == Detail::Latest => (*fitted, merged + 1),
                (Change::Job { job, before }, _) => (self.filter.fitted_before(job, *before), 0),
                (Change::Deleted(_), _) => (true, 0),
            };
            let event = match change {
                Change::Deleted(_) => Some(WatchEvent::Deleted(id)),
                Change::Job { job, .. } if self.filter.matches_state(job.state.name()) => {
                    Some(WatchEvent::Updated { job, merged: merged.map(|merged| merged + merged_here) })
                }
                Change::Job { job, .. } if fitted => Some(WatchEvent::Left { id, state: job.state.name() }),
                Change::Job { .. } => None,
            };
            if self.detail == Detail::Latest {
                // The earlier event is replaced by a placeholder, which is removed below.
                if let Some((index, ..)) = latest.get(&id)
                    && let Some(place) = events.get_mut(*index)
                {
                    *place = WatchEvent::Bookmark;
                }
                latest.insert(id, (events.len(), fitted, merged_here));
                events.push(event.unwrap_or(WatchEvent::Bookmark));
            } else {
                events.extend(event);
            }
        }
        events.retain(|event| !matches!(event, WatchEvent::Bookmark));
        events
    }

    /// Returns whether a page of the snapshot includes this change.
    fn is_covered(&self, id: JobId, position: Position) -> bool {
        let page = self.covered.partition_point(|(last, _)| *last < id);
        self.covered.get(page).is_some_and(|(_, as_of)| position <= *as_of)
    }
}
