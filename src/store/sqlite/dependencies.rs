//! Dependencies between jobs: the reads and writes of their edges.

use rusqlite::{Connection, Row, params};

use super::{fetch::Fetch, write::Write};
use crate::{
    job::{DependencyCondition, Edge, EdgeState, JobId, ParentEnd, StateName},
    store::{
        StoreError,
        sets::{
            DependencyWrites, Dependents, DependentsWant, LiveChildren, ReadResults, ReadSet, SparedWant,
        },
    },
};

/// Columns of an edge.
macro_rules! edge_columns {
    () => {
        "child, parent, condition, optional, state"
    };
}

fn read_edge(row: &Row<'_>) -> Result<Edge, StoreError> {
    let unknown = |column: &str, number: i64| StoreError::Corrupt(format!("an edge has the unknown {column} {number}"));
    let (condition, state): (i64, i64) = (row.get("condition")?, row.get("state")?);
    Ok(Edge {
        child: JobId::from_raw(row.get("child")?),
        parent: JobId::from_raw(row.get("parent")?),
        condition: DependencyCondition::from_number(condition).ok_or_else(|| unknown("condition", condition))?,
        is_optional: row.get("optional")?,
        state: EdgeState::from_number(state).ok_or_else(|| unknown("state", state))?,
    })
}

fn edges(connection: &Connection, sql: &str, parameters: [i64; 3]) -> Result<Vec<Edge>, StoreError> {
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    let mut edges = Vec::new();
    while let Some(row) = rows.next()? {
        edges.push(read_edge(row)?);
    }
    Ok(edges)
}

/// Reads the edges of a child, in the order of the parents.
pub(super) fn dependencies(connection: &Connection, child: JobId) -> Result<Vec<Edge>, StoreError> {
    let sql = concat!(
        "SELECT ",
        edge_columns!(),
        " FROM dependency WHERE child = ?1 AND parent > ?2 ORDER BY parent LIMIT ?3"
    );
    edges(connection, sql, [child.raw(), i64::MIN, i64::MAX])
}

/// Reads edges of a parent, in the order of the children, from above one.
pub(super) fn dependents(
    connection: &Connection,
    parent: JobId,
    after: Option<JobId>,
    limit: usize,
) -> Result<Vec<Edge>, StoreError> {
    let sql = concat!(
        "SELECT ",
        edge_columns!(),
        " FROM dependency WHERE parent = ?1 AND child > ?2 ORDER BY child LIMIT ?3"
    );
    edges(connection, sql, [parent.raw(), after.map_or(i64::MIN, JobId::raw), limit as i64])
}

/// Reads the parents that are over, of whose children some still have to be told.
pub(super) fn over_parents(connection: &Connection) -> Result<Vec<(JobId, ParentEnd)>, StoreError> {
    let mut statement = connection.prepare("SELECT job, state FROM over_parent")?;
    let mut rows = statement.query([])?;
    let mut parents = Vec::new();
    while let Some(row) = rows.next()? {
        let state: Option<i64> = row.get("state")?;
        let end = match state.map(StateName::from_number) {
            Some(Some(state)) => ParentEnd::Ended(state),
            // In an unknown state, it can't have succeeded.
            None | Some(None) => ParentEnd::Deleted,
        };
        parents.push((JobId::from_raw(row.get("job")?), end));
    }
    Ok(parents)
}

