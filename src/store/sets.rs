//! Data that the engine exchanges with a store: the reads of a batch, their results, and the writes.
//!
//! A batch makes two calls, *flights*, however many jobs it has. The first reads everything that the batch needs, which
//! is known from its keys before anything is decided. The second writes everything that was decided.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

pub use super::{
    counters::{Counters, StoredTimes},
    requests::{PurgeCounts, RequestKey, RequestOutcome, RequestRow, StoredRequest},
};
use crate::{
    clock::{StoreTime, Timestamp},
    job::{
        AttemptRecord, Job, JobId, KeyHash, KeyRow, LeaseOwner, LeaseToken, Name, ParentEnd, Participant, Position, ScheduleId,
        Spec, StoredCheckpoint, Tally, Tombstone, WorkerRow,
    },
    settings::{QueueInfo, Retention, ScheduleInfo},
};
pub use super::dependencies::{
    DependencyReads, DependencyWants, DependencyWrites, Dependents, DependentsWant, LiveChildren, SparedWant,
};
pub use super::limits::{LaneWant, LimitValueRow, LimitWrites, LoadedLimits};
pub use super::rows::{ChangedJob, OutcomeRow, Purge, TallyRow, TurnsRow};
pub use super::schedules::{LoadedSchedules, ScheduleEntry, ScheduleRow, ScheduleWant, ScheduleWrites};

/// Reads of a batch.
#[derive(Clone, Debug, Default)]
pub struct ReadSet {
    /// Moves unreadable rows to the table `set_aside`, as of this instant, and counts all jobs anew.
    pub set_aside: Option<Timestamp>,
    /// Jobs to read.
    pub jobs: Vec<JobId>,
    /// Requests to read, each with the job that the answer to a repeat needs.
    pub requests: Vec<RequestKey>,
    /// Unique keys to read, each with its holder and its successor. Those of the jobs that the other reads return are
    /// read, too, except for requests and the feed.
    pub keys: Vec<KeyHash>,
    /// Maximum number of the unique keys that are held by time, earliest first.
    pub held_keys: usize,
    /// Attempts to look for among those that a worker has ended by its report.
    pub reported: Vec<(JobId, LeaseToken)>,
    /// First jobs of several lanes together, in the order in which they run.
    pub heads: Vec<HeadsWant>,
    /// First jobs of lanes of jobs that wait for limits.
    pub lanes: Vec<LaneWant>,
    /// Beginnings of lines whose first jobs may be due.
    pub lines: Vec<LineWant>,
    /// Pages of lines for purges.
    pub walks: Vec<LineWant>,
    /// Pages of lanes whose jobs may get other participants.
    pub renewals: Vec<LineWant>,
    /// Maximum number of the jobs that may expire, earliest first.
    pub expiring: usize,
    /// Pages of the feed's index for sweeps, oldest position first.
    pub feed: Vec<FeedWant>,
    /// Maximum number of the oldest tombstones.
    pub tombstones: usize,
    /// Maximum number of requests whose jobs are all deleted, the longest without jobs first.
    pub bare_requests: usize,
    /// Schedules to read.
    pub schedules: Vec<ScheduleWant>,
    /// Edges between jobs to read.
    pub dependencies: DependencyWants,
}

/// Read of a queue's ready jobs.
#[derive(Clone, Debug)]
pub struct HeadsWant {
    /// The queue's number.
    pub queue: u32,
    /// The numbers of the kinds, each of which is a lane of the queue.
    pub kinds: Vec<u32>,
    /// The suspects among them.
    pub suspects: SuspectsWant,
    /// The participant that had the last turn in a fair queue, whose jobs are read in turns.
    pub last_turn: Option<Participant>,
    /// Maximum number of jobs.
    pub limit: usize,
}

/// Part of a queue's ready jobs, by whether they are suspects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SuspectsWant {
    /// All jobs.
    Included,
    /// The jobs that are no suspects.
    LeftOut,
    /// The suspects.
    Alone,
}

/// A line: an ordered list of waiting jobs of a queue.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum WaitingLine {
    /// SCHEDULED jobs, by start time.
    Scheduled,
    /// BACKING_OFF jobs, by the end of the backoff.
    BackingOff,
    /// BLOCKED jobs, by the earliest start.
    Blocked,
    /// QUEUED jobs of the kind with this number, in the order in which they run.
    Ready(u32),
}

/// Sort key of a job in its line; the smallest comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SortKey {
    /// The participant in the turns of a fair queue; the same for all jobs in a line by time.
    pub participant: Participant,
    /// The negated priority; 0 in a line by time.
    pub rank: i8,
    /// The order, or the time in microseconds.
    pub order: i64,
    /// The job.
    pub id: JobId,
}

