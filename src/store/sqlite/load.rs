//! The small tables that the engine keeps in memory.

use std::{sync::Arc, time::Duration};

use rusqlite::{Connection, Row, params};

use super::{
    decode::{Decoder, Table},
    row::{JOB_COLUMNS, load_names},
};
use crate::{
    clock::{StoreTime, Timestamp},
    job::{Job, JobId, Name, Position, StateName, Tally},
    settings::{Keep, QueueInfo, QueueRetention, QueueSettings, Retention, WhenFull},
    store::{
        StoreError,
        engine::rows::{Counters, KeptTimes, Loaded, Purge, corrupt, named},
        steps::Step,
    },
};

/// All of it. What can't be read is left out, and noted.
pub(super) fn load(connection: &Connection, decoder: &Decoder) -> Result<Loaded, StoreError> {
    load_names(connection, decoder)?;
    Ok(Loaded {
        queues: load_queues(connection, decoder)?,
        tallies: read_tallies(connection, decoder)?,
        counters: read_counters(connection)?,
        leased: read_jobs(
            connection,
            decoder,
            &format!("SELECT {JOB_COLUMNS} FROM job WHERE state IN (4, 6) ORDER BY id"),
            [],
        )?,
        purges: read_rows(
            connection,
            decoder,
            Table::Purge,
            "SELECT number, queue, cursor, last, deleted FROM purge ORDER BY number",
            |row| {
                Ok(Purge {
                    number: row.get(0)?,
                    queue: row.get(1)?,
                    cursor: JobId::from_raw(row.get(2)?),
                    last: JobId::from_raw(row.get(3)?),
                    deleted: row.get(4)?,
                })
            },
        )?,
        sweeps: read_rows(
            connection,
            decoder,
            Table::Sweep,
            "SELECT keep_us, cursor FROM sweep ORDER BY keep_us",
            |row| Ok((Duration::from_micros(row.get(0)?), Position(row.get(1)?))),
        )?,
        retention: read_rows(
            connection,
            decoder,
            Table::Retention,
            "SELECT one, succeeded_us, failed_us, cancelled_us, expired_us FROM retention",
            |row| {
                Ok(Retention {
                    succeeded: keep_of(row.get(1)?),
                    failed: keep_of(row.get(2)?),
                    cancelled: keep_of(row.get(3)?),
                    expired: keep_of(row.get(4)?),
                })
            },
        )?
        .pop(),
        steps: read_rows(
            connection,
            decoder,
            Table::Step,
            "SELECT position, of_retention, of_backoffs FROM step ORDER BY position",
            |row| {
                Ok(Step {
                    position: Position(row.get(0)?),
                    of_retention: row.get(1)?,
                    of_backoffs: row.get(2)?,
                })
            },
        )?,
    })
}

/// The rows of a table whose key is the first column; those that can't be read are noted.
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
            Err(error) => decoder.note(table, row.get(0)?, &error.to_string()),
        }
    }
    Ok(found)
}

fn read_counters(connection: &Connection) -> Result<Counters, StoreError> {
    let read = connection.query_row(
        "SELECT position, last_id, last_lease, floor, last_purge, wall, backoffs, retention, counted FROM counters",
        [],
        |row| {
            let wall: Option<i64> = row.get(5)?;
            let time = |index| row.get(index).map(StoreTime::from_micros);
            let kept = |wall: i64| -> rusqlite::Result<KeptTimes> {
                Ok(KeptTimes {
                    wall: Timestamp::from_micros(wall),
                    backoffs: time(6)?,
                    retention: time(7)?,
                    counted: Timestamp::from_micros(row.get(8)?),
                })
            };
            Ok(Counters {
                position: row.get(0)?,
                last_id: row.get(1)?,
                last_lease: row.get(2)?,
                floor: row.get(3)?,
                last_purge: row.get(4)?,
                times: wall.map(kept).transpose()?,
            })
        },
    );
    match read {
        Err(rusqlite::Error::QueryReturnedNoRows) => {
            corrupt("the table `counters` has no row: restore a backup")
        }
        read => Ok(read?),
    }
}

pub(super) fn read_jobs(
    connection: &Connection,
    decoder: &Decoder,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<Job>, StoreError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    let mut jobs = Vec::new();
    while let Some(row) = rows.next()? {
        jobs.extend(decoder.job(row));
    }
    Ok(jobs)
}

