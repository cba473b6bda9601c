//! Attempts that wait for the test.

use jobmill::{
    execute::{Attempt, Handler, HandlerError, HandlerFuture},
    job::Output,
};
use tokio::sync::{mpsc, oneshot};

use super::soon;

/// What an attempt returns.
pub(crate) type Outcome = Result<Output, HandlerError>;

/// Where attempts show up once they run, and wait to be told how they end.
pub(crate) struct Stage {
    cues: mpsc::Receiver<Cue>,
}

/// An attempt that runs until it is told how it ends.
pub(crate) struct Cue {
    pub(crate) attempt: Attempt,
    end: oneshot::Sender<Outcome>,
}

impl Stage {
    pub(crate) fn new() -> (impl Handler + Clone, Stage) {
        let (sender, cues) = mpsc::channel(10_000);
        let handler = move |attempt: Attempt| -> HandlerFuture {
            let sender: mpsc::Sender<Cue> = sender.clone();
            Box::pin(async move {
                let (end, ended) = oneshot::channel();
                // A test that is over does not mind what becomes of its attempts.
                let _ = sender.send(Cue { attempt, end }).await;
                match ended.await {
                    Ok(outcome) => outcome,
                    Err(_) => std::future::pending().await,
                }
            })
        };
        (handler, Stage { cues })
    }

    /// The next attempt that starts.
    pub(crate) async fn next(&mut self) -> Cue {
        soon(self.cues.recv()).await.expect("an attempt")
    }

    /// How many have started that nobody has taken yet.
    pub(crate) fn len(&self) -> usize {
        self.cues.len()
    }
}

impl Cue {
    pub(crate) fn id(&self) -> String {
        self.attempt.id().to_string()
    }

    pub(crate) fn payload(&self) -> String {
        String::from_utf8_lossy(self.attempt.payload()).into_owned()
    }

    pub(crate) fn ends(self, outcome: Outcome) {
        // A server that has stopped does not hear of it.
        let _ = self.end.send(outcome);
    }

    pub(crate) fn succeeds(self) {
        self.ends(Ok(Output::default()));
    }

    pub(crate) fn fails(self) {
        self.ends(Err(HandlerError::retryable("told to fail")));
    }
}
