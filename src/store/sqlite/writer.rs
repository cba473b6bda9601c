//! The one connection that writes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::{
    decode::{Decoder, Table, set_aside},
    disk::Growth,
    load::{
        load, micros, micros_of, read_jobs, read_one_job, recount, write_counters, write_queue, write_steps,
    },
    row::{INLINE_PAYLOAD_MAX_BYTES, JOB_COLUMNS, bytes, json},
    write_job::{insert_job, update_job},
};
use crate::{
    clock::{StoreTime, Timestamp},
    job::{AttemptRecord, Job, JobId, Name, Output, Position, StateName, Tombstone},
    settings::{QueueInfo, Retention},
    store::{
        NewJob, StoreError,
        engine::rows::{
            Counters, Lane, Loaded, NextDue, Place, Pruned, Purge, RequestRow, Rows, SetAside, Unchanged,
            Waiting,
        },
        steps::Step,
    },
};

/// Rows in SQLite.
pub(crate) struct SqliteRows {
    connection: Connection,
    decoder: Arc<Decoder>,
    after_commit: super::checkpoint::Checkpointer,
}

impl SqliteRows {
    pub(super) fn new(
        connection: Connection,
        decoder: Arc<Decoder>,
        after_commit: super::checkpoint::Checkpointer,
    ) -> Self {
        SqliteRows { connection, decoder, after_commit }
    }

    /// Sets how long a batch waits for the database's lock.
    pub(super) fn wait_for_lock(&self, at_most: Duration) -> Result<(), StoreError> {
        Ok(self.connection.busy_timeout(at_most)?)
    }

    /// What the database has to spare, and by how much its file of this length will grow.
    pub(super) fn growth(&self, file_bytes: u64) -> Result<Growth, StoreError> {
        let number =
            |pragma: &str| self.connection.pragma_query_value(None, pragma, |row| row.get::<_, u64>(0));
        let page = number("page_size")?;
        let whole = number("page_count")?.saturating_mul(page);
        let spare = number("freelist_count")?.saturating_mul(page);
        Ok(Growth { spare, due: whole.saturating_sub(file_bytes) })
    }

    /// Lets the log start over, so that it needs no more space for a while.
    pub(super) fn empty_log(&self) {
        self.after_commit.checkpoint(&self.connection);
    }

    fn sql(&self, sql: &str) -> Result<CachedStatement<'_>, StoreError> {
        Ok(self.connection.prepare_cached(sql)?)
    }

    fn jobs(&self, sql: &str, parameters: impl rusqlite::Params) -> Result<Vec<Job>, StoreError> {
        read_jobs(&self.connection, &self.decoder, sql, parameters)
    }
}

impl Rows for SqliteRows {
    fn load(&mut self) -> Result<Loaded, StoreError> {
        load(&self.connection, &self.decoder)
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        self.sql("BEGIN IMMEDIATE")?.execute([])?;
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        self.sql("COMMIT")?.execute([])?;
        self.after_commit.committed(&self.connection);
        Ok(())
    }

    fn rollback(&mut self) -> Result<(), StoreError> {
        // SQLite itself may have done it already.
        if !self.connection.is_autocommit() {
            self.sql("ROLLBACK")?.execute([])?;
        }
        Ok(())
    }

    fn has_unreadable(&self) -> bool {
        self.decoder.has_noted()
    }

    fn set_aside(&mut self, now: Timestamp) -> Result<Option<SetAside>, StoreError> {
        let noted = self.decoder.take();
        if noted.is_empty() {
            return Ok(None);
        }
        let mut jobs = Vec::new();
        for ((table, key), why) in noted {
            let spec = set_aside(&self.connection, &self.decoder.names, (table, key), &why, now)?;
            if table == Table::Job {
                jobs.push((JobId::from_raw(key), spec));
            }
        }
        Ok(Some(SetAside { jobs, tallies: recount(&self.connection, &self.decoder)? }))
    }

    fn job(&mut self, id: JobId) -> Result<Option<Job>, StoreError> {
        match read_one_job(&self.connection, &self.decoder, id) {
            Err(StoreError::Unreadable { .. }) => Ok(None),
            read => read,
        }
    }

    fn job_and_payload(&mut self, id: JobId) -> Result<Option<(Job, Option<Bytes>)>, StoreError> {
        let mut statement = self.sql(&format!("SELECT {JOB_COLUMNS}, payload FROM job WHERE id = ?1"))?;
        let mut rows = statement.query([id.raw()])?;
        match rows.next()? {
            Some(row) => match self.decoder.job(row) {
                Some(job) => Ok(Some((job, bytes(row.get_ref(21)?)?))),
                None => Ok(None),
            },
            None => Ok(None),
        }
    }

