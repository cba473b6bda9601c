//! The committer's loop: gather input, apply a batch, deliver the outcome.

use std::{
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
    Dispatches, RemoteLeases, Shard,
    disk_full::{DiskFullBacklog, TRY_EVERY},
    inbox::{ENTRIES_MAX, INBOX_ENTRIES, Inbox, InboxEntry, REMOTE_REPORTS_MAX, REPORTS_MAX},
    ledger::{Applied, Ledger, StoreObstacle, Unapplied},
    linger::Linger,
    locked::LockedBacklog,
    pending::PendingBatch,
    reports::{Reports, Unwritten, is_outcome},
};
use crate::{
    clock::{Clock, ClockReading, Stopwatch, Uptime, WakeTime},
    counters::{BatchTimes, Counters, Recorder},
    engine::{Batch, ControlRefusal, DemandBoard, Departures, EngineSetup, OfferRefusal, Outcome, Reply, Report},
    store::{Reads, Space, Store, StoreError},
    watch::Hub,
};

/// Interval of the check that the store's files are still the ones that were opened.
const CHECK_EVERY: Duration = Duration::from_secs(2);
/// Limit of the replies that the committer's thread sends itself. More are sent from within the runtime.
const ANSWERED_HERE_MAX: usize = 4;
/// Capacity of the channel to dispatch: at most one claim and one cancel for each slot.
const DISPATCHES_MAX: usize = 200_000;

/// The parts that a shard is built from.
pub(crate) struct Parts {
    pub(crate) store: Box<dyn Store>,
    pub(crate) setup: EngineSetup,
    pub(crate) clock: Clock,
    pub(crate) counters: Arc<Counters>,
    /// Cancelled when the drain begins: no more jobs are claimed.
    pub(crate) draining: CancellationToken,
    /// Keeper of the leases of remote workers.
    pub(crate) remote: Arc<dyn RemoteLeases>,
}

/// A running shard.
pub(crate) struct Committing {
    pub(crate) shard: Shard,
    pub(crate) reports: Reports,
    /// Attempts to start and to cancel.
    pub(crate) dispatches: mpsc::Receiver<Dispatches>,
    /// The committer's result, after [`Shard::end`] or a failure of the store.
    pub(crate) ended: oneshot::Receiver<Result<(), StoreError>>,
    /// Ends the committer when its runtime is shut down, although handles of the shard may outlive that.
    pub(crate) ends_with_this: DropGuard,
}

impl Parts {
    /// Takes over the store and starts the committer's thread. Large numbers of replies are sent from within `runtime`.
    ///
    /// # Errors
    /// When the store can't be recovered, or the thread can't be started.
    pub(crate) fn start(self, runtime: Handle) -> Result<Committing, StoreError> {
        let Parts { store, setup, clock, counters, draining, remote } = self;
        let mut ledger = Ledger::open(store, &setup)?;
        let (entries, entry_receiver) = mpsc::channel(INBOX_ENTRIES);
        let (reports, report_receiver) = mpsc::channel(REPORTS_MAX);
        let (remote_sender, remote_receiver) = mpsc::channel(REMOTE_REPORTS_MAX);
        let (checkpoint_sender, checkpoint_receiver) = mpsc::channel(REMOTE_REPORTS_MAX);
        let (dispatch_sender, dispatches) = mpsc::channel(DISPATCHES_MAX);
        let (end, ended) = oneshot::channel();
        let ending = CancellationToken::new();
        let from_workers = [remote_receiver, checkpoint_receiver];
        let inbox = Inbox::new(entry_receiver, report_receiver, from_workers, ending.clone());
        remote.inherit(ledger.engine().remote_jobs());
        let unwritten = Arc::<Unwritten>::default();
        let shard = Shard {
            queues: Arc::clone(ledger.engine().queues()),
            hub: Arc::new(Hub::new(ledger.engine().position())),
            reads: Reads::new(ledger.store().reader()),
            departures: Arc::clone(ledger.engine().departures()),
            demand: Arc::clone(ledger.engine().demand_board()),
            schedule_feed: Arc::clone(ledger.engine().schedule_feed()),
            limits: Arc::clone(ledger.engine().limit_board()),
            worker_kinds: Arc::clone(ledger.engine().worker_kinds()),
            entries,
            ending: ending.clone(),
        };
        let committer = Committer {
            recorder: Recorder::new(Arc::clone(&counters)),
            departures: Arc::clone(&shard.departures),
            demand: Arc::clone(&shard.demand),
            remote,
            hub: Arc::clone(&shard.hub),
            ledger,
            clock,
            counters,
            draining,
            dispatches: dispatch_sender,
            answering: TaskTracker::new(),
            runtime,
            held: DiskFullBacklog::default(),
            locked: LockedBacklog::default(),
            unwritten: Arc::clone(&unwritten),
            linger: Linger::default(),
            look_again: None,
            // A first, empty batch promotes jobs that became due during the downtime, and fills free slots.
            more: true,
            letting_go: false,
            wake: WakeTime::default(),
        };
        committer.spawn(inbox, end)?;
        let ends_with_this = ending.drop_guard();
        let reports = Reports { reports, remote: remote_sender, checkpoints: checkpoint_sender, unwritten };
        Ok(Committing { shard, reports, dispatches, ended, ends_with_this })
    }
}

