//! What the engine exchanges with a store: a set of wants and what was found, and a set of writes.
//!
//! A batch makes two calls, *flights*, however many jobs it has: one that reads all that it wants, which is known from
//! the batch's keys before anything is decided, and one that writes all that was decided.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use crate::{
    clock::{StoreTime, Timestamp},
    job::{AttemptRecord, Job, JobId, Name, Position, Spec, StateName, Tally, Tombstone},
    settings::{QueueInfo, Retention},
};

/// The key of a request id.
pub type RequestKey = [u8; 16];

/// What a batch reads.
#[derive(Clone, Debug, Default)]
pub struct Wants {
    /// Move rows that could not be read to where nothing looks for them, as of this instant, and count all jobs anew.
    pub set_aside: Option<Timestamp>,
    /// These jobs.
    pub jobs: Vec<JobId>,
    /// These requests, each with the job that a repeat tells of.
    pub requests: Vec<RequestKey>,
    /// The first jobs of these lanes together, in the order in which they run.
    pub heads: Vec<HeadsWant>,
    /// The begins of lines whose first jobs may be due.
    pub lines: Vec<LineWant>,
    /// Pages of lines that purges walk along.
    pub walks: Vec<LineWant>,
    /// The first of the jobs that may expire, at most this many, in the order of their instants.
    pub expiring: usize,
    /// Pages of the feed's index, from its old end on.
    pub feed: Vec<FeedWant>,
    /// The oldest tombstones, at most this many.
    pub tombstones: usize,
    /// Requests whose jobs are gone, at most this many, the one that has been without jobs for longest first.
    pub bare_requests: usize,
}

/// Ready jobs of a queue.
#[derive(Clone, Debug)]
pub struct HeadsWant {
    /// The queue's number.
    pub queue: u32,
    /// The numbers of the kinds, each of which is a lane of the queue.
    pub kinds: Vec<u32>,
    /// At most this many jobs.
    pub limit: usize,
}

/// An ordered list of the jobs of a queue that wait.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Line {
    /// SCHEDULED jobs, by their instants.
    Scheduled,
    /// BACKING_OFF jobs, by the ends of their backoffs.
    BackingOff,
    /// QUEUED jobs of the kind with this number, in the order in which they run.
    Ready(u32),
}

/// A job's place in its line: the smaller comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// The negated priority; 0 in a line by time.
    pub rank: i8,
    /// The order, or the time in microseconds.
    pub order: i64,
    /// The job.
    pub id: JobId,
}

/// A page of a line.
#[derive(Clone, Copy, Debug)]
pub struct LineWant {
    /// The queue's number.
    pub queue: u32,
    /// The line.
    pub line: Line,
    /// The last place of the page before; absent for the line's begin.
    pub after: Option<Place>,
    /// At most this many jobs.
    pub limit: usize,
}

/// A page of the feed's index.
#[derive(Clone, Copy, Debug)]
pub struct FeedWant {
    /// The sweep that wants it, by the time for which it keeps jobs.
    pub keep: Duration,
    /// The place before the first of interest.
    pub after: Position,
    /// At most this many places.
    pub limit: usize,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// What was set aside.
    pub set_aside: Option<SetAside>,
    /// The jobs that are there.
    pub jobs: HashMap<JobId, Arc<Job>>,
    /// The requests that are there.
    pub requests: HashMap<RequestKey, KeptRequest>,
    /// Ready jobs, by queue.
    pub heads: HashMap<u32, Heads>,
    /// The begins of lines, by queue and line.
    pub lines: BTreeMap<(u32, Line), LinePage>,
    /// The pages that purges walk along, by queue and line.
    pub walks: BTreeMap<(u32, Line), LinePage>,
    /// Jobs that may expire.
    pub expiring: Expiring,
    /// The pages of the feed's index, by the sweep that wanted them.
    pub feed: BTreeMap<Duration, FeedPage>,
    /// The oldest tombstones, by place.
    pub tombstones: Vec<(Position, StoreTime)>,
    /// Requests without jobs, and since when.
    pub bare_requests: Vec<(StoreTime, RequestKey)>,
}

/// A request with the job that a repeat tells of.
#[derive(Clone, Debug)]
pub struct KeptRequest {
    /// The row.
    pub row: RequestRow,
    /// The job, if it is there and can be read.
    pub job: Option<Arc<Job>>,
}

/// Ready jobs of a queue, in the order in which they run.
#[derive(Debug, Default)]
pub struct Heads {
    /// The jobs. The payload is absent where it is large.
    pub jobs: Vec<(Arc<Job>, Option<Bytes>)>,
    /// Whether the limit was met, so that there may be more.
    pub is_cut: bool,
}

/// A page of a line.
#[derive(Debug, Default)]
pub struct LinePage {
    /// The jobs.
    pub jobs: Vec<Arc<Job>>,
    /// The page's last place, that of a job which can't be read included.
    pub last: Option<Place>,
    /// The limit that it was read with.
    pub limit: usize,
    /// Whether the limit was met, so that there may be more.
    pub is_cut: bool,
}

