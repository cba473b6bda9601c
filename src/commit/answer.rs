//! Answers that are still to come, for callers with several submissions on their way.

use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use super::{Commit, Entry, Stopped, SubmitAnswer};
use crate::{
    admission::{Patience, waiters::Caller},
    store::Offer,
};

/// The answer to come to a submission. Whoever drops it has gone: if the submission still waits for room, it is let
/// go of.
#[derive(Debug)]
pub(crate) struct Answer(oneshot::Receiver<SubmitAnswer>);

impl Answer {
    /// Waits for it. May be dropped and called again until it has returned.
    pub(crate) async fn decided(&mut self) -> Result<SubmitAnswer, Stopped> {
        (&mut self.0).await.map_err(|_| Stopped)
    }

    /// The answer, if it is there by now. To be taken once.
    pub(crate) fn take(&mut self) -> Option<Result<SubmitAnswer, Stopped>> {
        match self.0.try_recv() {
            Ok(answer) => Some(Ok(answer)),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(Err(Stopped)),
        }
    }
}

impl Commit {
    /// Someone new who submits. All that is offered in one name counts as one where the callers who wait are counted.
    pub(crate) fn caller(&self) -> Caller {
        Caller(self.callers.fetch_add(1, Ordering::Relaxed))
    }

    /// Hands an offer to the committer, without waiting for its answer. What is handed over first is decided first.
    pub(crate) async fn offer(
        &self,
        caller: Caller,
        offer: Offer,
        patience: Patience,
    ) -> Result<Answer, Stopped> {
        let (reply, answer) = oneshot::channel();
        let Patience { room: wait, store: give_up } = patience;
        self.entries.send(Entry::Offer { offer, caller, wait, give_up, reply }).await.map_err(|_| Stopped)?;
        Ok(Answer(answer))
    }
}
