//! Unique keys: their reads and writes, and the items of requests that created no jobs.

use std::{collections::HashSet, sync::Arc};

use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, params};

use super::{
    fetch::Fetch,
    row::{json, read_json},
    write::Write,
};
use crate::{
    clock::StoreTime,
    job::{JobId, KeyHash, KeyRow},
    store::{
        StoreError,
        sets::{ReadResults, WriteSet},
    },
};

/// Columns of a key's row.
macro_rules! key_columns {
    () => {
        "key, holder, successor, until, name"
    };
}

/// Reads the row of a key. One whose name can't be read is held as long as the others, and listed without it.
fn read_key(row: &Row<'_>) -> Result<(KeyHash, KeyRow), rusqlite::Error> {
    let successor: Option<i64> = row.get("successor")?;
    let until: Option<i64> = row.get("until")?;
    let name = read_json(row.get_ref("name")?).unwrap_or_else(|error| {
        tracing::error!(%error, "the name of a unique key can't be read");
        None
    });
    let key = KeyRow {
        holder: JobId::from_raw(row.get("holder")?),
        successor: successor.map(JobId::from_raw),
        until: until.map(StoreTime::from_micros),
        name: name.map(Box::new),
    };
    Ok((KeyHash(row.get("key")?), key))
}

/// Prepares the look-up of keys.
fn look_up(connection: &Connection) -> Result<CachedStatement<'_>, StoreError> {
    Ok(connection.prepare_cached(concat!("SELECT ", key_columns!(), " FROM unique_key WHERE key = ?1"))?)
}

fn find(look_up: &mut CachedStatement<'_>, hash: KeyHash) -> Result<Option<KeyRow>, StoreError> {
    let row = look_up.query_row([&hash.0[..]], read_key).optional()?;
    Ok(row.map(|(_, row)| row))
}

/// Reads one key.
pub(super) fn key(connection: &Connection, hash: KeyHash) -> Result<Option<KeyRow>, StoreError> {
    find(&mut look_up(connection)?, hash)
}

/// Reads the keys after one, in the order of the table.
pub(super) fn keys_after(
    connection: &Connection,
    after: Option<KeyHash>,
    limit: usize,
) -> Result<Vec<(KeyHash, KeyRow)>, StoreError> {
    let sql = concat!("SELECT ", key_columns!(), " FROM unique_key WHERE key > ?1 ORDER BY key LIMIT ?2");
    let after = after.map(|hash| hash.0.to_vec()).unwrap_or_default();
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(params![after, limit as i64], read_key)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

impl Fetch<'_> {
    /// Reads unique keys, those of all jobs that were found, and those of jobs whose rows are set aside.
    pub(super) fn keys(&self, wanted: &[KeyHash], found: &mut ReadResults) -> Result<(), StoreError> {
        let mut hashes = found.key_hashes(wanted);
        if let Some(set_aside) = &found.set_aside {
            let ids = set_aside.jobs.iter().map(|(id, _)| *id).collect();
            hashes.extend(self.keys_of(&ids)?);
        }
        if hashes.is_empty() {
            return Ok(());
        }
        let mut look_up = look_up(self.connection)?;
        found.keys.reserve(hashes.len());
        for hash in hashes {
            let row = find(&mut look_up, hash)?;
            for id in row.iter().flat_map(|row| [Some(row.holder), row.successor]).flatten() {
                self.find_job(id, &mut found.jobs)?;
            }
            found.keys.insert(hash, row);
        }
        Ok(())
    }

    /// Returns the keys that jobs hold or follow, whatever their rows say.
    fn keys_of(&self, ids: &HashSet<JobId>) -> Result<Vec<KeyHash>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut statement =
            self.connection.prepare_cached(concat!("SELECT ", key_columns!(), " FROM unique_key"))?;
        let mut rows = statement.query([])?;
        let mut hashes = Vec::new();
        while let Some(row) = rows.next()? {
            let (hash, row) = read_key(row)?;
            let jobs = [Some(row.holder), row.successor];
            if jobs.into_iter().flatten().any(|id| ids.contains(&id)) {
                hashes.push(hash);
            }
        }
        Ok(hashes)
    }

    pub(super) fn held_keys(&self, limit: usize) -> Result<Vec<(StoreTime, KeyHash, KeyRow)>, StoreError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let mut statement = self.connection.prepare_cached(concat!(
            "SELECT ",
            key_columns!(),
            " FROM unique_key WHERE until IS NOT NULL ORDER BY until LIMIT ?1"
        ))?;
        let rows = statement.query_map([limit as i64], read_key)?;
        let mut held = Vec::new();
        for row in rows {
            let (hash, row) = row?;
            held.extend(row.until.map(|until| (until, hash, row)));
        }
        Ok(held)
    }
}

impl Write<'_> {
    pub(super) fn keys(&self, writes: &WriteSet) -> Result<(), StoreError> {
        if writes.keys.is_empty() {
            return Ok(());
        }
        let mut put = self.sql(concat!(
            "INSERT OR REPLACE INTO unique_key (",
            key_columns!(),
            ") VALUES (?1, ?2, ?3, ?4, ?5)"
        ))?;
        for (hash, row) in &writes.keys {
            let Some(KeyRow { holder, successor, until, name }) = row else {
                self.sql("DELETE FROM unique_key WHERE key = ?1")?.execute([&hash.0[..]])?;
                continue;
            };
            put.execute(params![
                &hash.0[..],
                holder.raw(),
                successor.map(JobId::raw),
                until.map(StoreTime::as_micros),
                json(name.as_deref())?,
            ])?;
        }
        Ok(())
    }
}

/// Encodes the items of a request that created no jobs.
pub(super) fn found_bytes(found: &[(u32, JobId)]) -> Vec<u8> {
    found.iter().flat_map(|(index, id)| index.to_le_bytes().into_iter().chain(id.raw().to_le_bytes())).collect()
}

/// Decodes the items of a request that created no jobs.
pub(super) fn read_found(bytes: &[u8]) -> Arc<[(u32, JobId)]> {
    let (items, _) = bytes.as_chunks::<12>();
    let item = |bytes: &[u8; 12]| {
        let [a, b, c, d, id @ ..] = *bytes;
        (u32::from_le_bytes([a, b, c, d]), JobId::from_raw(i64::from_le_bytes(id)))
    };
    items.iter().map(item).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_items_are_read_as_they_were_written() {
        let found: Vec<_> = [(0, 7), (999, i64::MAX)].map(|(index, id)| (index, JobId::from_raw(id))).into();
        assert_eq!(read_found(&found_bytes(&found))[..], found);
    }
}
