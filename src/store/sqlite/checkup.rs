//! Diagnosis of a folder's database. It changes nothing in the database.

use std::{collections::HashSet, fs, io, path::Path, sync::Arc};

use rusqlite::{Connection, OpenFlags};

use super::{
    DATABASE, MIGRATION_STEPS, Mark, check_schema,
    decode::{Decoder, Table},
    load::{load, read_queues, read_served_kinds, read_tallies},
    lock,
    mark::database_is_missing,
    mark_of,
    row::{load_names, select_job},
    schema_version,
};
use crate::{
    job::{JobId, Tally},
    settings::QueueInfo,
    store::{Missing, StoreError},
};

/// Maximum number of a database's faults that are reported; one is enough to act upon.
const FAULTS_MAX: u32 = 10;
/// Limit of the unreadable rows that are named; the others are counted.
const ROWS_MAX: usize = 10;

/// State of a folder's database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Checkup {
    /// There is no database yet.
    Absent,
    /// A server has the database open.
    InUse {
        /// Rows that could not be read.
        set_aside: SetAsideRows,
    },
    /// The database lacks what was there before, and a server refuses to start.
    Lost(Missing),
    /// The database was checked.
    Checked {
        /// Size of the database.
        bytes: u64,
        /// Faults of the database; empty if it is sound.
        faults: Vec<String>,
        /// Rows that can't be read, or could not be and are set aside.
        set_aside: SetAsideRows,
    },
}

/// Rows that can't be read: set aside already, or to be set aside by the server that meets them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SetAsideRows {
    /// Number of rows.
    pub count: usize,
    /// The first rows, each with its problem.
    pub first: Vec<String>,
}

impl SetAsideRows {
    fn add(&mut self, table: &str, key: i64, why: &str) {
        self.count += 1;
        if self.first.len() < ROWS_MAX {
            let row = if table == "job" { JobId::from_raw(key).to_string() } else { key.to_string() };
            self.first.push(format!("{table} {row}: {why}"));
        }
    }
}

/// Checks the database of `folder`. No server can start there meanwhile.
///
/// The user who runs this should be the server's user: SQLite creates files of its own beside the database.
///
/// # Errors
/// When the folder or the database can't be read.
pub fn check(folder: &Path) -> Result<Checkup, StoreError> {
    let path = folder.join(DATABASE);
    let kept = Mark::read(folder)?;
    if database_is_missing(folder, kept) {
        return Ok(Checkup::Lost(Missing::Everything));
    }
    let bytes = match fs::metadata(&path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Checkup::Absent),
        Err(source) => return Err(StoreError::File { what: "can't read", path, source }),
    };
    // The lock is held until the end.
    let (_lock, in_use) = match lock(folder) {
        Ok(lock) => (Some(lock), false),
        Err(StoreError::InUse(_)) => (None, true),
        Err(error) => return Err(error),
    };
    let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    check_schema(&connection)?;
    let mut set_aside = SetAsideRows::default();
    let mut statement = connection.prepare("SELECT source, key, reason FROM set_aside ORDER BY number")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        set_aside.add(&row.get::<_, String>("source")?, row.get("key")?, &row.get::<_, String>("reason")?);
    }
    if in_use {
        return Ok(Checkup::InUse { set_aside });
    }
    let mut statement = connection.prepare(&format!("PRAGMA quick_check({FAULTS_MAX})"))?;
    let lines =
        statement.query_map([], |row| row.get::<_, String>("quick_check"))?.collect::<Result<Vec<_>, _>>()?;
    let mut faults: Vec<_> = lines.into_iter().filter(|line| line != "ok").collect();
    if faults.is_empty() {
        let found = mark_of(&connection)?;
        if let Some(missing) = kept.and_then(|kept| kept.missing_in(found)) {
            return Ok(Checkup::Lost(missing));
        }
        read_all(&connection, &mut set_aside)?;
        faults.extend(edges_without_an_end(&connection)?);
    }
    Ok(Checkup::Checked { bytes, faults, set_aside })
}

/// Looks for dependencies that nothing would ever decide.
fn edges_without_an_end(connection: &Connection) -> Result<Option<String>, StoreError> {
    let sql = "SELECT count(*) AS edges FROM dependency AS edge \
               LEFT JOIN job AS child ON child.id = edge.child LEFT JOIN job AS parent ON parent.id = edge.parent \
               WHERE edge.state = 1 AND (child.id IS NULL OR child.state <> 2 \
               OR ((parent.id IS NULL OR parent.state >= 7) \
               AND NOT EXISTS (SELECT 1 FROM over_parent WHERE over_parent.job = edge.parent)))";
    let edges: i64 = connection.query_row(sql, [], |row| row.get("edges"))?;
    let told = || format!("{edges} dependencies wait for jobs that are over, or are of jobs that do not wait");
    Ok((edges > 0).then(told))
}

/// Reads all rows that a server reads at its start or in its batches.
fn read_all(connection: &Connection, unreadable: &mut SetAsideRows) -> Result<(), StoreError> {
    let decoder = Decoder::new(Arc::default());
    load(connection, &decoder)?;
    // The jobs among them are read again below.
    let noted = decoder.take().into_iter().filter(|((table, _), _)| *table != Table::Job);
    noted.for_each(|((table, key), why)| unreadable.add(table.name(), key, &why));
    let mut statement = connection.prepare(select_job!(""))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if decoder.job(row).is_none() {
            let noted = decoder.take();
            noted.into_iter().for_each(|((table, key), why)| unreadable.add(table.name(), key, &why));
        }
    }
    Ok(())
}

/// Contents of a folder's database, in numbers.
#[derive(Clone, PartialEq, Debug)]
pub struct Inventory {
    /// The queues.
    pub queues: Vec<QueueInfo>,
    /// Number of jobs of each queue, kind and state.
    pub tallies: Vec<Tally>,
    /// The kinds that remote workers serve, or have served in the last days.
    pub worker_kinds: HashSet<String>,
}

/// Counts the contents of the database of `folder`; its server may run. Returns `None` if there is no database, or one
/// of an older version, which a start would migrate.
///
/// # Errors
/// When the database can't be read.
pub fn inventory(folder: &Path) -> Result<Option<Inventory>, StoreError> {
    let path = folder.join(DATABASE);
    if !path.is_file() {
        return Ok(None);
    }
    let connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    check_schema(&connection)?;
    if schema_version(&connection)? < MIGRATION_STEPS.len() as i64 {
        return Ok(None);
    }
    // Unreadable rows are reported by [`check`].
    let decoder = Decoder::new(Arc::default());
    load_names(&connection, &decoder)?;
    let queues = read_queues(&connection, &decoder)?;
    let queues = queues.into_iter().filter(|(_, deleted)| !deleted).map(|(queue, _)| queue).collect();
    let served = read_served_kinds(&connection, &decoder)?;
    let worker_kinds = served.iter().filter_map(|(kind, _)| decoder.names.kinds.get(*kind));
    Ok(Some(Inventory {
        queues,
        tallies: read_tallies(&connection, &decoder)?,
        worker_kinds: worker_kinds.map(|name| name.as_str().to_owned()).collect(),
    }))
}