/// Jobs that may expire.
#[derive(Debug, Default)]
pub struct Expiring {
    /// The jobs.
    pub jobs: Vec<Arc<Job>>,
    /// Whether the limit was met, so that there may be more.
    pub is_cut: bool,
}

/// A page of the feed's index.
#[derive(Debug, Default)]
pub struct FeedPage {
    /// The places, in order.
    pub places: Vec<FeedPlace>,
    /// Whether the limit was met, so that there may be more.
    pub is_cut: bool,
}

/// A place in the feed that is a job's latest change.
#[derive(Debug)]
pub struct FeedPlace {
    /// The place.
    pub position: Position,
    /// What the wall clock said at the change.
    pub updated: Timestamp,
    /// The job, if it has ended and can be read.
    pub ended: Option<Arc<Job>>,
}

/// Rows that were set aside.
#[derive(Debug, Default)]
pub struct SetAside {
    /// The jobs among them, with what watchers know them by, where that could be read.
    pub jobs: Vec<(JobId, Option<Arc<Spec>>)>,
    /// How many jobs are left, and where.
    pub tallies: Vec<Tally>,
}

/// What a batch writes. All of it is one transaction.
#[derive(Debug, Default)]
pub struct Writes {
    /// Names of kinds that have a row from now on.
    pub new_kinds: Vec<Arc<Name>>,
    /// Numbers of kinds whose rows go.
    pub freed_kinds: Vec<u32>,
    /// Queues as they are from now on, and whether each is deleted, of which only ended jobs know any more.
    pub queues: Vec<(QueueInfo, bool)>,
    /// Numbers of queues whose rows go.
    pub freed_queues: Vec<u32>,
    /// New requests, and since when they have been without jobs where they never had any of their own.
    pub requests: Vec<(RequestKey, RequestRow, Option<StoreTime>)>,
    /// Requests that have lost jobs: how many, and the present by which retention counts.
    pub lost_jobs: Vec<(RequestKey, u32, StoreTime)>,
    /// New jobs, each in its final state.
    pub new_jobs: Vec<(Arc<Job>, Bytes)>,
    /// Attempts that have ended without success.
    pub attempts: Vec<(JobId, AttemptRecord)>,
    /// What attempts left. It replaces what earlier ones left.
    pub outcomes: Vec<OutcomeRow>,
    /// Jobs that have changed.
    pub changed_jobs: Vec<ChangedJob>,
    /// Jobs that go, with all that belongs to them.
    pub deleted_jobs: Vec<Arc<Job>>,
    /// What is left of deleted jobs.
    pub tombstones: Vec<Tombstone>,
    /// Tombstones up to this place go.
    pub forgotten_tombstones: Option<Position>,
    /// These requests go.
    pub forgotten_requests: Vec<RequestKey>,
    /// How many jobs of a queue, kind and state there are.
    pub tallies: Vec<TallyRow>,
    /// Purges that have begun or been extended.
    pub purges: Vec<Purge>,
    /// The purges that have ended: the number of each one's queue, and how many jobs it has deleted. The requests that
    /// asked for it, and do not know that yet, are answered so from now on.
    pub ended_purges: Vec<(u32, u64)>,
    /// How far sweeps have come.
    pub sweeps: Vec<(Duration, Position)>,
    /// Sweeps that are no more.
    pub ended_sweeps: Vec<Duration>,
    /// The server's own times, under which the sweeps have come so far.
    pub retention: Option<Retention>,
    /// All notes of how the clock was set.
    pub steps: Option<Vec<super::Step>>,
    /// Numbers that only grow, but for what the clock says. Absent where nothing else is written.
    pub counters: Option<Counters>,
}

impl Writes {
    /// Whether nothing is written but, perhaps, numbers and times.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Writes {
            new_kinds,
            freed_kinds,
            queues,
            freed_queues,
            requests,
            lost_jobs,
            new_jobs,
            attempts,
            outcomes,
            changed_jobs,
            deleted_jobs,
            tombstones,
            forgotten_tombstones,
            forgotten_requests,
            tallies,
            purges,
            ended_purges,
            sweeps,
            ended_sweeps,
            retention,
            steps: _,
            counters: _,
        } = self;
        let names =
            new_kinds.is_empty() && freed_kinds.is_empty() && queues.is_empty() && freed_queues.is_empty();
        let requests = requests.is_empty() && lost_jobs.is_empty() && forgotten_requests.is_empty();
        let jobs = new_jobs.is_empty() && changed_jobs.is_empty() && deleted_jobs.is_empty();
        let beside = attempts.is_empty() && outcomes.is_empty() && tallies.is_empty();
        let tombstones = tombstones.is_empty() && forgotten_tombstones.is_none();
        let operations =
            purges.is_empty() && ended_purges.is_empty() && sweeps.is_empty() && ended_sweeps.is_empty();
        names && requests && jobs && beside && tombstones && operations && retention.is_none()
    }
}

