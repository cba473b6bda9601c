//! Read connections. Each call is one short transaction.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::{
    Options,
    decode::{Decoder, reason},
    dependencies::{dependencies, dependents},
    keys::{key, keys_after},
    load::{read_one_job, read_queues, read_tallies},
    log_of, open_connection,
    row::{bytes, column, read_json, read_tombstone, select_job},
    schedules,
};
use crate::{
    clock::Timestamp,
    job::{
        StoredCheckpoint, LeaseToken, Output, KeyHash, KeyRow,
        AttemptRecord, Change, Changes, Edge, Identity, Job, JobFilter, JobId, Name, Position, StateName, Tally,
    },
    settings::{CalendarInfo, QueueInfo, ScheduleInfo},
    store::{HeldKey, OLDEST_PARTICIPANTS_MAX, Page, Reader, Scan, ScanOrder, StoreError, StoreSize, WholeJob},
};

/// Maximum number of read connections.
const CONNECTIONS_MAX: usize = 4;

pub(super) struct SqliteReader {
    path: PathBuf,
    options: Options,
    decoder: Arc<Decoder>,
    identity: Identity,
    pool: Mutex<Pool>,
    returned: Condvar,
}

/// A connection on loan from the pool. It is returned even after a read that panicked, so that the pool does not run
/// dry.
struct PooledConnection<'a> {
    connection: Option<Connection>,
    reader: &'a SqliteReader,
}

impl Drop for PooledConnection<'_> {
    fn drop(&mut self) {
        self.reader.pool.lock().idle.extend(self.connection.take());
        self.reader.returned.notify_one();
    }
}

#[derive(Default)]
struct Pool {
    idle: Vec<Connection>,
    open: usize,
}

impl SqliteReader {
    pub(super) fn new(path: PathBuf, options: Options, decoder: Arc<Decoder>, identity: Identity) -> Self {
        SqliteReader { path, options, decoder, identity, pool: Mutex::default(), returned: Condvar::new() }
    }

    /// Runs `read` in one read transaction.
    fn read<T>(&self, read: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let mut lent = PooledConnection { connection: Some(self.take()?), reader: self };
        let Some(connection) = &mut lent.connection else {
            return Err(StoreError::Corrupt("a connection went away before its read".to_owned()));
        };
        let transaction = connection.transaction()?;
        let value = read(&transaction)?;
        transaction.finish()?;
        Ok(value)
    }

    fn held_key(&self, connection: &Connection, row: KeyRow) -> Result<HeldKey, StoreError> {
        let holder = match read_one_job(connection, &self.decoder, row.holder) {
            Err(StoreError::Unreadable { .. }) => None,
            read => read?,
        };
        Ok(HeldKey::of(row, holder.as_ref(), &self.decoder.names))
    }

    /// Reads a job. A row that can't be read, or has been set aside because it could not be, is an error.
    fn one_job(&self, connection: &Connection, id: JobId) -> Result<Option<Job>, StoreError> {
        let found = read_one_job(connection, &self.decoder, id)?;
        if found.is_none()
            && let Some(why) = connection
                .prepare_cached("SELECT reason FROM set_aside WHERE source = 'job' AND key = ?1")?
                .query_row([id.raw()], |row| row.get("reason"))
                .optional()?
        {
            return Err(StoreError::Unreadable { id, why });
        }
        Ok(found)
    }

    fn take(&self) -> Result<Connection, StoreError> {
        let mut pool = self.pool.lock();
        loop {
            if let Some(connection) = pool.idle.pop() {
                return Ok(connection);
            }
            if pool.open < CONNECTIONS_MAX {
                let connection = open_connection(&self.path, &self.options)?;
                connection.pragma_update(None, "query_only", true)?;
                pool.open += 1;
                return Ok(connection);
            }
            self.returned.wait(&mut pool);
        }
    }
}

