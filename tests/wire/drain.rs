//! Shutdown: the server ends by its deadline whatever is connected, and no job is lost or left half-done.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use jobmill::{
    engine::Stopped,
    execute::{Attempt, Handler, HandlerError, HandlerFuture},
    handle::{JobRequest, SubmitError},
    job::{JobId, Output, StateName},
    proto::v1::{self, FailureReason, JobState, SubmitOutcome},
    serve::Server,
    settings::{CommandSettings, HandlerSettings, KindDefaults, KindSettings, QueueSettings, Settings},
};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::{JoinSet, yield_now},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::{
    frames,
    support::{
        Process, QUEUE, Rig, Stage, TEST_TIMEOUT, defaults, folder, is_definite, job, memory, named, queue,
        refusal, soon, with_queue,
    },
};

/// Commands that run until they are stopped.
const CONFIGURATION: &str = r#"
    [queues.default]
    consumers = 4
    [kinds.stubborn]
    command = ["/bin/sh", "-c", "trap '' TERM; echo 0 >&3; while :; do sleep 1000; done"]
    kill_grace = "10m"
"#;

/// Time that a process may take beyond its deadline: to cut attempts off, to report, to flush and to exit.
const MARGIN: Duration = Duration::from_secs(2);

async fn server(home: &Path, drain_timeout: &str) -> Process {
    let configuration = home.join("jobmill.toml");
    std::fs::write(&configuration, CONFIGURATION).unwrap();
    Process::start(&configuration, &home.join("data"), &["--drain-timeout", drain_timeout]).await
}

/// Submits a job that ignores SIGTERM; returns once its progress shows that its command runs.
async fn stubborn(rig: &Rig, max_attempts: i32) -> String {
    let id = rig.submit(v1::JobSpec { max_attempts, ..job("stubborn") }).await.id;
    let runs = async { while rig.get(&id).await.progress.is_none() {} };
    soon(runs).await;
    id
}

/// The answer to a submission.
enum SubmitAnswer {
    Accepted(String),
    Refused,
    Unknown,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_server_with_a_thousand_watchers_and_a_silent_peer_ends_by_its_deadline() {
    const DRAIN: Duration = Duration::from_secs(2);
    const CONNECTIONS: usize = 10;
    const WATCHERS_OF_EACH: usize = 100;
    let home = tempfile::tempdir().unwrap();
    let mut process = server(home.path(), "2s").await;
    let rig = Rig::connect(&process.address).await;
    let retried = stubborn(&rig, 2).await;
    let used_up = stubborn(&rig, 1).await;
    let silent = TcpStream::connect(&process.address).await.unwrap();
    let mut opening = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let guest = Rig::connect(&process.address).await;
        let ids = [retried.clone(), used_up.clone()];
        opening.spawn(async move {
            let mut watchers = Vec::new();
            for n in 0..WATCHERS_OF_EACH {
                let request = match n % 2 {
                    0 => v1::WatchStatusRequest { ids: ids.to_vec(), ..Default::default() },
                    _ => v1::WatchStatusRequest { filter: Some(Default::default()), ..Default::default() },
                };
                let mut watcher = guest.watch(request).await;
                watcher.synced().await;
                watchers.push(watcher);
            }
            watchers
        });
    }
    let watchers = opening.join_all().await;
    // Producers go on during the shutdown; each answer must be true.
    let mut producers = JoinSet::new();
    for producer in 0..4 {
        let mut jobs = rig.jobs.clone();
        producers.spawn(async move {
            let mut ledger = Vec::new();
            for n in 0.. {
                let request_id = format!("{producer}-{n}");
                let told = match jobs.submit(named(&request_id, job("stubborn"))).await {
                    Ok(response) => SubmitAnswer::Accepted(response.into_inner().id().to_owned()),
                    Err(status) if is_definite(&status) => SubmitAnswer::Refused,
                    Err(_) => SubmitAnswer::Unknown,
                };
                let over = !matches!(told, SubmitAnswer::Accepted(_));
                ledger.push((request_id, told));
                if over {
                    break;
                }
            }
            ledger
        });
    }
    let accepting = async { while rig.total().await < 50 {} };
    soon(accepting).await;

