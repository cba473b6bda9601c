//! The writes of a batch.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use rusqlite::{CachedStatement, Connection, ToSql, params};

use super::{
    fetch::answer,
    keys::found_bytes,
    limits,
    load::{micros, micros_of, write_counters, write_queue, write_steps},
    row::{INLINE_PAYLOAD_MAX_BYTES, detail_of, job_columns, json, participant_of},
    schedules,
};
use crate::{
    clock::{StoreTime, Timestamp},
    job::{Job, JobId, LeaseToken, Position, Remote, RetryPolicy, Spec, StoredCheckpoint, Tombstone, Participant, WorkerRow},
    store::{
        Names, StoreError,
        sets::{ChangedJob, OutcomeRow, Purge, PurgeCounts, RequestOutcome, TallyRow, TurnsRow, WriteSet},
    },
};

/// Writes of a batch, within its transaction.
pub(super) struct Write<'c> {
    pub(super) connection: &'c Connection,
    pub(super) names: &'c Names,
}

/// The columns that each change of a job writes. The parameters before these are the job's id and its former revision.
macro_rules! changes {
    () => {
        "state = ?3, detail = ?4, revision = ?5, position = ?6, attempt = ?7, max_attempts = ?8, updated = ?9, \
         started = ?10, ended = ?11, worker = ?12, reported = ?13, until = ?14"
    };
}

/// Binds values to the parameters of a statement, from the one with the index `first` on.
fn bind(statement: &mut CachedStatement<'_>, first: usize, values: &[&dyn ToSql]) -> Result<(), StoreError> {
    for (index, value) in values.iter().enumerate() {
        statement.raw_bind_parameter(first + index, value)?;
    }
    Ok(())
}

/// Returns whether a new job has columns that most jobs lack.
fn has_rare_columns(job: &Job) -> bool {
    let Spec { retry, extras, expires, .. } = &*job.spec;
    let is_plain = job.ended.is_none()
        && *retry == RetryPolicy::DEFAULT
        && extras.is_none()
        && expires.is_none()
        && job.failure.is_none()
        && job.remote == Remote::NONE
        && job.rare.is_none()
        && participant_of(job.state) == Participant::NONE.0;
    !is_plain
}

