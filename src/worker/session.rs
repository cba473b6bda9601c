//! The worker's side of the protocol, as a state machine: frames and events go in with the present time, frames and
//! attempts to start come out. It does no I/O, and reads no clock.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    control::{Control, Event},
    handlers::{Registered, Start, released},
    health::{Counts, Numbers},
    key::LeaseKey,
    lease::{Lease, Phase},
    mailbox::Mailbox,
    plan::Plan,
};
use crate::{
    client::from_wire_duration,
    clock::Uptime,
    execute::StopCause,
    proto::v1::{self, lease_notice::Notice, report, server_frame, worker_frame},
};

/// Byte limit of the final reports that wait for their answers. No more jobs are taken above it.
pub(super) const KEPT_MAX_BYTES: usize = 64 << 20;
/// Time limit from a call to `welcome`.
pub(super) const HELLO_MAX: Duration = Duration::from_secs(10);
/// The factor from the interval of pings to the time without an answer after which the connection counts as broken.
const MISSED_PINGS: u32 = 3;
/// Shortest interval between two reports of one attempt's progress.
pub(super) const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// The state of the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Link {
    /// There is no stream.
    Away,
    /// `hello` is to be sent.
    Opened,
    /// `hello` was sent at this time.
    Greeted(Uptime),
    /// `welcome` has arrived.
    Welcomed,
    /// The server ends the stream.
    Closing(Duration),
}

/// A frame to be sent. Its content is read when it is sent.
pub(super) enum Outgoing {
    /// `received` for a lease.
    Received(LeaseKey),
    /// A heartbeat, with what there is to report.
    Heartbeat(LeaseKey),
    /// The final report of a lease.
    Final(LeaseKey),
    /// A frame about no lease.
    Frame(worker_frame::Frame),
}

/// The places of a pool.
#[derive(Default)]
pub(super) struct Places {
    /// Jobs that are assigned, or whose handlers run.
    pub(super) taken: usize,
    /// Credits that the server has and has not used.
    pub(super) credits: usize,
}

/// A handler that runs without a lease.
pub(super) struct Orphan {
    pub(super) control: Arc<Control>,
    pub(super) cut_at: Uptime,
}

/// The progress of the end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stopping {
    /// When the attempts that still run are asked to stop. `None` once they are.
    pub(super) cancel_at: Option<Uptime>,
    /// When the worker ends, whatever is left.
    pub(super) give_up_at: Uptime,
}

/// The state of a worker.
pub(super) struct Session {
    pub(super) plan: Plan,
    pub(super) mailbox: Arc<Mailbox<Event>>,
    pub(super) link: Link,
    pub(super) leases: HashMap<LeaseKey, Lease>,
    pub(super) orphans: HashMap<LeaseKey, Orphan>,
    pub(super) places: Vec<Places>,
    pub(super) outgoing: VecDeque<Outgoing>,
    /// Attempts to be started by the caller.
    pub(super) starts: Vec<Start>,
    /// The number of the final reports that wait for their answers, and their bytes.
    pub(super) kept: usize,
    pub(super) kept_bytes: usize,
    pub(super) heartbeat_every: Duration,
    pub(super) ping_every: Duration,
    pub(super) next_ping: Uptime,
    pub(super) pings: i64,
    /// When the server last answered a ping or a heartbeat.
    pub(super) answered: Option<Uptime>,
    /// When a lease is next due for something; never later than it really is.
    pub(super) lease_wake: Uptime,
    pub(super) idle_since: Option<Uptime>,
    pub(super) stopping: Option<Stopping>,
    pub(super) counts: Counts,
}

impl Session {
    pub(super) fn new(plan: Plan, mailbox: Arc<Mailbox<Event>>) -> Self {
        let places = plan.pools.iter().map(|_| Places::default()).collect();
        Session {
            plan,
            mailbox,
            link: Link::Away,
            leases: HashMap::new(),
            orphans: HashMap::new(),
            places,
            outgoing: VecDeque::new(),
            starts: Vec::new(),
            kept: 0,
            kept_bytes: 0,
            heartbeat_every: Duration::from_secs(10),
            ping_every: Duration::from_secs(10),
            next_ping: Uptime::MAX,
            pings: 0,
            answered: None,
            lease_wake: Uptime::MAX,
            idle_since: None,
            stopping: None,
            counts: Counts::default(),
        }
    }

    /// A stream is about to be opened.
    pub(super) fn opened(&mut self) {
        self.disconnected();
        self.link = Link::Opened;
    }

