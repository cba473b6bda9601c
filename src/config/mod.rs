//! The operator's configuration, checked and ready to use before any port is bound. [`load()`] reads it from a file,
//! the environment and flags.

mod addresses;
mod context;
mod declared;
mod document;
#[cfg(feature = "http")]
mod endpoint;
mod entry;
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
    entry::Entry,
    fault::{Fault, Faults, Place},
    load::{Flags, Loaded, keys, load},
    surroundings::Surroundings,
    tokens::load_tokens,
};
