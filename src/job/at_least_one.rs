//! A list that is never empty.

/// One thing or more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AtLeastOne<T> {
    /// The first one.
    pub first: T,
    /// The others, in order.
    pub rest: Vec<T>,
}

impl<T> AtLeastOne<T> {
    /// A list of one.
    #[must_use]
    pub const fn one(first: T) -> Self {
        AtLeastOne { first, rest: Vec::new() }
    }

    /// The things of an iterator; `None` where it has none.
    pub fn collect(things: impl IntoIterator<Item = T>) -> Option<Self> {
        let mut things = things.into_iter();
        let first = things.next()?;
        Some(AtLeastOne { first, rest: things.collect() })
    }

    /// How many there are: 1 at least.
    #[must_use]
    pub fn count(&self) -> usize {
        1 + self.rest.len()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// All of them, in order, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        std::iter::once(&mut self.first).chain(&mut self.rest)
    }

    /// The one at a place, to be changed.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        match index.checked_sub(1) {
            None => Some(&mut self.first),
            Some(index) => self.rest.get_mut(index),
        }
    }

    /// Makes something of each, in order.
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
