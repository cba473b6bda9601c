//! The server inside another program: handlers, closures and watches of one process, and what is left after its end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jobmill::{
    admission::AdmissionError,
    client::Client,
    config::{KindDefaults, QueueSettings, Settings, StoreSettings, WhenFull, names::CLOSURE_KIND},
    execute::{Attempt, HandlerError},
    handle::{Handle, JobEvent, JobRequest, OutcomeError, SpawnRequest, SubmitError},
    job::{FailureReason, JobId, Output, StateName},
    proto::v1,
    serve::{ServeError, Server, ServerBuilder},
    watch::WatchError,
};
use tokio::sync::{Notify, Semaphore, oneshot, watch};

/// Long enough for a busy machine; nothing here waits so long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

fn builder(store: StoreSettings) -> ServerBuilder {
    builder_with(store, QueueSettings::default())
}

/// With one more queue, `small`.
fn builder_with(store: StoreSettings, small: QueueSettings) -> ServerBuilder {
    let mut settings = Settings::new(store);
    settings.drain_timeout = Duration::from_secs(1);
    settings.queues.insert("small".to_owned(), small);
    Server::builder(settings).handler("shout", KindDefaults::default(), shout).without_listener()
}

async fn start() -> Server {
    builder(StoreSettings::Memory).start().await.unwrap()
}

async fn stop(server: Server) {
    server.stopper().drain();
    soon(server.finished()).await.unwrap();
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("it hangs")
}

async fn shout(attempt: Attempt) -> Result<Output, HandlerError> {
    let text = std::str::from_utf8(attempt.payload())?;
    if text.is_empty() {
        return Err(HandlerError::permanent("nothing to shout").with_code("EMPTY"));
    }
    attempt.output_line("shouting");
    Ok(text_output(&text.to_uppercase()))
}

fn text_output(text: &str) -> Output {
    Output { bytes: text.to_owned().into(), media_type: "text/plain".into() }
}

/// Counts how many of its closures are gone, whether they ran or not.
#[derive(Clone)]
struct Drops(watch::Sender<usize>);

/// What a closure holds to be counted.
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

/// Takes the one slot of the queue `small` until the sender is used or dropped.
async fn occupy(handle: &Handle) -> (JobId, oneshot::Sender<()>) {
    let (release, released) = oneshot::channel();
    let (started, has_started) = oneshot::channel();
    let work = async move |_| {
        let _ = started.send(());
        let _ = released.await;
        Ok(Output::default())
    };
    let job = soon(handle.spawn("small", work)).await.unwrap();
    soon(has_started).await.unwrap();
    (job.id(), release)
}

fn one_slot() -> QueueSettings {
    QueueSettings { consumers: 1, ..QueueSettings::default() }
}

#[tokio::test]
async fn a_job_is_submitted_watched_and_its_result_read_in_process() {
    let server = start().await;
    let handle = server.handle();
    let request =
        JobRequest::new("shout").payload("hello").payload_type("text/plain").label("customer", "acme");
    let submitted = soon(handle.submit(request)).await.unwrap();
    assert!(submitted.created());

    let outcome = soon(submitted.outcome()).await.unwrap();
    assert_eq!(outcome.job.state.name(), StateName::Succeeded);
    assert_eq!(outcome.into_result().unwrap(), text_output("HELLO"));

    let whole = soon(handle.get(submitted.id())).await.unwrap().unwrap();
    assert_eq!(whole.payload, "hello");
    assert_eq!(whole.output_tail, "shouting\n");
    assert_eq!(whole.job.spec.labels().unwrap()["customer"], "acme");
    assert_eq!(soon(handle.get("0000000000000".parse().unwrap())).await.unwrap(), None);
    stop(server).await;
}

#[tokio::test]
async fn a_watch_tells_each_step_and_ends_with_the_job() {
    let server = builder_with(StoreSettings::Memory, one_slot()).start().await.unwrap();
    let handle = server.handle();
    let (_, release) = occupy(&handle).await;
    let submitted = soon(handle.submit(JobRequest::new("shout").queue("small").payload("x"))).await.unwrap();

    let mut watch = submitted.watch();
    let Some(Ok(JobEvent::Snapshot(job))) = soon(watch.next()).await else { panic!("no snapshot") };
    assert_eq!(job.state.name(), StateName::Queued);
    drop(release);
    let (mut states, mut lines) = (Vec::new(), Vec::new());
    while let Some(event) = soon(watch.next()).await {
        match event.unwrap() {
            JobEvent::Updated { job, merged } => {
                assert_eq!(merged, Some(0));
                states.push(job.state.name());
            }
            JobEvent::Output(line) => lines.push(line.text.to_string()),
            other @ (JobEvent::Snapshot(_) | JobEvent::Deleted | JobEvent::NotFound) => panic!("{other:?}"),
        }
    }
    assert_eq!(states, [StateName::Running, StateName::Succeeded]);
    assert_eq!(lines, ["shouting"]);

    let mut again = handle.watch(submitted.id());
    assert!(matches!(soon(again.next()).await, Some(Ok(JobEvent::Snapshot(job))) if job.state.is_done()));
    assert!(soon(again.next()).await.is_none());
    let nobody = "0000000000001".parse().unwrap();
    assert!(matches!(soon(handle.watch(nobody).next()).await, Some(Ok(JobEvent::NotFound))));
    assert!(
        matches!(soon(handle.watch(nobody).outcome()).await, Err(OutcomeError::Gone(id)) if id == nobody)
    );
    stop(server).await;
}

