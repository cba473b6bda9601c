//! The operator's configuration, checked and ready to use before any port is bound. [`load()`] reads it from a file,
//! the environment and flags.

mod addresses;
mod context;
mod declared;
mod document;
#[cfg(feature = "http")]
mod endpoint;
mod entry;
mod environment;
mod fault;
mod kind_defaults;
mod limits;
mod load;
mod network;
mod paths;
mod preview;
mod program;
mod rules;
mod schedule_rules;
mod schedules;
mod section;
mod tables;
mod tokens;
mod units;

pub use self::{
    entry::ResolvedSetting,
    environment::Environment,
    fault::{Fault, Faults, SettingSource},
    load::{Flags, Loaded, keys, load},
    preview::NextInstant,
    tokens::load_tokens,
};
