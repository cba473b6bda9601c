//! The identity of a store.

use super::ids::Position;

/// Identity of a store. Resume tokens are checked against it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Permanent id of the store. Copies of the store share it.
    pub store: [u8; 16],
    /// Id of the store at its present place. A copy gets an id of its own once it is opened.
    pub place: [u8; 16],
    /// All starts of a server on this store, oldest first.
    pub incarnations: Vec<Incarnation>,
}

/// A start of a server on a store. If a restored backup undoes a start, the positions that the start gave out belong to
/// an incarnation that the store does not list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Incarnation {
    /// Random id of the start.
    pub id: [u8; 8],
    /// End of the change feed at the start.
    pub first: Position,
}
