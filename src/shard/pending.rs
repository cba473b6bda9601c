//! A batch on its way to the store.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::{
    clock::Uptime,
    engine::{Asked, Batch, ControlRefusal, Engine, OfferRefusal},
};

/// How often a batch that another program's lock holds up is tried again.
pub(super) const TRY_LOCKED_EVERY: Duration = Duration::from_millis(50);

/// A batch, and what else came in with it.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) batch: Batch,
    pub(super) flushes: Vec<oneshot::Sender<()>>,
    /// How much had come in for it.
    pub(super) gathered: usize,
}

impl Pending {
    /// Lets go of callers who have left, and answers those who wait no longer. Their parts leave the batch, of which
    /// nothing has been tried.
    pub(super) fn let_go(&mut self, engine: &mut Engine, now: Uptime) {
        let waits = |ask: &dyn Asked<_>| ask.give_up() > now;
        let (waiting, late) = std::mem::take(&mut self.batch.offers)
            .into_iter()
            .partition(|offer| waits(&offer.ask) && !offer.ask.is_gone());
        self.batch.offers = waiting;
        engine.refuse_offers(late, &OfferRefusal::Locked);
        self.batch.controls.retain_mut(|control| {
            let waits = control.ask().give_up() > now;
            if !waits {
                control.ask_mut().refuse(ControlRefusal::Locked);
            }
            waits
        });
    }

    /// When the first caller stops to wait for the store.
    pub(super) fn next_give_up(&self) -> Option<Uptime> {
        let offers = self.batch.offers.iter().map(|offer| offer.ask.give_up());
        offers.chain(self.batch.controls.iter().map(|control| control.ask().give_up())).min()
    }
}
