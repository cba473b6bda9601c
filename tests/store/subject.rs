//! A store under test, and its crash.
//!
//! This is the only file of these tests that knows how the product takes a batch and answers it. The others use the
//! plain values of `batch.rs`.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use jobmill::{
    clock::Uptime,
    engine::{
        self, Action, AnswerSink, CalendarDone, CallerId, ControlRefusal, DemandBoard, EngineSetup, JobDone,
        KeyDone, LimitDone, OfferError, QueueCheck, QueueDone, Registered, RemoteChanges, ReplySlot,
        ReportAnswer, Reporter, ScheduleDone, Submitted, transition::Refusal,
    },
    job::{AtLeastOne, SubmitOutcome, WorkerProcess},
    settings::{QueueSettings, SettingsChange, SettingsField},
    shard::{self, Ledger},
    store::{Reader, Store, StoreError, memory::MemoryStore, sets::PurgeCounts, sqlite::SqliteStore},
};
use tempfile::TempDir;
use tokio::sync::oneshot::{self, error::TryRecvError};

use super::batch::{
    Applied, Assignment, Batch, Claim, Control, ControlDone, Offer, Receipt, Report, Setup, WorkerReport,
};

/// A store under test.
pub(crate) trait Subject {
    /// Applies a batch.
    fn apply(&mut self, batch: Batch) -> Result<Applied, StoreError>;
    /// Returns a reader of the committed state.
    fn reader(&self) -> Arc<dyn Reader>;
    /// Kills the process as `kill -9` does, and starts the next one.
    fn crash(&mut self, setup: Setup) -> Result<(), StoreError>;
    /// Returns the board for the demand of remote workers, which is another one after a crash.
    fn board(&self) -> &DemandBoard;
    /// Returns the kinds that are known from workers, as the next start would find them.
    fn kinds_of_workers(&mut self) -> Result<Vec<String>, StoreError>;
}

/// The store in memory.
pub(crate) struct Memory {
    product: Product,
    store: MemoryStore,
}

impl Memory {
    pub(crate) fn open(setup: Setup) -> Self {
        Self::of(MemoryStore::new(), setup).unwrap()
    }

    fn of(store: MemoryStore, setup: Setup) -> Result<Self, StoreError> {
        let product = Product::open(Box::new(store.share()), setup)?;
        Ok(Memory { product, store })
    }
}

impl Subject for Memory {
    fn apply(&mut self, batch: Batch) -> Result<Applied, StoreError> {
        self.product.apply(batch)
    }

    fn reader(&self) -> Arc<dyn Reader> {
        self.store.reader()
    }

    fn crash(&mut self, setup: Setup) -> Result<(), StoreError> {
        *self = Self::of(self.store.reopen(), setup)?;
        Ok(())
    }

    fn board(&self) -> &DemandBoard {
        &self.product.board
    }

    fn kinds_of_workers(&mut self) -> Result<Vec<String>, StoreError> {
        self.product.kinds_of_workers()
    }
}

/// The SQLite store in a folder of its own.
pub(crate) struct Sqlite {
    product: Product,
    reader: Arc<dyn Reader>,
    folder: TempDir,
}

impl Sqlite {
    pub(crate) fn open(setup: Setup) -> Self {
        Self::open_in(TempDir::new().unwrap(), setup).unwrap()
    }

