//! Schedules and calendars.
//!
//! A schedule has a row for what it is, a narrow one for how far it has come, which each instant changes, and one for
//! the payload of its jobs.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, ToSql, params};

use super::{
    decode::{Decoder, Table},
    row::{json, read_json},
};
use crate::{
    clock::Timestamp,
    job::ScheduleId,
    settings::{CalendarInfo, Pause, ScheduleInfo, ScheduleRun, ScheduleSettings},
    store::{
        StoreError,
        sets::{LoadedSchedules, ScheduleEntry, ScheduleRow, ScheduleWant, ScheduleWrites},
    },
};

/// A statement that reads schedules; `$rest` follows the tables.
macro_rules! select_schedule {
    ($rest:literal) => {
        concat!(
            "SELECT id, name, revision, created, since, declared, paused, settings, generation, cursor, state \
             FROM schedule JOIN schedule_run ON schedule_run.schedule = schedule.id ",
            $rest
        )
    };
}

/// Schedules by id.
type Found = HashMap<ScheduleId, Arc<ScheduleInfo>>;

/// Reads the schedules that a batch wants, with the payloads of their jobs. Rows that can't be read are noted.
pub(super) fn fetch(
    connection: &Connection,
    decoder: &Decoder,
    wants: &[ScheduleWant],
) -> Result<Found, StoreError> {
    let mut found = Found::new();
    for want in wants {
        let info = match want {
            ScheduleWant::Id(id) => {
                let mut statement = connection.prepare_cached(select_schedule!("WHERE id = ?1"))?;
                read_one(&mut statement.query([id.raw()])?, decoder)?
            }
            ScheduleWant::Named(name) => {
                let mut statement = connection.prepare_cached(select_schedule!("WHERE name = ?1"))?;
                read_one(&mut statement.query([name])?, decoder)?
            }
        };
        if let Some(info) = info {
            found.insert(info.id, Arc::new(with_payload(connection, info)?));
        }
    }
    Ok(found)
}

/// Reads the schedule with a name, with the payload of its jobs.
pub(super) fn read_named(
    connection: &Connection,
    decoder: &Decoder,
    name: &str,
) -> Result<Option<ScheduleInfo>, StoreError> {
    let mut statement = connection.prepare_cached(select_schedule!("WHERE name = ?1"))?;
    let info = read_one(&mut statement.query([name])?, decoder)?;
    info.map(|info| with_payload(connection, info)).transpose()
}

