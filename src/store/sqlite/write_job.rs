//! The writes of the hottest table.

use bytes::Bytes;
use rusqlite::{Connection, params};

use super::{
    load::micros,
    row::{INLINE_PAYLOAD_MAX_BYTES, detail_of, json},
};
use crate::{
    clock::Timestamp,
    job::{Job, RetryPolicy},
    store::{Names, StoreError, engine::rows::corrupt},
};

/// Writes a new job.
pub(super) fn insert_job(
    connection: &Connection,
    names: &Names,
    job: &Job,
    payload: &Bytes,
) -> Result<(), StoreError> {
    let spec = &job.spec;
    let retry = (spec.retry != RetryPolicy::DEFAULT).then_some(&spec.retry);
    let inline = (payload.len() <= INLINE_PAYLOAD_MAX_BYTES).then_some(&payload[..]);
    connection.prepare_cached(
        "INSERT INTO job VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, \
         ?18, NULL, NULL, ?19, ?20)",
    )?
    .execute(params![
        job.id.raw(),
        spec.queue.number,
        spec.kind.number,
        job.state.name() as u8,
        spec.priority.saturating_neg(),
        detail_of(job.state, names),
        job.revision as i64,
        job.position.0,
        job.attempt,
        job.max_attempts,
        spec.bytes as i64,
        micros(spec.attempt_timeout),
        spec.created.as_micros(),
        job.updated.as_micros(),
        job.started.map(Timestamp::as_micros),
        job.ended.map(Timestamp::as_micros),
        json(retry)?,
        json(spec.extras.as_ref())?,
        spec.expires.map(Timestamp::as_micros),
        inline,
    ])?;
    if inline.is_none() {
        connection
            .prepare_cached("INSERT INTO payload VALUES (?1, ?2)")?
            .execute(params![job.id.raw(), &payload[..]])?;
    }
    Ok(())
}

/// Replaces `before`, which must be what is kept.
pub(super) fn update_job(
    connection: &Connection,
    names: &Names,
    before: &Job,
    after: &Job,
) -> Result<(), StoreError> {
    // Texts are written only where they changed: most jobs never have any.
    let texts_same = before.progress == after.progress && before.failure == after.failure;
    let changed = if texts_same {
        connection
            .prepare_cached(
                "UPDATE job SET state = ?3, detail = ?4, revision = ?5, position = ?6, attempt = ?7, \
             max_attempts = ?8, updated = ?9, started = ?10, ended = ?11 WHERE id = ?1 AND revision = ?2",
            )?
            .execute(params![
                before.id.raw(),
                before.revision as i64,
                after.state.name() as u8,
                detail_of(after.state, names),
                after.revision as i64,
                after.position.0,
                after.attempt,
                after.max_attempts,
                after.updated.as_micros(),
                after.started.map(Timestamp::as_micros),
                after.ended.map(Timestamp::as_micros),
            ])?
    } else {
        connection
            .prepare_cached(
                "UPDATE job SET state = ?3, detail = ?4, revision = ?5, position = ?6, attempt = ?7, \
             max_attempts = ?8, updated = ?9, started = ?10, ended = ?11, progress = ?12, failure = ?13 \
             WHERE id = ?1 AND revision = ?2",
            )?
            .execute(params![
                before.id.raw(),
                before.revision as i64,
                after.state.name() as u8,
                detail_of(after.state, names),
                after.revision as i64,
                after.position.0,
                after.attempt,
                after.max_attempts,
                after.updated.as_micros(),
                after.started.map(Timestamp::as_micros),
                after.ended.map(Timestamp::as_micros),
                json(after.progress.as_deref())?,
                json(after.failure.as_deref())?,
            ])?
    };
    if changed != 1 {
        return corrupt(format!("job {} is not at revision {}", before.id, before.revision));
    }
    Ok(())
}
