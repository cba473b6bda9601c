//! A store with a planted bug in its limits.

use std::{collections::BTreeMap, sync::Arc};

use jobmill::{
    engine::{DemandBoard, LimitAction, ReportBody},
    settings::{LimitKey, LimitRule, LimitSpec},
    store::{Reader, StoreError},
};

use super::planted::as_the_store;
use crate::store::{
    batch::{Applied, Batch, Control, ControlDone, Setup},
    subject::{Memory, Subject},
};

/// A store that keeps the place of a job that fails, under limits that all jobs share: each such end lowers them by one in
/// the next batch.
pub(crate) struct KeepsPlaces {
    store: Memory,
    limits: BTreeMap<String, LimitSpec>,
    failed: u32,
}

impl KeepsPlaces {
    pub(crate) fn open(setup: Setup) -> Box<dyn Subject> {
        Box::new(KeepsPlaces { store: Memory::open(setup), limits: BTreeMap::new(), failed: 0 })
    }

    /// Returns the controls that lower the limits by the places that were kept.
    fn lowered(&mut self) -> Vec<Control> {
        let mut controls = Vec::new();
        for (name, spec) in self.limits.iter_mut().filter(|(_, spec)| spec.key == LimitKey::All) {
            let LimitRule::Running(max) = spec.rule else { continue };
            spec.rule = LimitRule::Running(max.saturating_sub(self.failed));
            let action = LimitAction::Update { spec: spec.clone(), etag: None };
            controls.push(Control::Limit { name: name.clone(), action });
        }
        self.failed = 0;
        controls
    }
}

impl Subject for KeepsPlaces {
    fn apply(&mut self, mut batch: Batch) -> Result<Applied, StoreError> {
        let lowered = if self.failed > 0 { self.lowered() } else { Vec::new() };
        let own = lowered.len();
        let failed = |body: &ReportBody| matches!(body, ReportBody::Failed { .. });
        let of_server: Vec<bool> =
            batch.reports_with.iter().map(|(report, _)| failed(&report.body)).collect();
        let of_workers: Vec<bool> = batch.worker_reports.iter().map(|report| failed(&report.body)).collect();
        let asked = batch.controls.clone();
        batch.controls.splice(0..0, lowered);
        let mut applied = self.store.apply(batch)?;
        applied.controls.drain(..own);
        for (control, answer) in asked.iter().zip(&applied.controls) {
            if let (Control::Limit { name, .. }, Ok(ControlDone::Limit(done))) = (control, answer) {
                match &done.limit {
                    Some(info) => self.limits.insert(name.clone(), info.spec.clone()),
                    None => self.limits.remove(name),
                };
            }
        }
        let server =
            of_server.iter().zip(&applied.reports).filter(|(failed, answer)| **failed && answer.is_ok());
        let workers =
            of_workers.iter().zip(&applied.answers).filter(|(failed, one)| **failed && one.result.is_ok());
        self.failed += (server.count() + workers.count()) as u32;
        Ok(applied)
    }

    fn crash(&mut self, setup: Setup) -> Result<(), StoreError> {
        self.store.crash(setup)
    }

    as_the_store!(store);
}
