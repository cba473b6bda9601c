//! What reading a kind depends on.

use std::path::Path;

use super::surroundings::Surroundings;

/// What reading a kind needs to know beside the file's text.
pub(super) struct Context<'a> {
    pub(super) surroundings: &'a Surroundings,
    /// The file's folder, from which its relative paths start.
    pub(super) base: &'a Path,
}