impl Reader for SqliteReader {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        self.read(|connection| self.one_job(connection, id))
    }

    fn jobs(&self, ids: &[JobId]) -> Result<(Vec<Option<Job>>, Position), StoreError> {
        self.read(|connection| {
            let (position, _) = head(connection)?;
            let jobs = ids.iter().map(|id| match read_one_job(connection, &self.decoder, *id) {
                // Left out like a deleted job, so that the others are returned.
                Err(StoreError::Unreadable { .. }) => Ok(None),
                read => read,
            });
            Ok((jobs.collect::<Result<_, _>>()?, position))
        })
    }

    fn whole_job(&self, id: JobId) -> Result<Option<WholeJob>, StoreError> {
        self.read(|connection| {
            let Some(job) = self.one_job(connection, id)? else {
                return Ok(None);
            };
            let mut attempts = read_attempts(connection, id)?;
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
            let (result, output_tail) = read_outcome(connection, id)?;
            let result = result.unwrap_or_default();
            let payload = read_payload(connection, id)?.unwrap_or_default();
            let checkpoint = read_checkpoint(connection, id)?;
            let dependencies = match job.spec.dependencies() {
                0 => Vec::new(),
                _ => dependencies(connection, id)?,
            };
            Ok(Some(WholeJob { job, payload, result, output_tail, attempts, checkpoint, dependencies }))
        })
    }

    fn result(&self, id: JobId) -> Result<Option<Bytes>, StoreError> {
        self.read(|connection| Ok(read_outcome(connection, id)?.0))
    }

    fn payload(&self, id: JobId) -> Result<Option<Bytes>, StoreError> {
        self.read(|connection| read_payload(connection, id))
    }

    fn checkpoint(&self, id: JobId) -> Result<Option<StoredCheckpoint>, StoreError> {
        self.read(|connection| read_checkpoint(connection, id))
    }

    fn dependencies(&self, child: JobId) -> Result<Vec<Edge>, StoreError> {
        self.read(|connection| dependencies(connection, child))
    }

    fn dependents(&self, parent: JobId, after: Option<JobId>, limit: usize) -> Result<Vec<Edge>, StoreError> {
        self.read(|connection| dependents(connection, parent, after, limit))
    }

    fn unique_key(&self, hash: KeyHash) -> Result<Option<HeldKey>, StoreError> {
        self.read(|connection| {
            let row = key(connection, hash)?;
            row.map(|row| self.held_key(connection, row)).transpose()
        })
    }

    fn unique_keys(&self, after: Option<KeyHash>, limit: usize) -> Result<Vec<(KeyHash, HeldKey)>, StoreError> {
        self.read(|connection| {
            let rows = keys_after(connection, after, limit)?;
            rows.into_iter().map(|(hash, row)| Ok((hash, self.held_key(connection, row)?))).collect()
        })
    }

    fn scan(&self, filter: &JobFilter, scan: Scan) -> Result<Page, StoreError> {
        self.read(|connection| {
            let (position, newest) = head(connection)?;
            let mut page = Page { jobs: Vec::new(), next: None, position, newest };
            let (low, high, direction) = bounds(filter, scan.order);
            let sql = format!(
                "{} AND id < ?2 {} ORDER BY id {direction} LIMIT ?3",
                select_job!("WHERE id > ?1"),
                narrowing(filter)
            );
            let mut statement = connection.prepare_cached(&sql)?;
            let mut rows = statement.query(params![low, high, scan.budget as i64])?;
            let mut seen = 0;
            while let Some(row) = rows.next()? {
                seen += 1;
                let id = JobId::from_raw(row.get(column::ID)?);
                let state = StateName::from_number(row.get(column::STATE)?);
                // Decoding costs more than this check, which passes over most rows of a narrow filter.
                if state.is_some_and(|state| filter.matches_state(state)) {
                    let job = self.decoder.job(row).filter(|job| filter.matches_spec(&job.spec));
                    page.jobs.extend(job.map(Arc::new));
                }
                if seen == scan.budget || page.jobs.len() == scan.limit {
                    page.next = Some(id);
                    break;
                }
            }
            Ok(page)
        })
    }

    fn changes(&self, after: Position, limit: usize) -> Result<Changes, StoreError> {
        self.read(|connection| {
            let (end, _) = head(connection)?;
            let floor = connection
                .prepare_cached("SELECT floor FROM counters")?
                .query_row([], |row| row.get("floor").map(Position))?;
            let mut entries = Vec::new();
            // If the limit cuts a list off, nothing is known beyond its last row, readable or not.
            let mut up_to = end;
            let mut statement = connection
                .prepare_cached(select_job!("WHERE position > ?1 ORDER BY position LIMIT ?2"))?;
            let mut rows = statement.query(params![after.0, limit as i64])?;
            let mut seen = 0;
            while let Some(row) = rows.next()? {
                let job = self.decoder.job(row);
                entries.extend(job.map(|job| Change::Job { job: Arc::new(job), before: None }));
                seen += 1;
                if seen == limit {
                    up_to = up_to.min(Position(row.get(column::POSITION)?));
                }
            }
            let mut statement = connection.prepare_cached(
                "SELECT position, id, deleted, queue, kind, created, extras FROM tombstone WHERE position > ?1 \
                 ORDER BY position LIMIT ?2",
            )?;
            let mut rows = statement.query(params![after.0, limit as i64])?;
            let mut seen = 0;
            while let Some(row) = rows.next()? {
                match read_tombstone(row, &self.decoder.names) {
                    Ok(tombstone) => entries.push(Change::Deleted(tombstone)),
                    Err(error) => tracing::warn!(why = reason(&error), "a tombstone can't be read"),
                }
                seen += 1;
                if seen == limit {
                    up_to = up_to.min(Position(row.get("position")?));
                }
            }
            entries.sort_by_key(Change::position);
            entries.retain(|change| change.position() <= up_to);
            if entries.len() > limit {
                entries.truncate(limit);
                up_to = entries.last().map_or(up_to, Change::position);
            }
            Ok(Changes { entries, up_to, reaches_end: up_to >= end, floor })
        })
    }

    fn schedules(&self, after: Option<&str>, limit: usize) -> Result<Vec<ScheduleInfo>, StoreError> {
        self.read(|connection| schedules::read_page(connection, &self.decoder, after, limit))
    }

    fn schedule(&self, name: &str) -> Result<Option<ScheduleInfo>, StoreError> {
        self.read(|connection| schedules::read_named(connection, &self.decoder, name))
    }

    fn calendars(&self) -> Result<Vec<CalendarInfo>, StoreError> {
        self.read(|connection| schedules::read_calendars(connection, &self.decoder))
    }

    fn queues(&self) -> Result<Vec<QueueInfo>, StoreError> {
        self.read(|connection| {
            let queues = read_queues(connection, &self.decoder)?;
            Ok(queues.into_iter().filter(|(_, deleted)| !deleted).map(|(queue, _)| queue).collect())
        })
    }

    fn tallies(&self) -> Result<Vec<Tally>, StoreError> {
        self.read(|connection| read_tallies(connection, &self.decoder))
    }

    fn oldest_ready(&self, queue: &Name) -> Result<Option<Timestamp>, StoreError> {
        self.read(|connection| {
            let mut oldest: Option<Timestamp> = None;
            let mut lanes = connection
                .prepare_cached("SELECT kind FROM tally WHERE queue = ?1 AND state = 3 AND jobs > 0")?;
            let mut lanes = lanes.query([queue.number])?;
            while let Some(lane) = lanes.next()? {
                let kind: u32 = lane.get("kind")?;
                let mut first = connection.prepare_cached(
                    "SELECT participant, position, updated FROM job WHERE state = 3 AND queue = ?1 AND kind = ?2 \
                     AND participant > ?3 ORDER BY participant, rank, detail LIMIT 1",
                )?;
                // Those that wait for limits are not the next ones to run.
                let mut participant: i64 = -1;
                for _ in 0..OLDEST_PARTICIPANTS_MAX {
                    let first = first.query_row(params![queue.number, kind, participant], |row| {
                        let updated = Timestamp::from_micros(row.get("updated")?);
                        let since = self.decoder.names.steps.seen_from_now(Position(row.get("position")?), updated);
                        Ok((row.get("participant")?, since))
                    });
                    let Some((next, first)) = first.optional()? else { break };
                    participant = next;
                    oldest = oldest.into_iter().chain(Some(first)).min();
                }
            }
            Ok(oldest)
        })
    }

    fn size(&self) -> Result<StoreSize, StoreError> {
        let log = log_of(&self.path);
        let set_aside_rows = self.read(|connection| {
            Ok(connection.query_row("SELECT count(*) AS rows FROM set_aside", [], |row| row.get("rows"))?)
        })?;
        Ok(StoreSize {
            database_bytes: file_bytes(&self.path)?,
            log_bytes: file_bytes(&log)?,
            set_aside_rows,
        })
    }
}

