//! A store in memory: for throw-away servers, and as the model that tests compare other stores with.

mod dependencies;
mod limits;
mod reader;
mod schedules;
mod tables;

use std::{collections::{BTreeSet, HashMap}, ops::Bound, sync::Arc, time::Duration};

use parking_lot::RwLock;
use reader::{MemoryReader, tallies};
use tables::{StoredJob, Tables, backoff_of};

use super::{
    Committed, Names, Reader, Store, StoreError,
    turns::{self, cut_in_turns, first_in_turns},
    sets::{
        ChangedJob, DependencyReads, DependentsWant, Expiring, FeedEntry, FeedPage, FeedWant, Heads, HeadsWant, LinePage, LineWant, Loaded, LoadedLimits,
        OutcomeRow, ReadResults, ReadSet, RequestOutcome, SortKey, StoredRequest, SuspectsWant, TallyRow,
        WaitingLine, WriteSet,
    },
};
use crate::{
    clock::StoreTime,
    job::{Edge, Identity, Incarnation, Job, JobId, KeyHash, KeyRow, LeaseOwner, LeaseToken, Participant, Position},
};

/// A store in memory.
pub struct MemoryStore {
    tables: Arc<RwLock<Tables>>,
    names: Arc<Names>,
    reader: Arc<MemoryReader>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// Creates an empty store.
    #[must_use]
    pub fn new() -> Self {
        let store = uuid::Uuid::new_v4().into_bytes();
        let identity = Identity { store, place: store, incarnations: Vec::new() };
        Self::start(Arc::default(), Arc::default(), identity)
    }

    /// Returns the store as a server would find it at its next start, if this one died now.
    #[must_use]
    pub fn reopen(&self) -> Self {
        let identity = self.reader.identity.clone();
        Self::start(Arc::clone(&self.tables), Arc::clone(&self.names), identity)
    }

    /// Returns another handle of the same store.
    #[must_use]
    pub fn share(&self) -> Self {
        let MemoryStore { tables, names, reader } = self;
        MemoryStore { tables: Arc::clone(tables), names: Arc::clone(names), reader: Arc::clone(reader) }
    }

    fn start(tables: Arc<RwLock<Tables>>, names: Arc<Names>, mut identity: Identity) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = uuid::Uuid::new_v4().into_bytes();
        let first = tables.read().counters.position;
        identity.incarnations.push(Incarnation { id: [a, b, c, d, e, f, g, h], first });
        let reader =
            Arc::new(MemoryReader { tables: Arc::clone(&tables), names: Arc::clone(&names), identity });
        MemoryStore { tables, names, reader }
    }
}

impl Store for MemoryStore {
    fn names(&self) -> Arc<Names> {
        Arc::clone(&self.names)
    }

    fn load(&mut self) -> Result<Loaded, StoreError> {
        let tables = self.tables.read();
        self.names.kinds.load(&tables.kinds);
        let queues = tables.queues.values();
        self.names
            .queues
            .load(&queues.map(|(queue, _)| (queue.name.number, queue.name.as_str().to_owned())).collect());
        self.names.workers.load(tables.workers.values().map(|worker| &worker.process));
        let running = tables.jobs.values().filter(|kept| kept.job.state.lease().is_some());
        Ok(Loaded {
            queues: tables.queues.values().cloned().collect(),
            tallies: tallies(&tables, &self.names)?,
            counters: tables.counters,
            workers: tables.workers.values().cloned().collect(),
            served_kinds: tables.served_kinds.iter().map(|(kind, served)| (*kind, *served)).collect(),
            suspects: tables.suspects.iter().copied().collect(),
            leased: running.map(|kept| Arc::clone(&kept.job)).collect(),
            first_times: tables.first_times(),
            first_expiry: tables.expiring.first().map(|(expires, _)| *expires),
            purges: tables.purges.values().copied().collect(),
            turns: tables.turns.values().copied().collect(),
            sweeps: tables.sweeps.iter().map(|(keep, cursor)| (*keep, *cursor)).collect(),
            retention: tables.retention,
            steps: tables.steps.clone(),
            schedules: tables.schedules.load(),
            over_parents: tables.dependencies.over.iter().map(|(job, end)| (*job, *end)).collect(),
            limits: LoadedLimits { lanes: tables.lanes(), ..tables.limits.load() },
        })
    }

