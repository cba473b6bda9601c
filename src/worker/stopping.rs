//! The end of a worker: the drain, the end at once, and the end because the server refuses it.

use std::time::Duration;

use super::{
    key::LeaseKey,
    lease::Phase,
    session::{Outgoing, Session, Stopping},
};
use crate::{
    clock::Uptime,
    execute::StopCause,
    proto::v1::{self, worker_frame},
};

/// How long the last reports may take after the attempts were cut off.
const LAST_REPORTS_MAX: Duration = Duration::from_secs(5);

impl Session {
    /// Takes no more jobs, hands back those that have not started, and ends when the others have. They may run for
    /// `within`, and at most for the drain timeout.
    pub(super) fn drain(&mut self, within: Option<Duration>, now: Uptime) {
        let timeout = self.plan.drain_timeout;
        let cancel_at = now.after(within.map_or(timeout, |within| within.min(timeout)));
        if let Some(stopping) = &mut self.stopping {
            stopping.cancel_at = stopping.cancel_at.map(|earlier| earlier.min(cancel_at));
            return;
        }
        self.stopping = Some(Stopping { cancel_at: Some(cancel_at), give_up_at: Uptime::MAX });
        for places in &mut self.places {
            places.credits = 0;
        }
        if self.is_welcomed() {
            self.outgoing.push_back(Outgoing::Frame(worker_frame::Frame::Draining(v1::Draining {})));
        }
        let offered = self.leases.iter().filter(|(_, lease)| matches!(lease.phase, Phase::Offered(_)));
        let offered: Vec<LeaseKey> = offered.map(|(key, _)| *key).collect();
        for key in offered {
            self.release(key, "the worker is shutting down", now);
        }
    }

    /// Ends at once: the attempts that run are cut off.
    pub(super) fn force(&mut self, now: Uptime) {
        self.drain(None, now);
        for lease in self.leases.values_mut().filter(|lease| lease.is_running()) {
            lease.stop(StopCause::Shutdown, now);
        }
        for orphan in self.orphans.values_mut() {
            orphan.cut_at = now;
        }
        self.lease_wake = now;
        let give_up_at = now.after(LAST_REPORTS_MAX);
        self.stopping = Some(Stopping { cancel_at: None, give_up_at });
    }

    /// Ends because the server refuses this worker: all leases are lost.
    pub(super) fn abandon(&mut self, now: Uptime) {
        let keys: Vec<LeaseKey> = self.leases.keys().copied().collect();
        for key in keys {
            self.lose(key, now);
        }
        let give_up_at = now.after(self.grace_max().saturating_add(LAST_REPORTS_MAX));
        self.stopping = Some(Stopping { cancel_at: None, give_up_at });
    }

    fn grace_max(&self) -> Duration {
        self.plan.handlers.values().map(|handler| handler.grace).max().unwrap_or_default()
    }

    /// Whether there is nothing left to do.
    pub(super) fn is_over(&self, now: Uptime) -> bool {
        let is_last = self.plan.max_jobs.is_some_and(|max| self.counts.started >= max);
        let ends = is_last || self.stopping.is_some();
        (ends && self.leases.is_empty() && self.orphans.is_empty())
            || self.stopping.is_some_and(|stopping| now >= stopping.give_up_at)
    }

    /// When the end goes on by itself.
    pub(super) fn stop_wake(&self) -> Uptime {
        match self.stopping {
            Some(Stopping { cancel_at, give_up_at }) => give_up_at.min(cancel_at.unwrap_or(Uptime::MAX)),
            None => Uptime::MAX,
        }
    }

    /// Asks the attempts to stop, when the time of the drain is up.
    pub(super) fn tick_stop(&mut self, now: Uptime) {
        if self.stopping.and_then(|stopping| stopping.cancel_at).is_none_or(|at| now < at) {
            return;
        }
        let mut running = 0;
        for lease in self.leases.values_mut().filter(|lease| lease.is_running()) {
            running += 1;
            lease.stop(StopCause::Shutdown, now.after(lease.grace));
        }
        if running > 0 {
            tracing::warn!(running, "the drain has run out of time; the attempts are asked to stop");
        }
        self.lease_wake = now;
        let give_up_at = now.after(self.grace_max().saturating_add(LAST_REPORTS_MAX));
        self.stopping = Some(Stopping { cancel_at: None, give_up_at });
    }
}
