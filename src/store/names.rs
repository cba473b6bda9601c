//! The numbers that the store uses for the names of queues and kinds.

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;

use crate::job::Name;

/// The names of queues and kinds. Only the engine adds to them; readers look up.
#[derive(Debug, Default)]
pub struct Names {
    /// The names of queues.
    pub queues: NameTable,
    /// The names of kinds.
    pub kinds: NameTable,
}

/// Names of one sort, by number and by text.
#[derive(Debug, Default)]
pub struct NameTable {
    tables: RwLock<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    by_number: Vec<Arc<Name>>,
    by_text: HashMap<Box<str>, Arc<Name>>,
}

impl NameTable {
    /// The name with this text, if it has a number.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<Arc<Name>> {
        self.tables.read().by_text.get(text).cloned()
    }

    /// The name with this number.
    #[must_use]
    pub fn get(&self, number: u32) -> Option<Arc<Name>> {
        self.tables.read().by_number.get(number as usize).cloned()
    }

    /// How many names there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tables.read().by_number.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the names from this number on, which nothing that was kept mentions.
    pub(crate) fn truncate(&self, len: usize) {
        let mut tables = self.tables.write();
        let len = len.min(tables.by_number.len());
        for name in tables.by_number.split_off(len) {
            tables.by_text.remove(name.as_str());
        }
    }

    /// Gives the text the next number.
    pub(crate) fn add(&self, text: &str) -> Arc<Name> {
        let mut tables = self.tables.write();
        let name = Name::new(u32::try_from(tables.by_number.len()).unwrap_or(u32::MAX), text);
        tables.by_number.push(Arc::clone(&name));
        tables.by_text.insert(text.into(), Arc::clone(&name));
        name
    }
}
