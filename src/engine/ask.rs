//! A question to the committer that carries its own reply.
//!
//! The engine puts its verdict into the question; only a commit can take it out again. So nothing is answered before
//! its transaction is on disk, and no answer is looked up by its place in a list.

use tokio::sync::oneshot;

use crate::{clock::Uptime, store::sets::Committed};

/// The question's side of a call: the reply's channel, and the verdict once there is one.
#[derive(Debug)]
pub struct Ask<T, E> {
    /// Absent where the caller wants no answer.
    reply: Option<oneshot::Sender<Result<T, E>>>,
    verdict: Option<Result<T, E>>,
    /// Until when the caller waits for a store that takes nothing for a while.
    give_up: Uptime,
}

impl<T, E> Ask<T, E> {
    /// A question, and where its answer comes.
    #[must_use]
    pub fn new(give_up: Uptime) -> (Self, oneshot::Receiver<Result<T, E>>) {
        let (reply, answer) = oneshot::channel();
        (Ask { reply: Some(reply), verdict: None, give_up }, answer)
    }

    /// A question of which nobody waits for the answer.
    #[must_use]
    pub fn unheard() -> Self {
        Ask { reply: None, verdict: None, give_up: Uptime::MAX }
    }

    /// Decides what the answer will be, if the batch is committed.
    pub(super) fn decide(&mut self, verdict: Result<T, E>) {
        self.verdict = Some(verdict);
    }

    /// The answer, which is true now. `None` where nothing was decided or nobody waits for it.
    pub(crate) fn open(self, _: &Committed) -> Option<Told<T, E>> {
        Some(Told { reply: self.reply?, verdict: self.verdict? })
    }

    /// The verdict, which is true now.
    pub(crate) fn verdict(&self, _: &Committed) -> Option<&Result<T, E>> {
        self.verdict.as_ref()
    }
}

impl<T, E> Ask<T, E> {
    /// The caller has disconnected.
    pub(crate) fn is_gone(&self) -> bool {
        self.reply.as_ref().is_some_and(oneshot::Sender::is_closed)
    }
}

/// What the committer does with any question, whatever it asks for.
pub(crate) trait Asked<E> {
    /// The instant after which the caller no longer waits for the store.
    fn give_up(&self) -> Uptime;
    /// The caller has disconnected.
    fn has_left(&self) -> bool;
    /// Answers that nothing was changed.
    fn refuse(&mut self, why: E);
    /// Decides that it is refused, once the batch is committed.
    fn decide_refusal(&mut self, why: E);
    /// Takes the verdict back: the batch was not committed.
    fn reset(&mut self);
}

impl<T, E> Asked<E> for Ask<T, E> {
    fn give_up(&self) -> Uptime {
        self.give_up
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

/// An answer that a commit has made true, on its way to the caller.
#[derive(Debug)]
pub(crate) struct Told<T, E> {
    reply: oneshot::Sender<Result<T, E>>,
    verdict: Result<T, E>,
}

impl<T, E> Told<T, E> {
    /// Wakes the caller.
    pub(crate) fn send(self) {
        // The caller may have disconnected.
        let _ = self.reply.send(self.verdict);
    }
}
