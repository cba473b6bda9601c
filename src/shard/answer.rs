//! Pending answers, for callers with several submissions in flight.

use tokio::sync::oneshot;

use crate::engine::{OfferError, Stopped, Submitted};

/// The pending answer to a submission.
#[derive(Debug)]
pub(crate) struct PendingAnswer(pub(super) oneshot::Receiver<Result<Submitted, OfferError>>);

impl PendingAnswer {
    /// Waits for the answer. Cancel-safe: may be dropped and called again until it has returned.
    pub(crate) async fn decided(&mut self) -> Result<Submitted, OfferError> {
        (&mut self.0).await.unwrap_or(Err(Stopped::Unknown.into()))
    }

    /// Returns the answer if it has arrived. May be taken only once.
    pub(crate) fn take(&mut self) -> Option<Result<Submitted, OfferError>> {
        match self.0.try_recv() {
            Ok(answer) => Some(answer),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(Err(Stopped::Unknown.into())),
        }
    }
}