#[tokio::test]
async fn a_failure_is_told_with_its_reason_and_code() {
    let server = start().await;
    let submitted = soon(server.handle().submit(JobRequest::new("shout"))).await.unwrap();
    let error = soon(submitted.outcome()).await.unwrap().into_result().unwrap_err();
    assert_eq!(error.state, StateName::Failed);
    assert_eq!(error.failure.as_ref().unwrap().code, "EMPTY");
    let told = format!("the job {} is FAILED (handler error): nothing to shout", submitted.id());
    assert_eq!(error.to_string(), told);
    stop(server).await;
}

#[tokio::test]
async fn a_repeat_with_its_request_id_finds_the_first_job_even_when_delayed() {
    let server = start().await;
    let handle = server.handle();
    let request = || JobRequest::new("shout").payload("x").request_id("r1").delay(Duration::from_secs(3600));
    let first = soon(handle.submit(request())).await.unwrap();
    assert_eq!(first.job().state.name(), StateName::Scheduled);
    let second = soon(handle.submit(request())).await.unwrap();
    assert_eq!((second.id(), second.created()), (first.id(), false));
    let other = soon(handle.submit(request().payload("y"))).await.unwrap_err();
    assert!(matches!(other, SubmitError::Refused(_)), "{other}");

    assert_eq!(soon(handle.cancel(first.id())).await.unwrap().state.name(), StateName::Cancelled);
    soon(handle.cancel(first.id())).await.unwrap();
    let error = soon(first.outcome()).await.unwrap().into_result().unwrap_err();
    assert_eq!((error.state, error.failure), (StateName::Cancelled, None));
    stop(server).await;
}

