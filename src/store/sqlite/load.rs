//! Small tables that the engine keeps in memory.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    decode::{Decoder, Table},
    dependencies::over_parents,
    limits,
    row::{load_names, select_job},
    schedules,
};
use crate::{
    clock::{StoreTime, Timestamp},
    job::{Job, JobId, Name, Participant, Position, StateName, Tally, WorkerProcess, WorkerRow},
    settings::{Keep, QueueInfo, QueueRetention, QueueSettings, Retention, WhenFull},
    store::{
        ClockStep, StoreError, named,
        sets::{Counters, Loaded, Purge, StoredTimes, TurnsRow, WaitingLine},
    },
};

/// Loads all of these tables. Rows that can't be read are left out and noted.
pub(super) fn load(connection: &Connection, decoder: &Decoder) -> Result<Loaded, StoreError> {
    load_names(connection, decoder)?;
    let workers = read_workers(connection, decoder)?;
    decoder.names.workers.load(workers.iter().map(|worker| &worker.process));
    let tallies = read_tallies(connection, decoder)?;
    let limits = limits::load(connection, decoder, &tallies)?;
    let running = select_job!("WHERE state IN (4, 6) ORDER BY id");
    Ok(Loaded {
        queues: load_queues(connection, decoder)?,
        first_times: read_first_times(connection, &tallies)?,
        first_expiry: read_first_expiry(connection)?,
        tallies,
        counters: read_counters(connection)?,
        workers,
        served_kinds: read_served_kinds(connection, decoder)?,
        suspects: read_suspects(connection)?,
        leased: read_jobs(connection, decoder, running)?.into_iter().map(Arc::new).collect(),
        purges: read_purges(connection, decoder)?,
        turns: read_turns(connection, decoder)?,
        sweeps: read_sweeps(connection, decoder)?,
        retention: read_retention(connection, decoder)?,
        steps: read_steps(connection, decoder)?,
        schedules: schedules::load(connection, decoder)?,
        over_parents: over_parents(connection)?,
        limits,
    })
}

/// Reads the earliest time in each line that is ordered by time.
fn read_first_times(
    connection: &Connection,
    tallies: &[Tally],
) -> Result<Vec<(u32, WaitingLine, i64)>, StoreError> {
    let waits = |state| match state {
        StateName::Scheduled => Some(WaitingLine::Scheduled),
        StateName::BackingOff => Some(WaitingLine::BackingOff),
        StateName::Blocked
        | StateName::Queued
        | StateName::Running
        | StateName::Cancelling
        | StateName::Succeeded
        | StateName::Failed
        | StateName::Cancelled
        | StateName::Expired => None,
    };
    let lines: BTreeSet<(u32, WaitingLine, u8)> = tallies
        .iter()
        .filter_map(|tally| Some((tally.queue.number, waits(tally.state)?, tally.state as u8)))
        .collect();
    let mut times = Vec::new();
    for (queue, line, state) in lines {
        let first = connection
            .prepare_cached(
                "SELECT detail FROM job WHERE (state = 1 OR state = 2 OR state = 5) AND state = ?1 AND queue = ?2 \
                 ORDER BY detail LIMIT 1",
            )?
            .query_row(params![state, queue], |row| row.get::<_, Option<i64>>("detail"))
            .optional()?;
        // A row without a time counts as due: the read that follows sets it aside.
        times.extend(first.map(|time| (queue, line, time.unwrap_or(i64::MIN))));
    }
    Ok(times)
}

fn read_first_expiry(connection: &Connection) -> Result<Option<Timestamp>, StoreError> {
    let until = connection
        .prepare_cached("SELECT until FROM job WHERE until IS NOT NULL ORDER BY until LIMIT 1")?
        .query_row([], |row| row.get("until"))
        .optional()?;
    Ok(until.map(Timestamp::from_micros))
}

fn read_suspects(connection: &Connection) -> Result<Vec<JobId>, StoreError> {
    let mut statement = connection.prepare("SELECT job FROM suspect")?;
    let ids = statement.query_map([], |row| row.get("job").map(JobId::from_raw))?;
    Ok(ids.collect::<Result<_, _>>()?)
}

fn read_workers(connection: &Connection, decoder: &Decoder) -> Result<Vec<WorkerRow>, StoreError> {
    let sql = "SELECT number, subject, instance, process, predecessors, starts FROM worker ORDER BY number";
    read_rows(connection, decoder, Table::Worker, sql, |row| {
        let text = |column: &str| row.get::<_, String>(column);
        let process = WorkerProcess::new(
            row.get("number")?,
            &text("subject")?,
            &text("instance")?,
            &text("process")?,
        );
        // Without its list of earlier processes, a worker is no worse off than a new one.
        let predecessors = serde_json::from_str(&text("predecessors")?).unwrap_or_default();
        Ok(WorkerRow { process: Arc::new(process), predecessors, starts: row.get("starts")? })
    })
}