    // Each watcher reads on meanwhile, as clients do.
    let mut reading = JoinSet::new();
    for mut watcher in watchers.into_iter().flatten() {
        reading.spawn(async move {
            while watcher.line().await != "closing" {}
            let refused = refusal(&watcher.event().await.unwrap_err());
            assert_eq!((refused.code, refused.reason.as_str()), (Code::Unavailable, "STOPPING"));
        });
    }
    process.signal(Signal::TERM);
    let status = tokio::time::timeout(DRAIN + MARGIN, process.exit()).await.expect("an end by the deadline");
    assert_eq!(status.code(), Some(0));
    assert_eq!(soon(reading.join_all()).await.len(), CONNECTIONS * WATCHERS_OF_EACH);
    drop(silent);
    let ledger: Vec<_> = soon(producers.join_all()).await.into_iter().flatten().collect();

    let process = server(home.path(), "0s").await;
    let rig = Rig::connect(&process.address).await;
    let found = rig.jobs_by_request().await;
    let mut accepted = 0;
    for (request_id, told) in &ledger {
        let ids: Vec<_> = found.get(request_id).into_iter().flatten().map(|job| job.id.as_str()).collect();
        match told {
            SubmitAnswer::Accepted(id) => {
                assert_eq!(ids, [id], "{request_id} was accepted");
                accepted += 1;
            }
            SubmitAnswer::Refused => assert!(ids.is_empty(), "{request_id} was refused"),
            SubmitAnswer::Unknown => assert!(ids.len() <= 1, "{request_id} was doubled"),
        }
    }
    assert!(accepted >= 40, "{accepted} were accepted");
    let lost = rig.get(&used_up).await;
    assert_eq!((lost.state(), lost.attempt), (JobState::Failed, 1));
    assert_eq!(lost.last_failure.unwrap().reason(), FailureReason::Lost);
    let again = rig.get(&retried).await;
    assert!(!again.done, "{again:?}");
    assert_eq!(again.attempts[0].failure.as_ref().unwrap().reason(), FailureReason::Lost);
    process.kill().await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let home = tempfile::tempdir().unwrap();
    let mut process = server(home.path(), "1h").await;
    let rig = Rig::connect(&process.address).await;
    let id = stubborn(&rig, 1).await;
    let mut watcher = rig.watch_ids(&[&id]).await;
    watcher.synced().await;
    process.signal(Signal::TERM);
    assert_eq!(watcher.line().await, "closing");
    process.signal(Signal::TERM);
    let status = tokio::time::timeout(MARGIN, process.exit()).await.expect("an end at once");
    assert_eq!(status.code(), Some(1));

    let process = server(home.path(), "0s").await;
    let rig = Rig::connect(&process.address).await;
    let lost = rig.get(&id).await;
    assert_eq!((lost.state(), lost.last_failure.unwrap().reason()), (JobState::Failed, FailureReason::Lost));
    process.kill().await;
}

#[tokio::test]
async fn a_client_that_says_nothing_and_stays_until_the_deadline_is_no_failure_of_the_store() {
    let home = tempfile::tempdir().unwrap();
    let rig = Rig::start(Server::builder(one_consumer(home.path(), Duration::from_millis(100)))).await;
    let mut silent = TcpStream::connect(rig.address()).await.unwrap();
    let greeting = [frames::PREFACE, &frames::frame(frames::SETTINGS, 0, 0, &[])].concat();
    silent.write_all(&greeting).await.unwrap();
    soon(silent.read_u8()).await.unwrap();
    rig.stop().await;
}

