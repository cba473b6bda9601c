//! Attempts that wait for a connection, and so have not started.

use std::time::Duration;

use jobmill::{
    clock::Clock,
    proto::v1::{self, FailureReason, JobState, job_spec::Deadline},
    serve::Server,
    settings::HttpSettings,
};

use super::{Endpoint, kinds, settings};
use crate::support::{Rig, folder, job, manual_clock, memory};

const TIMEOUT: Duration = Duration::from_millis(50);

/// Returns a job with one attempt and a short timeout.
fn only() -> v1::JobSpec {
    let attempt_timeout = Some(prost_types::Duration::try_from(TIMEOUT).unwrap());
    v1::JobSpec { max_attempts: 1, attempt_timeout, ..job("call") }
}

#[tokio::test]
async fn an_attempt_that_gets_no_connection_in_time_does_not_count() {
    let endpoint = Endpoint::start().await;
    let clock = manual_clock();
    let http = HttpSettings { max_connections: 1, connection_wait: TIMEOUT * 4, ..settings(&endpoint.url()) };
    let rig = Rig::start(Server::builder(kinds(memory(), http)).clock(Clock::Manual(clock.clone()))).await;
    let busy = rig.submit(job("call")).await.id;
    let mut line = endpoint.accept().await;
    line.request().await;
    let waiting = rig.submit(only()).await.id;
    let mut watcher = rig.watch_ids(&[&waiting]).await;
    watcher.until(JobState::BackingOff).await;
    let back = rig.get(&waiting).await;
    assert_eq!((back.counted_attempts, back.attempts.len()), (0, 0), "{back:?}");
    assert_eq!(back.next_run_time.unwrap().seconds, 1_800_000_001, "not at once again");
    assert_eq!(rig.metric(r#"jobmill_attempts_total{kind="call",result="not_started"}"#).await, 1.0);
    line.answer_with("200 OK", "", "").await;
    rig.ends(&busy).await;
    clock.advance(Duration::from_secs(1));
    line.request().await;
    line.answer_with("200 OK", "", "done").await;
    let done = rig.ends(&waiting).await;
    assert_eq!((done.state(), done.counted_attempts), (JobState::Succeeded, 1), "{:?}", done.last_failure);
    assert!(!endpoint.was_called());
    rig.stop().await;
}

#[tokio::test]
async fn the_wait_for_a_connection_is_no_part_of_an_attempts_timeout() {
    let endpoint = Endpoint::start().await;
    let http = HttpSettings { max_connections: 1, ..settings(&endpoint.url()) };
    let rig = Rig::start(Server::builder(kinds(memory(), http))).await;
    // Three attempts one after the other, each of which uses its whole timeout. If the wait counted, the last one would
    // be over before it began.
    let ids = rig.submit_batch(vec![only(); 3]).await;
    for _ in &ids {
        let mut line = endpoint.accept().await;
        line.request().await;
        line.closed().await;
    }
    for id in &ids {
        let failure = rig.ends(id).await.last_failure.unwrap();
        assert_eq!(failure.reason(), FailureReason::Timeout);
    }
    assert!(!endpoint.was_called());
    rig.stop().await;
}

#[tokio::test]
async fn an_attempt_that_waits_for_a_connection_when_the_server_stops_does_not_count() {
    let endpoint = Endpoint::start().await;
    let folder_ = tempfile::tempdir().unwrap();
    let http = HttpSettings { max_connections: 1, ..settings(&endpoint.url()) };
    let start = || async {
        let mut settings = kinds(folder(folder_.path()), http.clone());
        settings.drain_timeout = Duration::ZERO;
        Rig::start(Server::builder(settings).clock(Clock::Manual(manual_clock()))).await
    };
    let rig = start().await;
    let busy = rig.submit(v1::JobSpec { max_attempts: 1, ..job("call") }).await.id;
    let mut line = endpoint.accept().await;
    line.request().await;
    let waiting = rig.submit(v1::JobSpec { max_attempts: 1, ..job("call") }).await.id;
    rig.watch_ids(&[&waiting]).await.until(JobState::Running).await;
    rig.stop().await;
    line.closed().await;

    let rig = start().await;
    assert_eq!(rig.ends(&busy).await.last_failure.unwrap().reason(), FailureReason::Lost);
    let mut line = endpoint.accept().await;
    line.request().await;
    line.answer_with("200 OK", "", "").await;
    let done = rig.ends(&waiting).await;
    assert_eq!((done.state(), done.counted_attempts), (JobState::Succeeded, 1), "{:?}", done.last_failure);
    rig.stop().await;
}

#[tokio::test]
async fn a_job_that_is_cancelled_while_it_waits_for_a_connection_has_had_no_attempt() {
    let endpoint = Endpoint::start().await;
    let http = HttpSettings { max_connections: 1, ..settings(&endpoint.url()) };
    let rig = Rig::start(Server::builder(kinds(memory(), http))).await;
    let busy = rig.submit(job("call")).await.id;
    let mut line = endpoint.accept().await;
    line.request().await;
    let waiting = rig.submit(job("call")).await.id;
    rig.cancel(&waiting).await.unwrap();
    let cancelled = rig.ends(&waiting).await;
    assert_eq!((cancelled.state(), cancelled.counted_attempts), (JobState::Cancelled, 0));
    line.answer_with("200 OK", "", "").await;
    rig.ends(&busy).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_wait_for_a_connection_ends_at_the_jobs_deadline() {
    let endpoint = Endpoint::start().await;
    let http = HttpSettings { max_connections: 1, ..settings(&endpoint.url()) };
    let rig = Rig::start(Server::builder(kinds(memory(), http))).await;
    let busy = rig.submit(job("call")).await.id;
    let mut line = endpoint.accept().await;
    line.request().await;
    let deadline = Some(Deadline::DeadlineAfter(prost_types::Duration { seconds: 0, nanos: 200_000_000 }));
    let late = rig.submit(v1::JobSpec { deadline, ..job("call") }).await.id;
    let ended = rig.ends(&late).await;
    let reason = ended.last_failure.as_ref().map(v1::Failure::reason);
    assert_eq!((ended.state(), reason), (JobState::Failed, Some(FailureReason::Deadline)), "{ended:?}");
    line.answer_with("200 OK", "", "").await;
    rig.ends(&busy).await;
    rig.stop().await;
}