pub(super) fn read_served_kinds(
    connection: &Connection,
    decoder: &Decoder,
) -> Result<Vec<(u32, StoreTime)>, StoreError> {
    let sql = "SELECT number, served FROM kind WHERE served IS NOT NULL";
    read_rows(connection, decoder, Table::Kind, sql, |row| {
        Ok((row.get("number")?, StoreTime::from_micros(row.get("served")?)))
    })
}

fn read_purges(connection: &Connection, decoder: &Decoder) -> Result<Vec<Purge>, StoreError> {
    let sql = "SELECT queue, last, deleted FROM purge ORDER BY queue";
    read_rows(connection, decoder, Table::Purge, sql, |row| {
        Ok(Purge {
            queue: row.get("queue")?,
            last: JobId::from_raw(row.get("last")?),
            deleted: row.get("deleted")?,
        })
    })
}

fn read_turns(connection: &Connection, decoder: &Decoder) -> Result<Vec<TurnsRow>, StoreError> {
    let sql = "SELECT queue, last, renewing FROM turns ORDER BY queue";
    read_rows(connection, decoder, Table::Turns, sql, |row| {
        Ok(TurnsRow {
            queue: row.get("queue")?,
            last: Participant(row.get("last")?),
            is_renewing: row.get("renewing")?,
        })
    })
}

fn read_sweeps(connection: &Connection, decoder: &Decoder) -> Result<Vec<(Duration, Position)>, StoreError> {
    let sql = "SELECT keep_us, cursor FROM sweep ORDER BY keep_us";
    read_rows(connection, decoder, Table::Sweep, sql, |row| {
        Ok((Duration::from_micros(row.get("keep_us")?), Position(row.get("cursor")?)))
    })
}

fn read_retention(connection: &Connection, decoder: &Decoder) -> Result<Option<Retention>, StoreError> {
    let sql = "SELECT one, succeeded_us, failed_us, cancelled_us, expired_us FROM retention";
    let rows = read_rows(connection, decoder, Table::Retention, sql, |row| {
        Ok(Retention {
            succeeded: keep_of(row.get("succeeded_us")?),
            failed: keep_of(row.get("failed_us")?),
            cancelled: keep_of(row.get("cancelled_us")?),
            expired: keep_of(row.get("expired_us")?),
        })
    });
    Ok(rows?.pop())
}

fn read_steps(connection: &Connection, decoder: &Decoder) -> Result<Vec<ClockStep>, StoreError> {
    let sql = "SELECT position, of_retention, of_backoffs FROM step ORDER BY position";
    read_rows(connection, decoder, Table::Step, sql, |row| {
        Ok(ClockStep {
            position: Position(row.get("position")?),
            of_retention: row.get("of_retention")?,
            of_backoffs: row.get("of_backoffs")?,
        })
    })
}

/// Reads the rows of a table. Those that can't be read are noted.
fn read_rows<T>(
    connection: &Connection,
    decoder: &Decoder,
    table: Table,
    sql: &str,
    read: impl Fn(&Row<'_>) -> Result<T, rusqlite::Error>,
) -> Result<Vec<T>, StoreError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        match read(row) {
            Ok(value) => found.push(value),
            Err(error) => decoder.note(table, row.get(table.key())?, &error.to_string()),
        }
    }
    Ok(found)
}

fn read_counters(connection: &Connection) -> Result<Counters, StoreError> {
    let read = connection.query_row(
        "SELECT position, last_id, last_lease, floor, wall, backoffs, retention, counted FROM counters",
        [],
        |row| {
            let wall: Option<i64> = row.get("wall")?;
            let kept = |wall: i64| -> rusqlite::Result<StoredTimes> {
                Ok(StoredTimes {
                    wall: Timestamp::from_micros(wall),
                    backoffs: StoreTime::from_micros(row.get("backoffs")?),
                    retention: StoreTime::from_micros(row.get("retention")?),
                    counted: Timestamp::from_micros(row.get("counted")?),
                })
            };
            Ok(Counters {
                position: Position(row.get("position")?),
                last_id: row.get("last_id")?,
                last_lease: row.get("last_lease")?,
                floor: Position(row.get("floor")?),
                times: wall.map(kept).transpose()?,
            })
        },
    );
    match read {
        Err(rusqlite::Error::QueryReturnedNoRows) => {
            Err(StoreError::Corrupt("the table `counters` has no row: restore a backup".to_owned()))
        }
        read => Ok(read?),
    }
}