/// Returns the length of a file; 0 if it does not exist.
fn file_bytes(path: &Path) -> Result<u64, StoreError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(source) => {
            Err(StoreError::File { what: "can't look at the file", path: path.to_owned(), source })
        }
    }
}

/// Returns the feed's end and the newest id.
fn head(connection: &Connection) -> Result<(Position, JobId), StoreError> {
    let head = connection
        .prepare_cached("SELECT position, last_id FROM counters")?
        .query_row([], |row| Ok((Position(row.get("position")?), JobId::from_raw(row.get("last_id")?))))?;
    Ok(head)
}

/// Returns the bounds of the ids to scan, both exclusive, and the direction.
fn bounds(filter: &JobFilter, order: ScanOrder) -> (i64, i64, &'static str) {
    let lowest = filter.lowest_id().map_or(0, |id| id.raw() - 1);
    match order {
        ScanOrder::NewestFirst { before } => (lowest, before.map_or(i64::MAX, JobId::raw), "DESC"),
        ScanOrder::OldestFirst { after, last } => (
            after.map_or(0, JobId::raw).max(lowest),
            last.map_or(i64::MAX, |last| last.raw().saturating_add(1)),
            "ASC",
        ),
    }
}

/// Returns a condition that lets SQLite use one of its small indexes, if the filter allows it.
fn narrowing(filter: &JobFilter) -> &'static str {
    let all_in = |states: &[StateName]| {
        !filter.states.is_empty() && filter.states.iter().all(|state| states.contains(state))
    };
    if all_in(&[StateName::Running, StateName::Cancelling]) {
        "AND state IN (4, 6)"
    } else if all_in(&[StateName::Failed]) {
        "AND state = 8"
    } else {
        ""
    }
}

