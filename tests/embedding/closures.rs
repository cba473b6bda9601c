//! Closures as jobs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jobmill::{
    client::Client,
    engine::{AdmissionError, Stopped},
    execute::{Attempt, HandlerError},
    handle::{Handle, JobEvent, JobRequest, SpawnRequest, SubmitError},
    job::{FailureReason, JobId, Output, StateName, names::CLOSURE_KIND},
    proto::v1,
    serve::Server,
    settings::{LimitKey, LimitRule, LimitSpec, QueueSettings, Settings, StoreSettings, WhenFull},
    watch::WatchError,
};
use tokio::sync::{Notify, oneshot, watch};

use super::{builder_with, occupy, one_slot, soon, start, stop, text_output};

/// A counter of dropped closures, whether they ran or not.
#[derive(Clone)]
struct Drops(watch::Sender<usize>);

/// A value that a closure captures; its drop is counted.
struct Counted(watch::Sender<usize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count += 1);
    }
}

impl Drops {
    fn new() -> Self {
        Drops(watch::Sender::new(0))
    }

    fn counted(&self) -> Counted {
        Counted(self.0.clone())
    }

    fn now(&self) -> usize {
        *self.0.borrow()
    }

    async fn reach(&self, count: usize) {
        soon(self.0.subscribe().wait_for(|now| *now >= count)).await.unwrap();
        assert_eq!(self.now(), count);
    }
}

#[tokio::test]
async fn a_closure_returns_its_result_and_is_dropped() {
    let server = start().await;
    let (drops, handle) = (Drops::new(), server.handle());
    let counted = drops.counted();
    let request = SpawnRequest::on("default").label("part", "7").timeout(Duration::from_secs(5)).priority(3);
    let work = async move |attempt: Attempt| {
        let _counted = counted;
        assert_eq!((attempt.number(), attempt.payload().len()), (1, 0));
        attempt.progress(0.5, "half", "way");
        Ok(text_output("done"))
    };
    let spawned = soon(handle.spawn(request, work)).await.unwrap();
    assert_eq!(soon(spawned.outcome()).await.unwrap().into_result().unwrap(), text_output("done"));
    drops.reach(1).await;
    let spec = &spawned.job().unwrap().spec;
    assert_eq!((spec.kind.as_str(), spec.priority), (CLOSURE_KIND, 3));
    assert_eq!(spec.attempt_timeout, Duration::from_secs(5));
    assert_eq!(spawned.job().unwrap().max_attempts, 1);
    stop(server).await;
}

#[tokio::test]
async fn a_closure_that_fails_or_panics_is_not_run_again() {
    let server = start().await;
    let handle = server.handle();
    let failing =
        soon(handle.spawn("default", async |_| Err(HandlerError::retryable("no luck")))).await.unwrap();
    let error = soon(failing.outcome()).await.unwrap().into_result().unwrap_err();
    assert_eq!(error.failure.unwrap().message, "no luck");
    let panicking = soon(handle.spawn("default", async |_| panic!("oh"))).await.unwrap();
    let outcome = soon(panicking.outcome()).await.unwrap();
    assert_eq!((outcome.job.state.name(), outcome.job.attempt), (StateName::Failed, 1));
    assert_eq!(outcome.into_result().unwrap_err().failure.unwrap().reason, FailureReason::Panic);
    stop(server).await;
}

#[tokio::test]
async fn a_running_closure_sees_its_cancel() {
    let server = start().await;
    let handle = server.handle();
    let started = Arc::new(Notify::new());
    let work = {
        let started = Arc::clone(&started);
        async move |attempt: Attempt| {
            started.notify_one();
            attempt.cancelled().await;
            Err(HandlerError::permanent("stopped half-way"))
        }
    };
    let spawned = soon(handle.spawn("default", work)).await.unwrap();
    soon(started.notified()).await;
    assert_eq!(soon(handle.cancel(spawned.id())).await.unwrap().state.name(), StateName::Cancelling);
    let error = soon(spawned.outcome()).await.unwrap().into_result().unwrap_err();
    assert_eq!(error.state, StateName::Cancelled);
    assert_eq!(error.failure.unwrap().message, "stopped half-way");
    stop(server).await;
}

/// Submits a counted closure that waits behind other jobs.
async fn wait_in_line(handle: &Handle, drops: &Drops) -> JobId {
    let counted = drops.counted();
    let work = async move |_| {
        drop(counted);
        Ok(Output::default())
    };
    soon(handle.spawn("small", work)).await.unwrap().id()
}

