//! Watches of jobs by their ids. A watch ends by itself once all of its jobs have ended.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    Detail, EVENTS_MAX, Hub, OutputLine, ResumeToken, Start, TokenIssuer, WatchError, WatchEvent,
    WatchMessage,
    hub::{Mail, Subscription},
    token::FORM,
};
use crate::{
    job::{Canonical, Change, Job, JobId, Position},
    store::Reads,
};

/// Time without events after which a bookmark is sent.
pub(super) const BOOKMARK_EVERY: Duration = Duration::from_secs(10);

/// A watch of jobs by their ids.
#[derive(Debug)]
pub struct IdsWatch {
    subscription: Subscription,
    hub: Arc<Hub>,
    reads: Reads,
    issuer: Arc<TokenIssuer>,
    watched: [u8; 8],
    detail: Detail,
    ids: Vec<JobId>,
    /// The ids that do not exist as far as this watcher may know.
    hidden: HashSet<JobId>,
    told: HashMap<JobId, LastSent>,
    /// Position up to which changes were sent before this watch began.
    resume: Position,
    /// Events that did not fit into the last message.
    outbox: VecDeque<WatchEvent>,
    started: bool,
    closing: bool,
    /// Position up to which all changes of the jobs have been sent, or are in the outbox.
    cursor: Position,
    /// Position as of which the snapshot was read. The mailbox may hold earlier changes, even of jobs deleted since.
    snapshot_at: Position,
}

#[derive(Clone, Copy, Debug, Default)]
struct LastSent {
    revision: u64,
    /// Whether the job was last sent as ended; it may be retried later.
    over: bool,
    /// Whether the job was sent as deleted or not found: no more events follow.
    gone: bool,
}

impl LastSent {
    fn of(job: &Job) -> Self {
        LastSent { revision: job.revision, over: job.state.is_done(), gone: false }
    }
}

impl IdsWatch {
    /// Watches `ids`, after a token if there is one. If that is too old, the snapshot begins with *resync*. Output
    /// lines are sent only if `output` is set. Ids in `hidden` are sent as not found, whatever happens to their jobs.
    #[expect(clippy::too_many_arguments, reason = "three parts of a server, and what its client asks for")]
    #[must_use]
    pub fn new(
        hub: &Arc<Hub>,
        reads: Reads,
        issuer: Arc<TokenIssuer>,
        ids: &[JobId],
        hidden: HashSet<JobId>,
        detail: Detail,
        output: bool,
        start: Start,
    ) -> Self {
        let mut seen = HashSet::new();
        let ids: Vec<_> = ids.iter().copied().filter(|id| seen.insert(*id)).collect();
        let (resume, outbox) = match start {
            Start::Resume(token) => (token.position, VecDeque::new()),
            Start::Resync => (Position::default(), VecDeque::from([WatchEvent::Resync])),
            Start::Snapshot | Start::Now => (Position::default(), VecDeque::new()),
        };
        let visible: Vec<_> = ids.iter().copied().filter(|id| !hidden.contains(id)).collect();
        IdsWatch {
            // Before the first read, so that no change falls between the two.
            subscription: hub.subscribe(&visible, output),
            hub: Arc::clone(hub),
            reads,
            issuer,
            watched: Self::watched(&ids),
            detail,
            ids,
            hidden,
            told: HashMap::new(),
            resume,
            outbox,
            started: false,
            closing: false,
            cursor: Position::default(),
            snapshot_at: Position::default(),
        }
    }

    /// Returns the digest of these ids for tokens.
    #[must_use]
    pub fn watched(ids: &[JobId]) -> [u8; 8] {
        let mut raw: Vec<_> = ids.iter().map(|id| id.raw()).collect();
        raw.sort_unstable();
        raw.dedup();
        let mut canonical = Canonical::of(FORM, "ids");
        for id in raw {
            canonical.put_text("id", &JobId::from_raw(id).to_string());
        }
        TokenIssuer::watched(canonical)
    }

    /// Returns the next message; `None` once all jobs have ended.
    pub async fn next(&mut self) -> Option<Result<WatchMessage, WatchError>> {
        if self.closing {
            return Some(Err(WatchError::Closing));
        }
        loop {
            if self.started && !self.outbox.is_empty() {
                return Some(Ok(self.message()));
            }
            if !self.started {
                if let Err(error) = self.snapshot().await {
                    return Some(Err(error));
                }
                continue;
            }
            if self.told.values().all(|told| told.over) {
                return None;
            }
            // Read first: whatever the mailbox gets later is after this position.
            let end = self.hub.position();
            let mail = self.subscription.mailbox.take();
            if let Err(error) = self.read_mail(mail).await {
                return Some(Err(error));
            }
            self.cursor = self.cursor.max(end);
            if !self.outbox.is_empty() {
                continue;
            }
            tokio::select! {
                () = self.subscription.mailbox.arrived.notified() => {}
                () = self.hub.closing().cancelled() => {
                    self.closing = true;
                    self.outbox.push_back(WatchEvent::Closing);
                }
                () = tokio::time::sleep(BOOKMARK_EVERY) => self.outbox.push_back(WatchEvent::Bookmark),
            }
        }
    }

