//! Answers that are still to come, for callers with several submissions on their way.

use tokio::sync::oneshot;

use crate::engine::{OfferError, Stopped, Submitted};

/// The answer to come to a submission.
#[derive(Debug)]
pub(crate) struct Answer(pub(super) oneshot::Receiver<Result<Submitted, OfferError>>);

impl Answer {
    /// Waits for it. May be dropped and called again until it has returned.
    pub(crate) async fn decided(&mut self) -> Result<Submitted, OfferError> {
        (&mut self.0).await.unwrap_or(Err(Stopped::Unknown.into()))
    }

    /// The answer, if it is there by now. To be taken once.
    pub(crate) fn take(&mut self) -> Option<Result<Submitted, OfferError>> {
        match self.0.try_recv() {
            Ok(answer) => Some(answer),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(Err(Stopped::Unknown.into())),
        }
    }
}
