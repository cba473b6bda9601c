//! The small tables that the engine keeps in memory.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

use super::row::{JOB_COLUMNS, load_names, read_job};
use crate::{
    config::{Keep, QueueRetention, QueueSettings, Retention, WhenFull},
    job::{Job, JobId, Position, StateName},
    store::{
        Names, QueueInfo, StoreError, Tally,
        engine::rows::{Counters, Loaded, Purge, corrupt, named},
    },
};

/// All of it.
pub(super) fn load(connection: &Connection, names: &Names) -> Result<Loaded, StoreError> {
    load_names(connection, names)?;
    Ok(Loaded {
        queues: read_queues(connection, names)?,
        tallies: read_tallies(connection, names)?,
        counters: connection.query_row(
            "SELECT position, last_id, last_lease, floor, last_purge FROM counters",
            [],
            |row| {
                Ok(Counters {
                    position: row.get(0)?,
                    last_id: row.get(1)?,
                    last_lease: row.get(2)?,
                    floor: row.get(3)?,
                    last_purge: row.get(4)?,
                })
            },
        )?,
        leased: read_jobs(
            connection,
            names,
            &format!("SELECT {JOB_COLUMNS} FROM job WHERE state IN (4, 6) ORDER BY id"),
            [],
        )?,
        purges: {
            let mut statement = connection
                .prepare_cached("SELECT number, queue, cursor, last, deleted FROM purge ORDER BY number")?;
            let purges = statement.query_map([], |row| {
                Ok(Purge {
                    number: row.get(0)?,
                    queue: row.get(1)?,
                    cursor: JobId::from_raw(row.get(2)?),
                    last: JobId::from_raw(row.get(3)?),
                    deleted: row.get(4)?,
                })
            })?;
            purges.collect::<Result<_, _>>()?
        },
        sweeps: {
            let mut statement =
                connection.prepare_cached("SELECT keep_us, cursor FROM sweep ORDER BY keep_us")?;
            let sweeps = statement
                .query_map([], |row| Ok((Duration::from_micros(row.get(0)?), Position(row.get(1)?))))?;
            sweeps.collect::<Result<_, _>>()?
        },
        retention: connection
            .prepare_cached("SELECT succeeded_us, failed_us, cancelled_us, expired_us FROM retention")?
            .query_row([], |row| {
                Ok(Retention {
                    succeeded: keep_of(row.get(0)?),
                    failed: keep_of(row.get(1)?),
                    cancelled: keep_of(row.get(2)?),
                    expired: keep_of(row.get(3)?),
                })
            })
            .optional()?,
    })
}

pub(super) fn read_jobs(
    connection: &Connection,
    names: &Names,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> Result<Vec<Job>, StoreError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    let mut jobs = Vec::new();
    while let Some(row) = rows.next()? {
        jobs.push(read_job(row, names)?);
    }
    Ok(jobs)
}

pub(super) fn read_one_job(
    connection: &Connection,
    names: &Names,
    id: JobId,
) -> Result<Option<Job>, StoreError> {
    let mut statement = connection.prepare_cached(&format!("SELECT {JOB_COLUMNS} FROM job WHERE id = ?1"))?;
    let mut rows = statement.query([id.raw()])?;
    rows.next()?.map(|row| read_job(row, names)).transpose()
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
            queue.declared,
            deleted,
        ])?;
    Ok(())
}

/// Every queue, deleted ones included.
pub(super) fn read_queues(
    connection: &Connection,
    names: &Names,
) -> Result<Vec<(QueueInfo, bool)>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT * FROM queue ORDER BY name")?;
    let mut rows = statement.query([])?;
    let mut queues = Vec::new();
    while let Some(row) = rows.next()? {
        let when_full = if row.get(5)? { WhenFull::Wait } else { WhenFull::Reject };
        let info = QueueInfo {
            name: named(&names.queues, row.get(0)?)?,
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
            declared: row.get(14)?,
        };
        queues.push((info, row.get(15)?));
    }
    Ok(queues)
}

pub(super) fn read_tallies(connection: &Connection, names: &Names) -> Result<Vec<Tally>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT * FROM tally WHERE jobs > 0")?;
    let mut rows = statement.query([])?;
    let mut tallies = Vec::new();
    while let Some(row) = rows.next()? {
        let Some(state) = StateName::from_number(row.get(2)?) else {
            return corrupt("a tally is of an unknown state");
        };
        tallies.push(Tally {
            queue: named(&names.queues, row.get(0)?)?,
            kind: named(&names.kinds, row.get(1)?)?,
            state,
            jobs: row.get(3)?,
            bytes: row.get(4)?,
        });
    }
    Ok(tallies)
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
