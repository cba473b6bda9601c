//! Limits, and the lanes of jobs that wait for them.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{
    decode::{Decoder, Table, reason},
    fetch::Fetch,
    row::{bytes, column, json, read_json, select_job_and_payload},
};
use crate::{
    clock::StoreTime,
    job::{Participant, StateName, Tally},
    settings::LimitInfo,
    store::{
        StoreError,
        sets::{Heads, LaneWant, LimitValueRow, LimitWrites, LoadedLimits},
    },
};

/// Loads all limits, and the lanes that have jobs. Rows that can't be read are left out and noted.
pub(super) fn load(connection: &Connection, decoder: &Decoder, tallies: &[Tally]) -> Result<LoadedLimits, StoreError> {
    let mut loaded = LoadedLimits::default();
    let mut statement = connection.prepare("SELECT number, name, settings, revision, declared FROM job_limit")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        match read_limit(row) {
            Ok(limit) => loaded.limits.push(limit),
            Err(error) => decoder.note(Table::Limit, row.get("number")?, &reason(&error)),
        }
    }
    let mut statement = connection.prepare("SELECT number, job_limit, value, rule FROM limit_override")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        match (read_value(row), read_json(row.get_ref("rule")?)) {
            (Ok((limit, value)), Ok(Some(rule))) => loaded.overrides.push((limit, value, rule)),
            (Err(error), _) | (_, Err(error)) => decoder.note(Table::LimitOverride, row.get("number")?, &reason(&error)),
            (Ok(_), Ok(None)) => decoder.note(Table::LimitOverride, row.get("number")?, "it has no rule"),
        }
    }
    let mut statement = connection.prepare("SELECT job_limit, value, full_at, paused_until FROM limit_value")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (limit, value) = read_value(row)?;
        let times = Some((row.get("full_at")?, StoreTime::from_micros(row.get("paused_until")?)));
        loaded.values.push(LimitValueRow { limit, value, times });
    }
    for tally in tallies.iter().filter(|tally| tally.state == StateName::Queued) {
        lanes_of(connection, tally.queue.number, tally.kind.number, &mut loaded.lanes)?;
    }
    Ok(loaded)
}

fn read_limit(row: &Row<'_>) -> Result<LimitInfo, StoreError> {
    let spec = read_json(row.get_ref("settings")?)?;
    Ok(LimitInfo {
        number: row.get("number")?,
        name: row.get::<_, String>("name")?.into(),
        spec: spec.ok_or_else(|| StoreError::Corrupt("it has no settings".to_owned()))?,
        revision: row.get("revision")?,
        declared: row.get("declared")?,
    })
}

fn read_value(row: &Row<'_>) -> Result<(u32, Arc<str>), StoreError> {
    Ok((row.get("job_limit")?, row.get::<_, String>("value")?.into()))
}

/// Finds the lanes of a queue and a kind, each by a seek.
fn lanes_of(
    connection: &Connection,
    queue: u32,
    kind: u32,
    lanes: &mut Vec<(u32, u32, Participant)>,
) -> Result<(), StoreError> {
    let mut next = connection.prepare_cached(
        "SELECT participant FROM job WHERE state = 3 AND queue = ?1 AND kind = ?2 AND participant > ?3 \
         AND participant < 0 ORDER BY participant LIMIT 1",
    )?;
    let mut last = i64::MIN;
    while let Some(lane) = next.query_row(params![queue, kind, last], |row| row.get("participant")).optional()? {
        lanes.push((queue, kind, Participant(lane)));
        last = lane;
    }
    Ok(())
}

impl Fetch<'_> {
    /// Reads the first jobs of a lane.
    pub(super) fn lane(&self, want: &LaneWant) -> Result<Heads, StoreError> {
        let mut statement = self.sql(match want.leaves_suspects_out {
            true => select_job_and_payload!(
                "WHERE state = 3 AND queue = ?1 AND kind = ?2 AND participant = ?3 AND id NOT IN (SELECT job FROM suspect) \
                 ORDER BY rank, detail, id LIMIT ?4"
            ),
            false => select_job_and_payload!(
                "WHERE state = 3 AND queue = ?1 AND kind = ?2 AND participant = ?3 ORDER BY rank, detail, id LIMIT ?4"
            ),
        })?;
        let mut rows = statement.query(params![want.queue, want.kind, want.lane.0, want.limit as i64])?;
        let mut heads = Heads::default();
        let mut seen = 0;
        while let Some(row) = rows.next()? {
            seen += 1;
            if let Some(job) = self.decoder.job(row) {
                heads.jobs.push((Arc::new(job), bytes(row.get_ref(column::PAYLOAD)?)?));
            }
        }
        heads.is_cut = seen == want.limit;
        Ok(heads)
    }
}

/// Writes a batch's changes of limits.
pub(super) fn write(connection: &Connection, writes: &LimitWrites) -> Result<(), StoreError> {
    for number in &writes.deleted {
        for sql in [
            "DELETE FROM job_limit WHERE number = ?1",
            "DELETE FROM limit_override WHERE job_limit = ?1",
            "DELETE FROM limit_value WHERE job_limit = ?1",
        ] {
            connection.prepare_cached(sql)?.execute([number])?;
        }
    }
    for info in &writes.limits {
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO job_limit (number, name, settings, revision, declared) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![info.number, &*info.name, json(Some(&info.spec))?, info.revision, info.declared])?;
    }
    for (limit, value, rule) in &writes.overrides {
        match rule {
            Some(rule) => connection
                .prepare_cached(
                    "INSERT INTO limit_override (job_limit, value, rule) VALUES (?1, ?2, ?3) \
                     ON CONFLICT (job_limit, value) DO UPDATE SET rule = excluded.rule",
                )?
                .execute(params![limit, &**value, json(Some(rule))?])?,
            None => connection
                .prepare_cached("DELETE FROM limit_override WHERE job_limit = ?1 AND value = ?2")?
                .execute(params![limit, &**value])?,
        };
    }
    for LimitValueRow { limit, value, times } in &writes.values {
        match times {
            Some((full_at, paused_until)) => connection
                .prepare_cached(
                    "INSERT INTO limit_value (job_limit, value, full_at, paused_until) \
                     SELECT ?1, ?2, ?3, ?4 WHERE EXISTS (SELECT 1 FROM job_limit WHERE number = ?1) \
                     ON CONFLICT (job_limit, value) \
                     DO UPDATE SET full_at = excluded.full_at, paused_until = excluded.paused_until",
                )?
                .execute(params![limit, &**value, full_at, paused_until.as_micros()])?,
            None => connection
                .prepare_cached("DELETE FROM limit_value WHERE job_limit = ?1 AND value = ?2")?
                .execute(params![limit, &**value])?,
        };
    }
    Ok(())
}