/// Read of a page of a line.
#[derive(Clone, Copy, Debug)]
pub struct LineWant {
    /// The queue's number.
    pub queue: u32,
    /// The line.
    pub line: WaitingLine,
    /// Last place of the page before; absent for the beginning of the line.
    pub after: Option<SortKey>,
    /// Maximum number of jobs.
    pub limit: usize,
}

/// Read of a page of the feed's index.
#[derive(Clone, Copy, Debug)]
pub struct FeedWant {
    /// The sweep that reads the page, by its retention time.
    pub keep: Duration,
    /// Position after which the page starts.
    pub after: Position,
    /// Maximum number of positions.
    pub limit: usize,
}

/// Results of a batch's reads.
#[derive(Debug, Default)]
pub struct ReadResults {
    /// Rows that were set aside.
    pub set_aside: Option<SetAside>,
    /// The jobs that exist, those that hold or follow a unique key included.
    pub jobs: HashMap<JobId, Arc<Job>>,
    /// The requests that exist.
    pub requests: HashMap<RequestKey, StoredRequest>,
    /// The unique keys that were read; `None` for those that are free.
    pub keys: HashMap<KeyHash, Option<KeyRow>>,
    /// The unique keys that are held by time, each with the end of that.
    pub held_keys: Vec<(StoreTime, KeyHash, KeyRow)>,
    /// Attempts that a worker has ended by its report, among those looked for: lease and owner.
    pub reported: HashMap<LeaseToken, Arc<LeaseOwner>>,
    /// Ready jobs, in the order of the reads.
    pub heads: Vec<Heads>,
    /// The first jobs of lanes, by queue, kind and lane.
    pub lanes: BTreeMap<(u32, u32, Participant), Heads>,
    /// The beginnings of lines, by queue and line.
    pub lines: BTreeMap<(u32, WaitingLine), LinePage>,
    /// The pages of lanes whose jobs may get other participants, by queue and line.
    pub renewals: BTreeMap<(u32, WaitingLine), LinePage>,
    /// The pages of lines for purges, by queue and line.
    pub walks: BTreeMap<(u32, WaitingLine), LinePage>,
    /// Jobs that may expire.
    pub expiring: Expiring,
    /// The pages of the feed's index, by the retention time of the sweep.
    pub feed: BTreeMap<Duration, FeedPage>,
    /// The oldest tombstones, by position.
    pub tombstones: Vec<(Position, StoreTime)>,
    /// Requests without jobs, and the time since when they have had none.
    pub bare_requests: Vec<(StoreTime, RequestKey)>,
    /// The schedules that exist. The jobs on which their state depends are among `jobs`.
    pub schedules: HashMap<ScheduleId, Arc<ScheduleInfo>>,
    /// Edges between jobs.
    pub dependencies: DependencyReads,
}

impl ReadResults {
    /// Returns the jobs found whose children that have not ended are read.
    pub(super) fn guarded_parents(&self) -> Vec<JobId> {
        let pages = self.lines.values().chain(self.walks.values()).flat_map(|page| &page.jobs);
        let swept = self.feed.values().flat_map(|page| page.places.iter().filter_map(|place| place.ended.as_ref()));
        let found = self.jobs.values().chain(pages).chain(swept).filter(|job| job.rare().has_dependents);
        let mut parents: Vec<JobId> = found.map(|job| job.id).collect();
        parents.sort_unstable();
        parents.dedup();
        parents
    }

    /// Returns the jobs that may end and have dependents.
    pub(super) fn ending_parents(&self, wants: &ReadSet) -> Vec<JobId> {
        let has_dependents = |id: &&JobId| self.jobs.get(id).is_some_and(|job| job.rare().has_dependents);
        wants.dependencies.may_end.iter().filter(has_dependents).copied().collect()
    }

    /// Returns the unique keys to read: these, and those of the jobs that were found.
    pub(super) fn key_hashes(&self, wanted: &[KeyHash]) -> Vec<KeyHash> {
        let heads = self.heads.iter().chain(self.lanes.values()).flat_map(|heads| heads.jobs.iter().map(|(job, _)| job));
        let pages = self.lines.values().chain(self.walks.values()).flat_map(|page| &page.jobs);
        let jobs = self.jobs.values().chain(heads).chain(pages).chain(&self.expiring.jobs);
        let mut hashes: Vec<KeyHash> = wanted.to_vec();
        hashes.extend(jobs.filter_map(|job| job.spec.key_hash()));
        // In the order of the table.
        hashes.sort_unstable();
        hashes.dedup();
        hashes
    }
}

