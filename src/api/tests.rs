//! Calls whose client disconnects: a call dropped at any await point leaves nothing behind but committed jobs, and a
//! repeat leads to exactly one job.

use std::{
    pin::pin,
    sync::{Arc, mpsc as blocking},
    task::Poll,
    time::Duration,
};

use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    caller::Caller,
    core::Core,
    job_queue::JobQueueApi,
    outgoing::{self, ResponseBudget},
    rpcs,
};
use crate::{
    access::{Access, Subject},
    admission::Admission,
    audit::Audit,
    clock::{Clock, ManualClock, Timestamp},
    counters::{Counters, Health},
    engine::EngineSetup,
    intake::Intake,
    proto::v1::{self, job_queue_server::JobQueue},
    settings::{KindDefaults, QueueSettings, Retention, TracesSettings, WorkerSettings},
    shard::{Committing, Parts},
    store::{
        Names, Reader, Store, StoreError,
        memory::MemoryStore,
        sets::{Committed, Loaded, ReadResults, ReadSet, WriteSet},
    },
    traces::Traces,
    watch::TokenIssuer,
    workers::{Roster, Workers},
};

const QUEUE: &str = "default";
/// Test timeout, longer than any machine needs.
const PATIENCE: Duration = Duration::from_secs(30);
/// Number of waits after which an endless call is dropped.
const WAITS_MAX: usize = 12;

/// The services of a server without a port and without dispatch.
struct Bench {
    api: JobQueueApi,
    committing: Committing,
}

/// A store that commits each batch only when the test allows it, except the one at its start.
struct Held {
    store: MemoryStore,
    has_started: bool,
    /// Counter of received batches.
    came: Arc<Semaphore>,
    /// Each permit lets one batch go on; once closed, all go on.
    turns: blocking::Receiver<()>,
}

impl Store for Held {
    fn names(&self) -> Arc<Names> {
        self.store.names()
    }

    fn load(&mut self) -> Result<Loaded, StoreError> {
        self.store.load()
    }

    fn fetch(&mut self, wants: &ReadSet) -> Result<ReadResults, StoreError> {
        if std::mem::replace(&mut self.has_started, true) {
            self.came.add_permits(1);
            let _ = self.turns.recv();
        }
        self.store.fetch(wants)
    }

    fn write(&mut self, writes: &WriteSet) -> Result<Committed, StoreError> {
        self.store.write(writes)
    }

    fn reader(&self) -> Arc<dyn Reader> {
        self.store.reader()
    }
}

/// Control over the batches of a held store.
struct Turns {
    came: Arc<Semaphore>,
    turns: blocking::SyncSender<()>,
}

impl Turns {
    /// Waits for the next batch.
    async fn batch(&self) {
        tokio::time::timeout(PATIENCE, self.came.acquire()).await.expect("a batch in time").unwrap().forget();
    }

    fn go_on(&self) {
        self.turns.send(()).unwrap();
    }
}

impl Bench {
    fn new(max_jobs: u64) -> Self {
        Bench::with_store(max_jobs, |store| Box::new(store))
    }

    /// A bench whose store is held.
    fn held() -> (Self, Turns) {
        let came = Arc::new(Semaphore::new(0));
        let (turns, receiver) = blocking::sync_channel(10);
        let store = |store| -> Box<dyn Store> {
            Box::new(Held { store, has_started: false, came: Arc::clone(&came), turns: receiver })
        };
        (Bench::with_store(1_000, store), Turns { came, turns })
    }

    fn with_store(max_jobs: u64, around: impl FnOnce(MemoryStore) -> Box<dyn Store>) -> Self {
        let clock = Clock::Manual(ManualClock::new(Timestamp::from_micros(1_800_000_000_000_000)));
        let queue = QueueSettings { max_jobs, consumers: 0, ..QueueSettings::default() };
        let setup = EngineSetup {
            present: clock.present(),
            seed: 7,
            served_kinds: vec!["echo".to_owned()],
            native_kinds: Default::default(),
            declared_queues: [(QUEUE.to_owned(), queue)].into(),
            retention: Retention::default(),
            demand: Arc::default(),
            limits: std::collections::BTreeMap::new(),
            schedules: crate::engine::ScheduleSetup::default(),
        };
        let store = MemoryStore::new();
        let identity = store.reader().identity();
        let draining = CancellationToken::new();
        let counters = Arc::new(Counters::new(["echo"], Health::new(draining.clone())).unwrap());
        let settings = WorkerSettings::default();
        let roster = Arc::new(Roster::new(settings, clock.clone(), Arc::clone(&counters.workers)));
        let parts = Parts {
            remote: Arc::clone(&roster) as Arc<_>,
            store: around(store),
            setup,
            clock: clock.clone(),
            counters: Arc::clone(&counters),
            draining: draining.clone(),
        };
        let committing = parts.start(tokio::runtime::Handle::current()).unwrap();
        let shard = committing.shard.clone();
        let kinds = [("echo".to_owned(), KindDefaults::default())];
        let core = Core {
            intake: Intake {
                admission: Arc::new(Admission::new(
                    Arc::clone(&shard.queues),
                    kinds,
                    ["echo".to_owned()].into(),
                    Arc::clone(&shard.worker_kinds),
                )),
                shard: shard.clone(),
                clock: clock.clone(),
                traces: Traces::start(&TracesSettings::default()).unwrap(),
            },
            shard,
            issuer: Arc::new(TokenIssuer::new(identity)),
            clock,
            outgoing: ResponseBudget::new(PATIENCE, Arc::clone(&counters)),
            counters,
            workers: Workers::new(roster, committing.shard.clone(), committing.reports.clone()),
            draining,
        };
        Bench { api: JobQueueApi::new(core), committing }
    }

