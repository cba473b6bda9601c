//! Errors with which a server fails to start, or ends by itself.

use std::{net::SocketAddr, path::PathBuf};

use crate::{
    api::ApiError,
    counters::MetricsError,
    execute::{SetupError, command::LockError},
    job::names::NameError,
    store::StoreError,
    traces::TracesError,
};

/// Errors with which a server fails to start, or ends by itself.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address can't be listened on.
    #[error("can't listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The server would accept anyone on the network.
    #[error("{0} is not a loopback address, and there are no TLS and tokens: set both, or set `insecure`")]
    Exposed(SocketAddr),
    /// Certificates or tokens can't be used.
    #[error("can't use the credentials: {0}")]
    Credentials(String),
    /// The audit log can't be written.
    #[error("can't write the audit to {path:?}")]
    Audit {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store had not written everything by the end of the drain.
    #[error(
        "the store had not written everything by the end of the drain: the results of {outcomes} attempts \
         are lost, and their jobs are treated as interrupted at the next start"
    )]
    Unwritten {
        /// The number of attempts that had ended and whose results were not written.
        outcomes: u64,
    },
    /// The lock file that tells whether commands of an earlier server have ended can't be used.
    #[error(transparent)]
    Commands(#[from] LockError),
    /// A kind's endpoint is to call back, and no address listens.
    #[error(
        "the kind `{kind}` has a `callback_url`, and nothing answers there: set `listen` in [metrics], or leave the \
         URL out"
    )]
    NoCallbacks {
        /// The kind's name.
        kind: String,
    },
    /// A kind's handler can't be set up.
    #[error("the kind `{kind}` can't be run")]
    Handler {
        /// The kind.
        kind: String,
        /// The reason.
        source: SetupError,
    },
    /// A handler's kind can't have this name.
    #[error("the kind {kind:?} can't have a handler")]
    KindName {
        /// The name.
        kind: String,
        /// The fault of the name.
        source: NameError,
    },
    /// A kind has two handlers.
    #[error("the kind `{0}` has two handlers")]
    KindTwice(String),
    /// The gRPC server failed.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The metrics could not be set up.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// Traces can't be exported with these settings.
    #[error(transparent)]
    Traces(#[from] TracesError),
    /// A task of the server ended unexpectedly.
    #[error("a part of the server ended unexpectedly: {0}")]
    Ended(String),
}

impl ServeError {
    /// Whether the store failed, so that the operator should check the disk.
    #[must_use]
    pub fn is_of_the_store(&self) -> bool {
        match self {
            ServeError::Store(_) | ServeError::Unwritten { .. } => true,
            ServeError::Listen { .. }
            | ServeError::Exposed(_)
            | ServeError::Credentials(_)
            | ServeError::Audit { .. }
            | ServeError::Commands(_)
            | ServeError::NoCallbacks { .. }
            | ServeError::Handler { .. }
            | ServeError::KindName { .. }
            | ServeError::KindTwice(_)
            | ServeError::Api(_)
            | ServeError::Metrics(_)
            | ServeError::Traces(_)
            | ServeError::Ended(_) => false,
        }
    }
}
