//! Conversion between rows of the job table and Rust types.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use rusqlite::{Connection, Row, types::ValueRef};
use serde::{Serialize, de::DeserializeOwned};

use super::decode::{Decoder, Table, placeholder};
use crate::{
    clock::{StoreTime, Timestamp},
    job::{
        Job, JobId, LeaseToken, Name, Position, Remote, RetryPolicy, Spec, State, StateName, Tombstone, Participant,
    },
    store::{NameTable, Names, StoreError, named},
};

/// The columns of a job that the module `column` names, except the payload.
macro_rules! job_columns {
    () => {
        "id, queue, kind, state, rank, detail, revision, position, attempt, max_attempts, bytes, timeout_us, created, \
         updated, started, ended, retry, extras, progress, failure, expires, result, worker, reported, \
         rare, participant"
    };
}
pub(super) use job_columns;

/// A statement that reads jobs; `$rest` follows the table's name.
macro_rules! select_job {
    ($rest:literal) => {
        concat!("SELECT ", $crate::store::sqlite::row::job_columns!(), " FROM job ", $rest)
    };
}
pub(super) use select_job;

/// As [`select_job`], with the payload.
macro_rules! select_job_and_payload {
    ($rest:literal) => {
        concat!("SELECT ", $crate::store::sqlite::row::job_columns!(), ", payload FROM job ", $rest)
    };
}
pub(super) use select_job_and_payload;

/// Indexes of a job's columns in [`select_job`] and [`select_job_and_payload`]. A look-up by name in each row would
/// cost as much as the row itself.
pub(super) mod column {
    macro_rules! columns {
        ($($name:ident = $index:literal),*) => {
            $(pub(in crate::store::sqlite) const $name: usize = $index;)*
            /// All names with their indexes.
            #[cfg(test)]
            pub(in crate::store::sqlite) const ALL: &[(&str, usize)] = &[$((stringify!($name), $index)),*];
        };
    }
    columns!(
        ID = 0,
        QUEUE = 1,
        KIND = 2,
        STATE = 3,
        RANK = 4,
        DETAIL = 5,
        REVISION = 6,
        POSITION = 7,
        ATTEMPT = 8,
        MAX_ATTEMPTS = 9,
        BYTES = 10,
        TIMEOUT_US = 11,
        CREATED = 12,
        UPDATED = 13,
        STARTED = 14,
        ENDED = 15,
        RETRY = 16,
        EXTRAS = 17,
        PROGRESS = 18,
        FAILURE = 19,
        EXPIRES = 20,
        RESULT = 21,
        WORKER = 22,
        REPORTED = 23,
        RARE = 24,
        PARTICIPANT = 25,
        PAYLOAD = 26
    );
}

/// Size in bytes up to which a payload is kept in the job's row.
pub(super) const INLINE_PAYLOAD_MAX_BYTES: usize = 256;

pub(super) fn read_job(row: &Row<'_>, names: &Names) -> Result<Job, StoreError> {
    let id = JobId::from_raw(row.get(column::ID)?);
    let state: i64 = row.get(column::STATE)?;
    let detail: Option<i64> = row.get(column::DETAIL)?;
    let rank: i8 = row.get(column::RANK)?;
    Ok(Job {
        id,
        state: state_of(id, state, detail, Participant(row.get(column::PARTICIPANT)?), names)?,
        remote: Remote {
            // A worker without a row has no rights: a start ends its attempts.
            worker: row.get::<_, Option<u32>>(column::WORKER)?.and_then(|number| names.workers.get(number)),
            reported: read_json(row.get_ref(column::REPORTED)?)?,
        },
        revision: row.get(column::REVISION)?,
        position: Position(row.get(column::POSITION)?),
        attempt: row.get(column::ATTEMPT)?,
        max_attempts: row.get(column::MAX_ATTEMPTS)?,
        updated: Timestamp::from_micros(row.get(column::UPDATED)?),
        started: row.get::<_, Option<i64>>(column::STARTED)?.map(Timestamp::from_micros),
        ended: row.get::<_, Option<i64>>(column::ENDED)?.map(Timestamp::from_micros),
        progress: read_json(row.get_ref(column::PROGRESS)?)?.map(Arc::new),
        failure: read_json(row.get_ref(column::FAILURE)?)?.map(Arc::new),
        result: read_json(row.get_ref(column::RESULT)?)?.map(Arc::new),
        rare: read_json(row.get_ref(column::RARE)?)?.map(Box::new),
        spec: Arc::new(Spec {
            queue: named(&names.queues, row.get(column::QUEUE)?)?,
            kind: named(&names.kinds, row.get(column::KIND)?)?,
            priority: rank.saturating_neg(),
            retry: read_json(row.get_ref(column::RETRY)?)?.unwrap_or(RetryPolicy::DEFAULT),
            attempt_timeout: Duration::from_micros(row.get(column::TIMEOUT_US)?),
            bytes: row.get(column::BYTES)?,
            created: Timestamp::from_micros(row.get(column::CREATED)?),
            expires: row.get::<_, Option<i64>>(column::EXPIRES)?.map(Timestamp::from_micros),
            extras: read_json(row.get_ref(column::EXTRAS)?)?.map(Box::new),
        }),
    })
}

