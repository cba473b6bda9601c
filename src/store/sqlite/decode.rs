//! Decoding of rows. A row that can't be decoded is noted by the reader or writer that meets it, and set aside by the
//! next batch.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, Row, params, types::ValueRef};
use serde_json::{Map, Value};

use super::{
    load::{load_queues, write_queue},
    row::{column, read_job, select_job, spec_of_watchers},
};
use crate::{
    clock::Timestamp,
    job::{Job, JobId, Spec},
    store::{Names, StoreError},
};

/// Maximum number of rows that are noted at a time; the others are met again.
const NOTED_MAX: usize = 1_000;

/// A table whose rows can be set aside one by one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Table {
    Job,
    Queue,
    Kind,
    Purge,
    Turns,
    Sweep,
    Retention,
    Step,
    Worker,
    Schedule,
    Calendar,
    Limit,
    LimitOverride,
    /// A row of counts; all jobs are counted anew instead of setting it aside.
    Tally,
}

impl Table {
    pub(super) fn name(self) -> &'static str {
        match self {
            Table::Job => "job",
            Table::Queue => "queue",
            Table::Kind => "kind",
            Table::Purge => "purge",
            Table::Turns => "turns",
            Table::Sweep => "sweep",
            Table::Retention => "retention",
            Table::Step => "step",
            Table::Worker => "worker",
            Table::Schedule => "schedule",
            Table::Calendar => "calendar",
            Table::Limit => "job_limit",
            Table::LimitOverride => "limit_override",
            Table::Tally => "tally",
        }
    }

    pub(super) fn key(self) -> &'static str {
        match self {
            Table::Job | Table::Schedule => "id",
            Table::Queue
            | Table::Kind
            | Table::Worker
            | Table::Calendar
            | Table::Limit
            | Table::LimitOverride => "number",
            Table::Purge | Table::Turns => "queue",
            Table::Sweep => "keep_us",
            Table::Retention => "one",
            Table::Step => "position",
            Table::Tally => "queue",
        }
    }
}

/// Rows that can't be read, each with its problem.
pub(super) type UnreadableRows = BTreeMap<(Table, i64), String>;

/// Decoder of a store's rows, which notes those that can't be decoded.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    pub(super) names: Arc<Names>,
    any: AtomicBool,
    noted: Mutex<UnreadableRows>,
    /// Rows that the current transaction sets aside.
    taken: Mutex<UnreadableRows>,
}

impl Decoder {
    pub(super) fn new(names: Arc<Names>) -> Self {
        Decoder { names, ..Decoder::default() }
    }

    /// Decodes the job in a row of [`select_job`]. Returns `None` for a row that can't be read, which is noted.
    pub(super) fn job(&self, row: &Row<'_>) -> Option<Job> {
        self.try_job(row).ok()
    }

    /// As [`Decoder::job`], with the error.
    pub(super) fn try_job(&self, row: &Row<'_>) -> Result<Job, StoreError> {
        read_job(row, &self.names).map_err(|error| {
            let why = reason_in(row, &error);
            let id = row.get(column::ID).unwrap_or_default();
            self.note(Table::Job, id, &why);
            StoreError::Unreadable { id: JobId::from_raw(id), why }
        })
    }

    pub(super) fn note(&self, table: Table, key: i64, why: &str) {
        let mut noted = self.noted.lock();
        if noted.len() < NOTED_MAX {
            noted.insert((table, key), why.to_owned());
            self.any.store(true, Ordering::Release);
        }
    }