/// State of the committer's thread.
struct Committer {
    ledger: Ledger,
    clock: Clock,
    hub: Arc<Hub>,
    dispatches: mpsc::Sender<Dispatches>,
    counters: Arc<Counters>,
    draining: CancellationToken,
    recorder: Recorder,
    departures: Arc<Departures>,
    demand: Arc<DemandBoard>,
    remote: Arc<dyn RemoteLeases>,
    /// Tasks that send replies.
    answering: TaskTracker,
    /// Runtime of these tasks.
    runtime: Handle,
    held: DiskFullBacklog,
    /// Input that waits for another program's lock on the database.
    locked: LockedBacklog,
    unwritten: Arc<Unwritten>,
    linger: Linger,
    /// Next check of the disk space, while there is too little for new jobs.
    look_again: Option<Uptime>,
    more: bool,
    /// Whether waiting offers are left to remove.
    letting_go: bool,
    wake: WakeTime,
}

/// Schedule of the check of the store's files. A timer alone is not enough, because a loop that never waits polls none.
struct Checks {
    last: Stopwatch,
    timer: Interval,
}

impl Committer {
    fn spawn(mut self, inbox: Inbox, end: oneshot::Sender<Result<(), StoreError>>) -> Result<(), StoreError> {
        let cannot_start = |source| StoreError::File {
            what: "can't start the commit thread:",
            path: "commit".into(),
            source,
        };
        // A runtime of its own, because timers of an embedding program's runtime panic once that is shut down.
        let own =
            tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(cannot_start)?;
        thread::Builder::new()
            .name("commit".into())
            .spawn(move || {
                let ended = own.block_on(async {
                    let ended = self.run(inbox).await;
                    self.unwritten.is_over.store(ended.is_ok(), Ordering::Relaxed);
                    ended
                });
                // Closes the store before the end is reported, so that it can be opened again then.
                drop(self);
                let _ = end.send(ended);
            })
            .map_err(cannot_start)?;
        Ok(())
    }

    async fn run(&mut self, mut inbox: Inbox) -> Result<(), StoreError> {
        let mut timer = tokio::time::interval(CHECK_EVERY);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut checks = Checks { last: Stopwatch::start(), timer };
        let mut entries = Vec::with_capacity(ENTRIES_MAX);
        let mut reports = Vec::with_capacity(ENTRIES_MAX);
        loop {
            if checks.last.elapsed() >= CHECK_EVERY {
                checks.last = Stopwatch::start();
                checks.timer.reset();
                self.ledger.store().check()?;
                self.more |= self.ledger.store().has_unreadable();
            }
            if let Some(mut pending) = self.locked.wait(&mut inbox, &self.clock, self.ledger.engine()).await {
                // Time has passed since the batch was put together.
                pending.batch.present = self.clock.present();
                pending.batch.space = self.ledger.store().space();
                self.let_go_of_waiters(pending.batch.present.uptime);
                self.commit(pending)?;
                // The drain logs the outcomes that the lock has kept from being written.
                if inbox.ending.is_cancelled() && self.locked.give_up(self.ledger.engine()) {
                    return Ok(());
                }
                continue;
            }
            self.gather(&mut inbox, &mut checks, &mut entries, &mut reports).await;
            if inbox.ending.is_cancelled() {
                // New input is refused from now on; pending input is finished.
                inbox.close();
                if entries.is_empty() && reports.is_empty() && !self.letting_go {
                    self.give_up_held()?;
                    self.answering.close();
                    self.answering.wait().await;
                    return Ok(());
                }
            }
            self.step(&mut entries, &mut reports)?;
        }
    }