/// A job; an error where its row can't be read.
pub(super) fn read_one_job(
    connection: &Connection,
    decoder: &Decoder,
    id: JobId,
) -> Result<Option<Job>, StoreError> {
    let mut statement = connection.prepare_cached(&format!("SELECT {JOB_COLUMNS} FROM job WHERE id = ?1"))?;
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
        "INSERT OR REPLACE INTO queue VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, \
         ?15, ?16)",
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
            declared_to_number(queue),
            deleted,
        ])?;
    Ok(())
}

/// What the table says of a queue that the configuration declares,
const DECLARED: i64 = 1;
/// and of one that it declared once.
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
            "UPDATE counters SET position = ?1, last_id = ?2, last_lease = ?3, floor = ?4, last_purge = ?5, \
             wall = ?6, backoffs = ?7, retention = ?8, counted = ?9",
        )?
        .execute(params![
            counters.position,
            counters.last_id,
            counters.last_lease,
            counters.floor,
            counters.last_purge,
            times.map(|times| times.wall.as_micros()),
            times.map(|times| times.backoffs.as_micros()),
            times.map(|times| times.retention.as_micros()),
            times.map(|times| times.counted.as_micros()),
        ])?;
    Ok(())
}

pub(super) fn write_steps(connection: &Connection, steps: &[Step]) -> Result<(), StoreError> {
    connection.prepare_cached("DELETE FROM step")?.execute([])?;
    for Step { position, of_retention, of_backoffs } in steps {
        connection.prepare_cached("INSERT INTO step VALUES (?1, ?2, ?3)")?.execute(params![
            position.0,
            of_retention,
            of_backoffs
        ])?;
    }
    Ok(())
}

/// Every queue, deleted ones included, once all names are loaded. One whose row is missing although it has jobs has the
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

/// The queues that have a row, by name. Where it can't be read, the queue has the default settings.
pub(super) fn read_queues(
    connection: &Connection,
    decoder: &Decoder,
) -> Result<Vec<(QueueInfo, bool)>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT * FROM queue ORDER BY name")?;
    let mut rows = statement.query([])?;
    let mut queues = Vec::new();
    while let Some(row) = rows.next()? {
        let number: i64 = row.get(0)?;
        let name = u32::try_from(number).ok().and_then(|number| decoder.names.queues.get(number));
        // A number without a name has been noted.
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
    QueueInfo { name, settings, paused: false, declared: false, formerly_declared: false }
}

fn read_queue(row: &Row<'_>, name: Arc<Name>) -> Result<(QueueInfo, bool), rusqlite::Error> {
    let when_full = if row.get(5)? { WhenFull::Wait } else { WhenFull::Reject };
    let info = QueueInfo {
        name,
        settings: QueueSettings {
            max_jobs: row.get(2)?,
            max_bytes: row.get(3)?,
            consumers: row.get(4)?,
            when_full,
            max_wait: Duration::from_micros(row.get(6)?),
            max_waiters: row.get(7)?,
            accept_unknown_kinds: row.get(8)?,
            retention: QueueRetention {
                succeeded: row.get::<_, Option<i64>>(9)?.map(keep_of),
                failed: row.get::<_, Option<i64>>(10)?.map(keep_of),
                cancelled: row.get::<_, Option<i64>>(11)?.map(keep_of),
                expired: row.get::<_, Option<i64>>(12)?.map(keep_of),
            },
        },
        paused: row.get(13)?,
        declared: row.get::<_, i64>(14)? == DECLARED,
        formerly_declared: row.get::<_, i64>(14)? == FORMERLY_DECLARED,
    };
    Ok((info, row.get(15)?))
}

/// The tallies that can be read; if one can't, all jobs are counted anew when rows are set aside next.
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
    let Some(state) = StateName::from_number(row.get(2)?) else {
        return corrupt("a tally is of an unknown state");
    };
    Ok(Tally {
        queue: named(&decoder.names.queues, row.get(0)?)?,
        kind: named(&decoder.names.kinds, row.get(1)?)?,
        state,
        jobs: row.get(3)?,
        bytes: row.get(4)?,
    })
}

/// Counts all jobs anew, and writes the tallies.
pub(super) fn recount(connection: &Connection, decoder: &Decoder) -> Result<Vec<Tally>, StoreError> {
    connection.execute_batch(
        "DELETE FROM tally;
         INSERT INTO tally SELECT queue, kind, state, count(*), sum(bytes) FROM job GROUP BY queue, kind, state;",
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