fn one_consumer(home: &Path, drain_timeout: Duration) -> Settings {
    let mut settings = with_queue(folder(home), QUEUE, queue(1));
    settings.drain_timeout = drain_timeout;
    settings
}

#[tokio::test]
async fn running_attempts_end_in_peace_and_nothing_new_starts() {
    let home = tempfile::tempdir().unwrap();
    let (handler, mut stage) = Stage::new();
    let builder = Server::builder(one_consumer(home.path(), TEST_TIMEOUT)).handler(
        "stage",
        defaults(),
        handler.clone(),
    );
    let rig = Rig::start(builder).await;
    let running = rig.submit(job("stage")).await.id;
    let waiting = rig.submit(job("stage")).await.id;
    let cue = stage.next().await;
    let mut watcher = rig.watch_ids(&[&running]).await;
    watcher.synced().await;
    rig.stopper().drain();
    assert_eq!(watcher.line().await, "closing");
    assert!(!cue.attempt.cancellation_token().is_cancelled());
    cue.succeeds();
    rig.stop().await;
    assert_eq!(stage.len(), 0);

    let builder =
        Server::builder(one_consumer(home.path(), Duration::ZERO)).handler("stage", defaults(), handler);
    let rig = Rig::start(builder).await;
    assert_eq!(rig.get(&running).await.state(), JobState::Succeeded);
    let cue = stage.next().await;
    assert_eq!((cue.id(), cue.attempt.number()), (waiting, 1));
    rig.stop().await;
}

#[tokio::test]
async fn attempts_are_asked_to_stop_before_they_are_cut_off() {
    let home = tempfile::tempdir().unwrap();
    let (handler, mut stage) = Stage::new();
    let settings = one_consumer(home.path(), Duration::from_millis(400));
    let rig = Rig::start(Server::builder(settings).handler("stage", defaults(), handler)).await;
    let id = rig.submit(job("stage")).await.id;
    let cue = stage.next().await;
    rig.stopper().drain();
    soon(cue.attempt.cancelled()).await;
    cue.fails();
    rig.stop().await;
    assert_eq!(state_after(home.path(), &id).await, (JobState::BackingOff, FailureReason::Lost));
}

/// A handler that ignores cancellation, and can be dropped.
struct IgnoresCancel;

impl Handler for IgnoresCancel {
    fn run(&self, _: Attempt) -> HandlerFuture {
        Box::pin(std::future::pending())
    }

    fn stop_grace(&self) -> Duration {
        Duration::from_secs(3600)
    }
}

#[tokio::test]
async fn attempts_that_do_not_stop_are_cut_off_at_the_deadline() {
    let home = tempfile::tempdir().unwrap();
    let settings = one_consumer(home.path(), Duration::from_millis(100));
    let rig = Rig::start(Server::builder(settings).handler("stage", defaults(), IgnoresCancel)).await;
    let id = rig.submit(job("stage")).await.id;
    rig.reaches(&id, JobState::Running).await;
    let stopped = tokio::time::timeout(Duration::from_millis(100) + MARGIN, rig.stop());
    stopped.await.expect("an end by the deadline");
    assert_eq!(state_after(home.path(), &id).await, (JobState::BackingOff, FailureReason::Lost));
}

