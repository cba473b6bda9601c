//! The committer itself: gather, apply, deliver.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::{Interval, MissedTickBehavior},
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    Commit, ControlAnswer, Entry, Handout, Reports, Stopped, SubmitAnswer, Unwritten,
    held::{Held, TRY_EVERY},
    is_outcome,
    linger::Linger,
    locked::Locked,
    pending::{Asker, Controller, Pending, SubmitReply},
};
use crate::{
    admission::{Queues, waiters::Waiters},
    clock::{Clock, Present, Stopwatch, Uptime, Wake},
    counters::{BatchTimes, Counters, Recorder},
    job::{JobId, LeaseToken},
    store::{
        Applied, Batch, ControlDone, ControlRefusal, Obstacle, OfferRefusal, Report, Space, Store,
        StoreError, Unapplied,
    },
    watch::Hub,
};

/// So many submissions may be on their way to the committer.
const INBOX_ENTRIES: usize = 1_024;
/// All queues together have at most 100,000 slots: each can end and tell its progress without waiting.
const REPORTS_MAX: usize = 200_000;
/// A batch takes so many entries of each channel; with 1,000 jobs in each they are still one transaction.
pub(super) const ENTRIES_MAX: usize = 1_024;
/// A batch takes no more entries once it has so many jobs,
const JOBS_MAX: usize = 4_096;
/// or so many bytes.
const BYTES_MAX: u64 = 16 << 20;
/// So many of those who wait for room are offered again at a time.
const WAITERS_OFFERED_MAX: usize = 256;

/// How often the store is checked to be where it was opened.
const CHECK_EVERY: Duration = Duration::from_secs(2);

/// What a committer works with.
pub(crate) struct Committer {
    pub(crate) store: Box<dyn Store>,
    pub(crate) clock: Clock,
    pub(crate) queues: Arc<Queues>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) handouts: mpsc::Sender<Handout>,
    pub(crate) metrics: Arc<Counters>,
    /// Once cancelled, nothing more is claimed.
    pub(crate) draining: CancellationToken,
}

/// A running committer.
pub(crate) struct Committing {
    pub(crate) commit: Commit,
    pub(crate) reports: Reports,
    /// Ends after [`Commit::end`], or when the store fails.
    pub(crate) ended: oneshot::Receiver<Result<(), StoreError>>,
    /// Ends the committer where its runtime is shut down under it: handles, which may outlive that, would keep it.
    _ends_with_this: DropGuard,
}

impl Committer {
    /// Starts the thread. Many callers at once are answered from within `runtime`.
    pub(crate) fn start(self, runtime: Handle) -> Result<Committing, StoreError> {
        let (entries, entry_receiver) = mpsc::channel(INBOX_ENTRIES);
        let (reports, report_receiver) = mpsc::channel(REPORTS_MAX);
        let (end, ended) = oneshot::channel();
        let ending = CancellationToken::new();
        let inbox = Inbox { entries: entry_receiver, reports: report_receiver, ending: ending.clone() };
        let unwritten = Arc::<Unwritten>::default();
        let written = Arc::clone(&unwritten);
        let cannot_start = |source| StoreError::File {
            what: "can't start the thread that commits:",
            path: "commit".into(),
            source,
        };
        // Timers of its own: those of an embedding program's runtime panic once that is shut down.
        let own =
            tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(cannot_start)?;
        thread::Builder::new()
            .name("commit".into())
            .spawn(move || {
                let result = own.block_on(async move { Loop::new(self, runtime, written).run(inbox).await });
                let _ = end.send(result);
            })
            .map_err(cannot_start)?;
        let ends_with_this = ending.clone().drop_guard();
        let commit = Commit { entries, ending };
        let reports = Reports { reports, unwritten };
        Ok(Committing { commit, reports, ended, _ends_with_this: ends_with_this })
    }
}

pub(super) struct Inbox {
    pub(super) entries: mpsc::Receiver<Entry>,
    reports: mpsc::Receiver<Report>,
    ending: CancellationToken,
}