    pub(super) fn has_noted(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    pub(super) fn take(&self) -> UnreadableRows {
        let mut noted = self.noted.lock();
        self.any.store(false, Ordering::Release);
        let taken = std::mem::take(&mut *noted);
        self.taken.lock().clone_from(&taken);
        taken
    }

    /// Drops the taken rows: they have been set aside.
    pub(super) fn are_set_aside(&self) {
        self.taken.lock().clear();
    }

    /// Notes the taken rows again: they have not been set aside.
    pub(super) fn are_noted_still(&self) {
        for ((table, key), why) in std::mem::take(&mut *self.taken.lock()) {
            self.note(table, key, &why);
        }
    }
}

/// Describes an error of a row in one line, with the message of SQLite or JSON.
pub(super) fn reason(error: &StoreError) -> String {
    if let StoreError::Corrupt(why) = error {
        return why.clone();
    }
    source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// Returns SQLite's error, if there is one.
fn source(error: &StoreError) -> Option<&rusqlite::Error> {
    std::error::Error::source(error)?.downcast_ref()
}

/// As [`reason`], with the name of the column.
fn reason_in(row: &Row<'_>, error: &StoreError) -> String {
    if let Some(
        rusqlite::Error::IntegralValueOutOfRange(index, _)
        | rusqlite::Error::InvalidColumnType(index, ..)
        | rusqlite::Error::FromSqlConversionFailure(index, ..),
    ) = source(error)
        && let Ok(column) = row.as_ref().column_name(*index)
    {
        return format!("the column `{column}`: {}", reason(error));
    }
    reason(error)
}

/// Moves a row to `set_aside`. Returns a job's data that watchers match, as far as it can be read.
pub(super) fn set_aside(
    connection: &Connection,
    names: &Names,
    (table, key): (Table, i64),
    why: &str,
    now: Timestamp,
) -> Result<Option<Arc<Spec>>, StoreError> {
    let (name, key_column) = (table.name(), table.key());
    tracing::error!(
        row = %shown(table, key),
        why,
        "a row can't be read, and is set aside: `jobmill doctor` lists such rows"
    );
    if table == Table::Tally {
        return Ok(None);
    }
    let content = content(connection, name, key_column, key)?;
    let spec = match table {
        Table::Job => connection
            .query_row(select_job!("WHERE id = ?1"), [key], |row| Ok(spec_of_watchers(row, names)))
            .optional()?
            .flatten(),
        Table::Queue
        | Table::Kind
        | Table::Purge
        | Table::Turns
        | Table::Sweep
        | Table::Retention
        | Table::Step
        | Table::Worker
        | Table::Schedule
        | Table::Calendar
        | Table::Limit
        | Table::LimitOverride
        | Table::Tally => None,
    };
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO set_aside (source, key, found, reason, content) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![name, key, now.as_micros(), why, content])?;
    replace(connection, table, key)?;
    Ok(spec)
}

/// Deletes a row that was set aside, or puts a readable one in its place where other rows refer to it.
fn replace(connection: &Connection, table: Table, key: i64) -> Result<(), StoreError> {
    let (name, key_column) = (table.name(), table.key());
    match table {
        Table::Job
        | Table::Purge
        | Table::Turns
        | Table::Sweep
        | Table::Retention
        | Table::Step
        | Table::Worker
        | Table::Schedule
        | Table::Calendar
        | Table::Limit
        | Table::LimitOverride => {
            connection.execute(&format!("DELETE FROM {name} WHERE {key_column} = ?1"), [key])?;
        }
        Table::Queue => {
            let decoder = Decoder::new(Arc::new(Names::default()));
            super::row::load_names(connection, &decoder)?;
            let queues = load_queues(connection, &decoder)?;
            if let Some((info, deleted)) =
                queues.iter().find(|(queue, _)| i64::from(queue.name.number) == key)
            {
                write_queue(connection, info, *deleted)?;
            }
        }
        Table::Kind => {
            let name = placeholder("kind", key);
            connection.execute(
                "INSERT INTO kind (number, name) VALUES (?1, ?2) ON CONFLICT (number) DO UPDATE SET name = ?2",
                params![key, name],
            )?;
        }
        Table::Tally => {}
    }
    Ok(())
}

/// Names a row for an operator.
pub(super) fn shown(table: Table, key: i64) -> String {
    match table {
        Table::Job => format!("job {}", JobId::from_raw(key)),
        Table::Queue
        | Table::Kind
        | Table::Purge
        | Table::Turns
        | Table::Worker
        | Table::Schedule
        | Table::Calendar
        | Table::Limit
        | Table::LimitOverride => format!("{} {key}", table.name()),
        Table::Sweep | Table::Retention | Table::Step | Table::Tally => table.name().to_owned(),
    }
}

/// Returns a name for a queue or kind whose own can't be read.
pub(super) fn placeholder(sort: &str, number: impl std::fmt::Display) -> String {
    format!("unreadable-{sort}-{number}")
}

/// Returns all columns of a row as JSON: text with invalid UTF-8 replaced, and bytes in hexadecimal.
fn content(connection: &Connection, table: &str, key_column: &str, key: i64) -> Result<String, StoreError> {
    let mut statement = connection.prepare(&format!("SELECT * FROM {table} WHERE {key_column} = ?1"))?;
    let columns: BTreeSet<(usize, String)> =
        statement.column_names().into_iter().map(str::to_owned).enumerate().collect();
    let mut rows = statement.query([key])?;
    let mut content = Map::new();
    if let Some(row) = rows.next()? {
        for (index, column) in columns {
            let value = match row.get_ref(index)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(number) => number.into(),
                ValueRef::Real(number) => number.into(),
                ValueRef::Text(text) => String::from_utf8_lossy(text).into(),
                ValueRef::Blob(bytes) => {
                    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
                }
            };
            content.insert(column, value);
        }
    }
    Ok(Value::Object(content).to_string())
}
