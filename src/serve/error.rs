//! Why a server did not start, or ended by itself.

use std::{net::SocketAddr, path::PathBuf};

use crate::{
    api::ApiError,
    counters::MetricsError,
    execute::{SetupError, command::LockError},
    job::names::NameError,
    store::StoreError,
    traces::TracesError,
};

/// Why a server did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address can't be listened on.
    #[error("can't listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Anybody on the network could use it.
    #[error("{0} is not a loopback address, and there are no TLS and tokens: set both, or say `insecure`")]
    Exposed(SocketAddr),
    /// Certificates or tokens can't be used.
    #[error("can't use the credentials: {0}")]
    Credentials(String),
    /// The audit can't be written.
    #[error("can't write the audit to {path:?}")]
    Audit {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store had not taken everything by the end of the drain.
    #[error(
        "the store had not taken everything by the end of the drain: {outcomes} attempts' ends are not kept, and their jobs are \
         taken up as interrupted at the next start"
    )]
    Unwritten {
        /// How many attempts had told how they ended, and it was not written.
        outcomes: u64,
    },
    /// It can't be known whether commands of an earlier server have ended.
    #[error(transparent)]
    Commands(#[from] LockError),
    /// A kind's handler can't be set up.
    #[error("the kind `{kind}` can't be run")]
    Handler {
        /// The kind.
        kind: String,
        /// Why.
        source: SetupError,
    },
    /// A handler's kind can't have this name.
    #[error("the kind {kind:?} can't have a handler")]
    KindName {
        /// The name.
        kind: String,
        /// What is wrong with it.
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
    /// Traces can't be exported as the settings have it.
    #[error(transparent)]
    Traces(#[from] TracesError),
    /// A part of the server ended that never should.
    #[error("a part of the server ended unexpectedly: {0}")]
    Ended(String),
}

impl ServeError {
    /// Whether it is the store that failed, so that the disk is to be looked at.
    #[must_use]
    pub fn is_of_the_store(&self) -> bool {
        match self {
            ServeError::Store(_) | ServeError::Unwritten { .. } => true,
            ServeError::Listen { .. }
            | ServeError::Exposed(_)
            | ServeError::Credentials(_)
            | ServeError::Audit { .. }
            | ServeError::Commands(_)
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
