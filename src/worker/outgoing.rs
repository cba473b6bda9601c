//! The frames of a session, made when they are sent.

use super::{
    control::Pending,
    key::LeaseKey,
    lease::{Lease, Phase},
    session::{KEPT_MAX_BYTES, Link, Outgoing, PROGRESS_EVERY, Session, report_bytes},
};
use crate::{
    clock::Uptime,
    job::worker_limits::{FRAMES_MAX, HELLO_LEASES_MAX},
    proto::v1::{self, report::Report, worker_frame::Frame},
};

/// Byte limit of a message, which only its last frame may exceed.
const MESSAGE_MAX_BYTES: usize = 1 << 20;
/// Bytes of a frame, beside what can be large.
const FRAME_BYTES: usize = 64;
/// What `hello` says of this library.
const VERSION: &str = concat!("jobmill-rust/", env!("CARGO_PKG_VERSION"));

/// A message under construction.
#[derive(Default)]
struct Message {
    frames: Vec<v1::WorkerFrame>,
    bytes: usize,
}

impl Message {
    fn push(&mut self, frame: Frame, bytes: usize) {
        self.bytes += FRAME_BYTES + bytes;
        self.frames.push(v1::WorkerFrame { frame: Some(frame) });
    }

    fn report(&mut self, key: LeaseKey, report: Report, bytes: usize) {
        self.push(Frame::Report(v1::Report { lease: Some(key.to_wire()), report: Some(report) }), bytes);
    }

    fn is_full(&self) -> bool {
        // Room for the four frames that an end can take.
        self.frames.len() + 4 > FRAMES_MAX || self.bytes >= MESSAGE_MAX_BYTES
    }
}

impl Session {
    /// Whether there is something to send.
    pub(super) fn has_output(&self) -> bool {
        match self.link {
            Link::Away | Link::Greeted(_) => false,
            Link::Opened => true,
            Link::Welcomed | Link::Closing(_) => {
                !self.outgoing.is_empty() || (0..self.places.len()).any(|pool| self.grant(pool) > 0)
            }
        }
    }

    /// Takes all that is to be sent, as much as a message holds. Leases count from now.
    pub(super) fn take_message(&mut self, now: Uptime) -> Option<v1::WorkRequest> {
        let mut message = Message::default();
        match self.link {
            Link::Away | Link::Greeted(_) => {}
            Link::Opened => {
                self.link = Link::Greeted(now);
                message.push(Frame::Hello(self.hello()), 0);
            }
            Link::Welcomed | Link::Closing(_) => {
                while !message.is_full()
                    && let Some(next) = self.outgoing.pop_front()
                {
                    self.write(next, &mut message, now);
                }
                self.write_credits(&mut message);
            }
        }
        (!message.frames.is_empty()).then_some(v1::WorkRequest { frames: message.frames })
    }

    fn hello(&self) -> v1::Hello {
        let plan = &self.plan;
        let pools = plan.pools.iter().map(|pool| v1::WorkerPool {
            name: pool.name.clone(),
            kinds: pool.kinds.clone(),
            queues: pool.queues.clone(),
        });
        v1::Hello {
            instance: plan.instance.clone(),
            process: plan.process.clone(),
            client_version: VERSION.to_owned(),
            pools: pools.collect(),
            leases: self.leases.keys().map(|key| key.to_wire()).collect(),
            labels: plan.labels.clone(),
            namespace: String::new(),
        }
    }

