//! A batch on its way to the store, with those who wait for its answers.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{ControlAnswer, Stopped, SubmitAnswer};
use crate::{
    admission::waiters::{CallerKey, Seat},
    clock::Uptime,
    store::{Batch, ControlRefusal, OfferRefusal},
};

/// How often a batch that another program's lock holds up is tried again.
pub(super) const TRY_LOCKED_EVERY: Duration = Duration::from_millis(50);

pub(super) type SubmitReply = oneshot::Sender<Result<SubmitAnswer, Stopped>>;

/// Whom to answer for an offer.
pub(super) struct Asker {
    pub(super) queue: Arc<str>,
    pub(super) caller: CallerKey,
    /// Until when it waits for room, if it does.
    pub(super) wait: Option<Uptime>,
    /// Until when it waits for the store.
    pub(super) give_up: Uptime,
    /// Its seat among those who wait for room, if it has waited already.
    pub(super) seat: Option<Seat>,
    pub(super) reply: SubmitReply,
}

/// Whom to answer for a control.
pub(super) struct Controller {
    /// Until when it waits for the store.
    pub(super) give_up: Uptime,
    pub(super) reply: oneshot::Sender<ControlAnswer>,
}

impl Controller {
    /// Answers that the control is refused.
    pub(super) fn refuse(self, refusal: ControlRefusal) {
        let _ = self.reply.send(ControlAnswer::Decided(Err(refusal)));
    }
}

/// A batch, and whom to answer for each part of it, in the same order.
pub(super) struct Pending {
    pub(super) batch: Batch,
    pub(super) askers: Vec<Asker>,
    pub(super) controllers: Vec<Controller>,
    pub(super) flushes: Vec<oneshot::Sender<()>>,
    /// How much had come in for it.
    pub(super) gathered: usize,
}

impl Pending {
    /// Lets go of callers who have left, and answers those who wait no longer. Their parts leave the batch, of which
    /// nothing has been tried.
    pub(super) fn let_go(&mut self, now: Uptime) {
        let offers = std::mem::take(&mut self.batch.offers);
        for (offer, asker) in offers.into_iter().zip(std::mem::take(&mut self.askers)) {
            if asker.give_up <= now {
                let _ = asker.reply.send(Ok(SubmitAnswer::Refused(OfferRefusal::Locked)));
            } else if !asker.reply.is_closed() {
                self.batch.offers.push(offer);
                self.askers.push(asker);
            }
        }
        let controls = std::mem::take(&mut self.batch.controls);
        for (control, controller) in controls.into_iter().zip(std::mem::take(&mut self.controllers)) {
            if controller.give_up <= now {
                controller.refuse(ControlRefusal::Locked);
            } else {
                self.batch.controls.push(control);
                self.controllers.push(controller);
            }
        }
    }

    /// When the first one stops to wait for the store.
    pub(super) fn next_give_up(&self) -> Option<Uptime> {
        let askers = self.askers.iter().map(|asker| asker.give_up);
        askers.chain(self.controllers.iter().map(|controller| controller.give_up)).min()
    }
}
