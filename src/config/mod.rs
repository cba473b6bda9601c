//! What the operator says, checked and ready to use before any port is bound: [`load()`] takes it from a file, the
//! environment and flags.

mod addresses;
mod declared;
#[cfg(feature = "http")]
mod endpoint;
mod fault;
mod load;
mod network;
mod paths;
mod program;
mod rules;
mod section;
mod surroundings;
mod tokens;
mod units;

pub use self::{
    fault::{Fault, Faults, Place},
    load::{Flags, Loaded, keys, load},
    surroundings::Surroundings,
    tokens::load_tokens,
};

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