    fn is_unwatched(&self) -> bool {
        self.api.core.shard.hub.is_unwatched()
    }

    fn waiters(&self) -> u64 {
        self.api.core.shard.queues.get(QUEUE).unwrap().waiters()
    }

    /// Waits until `count` callers wait for room.
    async fn waits(&self, count: u64) {
        let counted = async {
            while self.waiters() != count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, counted).await.expect("counted in time");
    }

    /// Returns the number of jobs, once all received work is done.
    async fn jobs(&self) -> i64 {
        self.api.core.shard.flush().await;
        self.jobs_now().await
    }

    async fn jobs_now(&self) -> i64 {
        let call = self.request("jobmill.v1.JobQueue/CountJobs", v1::CountJobsRequest::default());
        self.api.count_jobs(call).await.unwrap().into_inner().total
    }

    /// Creates a call as the guard passes it on.
    fn request<T>(&self, rpc: &str, message: T) -> Request<T> {
        let (rpc, needs) = rpcs::find(&format!("/{rpc}")).unwrap();
        let caller = Caller {
            access: Arc::new(Access::new(None, Clock::System)),
            audit: Arc::new(Audit::off()),
            unwritten: Default::default(),
            subject: Subject::anyone(None),
            peer: None,
            rpc,
            needs,
        };
        let mut request = Request::new(message);
        request.extensions_mut().insert(Arc::new(caller));
        request
    }

    async fn submit(&self, request_id: String) -> Result<(), Status> {
        let message = v1::SubmitRequest { job: Some(job()), request_id, ..Default::default() };
        self.api.submit(self.request("jobmill.v1.JobQueue/Submit", message)).await.map(drop)
    }

    async fn submit_batch(&self, request_id: String) -> Result<(), Status> {
        let message = v1::SubmitBatchRequest { jobs: vec![job(); 3], request_id, ..Default::default() };
        self.api.submit_batch(self.request("jobmill.v1.JobQueue/SubmitBatch", message)).await.map(drop)
    }

    async fn submit_and_watch(&self, request_id: String) -> Result<(), Status> {
        let message = v1::SubmitAndWatchRequest { job: Some(job()), request_id, ..Default::default() };
        read(self.api.submit_and_watch(self.request("jobmill.v1.JobQueue/SubmitAndWatch", message)).await)
            .await
    }

    async fn watch(&self, message: v1::WatchStatusRequest) -> Result<(), Status> {
        read(self.api.watch_status(self.request("jobmill.v1.JobQueue/WatchStatus", message)).await).await
    }

    async fn ends(self) {
        self.committing.shard.end();
        self.committing.ended.await.unwrap().unwrap();
    }
}

fn job() -> v1::JobSpec {
    v1::JobSpec { queue: QUEUE.to_owned(), kind: "echo".to_owned(), ..Default::default() }
}

/// Reads a call's response to its end.
async fn read<T>(answer: Result<Response<T>, Status>) -> Result<(), Status> {
    let (_, _, mut extensions) = answer?.into_parts();
    let mut body = outgoing::take(&mut extensions).unwrap();
    while let Some(frame) = body.frame().await {
        if let Ok(trailers) = frame?.into_trailers() {
            assert_eq!(trailers["grpc-status"], "0");
        }
    }
    Ok(())
}

/// Drops a call after `wait` waits; returns whether it had ended before.
async fn dropped_at_wait<T>(wait: usize, call: impl Future<Output = Result<T, Status>>) -> bool {
    let mut call = pin!(call);
    let mut waits = 0;
    let ended = std::future::poll_fn(|context| match call.as_mut().poll(context) {
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
        Poll::Pending if waits == wait => Poll::Ready(None),
        Poll::Pending => {
            waits += 1;
            Poll::Pending
        }
    });
    // Without a time limit: if nothing else wakes a watch, the paused clock advances to its next bookmark.
    ended.await.map(|answer| drop(answer.unwrap())).is_some()
}

