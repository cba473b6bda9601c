//! A list that is never empty.

/// One item or more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AtLeastOne<T> {
    /// The first item.
    pub first: T,
    /// The other items, in order.
    pub rest: Vec<T>,
}

impl<T> AtLeastOne<T> {
    /// Creates a list of one item.
    #[must_use]
    pub const fn one(first: T) -> Self {
        AtLeastOne { first, rest: Vec::new() }
    }

    /// Collects the items of an iterator; `None` if there are none.
    pub fn collect(things: impl IntoIterator<Item = T>) -> Option<Self> {
        let mut things = things.into_iter();
        let first = things.next()?;
        Some(AtLeastOne { first, rest: things.collect() })
    }

    /// Returns the number of items: at least 1.
    #[must_use]
    pub fn count(&self) -> usize {
        1 + self.rest.len()
    }

    /// Iterates over all items, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// Iterates over all items mutably, in order.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        std::iter::once(&mut self.first).chain(&mut self.rest)
    }

    /// Returns the item at an index.
    pub fn get(&self, index: usize) -> Option<&T> {
        match index.checked_sub(1) {
            None => Some(&self.first),
            Some(index) => self.rest.get(index),
        }
    }

    /// Returns the item at an index, mutably.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        match index.checked_sub(1) {
            None => Some(&mut self.first),
            Some(index) => self.rest.get_mut(index),
        }
    }

    /// Converts each item, in order.
    pub fn map<U>(self, mut make: impl FnMut(T) -> U) -> AtLeastOne<U> {
        AtLeastOne { first: make(self.first), rest: self.rest.into_iter().map(make).collect() }
    }
}

impl<T> IntoIterator for AtLeastOne<T> {
    type Item = T;
    type IntoIter = std::iter::Chain<std::iter::Once<T>, std::vec::IntoIter<T>>;

    fn into_iter(self) -> Self::IntoIter {
        std::iter::once(self.first).chain(self.rest)
    }
}