pub(super) struct Loop {
    recorder: Recorder,
    pub(super) committer: Committer,
    pub(super) waiters: Waiters<SubmitReply>,
    /// Answers on their way to callers,
    pub(super) answering: TaskTracker,
    /// and where they are sent from.
    pub(super) runtime: Handle,
    purges: HashMap<i64, Vec<oneshot::Sender<ControlAnswer>>>,
    held: Held,
    /// What another program's lock on the database holds up.
    pub(super) locked: Locked,
    unwritten: Arc<Unwritten>,
    linger: Linger,
    /// When the store was last checked to be where it was,
    checked: Stopwatch,
    /// and the wake-up for it. It alone is not enough: a thread that is always busy turns no timers.
    checks: Interval,
    /// While the disk takes no new jobs: when to look again whether it does.
    look_again: Option<Uptime>,
    /// Whether there is room that nobody who waits has been offered yet.
    pub(super) room: bool,
    more: bool,
    wake: Wake,
}

impl Loop {
    fn new(committer: Committer, runtime: Handle, unwritten: Arc<Unwritten>) -> Self {
        let mut checks = tokio::time::interval(CHECK_EVERY);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Loop {
            recorder: Recorder::new(Arc::clone(&committer.metrics)),
            committer,
            waiters: Waiters::default(),
            answering: TaskTracker::new(),
            runtime,
            purges: HashMap::new(),
            held: Held::default(),
            locked: Locked::default(),
            unwritten,
            checked: Stopwatch::start(),
            checks,
            linger: Linger::default(),
            look_again: None,
            room: false,
            // What was due while the server was down is promoted, and free slots are filled, by a first empty batch.
            more: true,
            wake: Wake::default(),
        }
    }

    async fn run(mut self, inbox: Inbox) -> Result<(), StoreError> {
        let ended = self.run_until_ending(inbox).await;
        self.unwritten.is_over.store(ended.is_ok(), Ordering::Relaxed);
        ended
    }

    async fn run_until_ending(&mut self, mut inbox: Inbox) -> Result<(), StoreError> {
        let mut entries = Vec::with_capacity(ENTRIES_MAX);
        let mut reports = Vec::with_capacity(ENTRIES_MAX);
        loop {
            if self.checked.elapsed() >= CHECK_EVERY {
                self.checked = Stopwatch::start();
                self.checks.reset();
                self.more |= self.committer.store.check()?;
            }
            if let Some(mut pending) = self.locked.wait(&mut inbox, &self.committer.clock).await {
                // Time has passed since it was put together.
                pending.batch.present = self.committer.clock.present();
                pending.batch.space = self.committer.store.space();
                self.let_go_of_waiters(pending.batch.present.uptime);
                self.commit(pending)?;
                // The drain tells what the lock has held up until the end.
                if inbox.ending.is_cancelled() && self.locked.give_up() {
                    return Ok(());
                }
                continue;
            }
            self.gather(&mut inbox, &mut entries, &mut reports).await;
            if inbox.ending.is_cancelled() {
                // What comes from now on is refused; what has come is done.
                inbox.entries.close();
                inbox.reports.close();
                if entries.is_empty() && reports.is_empty() {
                    self.give_up_held()?;
                    self.answering.close();
                    self.answering.wait().await;
                    return Ok(());
                }
            }
            self.step(&mut entries, &mut reports)?;
        }
    }

    /// Waits until there is something to do, and takes all that is there.
    async fn gather(&mut self, inbox: &mut Inbox, entries: &mut Vec<Entry>, reports: &mut Vec<Report>) {
        let look_again = self.look_again.filter(|_| !self.waiters.is_empty());
        let waiting = [self.waiters.next_until(), self.held.retry_at(), look_again];
        let wake = self.wake.or(Wake { wall: None, uptime: waiting.into_iter().flatten().min() });
        self.locked.take_deferred(entries);
        let work_left = self.more
            || !entries.is_empty()
            || (self.room && self.look_again.is_none() && !self.waiters.is_empty());
        if !work_left {
            tokio::select! {
                biased;
                Some(report) = inbox.reports.recv() => reports.push(report),
                Some(entry) = inbox.entries.recv() => entries.push(entry),
                () = self.committer.clock.sleep_until(wake) => {}
                () = self.committer.metrics.health.asked() => {}
                _ = self.checks.tick() => {}
                () = self.committer.draining.cancelled(), if !self.waiters.is_empty() => {}
                () = inbox.ending.cancelled() => {}
            }
        }
        let here = reports.len() + inbox.reports.len() + entries.len() + inbox.entries.len();
        if let Some(time) = self.linger.time(here) {
            // The thread has nothing else to do, and is not to be woken for each of those who come.
            thread::sleep(time);
        }
        while reports.len() < ENTRIES_MAX {
            let Ok(report) = inbox.reports.try_recv() else { break };
            reports.push(report);
        }
        let (mut jobs, mut bytes) = entries.iter().fold((0, 0), |(jobs, bytes), entry| {
            let (more_jobs, more_bytes) = entry.size();
            (jobs + more_jobs, bytes + more_bytes)
        });
        while entries.len() < ENTRIES_MAX && jobs < JOBS_MAX && bytes < BYTES_MAX {
            let Ok(entry) = inbox.entries.try_recv() else { break };
            let (more_jobs, more_bytes) = entry.size();
            (jobs, bytes) = (jobs + more_jobs, bytes + more_bytes);
            entries.push(entry);
        }
    }