impl Write<'_> {
    pub(super) fn all(&self, writes: &WriteSet) -> Result<(), StoreError> {
        self.names_and_queues(writes)?;
        self.requests(writes)?;
        self.keys(writes)?;
        self.new_jobs(&writes.new_jobs)?;
        self.attempts(writes)?;
        self.changed_jobs(&writes.changed_jobs)?;
        for (id, payload) in &writes.payloads {
            self.payload(*id, payload)?;
        }
        for (id, participant) in &writes.participants {
            self.sql("UPDATE job SET participant = ?2 WHERE id = ?1 AND state = 3")?.execute(params![id.raw(), participant.0])?;
        }
        let has_checkpoints = !writes.deleted_jobs.is_empty() && self.has_checkpoints()?;
        for job in &writes.deleted_jobs {
            self.deleted_job(job, has_checkpoints)?;
        }
        for tombstone in &writes.tombstones {
            self.tombstone(tombstone)?;
        }
        if let Some(last) = writes.forgotten_tombstones {
            self.sql("DELETE FROM tombstone WHERE position <= ?1")?.execute([last.0])?;
        }
        for tally in &writes.tallies {
            self.tally(tally)?;
        }
        self.operations(writes)?;
        if !writes.dependencies.is_empty() {
            self.dependencies(&writes.dependencies)?;
        }
        if !writes.schedules.is_empty() {
            schedules::write(self.connection, &writes.schedules)?;
        }
        if !writes.limits.is_empty() {
            limits::write(self.connection, &writes.limits)?;
        }
        if let Some(steps) = &writes.steps {
            write_steps(self.connection, steps)?;
        }
        if let Some(counters) = &writes.counters {
            write_counters(self.connection, counters)?;
        }
        Ok(())
    }

    pub(super) fn sql(&self, sql: &str) -> Result<CachedStatement<'_>, StoreError> {
        Ok(self.connection.prepare_cached(sql)?)
    }

    fn names_and_queues(&self, writes: &WriteSet) -> Result<(), StoreError> {
        for kind in &writes.new_kinds {
            self.sql("INSERT INTO kind (number, name) VALUES (?1, ?2)")?
                .execute(params![kind.number, kind.as_str()])?;
        }
        for kind in &writes.freed_kinds {
            self.sql("DELETE FROM kind WHERE number = ?1")?.execute([kind])?;
        }
        for (kind, served) in &writes.served_kinds {
            self.sql("UPDATE kind SET served = ?2 WHERE number = ?1")?
                .execute(params![kind, served.map(StoreTime::as_micros)])?;
        }
        for (job, is_new) in &writes.suspects {
            let sql = match is_new {
                true => "INSERT OR IGNORE INTO suspect (job) VALUES (?1)",
                false => "DELETE FROM suspect WHERE job = ?1",
            };
            self.sql(sql)?.execute([job.raw()])?;
        }
        for WorkerRow { process, predecessors, starts } in &writes.workers {
            self.sql(
                "INSERT OR REPLACE INTO worker (number, subject, instance, process, predecessors, starts) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                process.number,
                &*process.owner.subject,
                &*process.owner.instance,
                &*process.owner.process,
                json(Some(predecessors))?,
                starts,
            ])?;
        }
        for worker in &writes.forgotten_workers {
            self.sql("DELETE FROM worker WHERE number = ?1")?.execute([worker])?;
        }
        for queue in &writes.freed_queues {
            self.sql("DELETE FROM queue WHERE number = ?1")?.execute([queue])?;
        }
        for (queue, deleted) in &writes.queues {
            write_queue(self.connection, queue, *deleted)?;
        }
        Ok(())
    }

    fn requests(&self, writes: &WriteSet) -> Result<(), StoreError> {
        for (key, row, gone) in &writes.requests {
            // Columns that an answer does not use are 0.
            let (kind, first, count, live, value) = match row.answer {
                RequestOutcome::Jobs { first, count, live } => (answer::JOBS, first.raw(), count, live, None),
                RequestOutcome::Job { id, state, revision, queue } => {
                    (answer::JOB, id.raw(), state as u32, queue, Some(revision))
                }
                RequestOutcome::Done { queue } => (answer::DONE, 0, 0, queue, None),
                RequestOutcome::Purge { queue, done } => {
                    let (deleted, skipped) = (done.map(|done| done.deleted), done.map_or(0, |done| done.skipped));
                    (answer::PURGE, i64::from(queue), u32::try_from(skipped).unwrap_or(u32::MAX), 0, deleted)
                }
            };
            self.sql(
                "INSERT INTO request (key, digest, answer, first, count, live, value, gone, found) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?
            .execute(params![
                &key[..],
                &row.digest[..],
                kind,
                first,
                count,
                live,
                value.map(|value| value as i64),
                gone.map(|gone| gone.as_micros()),
                row.found.as_deref().map(found_bytes),
            ])?;
        }
        for (key, count, gone) in &writes.lost_jobs {
            // A request that loses more jobs than it has, has none left either.
            self.sql(
                "UPDATE request SET live = max(live - ?2, 0), gone = CASE WHEN live <= ?2 THEN ?3 END \
                 WHERE key = ?1 AND answer = 0",
            )?
            .execute(params![&key[..], count, gone.as_micros()])?;
        }
        for key in &writes.forgotten_requests {
            self.sql("DELETE FROM request WHERE key = ?1")?.execute([&key[..]])?;
        }
        Ok(())
    }

    fn new_jobs(&self, jobs: &[(Arc<Job>, Bytes)]) -> Result<(), StoreError> {
        if jobs.is_empty() {
            return Ok(());
        }
        // The statement is looked up once for all rows: each look-up hashes its text.
        let mut insert = self.sql(concat!(
            "INSERT INTO job (",
            job_columns!(),
            ", until, payload) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?17, ?18, ?19, NULL, \
             ?20, ?21, NULL, ?22, ?23, ?24, ?26, ?25, ?16)"
        ))?;
        insert.raw_bind_parameter(26, Participant::NONE.0)?;
        let mut had_rare = false;
        for (job, payload) in jobs {
            let spec = &job.spec;
            let inline = (payload.len() <= INLINE_PAYLOAD_MAX_BYTES).then_some(&payload[..]);
            let common = params![
                job.id.raw(),
                spec.queue.number,
                spec.kind.number,
                job.state.name() as u8,
                spec.priority.saturating_neg(),
                detail_of(job.state, self.names),
                job.revision as i64,
                job.position.0,
                job.attempt,
                job.max_attempts,
                spec.bytes as i64,
                micros(spec.attempt_timeout),
                spec.created.as_micros(),
                job.updated.as_micros(),
                job.started.map(Timestamp::as_micros),
                inline,
            ];
            bind(&mut insert, 1, common)?;
            // Most jobs have none of these, and a parameter keeps its value from row to row.
            let has_rare = has_rare_columns(job);
            if has_rare || had_rare {
                let rare = params![
                    job.ended.map(Timestamp::as_micros),
                    json((spec.retry != RetryPolicy::DEFAULT).then_some(&spec.retry))?,
                    json(spec.extras.as_ref())?,
                    // Only a job that was submitted after its deadline has one.
                    json(job.failure.as_deref())?,
                    spec.expires.map(Timestamp::as_micros),
                    job.remote.worker().map(|worker| worker.number),
                    json(job.remote.reported.as_deref())?,
                    json(job.rare.as_ref())?,
                    job.waits_until().map(Timestamp::as_micros),
                    participant_of(job.state),
                ];
                bind(&mut insert, 1 + common.len(), rare)?;
            }
            had_rare = has_rare;
            insert.raw_execute()?;
            if inline.is_none() {
                self.sql("INSERT INTO payload (job, body) VALUES (?1, ?2)")?
                    .execute(params![job.id.raw(), &payload[..]])?;
            }
        }
        Ok(())
    }

    fn attempts(&self, writes: &WriteSet) -> Result<(), StoreError> {
        for (id, attempt) in &writes.attempts {
            self.sql(
                "INSERT OR REPLACE INTO attempt (job, number, started, ended, failure, worker, lease) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                id.raw(),
                attempt.number,
                attempt.started.as_micros(),
                attempt.ended.map(Timestamp::as_micros),
                json(attempt.failure.as_ref())?,
                json(attempt.worker.as_deref())?,
                attempt.reported.map(LeaseToken::as_i64),
            ])?;
        }
        for OutcomeRow { id, result, tail } in &writes.outcomes {
            self.sql("INSERT OR REPLACE INTO outcome (job, result, tail) VALUES (?1, ?2, ?3)")?
                .execute(params![id.raw(), result.as_deref(), tail])?;
        }
        for id in &writes.dropped_checkpoints {
            self.sql("DELETE FROM checkpoint WHERE job = ?1")?.execute([id.raw()])?;
        }
        for (id, StoredCheckpoint { number, state, written }) in &writes.checkpoints {
            self.sql(
                "INSERT OR REPLACE INTO checkpoint (job, number, state, info, written) \
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                id.raw(),
                number,
                &state.bytes[..],
                json(Some(&state.info))?,
                written.as_micros()
            ])?;
        }
        Ok(())
    }

    fn changed_jobs(&self, jobs: &[ChangedJob]) -> Result<(), StoreError> {
        if jobs.is_empty() {
            return Ok(());
        }
        let mut update = self.sql(concat!("UPDATE job SET ", changes!(), " WHERE id = ?1 AND revision = ?2"))?;
        for changed in jobs {
            let ChangedJob { before, after } = changed;
            // These columns are written only if they have changed: most jobs never have any.
            let rest_same = before.progress == after.progress
                && before.failure == after.failure
                && before.result == after.result
                && before.rare == after.rare
                && participant_of(before.state) == participant_of(after.state);
            let mut with_rest = None;
            let statement = match rest_same {
                true => &mut update,
                false => with_rest.insert(self.sql(concat!(
                    "UPDATE job SET ",
                    changes!(),
                    ", progress = ?15, failure = ?16, result = ?17, rare = ?18, participant = ?19 WHERE id = ?1 AND revision = ?2"
                ))?),
            };
            let changes = params![
                before.id.raw(),
                before.revision as i64,
                after.state.name() as u8,
                detail_of(after.state, self.names),
                after.revision as i64,
                after.position.0,
                after.attempt,
                after.max_attempts,
                after.updated.as_micros(),
                after.started.map(Timestamp::as_micros),
                after.ended.map(Timestamp::as_micros),
                after.remote.worker().map(|worker| worker.number),
                json(after.remote.reported.as_deref())?,
                after.waits_until().map(Timestamp::as_micros),
            ];
            bind(statement, 1, changes)?;
            if !rest_same {
                let rest = params![
                    json(after.progress.as_deref())?,
                    json(after.failure.as_deref())?,
                    json(after.result.as_deref())?,
                    json(after.rare.as_ref())?,
                    participant_of(after.state),
                ];
                bind(statement, 1 + changes.len(), rest)?;
            }
            if statement.raw_execute()? != 1 {
                let (job, revision) = (before.id, before.revision);
                return Err(StoreError::Corrupt(format!("job {job} is not at revision {revision}")));
            }
            self.changed_spec(changed)?;
        }
        Ok(())
    }

    /// Writes the parts of a job's spec that can change, if they have.
    fn changed_spec(&self, changed: &ChangedJob) -> Result<(), StoreError> {
        let ChangedJob { before, after } = changed;
        let spec = &after.spec;
        if Arc::ptr_eq(&before.spec, spec) {
            return Ok(());
        }
        self.sql("UPDATE job SET rank = ?2, bytes = ?3, extras = ?4, expires = ?5 WHERE id = ?1")?.execute(
            params![
                after.id.raw(),
                spec.priority.saturating_neg(),
                spec.bytes as i64,
                json(spec.extras.as_ref())?,
                spec.expires.map(Timestamp::as_micros),
            ],
        )?;
        Ok(())
    }

    /// Replaces the payload of a job.
    fn payload(&self, id: JobId, payload: &Bytes) -> Result<(), StoreError> {
        let inline = (payload.len() <= INLINE_PAYLOAD_MAX_BYTES).then_some(&payload[..]);
        self.sql("UPDATE job SET payload = ?2 WHERE id = ?1")?.execute(params![id.raw(), inline])?;
        if inline.is_some() {
            self.sql("DELETE FROM payload WHERE job = ?1")?.execute([id.raw()])?;
        } else {
            self.sql("INSERT OR REPLACE INTO payload (job, body) VALUES (?1, ?2)")?
                .execute(params![id.raw(), &payload[..]])?;
        }
        Ok(())
    }

    fn has_checkpoints(&self) -> Result<bool, StoreError> {
        Ok(self.sql("SELECT job FROM checkpoint LIMIT 1")?.exists([])?)
    }

    fn deleted_job(&self, job: &Job, has_checkpoints: bool) -> Result<(), StoreError> {
        let id = job.id.raw();
        // Most jobs have no row in these tables, and these checks cost less than the look-ups.
        if job.spec.bytes > Job::FIXED_BYTES + INLINE_PAYLOAD_MAX_BYTES as u64 {
            self.sql("DELETE FROM payload WHERE job = ?1")?.execute([id])?;
        }
        if job.started.is_some() || job.attempt > 0 {
            self.sql("DELETE FROM outcome WHERE job = ?1")?.execute([id])?;
        }
        if job.attempt > 1 || job.failure.is_some() {
            self.sql("DELETE FROM attempt WHERE job = ?1")?.execute([id])?;
        }
        // A job's row does not tell whether it has one: an attempt that does not count may have left it.
        if has_checkpoints {
            self.sql("DELETE FROM checkpoint WHERE job = ?1")?.execute([id])?;
        }
        self.sql("DELETE FROM job WHERE id = ?1")?.execute([id])?;
        Ok(())
    }

    fn tombstone(&self, tombstone: &Tombstone) -> Result<(), StoreError> {
        let spec = &tombstone.spec;
        self.sql(
            "INSERT INTO tombstone (position, id, deleted, queue, kind, created, extras) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            tombstone.position.0,
            tombstone.id.raw(),
            tombstone.deleted.as_micros(),
            spec.queue.as_str(),
            spec.kind.as_str(),
            spec.created.as_micros(),
            json(spec.extras.as_ref())?,
        ])?;
        Ok(())
    }

    fn tally(&self, tally: &TallyRow) -> Result<(), StoreError> {
        let TallyRow { queue, kind, state, jobs, bytes } = *tally;
        if jobs == 0 {
            self.sql("DELETE FROM tally WHERE queue = ?1 AND kind = ?2 AND state = ?3")?.execute(params![
                queue,
                kind,
                state as u8
            ])?;
        } else {
            self.sql(
                "INSERT OR REPLACE INTO tally (queue, kind, state, jobs, bytes) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![queue, kind, state as u8, jobs, bytes])?;
        }
        Ok(())
    }

    fn operations(&self, writes: &WriteSet) -> Result<(), StoreError> {
        for Purge { queue, last, deleted } in &writes.purges {
            self.sql("INSERT OR REPLACE INTO purge (queue, last, deleted) VALUES (?1, ?2, ?3)")?
                .execute(params![queue, last.raw(), *deleted as i64])?;
        }
        for (queue, PurgeCounts { deleted, skipped }) in &writes.ended_purges {
            self.sql("DELETE FROM purge WHERE queue = ?1")?.execute([queue])?;
            self.sql(
                "UPDATE request SET value = ?2, count = ?3 WHERE answer = 3 AND value IS NULL AND first = ?1",
            )?
            .execute(params![queue, *deleted as i64, u32::try_from(*skipped).unwrap_or(u32::MAX)])?;
        }
        for TurnsRow { queue, last, is_renewing } in &writes.turns {
            self.sql("INSERT OR REPLACE INTO turns (queue, last, renewing) VALUES (?1, ?2, ?3)")?
                .execute(params![queue, last.0, is_renewing])?;
        }
        for queue in &writes.ended_turns {
            self.sql("DELETE FROM turns WHERE queue = ?1")?.execute([queue])?;
        }
        for (keep, cursor) in &writes.sweeps {
            self.sweep(*keep, *cursor)?;
        }
        for keep in &writes.ended_sweeps {
            self.sql("DELETE FROM sweep WHERE keep_us = ?1")?.execute([micros(*keep)])?;
        }
        if let Some(retention) = &writes.retention {
            self.sql(
                "INSERT OR REPLACE INTO retention (one, succeeded_us, failed_us, cancelled_us, expired_us) \
                 VALUES (1, ?1, ?2, ?3, ?4)",
            )?
            .execute(params![
                micros_of(retention.succeeded),
                micros_of(retention.failed),
                micros_of(retention.cancelled),
                micros_of(retention.expired),
            ])?;
        }
        Ok(())
    }

    fn sweep(&self, keep: Duration, cursor: Position) -> Result<(), StoreError> {
        self.sql("INSERT OR REPLACE INTO sweep (keep_us, cursor) VALUES (?1, ?2)")?
            .execute(params![micros(keep), cursor.0])?;
        Ok(())
    }
}