    fn fetch(&mut self, wants: &ReadSet) -> Result<ReadResults, StoreError> {
        let fetch = Fetch { tables: &self.tables.read(), names: &self.names };
        let schedules = fetch.tables.schedules.fetch(&wants.schedules);
        let named = schedules.values().flat_map(|info| info.jobs());
        let jobs = wants.jobs.iter().copied().chain(named);
        let mut found = ReadResults {
            set_aside: None,
            jobs: jobs.filter_map(|id| Some((id, fetch.job(id)?))).collect(),
            requests: wants.requests.iter().filter_map(|key| Some((*key, fetch.request(key)?))).collect(),
            reported: fetch.reported(&wants.reported).collect(),
            heads: wants.heads.iter().map(|want| fetch.heads(want)).collect::<Result<_, _>>()?,
            lanes: wants.lanes.iter().map(|want| ((want.queue, want.kind, want.lane), fetch.lane(want))).collect(),
            lines: wants.lines.iter().map(|want| ((want.queue, want.line), fetch.line(want))).collect(),
            renewals: wants.renewals.iter().map(|want| ((want.queue, want.line), fetch.line(want))).collect(),
            walks: wants.walks.iter().map(|want| ((want.queue, want.line), fetch.line(want))).collect(),
            expiring: fetch.expiring(wants.expiring),
            feed: wants.feed.iter().map(|want| (want.keep, fetch.feed(want))).collect(),
            tombstones: fetch.tombstones(wants.tombstones),
            bare_requests: fetch.tables.requests_gone.iter().take(wants.bare_requests).copied().collect(),
            schedules,
            held_keys: fetch.held_keys(wants.held_keys),
            keys: HashMap::new(),
            dependencies: DependencyReads {
                spared: wants
                    .dependencies
                    .spared
                    .map(|want| fetch.tables.dependencies.spared(want))
                    .unwrap_or_default(),
                ..DependencyReads::default()
            },
        };
        for id in &found.dependencies.spared {
            found.jobs.extend(fetch.job(*id).map(|job| (*id, job)));
        }
        fetch.dependents(wants, &mut found);
        fetch.keys(&wants.keys, &mut found);
        for parent in found.guarded_parents() {
            found.dependencies.live_children.insert(parent, fetch.tables.dependencies.live_children(parent));
        }
        Ok(found)
    }

    fn write(&mut self, writes: &WriteSet) -> Result<Committed, StoreError> {
        // Locked throughout, so that readers see either all of the batch or nothing.
        let mut tables = self.tables.write();
        write_beside_jobs(&mut tables, writes);
        write_jobs(&mut tables, &self.names, writes)?;
        tables.schedules.write(&writes.schedules)?;
        tables.dependencies.write(&writes.dependencies);
        tables.limits.write(&writes.limits);
        Ok(Committed::after(Duration::ZERO))
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::clone(&self.reader) as Arc<dyn Reader>
    }
}

/// A lane of a fair queue.
struct FairLane<'t, F> {
    places: &'t BTreeSet<SortKey>,
    is_wanted: F,
}

impl<F: Fn(&&SortKey) -> bool> turns::Lane for FairLane<'_, F> {
    fn first_of_next(&self, after: Bound<Participant>) -> Result<Option<SortKey>, StoreError> {
        let end = |participant| SortKey { participant, rank: i8::MAX, order: i64::MAX, id: JobId::from_raw(i64::MAX) };
        let after = match after.map(end) {
            // Lanes are no participants.
            Bound::Unbounded => Bound::Included(SortKey { rank: i8::MIN, order: i64::MIN, ..end(Participant::NONE) }),
            after @ (Bound::Included(_) | Bound::Excluded(_)) => after,
        };
        Ok(self.places.range((after, Bound::Unbounded)).find(&self.is_wanted).copied())
    }

    fn next_of(&self, after: SortKey, limit: usize) -> Result<Vec<SortKey>, StoreError> {
        let rest = self.places.range((Bound::Excluded(after), Bound::Unbounded));
        let of_participant = rest.take_while(|place| place.participant == after.participant);
        Ok(of_participant.filter(&self.is_wanted).take(limit).copied().collect())
    }
}