/// Polls a call once; the call must not end.
macro_rules! begin {
    ($call:expr) => {{
        let mut call = Box::pin($call);
        let first = std::future::poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await;
        assert!(first.is_pending(), "it ended at once");
        call
    }};
}

#[tokio::test]
async fn a_submission_dropped_before_during_or_after_its_commit_makes_all_of_its_jobs_or_none() {
    for size in [1, 3] {
        let (bench, turns) = Bench::held();
        let submit = async |request_id: &str| match size {
            1 => bench.submit(request_id.to_owned()).await,
            _ => bench.submit_batch(request_id.to_owned()).await,
        };
        // The first batch, which is empty, is in progress.
        turns.batch().await;
        drop(begin!(submit("before")));
        turns.go_on();
        turns.batch().await;
        assert_eq!(bench.jobs_now().await, 0, "the caller had disconnected");

        let call = begin!(submit("during"));
        turns.go_on();
        turns.batch().await;
        drop(call);
        let flushed = begin!(bench.api.core.shard.flush());
        turns.go_on();
        turns.batch().await;
        assert_eq!(bench.jobs_now().await, size);

        let call = begin!(submit("after"));
        turns.go_on();
        flushed.await;
        turns.batch().await;
        turns.go_on();
        let flushed = begin!(bench.api.core.shard.flush());
        turns.batch().await;
        assert_eq!(bench.jobs_now().await, 2 * size);
        drop(call);

        // From here on the store is not held.
        drop(turns);
        flushed.await;
        for request_id in ["before", "during", "after"] {
            submit(request_id).await.unwrap();
        }
        assert_eq!((bench.jobs().await, bench.waiters()), (3 * size, 0));
        bench.ends().await;
    }
}

#[tokio::test]
async fn a_submission_dropped_while_it_waits_for_room_is_let_go_of() {
    let bench = Bench::new(1);
    bench.submit(String::new()).await.unwrap();
    for batch in [false, true] {
        let request_id = format!("batch {batch}");
        {
            let waiting = async {
                match batch {
                    false => bench.submit(request_id).await,
                    true => bench.submit_and_watch(request_id).await,
                }
            };
            tokio::select! {
                answer = waiting => panic!("{answer:?} although there is no room"),
                () = bench.waits(1) => {}
            }
        }
        bench.waits(0).await;
        // The committer releases the dropped caller's jobs when the next request arrives.
        assert_eq!(bench.jobs().await, 1);
    }
    bench.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_dropped_wherever_it_waits_leaves_nothing_behind() {
    let bench = Bench::new(1_000);
    bench.submit(String::new()).await.unwrap();
    let ids: Vec<_> = {
        let call = bench.request("jobmill.v1.JobQueue/ListJobs", v1::ListJobsRequest::default());
        bench.api.list_jobs(call).await.unwrap().into_inner().jobs.into_iter().map(|job| job.id).collect()
    };
    let full = v1::JobView::Full as i32;
    let by_ids = v1::WatchStatusRequest { ids, view: full, ..Default::default() };
    let in_queue = v1::JobFilter { queues: vec![QUEUE.to_owned()], ..Default::default() };
    let by_filter =
        |filter| v1::WatchStatusRequest { filter: Some(filter), view: full, ..Default::default() };
    for request in [by_ids, by_filter(in_queue), by_filter(v1::JobFilter::default())] {
        for wait in 0..WAITS_MAX {
            let ended = dropped_at_wait(wait, bench.watch(request.clone())).await;
            assert!(!ended, "a watch of a job that waits has no end");
            assert!(bench.is_unwatched(), "at wait {wait} of {request:?}");
        }
    }
    bench.ends().await;
}

#[tokio::test(start_paused = true)]
async fn a_submission_with_a_watch_dropped_wherever_it_waits_leaves_one_job_or_none_and_no_watch() {
    let bench = Bench::new(1_000);
    for wait in 0..WAITS_MAX {
        let request_id = format!("wait {wait}");
        let ended = dropped_at_wait(wait, bench.submit_and_watch(request_id.clone())).await;
        assert!(!ended, "the job does not end");
        assert!(bench.is_unwatched(), "at wait {wait}");
        let before = wait as i64;
        assert!((before..=before + 1).contains(&bench.jobs().await), "at wait {wait}");
        bench.submit(request_id).await.unwrap();
        assert_eq!(bench.jobs().await, before + 1, "at wait {wait}");
    }
    bench.ends().await;
}