impl Fetch<'_> {
    /// Reads the waiting edges of parents, with their children.
    pub(super) fn dependents(&self, wants: &ReadSet, found: &mut ReadResults) -> Result<(), StoreError> {
        for want in &wants.dependencies.dependents {
            self.dependents_of(*want, found)?;
        }
        let mut limit = wants.dependencies.max;
        for parent in found.ending_parents(wants) {
            limit -= self.dependents_of(DependentsWant { parent, limit }, found)?;
        }
        Ok(())
    }

    /// Reads the waiting edges of a parent, and returns their number.
    fn dependents_of(&self, want: DependentsWant, found: &mut ReadResults) -> Result<usize, StoreError> {
        let read = self.waiting(want)?;
        for Edge { child, .. } in &read.waiting {
            if !found.dependencies.waits.contains_key(child) {
                found.dependencies.waits.insert(*child, self.waits(*child)?);
                self.find_job(*child, &mut found.jobs)?;
            }
        }
        let count = read.waiting.len();
        found.dependencies.dependents.insert(want.parent, read);
        Ok(count)
    }

    /// Reads the children that have not ended, of the parents that were found.
    pub(super) fn live_children(&self, found: &mut ReadResults) -> Result<(), StoreError> {
        let parents = found.guarded_parents();
        if parents.is_empty() {
            return Ok(());
        }
        let sql = "SELECT child FROM dependency WHERE parent = ?1 AND live = 1 ORDER BY state, child LIMIT ?2";
        let mut statement = self.sql(sql)?;
        let limit = LiveChildren::MAX;
        for parent in parents {
            let rows = statement.query_map([parent.raw(), limit as i64], |row| row.get("child").map(JobId::from_raw))?;
            let children = rows.collect::<Result<Vec<_>, _>>()?;
            found.dependencies.live_children.insert(parent, LiveChildren { is_cut: children.len() == limit, children });
        }
        Ok(())
    }

    /// Reads a page of the jobs that retention has spared.
    pub(super) fn spared(&self, want: Option<SparedWant>, found: &mut ReadResults) -> Result<(), StoreError> {
        let Some(SparedWant { after, limit }) = want else { return Ok(()) };
        let sql = "SELECT job FROM spared WHERE job > ?1 ORDER BY job LIMIT ?2";
        let mut statement = self.sql(sql)?;
        let after = after.map_or(i64::MIN, JobId::raw);
        let rows = statement.query_map([after, limit as i64], |row| row.get("job").map(JobId::from_raw))?;
        found.dependencies.spared = rows.collect::<Result<_, _>>()?;
        for id in &found.dependencies.spared {
            self.find_job(*id, &mut found.jobs)?;
        }
        Ok(())
    }

    fn waiting(&self, want: DependentsWant) -> Result<Dependents, StoreError> {
        let DependentsWant { parent, limit } = want;
        let sql = concat!(
            "SELECT ",
            edge_columns!(),
            " FROM dependency WHERE parent = ?1 AND live = 1 AND state = ?2 ORDER BY child LIMIT ?3"
        );
        let waiting = edges(self.connection, sql, [parent.raw(), EdgeState::Waiting as i64, limit as i64])?;
        Ok(Dependents { is_cut: waiting.len() == limit, waiting })
    }

    /// Counts the edges of a child that wait.
    fn waits(&self, child: JobId) -> Result<usize, StoreError> {
        let sql = "SELECT count(*) AS edges FROM dependency WHERE child = ?1 AND state = ?2";
        let mut count = self.sql(sql)?;
        let edges: i64 = count.query_row([child.raw(), EdgeState::Waiting as i64], |row| row.get("edges"))?;
        Ok(usize::try_from(edges).unwrap_or_default())
    }
}

impl Write<'_> {
    pub(super) fn dependencies(&self, writes: &DependencyWrites) -> Result<(), StoreError> {
        let DependencyWrites { new, decided, ended, deleted, begun, over, spared, unspared } = writes;
        for Edge { child, parent, condition, is_optional, state } in new {
            self.sql(concat!("INSERT INTO dependency (", edge_columns!(), ", live) VALUES (?1, ?2, ?3, ?4, ?5, 1)"))?
                .execute(params![child.raw(), parent.raw(), *condition as i64, is_optional, *state as i64])?;
        }
        for (child, parent, state) in decided {
            self.sql("UPDATE dependency SET state = ?3 WHERE child = ?1 AND parent = ?2")?
                .execute([child.raw(), parent.raw(), *state as i64])?;
        }
        for child in ended {
            self.sql("UPDATE dependency SET live = 0, state = CASE state WHEN ?2 THEN ?3 ELSE state END WHERE child = ?1")?
                .execute([child.raw(), EdgeState::Waiting as i64, EdgeState::Unneeded as i64])?;
        }
        for child in deleted {
            self.sql("DELETE FROM dependency WHERE child = ?1")?.execute([child.raw()])?;
        }
        for (job, end) in begun {
            let state = match end {
                ParentEnd::Ended(state) => Some(*state as u8),
                ParentEnd::Deleted => None,
            };
            self.sql("INSERT OR REPLACE INTO over_parent (job, state) VALUES (?1, ?2)")?
                .execute(params![job.raw(), state])?;
        }
        for job in over {
            self.sql("DELETE FROM over_parent WHERE job = ?1")?.execute([job.raw()])?;
        }
        for job in spared {
            self.sql("INSERT OR IGNORE INTO spared (job) VALUES (?1)")?.execute([job.raw()])?;
        }
        for job in unspared {
            self.sql("DELETE FROM spared WHERE job = ?1")?.execute([job.raw()])?;
        }
        Ok(())
    }
}
