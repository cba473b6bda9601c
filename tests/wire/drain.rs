//! Stopping: it ends by its deadline whoever is connected, and no job is lost or left half-done.

use std::{path::Path, time::Duration};

use jobmill::{
    config::Settings,
    execute::{Attempt, Handler, HandlerFuture},
    proto::v1::{self, FailureReason, JobState},
    serve::Server,
};
use rustix::process::Signal;
use tokio::{net::TcpStream, task::JoinSet};
use tonic::Code;

use crate::support::{
    PATIENCE, Process, QUEUE, Rig, Stage, defaults, folder, is_definite, job, queue, refusal, soon,
    submission, with_queue,
};

/// Commands that outlive any test unless they are stopped.
const CONFIGURATION: &str = r#"
    [queues.default]
    consumers = 4
    [kinds.stubborn]
    command = ["/bin/sh", "-c", "trap '' TERM; while :; do sleep 1000; done"]
    kill_grace = "10m"
"#;

/// What a process may take beyond its deadline to be gone: to cut off, to tell, to flush and to exit.
const MARGIN: Duration = Duration::from_secs(2);

async fn server(home: &Path, drain_timeout: &str) -> Process {
    let configuration = home.join("jobmill.toml");
    std::fs::write(&configuration, CONFIGURATION).unwrap();
    Process::start(&configuration, &home.join("data"), &["--drain-timeout", drain_timeout]).await
}

/// Submits a stubborn job, and returns once it runs.
async fn stubborn(rig: &Rig, max_attempts: i32) -> String {
    let id = rig.submit(v1::JobSpec { max_attempts, ..job("stubborn") }).await.id;
    rig.reaches(&id, JobState::Running).await;
    id
}

/// What became of a submission.
enum Told {
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
    // Producers go on while it stops: what they are told is what counts.
    let mut producers = JoinSet::new();
    for producer in 0..4 {
        let mut jobs = rig.jobs.clone();
        producers.spawn(async move {
            let mut ledger = Vec::new();
            for n in 0.. {
                let request_id = format!("{producer}-{n}");
                let request =
                    v1::SubmitRequest { request_id: request_id.clone(), ..submission(job("stubborn")) };
                let told = match jobs.submit(request).await {
                    Ok(response) => Told::Accepted(response.into_inner().job.unwrap().id),
                    Err(status) if is_definite(&status) => Told::Refused,
                    Err(_) => Told::Unknown,
                };
                let over = !matches!(told, Told::Accepted(_));
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

    // Each reads on meanwhile, as clients do.
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
            Told::Accepted(id) => {
                assert_eq!(ids, [id], "{request_id} was accepted");
                accepted += 1;
            }
            Told::Refused => assert!(ids.is_empty(), "{request_id} was refused"),
            Told::Unknown => assert!(ids.len() <= 1, "{request_id} was doubled"),
        }
    }
    assert!(accepted >= 40, "{accepted} were accepted");
    let lost = rig.get(&used_up).await;
    assert_eq!((lost.state(), lost.attempt), (JobState::Failed, 1));
    assert_eq!(lost.failure.unwrap().reason(), FailureReason::Lost);
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
    assert_eq!((lost.state(), lost.failure.unwrap().reason()), (JobState::Failed, FailureReason::Lost));
    process.kill().await;
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
    let builder =
        Server::builder(one_consumer(home.path(), PATIENCE)).handler("stage", defaults(), handler.clone());
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

/// Hears nothing, and does not mind to be dropped.
struct Deaf;

impl Handler for Deaf {
    fn run(&self, _: Attempt) -> HandlerFuture {
        Box::pin(std::future::pending())
    }

    fn stop_grace(&self) -> Duration {
        Duration::from_secs(3600)
    }
}

#[tokio::test]
async fn what_does_not_stop_is_cut_off_at_the_deadline() {
    let home = tempfile::tempdir().unwrap();
    let settings = one_consumer(home.path(), Duration::from_millis(100));
    let rig = Rig::start(Server::builder(settings).handler("stage", defaults(), Deaf)).await;
    let id = rig.submit(job("stage")).await.id;
    rig.reaches(&id, JobState::Running).await;
    let stopped = tokio::time::timeout(Duration::from_millis(100) + MARGIN, rig.stop());
    stopped.await.expect("an end by the deadline");
    assert_eq!(state_after(home.path(), &id).await, (JobState::BackingOff, FailureReason::Lost));
}

/// How a job stands after a restart with nobody to run it, and why.
async fn state_after(home: &Path, id: &str) -> (JobState, FailureReason) {
    let rig = Rig::start(Server::builder(with_queue(folder(home), QUEUE, queue(0)))).await;
    let job = rig.get(id).await;
    rig.stop().await;
    (job.state(), job.failure.unwrap().reason())
}
