//! A batch that is not applied yet.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::{
    clock::Uptime,
    engine::{Batch, ControlRefusal, Engine, OfferRefusal, Refusable},
};

/// Interval of the tries of a batch that met another program's lock.
pub(super) const TRY_LOCKED_EVERY: Duration = Duration::from_millis(50);

/// A batch and the flush requests that came with it.
#[derive(Debug)]
pub(super) struct PendingBatch {
    pub(super) batch: Batch,
    pub(super) flushes: Vec<oneshot::Sender<()>>,
    /// Number of entries and reports that were gathered for it.
    pub(super) gathered: usize,
}

impl PendingBatch {
    /// Refuses the offers of disconnected callers and all entries past their deadline for a locked store, and removes
    /// them from the batch. Nothing of the batch was begun.
    pub(super) fn let_go(&mut self, engine: &mut Engine, now: Uptime) {
        let waits = |ask: &dyn Refusable<_>| ask.store_deadline() > now;
        let (waiting, late) = std::mem::take(&mut self.batch.offers)
            .into_iter()
            .partition(|offer| waits(&offer.ask) && !offer.ask.is_gone());
        self.batch.offers = waiting;
        engine.refuse_offers(late, &OfferRefusal::Locked);
        self.batch.controls.retain_mut(|control| {
            let waits = control.action.ask().store_deadline() > now;
            if !waits {
                control.action.ask_mut().refuse(ControlRefusal::Locked);
            }
            waits
        });
    }

    /// Returns the earliest deadline for a locked store.
    pub(super) fn next_store_deadline(&self) -> Option<Uptime> {
        let offers = self.batch.offers.iter().map(|offer| offer.ask.store_deadline());
        offers.chain(self.batch.controls.iter().map(|control| control.action.ask().store_deadline())).min()
    }
}