    fn insert_job(&mut self, job: &Job, payload: &Bytes) -> Result<(), StoreError> {
        insert_job(&self.connection, &self.decoder.names, job, payload)
    }

    fn update_job(&mut self, before: &Job, after: &Job) -> Result<(), StoreError> {
        update_job(&self.connection, &self.decoder.names, before, after)
    }

    fn delete_job(&mut self, job: &Job, tombstone: &Tombstone) -> Result<(), StoreError> {
        let id = job.id.raw();
        // Most jobs have no row in these tables, and it costs less to know that than to look.
        if job.spec.bytes > NewJob::FIXED_BYTES + INLINE_PAYLOAD_MAX_BYTES as u64 {
            self.sql("DELETE FROM payload WHERE job = ?1")?.execute([id])?;
        }
        if job.started.is_some() {
            self.sql("DELETE FROM outcome WHERE job = ?1")?.execute([id])?;
        }
        if job.attempt > 1 || job.failure.is_some() {
            self.sql("DELETE FROM attempt WHERE job = ?1")?.execute([id])?;
        }
        self.sql("DELETE FROM job WHERE id = ?1")?.execute([id])?;
        self.insert_tombstone(tombstone)
    }

    fn insert_tombstone(&mut self, tombstone: &Tombstone) -> Result<(), StoreError> {
        let spec = &tombstone.spec;
        self.sql("INSERT INTO tombstone VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?.execute(params![
            tombstone.position.0,
            tombstone.id.raw(),
            tombstone.deleted.as_micros(),
            spec.queue.number,
            spec.kind.number,
            spec.created.as_micros(),
            json(spec.extras.as_ref())?,
        ])?;
        Ok(())
    }

    fn insert_attempt(&mut self, id: JobId, attempt: &AttemptRecord) -> Result<(), StoreError> {
        self.sql("INSERT OR REPLACE INTO attempt VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
            id.raw(),
            attempt.number,
            attempt.started.as_micros(),
            attempt.ended.map(Timestamp::as_micros),
            json(attempt.failure.as_ref())?,
        ])?;
        Ok(())
    }

    fn put_outcome(&mut self, id: JobId, output: Option<&Output>, tail: &str) -> Result<(), StoreError> {
        self.sql("INSERT OR REPLACE INTO outcome VALUES (?1, ?2, ?3, ?4)")?.execute(params![
            id.raw(),
            output.map(|output| &output.bytes[..]),
            output.map(|output| &output.media_type),
            tail,
        ])?;
        Ok(())
    }

    fn ready(
        &mut self,
        lane: Lane,
        after: Option<Place>,
        limit: usize,
        found: &mut Vec<Place>,
    ) -> Result<(), StoreError> {
        let mut statement = self.sql(
            "SELECT rank, detail, id FROM job WHERE state = 3 AND queue = ?1 AND kind = ?2 \
             AND (rank, detail) > (?3, ?4) ORDER BY rank, detail LIMIT ?5",
        )?;
        let (rank, order) =
            after.map_or((i64::MIN, i64::MIN), |place| (i64::from(place.rank), place.order.0));
        let mut rows = statement.query(params![lane.queue, lane.kind, rank, order, limit as i64])?;
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(2)?;
            match row.get(0) {
                Ok(rank) => {
                    found.push(Place { rank, order: Position(row.get(1)?), id: JobId::from_raw(id) });
                }
                Err(error) => self.decoder.note(Table::Job, id, &error.to_string()),
            }
        }
        Ok(())
    }

    fn due(&mut self, now: Timestamp, backoffs: StoreTime, limit: usize) -> Result<Vec<Job>, StoreError> {
        // The first condition is the index's.
        let sql = format!(
            "SELECT {JOB_COLUMNS} FROM job WHERE state IN (1, 5) AND state = ?1 AND detail <= ?2 \
             ORDER BY detail, id LIMIT ?3"
        );
        let mut due = Vec::new();
        for (state, until) in
            [(StateName::Scheduled, now.as_micros()), (StateName::BackingOff, backoffs.as_micros())]
        {
            due.extend(self.jobs(&sql, params![state as u8, until, limit as i64])?);
        }
        due.sort_by_key(|job| (job.state.due(), job.id));
        due.truncate(limit);
        Ok(due)
    }

    fn next_due(&mut self) -> Result<NextDue, StoreError> {
        let first = |state: StateName| -> Result<Option<i64>, StoreError> {
            let sql = "SELECT detail FROM job WHERE state IN (1, 5) AND state = ?1 ORDER BY detail LIMIT 1";
            Ok(self.sql(sql)?.query_row([state as u8], |row| row.get(0)).optional()?)
        };
        Ok(NextDue {
            scheduled: first(StateName::Scheduled)?.map(Timestamp::from_micros),
            backoff: first(StateName::BackingOff)?.map(StoreTime::from_micros),
        })
    }

    fn expiring(&mut self, now: Timestamp, limit: usize) -> Result<Vec<Job>, StoreError> {
        self.jobs(
            &format!(
                "SELECT {JOB_COLUMNS} FROM job WHERE expires IS NOT NULL AND attempt = 0 AND state IN (1, 3) \
                 AND expires <= ?1 ORDER BY expires, id LIMIT ?2"
            ),
            params![now.as_micros(), limit as i64],
        )
    }

    fn next_expiry(&mut self) -> Result<Option<Timestamp>, StoreError> {
        let expires = self
            .sql(
                "SELECT expires FROM job WHERE expires IS NOT NULL AND attempt = 0 AND state IN (1, 3) \
                 ORDER BY expires LIMIT 1",
            )?
            .query_row([], |row| row.get(0))
            .optional()?;
        Ok(expires.map(Timestamp::from_micros))
    }

    fn unchanged(
        &mut self,
        after: Position,
        is_old: &dyn Fn(Position, Timestamp) -> bool,
        limit: usize,
    ) -> Result<Unchanged, StoreError> {
        let mut statement = self
            .sql(&format!("SELECT {JOB_COLUMNS} FROM job WHERE position > ?1 ORDER BY position LIMIT ?2"))?;
        let mut rows = statement.query(params![after.0, limit as i64])?;
        let mut unchanged = Unchanged { ended: Vec::new(), seen: 0, reached: after, next: None };
        while let Some(row) = rows.next()? {
            let (position, updated) = (Position(row.get(7)?), Timestamp::from_micros(row.get(13)?));
            if !is_old(position, updated) {
                unchanged.next = Some((position, updated));
                break;
            }
            unchanged.seen += 1;
            unchanged.reached = position;
            if StateName::from_number(row.get(3)?).is_some_and(StateName::is_done) {
                unchanged.ended.extend(self.decoder.job(row));
            }
        }
        Ok(unchanged)
    }

    fn waiting(
        &mut self,
        queue: u32,
        after: JobId,
        last: JobId,
        budget: usize,
    ) -> Result<Waiting, StoreError> {
        let mut statement = self
            .sql(&format!("SELECT {JOB_COLUMNS} FROM job WHERE id > ?1 AND id <= ?2 ORDER BY id LIMIT ?3"))?;
        let mut rows = statement.query(params![after.raw(), last.raw(), budget as i64])?;
        let (mut jobs, mut seen, mut reached) = (Vec::new(), 0, after);
        while let Some(row) = rows.next()? {
            seen += 1;
            reached = JobId::from_raw(row.get(0)?);
            let waits = matches!(
                StateName::from_number(row.get(3)?),
                Some(StateName::Scheduled | StateName::Queued | StateName::BackingOff)
            );
            if waits && row.get::<_, i64>(1)? == i64::from(queue) {
                jobs.extend(self.decoder.job(row));
            }
        }
        Ok(Waiting { jobs, seen, next: (seen == budget).then_some(reached) })
    }

    fn request(&mut self, key: &[u8; 16]) -> Result<Option<RequestRow>, StoreError> {
        let row = self
            .sql("SELECT digest, first, count FROM request WHERE key = ?1")?
            .query_row([&key[..]], |row| {
                let read = || -> Result<RequestRow, rusqlite::Error> {
                    let first = JobId::from_raw(row.get(1)?);
                    Ok(RequestRow { digest: row.get(0)?, first, count: row.get(2)? })
                };
                // No request has this digest: one whose row can't be read is refused as another one, and creates nothing.
                Ok(read().unwrap_or_else(|error| {
                    tracing::error!(%error, "the row of a request id can't be read");
                    RequestRow { digest: [0; 16], first: JobId::from_raw(0), count: 0 }
                }))
            })
            .optional()?;
        Ok(row)
    }

    fn insert_request(&mut self, key: &[u8; 16], row: &RequestRow) -> Result<(), StoreError> {
        self.sql("INSERT INTO request VALUES (?1, ?2, ?3, ?4, NULL)")?.execute(params![
            &key[..],
            &row.digest[..],
            row.first.raw(),
            row.count
        ])?;
        Ok(())
    }

    fn any_job(&mut self, first: JobId, count: u32) -> Result<bool, StoreError> {
        let last = first.plus(i64::from(count) - 1);
        Ok(self
            .sql("SELECT EXISTS (SELECT 1 FROM job WHERE id BETWEEN ?1 AND ?2)")?
            .query_row([first.raw(), last.raw()], |row| row.get(0))?)
    }

    fn request_gone(&mut self, key: &[u8; 16], at: StoreTime) -> Result<(), StoreError> {
        self.sql("UPDATE request SET gone = ?2 WHERE key = ?1")?
            .execute(params![&key[..], at.as_micros()])?;
        Ok(())
    }

    fn prune_requests(&mut self, before: StoreTime, limit: usize) -> Result<Pruned, StoreError> {
        let count = self
            .sql(
                "DELETE FROM request WHERE key IN \
                 (SELECT key FROM request WHERE gone IS NOT NULL AND gone < ?1 ORDER BY gone LIMIT ?2)",
            )?
            .execute(params![before.as_micros(), limit as i64])?;
        let next = self
            .sql("SELECT gone FROM request WHERE gone IS NOT NULL ORDER BY gone LIMIT 1")?
            .query_row([], |row| row.get(0))
            .optional()?;
        Ok(Pruned { count, last: None, next: next.map(StoreTime::from_micros) })
    }

    fn prune_tombstones(&mut self, before: StoreTime, limit: usize) -> Result<Pruned, StoreError> {
        let mut pruned = Pruned::default();
        {
            let mut statement =
                self.sql("SELECT position, deleted FROM tombstone ORDER BY position LIMIT ?1")?;
            let mut rows = statement.query([limit.saturating_add(1) as i64])?;
            while let Some(row) = rows.next()? {
                let deleted = StoreTime::from_micros(row.get(1)?);
                if deleted >= before || pruned.count == limit {
                    pruned.next = Some(deleted);
                    break;
                }
                pruned.count += 1;
                pruned.last = Some(Position(row.get(0)?));
            }
        }
        if let Some(last) = pruned.last {
            self.sql("DELETE FROM tombstone WHERE position <= ?1")?.execute([last.0])?;
        }
        Ok(pruned)
    }

    fn put_kind(&mut self, kind: &Name) -> Result<(), StoreError> {
        self.sql("INSERT INTO kind VALUES (?1, ?2)")?.execute(params![kind.number, kind.as_str()])?;
        Ok(())
    }

    fn put_queue(&mut self, queue: &QueueInfo, deleted: bool) -> Result<(), StoreError> {
        write_queue(&self.connection, queue, deleted)
    }

    fn put_tally(
        &mut self,
        queue: u32,
        kind: u32,
        state: u8,
        jobs: i64,
        bytes: i64,
    ) -> Result<(), StoreError> {
        self.sql("INSERT OR REPLACE INTO tally VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![queue, kind, state, jobs, bytes])?;
        Ok(())
    }

    fn put_counters(&mut self, counters: &Counters) -> Result<(), StoreError> {
        write_counters(&self.connection, counters)
    }

    fn put_steps(&mut self, steps: &[Step]) -> Result<(), StoreError> {
        write_steps(&self.connection, steps)
    }

    fn put_purge(&mut self, purge: &Purge) -> Result<(), StoreError> {
        self.sql("INSERT OR REPLACE INTO purge VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
            purge.number,
            purge.queue,
            purge.cursor.raw(),
            purge.last.raw(),
            purge.deleted as i64
        ])?;
        Ok(())
    }

    fn delete_purge(&mut self, number: i64) -> Result<(), StoreError> {
        self.sql("DELETE FROM purge WHERE number = ?1")?.execute([number])?;
        Ok(())
    }

    fn put_sweep(&mut self, keep: Duration, cursor: Position) -> Result<(), StoreError> {
        self.sql("INSERT OR REPLACE INTO sweep VALUES (?1, ?2)")?.execute(params![micros(keep), cursor.0])?;
        Ok(())
    }

    fn delete_sweep(&mut self, keep: Duration) -> Result<(), StoreError> {
        self.sql("DELETE FROM sweep WHERE keep_us = ?1")?.execute([micros(keep)])?;
        Ok(())
    }

    fn put_retention(&mut self, retention: &Retention) -> Result<(), StoreError> {
        self.sql("INSERT OR REPLACE INTO retention VALUES (1, ?1, ?2, ?3, ?4)")?.execute(params![
            micros_of(retention.succeeded),
            micros_of(retention.failed),
            micros_of(retention.cancelled),
            micros_of(retention.expired),
        ])?;
        Ok(())
    }
}
