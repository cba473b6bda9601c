//! A request to the committer that carries its own reply channel.
//!
//! The engine stores its verdict in the request, and only a commit can take it out again. So no reply is sent before
//! its transaction is on disk, and no reply is looked up by its index in a list.

use tokio::sync::oneshot;

use crate::{clock::Uptime, store::sets::Committed};

/// The committer's side of a call: the reply channel, and the verdict once it is decided.
#[derive(Debug)]
pub struct ReplySlot<T, E> {
    /// Absent where the caller wants no answer.
    reply: Option<oneshot::Sender<Result<T, E>>>,
    verdict: Option<Result<T, E>>,
    /// Deadline of the caller's wait for a store that is locked.
    store_deadline: Uptime,
}

impl<T, E> ReplySlot<T, E> {
    /// Creates a request and the receiver of its reply.
    #[must_use]
    pub fn new(store_deadline: Uptime) -> (Self, oneshot::Receiver<Result<T, E>>) {
        let (reply, answer) = oneshot::channel();
        (ReplySlot { reply: Some(reply), verdict: None, store_deadline }, answer)
    }

    /// Creates a request without a reply channel.
    #[must_use]
    pub fn unheard() -> Self {
        ReplySlot { reply: None, verdict: None, store_deadline: Uptime::MAX }
    }

    /// Stores the verdict, which becomes the reply if the batch is committed.
    pub(super) fn decide(&mut self, verdict: Result<T, E>) {
        self.verdict = Some(verdict);
    }

    /// Returns the reply, which the commit has made valid. `None` without a verdict or without a reply channel.
    pub(crate) fn open(self, _: &Committed) -> Option<ReadyReply<T, E>> {
        Some(ReadyReply { reply: self.reply?, verdict: self.verdict? })
    }

    /// Returns the verdict, which the commit has made valid.
    pub(crate) fn verdict(&self, _: &Committed) -> Option<&Result<T, E>> {
        self.verdict.as_ref()
    }
}

impl<T, E> ReplySlot<T, E> {
    /// Returns whether the caller has disconnected.
    pub(crate) fn is_gone(&self) -> bool {
        self.reply.as_ref().is_some_and(oneshot::Sender::is_closed)
    }
}

/// Operations of the committer on a request of any type.
pub(crate) trait Refusable<E> {
    /// Returns the deadline of the caller's wait for a locked store.
    fn store_deadline(&self) -> Uptime;
    /// Returns whether the caller has disconnected.
    fn has_left(&self) -> bool;
    /// Replies at once with a refusal: nothing was changed.
    fn refuse(&mut self, why: E);
    /// Stores a refusal as the verdict, to be sent once the batch is committed.
    fn decide_refusal(&mut self, why: E);
    /// Clears the verdict of a batch that was not committed.
    fn reset(&mut self);
}

impl<T, E> Refusable<E> for ReplySlot<T, E> {
    fn store_deadline(&self) -> Uptime {
        self.store_deadline
    }

    fn has_left(&self) -> bool {
        self.is_gone()
    }

    fn refuse(&mut self, why: E) {
        self.verdict = None;
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(Err(why));
        }
    }

    fn decide_refusal(&mut self, why: E) {
        self.verdict = Some(Err(why));
    }

    fn reset(&mut self) {
        self.verdict = None;
    }
}

/// A reply that a commit has made valid, with the channel to its caller.
#[derive(Debug)]
pub(crate) struct ReadyReply<T, E> {
    reply: oneshot::Sender<Result<T, E>>,
    verdict: Result<T, E>,
}

impl<T, E> ReadyReply<T, E> {
    /// Sends the reply, which wakes the caller.
    pub(crate) fn send(self) {
        // The caller may have disconnected.
        let _ = self.reply.send(self.verdict);
    }
}