fn read_payload(connection: &Connection, id: JobId) -> Result<Option<Bytes>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT payload FROM job WHERE id = ?1")?;
    let mut rows = statement.query([id.raw()])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    if let Some(inline) = bytes(row.get_ref("payload")?)? {
        return Ok(Some(inline));
    }
    let body: Vec<u8> = connection
        .prepare_cached("SELECT body FROM payload WHERE job = ?1")?
        .query_row([id.raw()], |row| row.get("body"))?;
    Ok(Some(Bytes::from(body)))
}

/// Reads what the latest finished attempt left: the bytes of its result, and the end of its output.
fn read_outcome(connection: &Connection, id: JobId) -> Result<(Option<Bytes>, String), StoreError> {
    let outcome = connection
        .prepare_cached("SELECT result, tail FROM outcome WHERE job = ?1")?
        .query_row([id.raw()], |row| {
            let result: Option<Vec<u8>> = row.get("result")?;
            let tail = row.get_ref("tail")?.as_bytes_or_null()?.unwrap_or_default();
            Ok((result.map(Bytes::from), String::from_utf8_lossy(tail).into_owned()))
        })
        .optional()?;
    Ok(outcome.unwrap_or_default())
}

fn read_checkpoint(connection: &Connection, id: JobId) -> Result<Option<StoredCheckpoint>, StoreError> {
    let read = connection
        .prepare_cached("SELECT number, state, info, written FROM checkpoint WHERE job = ?1")?
        .query_row([id.raw()], |row| {
            let state: Vec<u8> = row.get("state")?;
            let written = Timestamp::from_micros(row.get("written")?);
            Ok((row.get("number")?, Bytes::from(state), row.get::<_, String>("info")?, written))
        })
        .optional()?;
    let checkpoint = |(number, bytes, info, written): (i64, Bytes, String, Timestamp)| {
        let info = serde_json::from_str(&info).unwrap_or_else(|error| {
            tracing::warn!(job = %id, %error, "the description of a checkpoint can't be read");
            Default::default()
        });
        StoredCheckpoint { number, state: Output { bytes, info }, written }
    };
    Ok(read.map(checkpoint))
}

fn read_attempts(connection: &Connection, id: JobId) -> Result<Vec<AttemptRecord>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT number, started, ended, failure, worker, lease FROM attempt WHERE job = ?1 ORDER BY number, ended",
    )?;
    let mut rows = statement.query([id.raw()])?;
    let mut attempts = Vec::new();
    while let Some(row) = rows.next()? {
        match read_attempt(row) {
            Ok(attempt) => attempts.push(attempt),
            Err(error) => tracing::warn!(job = %id, why = reason(&error), "an attempt's row can't be read"),
        }
    }
    Ok(attempts)
}

fn read_attempt(row: &Row<'_>) -> Result<AttemptRecord, StoreError> {
    Ok(AttemptRecord {
        number: row.get("number")?,
        started: Timestamp::from_micros(row.get("started")?),
        ended: Some(Timestamp::from_micros(row.get("ended")?)),
        failure: read_json(row.get_ref("failure")?)?,
        worker: read_json(row.get_ref("worker")?)?,
        reported: row.get::<_, Option<i64>>("lease")?.map(LeaseToken::from_raw),
    })
}