fn read_jobs(connection: &Connection, decoder: &Decoder, sql: &str) -> Result<Vec<Job>, StoreError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut jobs = Vec::new();
    while let Some(row) = rows.next()? {
        jobs.extend(decoder.job(row));
    }
    Ok(jobs)
}

/// Reads a job. A row that can't be read is an error.
pub(super) fn read_one_job(
    connection: &Connection,
    decoder: &Decoder,
    id: JobId,
) -> Result<Option<Job>, StoreError> {
    let mut statement = connection.prepare_cached(select_job!("WHERE id = ?1"))?;
    let mut rows = statement.query([id.raw()])?;
    rows.next()?.map(|row| decoder.try_job(row)).transpose()
}

pub(super) fn write_queue(
    connection: &Connection,
    queue: &QueueInfo,
    deleted: bool,
) -> Result<(), StoreError> {
    let settings = &queue.settings;
    let retention = &settings.retention;
    connection.prepare_cached(
        "INSERT OR REPLACE INTO queue (number, name, max_jobs, max_bytes, consumers, wait_when_full, max_wait_us, \
         max_waiters, accept_unknown_kinds, keep_succeeded_us, keep_failed_us, keep_cancelled_us, keep_expired_us, \
         paused, revision, declared, deleted, fair_by) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
    )?
    .execute(params![
            queue.name.number,
            queue.name.as_str(),
            settings.max_jobs as i64,
            settings.max_bytes as i64,
            settings.consumers,
            settings.when_full == WhenFull::Wait,
            micros(settings.max_wait),
            settings.max_waiters,
            settings.accept_unknown_kinds,
            retention.succeeded.map(micros_of),
            retention.failed.map(micros_of),
            retention.cancelled.map(micros_of),
            retention.expired.map(micros_of),
            queue.paused,
            queue.revision,
            declared_to_number(queue),
            deleted,
            settings.fair_by.as_deref(),
        ])?;
    Ok(())
}

/// Value of the column `declared` for a queue that the configuration declares.
const DECLARED: i64 = 1;
/// Value of the column `declared` for a queue that the configuration used to declare.
const FORMERLY_DECLARED: i64 = 2;

fn declared_to_number(queue: &QueueInfo) -> i64 {
    match (queue.declared, queue.formerly_declared) {
        (true, _) => DECLARED,
        (false, true) => FORMERLY_DECLARED,
        (false, false) => 0,
    }
}

pub(super) fn write_counters(connection: &Connection, counters: &Counters) -> Result<(), StoreError> {
    let times = counters.times;
    connection
        .prepare_cached(
            "UPDATE counters SET position = ?1, last_id = ?2, last_lease = ?3, floor = ?4, wall = ?5, backoffs = ?6, \
             retention = ?7, counted = ?8",
        )?
        .execute(params![
            counters.position.0,
            counters.last_id,
            counters.last_lease,
            counters.floor.0,
            times.map(|times| times.wall.as_micros()),
            times.map(|times| times.backoffs.as_micros()),
            times.map(|times| times.retention.as_micros()),
            times.map(|times| times.counted.as_micros()),
        ])?;
    Ok(())
}

pub(super) fn write_steps(connection: &Connection, steps: &[ClockStep]) -> Result<(), StoreError> {
    connection.prepare_cached("DELETE FROM step")?.execute([])?;
    for ClockStep { position, of_retention, of_backoffs } in steps {
        connection
            .prepare_cached("INSERT INTO step (position, of_retention, of_backoffs) VALUES (?1, ?2, ?3)")?
            .execute(params![position.0, of_retention, of_backoffs])?;
    }
    Ok(())
}

/// Loads all queues, including deleted ones, once all names are loaded. A queue that has jobs but no row gets the
/// default settings.
pub(super) fn load_queues(
    connection: &Connection,
    decoder: &Decoder,
) -> Result<Vec<(QueueInfo, bool)>, StoreError> {
    let mut queues = read_queues(connection, decoder)?;
    for name in decoder.names.queues.all() {
        if !queues.iter().any(|(queue, _)| queue.name.number == name.number) {
            queues.push((with_defaults(name), false));
        }
    }
    Ok(queues)
}