    /// The stream is gone. Assignments that were not confirmed never were: their jobs go back uncounted.
    pub(super) fn disconnected(&mut self) {
        self.link = Link::Away;
        self.outgoing.clear();
        for places in &mut self.places {
            places.credits = 0;
        }
        let places = &mut self.places;
        self.leases.retain(|_, lease| {
            lease.sent.clear();
            lease.heartbeat_queued = false;
            if let Some(checkpoint) = lease.unwritten.take() {
                lease.renumbered += 1;
                lease.control.put_back(checkpoint);
            }
            let stays = !matches!(lease.phase, Phase::Offered(_));
            if !stays {
                places[lease.control.pool].taken -= 1;
            }
            stays
        });
    }

    /// Whether the server has gone silent, so that the stream is to be given up.
    pub(super) fn is_broken(&self, now: Uptime) -> bool {
        self.silent_at().is_some_and(|at| now >= at)
    }

    /// When the stream is to be given up, unless the server answers.
    pub(super) fn silent_at(&self) -> Option<Uptime> {
        match self.link {
            Link::Away | Link::Opened => None,
            Link::Greeted(sent) => Some(sent.after(HELLO_MAX)),
            Link::Welcomed | Link::Closing(_) => Some(self.answered?.after(self.ping_every * MISSED_PINGS)),
        }
    }

    /// Returns the numbers for health pages.
    pub(super) fn numbers(&self) -> Numbers {
        Numbers {
            connected: self.is_welcomed(),
            draining: self.stopping.is_some(),
            answered: self.answered,
            ping_every: self.ping_every,
            running: self.places.iter().map(|places| places.taken).sum(),
            unreported: self.kept,
            counts: self.counts,
        }
    }

    pub(super) fn is_welcomed(&self) -> bool {
        matches!(self.link, Link::Welcomed | Link::Closing(_))
    }

    /// Takes a frame of the server.
    pub(super) fn receive(&mut self, frame: v1::ServerFrame, now: Uptime) {
        match frame.frame {
            Some(server_frame::Frame::Welcome(welcome)) => self.welcomed(welcome, now),
            Some(server_frame::Frame::Assignment(assignment)) => self.assigned(assignment, now),
            Some(server_frame::Frame::Notice(notice)) => self.noticed(notice, now),
            Some(server_frame::Frame::Drain(drain)) => {
                let within = drain.within.as_ref().map(from_wire_duration);
                tracing::info!(?within, "the server asks this worker to end");
                self.drain(within, now);
            }
            Some(server_frame::Frame::Pong(_)) => self.answered = Some(now),
            Some(server_frame::Frame::Closing(closing)) => {
                tracing::info!(reason = closing.reason, "the server ends the stream");
                let after = closing.come_back_in.as_ref().map(from_wire_duration).unwrap_or_default();
                self.link = Link::Closing(after);
            }
            // A later version of the protocol may have more frames.
            None => {}
        }
    }

    fn welcomed(&mut self, welcome: v1::Welcome, now: Uptime) {
        let Link::Greeted(hello_sent) = self.link else { return };
        self.link = Link::Welcomed;
        self.answered = Some(now);
        let or = |duration: Option<prost_types::Duration>, default| {
            duration.as_ref().map(from_wire_duration).filter(|given| !given.is_zero()).unwrap_or(default)
        };
        self.heartbeat_every = or(welcome.heartbeat_every, self.heartbeat_every);
        self.ping_every = or(welcome.ping_every, self.ping_every);
        self.next_ping = now.after(self.ping_every);
        self.idle_since = Some(now);
        for notice in welcome.leases {
            let Some(key) = LeaseKey::of(notice.lease.as_ref()) else { continue };
            if let Some(lease) = self.leases.get_mut(&key) {
                // The answer counts from when `hello` was sent.
                lease.sent.push_back(hello_sent);
            }
            self.noticed(notice, now);
        }
        if self.stopping.is_some() {
            self.outgoing.push_back(Outgoing::Frame(worker_frame::Frame::Draining(v1::Draining {})));
        }
        let next_heartbeat = hello_sent.after(self.heartbeat_every);
        for (key, lease) in &mut self.leases {
            match lease.phase {
                Phase::Ended(_) => self.outgoing.push_back(Outgoing::Final(*key)),
                Phase::Running => {
                    lease.next_heartbeat = next_heartbeat;
                    // What there is to report has waited long enough.
                    lease.next_progress = Uptime::default();
                }
                Phase::Offered(_) => {}
            }
        }
        self.lease_wake = now;
        tracing::info!(leases = self.leases.len(), "connected");
    }