    /// One batch.
    fn step(&mut self, entries: &mut Vec<Entry>, reports: &mut Vec<Report>) -> Result<(), StoreError> {
        let present = self.committer.clock.present();
        let gathered = entries.len() + reports.len();
        self.let_go_of_waiters(present.uptime);
        let space = self.committer.store.space();
        let mut batch = Batch { present, space, reports: std::mem::take(reports), ..Batch::default() };
        let mut askers = Vec::new();
        let mut controllers = Vec::new();
        let mut flushes = Vec::new();
        if space == Space::Enough {
            self.offer_to_waiters(&mut batch, &mut askers);
        }
        for entry in entries.drain(..) {
            match entry {
                Entry::Offer { mut offer, caller, wait, give_up, reply } => {
                    // Nobody is there any more to hear of it: better not to begin.
                    if reply.is_closed() {
                        continue;
                    }
                    let Some(queue) = offer.jobs.first().map(|job| Arc::clone(&job.queue)) else { continue };
                    offer.behind_waiters = self.waiters.has_any(&queue);
                    batch.offers.push(offer);
                    askers.push(Asker { queue, caller, wait, give_up, seat: None, reply });
                }
                Entry::Control { control, give_up, reply } => {
                    batch.controls.push(control);
                    controllers.push(Controller { give_up, reply });
                }
                Entry::Flush { reply } => flushes.push(reply),
            }
        }
        self.held.join(&mut batch, &mut controllers);
        self.commit(Pending { batch, askers, controllers, flushes, gathered })
    }

    /// Applies a batch, and does all that follows from it.
    fn commit(&mut self, pending: Pending) -> Result<(), StoreError> {
        let Pending { mut batch, askers, controllers, flushes, gathered } = pending;
        let (present, space) = (batch.present, batch.space);
        let now = present.uptime;
        self.committer.metrics.health.disk(space);
        self.look_again = (space != Space::Enough).then(|| now.after(TRY_EVERY));
        batch.claim = !self.committer.draining.is_cancelled();
        let reported: Vec<_> = batch.reports.iter().map(|report| (report.id, report.lease)).collect();
        let outcomes = batch.reports.iter().filter(|report| is_outcome(report)).count();
        let health = &self.committer.metrics.health;
        health.batch_begins(now);
        let stopwatch = Stopwatch::start();
        let mut applied = self.committer.store.apply(batch)?;
        let times = BatchTimes { commit: stopwatch.elapsed(), flush: applied.flush };
        health.batch_ended();
        match applied.unapplied.take().map(|unapplied| *unapplied) {
            None => {
                health.lock_is_free();
                self.recorder.batch(&applied, times, now);
                self.unwritten.were_written(outcomes);
                self.deliver(applied, askers, controllers, &reported, now);
            }
            Some(Unapplied { batch, obstacle: Obstacle::Locked }) => {
                health.lock_is_taken(now);
                self.locked.hold(Pending { batch, askers, controllers, flushes, gathered });
                return Ok(());
            }
            Some(Unapplied { batch, obstacle: Obstacle::DiskFull }) => {
                self.held.take_back(batch, controllers);
                // What is due now has been tried; a next try comes with what is held.
                (self.more, self.wake) = (false, applied.wake.still_to_come(present));
                let refused = || Ok(SubmitAnswer::Refused(OfferRefusal::DiskFull));
                self.answer_all(askers.into_iter().map(|asker| (asker.reply, refused())).collect());
            }
        }
        for reply in flushes {
            let _ = reply.send(());
        }
        self.linger.batch_ended(gathered, times);
        Ok(())
    }