/// Reads of a batch.
struct Fetch<'t> {
    tables: &'t Tables,
    names: &'t Names,
}

impl Fetch<'_> {
    fn job(&self, id: JobId) -> Option<Arc<Job>> {
        Some(self.tables.jobs.get(&id)?.shown(self.names))
    }

    fn request(&self, key: &[u8; 16]) -> Option<StoredRequest> {
        let (row, _) = self.tables.requests.get(key)?;
        Some(StoredRequest { row: row.clone(), job: row.job().and_then(|id| self.job(id)) })
    }

    /// Reads unique keys, and those of all jobs that were found.
    fn keys(&self, wanted: &[KeyHash], found: &mut ReadResults) {
        for hash in found.key_hashes(wanted) {
            let row = self.tables.keys.get(&hash).cloned();
            for id in row.iter().flat_map(|row| [Some(row.holder), row.successor]).flatten() {
                if let Some(job) = self.job(id) {
                    found.jobs.entry(id).or_insert(job);
                }
            }
            found.keys.insert(hash, row);
        }
    }

    /// Reads the waiting edges of parents, with their children.
    fn dependents(&self, wants: &ReadSet, found: &mut ReadResults) {
        let edges = &self.tables.dependencies;
        let read = |DependentsWant { parent, limit }, found: &mut ReadResults| {
            let read = edges.waiting(parent, limit);
            for Edge { child, .. } in &read.waiting {
                found.dependencies.waits.insert(*child, edges.waits(*child));
                if let Some(job) = self.job(*child) {
                    found.jobs.entry(*child).or_insert(job);
                }
            }
            let count = read.waiting.len();
            found.dependencies.dependents.insert(parent, read);
            count
        };
        for want in &wants.dependencies.dependents {
            read(*want, found);
        }
        let mut limit = wants.dependencies.max;
        for parent in found.ending_parents(wants) {
            limit -= read(DependentsWant { parent, limit }, found);
        }
    }

    fn held_keys(&self, limit: usize) -> Vec<(StoreTime, KeyHash, KeyRow)> {
        let held = self.tables.held_keys.iter().take(limit);
        held.filter_map(|(until, hash)| Some((*until, *hash, self.tables.keys.get(hash)?.clone()))).collect()
    }

    fn reported<'w>(
        &'w self,
        wants: &'w [(JobId, LeaseToken)],
    ) -> impl Iterator<Item = (LeaseToken, Arc<LeaseOwner>)> + 'w {
        let ended = |id, lease| {
            let kept = self.tables.jobs.get(id)?;
            let attempt = kept.attempts.iter().find(|attempt| attempt.reported == Some(lease))?;
            Some((lease, Arc::clone(attempt.worker.as_ref()?)))
        };
        wants.iter().filter_map(move |(id, lease)| ended(id, *lease))
    }

    fn heads(&self, want: &HeadsWant) -> Result<Heads, StoreError> {
        let lanes = want
            .kinds
            .iter()
            .filter_map(|kind| self.tables.lines.get(&(want.queue, WaitingLine::Ready(*kind))));
        let is_wanted = |place: &&SortKey| match want.suspects {
            SuspectsWant::Included => true,
            SuspectsWant::LeftOut => !self.tables.suspects.contains(&place.id),
            SuspectsWant::Alone => self.tables.suspects.contains(&place.id),
        };
        let in_turns = want.last_turn.filter(|_| want.suspects != SuspectsWant::Alone);
        let (places, is_cut) = match in_turns {
            Some(last) => {
                let mut places = Vec::new();
                for lane in lanes {
                    places.extend(first_in_turns(&FairLane { places: lane, is_wanted }, last, want.limit)?);
                }
                let is_cut = places.len() >= want.limit;
                (cut_in_turns(places, last, want.limit), is_cut)
            }
            None => {
                // Suspects are read in lanes, too.
                let is_open = |place: &&SortKey| want.suspects == SuspectsWant::Alone || !place.participant.is_lane();
                let heads = lanes.flat_map(|lane| lane.iter().filter(is_open).filter(is_wanted).take(want.limit));
                let mut places: Vec<SortKey> = heads.copied().collect();
                // The suspects of a fair queue come in the order of priority, as elsewhere.
                places.sort_unstable_by_key(|place| (place.rank, place.order, place.id));
                places.truncate(want.limit);
                let is_cut = places.len() == want.limit;
                (places, is_cut)
            }
        };
        let kept = places.iter().filter_map(|place| self.tables.jobs.get(&place.id));
        let jobs = kept.map(|kept| (kept.shown(self.names), Some(kept.payload.clone()))).collect();
        Ok(Heads { jobs, is_cut })
    }

    fn line(&self, want: &LineWant) -> LinePage {
        let from = want.after.map_or(Bound::Unbounded, Bound::Excluded);
        let line = self.tables.lines.get(&(want.queue, want.line));
        let places = line.into_iter().flat_map(|line| line.range((from, Bound::Unbounded)));
        let places: Vec<SortKey> = places.take(want.limit).copied().collect();
        LinePage {
            jobs: places.iter().filter_map(|place| self.job(place.id)).collect(),
            last: places.last().copied(),
            limit: want.limit,
            is_cut: places.len() == want.limit,
        }
    }

    fn expiring(&self, limit: usize) -> Expiring {
        let ids = self.tables.expiring.iter().take(limit).map(|(_, id)| *id);
        let jobs: Vec<_> = ids.filter_map(|id| self.job(id)).collect();
        Expiring { is_cut: limit > 0 && jobs.len() == limit, jobs }
    }

    fn feed(&self, want: &FeedWant) -> FeedPage {
        let later = self.tables.by_position.range((Bound::Excluded(want.after), Bound::Unbounded));
        let jobs = later.take(want.limit).filter_map(|(_, id)| self.job(*id));
        let places: Vec<_> = jobs
            .map(|job| FeedEntry {
                position: job.position,
                updated: job.updated,
                ended: job.state.is_done().then_some(job),
            })
            .collect();
        FeedPage { is_cut: places.len() == want.limit, places }
    }

    fn tombstones(&self, limit: usize) -> Vec<(Position, StoreTime)> {
        let tombstones = self.tables.tombstones.iter().take(limit);
        tombstones.map(|(position, tombstone)| (*position, tombstone.deleted)).collect()
    }
}

