//! Refusals of changes of limits.

/// Reason for the refusal of a change of a limit.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LimitRefusal {
    /// No limit has this name.
    #[error("no limit is named `{0}`: list the limits with LimitService.ListLimits")]
    NotFound(String),
    /// The name is in use.
    #[error("a limit named `{0}` exists already: update it, or choose another name")]
    Exists(String),
    /// The limit is declared in the configuration file, and can't be changed by RPC.
    #[error("the limit `{0}` is declared in the configuration file: change it there and restart")]
    Declared(String),
    /// The limit has changed since the caller read it.
    #[error(
        "the limit `{limit}` has changed since: get it again, or send its present etag, {etag}, or `*` to change it all \
         the same"
    )]
    EtagMismatch {
        /// The limit's name.
        limit: String,
        /// The limit's present etag.
        etag: String,
    },
    /// The limit and its overrides would be of different sorts.
    #[error(
        "the limit `{0}` and its overrides must all be of max_running, or all of a rate: delete the overrides first, or \
         create another limit"
    )]
    OtherSort(String),
    /// The value has no override.
    #[error("the value {value:?} of the limit `{limit}` has no override: list them with LimitService.ListLimitValues")]
    OverrideNotFound {
        /// The limit's name.
        limit: String,
        /// The value.
        value: String,
    },
    /// The number of limits is at its limit.
    #[error("there are {0} limits already, and no more are allowed: delete one that is not used")]
    TooMany(usize),
    /// The number of a limit's overrides is at its limit.
    #[error("the limit has {0} overrides already, and no more are allowed: delete one that is not needed")]
    TooManyOverrides(usize),
}
