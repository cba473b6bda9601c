//! What a full disk holds up.

use std::time::Duration;

use super::pending::Controller;
use crate::{
    clock::Uptime,
    store::{Batch, Control, ControlRefusal, Report, ReportBody, Space},
};

/// What did not fit is tried again after so long, and whoever waits for room is offered some again.
pub(super) const TRY_EVERY: Duration = Duration::from_millis(250);
/// So many cancels and deletes may wait for space.
const CONTROLS_MAX: usize = 1_024;

/// Ends of attempts, cancels and deletes that wait for space. Each slot has one end here at most.
#[derive(Default)]
pub(super) struct Held {
    reports: Vec<Report>,
    controls: Vec<(Control, Controller)>,
    retry_at: Option<Uptime>,
}

impl Held {
    /// When it is to be tried again; absent where nothing is held.
    pub(super) fn retry_at(&self) -> Option<Uptime> {
        self.retry_at
    }

    /// Puts what is held first into the batch, or, while it is not yet time to try again, takes over what could not be
    /// written either.
    pub(super) fn join(&mut self, batch: &mut Batch, controllers: &mut Vec<Controller>) {
        if self.retry_at.is_some_and(|retry_at| retry_at > batch.present.uptime) && batch.space == Space::Full
        {
            self.keep(std::mem::take(&mut batch.reports), &mut batch.controls, controllers);
            return;
        }
        if self.retry_at.take().is_none() {
            return;
        }
        self.reports.append(&mut batch.reports);
        batch.reports = std::mem::take(&mut self.reports);
        for (control, controller) in std::mem::take(&mut self.controls) {
            batch.controls.push(control);
            controllers.push(controller);
        }
    }

    /// The batch did not fit.
    pub(super) fn take_back(&mut self, mut batch: Batch, mut controllers: Vec<Controller>) {
        // The first time the store has made room meanwhile: the next try may succeed.
        let wait = if batch.space == Space::Full { TRY_EVERY } else { Duration::ZERO };
        self.retry_at = Some(batch.present.uptime.after(wait));
        self.keep(batch.reports, &mut batch.controls, &mut controllers);
    }

    fn keep(&mut self, reports: Vec<Report>, controls: &mut Vec<Control>, controllers: &mut Vec<Controller>) {
        // Progress is out of date by the time there is space.
        let ends = reports.into_iter().filter(|report| !matches!(report.body, ReportBody::Progress(_)));
        self.reports.extend(ends);
        for (control, controller) in controls.drain(..).zip(controllers.drain(..)) {
            let frees = matches!(control, Control::Cancel(_) | Control::Delete(_));
            if !frees || self.controls.len() >= CONTROLS_MAX {
                controller.refuse(ControlRefusal::DiskFull);
            } else if !controller.reply.is_closed() {
                self.controls.push((control, controller));
            }
        }
    }
}
