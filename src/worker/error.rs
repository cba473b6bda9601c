//! Why a worker ends other than as it was told to.

use std::{io, path::PathBuf};

use crate::client::ClientError;

/// A worker can't start, or can't go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The worker is not set up correctly. Nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// The file with the token can't be read, or holds none. Nothing was sent.
    #[error("no token can be read from {}: {source}", path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A newer process has taken over this worker's instance: two processes have the same name. This one must not call
    /// again. Its attempts were asked to stop, because their jobs run elsewhere.
    #[error("a newer process has taken over the instance `{instance}`; give each worker a name of its own")]
    Superseded {
        /// The worker's name.
        instance: String,
    },
    /// The server refuses the worker, and would refuse it again: no permission, a fault in what the worker says of
    /// itself, or a server without remote workers.
    #[error("the server does not accept this worker: {0}")]
    Refused(#[source] ClientError),
    /// The server's address, or the certificates, can't be used.
    #[error(transparent)]
    Connection(ClientError),
    /// The worker's own thread can't be started.
    #[error("the worker's thread can't be started: {0}")]
    Thread(#[source] io::Error),
    /// The worker's own thread has panicked.
    #[error("the worker's thread has panicked; this is a bug")]
    Crashed,
}