    /// Waits until there is work, and takes the pending input.
    async fn gather(
        &mut self,
        inbox: &mut Inbox,
        checks: &mut Checks,
        entries: &mut Vec<InboxEntry>,
        reports: &mut Vec<Report>,
    ) {
        let engine = self.ledger.engine();
        let (has_waiters, can_offer) = (engine.has_waiters(), engine.can_offer_again());
        let look_again = self.look_again.filter(|_| has_waiters);
        let waiting = [engine.next_deadline(), self.held.retry_at(), look_again];
        let wake = self.wake.or(WakeTime { wall: None, uptime: waiting.into_iter().flatten().min() });
        self.locked.take_deferred(entries);
        let work_left =
            self.more || self.letting_go || !entries.is_empty() || (can_offer && self.look_again.is_none());
        if !work_left {
            let callers_first = inbox.callers_first();
            tokio::select! {
                biased;
                Some(report) = inbox.reports.recv(), if !callers_first => reports.push(report),
                Some(report) = inbox.remote.recv(), if !callers_first => reports.push(report),
                Some(report) = inbox.checkpoints.recv(), if !callers_first => reports.push(report),
                () = self.demand.told() => {}
                Some(entry) = inbox.entries.recv() => entries.push(entry),
                () = self.clock.sleep_until(wake) => {}
                () = self.counters.health.asked() => {}
                _ = checks.timer.tick() => {}
                () = self.departures.told(), if has_waiters => {}
                () = self.draining.cancelled(), if has_waiters => {}
                () = inbox.ending.cancelled() => {}
            }
        }
        let here = reports.len() + entries.len() + inbox.len();
        if let Some(time) = self.linger.time(here) {
            // Blocks the thread, which has nothing else to do, so that it is not woken for each arrival.
            thread::sleep(time);
        }
        inbox.take(entries, reports);
    }

    /// Puts together a batch and commits it.
    fn step(&mut self, entries: &mut Vec<InboxEntry>, reports: &mut Vec<Report>) -> Result<(), StoreError> {
        let present = self.clock.present();
        let gathered = entries.len() + reports.len();
        self.let_go_of_waiters(present.uptime);
        let space = self.ledger.store().space();
        let mut batch = Batch { present, space, reports: std::mem::take(reports), ..Batch::default() };
        let mut flushes = Vec::new();
        for entry in entries.drain(..) {
            match entry {
                // The caller has disconnected; skip its offer.
                InboxEntry::Offer(offer) if offer.ask.is_gone() => {}
                InboxEntry::Offer(offer) => batch.offers.push(offer),
                InboxEntry::Control(control) => batch.controls.push(control),
                InboxEntry::Flush(reply) => flushes.push(reply),
            }
        }
        self.held.join(&mut batch);
        self.commit(PendingBatch { batch, flushes, gathered })
    }