    fn write(&mut self, outgoing: Outgoing, message: &mut Message, now: Uptime) {
        match outgoing {
            Outgoing::Frame(frame) => message.push(frame, 0),
            Outgoing::Received(key) => {
                // It may have been handed back since.
                if let Some(lease) = self.leases.get_mut(&key)
                    && matches!(lease.phase, Phase::Offered(_))
                {
                    lease.sent.push_back(now);
                    message.report(key, Report::Received(v1::Received {}), 0);
                }
            }
            Outgoing::Heartbeat(key) => {
                if let Some(lease) = self.leases.get_mut(&key)
                    && lease.is_running()
                {
                    lease.heartbeat_queued = false;
                    // Lines of output alone need no heartbeat.
                    let is_due = now.after(self.heartbeat_every / 4) >= lease.next_heartbeat;
                    let pending = lease.control.take_pending();
                    if write_reports(key, lease, pending, is_due, message, now) {
                        lease.next_heartbeat = now.after(self.heartbeat_every);
                    }
                    self.lease_wake = self.lease_wake.min(lease.wake(true));
                }
            }
            Outgoing::Final(key) => {
                if let Some(lease) = self.leases.get_mut(&key)
                    && let Phase::Ended(report) = &lease.phase
                {
                    let report = Report::clone(report);
                    let mut pending = lease.control.take_pending();
                    pending.progress = None;
                    // The next attempt needs the last checkpoint; progress of an ended attempt is of no use.
                    write_reports(key, lease, pending, false, message, now);
                    let bytes = report_bytes(&report);
                    message.report(key, report, bytes);
                }
            }
        }
    }

    /// Grants the credits that the server lacks.
    fn write_credits(&mut self, message: &mut Message) {
        for pool in 0..self.places.len() {
            let count = self.grant(pool);
            if count > 0 {
                self.places[pool].credits += count;
                let credit = v1::Credit { pool: self.plan.pools[pool].name.clone(), count: count as i32 };
                message.push(Frame::Credit(credit), 0);
            }
        }
    }
}

/// Writes the reports of an attempt, and a heartbeat if they need one or it is due. Returns whether there was one.
fn write_reports(
    key: LeaseKey,
    lease: &mut Lease,
    pending: Pending,
    is_due: bool,
    message: &mut Message,
    now: Uptime,
) -> bool {
    let Pending { progress, checkpoint, lines, .. } = pending;
    if !lines.is_empty() {
        let bytes = lines.iter().map(String::len).sum();
        message.report(key, Report::Output(v1::OutputLines { lines: lines.into() }), bytes);
    }
    let reports = progress.is_some() || checkpoint.is_some();
    if reports {
        lease.next_progress = now.after(PROGRESS_EVERY);
    } else if !is_due {
        return false;
    }
    let mut bytes = 0;
    let checkpoint = checkpoint.map(|checkpoint| {
        bytes = checkpoint.state.bytes().len();
        let sent = v1::Checkpoint {
            number: checkpoint.number + lease.renumbered,
            state: Some(checkpoint.state.clone()),
            commit_now: checkpoint.commit_now,
        };
        lease.unwritten = Some(checkpoint);
        sent
    });
    lease.sent.push_back(now);
    message.report(key, Report::Heartbeat(v1::Heartbeat { progress, checkpoint }), bytes);
    true
}

impl Session {
    /// Returns how many more jobs a pool may be assigned, beyond the credits that the server has: its free places, within
    /// the limits of the worker.
    fn grant(&self, pool: usize) -> usize {
        if self.stopping.is_some() || self.link != Link::Welcomed || self.kept_bytes >= KEPT_MAX_BYTES {
            return 0;
        }
        let Some(places) = self.places.get(pool) else { return 0 };
        let outstanding: usize = self.places.iter().map(|places| places.credits).sum();
        let free = self.plan.pools[pool].concurrency.saturating_sub(places.taken + places.credits);
        let listable = HELLO_LEASES_MAX.saturating_sub(self.leases.len() + outstanding);
        let left = self.plan.max_jobs.map_or(usize::MAX, |max| {
            let offered = || self.leases.values().filter(|lease| matches!(lease.phase, Phase::Offered(_)));
            let taken = self.counts.started + offered().count() as u64 + outstanding as u64;
            usize::try_from(max.saturating_sub(taken)).unwrap_or(usize::MAX)
        });
        free.min(listable).min(left)
    }
}