/// Reads schedules after a name, by name, without the payloads of their jobs.
pub(super) fn read_page(
    connection: &Connection,
    decoder: &Decoder,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<ScheduleInfo>, StoreError> {
    let sql = select_schedule!("WHERE name > ?1 ORDER BY name LIMIT ?2");
    let mut statement = connection.prepare_cached(sql)?;
    // No name is as small as the empty text.
    let mut rows = statement.query(params![after.unwrap_or_default(), limit as i64])?;
    let mut page = Vec::new();
    while let Some(row) = rows.next()? {
        page.extend(decode(row, decoder)?);
    }
    Ok(page)
}

/// Reads what the engine keeps in memory.
pub(super) fn load(connection: &Connection, decoder: &Decoder) -> Result<LoadedSchedules, StoreError> {
    let mut statement =
        connection.prepare("SELECT schedule, cursor, wake, is_unsettled, is_paused, bytes FROM schedule_run")?;
    let entries = statement.query_map([], |row| {
        Ok(ScheduleEntry {
            id: ScheduleId::from_raw(row.get("schedule")?),
            wake: row.get::<_, Option<i64>>("wake")?.map(Timestamp::from_micros),
            cursor: Timestamp::from_micros(row.get("cursor")?),
            bytes: row.get("bytes")?,
            is_unsettled: row.get("is_unsettled")?,
            is_paused: row.get("is_paused")?,
        })
    })?;
    let entries = entries.collect::<Result<_, _>>()?;
    let mut statement = connection.prepare(select_schedule!("WHERE declared = 1 ORDER BY name"))?;
    let mut rows = statement.query([])?;
    let mut declared = Vec::new();
    while let Some(row) = rows.next()? {
        if let Some(info) = decode(row, decoder)? {
            declared.push(with_payload(connection, info)?);
        }
    }
    let mut statement = connection.prepare("SELECT calendar, schedule FROM schedule_calendar")?;
    let uses = statement
        .query_map([], |row| Ok((row.get("calendar")?, ScheduleId::from_raw(row.get("schedule")?))))?
        .collect::<Result<_, _>>()?;
    let zones = connection
        .query_row("SELECT version FROM time_zones", [], |row| row.get("version"))
        .optional()?;
    Ok(LoadedSchedules { entries, declared, uses, calendars: read_calendars(connection, decoder)?, zones })
}

/// Reads all calendars, by name. One that can't be read has no dates.
pub(super) fn read_calendars(
    connection: &Connection,
    decoder: &Decoder,
) -> Result<Vec<CalendarInfo>, StoreError> {
    let mut statement =
        connection.prepare_cached("SELECT number, name, dates, revision, declared FROM calendar ORDER BY name")?;
    let mut rows = statement.query([])?;
    let mut calendars = Vec::new();
    while let Some(row) = rows.next()? {
        match read_calendar(row) {
            Ok(calendar) => calendars.push(calendar),
            Err(error) => decoder.note(Table::Calendar, row.get("number")?, &super::decode::reason(&error)),
        }
    }
    Ok(calendars)
}

fn read_calendar(row: &Row<'_>) -> Result<CalendarInfo, StoreError> {
    Ok(CalendarInfo {
        name: row.get::<_, String>("name")?.into(),
        dates: read_json(row.get_ref("dates")?)?.unwrap_or_default(),
        revision: row.get("revision")?,
        declared: row.get("declared")?,
    })
}

fn read_one(rows: &mut rusqlite::Rows<'_>, decoder: &Decoder) -> Result<Option<ScheduleInfo>, StoreError> {
    match rows.next()? {
        Some(row) => decode(row, decoder),
        None => Ok(None),
    }
}

/// Decodes a schedule. Returns `None` for a row that can't be read, which is noted.
fn decode(row: &Row<'_>, decoder: &Decoder) -> Result<Option<ScheduleInfo>, StoreError> {
    let id: i64 = row.get("id")?;
    match read_schedule(id, row) {
        Ok(info) => Ok(Some(info)),
        Err(error) => {
            decoder.note(Table::Schedule, id, &super::decode::reason(&error));
            Ok(None)
        }
    }
}

fn read_schedule(id: i64, row: &Row<'_>) -> Result<ScheduleInfo, StoreError> {
    let lacks = |what: &str| StoreError::Corrupt(format!("a schedule has no {what}"));
    let settings: ScheduleSettings =
        read_json(row.get_ref("settings")?)?.ok_or_else(|| lacks("settings"))?;
    let run: ScheduleRun = read_json(row.get_ref("state")?)?.ok_or_else(|| lacks("state"))?;
    let paused: Option<Pause> = read_json(row.get_ref("paused")?)?;
    Ok(ScheduleInfo {
        id: ScheduleId::from_raw(id),
        name: row.get::<_, String>("name")?.into(),
        settings: Arc::new(settings),
        generation: row.get("generation")?,
        revision: row.get("revision")?,
        created: Timestamp::from_micros(row.get("created")?),
        since: Timestamp::from_micros(row.get("since")?),
        declared: row.get("declared")?,
        paused,
        run: ScheduleRun { cursor: Timestamp::from_micros(row.get("cursor")?), ..run },
    })
}

fn with_payload(connection: &Connection, mut info: ScheduleInfo) -> Result<ScheduleInfo, StoreError> {
    let body = connection
        .prepare_cached("SELECT body FROM schedule_payload WHERE schedule = ?1")?
        .query_row([info.id.raw()], |row| row.get::<_, Vec<u8>>("body"))
        .optional()?;
    if let Some(body) = body {
        Arc::make_mut(&mut info.settings).job.payload = Bytes::from(body);
    }
    Ok(info)
}

/// Writes a batch's changes of schedules and calendars.
pub(super) fn write(connection: &Connection, writes: &ScheduleWrites) -> Result<(), StoreError> {
    for id in &writes.deleted {
        for sql in [
            "DELETE FROM schedule WHERE id = ?1",
            "DELETE FROM schedule_run WHERE schedule = ?1",
            "DELETE FROM schedule_payload WHERE schedule = ?1",
            "DELETE FROM schedule_calendar WHERE schedule = ?1",
        ] {
            connection.prepare_cached(sql)?.execute([id.raw()])?;
        }
    }
    for row in &writes.rows {
        if row.is_defined {
            write_definition(connection, &row.after)?;
        }
        write_run(connection, row)?;
    }
    for name in &writes.deleted_calendars {
        connection.prepare_cached("DELETE FROM calendar WHERE name = ?1")?.execute([&**name])?;
    }
    for calendar in &writes.calendars {
        connection
            .prepare_cached(
                "INSERT INTO calendar (name, dates, revision, declared) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (name) DO UPDATE SET dates = ?2, revision = ?3, declared = ?4",
            )?
            .execute(params![&*calendar.name, json(Some(&calendar.dates))?, calendar.revision, calendar.declared])?;
    }
    if let Some(zones) = &writes.zones {
        connection
            .prepare_cached("INSERT OR REPLACE INTO time_zones (one, version) VALUES (1, ?1)")?
            .execute([zones])?;
    }
    Ok(())
}

fn write_definition(connection: &Connection, info: &ScheduleInfo) -> Result<(), StoreError> {
    let id = info.id.raw();
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO schedule (id, name, revision, created, since, declared, paused, settings) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            id,
            &*info.name,
            info.revision,
            info.created.as_micros(),
            info.since.as_micros(),
            info.declared,
            json(info.paused.as_ref())?,
            json(Some(&*info.settings))?,
        ])?;
    connection.prepare_cached("DELETE FROM schedule_calendar WHERE schedule = ?1")?.execute([id])?;
    for calendar in &info.settings.times.calendars {
        connection
            .prepare_cached("INSERT OR IGNORE INTO schedule_calendar (calendar, schedule) VALUES (?1, ?2)")?
            .execute(params![calendar, id])?;
    }
    let payload = &info.settings.job.payload;
    if payload.is_empty() {
        connection.prepare_cached("DELETE FROM schedule_payload WHERE schedule = ?1")?.execute([id])?;
    } else {
        connection
            .prepare_cached("INSERT OR REPLACE INTO schedule_payload (schedule, body) VALUES (?1, ?2)")?
            .execute(params![id, &payload[..]])?;
    }
    Ok(())
}

