//! What a session does by itself as time passes.

use super::session::{Outgoing, Session};
use crate::{
    clock::Uptime,
    execute::StopCause,
    proto::v1::{self, worker_frame},
};

impl Session {
    /// When the session next has something to do by itself.
    pub(super) fn wake(&self) -> Uptime {
        let ping = if self.is_welcomed() { self.next_ping } else { Uptime::MAX };
        let silent = self.silent_at().unwrap_or(Uptime::MAX);
        self.lease_wake.min(ping).min(silent).min(self.stop_wake()).min(self.idle_wake())
    }

    fn idle_wake(&self) -> Uptime {
        match (self.plan.until_idle, self.idle_since) {
            (Some(idle), Some(since)) if self.is_idle() && self.stopping.is_none() => since.after(idle),
            _ => Uptime::MAX,
        }
    }

    fn is_idle(&self) -> bool {
        self.is_welcomed() && self.leases.is_empty() && self.orphans.is_empty()
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Uptime) {
        if self.is_welcomed() && now >= self.next_ping {
            self.pings += 1;
            let ping = v1::Ping { number: self.pings };
            self.outgoing.push_back(Outgoing::Frame(worker_frame::Frame::Ping(ping)));
            self.next_ping = now.after(self.ping_every);
        }
        if now >= self.idle_wake() {
            tracing::info!("there was nothing to do; ending");
            self.drain(None, now);
        }
        self.tick_stop(now);
        if now >= self.lease_wake {
            self.tick_leases(now);
        }
    }

    fn tick_leases(&mut self, now: Uptime) {
        let beats = self.is_welcomed();
        // Heartbeats that are due soon go along, so that leases share messages.
        let soon = now.after(self.heartbeat_every / 4);
        let mut wake = Uptime::MAX;
        for (key, lease) in self.leases.iter_mut().filter(|(_, lease)| lease.is_running()) {
            if beats && !lease.heartbeat_queued {
                let has_progress = now >= lease.next_progress && lease.control.pending().0;
                if soon >= lease.next_heartbeat || has_progress {
                    lease.heartbeat_queued = true;
                    self.outgoing.push_back(Outgoing::Heartbeat(*key));
                }
            }
            if let (None, Some((stop_at, cut_at))) = (lease.cut_at, lease.silence())
                && now >= stop_at
            {
                tracing::warn!(job = %key.job(), "the server is silent; the attempt is asked to stop");
                lease.stop(StopCause::LeaseLost, cut_at);
            }
            if lease.cut_at.is_some_and(|cut_at| now >= cut_at) {
                lease.control.cut.cancel();
            }
            wake = wake.min(lease.wake(beats));
        }
        for orphan in self.orphans.values() {
            if now >= orphan.cut_at {
                orphan.control.cut.cancel();
            } else {
                wake = wake.min(orphan.cut_at);
            }
        }
        self.lease_wake = wake;
    }
}
