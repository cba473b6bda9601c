//! Delivery of the committed change feed to watchers.
//!
//! A watcher is a cursor. While it keeps up, it reads the latest changes from memory ([`Hub`]): those of its jobs, or
//! those that concern its filter, which watchers with equal filters share (`topics`). When it falls behind, it reads
//! from the store, which gives each changed job's latest state. So a slow watcher costs a cursor, not a buffer.

mod by_filter;
mod by_ids;
mod hub;
mod tail;
mod token;
mod topics;

use std::sync::Arc;

pub use by_filter::{FilterWatch, Start};
pub use by_ids::IdsWatch;
pub use hub::Hub;
pub(crate) use tail::Tail;
pub use token::{InvalidToken, ResumeToken, TokenIssuer};

use crate::{
    job::{Job, JobId, StateName},
    store::StoreError,
};

/// An event of a watch.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    /// A job as it was when the watch started or resynced.
    Snapshot(Arc<Job>),
    /// The snapshot is complete.
    Synced,
    /// A job changed.
    Updated {
        /// The job after the change.
        job: Arc<Job>,
        /// Number of earlier changes that are merged into this one; absent where it is not known, after a resume or a
        /// catch-up.
        merged: Option<u64>,
    },
    /// A job changed and no longer matches.
    Left {
        /// The job.
        id: JobId,
        /// The job's state after the change.
        state: StateName,
    },
    /// A job was deleted.
    Deleted(JobId),
    /// No job has this id.
    NotFound(JobId),
    /// No change was missed up to here.
    Bookmark,
    /// The server is stopping.
    Closing,
    /// The token was too old, and a fresh snapshot follows.
    Resync,
    /// A line of an attempt's output.
    Output(OutputLine),
}

/// A line of an attempt's output.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputLine {
    /// The job.
    pub id: JobId,
    /// Number of the attempt.
    pub attempt: u32,
    /// The line, without its end.
    pub text: Arc<str>,
}

/// Events of a watch, and the token to resume after them.
#[derive(Clone, Debug)]
pub struct WatchMessage {
    /// The events, in order.
    pub events: Vec<WatchEvent>,
    /// Token that resumes after the last event.
    pub token: String,
}

/// Changes that a watch sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detail {
    /// Only each changed job's latest state.
    Latest,
    /// Every change, while the watcher keeps up.
    EveryTransition,
}

/// Reason for which a watch ended early.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The server is stopping; *closing* was sent before.
    #[error("the server stops: resume with the last token")]
    Closing,
    /// The token is too old, and the watcher did not want a fresh snapshot.
    #[error("the resume token is too old: deletions after it have been forgotten; start again without it")]
    TooOld,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Maximum number of events in a message.
