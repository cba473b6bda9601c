//! What numbers in the store's rows stand for: names of queues and kinds, and moments.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::RwLock;

use super::Steps;
use crate::job::Name;

/// The names of queues and kinds, and how the clock was set. Only the engine adds to them; readers look up.
#[derive(Debug, Default)]
pub struct Names {
    /// The names of queues.
    pub queues: NameTable,
    /// The names of kinds.
    pub kinds: NameTable,
    /// How the wall clock has gone beside the time that the store counts.
    pub steps: Steps,
}

/// Names of one sort, by number and by text.
#[derive(Debug, Default)]
pub struct NameTable {
    tables: RwLock<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    /// Absent where a number has no name.
    by_number: Vec<Option<Arc<Name>>>,
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
        self.tables.read().by_number.get(number as usize).cloned().flatten()
    }

    /// All names, by number.
    pub(crate) fn all(&self) -> Vec<Arc<Name>> {
        self.tables.read().by_number.iter().flatten().cloned().collect()
    }

    /// How many names there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tables.read().by_text.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Replaces all names by these, each with its number. A name that was there before stays the same object.
    pub(crate) fn load(&self, names: &BTreeMap<u32, String>) {
        let mut tables = self.tables.write();
        let before = std::mem::take(&mut *tables);
        for (number, text) in names {
            let same = before.by_text.get(text.as_str()).filter(|name| name.number == *number);
            let name = same.map_or_else(|| Name::new(*number, text), Arc::clone);
            tables.by_number.resize(*number as usize, None);
            tables.by_number.push(Some(Arc::clone(&name)));
            tables.by_text.insert(text.as_str().into(), name);
        }
    }

    /// Gives the text the next number.
    pub(crate) fn add(&self, text: &str) -> Arc<Name> {
        let mut tables = self.tables.write();
        let name = Name::new(u32::try_from(tables.by_number.len()).unwrap_or(u32::MAX), text);
        tables.by_number.push(Some(Arc::clone(&name)));
        tables.by_text.insert(text.into(), Arc::clone(&name));
        name
    }
}
