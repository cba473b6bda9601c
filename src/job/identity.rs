//! Which store this is.

use super::ids::Position;

/// Which store this is, and what a resume token is held against.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Names the store for ever. Its copies have the same name.
    pub store: [u8; 16],
    /// Names the store where it is: its copies, once they are opened, have others.
    pub place: [u8; 16],
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