#[tokio::test]
async fn closures_that_never_start_are_dropped_when_cancelled_deleted_or_purged() {
    let mut settings = Settings::new(StoreSettings::Memory);
    settings.listen.set_port(0);
    settings.queues.insert("small".to_owned(), one_slot());
    let server = Server::builder(settings).start().await.unwrap();
    let (drops, handle) = (Drops::new(), server.handle());
    let client = Client::connect(&server.local_addr().unwrap().to_string()).await.unwrap();
    let (_, release) = occupy(&handle).await;

    let cancelled = wait_in_line(&handle, &drops).await;
    let deleted = wait_in_line(&handle, &drops).await;
    for _ in 0..3 {
        wait_in_line(&handle, &drops).await;
    }
    assert_eq!(drops.now(), 0);
    soon(handle.cancel(cancelled)).await.unwrap();
    drops.reach(1).await;
    soon(client.delete_job(deleted.to_string())).await.unwrap();
    drops.reach(2).await;
    let purge = v1::PurgeQueueRequest { name: "small".into(), ..Default::default() };
    let mut queues = v1::queue_service_client::QueueServiceClient::connect(format!(
        "http://{}",
        server.local_addr().unwrap()
    ))
    .await
    .unwrap();
    soon(queues.purge_queue(purge)).await.unwrap();
    drops.reach(5).await;

    // The same job once more, after all closures were dropped. A retry of a cancelled job has no closure.
    let retried = wait_in_line(&handle, &drops).await;
    soon(handle.cancel(retried)).await.unwrap();
    drops.reach(6).await;
    soon(client.retry_job(retried.to_string())).await.unwrap();
    drop(release);
    let error = soon(handle.watch(retried).outcome()).await.unwrap().into_result().unwrap_err();
    assert_eq!(error.failure.unwrap().reason, FailureReason::Lost);
    drop(client);
    drop(queues);
    stop(server).await;
}

/// A value that panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("it went off");
    }
}

#[tokio::test]
async fn a_closure_that_panics_when_it_is_dropped_keeps_no_other_from_being_dropped() {
    let server = builder_with(StoreSettings::Memory, one_slot()).start().await.unwrap();
    let (drops, handle) = (Drops::new(), server.handle());
    let (first, release) = occupy(&handle).await;
    let bomb = Bomb;
    let armed = async move |_| {
        let _bomb = bomb;
        Ok(Output::default())
    };
    let armed = soon(handle.spawn("small", armed)).await.unwrap();
    soon(handle.cancel(armed.id())).await.unwrap();
    let waiting = wait_in_line(&handle, &drops).await;
    soon(handle.cancel(waiting)).await.unwrap();
    drops.reach(1).await;
    drop(release);
    soon(handle.watch(first).outcome()).await.unwrap();
    stop(server).await;
}

#[tokio::test]
async fn a_refused_closure_is_dropped_and_so_is_one_whose_caller_gave_up() {
    let full = QueueSettings { max_jobs: 1, ..one_slot() };
    let server = builder_with(StoreSettings::Memory, full).start().await.unwrap();
    let (drops, handle) = (Drops::new(), server.handle());
    let (first, release) = occupy(&handle).await;

    let spawn = |request: SpawnRequest| {
        let (counted, handle) = (drops.counted(), handle.clone());
        async move {
            let work = async move |_| {
                drop(counted);
                Ok(Output::default())
            };
            handle.spawn(request, work).await
        }
    };
    let refused = soon(spawn(SpawnRequest::on("small").when_full(WhenFull::Reject))).await.unwrap_err();
    assert!(matches!(refused, SubmitError::Full { too_many_waiters: false, .. }), "{refused}");
    drops.reach(1).await;
    let nowhere = soon(spawn("nowhere".into())).await.unwrap_err();
    assert!(matches!(nowhere, SubmitError::NotAdmitted(AdmissionError::QueueNotFound(_))), "{nowhere}");
    drops.reach(2).await;
    let invalid = soon(spawn(SpawnRequest::on("small").priority(101))).await.unwrap_err();
    assert_eq!(invalid.to_string(), "priority: is 101; it must be from -100 to 100");
    drops.reach(3).await;
    let impatient =
        soon(spawn(SpawnRequest::on("small").max_wait(Duration::from_millis(1)))).await.unwrap_err();
    assert!(matches!(impatient, SubmitError::Full { .. }), "{impatient}");
    drops.reach(4).await;

    let mut gives_up = Box::pin(spawn("small".into()));
    assert!(futures_util::poll!(&mut gives_up).is_pending());
    drop(gives_up);
    drops.reach(5).await;
    drop(release);
    soon(handle.watch(first).outcome()).await.unwrap();
    assert_eq!(drops.now(), 5);
    stop(server).await;
}

