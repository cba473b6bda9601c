//! Context for reading a kind.

use std::path::Path;

use super::surroundings::Surroundings;

/// Inputs for reading a kind, other than the file's text.
pub(super) struct Context<'a> {
    pub(super) surroundings: &'a Surroundings,
    /// The file's folder, the base of its relative paths.
    pub(super) base: &'a Path,
}