    fn assigned(&mut self, assignment: v1::Assignment, now: Uptime) {
        if !self.is_welcomed() {
            return;
        }
        self.idle_since = None;
        if let Some(pool) = self.plan.pools.iter().position(|pool| pool.name == assignment.pool) {
            let places = &mut self.places[pool];
            if places.credits == 0 {
                tracing::warn!(pool = assignment.pool, "the server assigned a job without a credit");
            }
            places.credits = places.credits.saturating_sub(1);
        }
        let Some(key) = LeaseKey::of(assignment.lease.as_ref()) else {
            // Not even a report can name it: the server takes it back by itself.
            tracing::error!("the server assigned a job whose id this version can't read; update this worker");
            return;
        };
        let kind = assignment.job.as_ref().map(v1::Job::kind).unwrap_or_default();
        let Some(registered) = self.plan.handlers.get(kind).map(Arc::clone) else {
            return self.hand_back(key, "this worker does not run the kind", now);
        };
        if self.stopping.is_some() {
            return self.hand_back(key, "the worker is shutting down", now);
        }
        if self.leases.contains_key(&key) {
            return tracing::warn!(job = %key.job(), "the server assigned a job twice under one lease");
        }
        self.places[registered.pool].taken += 1;
        let control = Control::new(key, registered.pool, Arc::clone(&self.mailbox));
        let Registered { grace, stops_on_silence, .. } = *registered;
        let start = Start { id: key.job(), assignment, registered, control: Arc::clone(&control) };
        let lease = Lease::new(Phase::Offered(Box::new(start)), control, grace, stops_on_silence);
        self.leases.insert(key, lease);
        self.outgoing.push_back(Outgoing::Received(key));
    }

    /// Returns an assignment that finds no place here.
    fn hand_back(&mut self, key: LeaseKey, reason: &str, now: Uptime) {
        let control = Control::new(key, 0, Arc::clone(&self.mailbox));
        let lease = Lease::new(Phase::Running, control, Duration::ZERO, false);
        self.leases.insert(key, lease);
        self.end(key, Box::new(released(reason, true, None)), now);
    }

    /// Returns an assignment that has not started.
    pub(super) fn release(&mut self, key: LeaseKey, reason: &str, now: Uptime) {
        if let Some(lease) = self.leases.get(&key) {
            self.places[lease.control.pool].taken -= 1;
            self.end(key, Box::new(released(reason, true, None)), now);
        }
    }

    /// Keeps a final report, and queues it.
    pub(super) fn end(&mut self, key: LeaseKey, report: Box<report::Report>, now: Uptime) {
        let Some(lease) = self.leases.get_mut(&key) else { return };
        self.counts.ended(&report);
        self.kept += 1;
        self.kept_bytes += report_bytes(&report);
        lease.phase = Phase::Ended(report);
        lease.cut_at = None;
        if self.is_welcomed() {
            self.outgoing.push_back(Outgoing::Final(key));
        }
        self.idle_since = Some(now);
    }

    /// Forgets a lease.
    pub(super) fn remove(&mut self, key: LeaseKey) -> Option<Lease> {
        let lease = self.leases.remove(&key)?;
        if let Phase::Ended(report) = &lease.phase {
            self.kept -= 1;
            self.kept_bytes -= report_bytes(report);
        }
        Some(lease)
    }

    fn noticed(&mut self, notice: v1::LeaseNotice, now: Uptime) {
        let Some(key) = LeaseKey::of(notice.lease.as_ref()) else { return };
        let Some(lease) = self.leases.get_mut(&key) else { return };
        match notice.notice {
            Some(Notice::Held(held)) => {
                self.answered = Some(now);
                let duration = held.duration.as_ref().map(from_wire_duration).unwrap_or_default();
                let sent = lease.sent.front().copied().unwrap_or(now);
                lease.renew(duration);
                match std::mem::replace(&mut lease.phase, Phase::Running) {
                    Phase::Offered(start) => {
                        lease.next_heartbeat = sent.after(self.heartbeat_every);
                        self.lease_wake = self.lease_wake.min(lease.wake(true));
                        self.counts.started += 1;
                        self.starts.push(*start);
                    }
                    other @ (Phase::Running | Phase::Ended(_)) => {
                        lease.phase = other;
                        self.lease_wake = self.lease_wake.min(lease.wake(true));
                    }
                }
            }
            Some(Notice::Cancel(cancel)) => self.cancel(key, cancel, now),
            Some(Notice::Refused(error)) => self.refused(key, &error, now),
            Some(Notice::Ended(_)) => self.ended(key, now),
            Some(Notice::CheckpointCommitted(written)) => {
                let number = written.number.saturating_sub(lease.renumbered);
                lease.unwritten.take_if(|checkpoint| checkpoint.number <= number);
                lease.control.written(number);
            }
            None => {}
        }
    }