/// Reads a tombstone. Its queue and kind may no longer have a number.
pub(super) fn read_tombstone(row: &Row<'_>, names: &Names) -> Result<Tombstone, StoreError> {
    let name = |table: &NameTable, column: &str| -> Result<Arc<Name>, StoreError> {
        let text: String = row.get(column)?;
        Ok(table.find(&text).unwrap_or_else(|| Name::new(0, &text)))
    };
    Ok(Tombstone {
        position: Position(row.get("position")?),
        id: JobId::from_raw(row.get("id")?),
        deleted: StoreTime::from_micros(row.get("deleted")?),
        spec: Arc::new(Spec {
            queue: name(&names.queues, "queue")?,
            kind: name(&names.kinds, "kind")?,
            priority: 0,
            retry: RetryPolicy::DEFAULT,
            attempt_timeout: Duration::ZERO,
            bytes: 0,
            created: Timestamp::from_micros(row.get("created")?),
            expires: None,
            extras: read_json(row.get_ref("extras")?)?.map(Box::new),
        }),
    })
}

/// Reads the data that watchers match, from a row that can't be read whole.
pub(super) fn spec_of_watchers(row: &Row<'_>, names: &Names) -> Option<Arc<Spec>> {
    Some(Arc::new(Spec {
        queue: names.queues.get(row.get(column::QUEUE).ok()?)?,
        kind: names.kinds.get(row.get(column::KIND).ok()?)?,
        priority: 0,
        retry: RetryPolicy::DEFAULT,
        attempt_timeout: Duration::ZERO,
        bytes: 0,
        created: Timestamp::from_micros(row.get(column::CREATED).ok()?),
        expires: None,
        extras: row
            .get_ref(column::EXTRAS)
            .ok()
            .and_then(|extras| read_json(extras).ok())
            .flatten()
            .map(Box::new),
    }))
}

/// Loads the numbers of names from the rows, and forgets names without a row. A name that can't be read, or is missing
/// although jobs have its number, gets a placeholder.
pub(super) fn load_names(connection: &Connection, decoder: &Decoder) -> Result<(), StoreError> {
    let names = &decoder.names;
    for (names, sort, table) in [(&names.queues, "queue", Table::Queue), (&names.kinds, "kind", Table::Kind)]
    {
        let mut found = BTreeMap::new();
        let unnamed = |number: i64, why: &str| {
            decoder.note(table, number, why);
            let number = u32::try_from(number).ok()?;
            Some((number, placeholder(sort, number)))
        };
        let mut statement = connection.prepare(&format!(
            "SELECT DISTINCT {sort} FROM tally WHERE jobs > 0 AND {sort} NOT IN (SELECT number FROM {sort})"
        ))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            found.extend(unnamed(row.get(sort)?, "there are jobs with this number, and no row"));
        }
        let mut statement =
            connection.prepare(&format!("SELECT number, name FROM {sort} ORDER BY number"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let number: i64 = row.get("number")?;
            match (u32::try_from(number), row.get_ref("name")?.as_str()) {
                (Ok(number), Ok(text)) => {
                    found.insert(number, text.to_owned());
                }
                (_, Err(error)) => found.extend(unnamed(number, &error.to_string())),
                (_, Ok(_)) => found.extend(unnamed(number, "its number is out of range")),
            }
        }
        names.load(&found);
    }
    Ok(())
}

