//! Context for reading a kind.

use std::path::Path;

use super::environment::Environment;

/// Inputs for reading a kind, other than the file's text.
pub(super) struct Context<'a> {
    pub(super) environment: &'a Environment,
    /// The file's folder, the base of its relative paths.
    pub(super) base: &'a Path,
}
