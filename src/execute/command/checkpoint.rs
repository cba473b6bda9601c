//! The line protocol for the checkpoints of commands.

use bytes::Bytes;
use tokio::task::yield_now;

use crate::{
    execute::{Attempt, CheckpointError, Committed},
    job::{Output, checkpoint::CHECKPOINT_MAX_BYTES},
};

/// A word before a state that is written with the next progress, or with the attempt's end.
const KEEP: &[u8] = b"keep ";
/// A word before a state that is written at once, and answered.
const COMMIT: &[u8] = b"commit ";

/// Byte limit of a line. A longer one is cut, and then holds a state over the limit, which is refused.
pub(super) const LINE_MAX_BYTES: usize = COMMIT.len() + CHECKPOINT_MAX_BYTES + 1;

/// The checkpoints of a running command.
pub(super) struct CommandCheckpoints<'a> {
    attempt: &'a Attempt,
    /// The latest state that was to be written at once and is not known to be written.
    committing: Option<Committed>,
    /// Whether the job's output has a line about a wrong line.
    is_told: bool,
}

impl<'a> CommandCheckpoints<'a> {
    pub(super) fn new(attempt: &'a Attempt) -> Self {
        CommandCheckpoints { attempt, committing: None, is_told: false }
    }

    /// Takes a line. Returns the answer to one that is refused.
    pub(super) async fn take(&mut self, line: &[u8]) -> Option<Bytes> {
        // A command that writes one after the other would occupy a runtime thread otherwise.
        yield_now().await;
        let (state, commit_now) = match (line.strip_prefix(KEEP), line.strip_prefix(COMMIT)) {
            (Some(state), _) => (state, false),
            (None, Some(state)) => (state, true),
            (None, None) => {
                self.tell("a line begins with neither `keep ` nor `commit ` and is ignored");
                return None;
            }
        };
        // The frame's buffer would be kept with the state otherwise.
        let state = Output::new(Bytes::copy_from_slice(state));
        let committed = self.attempt.checkpoint(state, commit_now);
        match committed.refusal() {
            Some(error) => {
                self.tell(&error.to_string());
                commit_now.then(|| refused(error))
            }
            None => {
                // Answers tell the number up to which all is written, so that only the latest one is waited for.
                if commit_now {
                    self.committing = Some(committed);
                }
                None
            }
        }
    }

    /// Returns whether an answer is due once a state is written.
    pub(super) fn is_committing(&self) -> bool {
        self.committing.is_some()
    }

    /// Waits until the latest state is written, and returns the answer. Cancel-safe.
    pub(super) async fn committed(&mut self) -> Option<Bytes> {
        let committing = self.committing.as_mut()?;
        let written = (&mut *committing).await;
        let number = committing.number().unwrap_or_default();
        self.committing = None;
        Some(match written {
            Ok(()) => format!("committed {number}\n").into(),
            Err(error) => refused(error),
        })
    }

    /// Adds a line about a wrong checkpoint to the job's output, once.
    fn tell(&mut self, what: &str) {
        if !std::mem::replace(&mut self.is_told, true) {
            self.attempt.output_line(format!("jobmill: checkpoint: {what}"));
        }
    }
}

fn refused(error: CheckpointError) -> Bytes {
    format!("refused {error}\n").into()
}