#[tokio::test]
async fn after_a_restart_jobs_go_on_and_closures_are_lost() {
    let folder = tempfile::tempdir().unwrap();
    let store = || StoreSettings::Folder(folder.path().into());
    let server = builder_with(store(), one_slot()).start().await.unwrap();
    let (drops, handle) = (Drops::new(), server.handle());
    let counted = drops.counted();
    let (started, has_started) = oneshot::channel();
    let endless = async move |_| {
        let _counted = counted;
        let _ = started.send(());
        std::future::pending().await
    };
    let running = soon(handle.spawn("small", endless)).await.unwrap();
    soon(has_started).await.unwrap();
    let waiting = wait_in_line(&handle, &drops).await;
    let kept =
        soon(handle.submit(JobRequest::new("shout").queue("small").payload("still here"))).await.unwrap();
    let mut watch = handle.watch(kept.id());
    assert!(matches!(soon(watch.next()).await, Some(Ok(JobEvent::Snapshot(_)))));
    // A copy of the files as a kill at this moment would leave them; nothing is under way, so they can be copied.
    let killed = tempfile::tempdir().unwrap();
    let mut files: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    for file in files.iter().filter(|file| file.is_file()) {
        std::fs::copy(file, killed.path().join(file.file_name().unwrap())).unwrap();
    }
    server.stopper().force();
    soon(server.finished()).await.unwrap();

    // The server drops the values of closures when it ends, although a handle is still alive. The handle's watch ends
    // with `Closing`.
    drops.reach(2).await;
    assert!(matches!(soon(watch.next()).await, Some(Err(WatchError::Closing))));
    let late = soon(handle.submit(JobRequest::new("shout"))).await.unwrap_err();
    assert!(matches!(late, SubmitError::Stopped(Stopped::Refused)), "{late}");
    let late = soon(handle.spawn("small", async |_| Ok(Output::default()))).await.unwrap_err();
    assert!(matches!(late, SubmitError::Stopped(Stopped::Refused)), "{late}");

    for store in [store(), StoreSettings::Folder(killed.path().into())] {
        let server = builder_with(store, one_slot()).start().await.unwrap();
        let handle = server.handle();
        for id in [running.id(), waiting] {
            let outcome = soon(handle.watch(id).outcome()).await.unwrap();
            assert_eq!((outcome.job.state.name(), outcome.job.attempt), (StateName::Failed, 1));
            assert_eq!(outcome.into_result().unwrap_err().failure.unwrap().reason, FailureReason::Lost);
        }
        let outcome = soon(handle.watch(kept.id()).outcome()).await.unwrap();
        assert_eq!(outcome.into_result().unwrap(), text_output("STILL HERE"));
        stop(server).await;
    }
    assert_eq!(drops.now(), 2);
}

#[tokio::test]
async fn a_drain_lets_closures_end_and_asks_those_that_do_not() {
    let server = builder_with(StoreSettings::Memory, one_slot()).start().await.unwrap();
    let (drops, handle) = (Drops::new(), server.handle());
    let (_, release) = occupy(&handle).await;
    wait_in_line(&handle, &drops).await;
    let (told, was_told) = oneshot::channel();
    let (counted, started) = (drops.counted(), Arc::new(Notify::new()));
    let slow = {
        let started = Arc::clone(&started);
        async move |attempt: Attempt| {
            let _counted = counted;
            started.notify_one();
            attempt.cancelled().await;
            let _ = told.send(());
            Ok(Output::default())
        }
    };
    soon(handle.spawn("default", slow)).await.unwrap();
    soon(started.notified()).await;

    server.stopper().drain();
    let late = soon(handle.spawn("small", async |_| Ok(Output::default()))).await.unwrap_err();
    assert!(matches!(late, SubmitError::Stopped(Stopped::Refused)), "{late}");
    drop(release);
    soon(was_told).await.expect("the closure sees its token before the drain's deadline");
    soon(server.finished()).await.unwrap();
    // Two closures: the slow one, and the one that never started.
    drops.reach(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_closures_run_at_once_than_a_limit_allows() {
    const TENANTS: usize = 3;
    const MAX: usize = 2;
    let mut settings = Settings::new(StoreSettings::Memory);
    settings.queues.insert("small".to_owned(), QueueSettings { consumers: 20, ..QueueSettings::default() });
    let spec = LimitSpec::new(LimitRule::Running(MAX as u32)).by(LimitKey::Label("tenant".into()));
    settings.job_limits.insert("tenants".to_owned(), spec);
    let server = Server::builder(settings).without_listener().start().await.unwrap();
    let handle = server.handle();
    let running: Arc<[AtomicUsize; TENANTS]> = Arc::default();
    let largest = Arc::new(AtomicUsize::new(0));
    let (go, may_go) = watch::channel(false);
    let mut spawned = Vec::new();
    for n in 0..60 {
        let (running, largest, tenant) = (Arc::clone(&running), Arc::clone(&largest), n % TENANTS);
        let mut may_go = may_go.clone();
        let work = async move |_| {
            let now = running[tenant].fetch_add(1, Ordering::SeqCst) + 1;
            largest.fetch_max(now, Ordering::SeqCst);
            let _ = may_go.wait_for(|go| *go).await;
            // Others have a chance to start meanwhile.
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            running[tenant].fetch_sub(1, Ordering::SeqCst);
            Ok(Output::default())
        };
        let request = SpawnRequest::on("small").label("tenant", tenant.to_string());
        spawned.push(soon(handle.spawn(request, work)).await.unwrap());
    }
    go.send_replace(true);
    for closure in &spawned {
        soon(closure.outcome()).await.unwrap().into_result().unwrap();
    }
    assert_eq!(largest.load(Ordering::SeqCst), MAX);
    stop(server).await;
}
