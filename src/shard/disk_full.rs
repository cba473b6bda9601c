//! Input that waits for disk space.

use std::time::Duration;

use crate::{
    clock::Uptime,
    engine::{Batch, Control, ControlRefusal, Offer, OfferRefusal, Refusable, Report},
    store::Space,
};

/// Interval of retries on a full disk, and of checks for space while offers wait for room.
pub(super) const TRY_EVERY: Duration = Duration::from_millis(250);
/// Limit of the controls that wait for space, and of the repeated submissions that do.
const CONTROLS_MAX: usize = 1_024;

/// Ends of attempts, cancels and deletes that wait for disk space, and repeats, which need no space but a batch that
/// fits. Each slot has at most one end here.
#[derive(Default)]
pub(super) struct DiskFullBacklog {
    reports: Vec<Report>,
    controls: Vec<Control>,
    repeats: Vec<Offer>,
    retry_at: Option<Uptime>,
}

impl DiskFullBacklog {
    /// Returns the time of the next try; absent if nothing is held.
    pub(super) fn retry_at(&self) -> Option<Uptime> {
        self.retry_at
    }

    /// Adds the held input to the batch, reports first. On a full disk before the next try, takes the batch's reports
    /// and controls over instead.
    pub(super) fn join(&mut self, batch: &mut Batch) {
        if self.retry_at.is_some_and(|retry_at| retry_at > batch.present.uptime) && batch.space == Space::Full
        {
            self.keep(std::mem::take(&mut batch.reports), std::mem::take(&mut batch.controls));
            return;
        }
        if self.retry_at.take().is_none() {
            return;
        }
        self.reports.append(&mut batch.reports);
        batch.reports = std::mem::take(&mut self.reports);
        batch.controls.append(&mut self.controls);
        batch.offers.append(&mut self.repeats);
    }

    /// Keeps the rest of a batch that did not fit on the disk.
    pub(super) fn take_back(&mut self, batch: Batch) {
        // After the first failure the store has freed its reserved space, so the next try may succeed.
        let wait = if batch.space == Space::Full { TRY_EVERY } else { Duration::ZERO };
        self.retry_at = Some(batch.present.uptime.after(wait));
        self.keep(batch.reports, batch.controls);
        for mut offer in batch.offers {
            if self.repeats.len() >= CONTROLS_MAX {
                offer.ask.refuse(OfferRefusal::DiskFull.into());
            } else if !offer.ask.is_gone() {
                self.repeats.push(offer);
            }
        }
    }

    fn keep(&mut self, reports: Vec<Report>, controls: Vec<Control>) {
        // Progress would be out of date by the time there is space.
        self.reports.extend(reports.into_iter().filter(Report::is_final));
        for mut control in controls {
            let waits = control.action.frees_space() || control.is_repeat;
            if !waits || self.controls.len() >= CONTROLS_MAX {
                control.action.ask_mut().refuse(ControlRefusal::DiskFull);
            } else if !control.action.ask().has_left() {
                self.controls.push(control);
            }
        }
    }
}