    /// A last try for what waits for space: what does not fit now is lost, and its attempts count at the next start.
    fn give_up_held(&mut self) -> Result<(), StoreError> {
        let Some(retry_at) = self.held.retry_at() else { return Ok(()) };
        let present = self.committer.clock.present();
        let now = present.uptime.max(retry_at);
        let present = Present { uptime: now, ..present };
        let mut batch = Batch { present, space: Space::Full, ..Batch::default() };
        let mut controllers = Vec::new();
        self.held.join(&mut batch, &mut controllers);
        let reported: Vec<_> = batch.reports.iter().map(|report| (report.id, report.lease)).collect();
        let outcomes = batch.reports.iter().filter(|report| is_outcome(report)).count();
        let mut applied = self.committer.store.apply(batch)?;
        if applied.unapplied.take().is_some() {
            // The drain tells what stays unwritten.
            tracing::error!("what waited for space is given up");
            for controller in controllers {
                controller.refuse(ControlRefusal::DiskFull);
            }
        } else {
            self.unwritten.were_written(outcomes);
            self.deliver(applied, Vec::new(), controllers, &reported, now);
        }
        Ok(())
    }

    /// Those who have gone, and those whose patience has ended.
    fn let_go_of_waiters(&mut self, now: Uptime) {
        if self.waiters.is_empty() {
            return;
        }
        let draining = self.committer.draining.is_cancelled();
        let over = self.waiters.remove(|waiter| draining || waiter.until <= now || waiter.reply.is_closed());
        for waiter in over {
            // In a drain it would have waited on: not the queue refuses it, the server stops.
            let full = || SubmitAnswer::Full { full: waiter.full, too_many_waiters: false };
            let _ = waiter.reply.send(if draining { Err(Stopped::Refused) } else { Ok(full()) });
        }
    }

    /// Offers new room to those who have waited longest.
    fn offer_to_waiters(&mut self, batch: &mut Batch, askers: &mut Vec<Asker>) {
        if !std::mem::take(&mut self.room) {
            return;
        }
        for queue in self.waiters.queues() {
            for waiter in self.waiters.take(&queue, WAITERS_OFFERED_MAX) {
                let mut offer = waiter.offer;
                offer.behind_waiters = false;
                batch.offers.push(offer);
                askers.push(Asker {
                    queue: Arc::clone(&queue),
                    caller: waiter.seat.caller().clone(),
                    wait: Some(waiter.until),
                    give_up: waiter.until,
                    seat: Some(waiter.seat),
                    reply: waiter.reply,
                });
            }
        }
    }

    /// Everything that follows from a commit, and never happens before it.
    fn deliver(
        &mut self,
        applied: Applied,
        askers: Vec<Asker>,
        controllers: Vec<Controller>,
        reported: &[(JobId, LeaseToken)],
        now: Uptime,
    ) {
        let Applied {
            controls,
            reports,
            offers,
            claims,
            cancelling,
            changes,
            position,
            wake,
            more,
            room,
            queues,
            purged,
            unapplied: _,
            flush: _,
        } = applied;
        if let Some(queues) = queues {
            self.committer.queues.set(queues);
        }
        self.committer.hub.publish(changes, position);
        if !claims.is_empty() || !cancelling.is_empty() {
            // Each slot has at most one claim and one cancel on its way, and the channel has room for all of them.
            if let Err(error) = self.committer.handouts.try_send(Handout { claims, cancelling }) {
                tracing::error!(%error, "claims could not be handed out; the next start counts them as lost");
            }
        }
        self.answer_offers(offers, askers, now);
        for (control, Controller { reply, .. }) in controls.into_iter().zip(controllers) {
            match control {
                Ok(ControlDone::PurgeBegun(number)) => self.purges.entry(number).or_default().push(reply),
                decided => {
                    let _ = reply.send(ControlAnswer::Decided(decided));
                }
            }
        }
        for (number, deleted) in purged {
            for reply in self.purges.remove(&number).into_iter().flatten() {
                let _ = reply.send(ControlAnswer::Purged { deleted });
            }
        }
        for (result, (job, lease)) in reports.into_iter().zip(reported) {
            if let Err(refusal) = result {
                tracing::warn!(%job, lease = lease.as_i64(), %refusal, "a report came too late");
            }
        }
        self.room |= room;
        self.more = more;
        self.wake = wake;
    }
}
