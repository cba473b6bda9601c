//! Decoding of numbers in the store's rows: to names of queues and kinds, and to wall-clock times.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::RwLock;

use super::ClockSteps;
use crate::job::{Name, WorkerProcess};

/// Names of queues and kinds, and the history of the wall clock's settings. Only the engine changes them; readers look
/// them up.
#[derive(Debug, Default)]
pub struct Names {
    /// The names of queues.
    pub queues: NameTable,
    /// The names of kinds.
    pub kinds: NameTable,
    /// The processes of workers.
    pub workers: WorkerTable,
    /// History of the wall clock's settings, relative to the time that the store counts.
    pub steps: ClockSteps,
}

/// Names of queues or names of kinds, by number and by text.
#[derive(Debug, Default)]
pub struct NameTable {
    tables: RwLock<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    by_number: HashMap<u32, Arc<Name>>,
    /// Excludes names that have been given up.
    by_text: HashMap<Box<str>, Arc<Name>>,
    last_number: u32,
}

/// Processes of remote workers, by number.
#[derive(Debug, Default)]
pub struct WorkerTable {
    by_number: RwLock<HashMap<u32, Arc<WorkerProcess>>>,
}

impl WorkerTable {
    /// Returns the process with this number.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<Arc<WorkerProcess>> {
        self.by_number.read().get(&number).cloned()
    }

    /// Replaces all processes.
    pub(crate) fn load<'a>(&self, processes: impl IntoIterator<Item = &'a Arc<WorkerProcess>>) {
        let processes = processes.into_iter().map(|process| (process.number, Arc::clone(process)));
        *self.by_number.write() = processes.collect();
    }

    /// Adds a process.
    pub(crate) fn add(&self, process: &Arc<WorkerProcess>) {
        self.by_number.write().insert(process.number, Arc::clone(process));
    }

    /// Removes a process, which runs no job.
    pub(crate) fn forget(&self, number: u32) {
        self.by_number.write().remove(&number);
    }
}

impl NameTable {
    /// Returns the name with this text, if it has a number.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<Arc<Name>> {
        self.tables.read().by_text.get(text).cloned()
    }

    /// Returns the name with this number.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<Arc<Name>> {
        self.tables.read().by_number.get(&number).cloned()
    }

    /// Returns all names that can be found by their text.
    pub(crate) fn all(&self) -> Vec<Arc<Name>> {
        self.tables.read().by_text.values().cloned().collect()
    }

    /// Replaces all names and their numbers. A name that was there before with the same number stays the same object.
    pub(crate) fn load(&self, names: &BTreeMap<u32, String>) {
        let mut tables = self.tables.write();
        let before = std::mem::take(&mut *tables);
        for (number, text) in names {
            let same = before.by_text.get(text.as_str()).filter(|name| name.number == *number);
            let name = same.map_or_else(|| Name::new(*number, text), Arc::clone);
            tables.by_number.insert(*number, Arc::clone(&name));
            tables.by_text.insert(text.as_str().into(), name);
            tables.last_number = tables.last_number.max(*number);
        }
    }

    /// Assigns an unused number to the text. A number that was given up is reused only after all others.
    pub(crate) fn add(&self, text: &str) -> Arc<Name> {
        let mut tables = self.tables.write();
        let mut number = tables.last_number.wrapping_add(1);
        while tables.by_number.contains_key(&number) {
            number = number.wrapping_add(1);
        }
        tables.last_number = number;
        let name = Name::new(number, text);
        tables.by_number.insert(number, Arc::clone(&name));
        tables.by_text.insert(text.into(), Arc::clone(&name));
        name
    }

    /// Gives a name up: nothing new gets its number. Readers that began before can still look it up.
    pub(crate) fn give_up(&self, name: &Name) {
        let mut tables = self.tables.write();
        if tables.by_text.get(name.as_str()).is_some_and(|found| found.number == name.number) {
            tables.by_text.remove(name.as_str());
        }
    }

    /// Removes the number of a name that was given up.
    pub(crate) fn forget(&self, number: u32) {
        self.tables.write().by_number.remove(&number);
    }
}
