//! Answers that are still to come, for callers with several submissions on their way.

use tokio::sync::oneshot;

use super::{Commit, Entry, Stopped, SubmitAnswer};
use crate::{
    admission::{Patience, waiters::Caller},
    store::Offer,
};

/// The answer to come to a submission. Whoever drops it has gone: if the submission still waits for room, it is let
/// go of.
#[derive(Debug)]
pub(crate) struct Answer(oneshot::Receiver<Result<SubmitAnswer, Stopped>>);

impl Answer {
    /// Waits for it. May be dropped and called again until it has returned.
    pub(crate) async fn decided(&mut self) -> Result<SubmitAnswer, Stopped> {
        (&mut self.0).await.unwrap_or(Err(Stopped::Unknown))
    }

    /// The answer, if it is there by now. To be taken once.
    pub(crate) fn take(&mut self) -> Option<Result<SubmitAnswer, Stopped>> {
        match self.0.try_recv() {
            Ok(answer) => Some(answer),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(Err(Stopped::Unknown)),
        }
    }
}

impl Commit {
    /// Hands an offer to the committer, without waiting for its answer. What is handed over first is decided first. All
    /// that is offered for one caller counts as one where those who wait are counted, as long as the caller is there.
    pub(crate) async fn offer(
        &self,
        caller: &Caller,
        offer: Offer,
        patience: Patience,
    ) -> Result<Answer, Stopped> {
        let (reply, answer) = oneshot::channel();
        let Patience { room: wait, store: give_up } = patience;
        let entry = Entry::Offer { offer, caller: caller.key(), wait, give_up, reply };
        self.entries.send(entry).await.map_err(|_| Stopped::Refused)?;
        Ok(Answer(answer))
    }
}