#[tokio::test]
async fn a_failure_for_good_stays_one_in_a_drain_and_any_other_was_cut_short() {
    let home = tempfile::tempdir().unwrap();
    let (handler, mut stage) = Stage::new();
    let mut settings = with_queue(folder(home.path()), QUEUE, queue(2));
    settings.drain_timeout = Duration::from_millis(400);
    let rig = Rig::start(Server::builder(settings).handler("stage", defaults(), handler)).await;
    let (permanent, retryable) = (rig.submit(job("stage")).await.id, rig.submit(job("stage")).await.id);
    let cues = [stage.next().await, stage.next().await];
    rig.stopper().drain();
    for cue in cues {
        soon(cue.attempt.cancelled()).await;
        let failure = match cue.id() == permanent {
            true => HandlerError::permanent("no such page"),
            false => HandlerError::retryable("half of it is done").with_delay(Duration::from_secs(3600)),
        };
        cue.ends(Err(failure));
    }
    rig.stopped().await;

    let rig = Rig::start(Server::builder(with_queue(folder(home.path()), QUEUE, queue(0)))).await;
    let failed = rig.get(&permanent).await;
    let failure = failed.last_failure.as_ref().unwrap();
    assert_eq!(
        (failed.state(), failure.reason(), failure.message.as_str(), failure.retryable),
        (JobState::Failed, FailureReason::HandlerError, "no such page", false)
    );
    let waits = rig.get(&retryable).await;
    let failure = waits.last_failure.as_ref().unwrap();
    assert_eq!((waits.state(), failure.reason()), (JobState::BackingOff, FailureReason::Lost));
    assert!(failure.message.ends_with("half of it is done"), "{}", failure.message);
    let delay = waits.next_run_time.unwrap().seconds - waits.attempts[0].end_time.unwrap().seconds;
    assert!((3600..=3601).contains(&delay), "the handler's own wish: {delay}");
    rig.stop().await;
}

/// A handler that ignores cancellation, but reports that it was asked.
#[derive(Clone)]
struct Stubborn(mpsc::Sender<()>);

impl Handler for Stubborn {
    fn run(&self, attempt: Attempt) -> HandlerFuture {
        let asked = self.0.clone();
        Box::pin(async move {
            attempt.cancelled().await;
            asked.send(()).await?;
            std::future::pending().await
        })
    }

    fn stop_grace(&self) -> Duration {
        Duration::from_secs(3600)
    }
}

#[tokio::test]
async fn an_attempt_that_had_timed_out_before_the_drain_is_no_lost_one() {
    let home = tempfile::tempdir().unwrap();
    let (asked, mut was_asked) = mpsc::channel(1);
    let settings = one_consumer(home.path(), Duration::from_millis(100));
    let rig = Rig::start(Server::builder(settings).handler("stage", defaults(), Stubborn(asked))).await;
    let attempt_timeout = Some(prost_types::Duration { seconds: 0, nanos: 1_000_000 });
    let id = rig.submit(v1::JobSpec { attempt_timeout, ..job("stage") }).await.id;
    soon(was_asked.recv()).await.unwrap();
    rig.stop().await;
    assert_eq!(state_after(home.path(), &id).await, (JobState::BackingOff, FailureReason::Timeout));
}

/// Replaces a kind's guard by one that never gets ready, so that its commands never start.
fn never_starts(settings: &mut Settings, home: &Path) -> std::path::PathBuf {
    let guard = home.join("guard");
    fs::write(&guard, "#!/bin/sh\ntouch \"$(dirname \"$0\")/asked\"\nexec sleep 1000\n").unwrap();
    fs::set_permissions(&guard, fs::Permissions::from_mode(0o755)).unwrap();
    let command = CommandSettings::new(["true"]);
    let defaults = KindDefaults { max_attempts: 1, ..defaults() };
    settings
        .kinds
        .insert("command".to_owned(), KindSettings { handler: HandlerSettings::Command(command), defaults });
    guard
}

#[tokio::test]
async fn a_command_that_had_not_started_when_the_server_stopped_or_its_job_was_cancelled_costs_no_attempt() {
    let home = tempfile::tempdir().unwrap();
    let mut settings = with_queue(folder(&home.path().join("data")), QUEUE, queue(2));
    settings.drain_timeout = Duration::from_millis(100);
    let guard = never_starts(&mut settings, home.path());
    let rig = Rig::start(Server::builder(settings).command_guard(guard)).await;
    let (stopped, cancelled) = (rig.submit(job("command")).await.id, rig.submit(job("command")).await.id);
    let asked = async {
        while !home.path().join("asked").exists() {
            yield_now().await;
        }
    };
    soon(asked).await;
    rig.cancel(&cancelled).await.unwrap();
    let ended = rig.ends(&cancelled).await;
    assert_eq!((ended.state(), ended.counted_attempts, ended.start_time), (JobState::Cancelled, 0, None));
    rig.stop().await;

    let settings = with_queue(folder(&home.path().join("data")), QUEUE, queue(0));
    let rig = Rig::start(Server::builder(settings)).await;
    let waits = rig.get(&stopped).await;
    assert_eq!(
        (waits.state(), waits.counted_attempts, waits.start_time),
        (JobState::Queued, 0, None),
        "{waits:?}"
    );
    rig.stop().await;
}