fn write_jobs(tables: &mut Tables, names: &Names, writes: &WriteSet) -> Result<(), StoreError> {
    for (job, payload) in &writes.new_jobs {
        let kept = StoredJob::new(job, payload.clone(), names);
        tables.index(job, kept.backoff);
        tables.jobs.insert(job.id, kept);
    }
    for (id, attempt) in &writes.attempts {
        if let Some(kept) = tables.jobs.get_mut(id) {
            kept.attempts.push(attempt.clone());
        }
    }
    for OutcomeRow { id, result, tail } in &writes.outcomes {
        if let Some(kept) = tables.jobs.get_mut(id) {
            kept.result = result.clone().unwrap_or_default();
            kept.output_tail.clone_from(tail);
        }
    }
    for id in &writes.dropped_checkpoints {
        if let Some(kept) = tables.jobs.get_mut(id) {
            kept.checkpoint = None;
        }
    }
    for (id, checkpoint) in &writes.checkpoints {
        if let Some(kept) = tables.jobs.get_mut(id) {
            kept.checkpoint = Some(checkpoint.clone());
        }
    }
    for ChangedJob { before, after } in &writes.changed_jobs {
        let Some(kept) = tables.jobs.get_mut(&before.id).filter(|kept| kept.job.revision == before.revision)
        else {
            let fault = format!("job {} is not at revision {}", before.id, before.revision);
            return Err(StoreError::Corrupt(fault));
        };
        let backoff = backoff_of(after, names);
        let old = std::mem::replace(&mut kept.job, Arc::clone(after));
        let old_backoff = std::mem::replace(&mut kept.backoff, backoff);
        tables.unindex(&old, old_backoff);
        tables.index(after, backoff);
    }
    for (id, payload) in &writes.payloads {
        if let Some(kept) = tables.jobs.get_mut(id) {
            kept.payload.clone_from(payload);
        }
    }
    for job in &writes.deleted_jobs {
        if let Some(kept) = tables.jobs.remove(&job.id) {
            tables.unindex(&kept.job, kept.backoff);
        }
    }
    for tombstone in &writes.tombstones {
        tables.tombstones.insert(tombstone.position, tombstone.clone());
    }
    for (id, participant) in &writes.participants {
        tables.set_participant(*id, *participant);
    }
    if let Some(last) = writes.forgotten_tombstones {
        tables.tombstones = tables.tombstones.split_off(&last.next());
    }
    Ok(())
}