/// Reads the queues that have a row, by name. A queue whose row can't be read gets the default settings.
pub(super) fn read_queues(
    connection: &Connection,
    decoder: &Decoder,
) -> Result<Vec<(QueueInfo, bool)>, StoreError> {
    let mut statement = connection.prepare_cached(
        "SELECT number, max_jobs, max_bytes, consumers, wait_when_full, max_wait_us, max_waiters, accept_unknown_kinds, \
         keep_succeeded_us, keep_failed_us, keep_cancelled_us, keep_expired_us, paused, revision, declared, deleted, fair_by \
         FROM queue ORDER BY name",
    )?;
    let mut rows = statement.query([])?;
    let mut queues = Vec::new();
    while let Some(row) = rows.next()? {
        let number: i64 = row.get("number")?;
        let name = u32::try_from(number).ok().and_then(|number| decoder.names.queues.get(number));
        // A number without a name is noted already.
        let Some(name) = name else { continue };
        queues.push(read_queue(row, Arc::clone(&name)).unwrap_or_else(|error| {
            decoder.note(Table::Queue, number, &error.to_string());
            (with_defaults(name), false)
        }));
    }
    Ok(queues)
}

fn with_defaults(name: Arc<Name>) -> QueueInfo {
    let settings = QueueSettings::default();
    QueueInfo { name, settings, paused: false, declared: false, formerly_declared: false, revision: 0 }
}

fn read_queue(row: &Row<'_>, name: Arc<Name>) -> Result<(QueueInfo, bool), rusqlite::Error> {
    let when_full = if row.get("wait_when_full")? { WhenFull::Wait } else { WhenFull::Reject };
    let info = QueueInfo {
        name,
        settings: QueueSettings {
            max_jobs: row.get("max_jobs")?,
            max_bytes: row.get("max_bytes")?,
            consumers: row.get("consumers")?,
            when_full,
            max_wait: Duration::from_micros(row.get("max_wait_us")?),
            max_waiters: row.get("max_waiters")?,
            accept_unknown_kinds: row.get("accept_unknown_kinds")?,
            fair_by: row.get::<_, Option<String>>("fair_by")?.map(Arc::from),
            retention: QueueRetention {
                succeeded: row.get::<_, Option<i64>>("keep_succeeded_us")?.map(keep_of),
                failed: row.get::<_, Option<i64>>("keep_failed_us")?.map(keep_of),
                cancelled: row.get::<_, Option<i64>>("keep_cancelled_us")?.map(keep_of),
                expired: row.get::<_, Option<i64>>("keep_expired_us")?.map(keep_of),
            },
        },
        revision: row.get("revision")?,
        paused: row.get("paused")?,
        declared: row.get::<_, i64>("declared")? == DECLARED,
        formerly_declared: row.get::<_, i64>("declared")? == FORMERLY_DECLARED,
    };
    Ok((info, row.get("deleted")?))
}

/// Reads the tallies. If one can't be read, all jobs are counted anew when rows are next set aside.
pub(super) fn read_tallies(connection: &Connection, decoder: &Decoder) -> Result<Vec<Tally>, StoreError> {
    let sql = "SELECT queue, kind, state, jobs, bytes FROM tally WHERE jobs > 0";
    read_rows(connection, decoder, Table::Tally, sql, |row| Ok(read_tally(row, decoder)))?
        .into_iter()
        .filter_map(|tally| {
            tally.map_err(|error| decoder.note(Table::Tally, 0, &super::decode::reason(&error))).ok()
        })
        .map(Ok)
        .collect()
}

fn read_tally(row: &Row<'_>, decoder: &Decoder) -> Result<Tally, StoreError> {
    let Some(state) = StateName::from_number(row.get("state")?) else {
        return Err(StoreError::Corrupt("a tally is of an unknown state".to_owned()));
    };
    Ok(Tally {
        queue: named(&decoder.names.queues, row.get("queue")?)?,
        kind: named(&decoder.names.kinds, row.get("kind")?)?,
        state,
        jobs: row.get("jobs")?,
        bytes: row.get("bytes")?,
    })
}

/// Counts all jobs anew, and writes the tallies.
pub(super) fn recount(connection: &Connection, decoder: &Decoder) -> Result<Vec<Tally>, StoreError> {
    connection.execute_batch(
        "DELETE FROM tally;
         INSERT INTO tally (queue, kind, state, jobs, bytes) SELECT queue, kind, state, count(*), sum(bytes) FROM job GROUP BY queue, kind, state;",
    )?;
    read_tallies(connection, decoder)
}

pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

pub(super) fn micros_of(keep: Keep) -> i64 {
    match keep {
        Keep::For(time) => micros(time),
        Keep::Forever => -1,
    }
}

fn keep_of(micros: i64) -> Keep {
    u64::try_from(micros).map_or(Keep::Forever, |micros| Keep::For(Duration::from_micros(micros)))
}
