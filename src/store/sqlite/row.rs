//! Rows of the job table, as Rust sees them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use rusqlite::{Connection, Row, types::ValueRef};
use serde::{Serialize, de::DeserializeOwned};

use super::decode::{Decoder, Table, placeholder};
use crate::{
    clock::{StoreTime, Timestamp},
    job::{Job, JobId, LeaseToken, Position, RetryPolicy, Spec, State, StateName, Tombstone},
    store::{
        Names, StoreError,
        engine::rows::{corrupt, named},
    },
};

/// The columns of a job in the order that [`read_job`] takes them.
pub(super) const JOB_COLUMNS: &str = "id, queue, kind, state, rank, detail, revision, position, attempt, \
     max_attempts, bytes, timeout_us, created, updated, started, ended, retry, extras, progress, failure, expires";

/// Limit of the numbers of queues and kinds. There are fewer names than that; a larger number is a fault, and must not
/// make a table of that length.
const NUMBER_MAX: u32 = 1 << 20;

/// Payloads up to this size are kept in the job's row.
pub(super) const INLINE_PAYLOAD_MAX_BYTES: usize = 256;

pub(super) fn read_job(row: &Row<'_>, names: &Names) -> Result<Job, StoreError> {
    let id = JobId::from_raw(row.get(0)?);
    let state: i64 = row.get(3)?;
    let detail: Option<i64> = row.get(5)?;
    let rank: i8 = row.get(4)?;
    Ok(Job {
        id,
        state: state_of(id, state, detail, names)?,
        revision: row.get(6)?,
        position: Position(row.get(7)?),
        attempt: row.get(8)?,
        max_attempts: row.get(9)?,
        updated: Timestamp::from_micros(row.get(13)?),
        started: row.get::<_, Option<i64>>(14)?.map(Timestamp::from_micros),
        ended: row.get::<_, Option<i64>>(15)?.map(Timestamp::from_micros),
        progress: read_json(row.get_ref(18)?)?.map(Arc::new),
        failure: read_json(row.get_ref(19)?)?.map(Arc::new),
        spec: Arc::new(Spec {
            queue: named(&names.queues, row.get(1)?)?,
            kind: named(&names.kinds, row.get(2)?)?,
            priority: rank.saturating_neg(),
            retry: read_json(row.get_ref(16)?)?.unwrap_or(RetryPolicy::DEFAULT),
            attempt_timeout: Duration::from_micros(row.get(11)?),
            bytes: row.get(10)?,
            created: Timestamp::from_micros(row.get(12)?),
            expires: row.get::<_, Option<i64>>(20)?.map(Timestamp::from_micros),
            extras: read_json(row.get_ref(17)?)?.map(Box::new),
        }),
    })
}

/// The columns of a tombstone in the order that [`read_tombstone`] takes them.
pub(super) const TOMBSTONE_COLUMNS: &str = "position, id, deleted, queue, kind, created, extras";

pub(super) fn read_tombstone(row: &Row<'_>, names: &Names) -> Result<Tombstone, StoreError> {
    Ok(Tombstone {
        position: Position(row.get(0)?),
        id: JobId::from_raw(row.get(1)?),
        deleted: StoreTime::from_micros(row.get(2)?),
        spec: Arc::new(Spec {
            queue: named(&names.queues, row.get(3)?)?,
            kind: named(&names.kinds, row.get(4)?)?,
            priority: 0,
            retry: RetryPolicy::DEFAULT,
            attempt_timeout: Duration::ZERO,
            bytes: 0,
            created: Timestamp::from_micros(row.get(5)?),
            expires: None,
            extras: read_json(row.get_ref(6)?)?.map(Box::new),
        }),
    })
}

/// What watchers know a job by, of a row that can't be read whole.
pub(super) fn spec_of_watchers(row: &Row<'_>, names: &Names) -> Option<Arc<Spec>> {
    Some(Arc::new(Spec {
        queue: names.queues.get(row.get(1).ok()?)?,
        kind: names.kinds.get(row.get(2).ok()?)?,
        priority: 0,
        retry: RetryPolicy::DEFAULT,
        attempt_timeout: Duration::ZERO,
        bytes: 0,
        created: Timestamp::from_micros(row.get(12).ok()?),
        expires: None,
        extras: row.get_ref(17).ok().and_then(|extras| read_json(extras).ok()).flatten().map(Box::new),
    }))
}

/// Gives the names the numbers that they have in the rows, and forgets those that have none. A name that can't be read,
/// or is missing although jobs have its number, gets a placeholder.
pub(super) fn load_names(connection: &Connection, decoder: &Decoder) -> Result<(), StoreError> {
    let names = &decoder.names;
    for (names, sort, table) in [(&names.queues, "queue", Table::Queue), (&names.kinds, "kind", Table::Kind)]
    {
        let mut found = BTreeMap::new();
        let unnamed = |number: i64, why: &str| {
            decoder.note(table, number, why);
            let number = u32::try_from(number).ok().filter(|number| *number <= NUMBER_MAX)?;
            Some((number, placeholder(sort, number)))
        };
        let mut statement = connection.prepare(&format!(
            "SELECT DISTINCT {sort} FROM tally WHERE jobs > 0 AND {sort} NOT IN (SELECT number FROM {sort})"
        ))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            found.extend(unnamed(row.get(0)?, "there are jobs with this number, and no row"));
        }
        let mut statement =
            connection.prepare(&format!("SELECT number, name FROM {sort} ORDER BY number"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let number: i64 = row.get(0)?;
            match (u32::try_from(number), row.get_ref(1)?.as_str()) {
                (Ok(number), Ok(text)) if number <= NUMBER_MAX => {
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

fn state_of(id: JobId, state: i64, detail: Option<i64>, names: &Names) -> Result<State, StoreError> {
    let detail_of = |what: &str| match detail {
        Some(detail) => Ok(detail),
        None => corrupt(format!("job {id} has no {what}")),
    };
    Ok(match StateName::from_number(state) {
        Some(StateName::Scheduled) => {
            State::Scheduled { due: Timestamp::from_micros(detail_of("due time")?) }
        }
        Some(StateName::Queued) => State::Queued { order: Position(detail_of("place in line")?) },
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
        None => return corrupt(format!("job {id} is in the unknown state {state}")),
    })
}

/// What goes with a state, as a number.
pub(super) fn detail_of(state: State, names: &Names) -> Option<i64> {
    match state {
        State::Scheduled { due } => Some(due.as_micros()),
        State::BackingOff { due } => Some(names.steps.backoff_of_wall(due).as_micros()),
        State::Queued { order } => Some(order.0),
        State::Running { lease } | State::Cancelling { lease } => Some(lease.as_i64()),
        State::Succeeded | State::Failed | State::Cancelled | State::Expired => None,
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
            Err(error) => corrupt(format!("a column holds {text:?}: {error}")),
        },
    }
}

pub(super) fn bytes(value: ValueRef<'_>) -> Result<Option<Bytes>, StoreError> {
    Ok(value.as_blob_or_null().map_err(rusqlite::Error::from)?.map(Bytes::copy_from_slice))
}
