//! A store in memory: for throw-away servers, and the model that tests compare other stores with.

mod reader;
mod tables;

use std::{ops::Bound, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::{ArcRwLockWriteGuard, RawRwLock, RwLock};
use reader::{MemoryReader, tallies};
use tables::{Kept, Tables, backoff_of};

use super::{
    Applied, Batch, Names, Reader, Store, StoreError,
    engine::{
        Engine, EngineSetup,
        rows::{
            Counters, Lane, Loaded, NextDue, Place, Pruned, Purge, RequestRow, Rows, Unchanged, Waiting,
            corrupt,
        },
    },
    steps::Step,
};
use crate::{
    clock::{StoreTime, Timestamp},
    job::{AttemptRecord, Identity, Incarnation, Job, JobId, Name, Output, Position, State, Tombstone},
    settings::{QueueInfo, Retention},
};

/// A store in memory.
pub struct MemoryStore {
    engine: Engine<MemoryRows>,
    reader: Arc<MemoryReader>,
}

impl MemoryStore {
    /// An empty store.
    ///
    /// # Errors
    /// None in practice; the type is that of every store.
    pub fn open(setup: EngineSetup) -> Result<Self, StoreError> {
        let names = Arc::new(Names::default());
        let tables = Arc::new(RwLock::new(Tables::default()));
        let reader = Arc::new(MemoryReader {
            tables: Arc::clone(&tables),
            names: Arc::clone(&names),
            identity: Identity {
                store: uuid::Uuid::new_v4().into_bytes(),
                incarnations: vec![incarnation(Position::default())],
            },
        });
        let rows = MemoryRows { tables, names: Arc::clone(&names), transaction: None };
        let engine = Engine::open(rows, names, setup)?;
        Ok(MemoryStore { engine, reader })
    }

    /// Puts the store into the state in which a server that died now would find it at its next start.
    ///
    /// # Errors
    /// As [`MemoryStore::open`].
    pub fn reopen(self, setup: EngineSetup) -> Result<Self, StoreError> {
        let MemoryStore { engine, reader } = self;
        let mut identity = reader.identity.clone();
        identity.incarnations.push(incarnation(Position(reader.tables.read().counters.position)));
        let (tables, names) = (Arc::clone(&reader.tables), Arc::clone(&reader.names));
        let engine = Engine::open(engine.into_rows(), Arc::clone(&names), setup)?;
        Ok(MemoryStore { engine, reader: Arc::new(MemoryReader { tables, names, identity }) })
    }
}

/// A start of a server, by an id drawn at random.
fn incarnation(first: Position) -> Incarnation {
    let [a, b, c, d, e, f, g, h, ..] = uuid::Uuid::new_v4().into_bytes();
    Incarnation { id: [a, b, c, d, e, f, g, h], first }
}

impl Store for MemoryStore {
    fn apply(&mut self, batch: Batch) -> Result<Applied, StoreError> {
        self.engine.apply(batch)
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::clone(&self.reader) as Arc<dyn Reader>
    }
}

/// Rows in memory. A transaction holds the lock, so that readers see all of it or nothing.
pub(crate) struct MemoryRows {
    tables: Arc<RwLock<Tables>>,
    names: Arc<Names>,
    transaction: Option<ArcRwLockWriteGuard<RawRwLock, Tables>>,
}

impl MemoryRows {
    fn with<T>(&mut self, work: impl FnOnce(&mut Tables) -> T) -> T {
        self.with_names(|tables, _| work(tables))
    }

    fn with_names<T>(&mut self, work: impl FnOnce(&mut Tables, &Names) -> T) -> T {
        match &mut self.transaction {
            Some(tables) => work(tables, &self.names),
            None => work(&mut self.tables.write(), &self.names),
        }
    }
}

impl Rows for MemoryRows {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        let names = Arc::clone(&self.names);
        self.with(|tables| {
            Ok(Loaded {
                queues: tables.queues.values().cloned().collect(),
                tallies: tallies(tables, &names)?,
                counters: tables.counters,
                leased: tables
                    .jobs
                    .values()
                    .filter(|kept| kept.job.state.lease().is_some())
                    .map(|kept| Job::clone(&kept.job))
                    .collect(),
                purges: tables.purges.values().cloned().collect(),
                sweeps: tables.sweeps.iter().map(|(keep, cursor)| (*keep, *cursor)).collect(),
                retention: tables.retention,
                steps: tables.steps.clone(),
            })
        })
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        self.transaction = Some(self.tables.write_arc());
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.transaction = None;
        Ok(())
    }

    fn rollback(&mut self) -> Result<(), StoreError> {
        corrupt("the store in memory can't be full")
    }

    fn job(&mut self, id: JobId) -> Result<Option<Job>, StoreError> {
        Ok(self.with_names(|tables, names| {
            tables.jobs.get(&id).map(|kept| Arc::unwrap_or_clone(kept.shown(names)))
        }))
    }

    fn job_and_payload(&mut self, id: JobId) -> Result<Option<(Job, Option<Bytes>)>, StoreError> {
        Ok(self.with_names(|tables, names| {
            let kept = tables.jobs.get(&id)?;
            Some((Arc::unwrap_or_clone(kept.shown(names)), Some(kept.payload.clone())))
        }))
    }

    fn insert_job(&mut self, job: &Job, payload: &Bytes) -> Result<(), StoreError> {
        self.with_names(|tables, names| {
            let kept = Kept::new(job, payload.clone(), names);
            tables.index(job, kept.backoff);
            tables.jobs.insert(job.id, kept);
        });
        Ok(())
    }

    fn update_job(&mut self, before: &Job, after: &Job) -> Result<(), StoreError> {
        self.with_names(|tables, names| {
            let Some(kept) =
                tables.jobs.get_mut(&before.id).filter(|kept| kept.job.revision == before.revision)
            else {
                return corrupt(format!("job {} is not at revision {}", before.id, before.revision));
            };
            let backoff = backoff_of(after, names);
            let old = std::mem::replace(&mut kept.job, Arc::new(after.clone()));
            let old_backoff = std::mem::replace(&mut kept.backoff, backoff);
            tables.unindex(&old, old_backoff);
            tables.index(after, backoff);
            Ok(())
        })
    }

    fn delete_job(&mut self, job: &Job, tombstone: &Tombstone) -> Result<(), StoreError> {
        self.with(|tables| {
            if let Some(kept) = tables.jobs.remove(&job.id) {
                tables.unindex(&kept.job, kept.backoff);
            }
        });
        self.insert_tombstone(tombstone)
    }

    fn insert_tombstone(&mut self, tombstone: &Tombstone) -> Result<(), StoreError> {
        self.with(|tables| tables.tombstones.insert(tombstone.position, tombstone.clone()));
        Ok(())
    }

    fn insert_attempt(&mut self, id: JobId, attempt: &AttemptRecord) -> Result<(), StoreError> {
        self.with(|tables| {
            if let Some(kept) = tables.jobs.get_mut(&id) {
                kept.attempts.push(attempt.clone());
            }
        });
        Ok(())
    }

    fn put_outcome(&mut self, id: JobId, output: Option<&Output>, tail: &str) -> Result<(), StoreError> {
        self.with(|tables| {
            if let Some(kept) = tables.jobs.get_mut(&id) {
                kept.result = output.cloned();
                tail.clone_into(&mut kept.output_tail);
            }
        });
        Ok(())
    }

    fn ready(
        &mut self,
        lane: Lane,
        after: Option<Place>,
        limit: usize,
        found: &mut Vec<Place>,
    ) -> Result<(), StoreError> {
        self.with(|tables| {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            if let Some(places) = tables.ready.get(&lane) {
                found.extend(places.range((from, Bound::Unbounded)).take(limit).copied());
            }
        });
        Ok(())
    }

    fn due(&mut self, now: Timestamp, backoffs: StoreTime, limit: usize) -> Result<Vec<Job>, StoreError> {
        Ok(self.with_names(|tables, names| {
            let scheduled = tables.scheduled.iter().take_while(|(due, _)| *due <= now).map(|(_, id)| id);
            let backing_off =
                tables.backing_off.iter().take_while(|(due, _)| *due <= backoffs).map(|(_, id)| id);
            let due = scheduled.take(limit).chain(backing_off.take(limit));
            let mut due: Vec<_> =
                due.filter_map(|id| tables.jobs.get(id)).map(|kept| kept.shown(names)).collect();
            due.sort_by_key(|job| (job.state.due(), job.id));
            due.truncate(limit);
            due.into_iter().map(Arc::unwrap_or_clone).collect()
        }))
    }

    fn next_due(&mut self) -> Result<NextDue, StoreError> {
        Ok(self.with(|tables| NextDue {
            scheduled: tables.scheduled.first().map(|(due, _)| *due),
            backoff: tables.backing_off.first().map(|(due, _)| *due),
        }))
    }

    fn expiring(&mut self, now: Timestamp, limit: usize) -> Result<Vec<Job>, StoreError> {
        Ok(self.with(|tables| {
            let over = tables.expiring.iter().take_while(|(expires, _)| *expires <= now).take(limit);
            over.filter_map(|(_, id)| tables.jobs.get(id)).map(|kept| Job::clone(&kept.job)).collect()
        }))
    }

    fn next_expiry(&mut self) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.with(|tables| tables.expiring.first().map(|(expires, _)| *expires)))
    }

    fn unchanged(
        &mut self,
        after: Position,
        is_old: &dyn Fn(Position, Timestamp) -> bool,
        limit: usize,
    ) -> Result<Unchanged, StoreError> {
        Ok(self.with(|tables| {
            let mut unchanged = Unchanged { ended: Vec::new(), seen: 0, reached: after, next: None };
            let later = tables.by_position.range((Bound::Excluded(after), Bound::Unbounded)).take(limit);
            for (position, id) in later {
                let Some(Kept { job, .. }) = tables.jobs.get(id) else { continue };
                if !is_old(job.position, job.updated) {
                    unchanged.next = Some((job.position, job.updated));
                    break;
                }
                unchanged.seen += 1;
                unchanged.reached = *position;
                if job.state.is_done() {
                    unchanged.ended.push(Job::clone(job));
                }
            }
            unchanged
        }))
    }

    fn waiting(
        &mut self,
        queue: u32,
        after: JobId,
        last: JobId,
        budget: usize,
    ) -> Result<Waiting, StoreError> {
        // An end before the start would panic, and means that nothing is left.
        if last <= after {
            return Ok(Waiting::default());
        }
        Ok(self.with_names(|tables, names| {
            let (mut jobs, mut seen, mut reached) = (Vec::new(), 0, after);
            for (id, kept) in tables.jobs.range((Bound::Excluded(after), Bound::Included(last))).take(budget)
            {
                seen += 1;
                reached = *id;
                let waits = matches!(
                    kept.job.state,
                    State::Scheduled { .. } | State::Queued { .. } | State::BackingOff { .. }
                );
                if waits && kept.job.spec.queue.number == queue {
                    jobs.push(Arc::unwrap_or_clone(kept.shown(names)));
                }
            }
            Waiting { jobs, seen, next: (seen == budget).then_some(reached) }
        }))
    }

    fn request(&mut self, key: &[u8; 16]) -> Result<Option<RequestRow>, StoreError> {
        Ok(self.with(|tables| tables.requests.get(key).map(|(row, _)| *row)))
    }

    fn insert_request(&mut self, key: &[u8; 16], row: &RequestRow) -> Result<(), StoreError> {
        self.with(|tables| tables.requests.insert(*key, (*row, None)));
        Ok(())
    }

    fn any_job(&mut self, first: JobId, count: u32) -> Result<bool, StoreError> {
        Ok(self.with(|tables| tables.jobs.range(first..first.plus(i64::from(count))).next().is_some()))
    }

    fn request_gone(&mut self, key: &[u8; 16], at: StoreTime) -> Result<(), StoreError> {
        self.with(|tables| {
            if let Some((_, gone)) = tables.requests.get_mut(key) {
                if let Some(earlier) = gone.replace(at) {
                    tables.requests_gone.remove(&(earlier, *key));
                }
                tables.requests_gone.insert((at, *key));
            }
        });
        Ok(())
    }

    fn prune_requests(&mut self, before: StoreTime, limit: usize) -> Result<Pruned, StoreError> {
        Ok(self.with(|tables| {
            let mut pruned = Pruned::default();
            while let Some((gone, key)) = tables.requests_gone.first().copied() {
                if gone >= before || pruned.count == limit {
                    pruned.next = Some(gone);
                    break;
                }
                tables.requests_gone.pop_first();
                tables.requests.remove(&key);
                pruned.count += 1;
            }
            pruned
        }))
    }

    fn prune_tombstones(&mut self, before: StoreTime, limit: usize) -> Result<Pruned, StoreError> {
        Ok(self.with(|tables| {
            let mut pruned = Pruned::default();
            while let Some((position, tombstone)) = tables.tombstones.first_key_value() {
                if tombstone.deleted >= before || pruned.count == limit {
                    pruned.next = Some(tombstone.deleted);
                    break;
                }
                pruned.count += 1;
                pruned.last = Some(*position);
                tables.tombstones.pop_first();
            }
            pruned
        }))
    }

    fn put_kind(&mut self, _kind: &Name) -> Result<(), StoreError> {
        // The names themselves are in memory already.
        Ok(())
    }

    fn put_queue(&mut self, queue: &QueueInfo, deleted: bool) -> Result<(), StoreError> {
        self.with(|tables| tables.queues.insert(queue.name.number, (queue.clone(), deleted)));
        Ok(())
    }

    fn put_tally(
        &mut self,
        queue: u32,
        kind: u32,
        state: u8,
        jobs: i64,
        bytes: i64,
    ) -> Result<(), StoreError> {
        self.with(|tables| tables.tallies.insert((queue, kind, state), (jobs, bytes)));
        Ok(())
    }

    fn put_counters(&mut self, counters: &Counters) -> Result<(), StoreError> {
        self.with(|tables| tables.counters = *counters);
        Ok(())
    }

    fn put_steps(&mut self, steps: &[Step]) -> Result<(), StoreError> {
        self.with(|tables| tables.steps = steps.to_vec());
        Ok(())
    }

    fn put_purge(&mut self, purge: &Purge) -> Result<(), StoreError> {
        self.with(|tables| tables.purges.insert(purge.number, purge.clone()));
        Ok(())
    }

    fn delete_purge(&mut self, number: i64) -> Result<(), StoreError> {
        self.with(|tables| tables.purges.remove(&number));
        Ok(())
    }

    fn put_sweep(&mut self, keep: Duration, cursor: Position) -> Result<(), StoreError> {
        self.with(|tables| tables.sweeps.insert(keep, cursor));
        Ok(())
    }

    fn delete_sweep(&mut self, keep: Duration) -> Result<(), StoreError> {
        self.with(|tables| tables.sweeps.remove(&keep));
        Ok(())
    }

    fn put_retention(&mut self, retention: &Retention) -> Result<(), StoreError> {
        self.with(|tables| tables.retention = Some(*retention));
        Ok(())
    }
}