    /// Takes the next events from the outbox. Before the last message of a snapshot, a resumed watch has to start over.
    fn message(&mut self) -> WatchMessage {
        let count = self.outbox.len().min(EVENTS_MAX);
        let events = self.outbox.drain(..count).collect();
        let position = if self.outbox.is_empty() { self.cursor } else { self.resume };
        if self.outbox.is_empty() {
            self.resume = self.cursor;
        }
        let token = ResumeToken { watched: self.watched, position, snapshot: None };
        WatchMessage { events, token: self.issuer.issue(&token) }
    }

    async fn snapshot(&mut self) -> Result<(), WatchError> {
        let ids = self.ids.clone();
        let (jobs, position) = self.reads.read(move |reader| reader.jobs(&ids)).await?;
        for (id, job) in self.ids.clone().into_iter().zip(jobs) {
            match job.filter(|_| !self.hidden.contains(&id)) {
                None => {
                    self.told.insert(id, LastSent { revision: 0, over: true, gone: true });
                    self.outbox.push_back(WatchEvent::NotFound(id));
                }
                Some(job) => {
                    self.told.insert(id, LastSent::of(&job));
                    let known = job.position <= self.resume;
                    let job = Arc::new(job);
                    if self.resume == Position::default() {
                        self.outbox.push_back(WatchEvent::Snapshot(job));
                    } else if !known {
                        self.outbox.push_back(WatchEvent::Updated { job, merged: None });
                    }
                }
            }
        }
        self.outbox.push_back(WatchEvent::Synced);
        self.cursor = position;
        self.snapshot_at = position;
        self.started = true;
        Ok(())
    }

    async fn read_mail(&mut self, mail: Mail) -> Result<(), WatchError> {
        let mut lines = mail.lines;
        if mail.overflowed {
            let ids: Vec<_> = self.told.iter().filter(|(_, told)| !told.gone).map(|(id, _)| *id).collect();
            let asked = ids.clone();
            let (jobs, position) = self.reads.read(move |reader| reader.jobs(&asked)).await?;
            for (id, job) in ids.into_iter().zip(jobs) {
                match job {
                    Some(job) => self.tell(Arc::new(job), &mut lines),
                    None => self.tell_deleted(id),
                }
            }
            self.cursor = self.cursor.max(position);
        } else {
            let mut changes: Vec<_> = mail.changes.into();
            // Changes arrive in order: with the last one, all changes of these jobs up to it have been sent.
            if let Some(last) = changes.last() {
                self.cursor = self.cursor.max(last.position());
            }
            changes.retain(|change| change.position() > self.snapshot_at);
            if self.detail == Detail::Latest {
                keep_latest(&mut changes);
            }
            for change in changes {
                match change {
                    Change::Job { job, .. } => self.tell(job, &mut lines),
                    Change::Deleted(tombstone) => self.tell_deleted(tombstone.id),
                }
            }
        }
        self.outbox.extend(lines.into_iter().map(WatchEvent::Output));
        Ok(())
    }

    /// Sends a change, unless it has been sent. An attempt's output is sent before its end.
    fn tell(&mut self, job: Arc<Job>, lines: &mut VecDeque<OutputLine>) {
        let told = self.told.entry(job.id).or_default();
        // The snapshot, or a read from the store, was ahead of the mailbox.
        if job.revision <= told.revision {
            return;
        }
        let merged = Some(job.revision - told.revision - 1);
        *told = LastSent::of(&job);
        if job.state.lease().is_none() {
            let is_of_it = |line: &OutputLine| line.id == job.id && line.attempt <= job.attempt;
            self.outbox.extend(lines.iter().filter(|line| is_of_it(line)).cloned().map(WatchEvent::Output));
            lines.retain(|line| !is_of_it(line));
        }
        self.outbox.push_back(WatchEvent::Updated { job, merged });
    }

    fn tell_deleted(&mut self, id: JobId) {
        let told = self.told.entry(id).or_default();
        (told.over, told.gone) = (true, true);
        self.outbox.push_back(WatchEvent::Deleted(id));
    }
}

/// Keeps the last change of each job, in the order of the last changes.
fn keep_latest(changes: &mut Vec<Change>) {
    let mut last: HashMap<JobId, Position> = HashMap::new();
    for change in changes.iter() {
        last.insert(change.id(), change.position());
    }
    changes.retain(|change| last.get(&change.id()) == Some(&change.position()));
}