#[tokio::test]
async fn a_closure_returns_its_result_and_is_let_go_of() {
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
    let spec = &spawned.job().spec;
    assert_eq!((spec.kind.as_str(), spec.priority), (CLOSURE_KIND, 3));
    assert_eq!(spec.attempt_timeout, Duration::from_secs(5));
    assert_eq!(spawned.job().max_attempts, 1);
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

/// A closure that waits behind others, counted.
async fn wait_in_line(handle: &Handle, drops: &Drops) -> JobId {
    let counted = drops.counted();
    let work = async move |_| {
        drop(counted);
        Ok(Output::default())
    };
    soon(handle.spawn("small", work)).await.unwrap().id()
}

#[tokio::test]
async fn closures_that_never_start_are_let_go_of_when_cancelled_deleted_or_purged() {
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
    let purge = v1::PurgeQueueRequest { name: "small".into() };
    let mut queues = v1::queue_service_client::QueueServiceClient::connect(format!(
        "http://{}",
        server.local_addr().unwrap()
    ))
    .await
    .unwrap();
    soon(queues.purge_queue(purge)).await.unwrap();
    drops.reach(5).await;

    // The same again, after all were gone; and the closure of a cancelled job is not there for a retry.
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
async fn a_full_queue_makes_its_producers_wait() {
    const CAPACITY: usize = 3;
    const JOBS: usize = 20;
    let small = QueueSettings { max_jobs: CAPACITY as u64, max_wait: PATIENCE, ..one_slot() };
    let turns = Arc::new(Semaphore::new(0));
    let done = Arc::new(AtomicUsize::new(0));
    let (work_turns, work_done) = (Arc::clone(&turns), Arc::clone(&done));
    let step = move |_: Attempt| {
        let (turns, done) = (Arc::clone(&work_turns), Arc::clone(&work_done));
        async move {
            turns.acquire().await?.forget();
            done.fetch_add(1, Ordering::SeqCst);
            Ok(Output::default())
        }
    };
    let server = builder_with(StoreSettings::Memory, small)
        .handler("step", KindDefaults::default(), step)
        .start()
        .await
        .unwrap();
    let handle = server.handle();
    let request = || JobRequest::new("step").queue("small");
    for _ in 0..CAPACITY {
        soon(handle.submit(request())).await.unwrap();
    }
    // A refusal says that it is full now; one that waits does so until there is room.
    let refused = soon(handle.submit(request().when_full(WhenFull::Reject))).await.unwrap_err();
    assert!(matches!(refused, SubmitError::Full { .. }), "{refused}");
    let mut waits = Box::pin(handle.submit(request()));
    assert!(futures_util::poll!(&mut waits).is_pending());
    turns.add_permits(1);
    soon(&mut waits).await.unwrap();

    let mut last = None;
    for accepted in CAPACITY + 2..=JOBS {
        // Each acceptance needs an end: there are never more than the capacity.
        turns.add_permits(1);
        last = Some(soon(handle.submit(request())).await.unwrap());
        assert!(accepted - done.load(Ordering::SeqCst) <= CAPACITY + 1);
    }
    turns.add_permits(CAPACITY);
    soon(last.unwrap().outcome()).await.unwrap();
    assert_eq!(done.load(Ordering::SeqCst), JOBS);
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
    // What the disk would hold after a kill at this moment: nothing is under way, so that it can be copied.
    let killed = tempfile::tempdir().unwrap();
    let mut files: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    for file in files.iter().filter(|file| file.is_file()) {
        std::fs::copy(file, killed.path().join(file.file_name().unwrap())).unwrap();
    }
    server.stopper().force();
    soon(server.finished()).await.unwrap();

    // What closures own goes with the server, although a handle is still there. It says that the server has stopped.
    drops.reach(2).await;
    assert!(matches!(soon(watch.next()).await, Some(Err(WatchError::Closing))));
    let late = soon(handle.submit(JobRequest::new("shout"))).await.unwrap_err();
    assert!(matches!(late, SubmitError::Stopped(_)), "{late}");
    let late = soon(handle.spawn("small", async |_| Ok(Output::default()))).await.unwrap_err();
    assert!(matches!(late, SubmitError::Draining), "{late}");

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
async fn kinds_that_nothing_runs_and_jobmills_own_are_refused_from_everywhere() {
    let mut settings = Settings::new(StoreSettings::Memory);
    settings.listen.set_port(0);
    let server = Server::builder(settings).start().await.unwrap();
    let handle = server.handle();
    let own = soon(handle.submit(JobRequest::new(CLOSURE_KIND))).await.unwrap_err();
    let told = "the name starts with `jobmill/`; such kinds are Jobmill's own: choose another name";
    assert_eq!(own.to_string(), format!("kind: {told}"));
    let unknown = soon(handle.submit(JobRequest::new("nothing"))).await.unwrap_err();
    assert!(
        unknown.to_string().starts_with("no handler here runs the kind `nothing` (known: none)"),
        "{unknown}"
    );

    let client = Client::connect(&server.local_addr().unwrap().to_string()).await.unwrap();
    let job = v1::JobSpec { queue: "default".into(), kind: CLOSURE_KIND.into(), ..Default::default() };
    let request = v1::SubmitRequest { job: Some(job), ..Default::default() };
    let refused = soon(client.submit(request)).await.unwrap_err().to_string();
    assert!(refused.contains(&format!("job.kind: {told}")), "{refused}");
    drop(client);
    stop(server).await;

    for kind in [CLOSURE_KIND, "two words", ""] {
        let built = builder(StoreSettings::Memory).handler(kind, KindDefaults::default(), shout);
        let error = soon(built.start()).await.unwrap_err();
        assert!(matches!(error, ServeError::KindName { .. }), "{error}");
    }
}

#[tokio::test]
async fn all_faults_of_a_request_are_told_at_once() {
    let server = start().await;
    let request = JobRequest::new("").queue("No").priority(-101).timeout(Duration::ZERO).request_id("a\0b");
    let error = soon(server.handle().submit(request)).await.unwrap_err();
    let SubmitError::Invalid(faults) = &error else { panic!("{error}") };
    let fields: Vec<_> = faults.iter().map(|fault| fault.field).collect();
    assert_eq!(fields, ["queue", "kind", "priority", "attempt_timeout", "request_id"]);
    stop(server).await;
}

#[tokio::test]
async fn without_a_listener_no_port_is_bound() {
    // The port is taken: a server that would bind it could not start.
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut settings = Settings::new(StoreSettings::Memory);
    settings.listen = taken.local_addr().unwrap();
    let error = soon(Server::builder(settings.clone()).start()).await.unwrap_err();
    assert!(matches!(error, ServeError::Listen { .. }), "{error}");
    let server = soon(Server::builder(settings).without_listener().start()).await.unwrap();
    assert_eq!(server.local_addr(), None);
    stop(server).await;
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
    assert!(matches!(late, SubmitError::Draining), "{late}");
    drop(release);
    soon(was_told).await.expect("the closure sees its token before the drain's deadline");
    soon(server.finished()).await.unwrap();
    // The slow one, and the one that was never started.
    drops.reach(2).await;
}
