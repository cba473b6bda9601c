//! Another program that holds the database's lock.

use std::{path::Path, time::Duration};

use jobmill::proto::v1::{self, JobState};
use rusqlite::Connection;
use tonic::{Code, Request};
use tonic_types::StatusExt;

use crate::support::{
    Rig, Stage, defaults, folder, job, queue, refusal, run_time, simple, soon, submission, with_queue,
};

/// Takes the lock as `BEGIN IMMEDIATE` in `sqlite3 jobmill.db` does.
fn take_lock(folder: &Path) -> Connection {
    let connection = Connection::open(folder.join("jobmill.db")).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    connection
}

async fn until_locked(rig: &Rig) {
    soon(async {
        while rig.metric("jobmill_store_locked_seconds").await == 0.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

async fn submit_within(rig: &Rig, timeout: Duration) -> Result<v1::SubmitResponse, tonic::Status> {
    let mut call = Request::new(submission(job("echo")));
    call.set_timeout(timeout);
    soon(rig.jobs.clone().submit(call)).await.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_lock_held_by_another_program_holds_calls_up_and_loses_nothing() {
    let home = tempfile::tempdir().unwrap();
    let (handler, mut stage) = Stage::new();
    let rig = Rig::start(simple(folder(home.path())).handler("staged", defaults(), handler)).await;
    let running = rig.submit(job("staged")).await.id;
    let attempt = stage.next().await;

    let lock = take_lock(home.path());
    // The attempt ends while nothing can be written.
    attempt.succeeds();
    let mut jobs = rig.jobs.clone();
    let patient = tokio::spawn(async move { jobs.submit(submission(job("echo"))).await });
    until_locked(&rig).await;
    // Reads still work.
    assert_eq!(rig.get(&running).await.state(), JobState::Running);
    drop(lock);

    let patient = soon(patient).await.unwrap().unwrap().into_inner();
    rig.ends(patient.id()).await;
    assert_eq!(rig.ends(&running).await.state(), JobState::Succeeded);
    assert_eq!(rig.metric("jobmill_store_locked_seconds").await, 0.0);
}

#[tokio::test]
async fn callers_hear_of_a_lock_at_their_deadline_or_after_their_queues_max_wait() {
    let home = tempfile::tempdir().unwrap();
    let impatient = jobmill::settings::QueueSettings { max_wait: Duration::from_millis(300), ..queue(1) };
    let rig = Rig::start(simple(with_queue(folder(home.path()), "impatient", impatient))).await;
    let shelved = rig.submit(v1::JobSpec { start: run_time(2_000_000_000), ..job("echo") }).await.id;
    let lock = take_lock(home.path());

    let at_deadline = submit_within(&rig, Duration::from_secs(1)).await.unwrap_err();
    let mut jobs = rig.jobs.clone();
    let without = submission(v1::JobSpec { queue: "impatient".to_owned(), ..job("echo") });
    let after_max_wait = soon(jobs.submit(without)).await.unwrap_err();
    let mut cancel = Request::new(v1::CancelJobRequest { id: shelved.clone(), ..Default::default() });
    cancel.set_timeout(Duration::from_secs(1));
    let control = soon(rig.jobs.clone().cancel_job(cancel)).await.unwrap_err();
    for status in [at_deadline, after_max_wait, control] {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        let details = status.get_error_details();
        assert_eq!(refusal(&status).reason, "STORE_LOCKED");
        assert!(details.retry_info().unwrap().retry_delay.is_some());
        assert!(status.message().contains("holds the database's lock"), "{status:?}");
    }
    drop(lock);

    submit_within(&rig, Duration::from_secs(20)).await.unwrap();
    assert_eq!(
        rig.get(&shelved).await.state(),
        JobState::Scheduled,
        "the cancel was not done behind the caller's back"
    );
    assert_eq!(rig.queue("impatient").await.stats.unwrap().waiters, 0);
    assert_eq!(rig.total().await, 2, "what was refused is not there");
}

#[tokio::test]
async fn a_server_that_starts_beside_a_lock_waits_for_it() {
    let home = tempfile::tempdir().unwrap();
    Rig::start(simple(folder(home.path()))).await.stop().await;
    let lock = take_lock(home.path());
    let starting = tokio::spawn(simple(folder(home.path())).start());
    // The lock is held until the server has met it.
    let waits = home.path().join("jobmill.db-wal");
    soon(async {
        while !waits.exists() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(lock);
    let server = soon(starting).await.unwrap().unwrap();
    server.stopper().drain();
    soon(server.finished()).await.unwrap();
}

#[tokio::test]
async fn a_drain_beside_a_lock_ends_when_the_lock_is_free() {
    let home = tempfile::tempdir().unwrap();
    let mut settings = folder(home.path());
    settings.drain_timeout = Duration::from_secs(25);
    let (handler, mut stage) = Stage::new();
    let server = soon(simple(settings).handler("staged", defaults(), handler).start()).await.unwrap();
    let mut rig = Rig::connect(&server.local_addr().unwrap().to_string()).await;
    let id = rig.submit(job("staged")).await.id;
    let attempt = stage.next().await;
    let lock = take_lock(home.path());
    attempt.succeeds();
    server.stopper().drain();
    let handle = server.handle();
    soon(async {
        while !handle.metrics().await.unwrap().lines().any(|line| {
            line.strip_prefix("jobmill_store_locked_seconds ").is_some_and(|seconds| seconds != "0")
        }) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(lock);
    soon(server.finished()).await.unwrap();
    rig = Rig::start(simple(folder(home.path()))).await;
    assert_eq!(rig.get(&id).await.state(), JobState::Succeeded);
    rig.stop().await;
}
