//! The rows of limits that a batch writes, and the end of the batch.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Definition, FILLED_MAX, LimitBook,
    rates::{FullAt, ValueTimes},
    table::{Limit, Table, ValueKey},
};
use crate::{
    job::Job,
    store::sets::{LimitValueRow, LimitWrites},
};

impl LimitBook {
    /// Takes over the limits. What runs is counted anew, and all lanes are opened, if jobs are sorted in another way now.
    pub(super) fn define(&mut self, table: &mut Table, running: impl FnOnce() -> Vec<Arc<Job>>) {
        let mut before = std::mem::take(&mut table.limits);
        let mut sorts_anew = false;
        let mut changed = std::mem::take(&mut self.changed_values);
        for Definition { info, overrides } in self.kept.values() {
            let (info, overrides) = (Arc::clone(info), Arc::clone(overrides));
            let old = before.remove(&info.number);
            match &old {
                Some(old) if old.info.spec.sorts_as(&info.spec) => {
                    if old.info.spec.rule != info.spec.rule {
                        changed.extend(table.lanes.values_of(info.number));
                    }
                }
                Some(_) | None => sorts_anew = true,
            }
            let (values, running) = old.map(|limit| (limit.values, limit.running)).unwrap_or_default();
            table.limits.insert(info.number, Limit { info, overrides, running, values });
        }
        table.defined();
        if sorts_anew || !before.is_empty() {
            table.recount(&running());
        } else {
            table.lanes.open_too_heavy();
            changed.into_iter().for_each(|value| table.lanes.touch(value));
        }
        self.is_unused = table.is_unused();
    }

    /// Returns the times that values have under the limits that the batch changes, where they differ. A change of a
    /// value's override ends its pause.
    fn owed(&self, table: &Table) -> Vec<(ValueKey, ValueTimes)> {
        let Some(next) = &self.next else { return Vec::new() };
        let mut owed = table.owed_under(self.now, |info, value| {
            let Definition { info: next, overrides } = next.get(&info.name)?;
            let rule = overrides.get(value).copied().unwrap_or(next.spec.rule);
            (next.number == info.number).then_some(rule)
        });
        for value in &self.changed_values {
            let times = table.times(value).filter(|times| times.paused_until > self.now);
            let Some(times) = times else { continue };
            match owed.iter_mut().find(|(other, _)| other == value) {
                Some((_, owed)) => owed.paused_until = self.now,
                None => owed.push((value.clone(), ValueTimes { paused_until: self.now, ..times })),
            }
        }
        owed
    }

    /// Returns the rows that the batch writes.
    pub(in crate::engine) fn rows(&mut self) -> LimitWrites {
        let mut writes = std::mem::take(&mut self.changes);
        if self.is_unused {
            return writes;
        }
        let mut table = self.board.table();
        let mut changed: BTreeMap<ValueKey, Option<ValueTimes>> = BTreeMap::new();
        // Twice as many as the batch adds, so that they do not become more and more.
        self.filled = table.over(self.now, FILLED_MAX + 2 * self.spent.len());
        changed.extend(self.filled.iter().map(|value| (value.clone(), None)));
        changed.extend(self.spent.keys().map(|value| (value.clone(), table.times(value))));
        changed.extend(self.owed(&table).into_iter().map(|(value, times)| (value, Some(times))));
        let row = |((limit, value), times): (ValueKey, Option<ValueTimes>)| LimitValueRow {
            limit,
            value,
            times: times.map(|ValueTimes { full_at: FullAt(full_at), paused_until }| (full_at, paused_until)),
        };
        writes.values.extend(changed.into_iter().map(row));
        writes
    }

    /// Takes over the changes of the batch, which is on disk. `running` returns the jobs that run now.
    pub(in crate::engine) fn commit(
        &mut self,
        running: impl FnOnce() -> Vec<Arc<Job>>,
        has_ready: impl Fn(u32, u32) -> bool,
        renewing: Vec<Arc<str>>,
    ) {
        let board = Arc::clone(&self.board);
        if self.next.is_some() {
            let mut table = board.table();
            for (value, times) in self.owed(&table) {
                table.set_times(&value, times);
            }
            self.kept = self.next.take().unwrap_or_default();
            self.define(&mut table, running);
        }
        if self.is_unused {
            return;
        }
        self.moved.clear();
        self.spent.clear();
        let mut table = board.table();
        for value in std::mem::take(&mut self.filled) {
            table.forget_idle(&value, self.now);
        }
        table.renewing = renewing;
        table.lanes.commit(has_ready);
        self.is_unused = table.is_unused();
    }

    /// Drops the changes of the batch, which was not committed.
    pub(in crate::engine) fn discard(&mut self) {
        self.next = None;
        self.changes = LimitWrites::default();
        self.changed_values.clear();
        let mut table = self.board.table();
        for (job, has_started) in self.moved.drain(..).rev() {
            match has_started {
                true => {
                    table.release(&job, self.now);
                }
                false => table.hold(&job),
            }
        }
        for (value, before) in std::mem::take(&mut self.spent) {
            table.set_times(&value, before);
        }
        for value in std::mem::take(&mut self.filled) {
            let times = table.times(&value).unwrap_or_default();
            table.set_times(&value, times);
        }
        table.lanes.discard();
    }
}