#[tokio::test]
async fn a_command_that_has_no_time_to_start_within_its_timeout_uses_up_its_attempts() {
    let home = tempfile::tempdir().unwrap();
    let mut settings = memory();
    let guard = never_starts(&mut settings, home.path());
    let rig = Rig::start(Server::builder(settings).command_guard(guard)).await;
    let attempt_timeout = Some(prost_types::Duration { seconds: 0, nanos: 1_000_000 });
    let id = rig.submit(v1::JobSpec { attempt_timeout, ..job("command") }).await.id;
    let ended = rig.ends(&id).await;
    assert_eq!((ended.state(), ended.attempt), (JobState::Failed, 1));
    assert_eq!(ended.last_failure.unwrap().reason(), FailureReason::Timeout);
    rig.stop().await;
}

/// Returns once a drain has released all jobs that were claimed before it: its batch has been committed by then.
async fn nothing_is_claimed_any_more(rig: &Rig) {
    for _ in 0..3 {
        let unknown: JobId = "06g3k5m0v4000".parse().unwrap();
        soon(rig.handle().cancel(unknown)).await.unwrap_err();
        yield_now().await;
    }
}

#[tokio::test]
async fn a_cancel_by_the_handle_reaches_its_attempt_during_a_drain() {
    let home = tempfile::tempdir().unwrap();
    let (handler, mut stage) = Stage::new();
    let settings = one_consumer(home.path(), Duration::from_secs(3600));
    let rig = Rig::start(Server::builder(settings).handler("stage", defaults(), handler)).await;
    let id = rig.submit(job("stage")).await.id;
    let cue = stage.next().await;
    rig.stopper().drain();
    nothing_is_claimed_any_more(&rig).await;
    let cancelled = soon(rig.handle().cancel(cue.attempt.id())).await.unwrap();
    assert_eq!(cancelled.state.name(), StateName::Cancelling);
    soon(cue.attempt.cancelled()).await;
    cue.fails();
    rig.stopped().await;
    assert_eq!(state_after(home.path(), &id).await, (JobState::Cancelled, FailureReason::Cancelled));
}