    fn cancel(&mut self, key: LeaseKey, cancel: v1::CancelRequested, now: Uptime) {
        let Some(lease) = self.leases.get_mut(&key) else { return };
        lease.sent.clear();
        match lease.phase {
            Phase::Offered(_) => self.release(key, "the job was cancelled before its attempt started", now),
            // Its end is on its way.
            Phase::Ended(_) => {}
            Phase::Running => {
                self.answered = Some(now);
                if lease.control.cause().is_some() {
                    return;
                }
                let cause = match cancel.cause() {
                    v1::CancelCause::Timeout => StopCause::Timeout,
                    v1::CancelCause::Client | v1::CancelCause::Unspecified => StopCause::Client,
                };
                let given = cancel.grace.as_ref().map_or(lease.grace, from_wire_duration);
                lease.stop(cause, now.after(lease.grace.min(given)));
                self.lease_wake = self.lease_wake.min(lease.wake(true));
            }
        }
    }

    fn refused(&mut self, key: LeaseKey, error: &v1::ItemError, now: Uptime) {
        if error.reason == "LEASE_LOST" {
            return self.lose(key, now);
        }
        let Some(lease) = self.leases.get_mut(&key) else { return };
        tracing::warn!(job = %key.job(), reason = error.reason, "the server refused a report: {}", error.message);
        lease.sent.pop_front();
        match &lease.phase {
            Phase::Offered(_) => self.lose(key, now),
            Phase::Running => {}
            Phase::Ended(report) if matches!(**report, report::Report::Completed(_)) => {
                // The result can't be taken as it is, and another try would not change that.
                let failed = v1::Failed {
                    message: format!("the server refused the result: {}", error.message),
                    retryable: Some(false),
                    ..v1::Failed::default()
                };
                self.kept -= 1;
                self.kept_bytes -= report_bytes(report);
                self.counts.succeeded -= 1;
                self.end(key, Box::new(report::Report::Failed(failed)), now);
            }
            Phase::Ended(_) => self.lose(key, now),
        }
    }

    /// The lease is over, other than by its attempt's report. What runs is asked to stop, and its end is not reported.
    pub(super) fn lose(&mut self, key: LeaseKey, now: Uptime) {
        let Some(lease) = self.remove(key) else { return };
        match lease.phase {
            Phase::Offered(_) => self.places[lease.control.pool].taken -= 1,
            Phase::Running => {
                self.counts.lost += 1;
                tracing::warn!(job = %key.job(), "the lease is lost; the attempt is asked to stop");
                lease.control.stop(StopCause::LeaseLost);
                lease.control.lost();
                let cut_at = lease.cut_at.unwrap_or(Uptime::MAX).min(now.after(lease.grace));
                self.orphans.insert(key, Orphan { control: lease.control, cut_at });
                self.lease_wake = self.lease_wake.min(cut_at);
            }
            Phase::Ended(_) => {
                self.counts.lost += 1;
                tracing::warn!(job = %key.job(), "the lease was lost before its end was reported");
            }
        }
        self.idle_since = Some(now);
    }

    /// The server has written an end.
    fn ended(&mut self, key: LeaseKey, now: Uptime) {
        self.answered = Some(now);
        match self.leases.get(&key).map(|lease| &lease.phase) {
            Some(Phase::Ended(_)) => drop(self.remove(key)),
            // The lease was ended by a report that this process does not know of.
            Some(Phase::Running | Phase::Offered(_)) => self.lose(key, now),
            None => {}
        }
    }

    /// Takes an event of the worker's own process.
    pub(super) fn event(&mut self, event: Event, now: Uptime) {
        match event {
            Event::Ended { key, pool, report } => {
                self.places[pool].taken -= 1;
                if self.orphans.remove(&key).is_some() {
                    self.idle_since = Some(now);
                } else {
                    self.end(key, report, now);
                }
            }
            Event::Reports(key) => {
                let welcomed = self.is_welcomed();
                let Some(lease) = self.leases.get_mut(&key).filter(|lease| lease.is_running()) else {
                    return;
                };
                let (_, urgent) = lease.control.pending();
                if welcomed && !lease.heartbeat_queued && (urgent || now >= lease.next_progress) {
                    lease.heartbeat_queued = true;
                    self.outgoing.push_back(Outgoing::Heartbeat(key));
                }
                self.lease_wake = self.lease_wake.min(lease.wake(welcomed));
            }
            Event::Drain => self.drain(None, now),
            Event::Force => self.force(now),
        }
    }
}

/// Bytes that a report takes, of what can be large.
pub(super) fn report_bytes(report: &report::Report) -> usize {
    const FIXED_BYTES: usize = 128;
    let large = match report {
        report::Report::Completed(completed) => {
            completed.result.as_ref().map_or(0, |result| result.bytes().len())
        }
        report::Report::Failed(failed) => failed.message.len(),
        report::Report::Released(released) => released.reason.len(),
        report::Report::Received(_)
        | report::Report::Heartbeat(_)
        | report::Report::Snoozed(_)
        | report::Report::Output(_) => 0,
    };
    FIXED_BYTES + large
}
