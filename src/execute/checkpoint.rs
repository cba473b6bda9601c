//! Checkpoints of attempts, and the cause of a stop: what attempts on remote workers have in addition.

use std::{
    fmt,
    future::{Future, ready},
    pin::Pin,
    task::{Context, Poll},
};

use super::Attempt;
use crate::job::Output;

/// Why an attempt is to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StopCause {
    /// A client has cancelled the job.
    Client,
    /// The attempt has taken longer than its timeout.
    Timeout,
    /// The lease is lost, or about to end: the server may give the job to another worker. Nothing that the attempt
    /// reports counts any more.
    LeaseLost,
    /// The worker is shutting down.
    Shutdown,
}

impl StopCause {
    /// Returns the cause as people and logs write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            StopCause::Client => "cancelled by a client",
            StopCause::Timeout => "timeout",
            StopCause::LeaseLost => "lease lost",
            StopCause::Shutdown => "shutdown",
        }
    }
}

/// A checkpoint can't be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The attempt does not run on a remote worker.
    #[error("only attempts on remote workers have checkpoints")]
    Unsupported,
    /// The state is too large.
    #[error("the state has {bytes} bytes; at most {max_bytes} are kept")]
    TooLarge {
        /// Size of the state in bytes.
        bytes: usize,
        /// Limit in bytes.
        max_bytes: usize,
    },
    /// The attempt has ended, or lost its lease, before the server wrote the checkpoint.
    #[error("the attempt was over before its checkpoint was written")]
    Over,
}

/// Resolves when the server has written a checkpoint, or a later one of the same attempt, to its disk. Dropping it
/// changes nothing: the checkpoint is on its way.
pub struct Committed(Pin<Box<dyn Future<Output = Result<(), CheckpointError>> + Send>>);

impl Committed {
    pub(crate) fn refused(error: CheckpointError) -> Self {
        Committed(Box::pin(ready(Err(error))))
    }

    #[cfg(feature = "worker")]
    pub(crate) fn when(written: impl Future<Output = Result<(), CheckpointError>> + Send + 'static) -> Self {
        Committed(Box::pin(written))
    }
}

impl Future for Committed {
    type Output = Result<(), CheckpointError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(context)
    }
}

impl fmt::Debug for Committed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committed").finish_non_exhaustive()
    }
}

impl Attempt {
    /// Keeps a state for the job's next attempt, should this one end without success: at most 256 KiB. The call itself
    /// never waits. With `commit_now` the server writes the state at once, and otherwise with the attempt's next
    /// progress or end. The returned future resolves when it is written; it may be dropped.
    ///
    /// ```
    /// # use jobmill::{Attempt, HandlerError, Output};
    /// async fn import(attempt: Attempt) -> Result<Output, HandlerError> {
    ///     let done = attempt.earlier_checkpoint().map_or(0, |state| state.bytes.len());
    ///     for row in done..10 {
    ///         // … import the row …
    ///         attempt.checkpoint(Output::new(vec![b'.'; row + 1]), false);
    ///     }
    ///     // The state is on the server's disk before the next step begins.
    ///     attempt.checkpoint(Output::new("imported"), true).await?;
    ///     Ok(Output::default())
    /// }
    /// ```
    ///
    /// # Errors
    /// The future fails with a [`CheckpointError`]. Attempts in a server's own process have no checkpoints.
    pub fn checkpoint(&self, state: Output, commit_now: bool) -> Committed {
        self.reports.checkpoint(state, commit_now)
    }

    /// Returns the latest checkpoint of the job's earlier attempts, if there is one.
    #[must_use]
    pub fn earlier_checkpoint(&self) -> Option<&Output> {
        self.reports.earlier_checkpoint()
    }

    /// Returns why the attempt is to stop. `None` while it is not, and for attempts in a server's own process.
    #[must_use]
    pub fn stop_cause(&self) -> Option<StopCause> {
        self.reports.stop_cause()
    }
}