fn write_run(connection: &Connection, row: &ScheduleRow) -> Result<(), StoreError> {
    let ScheduleRow { before, after, .. } = row;
    let entry = ScheduleEntry::of(after);
    let state = json(Some(&after.run))?;
    let (generation, cursor) = (after.generation, after.run.cursor.as_micros());
    let wake = entry.wake.map(Timestamp::as_micros);
    let columns: [&dyn ToSql; 8] = [
        &after.id.raw(),
        &generation,
        &cursor,
        &wake,
        &entry.is_unsettled,
        &entry.is_paused,
        &entry.bytes,
        &state,
    ];
    let written = match before {
        None => connection
            .prepare_cached(
                "INSERT INTO schedule_run (schedule, generation, cursor, wake, is_unsettled, is_paused, bytes, state) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(columns)?,
        Some((old_generation, old_cursor)) => connection
            .prepare_cached(
                "UPDATE schedule_run SET generation = ?2, cursor = ?3, wake = ?4, is_unsettled = ?5, is_paused = ?6, \
                 bytes = ?7, state = ?8 WHERE schedule = ?1 AND generation = ?9 AND cursor = ?10",
            )?
            .execute(&*[&columns[..], &[old_generation, &old_cursor.as_micros()]].concat())?,
    };
    match written {
        1 => Ok(()),
        _ => Err(StoreError::Corrupt(format!("the schedule {} has come elsewhere", after.name))),
    }
}
