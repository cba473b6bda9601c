//! What each setting turned out to be.

use super::fault::Place;

/// A setting as it came out of file, environment, flags and defaults.
#[derive(Clone, PartialEq, Debug)]
pub struct Entry {
    /// The key's full path.
    pub key: String,
    /// Its value as the file would have it; of `env` only the names, since the values may be secret.
    pub value: serde_json::Value,
    /// Where it comes from.
    pub place: Place,
}
