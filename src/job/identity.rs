//! What a resume token is held against.

use super::ids::Position;

/// What a resume token is held against.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Names the store for ever.
    pub store: [u8; 16],
    /// Every start of a server on this store, oldest first.
    pub incarnations: Vec<Incarnation>,
}

/// One start of a server on a store. Positions handed out by a start that was later undone, by restoring a backup,
/// belong to an incarnation that the store does not list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Incarnation {
    /// Drawn at random when it started.
    pub id: [u8; 8],
    /// The feed's end when it started.
    pub first: Position,
}