fn write_kinds_and_workers(tables: &mut Tables, writes: &WriteSet) {
    for kind in &writes.new_kinds {
        tables.kinds.insert(kind.number, kind.as_str().to_owned());
    }
    for kind in &writes.freed_kinds {
        tables.kinds.remove(kind);
        tables.served_kinds.remove(kind);
    }
    for (kind, served) in &writes.served_kinds {
        match served {
            Some(served) => tables.served_kinds.insert(*kind, *served),
            None => tables.served_kinds.remove(kind),
        };
    }
    for (job, is_new) in &writes.suspects {
        match is_new {
            true => tables.suspects.insert(*job),
            false => tables.suspects.remove(job),
        };
    }
    for worker in &writes.workers {
        tables.workers.insert(worker.process.number, worker.clone());
    }
    for worker in &writes.forgotten_workers {
        tables.workers.remove(worker);
    }
}

fn write_beside_jobs(tables: &mut Tables, writes: &WriteSet) {
    write_kinds_and_workers(tables, writes);
    for queue in &writes.freed_queues {
        tables.queues.remove(queue);
    }
    for (queue, deleted) in &writes.queues {
        tables.queues.insert(queue.name.number, (queue.clone(), *deleted));
    }
    for (key, row, gone) in &writes.requests {
        tables.requests.insert(*key, (row.clone(), *gone));
        tables.requests_gone.extend(gone.map(|gone| (gone, *key)));
    }
    for (hash, row) in &writes.keys {
        if let Some(KeyRow { until: Some(until), .. }) = tables.keys.remove(hash) {
            tables.held_keys.remove(&(until, *hash));
        }
        if let Some(row) = row {
            tables.held_keys.extend(row.until.map(|until| (until, *hash)));
            tables.keys.insert(*hash, row.clone());
        }
    }
    for (key, count, now) in &writes.lost_jobs {
        if let Some((row, gone)) = tables.requests.get_mut(key) {
            let RequestOutcome::Jobs { live, .. } = &mut row.answer else { continue };
            *live = live.saturating_sub(*count);
            if *live == 0 {
                if let Some(earlier) = gone.replace(*now) {
                    tables.requests_gone.remove(&(earlier, *key));
                }
                tables.requests_gone.insert((*now, *key));
            }
        }
    }
    for key in &writes.forgotten_requests {
        if let Some((_, Some(gone))) = tables.requests.remove(key) {
            tables.requests_gone.remove(&(gone, *key));
        }
    }
    for TallyRow { queue, kind, state, jobs, bytes } in &writes.tallies {
        let key = (*queue, *kind, *state);
        if *jobs == 0 {
            tables.tallies.remove(&key);
        } else {
            tables.tallies.insert(key, (*jobs, *bytes));
        }
    }
    write_operations(tables, writes);
    tables.retention = writes.retention.or(tables.retention);
    if let Some(steps) = &writes.steps {
        tables.steps.clone_from(steps);
    }
    tables.counters = writes.counters.unwrap_or(tables.counters);
}

fn write_operations(tables: &mut Tables, writes: &WriteSet) {
    for purge in &writes.purges {
        tables.purges.insert(purge.queue, *purge);
    }
    for (queue, done) in &writes.ended_purges {
        tables.purges.remove(queue);
        for (row, _) in tables.requests.values_mut() {
            if row.answer == (RequestOutcome::Purge { queue: *queue, done: None }) {
                row.answer = RequestOutcome::Purge { queue: *queue, done: Some(*done) };
            }
        }
    }
    tables.turns.extend(writes.turns.iter().map(|turns| (turns.queue, *turns)));
    for queue in &writes.ended_turns {
        tables.turns.remove(queue);
    }
    tables.sweeps.extend(writes.sweeps.iter().copied());
    for keep in &writes.ended_sweeps {
        tables.sweeps.remove(keep);
    }
}
