//! Attempts that the test controls.

use jobmill::{
    execute::{Attempt, Handler, HandlerError, HandlerFuture},
    job::Output,
};
use tokio::sync::{mpsc, oneshot};

use super::soon;

/// The result of an attempt.
pub(crate) type Outcome = Result<Output, HandlerError>;

/// The stage on which running attempts appear and wait for the test to end them.
pub(crate) struct Stage {
    cues: mpsc::Receiver<StagedAttempt>,
}

/// A running attempt, which waits for the test to end it.
pub(crate) struct StagedAttempt {
    pub(crate) attempt: Attempt,
    end: oneshot::Sender<Outcome>,
}

impl Stage {
    pub(crate) fn new() -> (impl Handler + Clone, Stage) {
        let (sender, cues) = mpsc::channel(10_000);
        let handler = move |attempt: Attempt| -> HandlerFuture {
            let sender: mpsc::Sender<StagedAttempt> = sender.clone();
            Box::pin(async move {
                let (end, ended) = oneshot::channel();
                // A test that has ended ignores its attempts.
                let _ = sender.send(StagedAttempt { attempt, end }).await;
                match ended.await {
                    Ok(outcome) => outcome,
                    Err(_) => std::future::pending().await,
                }
            })
        };
        (handler, Stage { cues })
    }

    /// Returns the next attempt that starts.
    pub(crate) async fn next(&mut self) -> StagedAttempt {
        soon(self.cues.recv()).await.expect("an attempt")
    }

    /// Returns the number of started attempts that the test has not taken yet.
    pub(crate) fn len(&self) -> usize {
        self.cues.len()
    }
}

impl StagedAttempt {
    pub(crate) fn id(&self) -> String {
        self.attempt.id().to_string()
    }

    pub(crate) fn payload(&self) -> String {
        String::from_utf8_lossy(self.attempt.payload()).into_owned()
    }

    pub(crate) fn ends(self, outcome: Outcome) {
        // A server that has stopped ignores the outcome.
        let _ = self.end.send(outcome);
    }

    pub(crate) fn succeeds(self) {
        self.ends(Ok(Output::default()));
    }

    pub(crate) fn fails(self) {
        self.ends(Err(HandlerError::retryable("told to fail")));
    }
}
