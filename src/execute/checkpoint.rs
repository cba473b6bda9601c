//! Checkpoints of attempts, and the cause of a stop.

use std::{
    fmt,
    future::{Future, ready},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::sync::watch;

use super::{Attempt, cut};
use crate::job::{Output, checkpoint::CHECKPOINT_MAX_BYTES};

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
    /// The state is too large.
    #[error(
        "the state has {bytes} bytes; at most {max_bytes} are kept: store it elsewhere, and keep a reference"
    )]
    TooLarge {
        /// Size of the state and its metadata in bytes.
        bytes: usize,
        /// Limit in bytes.
        max_bytes: usize,
    },
    /// The attempt has ended, or lost its lease, before the server wrote the checkpoint. The last checkpoint of an
    /// attempt that fails is written with its end all the same.
    #[error("the attempt was over before its checkpoint was written")]
    Over,
}

/// Returns a state that can be kept: a long media type is cut.
pub(crate) fn checked_state(mut state: Output) -> Result<Output, CheckpointError> {
    const MEDIA_TYPE_MAX_BYTES: usize = 128;
    let bytes = state.bytes.len() + state.info.bytes() - state.info.media_type.len();
    if bytes > CHECKPOINT_MAX_BYTES {
        return Err(CheckpointError::TooLarge { bytes, max_bytes: CHECKPOINT_MAX_BYTES });
    }
    let media_type = &mut state.info.media_type;
    media_type.truncate(cut(media_type, MEDIA_TYPE_MAX_BYTES).len());
    Ok(state)
}

/// Resolves when the server has written a checkpoint, or a later one of the same attempt, to its disk. Dropping it
/// changes nothing: the checkpoint is on its way.
pub struct Committed {
    number: Result<i64, CheckpointError>,
    written: Pin<Box<dyn Future<Output = Result<(), CheckpointError>> + Send>>,
}

impl Committed {
    pub(crate) fn refused(error: CheckpointError) -> Self {
        Committed { number: Err(error), written: Box::pin(ready(Err(error))) }
    }

    /// Returns the checkpoint's number among those of its attempt, from 1; `None` if the state is refused.
    #[must_use]
    pub fn number(&self) -> Option<i64> {
        self.number.ok()
    }

    /// Returns why the state is refused, if that is known at once.
    #[must_use]
    pub fn refusal(&self) -> Option<CheckpointError> {
        self.number.err()
    }
}

impl Future for Committed {
    type Output = Result<(), CheckpointError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.written.as_mut().poll(context)
    }
}

impl fmt::Debug for Committed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committed").field("number", &self.number).finish_non_exhaustive()
    }
}

/// The numbers of an attempt's checkpoints that are on disk, for those who wait for one.
#[derive(Debug, Default)]
pub(crate) struct WrittenNumbers(watch::Sender<WrittenState>);

#[derive(Debug, Default)]
struct WrittenState {
    up_to: i64,
    is_over: bool,
}

impl WrittenNumbers {
    /// Wakes those who wait for checkpoints up to this number.
    pub(crate) fn up_to(&self, number: i64) {
        self.0.send_if_modified(|written| {
            let is_new = number > written.up_to;
            written.up_to = number.max(written.up_to);
            is_new
        });
    }

    /// Fails all waits for later checkpoints: none is written any more.
    pub(crate) fn over(&self) {
        self.0.send_modify(|written| written.is_over = true);
    }

    /// Returns the wait for the checkpoint with this number.
    pub(crate) fn when(&self, number: i64) -> Committed {
        let mut changes = self.0.subscribe();
        let written = async move {
            match changes.wait_for(|written| written.up_to >= number || written.is_over).await {
                Ok(written) if written.up_to >= number => Ok(()),
                Ok(_) | Err(_) => Err(CheckpointError::Over),
            }
        };
        Committed { number: Ok(number), written: Box::pin(written) }
    }
}

impl Attempt {
    /// Keeps a state for the job's next attempt, should this one end without success: at most 256 KiB with its metadata.
    /// The latest state counts, and the call itself never waits. With `commit_now` the server writes it at once, and
    /// otherwise with the attempt's progress, at most every 500 ms, or with its end. The returned future resolves when
    /// it is written; it may be dropped. What was written outlives crashes, drains and timeouts.
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
    /// The future fails with a [`CheckpointError`].
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