#[tokio::test]
async fn a_cancel_by_a_call_that_began_before_a_drain_reaches_its_attempt_in_it() {
    let home = tempfile::tempdir().unwrap();
    let (handler, mut stage) = Stage::new();
    let settings = one_consumer(home.path(), Duration::from_secs(3600));
    let rig = Rig::start(Server::builder(settings).handler("stage", defaults(), handler)).await;
    let id = rig.submit(job("stage")).await.id;
    let cue = stage.next().await;
    // The call has begun; its request message follows later.
    let (message, messages) = mpsc::channel(1);
    let mut caller = tonic::client::Grpc::new(rig.channel.clone());
    soon(caller.ready()).await.unwrap();
    let call = tokio::spawn(async move {
        let codec = tonic_prost::ProstCodec::<v1::CancelJobRequest, v1::CancelJobResponse>::default();
        let path = tonic::codegen::http::uri::PathAndQuery::from_static("/jobmill.v1.JobQueue/CancelJob");
        caller.client_streaming(tonic::Request::new(ReceiverStream::new(messages)), path, codec).await
    });
    let is_in = async {
        while rig.metric(r#"jobmill_grpc_calls_open{method="jobmill.v1.JobQueue/CancelJob"}"#).await != 1.0 {}
    };
    soon(is_in).await;
    rig.stopper().drain();
    nothing_is_claimed_any_more(&rig).await;
    message.send(v1::CancelJobRequest { id: id.clone(), ..Default::default() }).await.unwrap();
    drop(message);
    let answer = soon(call).await.unwrap().unwrap().into_inner();
    assert_eq!((answer.change.unwrap().state(), answer.job), (JobState::Cancelling, None));
    soon(cue.attempt.cancelled()).await;
    cue.fails();
    rig.stopped().await;
    assert_eq!(state_after(home.path(), &id).await, (JobState::Cancelled, FailureReason::Cancelled));
}

#[tokio::test]
async fn submissions_that_wait_for_room_when_the_server_stops_are_refused_for_good_and_leave_nothing() {
    let home = tempfile::tempdir().unwrap();
    let small = QueueSettings { max_jobs: 1, max_wait: Duration::from_secs(3600), ..queue(0) };
    let builder = |settings: Settings| {
        Server::builder(settings).handler("any", defaults(), async |_: Attempt| Ok(Output::default()))
    };
    let rig = Rig::start(builder(with_queue(folder(home.path()), QUEUE, small))).await;
    rig.submit(job("any")).await;
    let mut waiting: JoinSet<Status> = JoinSet::new();
    let request_id = |way: &str| format!("by {way}");
    let mut jobs = rig.jobs.clone();
    let request = named(&request_id("submit"), job("any"));
    waiting.spawn(async move { jobs.submit(request).await.unwrap_err() });
    let mut jobs = rig.jobs.clone();
    let request = v1::SubmitBatchRequest {
        jobs: vec![job("any")],
        request_id: request_id("batch"),
        ..Default::default()
    };
    waiting.spawn(async move { jobs.submit_batch(request).await.unwrap_err() });
    let mut jobs = rig.jobs.clone();
    let request = v1::SubmitAndWatchRequest {
        job: Some(job("any")),
        request_id: request_id("watch"),
        ..Default::default()
    };
    waiting.spawn(async move { jobs.submit_and_watch(request).await.unwrap_err() });
    let handle = rig.handle();
    let by_handle =
        tokio::spawn(async move { handle.submit(JobRequest::new("any").request_id("by handle")).await });
    rig.waiters(QUEUE, 4).await;

    rig.stopper().drain();
    for status in soon(waiting.join_all()).await {
        let refused = refusal(&status);
        assert_eq!((refused.code, refused.reason.as_str()), (Code::Unavailable, "STOPPING"));
        assert!(is_definite(&status));
    }
    let by_handle = soon(by_handle).await.unwrap();
    assert!(matches!(by_handle, Err(SubmitError::Stopped(Stopped::Refused))), "{by_handle:?}");
    rig.stopped().await;

    // The refused call has used up no request id: the id may be used for another request.
    let rig = Rig::start(builder(with_queue(folder(home.path()), QUEUE, queue(0)))).await;
    assert_eq!(rig.total().await, 1);
    for way in ["submit", "batch", "watch", "handle"] {
        let other = v1::JobSpec { priority: Some(7), ..job("any") };
        let request = named(&request_id(way), other);
        let answer = soon(rig.jobs.clone().submit(request)).await.unwrap().into_inner();
        assert_eq!(answer.outcome(), SubmitOutcome::Created, "{way}");
    }
    rig.stop().await;
}

/// Restarts without consumers; returns the job's state and the reason of its failure.
async fn state_after(home: &Path, id: &str) -> (JobState, FailureReason) {
    let rig = Rig::start(Server::builder(with_queue(folder(home), QUEUE, queue(0)))).await;
    let job = rig.get(id).await;
    rig.stop().await;
    (job.state(), job.last_failure.unwrap().reason())
}