    /// Opens the store in a folder, as the next process would.
    pub(crate) fn open_in(folder: TempDir, setup: Setup) -> Result<Self, StoreError> {
        let store = SqliteStore::open(folder.path())?;
        let reader = store.reader();
        Ok(Sqlite { product: Product::open(Box::new(store), setup)?, reader, folder })
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns a copy of the files as they are if the process dies now.
    pub(crate) fn image(&self) -> TempDir {
        image_of(self.folder.path())
    }

    /// Stops in an orderly way and starts again; returns a copy of the folder from the time between.
    pub(crate) fn copied(self, setup: Setup) -> Result<(Self, TempDir), StoreError> {
        let Sqlite { product, reader, folder } = self;
        drop((product, reader));
        let copy = TempDir::new().unwrap();
        for file in fs::read_dir(folder.path()).unwrap() {
            let file = file.unwrap();
            fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
        Ok((Self::open_in(folder, setup)?, copy))
    }

    /// Continues from a copy of the files, as the next process would.
    pub(crate) fn restart_from(&mut self, image: TempDir, setup: Setup) -> Result<(), StoreError> {
        *self = Self::open_in(image, setup)?;
        Ok(())
    }
}

/// Copies the files of an open store. Dropping the store would close it properly, which a crash does not.
///
/// The database is copied first: whatever a checkpoint writes to it meanwhile is still in the log, which is copied
/// after it.
fn image_of(folder: &Path) -> TempDir {
    let image = TempDir::new().unwrap();
    for file in ["jobmill.db", "jobmill.db-wal"] {
        fs::copy(folder.join(file), image.path().join(file)).unwrap();
    }
    image
}

impl Subject for Sqlite {
    fn apply(&mut self, batch: Batch) -> Result<Applied, StoreError> {
        self.product.apply(batch)
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::clone(&self.reader)
    }

    fn crash(&mut self, setup: Setup) -> Result<(), StoreError> {
        let image = self.image();
        self.restart_from(image, setup)
    }

    fn board(&self) -> &DemandBoard {
        &self.product.board
    }

    fn kinds_of_workers(&mut self) -> Result<Vec<String>, StoreError> {
        self.product.kinds_of_workers()
    }
}

fn product_setup(setup: Setup, demand: Arc<DemandBoard>) -> EngineSetup {
    let Setup { present, seed, served_kinds, native_kinds, declared_queues, retention, schedules, limits } =
        setup;
    let native_kinds = native_kinds.into_iter().collect();
    EngineSetup {
        present,
        seed,
        served_kinds,
        native_kinds,
        declared_queues,
        retention,
        demand,
        schedules,
        limits,
    }
}

/// The product, with the replies that are still pending.
pub(crate) struct Product {
    ledger: Ledger,
    pub(crate) board: Arc<DemandBoard>,
    answers: Arc<Answers>,
    /// The processes that have registered since the start.
    workers: HashMap<u32, Arc<WorkerProcess>>,
    waiting: Vec<Answer<Submitted, OfferError>>,
    purges: Vec<(i64, Answer<PurgeCounts, ControlRefusal>)>,
    last_purge: i64,
}

type Answer<T, E> = oneshot::Receiver<Result<T, E>>;

impl Product {
    pub(crate) fn open(store: Box<dyn Store>, setup: Setup) -> Result<Self, StoreError> {
        let board = Arc::<DemandBoard>::default();
        let ledger = Ledger::open(store, &product_setup(setup, Arc::clone(&board)))?;
        let answers = Arc::default();
        let (workers, waiting, purges) = Default::default();
        Ok(Product { ledger, board, answers, workers, waiting, purges, last_purge: 0 })
    }

    pub(crate) fn apply(&mut self, batch: Batch) -> Result<Applied, StoreError> {
        let applied = self.try_to_apply(batch)?;
        Ok(applied.expect("nothing is in the way of these stores"))
    }

    /// Applies a batch. Returns `None` if it did not fit on the disk.
    pub(crate) fn try_to_apply(&mut self, batch: Batch) -> Result<Option<Applied>, StoreError> {
        let Batch { present, controls, reports, reports_with, worker_reports, offers, claim, space } = batch;
        let (mut product, mut asked) =
            (engine::Batch { present, claim, space, ..Default::default() }, BatchReplies::default());
        for control in controls {
            product.controls.push(asked.control(control));
        }
        let reports = reports.into_iter().map(|report| (report, None)).chain(reports_with);
        for (Report { id, lease, body }, checkpoint) in reports {
            let (ask, answer) = ReplySlot::new(Uptime::MAX);
            let checkpoint = checkpoint.map(Box::new);
            let report = engine::Report::of_server(id, lease, body);
            product.reports.push(engine::Report { ask, checkpoint, ..report });
            asked.reports.push(answer);
        }
        for report in worker_reports {
            product.reports.push(self.worker_report(report));
        }
        for Offer { request, jobs, waits } in offers {
            let (ask, answer) = ReplySlot::new(Uptime::MAX);
            let jobs = AtLeastOne::collect(jobs).expect("a job in the offer");
            let wait = waits.then_some(Uptime::MAX);
            product.offers.push(engine::Offer::new(request, jobs, CallerId::default(), wait, ask));
            asked.offers.push(answer);
        }
        let mut outcome = match self.ledger.apply(product)? {
            shard::Applied::Committed { outcome, .. } => outcome,
            shard::Applied::Unapplied(_) => return Ok(None),
        };
        outcome.answer();
        let RemoteChanges { assigned, cancelling, ended, answers, superseded, checkpoints: _, forgotten: _ } =
            outcome.remote;
        for (sink, answer) in answers {
            sink.answer(answer);
        }
        let queues = match outcome.queues_changed {
            true => Some(self.ledger.store().reader().queues()?),
            false => None,
        };
        let offers_that_waited = self.waited();
        let mut applied = Applied {
            controls: Vec::new(),
            reports: asked.reports.iter_mut().map(told).collect(),
            answers: std::mem::take(&mut *self.answers.0.lock().unwrap()),
            offers: Vec::new(),
            claims: outcome.claims.into_iter().map(claim_of).collect(),
            assigned: assigned.into_iter().map(assignment_of).collect(),
            cancelling: outcome.cancelling,
            remote_cancelling: cancelling,
            remote_ended: ended,
            superseded,
            changes: outcome.changes,
            position: outcome.position,
            wake: outcome.wake,
            more: outcome.more,
            room: outcome.gained_room,
            queues,
            purged: Vec::new(),
            skipped: Vec::new(),
            offers_that_waited,
        };
        for control in asked.controls {
            applied.controls.push(self.control_done(control, &mut applied.purged, &mut applied.skipped));
        }
        for mut answer in asked.offers {
            applied.offers.push(match answer.try_recv() {
                Ok(answer) => receipt(answer),
                Err(TryRecvError::Empty) => {
                    self.waiting.push(answer);
                    Receipt::Waits
                }
                Err(TryRecvError::Closed) => panic!("an offer got no answer"),
            });
        }
        self.purges.retain_mut(|(number, answer)| match answer.try_recv() {
            Ok(done) => {
                let PurgeCounts { deleted, skipped } = done.expect("a purge that began ends");
                applied.purged.push((*number, deleted));
                applied.skipped.push((*number, skipped));
                false
            }
            Err(_) => true,
        });
        Ok(Some(applied))
    }

    fn kinds_of_workers(&mut self) -> Result<Vec<String>, StoreError> {
        let store = self.ledger.store();
        let served = store.load()?.served_kinds;
        let name = |number| store.names().kinds.get(number).expect("a kind with a number has a name");
        Ok(served.into_iter().map(|(number, _)| name(number).to_string()).collect())
    }

    fn worker_report(&mut self, report: WorkerReport) -> engine::Report {
        let WorkerReport { worker, id, lease, body, checkpoint } = report;
        let known = self.workers.get(&worker).cloned();
        let process = known.or_else(|| self.ledger.store().names().workers.get(worker));
        let unknown = || Arc::new(WorkerProcess::new(worker, "", "unknown", ""));
        engine::Report {
            from: Reporter::Worker(process.unwrap_or_else(unknown), Arc::clone(&self.answers) as Arc<_>),
            checkpoint: checkpoint.map(Box::new),
            ..engine::Report::of_server(id, lease, body)
        }
    }

    /// Returns the results of offers that had waited.
    fn waited(&mut self) -> Vec<Receipt> {
        let mut receipts = Vec::new();
        self.waiting.retain_mut(|answer| match answer.try_recv() {
            Ok(answer) => {
                receipts.push(receipt(answer));
                false
            }
            Err(_) => true,
        });
        receipts
    }

    fn control_done(
        &mut self,
        control: AskedControl,
        purged: &mut Vec<(i64, u64)>,
        skipped: &mut Vec<(i64, u64)>,
    ) -> Result<ControlDone, ControlRefusal> {
        match control {
            AskedControl::Job(mut answer) => told(&mut answer).map(|done| match done {
                JobDone { is_repeat: true, state, revision, job, .. } => {
                    ControlDone::JobRepeated { state, revision, job }
                }
                JobDone { job, .. } => ControlDone::Job(job.expect("a job that was changed is there")),
            }),
            AskedControl::Key(mut answer) => told(&mut answer).map(ControlDone::Key),
            AskedControl::Delete(mut answer) => told(&mut answer).map(|()| ControlDone::JobDeleted),
            AskedControl::Queue(mut answer) => told(&mut answer).map(|done| match done {
                QueueDone { is_repeat: true, info } => ControlDone::QueueRepeated(info),
                QueueDone { info, .. } => {
                    ControlDone::Queue(info.expect("a queue that was changed is there"))
                }
            }),
            AskedControl::DeleteQueue(mut answer) => told(&mut answer).map(|()| ControlDone::QueueDeleted),
            AskedControl::Register(mut answer) => told(&mut answer).map(|registered| {
                let worker = Arc::clone(&registered.worker);
                self.workers.insert(worker.number(), worker);
                ControlDone::Registered(registered)
            }),
            AskedControl::Schedule(mut answer) => {
                told(&mut answer).map(|done| ControlDone::Schedule(Box::new(done)))
            }
            AskedControl::Calendar(mut answer) => told(&mut answer).map(ControlDone::Calendar),
            AskedControl::Limit(mut answer) => told(&mut answer).map(ControlDone::Limit),
            AskedControl::Review(mut answer) => told(&mut answer).map(|()| ControlDone::WorkersReviewed),
            AskedControl::Purge(mut answer) => match answer.try_recv() {
                Ok(Err(refusal)) => Err(refusal),
                answered => {
                    self.last_purge += 1;
                    match answered {
                        Ok(done) => {
                            let PurgeCounts { deleted, skipped: left } = done.unwrap_or_default();
                            purged.push((self.last_purge, deleted));
                            skipped.push((self.last_purge, left));
                        }
                        Err(_) => self.purges.push((self.last_purge, answer)),
                    }
                    Ok(ControlDone::PurgeBegun(self.last_purge))
                }
            },
        }
    }
}

/// The answers to reports of remote workers since the last batch.
#[derive(Debug, Default)]
struct Answers(Mutex<Vec<ReportAnswer>>);

impl AnswerSink for Answers {
    fn answer(&self, answer: ReportAnswer) {
        self.0.lock().unwrap().push(answer);
    }
}

/// The pending replies of a batch, in its order.
#[derive(Default)]
struct BatchReplies {
    controls: Vec<AskedControl>,
    reports: Vec<Answer<(), Refusal>>,
    offers: Vec<Answer<Submitted, OfferError>>,
}

enum AskedControl {
    Job(Answer<JobDone, ControlRefusal>),
    Delete(Answer<(), ControlRefusal>),
    Key(Answer<KeyDone, ControlRefusal>),
    Queue(Answer<QueueDone, ControlRefusal>),
    DeleteQueue(Answer<(), ControlRefusal>),
    Purge(Answer<PurgeCounts, ControlRefusal>),
    Register(Answer<Registered, ControlRefusal>),
    Review(Answer<(), ControlRefusal>),
    Schedule(Answer<ScheduleDone, ControlRefusal>),
    Calendar(Answer<CalendarDone, ControlRefusal>),
    Limit(Answer<LimitDone, ControlRefusal>),
}

impl BatchReplies {
    fn ask<T>(
        &mut self,
        kind: fn(Answer<T, ControlRefusal>) -> AskedControl,
    ) -> ReplySlot<T, ControlRefusal> {
        let (ask, answer) = ReplySlot::new(Uptime::MAX);
        self.controls.push(kind(answer));
        ask
    }

    fn control(&mut self, control: Control) -> engine::Control {
        match control {
            Control::Repeatable(request, control) => {
                let mut control = self.control(*control);
                control.request = Some(request);
                control
            }
            Control::Retry { id, request } => {
                let ask = self.ask(AskedControl::Job);
                engine::Control::new(
                    request,
                    Action::Retry { id, expected_revision: None, reset: false, drop_checkpoint: false, ask },
                )
            }
            Control::OnlyRepeat(allowed, control) => {
                let mut control = self.control(*control);
                control.only_repeat = Some(QueueCheck(Box::new(move |queue| queue == allowed)));
                control
            }
            control => engine::Control::once(self.action(control, None)),
        }
    }

    fn action(&mut self, control: Control, expected_revision: Option<u64>) -> Action {
        use AskedControl::{
            Calendar, Delete, DeleteQueue, Job, Key, Limit, Purge, Queue, Register, Review, Schedule,
        };
        match control {
            Control::AtRevision(revision, control) => self.action(*control, Some(revision)),
            Control::Cancel(id) => Action::Cancel { id, expected_revision, ask: self.ask(Job) },
            Control::Retry { id, .. } => {
                let (reset, drop_checkpoint) = (false, false);
                Action::Retry { id, expected_revision, reset, drop_checkpoint, ask: self.ask(Job) }
            }
            Control::Reset(id) => {
                let (reset, drop_checkpoint) = (true, false);
                Action::Retry { id, expected_revision, reset, drop_checkpoint, ask: self.ask(Job) }
            }
            Control::RetryAnew(id) => {
                let (reset, drop_checkpoint) = (false, true);
                Action::Retry { id, expected_revision, reset, drop_checkpoint, ask: self.ask(Job) }
            }
            Control::Update(id, update) => {
                Action::Update { id, expected_revision, update, ask: self.ask(Job) }
            }
            Control::ReleaseKey(hash) => {
                Action::ReleaseKey { hash, key: "key".to_owned(), ask: self.ask(Key) }
            }
            Control::Delete(id) => {
                Action::Delete { id, expected_revision, force: false, ask: self.ask(Delete) }
            }
            Control::ForceDelete(id) => {
                Action::Delete { id, expected_revision, force: true, ask: self.ask(Delete) }
            }
            Control::CreateQueue { name, settings } => {
                Action::CreateQueue { name, settings, ask: self.ask(Queue) }
            }
            Control::UpdateQueue { name, settings } => {
                Action::UpdateQueue { name, change: whole(settings), etag: None, ask: self.ask(Queue) }
            }
            Control::UpdateQueueOf { name, settings, etag } => {
                let (change, etag) = (whole(settings), Some(etag));
                Action::UpdateQueue { name, change, etag, ask: self.ask(Queue) }
            }
            Control::DeleteQueue { name } => Action::DeleteQueue { name, ask: self.ask(DeleteQueue) },
            Control::SetPaused { name, paused } => Action::SetPaused { name, paused, ask: self.ask(Queue) },
            Control::Purge { name } => Action::Purge { name, ask: self.ask(Purge) },
            Control::RegisterWorker(hello) => {
                Action::RegisterWorker { hello: Box::new(hello), ask: self.ask(Register) }
            }
            Control::Schedule { name, action } => Action::Schedule { name, action, ask: self.ask(Schedule) },
            Control::Calendar { name, action } => Action::Calendar { name, action, ask: self.ask(Calendar) },
            Control::Limit { name, action } => Action::Limit { name, action, ask: self.ask(Limit) },
            Control::ReviewWorkers => Action::ReviewWorkers { ask: self.ask(Review) },
            Control::Repeatable(..) | Control::OnlyRepeat(..) => panic!("it is not part of anything else"),
        }
    }
}

/// Returns a change of all settings.
fn whole(settings: QueueSettings) -> SettingsChange {
    SettingsChange { fields: SettingsField::ALL.map(|(_, field)| field).into(), to: settings }
}

/// Returns the reply, which must have arrived.
fn told<T, E>(answer: &mut Answer<T, E>) -> Result<T, E> {
    answer.try_recv().expect("an answer after the commit")
}

fn receipt(answer: Result<Submitted, OfferError>) -> Receipt {
    match answer {
        Ok(Submitted::Accepted { jobs }) => {
            if jobs.iter().any(|one| one.outcome != SubmitOutcome::Created) {
                return Receipt::Met { jobs: jobs.into_iter().collect() };
            }
            Receipt::Created { jobs: jobs.into_iter().map(|one| one.job.expect("a new job")).collect() }
        }
        Ok(Submitted::Seen { job: Some(first), ids, .. }) => {
            Receipt::Seen { first, count: ids.items() as u32 }
        }
        Ok(Submitted::Seen { job: None, live, .. }) => Receipt::Gone { live },
        Err(OfferError::Full { full, .. }) => Receipt::Full(full),
        Err(OfferError::Refused(refusal)) => Receipt::Refused(refusal),
        Err(OfferError::Stopped(stopped)) => panic!("nothing stops here: {stopped}"),
    }
}

fn claim_of(claim: engine::Claim) -> Claim {
    let engine::Claim { job, lease, payload, ready } = claim;
    Claim { job, lease, payload, ready }
}

fn assignment_of((grant, claim): (engine::Grant, engine::Claim)) -> Assignment {
    Assignment { pool: grant.pool, worker: grant.worker.number(), claim: claim_of(claim) }
}
