//! Reads of the store in memory.

use std::{ops::Bound, sync::Arc};

use bytes::Bytes;
use parking_lot::RwLock;

use super::tables::{StoredJob, Tables};
use crate::{
    clock::Timestamp,
    job::{StoredCheckpoint, KeyHash, KeyRow, 
        AttemptRecord, Change, Changes, Edge, Identity, Job, JobFilter, JobId, Name, Position, StateName, Tally,
    },
    settings::{CalendarInfo, QueueInfo, ScheduleInfo},
    store::{
        HeldKey, Names, OLDEST_PARTICIPANTS_MAX, Page, Reader, Scan, ScanOrder, StoreError, StoreSize, WholeJob, named,
        sets::{SortKey, WaitingLine},
    },
};

pub(super) struct MemoryReader {
    pub(super) tables: Arc<RwLock<Tables>>,
    pub(super) names: Arc<Names>,
    pub(super) identity: Identity,
}

impl MemoryReader {
    fn held_key(&self, tables: &Tables, row: &KeyRow) -> HeldKey {
        let holder = tables.jobs.get(&row.holder).map(|kept| &*kept.job);
        HeldKey::of(row.clone(), holder, &self.names)
    }

    fn job_of(&self, kept: &StoredJob) -> Job {
        Arc::unwrap_or_clone(kept.shown(&self.names))
    }
}