/// A job that has changed.
#[derive(Clone, Debug)]
pub struct ChangedJob {
    /// What is kept. The write fails where that is something else.
    pub before: Arc<Job>,
    /// What is kept from now on.
    pub after: Arc<Job>,
}

/// What an attempt left.
#[derive(Clone, Debug)]
pub struct OutcomeRow {
    /// The job.
    pub id: JobId,
    /// The bytes of what it returned; absent where it returned nothing.
    pub result: Option<Bytes>,
    /// The end of what it wrote.
    pub tail: String,
}

/// A count of jobs. A row without jobs goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TallyRow {
    /// The queue's number.
    pub queue: u32,
    /// The kind's number.
    pub kind: u32,
    /// Their state.
    pub state: StateName,
    /// How many there are.
    pub jobs: i64,
    /// What they count in bytes.
    pub bytes: i64,
}

/// What is kept of a request that may be repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestRow {
    /// What the request said.
    pub digest: [u8; 16],
    /// What it came to.
    pub answer: KeptAnswer,
}

/// What a request came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeptAnswer {
    /// It made jobs, with consecutive ids.
    Jobs {
        /// The first of them.
        first: JobId,
        /// How many they were.
        count: u32,
        /// How many of them are not deleted.
        live: u32,
    },
    /// It changed a job.
    Job {
        /// The job.
        id: JobId,
        /// Its state after that.
        state: StateName,
        /// Its revision after that.
        revision: u64,
        /// The number of its queue.
        queue: u32,
    },
    /// It was done, and there is nothing else to tell.
    Done {
        /// The number of the queue that it was about.
        queue: u32,
    },
    /// It asked for a purge.
    Purge {
        /// The queue's number.
        queue: u32,
        /// How many jobs were deleted; absent until the purge has ended.
        deleted: Option<u64>,
    },
}

impl KeptAnswer {
    /// The number of the queue that it was about, if it is about one.
    #[must_use]
    pub fn queue(&self) -> Option<u32> {
        match self {
            KeptAnswer::Jobs { .. } => None,
            KeptAnswer::Job { queue, .. } | KeptAnswer::Done { queue } | KeptAnswer::Purge { queue, .. } => {
                Some(*queue)
            }
        }
    }

    /// The job that a repeat tells of.
    #[must_use]
    pub fn job(&self) -> Option<JobId> {
        match self {
            KeptAnswer::Jobs { first, .. } => Some(*first),
            KeptAnswer::Job { id, .. } => Some(*id),
            KeptAnswer::Done { .. } | KeptAnswer::Purge { .. } => None,
        }
    }
}

/// A purge under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Purge {
    /// The queue's number.
    pub queue: u32,
    /// The last job that was there when it was asked for.
    pub last: JobId,
    /// How many jobs it has deleted.
    pub deleted: u64,
}

/// Numbers that only grow, but for what the clock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counters {
    /// The feed's end.
    pub position: Position,
    /// The newest job.
    pub last_id: i64,
    /// The newest lease.
    pub last_lease: i64,
    /// Deletions up to this place of the feed have been forgotten.
    pub floor: Position,
    /// What is known of time. Absent in a new store.
    pub times: Option<KeptTimes>,
}

/// What was known of time when the store was last changed: see `engine/times.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptTimes {
    /// What the clock said.
    pub wall: Timestamp,
    /// The time by which backoffs count.
    pub backoffs: StoreTime,
    /// The time by which retention counts.
    pub retention: StoreTime,
    /// Up to when, by the clock, retention has counted.
    pub counted: Timestamp,
}

/// What the engine keeps in memory, as the store has it at a start.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Every queue, and whether it is deleted.
    pub queues: Vec<(QueueInfo, bool)>,
    /// How many jobs are where.
    pub tallies: Vec<Tally>,
    /// Numbers that only grow.
    pub counters: Counters,
    /// Jobs that run.
    pub leased: Vec<Arc<Job>>,
    /// The first time in each line of jobs that wait for one, by queue.
    pub first_times: Vec<(u32, Line, i64)>,
    /// The first instant at which a job may expire.
    pub first_expiry: Option<Timestamp>,
    /// Purges under way.
    pub purges: Vec<Purge>,
    /// How far sweeps have come.
    pub sweeps: Vec<(Duration, Position)>,
    /// The server's own times, under which the sweeps have come so far.
    pub retention: Option<Retention>,
    /// Notes of how the clock was set.
    pub steps: Vec<super::Step>,
}

/// The proof that a transaction is on disk. Only a store makes one.
#[derive(Debug)]
pub struct Committed {
    flush: Duration,
}

impl Committed {
    /// To be made once the transaction is on disk.
    pub(super) const fn after(flush: Duration) -> Self {
        Committed { flush }
    }

    /// What it took to make the transaction durable.
    #[must_use]
    pub const fn flush(&self) -> Duration {
        self.flush
    }
}