/// Ready jobs of a queue, in the order of their keys: that in which they run, or in which those of each participant run.
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
    /// Last place of the page, even if the job there can't be read.
    pub last: Option<SortKey>,
    /// The limit of the page.
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
    /// The entries, in order.
    pub places: Vec<FeedEntry>,
    /// Whether the limit was met, so that there may be more.
    pub is_cut: bool,
}

/// A position in the feed that is a job's latest change.
#[derive(Debug)]
pub struct FeedEntry {
    /// The position.
    pub position: Position,
    /// Wall-clock time of the change.
    pub updated: Timestamp,
    /// The job, if it has ended and can be read.
    pub ended: Option<Arc<Job>>,
}

/// Rows that were set aside because they could not be read.
#[derive(Debug, Default)]
pub struct SetAside {
    /// The jobs among them, with the data that watchers match, where that could be read.
    pub jobs: Vec<(JobId, Option<Arc<Spec>>)>,
    /// Counts of the remaining jobs.
    pub tallies: Vec<Tally>,
}

/// Writes of a batch, all in one transaction.
#[derive(Debug, Default)]
pub struct WriteSet {
    /// Kinds that get a row for their name.
    pub new_kinds: Vec<Arc<Name>>,
    /// Numbers of kinds whose rows are deleted.
    pub freed_kinds: Vec<u32>,
    /// Last known times of workers and jobs of kinds that workers serve; absent where workers do not any more.
    pub served_kinds: Vec<(u32, Option<StoreTime>)>,
    /// Jobs that may have crashed the server, and whether each still may.
    pub suspects: Vec<(JobId, bool)>,
    /// New and changed workers.
    pub workers: Vec<WorkerRow>,
    /// Numbers of workers whose rows are deleted.
    pub forgotten_workers: Vec<u32>,
    /// Jobs whose checkpoints are deleted, before any is written.
    pub dropped_checkpoints: Vec<JobId>,
    /// Checkpoints of jobs, each in place of the one before.
    pub checkpoints: Vec<(JobId, StoredCheckpoint)>,
    /// New state of queues, and whether each is deleted. A deleted queue is kept while ended jobs refer to it.
    pub queues: Vec<(QueueInfo, bool)>,
    /// Numbers of queues whose rows are deleted.
    pub freed_queues: Vec<u32>,
    /// New requests. Those that never had jobs of their own come with the time since when they have had none.
    pub requests: Vec<(RequestKey, RequestRow, Option<StoreTime>)>,
    /// Requests that have lost jobs: the number of jobs, and the present retention time.
    pub lost_jobs: Vec<(RequestKey, u32, StoreTime)>,
    /// Unique keys that have changed; `None` for those that are free.
    pub keys: Vec<(KeyHash, Option<KeyRow>)>,
    /// New jobs, each in its state at the end of the batch.
    pub new_jobs: Vec<(Arc<Job>, Bytes)>,
    /// Attempts that have ended without success.
    pub attempts: Vec<(JobId, AttemptRecord)>,
    /// Outcomes of attempts. An outcome replaces that of the job's earlier attempt.
    pub outcomes: Vec<OutcomeRow>,
    /// Jobs that have changed.
    pub changed_jobs: Vec<ChangedJob>,
    /// New payloads of jobs that have changed, in order.
    pub payloads: Vec<(JobId, Bytes)>,
    /// Ready jobs that get another participant, or move to a lane, after all other changes.
    pub participants: Vec<(JobId, Participant)>,
    /// Jobs to delete, with all of their data.
    pub deleted_jobs: Vec<Arc<Job>>,
    /// Tombstones of deleted jobs.
    pub tombstones: Vec<Tombstone>,
    /// Position up to which tombstones are deleted.
    pub forgotten_tombstones: Option<Position>,
    /// Requests to delete.
    pub forgotten_requests: Vec<RequestKey>,
    /// Number of jobs by queue, kind and state.
    pub tallies: Vec<TallyRow>,
    /// Purges that have begun or been extended.
    pub purges: Vec<Purge>,
    /// Purges that have ended: the number of the queue, and what was done. This becomes the answer of the requests that
    /// asked for the purge and have no answer yet.
    pub ended_purges: Vec<(u32, PurgeCounts)>,
    /// Turns of queues that have changed.
    pub turns: Vec<TurnsRow>,
    /// Numbers of queues whose jobs take no turns any more.
    pub ended_turns: Vec<u32>,
    /// Progress of sweeps: the position reached, by retention time.
    pub sweeps: Vec<(Duration, Position)>,
    /// Sweeps that have ended.
    pub ended_sweeps: Vec<Duration>,
    /// The server's own retention, under which the sweeps have come so far.
    pub retention: Option<Retention>,
    /// The whole history of the wall clock's settings, if it has changed.
    pub steps: Option<Vec<super::ClockStep>>,
    /// Changes of schedules and calendars.
    pub schedules: ScheduleWrites,
    /// Changes of edges between jobs.
    pub dependencies: DependencyWrites,
    /// Changes of limits.
    pub limits: LimitWrites,
    /// Counters and times. Absent if nothing else is written.
    pub counters: Option<Counters>,
}