    /// Applies a batch, and delivers its outcome or keeps it for another try.
    fn commit(&mut self, pending: PendingBatch) -> Result<(), StoreError> {
        let PendingBatch { mut batch, flushes, gathered } = pending;
        let (present, space) = (batch.present, batch.space);
        let now = present.uptime;
        self.counters.health.disk(space);
        self.look_again = (space != Space::Enough).then(|| now.after(TRY_EVERY));
        batch.claim = !self.draining.is_cancelled();
        let outcomes = batch.reports.iter().filter(|report| is_outcome(report)).count();
        self.counters.health.batch_begins(now);
        let stopwatch = Stopwatch::start();
        let applied = self.ledger.apply(batch)?;
        let commit = stopwatch.elapsed();
        self.counters.health.batch_ended();
        let times = match applied {
            Applied::Committed { outcome, flush } => {
                let times = BatchTimes { commit, flush };
                self.counters.health.lock_is_free();
                self.recorder.batch(&outcome, times, now);
                self.unwritten.were_written(outcomes);
                self.deliver(outcome);
                times
            }
            Applied::Unapplied(Unapplied { batch, obstacle: StoreObstacle::Locked }) => {
                self.counters.health.lock_is_taken(now);
                self.locked.hold(PendingBatch { batch, flushes, gathered });
                return Ok(());
            }
            Applied::Unapplied(Unapplied { batch, obstacle: StoreObstacle::DiskFull }) => {
                self.held.take_back(batch);
                // The present work has been tried; the next try comes with the held input.
                (self.more, self.wake) = (false, self.ledger.engine().wake().still_to_come(present));
                BatchTimes { commit, flush: Duration::ZERO }
            }
        };
        for reply in flushes {
            let _ = reply.send(());
        }
        self.linger.batch_ended(gathered, times);
        Ok(())
    }

    /// Tries a last time to write the input that waits for disk space. Reports that do not fit are lost, and the next
    /// start counts their attempts as lost.
    fn give_up_held(&mut self) -> Result<(), StoreError> {
        let Some(retry_at) = self.held.retry_at() else { return Ok(()) };
        let present = self.clock.present();
        let present = ClockReading { uptime: present.uptime.max(retry_at), ..present };
        let mut batch = Batch { present, space: Space::Full, ..Batch::default() };
        self.held.join(&mut batch);
        let outcomes = batch.reports.iter().filter(|report| is_outcome(report)).count();
        match self.ledger.apply(batch)? {
            Applied::Committed { outcome, .. } => {
                self.unwritten.were_written(outcomes);
                self.deliver(outcome);
            }
            Applied::Unapplied(Unapplied { mut batch, .. }) => {
                // The drain logs the number of unwritten outcomes.
                tracing::error!("reports and calls that waited for disk space are dropped");
                for control in &mut batch.controls {
                    control.action.ask_mut().refuse(ControlRefusal::DiskFull);
                }
                let repeats = std::mem::take(&mut batch.offers);
                self.ledger.engine().refuse_offers(repeats, &OfferRefusal::DiskFull);
            }
        }
        Ok(())
    }

    /// Removes waiting offers of disconnected callers and offers past their deadline, up to a batch's limit.
    fn let_go_of_waiters(&mut self, now: Uptime) {
        self.letting_go = self.ledger.engine().let_go_of_waiters(now, self.draining.is_cancelled());
    }

    /// Publishes changes, dispatches claims and sends replies, which never happens before the commit.
    fn deliver(&mut self, outcome: Outcome) {
        let Outcome { claims, cancelling, remote, changes, position, wake, more, late_reports, answers, .. } =
            outcome;
        self.hub.publish(changes, position);
        if !remote.is_empty() {
            self.remote.apply(remote);
        }
        if !claims.is_empty() || !cancelling.is_empty() {
            // Each slot has at most one claim and one cancel in the channel, which has room for all of them.
            if let Err(error) = self.dispatches.try_send(Dispatches { claims, cancelling }) {
                tracing::error!(%error, "claims could not be dispatched; the next start counts them as lost");
            }
        }
        self.answer_all(answers);
        for (job, lease, refusal) in late_reports {
            tracing::warn!(%job, lease = lease.as_i64(), %refusal, "a late report was refused");
        }
        self.more = more;
        self.wake = wake;
    }

    /// Sends replies. Many are sent from within the runtime, where waking a caller is an entry in a worker's local
    /// queue. From this thread each would lock the queue that all workers share, and might have to wake one.
    fn answer_all(&self, answers: Vec<Reply>) {
        if answers.len() <= ANSWERED_HERE_MAX {
            answers.into_iter().for_each(Reply::send);
        } else {
            let answering = async move { answers.into_iter().for_each(Reply::send) };
            self.answering.spawn_on(answering, &self.runtime);
        }
    }
}