const EVENTS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Duration};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        clock::{ClockReading, Timestamp, Uptime},
        engine::{
            Action, Batch, CallerId, Control, EngineSetup, NewJob, Offer, Outcome, ReplySlot, Submitted,
        },
        job::{AtLeastOne, Change, Changes, Edge, Identity, JobFilter, KeyHash, Name, Position, RetryPolicy, Tally},
        settings::{CalendarInfo, QueueInfo, QueueSettings, Retention, ScheduleInfo},
        shard::{Applied, Ledger},
        store::{HeldKey, Page, Reader, Reads, Scan, Store, StoreSize, WholeJob, memory::MemoryStore},
    };

    const QUEUE: &str = "default";
    const JOBS: usize = 6;

    /// A reader whose pages hold three entries, so that a few changes are many pages.
    struct SmallPages(Arc<dyn Reader>);

    impl Reader for SmallPages {
        fn scan(&self, filter: &JobFilter, scan: Scan) -> Result<Page, StoreError> {
            self.0.scan(filter, Scan { limit: scan.limit.min(3), ..scan })
        }

        fn changes(&self, after: Position, limit: usize) -> Result<Changes, StoreError> {
            self.0.changes(after, limit.min(3))
        }

        fn dependencies(&self, child: JobId) -> Result<Vec<Edge>, StoreError> {
            self.0.dependencies(child)
        }

        fn dependents(&self, parent: JobId, after: Option<JobId>, limit: usize) -> Result<Vec<Edge>, StoreError> {
            self.0.dependents(parent, after, limit)
        }

        fn unique_key(&self, hash: KeyHash) -> Result<Option<HeldKey>, StoreError> {
            self.0.unique_key(hash)
        }

        fn unique_keys(
            &self,
            after: Option<KeyHash>,
            limit: usize,
        ) -> Result<Vec<(KeyHash, HeldKey)>, StoreError> {
            self.0.unique_keys(after, limit)
        }

        fn identity(&self) -> Identity {
            self.0.identity()
        }

        fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
            self.0.job(id)
        }

        fn jobs(&self, ids: &[JobId]) -> Result<(Vec<Option<Job>>, Position), StoreError> {
            self.0.jobs(ids)
        }

        fn whole_job(&self, id: JobId) -> Result<Option<WholeJob>, StoreError> {
            self.0.whole_job(id)
        }

        fn result(&self, id: JobId) -> Result<Option<bytes::Bytes>, StoreError> {
            self.0.result(id)
        }

        fn checkpoint(&self, id: JobId) -> Result<Option<crate::job::StoredCheckpoint>, StoreError> {
            self.0.checkpoint(id)
        }

        fn payload(&self, id: JobId) -> Result<Option<bytes::Bytes>, StoreError> {
            self.0.payload(id)
        }

        fn queues(&self) -> Result<Vec<QueueInfo>, StoreError> {
            self.0.queues()
        }

        fn schedules(&self, after: Option<&str>, limit: usize) -> Result<Vec<ScheduleInfo>, StoreError> {
            self.0.schedules(after, limit)
        }

        fn schedule(&self, name: &str) -> Result<Option<ScheduleInfo>, StoreError> {
            self.0.schedule(name)
        }

        fn calendars(&self) -> Result<Vec<CalendarInfo>, StoreError> {
            self.0.calendars()
        }

        fn tallies(&self) -> Result<Vec<Tally>, StoreError> {
            self.0.tallies()
        }

        fn oldest_ready(&self, queue: &Name) -> Result<Option<Timestamp>, StoreError> {
            self.0.oldest_ready(queue)
        }

        fn size(&self) -> Result<StoreSize, StoreError> {
            self.0.size()
        }
    }

    enum Watch {
        Ids(Box<IdsWatch>),
        Filter(Box<FilterWatch>),
    }

    /// A client: its watch, and the last state of each job that it has received, over all of its connections.
    struct Client {
        by_ids: bool,
        detail: Detail,
        watch: Watch,
        token: Option<String>,
        revisions: HashMap<JobId, u64>,
        /// Whether all of its jobs had ended, and with them its watch.
        ended: bool,
    }

    /// Jobs that change without end, and clients that watch all of them.
    struct Bench {
        ledger: Ledger,
        reader: Arc<dyn Reader>,
        hub: Arc<Hub>,
        reads: Reads,
        issuer: Arc<TokenIssuer>,
        ids: Vec<JobId>,
        clients: Vec<Client>,
    }

    fn applied(ledger: &mut Ledger, batch: Batch) -> Outcome {
        let Ok(Applied::Committed { mut outcome, .. }) = ledger.apply(batch) else { panic!("not applied") };
        outcome.answer();
        outcome
    }

    impl Bench {
        fn new() -> Self {
            let present = ClockReading::default();
            let queue = QueueSettings { consumers: 0, ..QueueSettings::default() };
            let setup = EngineSetup {
                present,
                seed: 7,
                served_kinds: Vec::new(),
                native_kinds: Default::default(),
                declared_queues: [(QUEUE.to_owned(), queue)].into(),
                retention: Retention::default(),
                demand: Arc::default(),
                limits: std::collections::BTreeMap::new(),
                schedules: crate::engine::ScheduleSetup::default(),
            };
            let store = MemoryStore::new();
            let reader = store.reader();
            let mut ledger = Ledger::open(Box::new(store), &setup).unwrap();
            let job = NewJob {
                queue: QUEUE.into(),
                kind: "any".into(),
                priority: 0,
                max_attempts: 1,
                retry: RetryPolicy::DEFAULT,
                attempt_timeout: Duration::from_secs(1),
                run_time: None,
                expires: None,
                deadline: None,
                extras: None,
                depends_on: Vec::new(),
                payload: bytes::Bytes::new(),
            };
            let jobs = AtLeastOne { first: job.clone(), rest: vec![job; JOBS - 1] };
            let (ask, mut answer) = ReplySlot::new(Uptime::MAX);
            let offers = vec![Offer::new(None, jobs, CallerId::default(), None, ask)];
            let applied = applied(&mut ledger, Batch { present, offers, ..Batch::default() });
            let Ok(Ok(Submitted::Accepted { jobs })) = answer.try_recv() else { panic!("refused") };
            Bench {
                hub: Arc::new(Hub::new(applied.position)),
                reads: Reads::new(Arc::new(SmallPages(Arc::clone(&reader)))),
                issuer: Arc::new(TokenIssuer::new(reader.identity())),
                ids: jobs.iter().map(|job| job.id).collect(),
                ledger,
                reader,
                clients: Vec::new(),
            }
        }

        /// Cancels each of these jobs that waits, and retries each that was cancelled: one change each.
        fn change(&mut self, jobs: &[usize]) {
            for index in jobs {
                let id = self.ids[*index];
                let done = self.reader.job(id).unwrap().unwrap().state.is_done();
                let ask = ReplySlot::unheard();
                let action = match done {
                    true => {
                        Action::Retry { id, expected_revision: None, reset: false, drop_checkpoint: false, ask }
                    }
                    false => Action::Cancel { id, expected_revision: None, ask },
                };
                let batch = Batch { controls: vec![Control::once(action)], ..Batch::default() };
                let applied = applied(&mut self.ledger, batch);
                assert!(matches!(applied.changes[..], [Change::Job { .. }]));
                self.hub.publish(applied.changes, applied.position);
            }
        }

        fn watch(&self, by_ids: bool, detail: Detail, token: Option<&str>, now: bool) -> Watch {
            let (hub, reads, issuer) = (&self.hub, self.reads.clone(), Arc::clone(&self.issuer));
            if by_ids {
                let read = |token| issuer.read(token, IdsWatch::watched(&self.ids)).unwrap();
                let start = token.map_or(Start::Snapshot, |token| Start::Resume(read(token)));
                let hidden = Default::default();
                return Watch::Ids(Box::new(IdsWatch::new(
                    hub, reads, issuer, &self.ids, hidden, detail, false, start,
                )));
            }
            let filter = JobFilter::default();
            let start = match token.map(|token| issuer.read(token, FilterWatch::watched(&filter)).unwrap()) {
                Some(token) => Start::Resume(token),
                None if now => Start::Now,
                None => Start::Snapshot,
            };
            Watch::Filter(Box::new(FilterWatch::new(hub, reads, issuer, filter, detail, start, true)))
        }

        fn connect(&mut self, by_ids: bool, detail: Detail, now: bool) {
            let mut client = Client {
                by_ids,
                detail,
                watch: self.watch(by_ids, detail, None, now),
                token: None,
                revisions: HashMap::new(),
                ended: false,
            };
            if now && !by_ids {
                // Known from elsewhere.
                let reader = Arc::clone(&self.reader);
                client.revisions =
                    self.ids.iter().map(|id| (*id, reader.job(*id).unwrap().unwrap().revision)).collect();
            }
            self.clients.push(client);
        }

        fn reconnect(&mut self, index: usize) {
            let Client { by_ids, detail, token, .. } = &self.clients[index];
            // Without a token nothing has been received, so that the watch may as well begin now.
            if let Some(token) = token {
                let watch = self.watch(*by_ids, *detail, Some(token), false);
                let client = &mut self.clients[index];
                (client.watch, client.ended) = (watch, false);
            }
        }
    }

    impl Client {
        /// Reads a message. Returns false for a mere bookmark, and at the end.
        async fn read(&mut self) -> bool {
            let message = match &mut self.watch {
                Watch::Ids(watch) => watch.next().await,
                Watch::Filter(watch) => watch.next().await,
            };
            let Some(message) = message else {
                assert!(self.by_ids && self.revisions.values().all(|revision| revision % 2 == 0));
                self.ended = true;
                return false;
            };
            let message = message.unwrap();
            self.token = Some(message.token);
            let mut news = false;
            for event in message.events {
                news |= !matches!(event, WatchEvent::Bookmark);
                match &event {
                    WatchEvent::Snapshot(job) => {
                        self.revisions.insert(job.id, job.revision);
                    }
                    WatchEvent::Updated { job, merged } => {
                        let before = self.revisions.insert(job.id, job.revision).unwrap();
                        let passed = job.revision.checked_sub(before).expect("a job goes forward");
                        // A watch that resumes amid a snapshot may receive again what the snapshot included.
                        let told_again = passed == 0 && merged.is_none();
                        let is_true = merged.is_none_or(|merged| merged + 1 == passed);
                        assert!(told_again || is_true, "{passed} changes are told as {merged:?} and one");
                    }
                    WatchEvent::Synced | WatchEvent::Bookmark => {}
                    WatchEvent::Left { .. }
                    | WatchEvent::Deleted(_)
                    | WatchEvent::NotFound(_)
                    | WatchEvent::Closing
                    | WatchEvent::Resync
                    | WatchEvent::Output(_) => panic!("{event:?}"),
                }
            }
            news
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Change(Vec<usize>),
        Connect { by_ids: bool, every: bool, now: bool },
        Read { client: usize, messages: usize },
        Reconnect(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => prop::collection::vec(0..JOBS, 1..12).prop_map(Step::Change),
            1 => any::<(bool, bool, bool)>()
                .prop_map(|(by_ids, every, now)| Step::Connect { by_ids, every, now }),
            4 => (0..8_usize, 1..4_usize).prop_map(|(client, messages)| Step::Read { client, messages }),
            1 => (0..8_usize).prop_map(Step::Reconnect),
        ]
    }

    proptest! {
        #[test]
        fn merged_is_what_the_client_missed_or_absent(steps in prop::collection::vec(step(), 1..60)) {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let mut bench = Bench::new();
                bench.connect(false, Detail::EveryTransition, false);
                for step in steps {
                    let count = bench.clients.len();
                    match step {
                        Step::Change(jobs) => bench.change(&jobs),
                        Step::Connect { by_ids, every, now } => {
                            let detail = if every { Detail::EveryTransition } else { Detail::Latest };
                            bench.connect(by_ids, detail, now);
                        }
                        Step::Read { client, messages } => {
                            for _ in 0..messages {
                                bench.clients[client % count].read().await;
                            }
                        }
                        Step::Reconnect(client) => bench.reconnect(client % count),
                    }
                }
                let reader = Arc::clone(&bench.reader);
                for client in &mut bench.clients {
                    while client.read().await {}
                    for id in &bench.ids {
                        let job = reader.job(*id).unwrap().unwrap();
                        prop_assert!(
                            client.ended || client.revisions.get(id) == Some(&job.revision),
                            "{id} was not told to its end"
                        );
                    }
                }
                Ok(())
            })?;
        }
    }
}