impl WriteSet {
    /// Returns whether nothing is written except, perhaps, counters and times.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let WriteSet {
            new_kinds,
            freed_kinds,
            served_kinds,
            suspects,
            workers,
            forgotten_workers,
            dropped_checkpoints,
            checkpoints,
            queues,
            freed_queues,
            requests,
            lost_jobs,
            keys,
            new_jobs,
            attempts,
            outcomes,
            changed_jobs,
            payloads,
            participants,
            deleted_jobs,
            tombstones,
            forgotten_tombstones,
            forgotten_requests,
            tallies,
            purges,
            ended_purges,
            turns,
            ended_turns,
            sweeps,
            ended_sweeps,
            retention,
            steps: _,
            schedules,
            dependencies,
            limits,
            counters: _,
        } = self;
        let names =
            new_kinds.is_empty() && freed_kinds.is_empty() && queues.is_empty() && freed_queues.is_empty();
        let workers = served_kinds.is_empty()
            && suspects.is_empty()
            && workers.is_empty()
            && forgotten_workers.is_empty()
            && checkpoints.is_empty()
            && dropped_checkpoints.is_empty();
        let requests = requests.is_empty()
            && lost_jobs.is_empty()
            && forgotten_requests.is_empty()
            && keys.is_empty();
        let jobs = new_jobs.is_empty()
            && changed_jobs.is_empty()
            && payloads.is_empty()
            && participants.is_empty()
            && deleted_jobs.is_empty();
        let beside = attempts.is_empty() && outcomes.is_empty() && tallies.is_empty();
        let tombstones = tombstones.is_empty() && forgotten_tombstones.is_none();
        let operations =
            purges.is_empty() && ended_purges.is_empty() && sweeps.is_empty() && ended_sweeps.is_empty();
        let turns = turns.is_empty() && ended_turns.is_empty();
        let rest = retention.is_none() && schedules.is_empty() && dependencies.is_empty() && limits.is_empty();
        names && workers && requests && jobs && beside && tombstones && operations && turns && rest
    }
}

/// State that the engine keeps in memory, as read at a start.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Every queue, and whether it is deleted.
    pub queues: Vec<(QueueInfo, bool)>,
    /// Number of jobs by queue, kind and state.
    pub tallies: Vec<Tally>,
    /// Counters and times.
    pub counters: Counters,
    /// Remote workers.
    pub workers: Vec<WorkerRow>,
    /// The kinds that workers serve: number, and last known time of a worker or a job.
    pub served_kinds: Vec<(u32, StoreTime)>,
    /// Jobs that may have crashed the server.
    pub suspects: Vec<JobId>,
    /// Running jobs.
    pub leased: Vec<Arc<Job>>,
    /// Earliest time in each line that is ordered by time, by queue.
    pub first_times: Vec<(u32, WaitingLine, i64)>,
    /// Earliest time at which a job may expire.
    pub first_expiry: Option<Timestamp>,
    /// Purges in progress.
    pub purges: Vec<Purge>,
    /// Turns of fair queues.
    pub turns: Vec<TurnsRow>,
    /// Progress of sweeps: the position reached, by retention time.
    pub sweeps: Vec<(Duration, Position)>,
    /// The server's own retention, under which the sweeps have come so far.
    pub retention: Option<Retention>,
    /// History of the wall clock's settings.
    pub steps: Vec<super::ClockStep>,
    /// Schedules and calendars.
    pub schedules: LoadedSchedules,
    /// Parents that are over, of whose children some still have to be told.
    pub over_parents: Vec<(JobId, ParentEnd)>,
    /// Limits.
    pub limits: LoadedLimits,
}

/// Proof that a transaction is on disk. Only a store creates one.
#[derive(Debug)]
pub struct Committed {
    flush: Duration,
}

impl Committed {
    /// Creates the proof. To be called once the transaction is on disk.
    pub(super) const fn after(flush: Duration) -> Self {
        Committed { flush }
    }

    /// Returns the time that the flush took.
    #[must_use]
    pub const fn flush(&self) -> Duration {
        self.flush
    }
}