impl Reader for MemoryReader {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        Ok(self.tables.read().jobs.get(&id).map(|kept| self.job_of(kept)))
    }

    fn jobs(&self, ids: &[JobId]) -> Result<(Vec<Option<Job>>, Position), StoreError> {
        let tables = self.tables.read();
        let jobs = ids.iter().map(|id| tables.jobs.get(id).map(|kept| self.job_of(kept)));
        Ok((jobs.collect(), tables.counters.position))
    }

    fn whole_job(&self, id: JobId) -> Result<Option<WholeJob>, StoreError> {
        let tables = self.tables.read();
        Ok(tables.jobs.get(&id).map(|kept| {
            let job = self.job_of(kept);
            let mut attempts = kept.attempts.clone();
            let succeeded = job.state.name() == StateName::Succeeded;
            if let Some(started) = job.started.filter(|_| succeeded || job.state.lease().is_some()) {
                attempts.push(AttemptRecord {
                    number: job.attempt,
                    started,
                    ended: job.ended,
                    failure: None,
                    worker: job.remote.owner_of(job.attempt).cloned(),
                    reported: None,
                });
            }
            WholeJob {
                job,
                payload: kept.payload.clone(),
                result: kept.result.clone(),
                output_tail: kept.output_tail.clone(),
                attempts,
                checkpoint: kept.checkpoint.clone(),
                dependencies: tables.dependencies.of_child(id),
            }
        }))
    }

    fn result(&self, id: JobId) -> Result<Option<Bytes>, StoreError> {
        let tables = self.tables.read();
        let kept = tables.jobs.get(&id).filter(|kept| kept.job.result.is_some());
        Ok(kept.map(|kept| kept.result.clone()))
    }

    fn checkpoint(&self, id: JobId) -> Result<Option<StoredCheckpoint>, StoreError> {
        Ok(self.tables.read().jobs.get(&id).and_then(|kept| kept.checkpoint.clone()))
    }

    fn dependencies(&self, child: JobId) -> Result<Vec<Edge>, StoreError> {
        Ok(self.tables.read().dependencies.of_child(child))
    }

    fn dependents(&self, parent: JobId, after: Option<JobId>, limit: usize) -> Result<Vec<Edge>, StoreError> {
        Ok(self.tables.read().dependencies.of_parent(parent, after, limit))
    }

    fn payload(&self, id: JobId) -> Result<Option<Bytes>, StoreError> {
        Ok(self.tables.read().jobs.get(&id).map(|kept| kept.payload.clone()))
    }

    fn unique_key(&self, hash: KeyHash) -> Result<Option<HeldKey>, StoreError> {
        let tables = self.tables.read();
        Ok(tables.keys.get(&hash).map(|row| self.held_key(&tables, row)))
    }

    fn unique_keys(&self, after: Option<KeyHash>, limit: usize) -> Result<Vec<(KeyHash, HeldKey)>, StoreError> {
        let tables = self.tables.read();
        let from = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let rows = tables.keys.range(from).take(limit);
        Ok(rows.map(|(hash, row)| (*hash, self.held_key(&tables, row))).collect())
    }

    fn scan(&self, filter: &JobFilter, scan: Scan) -> Result<Page, StoreError> {
        let tables = self.tables.read();
        let counters = tables.counters;
        let mut page = Page {
            jobs: Vec::new(),
            next: None,
            position: counters.position,
            newest: JobId::from_raw(counters.last_id),
        };
        // Ids are integers: all bounds become the first and the last id to scan.
        let lowest = filter.lowest_id().map_or(0, JobId::raw);
        let (first, last) = match scan.order {
            ScanOrder::NewestFirst { before } => (lowest, before.map_or(i64::MAX, |before| before.raw() - 1)),
            ScanOrder::OldestFirst { after, last } => {
                (after.map_or(0, |after| after.raw() + 1).max(lowest), last.map_or(i64::MAX, JobId::raw))
            }
        };
        // A range that ends before its start would panic. Nothing is left to scan then.
        if last < first {
            return Ok(page);
        }
        let jobs = tables.jobs.range(JobId::from_raw(first)..=JobId::from_raw(last));
        let jobs: Box<dyn Iterator<Item = (&JobId, &StoredJob)>> = match scan.order {
            ScanOrder::NewestFirst { .. } => Box::new(jobs.rev()),
            ScanOrder::OldestFirst { .. } => Box::new(jobs),
        };
        for (seen, (id, kept)) in jobs.enumerate() {
            if filter.matches(&kept.job) {
                page.jobs.push(kept.shown(&self.names));
            }
            if seen + 1 == scan.budget || page.jobs.len() == scan.limit {
                page.next = Some(*id);
                break;
            }
        }
        Ok(page)
    }

    fn changes(&self, after: Position, limit: usize) -> Result<Changes, StoreError> {
        let tables = self.tables.read();
        let from = (Bound::Excluded(after), Bound::Unbounded);
        let jobs = tables
            .by_position
            .range(from)
            .take(limit)
            .filter_map(|(_, id)| tables.jobs.get(id))
            .map(|kept| Change::Job { job: kept.shown(&self.names), before: None });
        let tombstones =
            tables.tombstones.range(from).take(limit).map(|(_, gone)| Change::Deleted(gone.clone()));
        let mut entries: Vec<_> = jobs.chain(tombstones).collect();
        entries.sort_by_key(Change::position);
        entries.truncate(limit);
        let end = tables.counters.position;
        let up_to = match entries.last() {
            Some(last) if entries.len() == limit => last.position(),
            Some(_) | None => end,
        };
        let floor = tables.counters.floor;
        Ok(Changes { entries, up_to, reaches_end: up_to >= end, floor })
    }

    fn schedules(&self, after: Option<&str>, limit: usize) -> Result<Vec<ScheduleInfo>, StoreError> {
        Ok(self.tables.read().schedules.page(after, limit))
    }

    fn schedule(&self, name: &str) -> Result<Option<ScheduleInfo>, StoreError> {
        Ok(self.tables.read().schedules.named(name))
    }

    fn calendars(&self) -> Result<Vec<CalendarInfo>, StoreError> {
        Ok(self.tables.read().schedules.calendars())
    }

    fn queues(&self) -> Result<Vec<QueueInfo>, StoreError> {
        let tables = self.tables.read();
        let mut queues: Vec<_> =
            tables.queues.values().filter(|(_, deleted)| !deleted).map(|(queue, _)| queue.clone()).collect();
        queues.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
        Ok(queues)
    }

    fn tallies(&self) -> Result<Vec<Tally>, StoreError> {
        tallies(&self.tables.read(), &self.names)
    }

    fn oldest_ready(&self, queue: &Name) -> Result<Option<Timestamp>, StoreError> {
        let tables = self.tables.read();
        let is_ready =
            |key: &(u32, WaitingLine)| key.0 == queue.number && matches!(key.1, WaitingLine::Ready(_));
        let lanes = tables.lines.iter().filter(|(key, _)| is_ready(key));
        // The first of each participant.
        let firsts = lanes.flat_map(|(_, places)| {
            let mut last = None;
            let is_first = move |place: &&SortKey| last.replace(place.participant) != Some(place.participant);
            places.iter().filter(|place| !place.participant.is_lane()).filter(is_first).take(OLDEST_PARTICIPANTS_MAX)
        });
        let since = |job: &Job| self.names.steps.seen_from_now(job.position, job.updated);
        Ok(firsts.filter_map(|place| tables.jobs.get(&place.id)).map(|kept| since(&kept.job)).min())
    }

    fn size(&self) -> Result<StoreSize, StoreError> {
        Ok(StoreSize::default())
    }
}

/// Returns every count that is not zero.
pub(super) fn tallies(tables: &Tables, names: &Names) -> Result<Vec<Tally>, StoreError> {
    let mut tallies = Vec::new();
    for ((queue, kind, state), (jobs, bytes)) in &tables.tallies {
        if *jobs > 0 {
            tallies.push(Tally {
                queue: named(&names.queues, *queue)?,
                kind: named(&names.kinds, *kind)?,
                state: *state,
                jobs: *jobs as u64,
                bytes: *bytes as u64,
            });
        }
    }
    tallies.sort_by_key(|tally| (tally.queue.number, tally.kind.number, tally.state));
    Ok(tallies)
}