fn state_of(
    id: JobId,
    state: i64,
    detail: Option<i64>,
    participant: Participant,
    names: &Names,
) -> Result<State, StoreError> {
    let detail_of = |what: &str| match detail {
        Some(detail) => Ok(detail),
        None => Err(StoreError::Corrupt(format!("job {id} has no {what}"))),
    };
    Ok(match StateName::from_number(state) {
        Some(StateName::Scheduled) => {
            State::Scheduled { due: Timestamp::from_micros(detail_of("due time")?) }
        }
        Some(StateName::Blocked) => State::Blocked { due: Timestamp::from_micros(detail_of("earliest start")?) },
        Some(StateName::Queued) => {
            State::Queued { order: Position(detail_of("place in line")?), participant }
        },
        Some(StateName::Running) => State::Running { lease: LeaseToken::from_raw(detail_of("lease")?) },
        Some(StateName::BackingOff) => {
            let due = StoreTime::from_micros(detail_of("due time")?);
            State::BackingOff { due: names.steps.wall_of_backoff(due) }
        }
        Some(StateName::Cancelling) => State::Cancelling { lease: LeaseToken::from_raw(detail_of("lease")?) },
        Some(StateName::Succeeded) => State::Succeeded,
        Some(StateName::Failed) => State::Failed,
        Some(StateName::Cancelled) => State::Cancelled,
        Some(StateName::Expired) => State::Expired,
        None => return Err(StoreError::Corrupt(format!("job {id} is in the unknown state {state}"))),
    })
}

/// Returns the data of a state as a number, for the column `detail`.
pub(super) fn detail_of(state: State, names: &Names) -> Option<i64> {
    match state {
        State::Scheduled { due } | State::Blocked { due } => Some(due.as_micros()),
        State::BackingOff { due } => Some(names.steps.backoff_of_wall(due).as_micros()),
        State::Queued { order, .. } => Some(order.0),
        State::Running { lease } | State::Cancelling { lease } => Some(lease.as_i64()),
        State::Succeeded | State::Failed | State::Cancelled | State::Expired => None,
    }
}

/// Returns the participant in the turns of a fair queue, for the column `participant`.
pub(super) fn participant_of(state: State) -> i64 {
    match state {
        State::Queued { participant, .. } => participant.0,
        State::Scheduled { .. }
        | State::Blocked { .. }
        | State::BackingOff { .. }
        | State::Running { .. }
        | State::Cancelling { .. }
        | State::Succeeded
        | State::Failed
        | State::Cancelled
        | State::Expired => Participant::NONE.0,
    }
}

pub(super) fn json(value: Option<&impl Serialize>) -> Result<Option<String>, StoreError> {
    value
        .map(|value| serde_json::to_string(value).map_err(|error| StoreError::Corrupt(error.to_string())))
        .transpose()
}

pub(super) fn read_json<T: DeserializeOwned>(value: ValueRef<'_>) -> Result<Option<T>, StoreError> {
    match value.as_str_or_null().map_err(rusqlite::Error::from)? {
        None => Ok(None),
        Some(text) => match serde_json::from_str(text) {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(StoreError::Corrupt(format!("a column holds {text:?}: {error}"))),
        },
    }
}

pub(super) fn bytes(value: ValueRef<'_>) -> Result<Option<Bytes>, StoreError> {
    Ok(value.as_blob_or_null().map_err(rusqlite::Error::from)?.map(Bytes::copy_from_slice))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_of_a_job_are_where_their_names_say() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(include_str!("../../../migrations/sqlite/0001_jobs.sql")).unwrap();
        let statement = connection.prepare(select_job_and_payload!("")).unwrap();
        let found: Vec<_> = statement.column_names().iter().map(|name| name.to_uppercase()).collect();
        let named: Vec<_> = column::ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(found, named);
        assert!(column::ALL.iter().enumerate().all(|(place, (_, index))| place == *index));
    }
}
