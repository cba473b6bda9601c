//! Interned names of one sort: their numbers, and when these are freed.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::{clock::Uptime, job::Name, store::NameTable};

/// Longest duration of a read. A reader that began before a name was freed may look its number up for that long.
const READS_TAKE_MAX: Duration = Duration::from_secs(60);

/// The names of one sort that have a row, and the names that the batch adds.
#[derive(Debug, Default)]
pub(super) struct NameBook {
    kept: HashMap<u32, Arc<Name>>,
    added: Vec<Arc<Name>>,
    freed: Vec<u32>,
    /// Names that are added and freed within the batch, and never have a row.
    unwritten: Vec<Arc<Name>>,
    /// Freed numbers that readers may still look up.
    resting: VecDeque<(Uptime, u32)>,
}

impl NameBook {
    /// Loads the names that have a row.
    pub(super) fn load(names: impl IntoIterator<Item = Arc<Name>>) -> Self {
        NameBook { kept: names.into_iter().map(|name| (name.number, name)).collect(), ..NameBook::default() }
    }

    /// Returns the number of names.
    pub(super) fn len(&self) -> usize {
        self.kept.len() + self.added.len()
    }

    /// Returns the names that have a row.
    pub(super) fn kept(&self) -> impl Iterator<Item = &Arc<Name>> {
        self.kept.values()
    }

    /// Returns the name with this text, with a new number if it is new.
    pub(super) fn intern(&mut self, table: &NameTable, text: &str) -> Arc<Name> {
        if let Some(name) = table.find(text) {
            return name;
        }
        let name = table.add(text);
        self.added.push(Arc::clone(&name));
        name
    }

    /// Returns the names that the batch adds.
    pub(super) fn added(&self) -> &[Arc<Name>] {
        &self.added
    }

    /// Frees a name that nothing refers to. Returns whether the batch has to delete its row.
    pub(super) fn free(&mut self, number: u32) -> bool {
        if let Some(index) = self.added.iter().position(|name| name.number == number) {
            let name = self.added.swap_remove(index);
            self.unwritten.push(name);
            return false;
        }
        if self.kept.contains_key(&number) && !self.freed.contains(&number) {
            self.freed.push(number);
            return true;
        }
        false
    }

    /// Takes over the changes of the batch, which is on disk.
    pub(super) fn commit(&mut self, table: &NameTable, now: Uptime) {
        self.drop_unwritten(table);
        self.kept.extend(self.added.drain(..).map(|name| (name.number, name)));
        for number in self.freed.drain(..) {
            if let Some(name) = self.kept.remove(&number) {
                table.give_up(&name);
                self.resting.push_back((now, number));
            }
        }
        while let Some((_, number)) =
            self.resting.pop_front_if(|(since, _)| now.since(*since) >= READS_TAKE_MAX)
        {
            table.forget(number);
        }
    }

    /// Drops the changes of the batch, which was not committed: its new names have no row.
    pub(super) fn discard(&mut self, table: &NameTable) {
        self.unwritten.append(&mut self.added);
        self.drop_unwritten(table);
        self.freed.clear();
    }

    fn drop_unwritten(&mut self, table: &NameTable) {
        for name in self.unwritten.drain(..) {
            table.give_up(&name);
            table.forget(name.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Uptime {
        Uptime::new(Duration::from_secs(seconds))
    }

    #[test]
    fn a_name_that_is_free_again_can_be_looked_up_for_a_while_and_never_found() {
        let (table, mut book) = (NameTable::default(), NameBook::default());
        let first = book.intern(&table, "resize-1");
        book.commit(&table, at(0));
        assert!(book.free(first.number));
        book.commit(&table, at(10));
        assert_eq!(book.len(), 0);
        assert!(table.find("resize-1").is_none());
        assert!(table.get(first.number).is_some(), "a reader may have begun before");
        let again = book.intern(&table, "resize-1");
        assert_ne!(again.number, first.number);
        book.commit(&table, at(10 + READS_TAKE_MAX.as_secs()));
        assert!(table.get(first.number).is_none());
        assert!(table.get(again.number).is_some());
    }

    #[test]
    fn what_a_batch_named_that_came_to_nothing_has_no_number() {
        let (table, mut book) = (NameTable::default(), NameBook::default());
        let name = book.intern(&table, "send");
        book.discard(&table);
        assert!(table.find("send").is_none() && table.get(name.number).is_none());
        let kept = book.intern(&table, "send");
        book.commit(&table, at(0));
        book.free(kept.number);
        book.discard(&table);
        assert_eq!(table.find("send").map(|name| name.number), Some(kept.number));
    }

    #[test]
    fn a_name_that_comes_and_goes_within_a_batch_leaves_nothing() {
        let (table, mut book) = (NameTable::default(), NameBook::default());
        let name = book.intern(&table, "mail");
        assert!(!book.free(name.number), "it has no row");
        assert!(book.added().is_empty());
        book.commit(&table, at(0));
        assert!(table.find("mail").is_none() && book.len() == 0);
    }
}
