//! A machine clock that is set, forward and back, while a server runs.

use std::time::Duration;

use jobmill::{
    clock::{Clock, ManualClock, Timestamp},
    proto::v1::{self, JobState, watch_event::Event},
    serve::Server,
    settings::{Keep, QueueSettings, Retention, Settings, WhenFull},
};
use tonic::Code;

use crate::support::{
    QUEUE, Rig, Stage, defaults, folder, job, manual_clock, memory, queue, refusal, run_time, simple, soon,
    submission, with_queue,
};

/// The start of [`manual_clock`], in seconds since 1970.
const START_S: i64 = 1_800_000_000;
const HOUR: i64 = 3_600;
const YEAR: i64 = 365 * 24 * HOUR;

async fn server(settings: Settings, clock: &ManualClock) -> Rig {
    Rig::start(simple(settings).clock(Clock::Manual(clock.clone()))).await
}

/// Sets a clock by a number of seconds, forward or back.
fn set_by(clock: &ManualClock, seconds: i64) {
    let now = Clock::Manual(clock.clone()).now().as_micros();
    clock.set(Timestamp::from_micros(now + seconds * 1_000_000));
}

/// Returns once the server has looked at the clock: a call that commits is answered.
async fn noticed(rig: &Rig) {
    rig.pause(QUEUE).await;
    rig.resume(QUEUE).await;
}

#[tokio::test]
async fn a_retry_comes_on_time_though_the_clock_was_set_back() {
    let clock = manual_clock();
    let rig = server(memory(), &clock).await;
    let id = rig.submit(v1::JobSpec { max_attempts: 2, ..job("fail") }).await.id;
    let mut watcher = rig.watch_ids(&[&id]).await;
    watcher.until(JobState::BackingOff).await;
    set_by(&clock, -HOUR);
    clock.advance(Duration::from_secs(1));
    watcher.until(JobState::Failed).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_retry_does_not_come_early_though_the_clock_was_set_ahead_and_says_when_it_comes() {
    let clock = manual_clock();
    let rig = server(memory(), &clock).await;
    let id = rig.submit(v1::JobSpec { max_attempts: 2, ..job("fail") }).await.id;
    rig.reaches(&id, JobState::BackingOff).await;
    set_by(&clock, YEAR);
    noticed(&rig).await;
    let waiting = rig.get(&id).await;
    assert_eq!(waiting.state(), JobState::BackingOff);
    assert_eq!(waiting.next_run_time.unwrap().seconds, START_S + YEAR + 1);
    assert_eq!(waiting.update_time.unwrap().seconds, START_S, "what was said stays as it was");
    clock.advance(Duration::from_secs(1));
    assert_eq!(rig.ends(&id).await.state(), JobState::Failed);
    rig.stop().await;
}

#[tokio::test]
async fn a_scheduled_job_runs_when_the_clock_that_was_set_says_so() {
    let clock = manual_clock();
    let rig = server(memory(), &clock).await;
    let id = rig.submit(v1::JobSpec { start: run_time(START_S + HOUR), ..job("echo") }).await.id;
    set_by(&clock, -HOUR);
    clock.advance(Duration::from_secs(HOUR as u64));
    noticed(&rig).await;
    assert_eq!(rig.get(&id).await.state(), JobState::Scheduled);
    set_by(&clock, HOUR);
    assert_eq!(rig.ends(&id).await.state(), JobState::Succeeded);
    rig.stop().await;
}

#[tokio::test]
async fn an_ended_job_goes_on_time_though_the_clock_was_set() {
    for seconds in [-HOUR, YEAR] {
        let clock = manual_clock();
        let settings = Settings {
            retention: Retention { succeeded: Keep::For(Duration::from_secs(600)), ..Retention::default() },
            ..memory()
        };
        let rig = server(settings, &clock).await;
        let everything =
            v1::WatchStatusRequest { filter: Some(v1::JobFilter::default()), ..Default::default() };
        let mut watcher = rig.watch(everything).await;
        watcher.synced().await;
        let id = rig.submit(job("echo")).await.id;
        watcher.until(JobState::Succeeded).await;
        set_by(&clock, seconds);
        clock.advance(Duration::from_secs(599));
        noticed(&rig).await;
        rig.get(&id).await;
        // A sweep rests for a second at most.
        clock.advance(Duration::from_secs(2));
        let Event::Deleted(deleted) = watcher.next().await else { panic!("not deleted") };
        assert_eq!(deleted.id, id, "set by {seconds} s");
        rig.stop().await;
    }
}

#[tokio::test]
async fn a_server_that_starts_under_a_clock_that_is_ahead_deletes_nothing_at_once() {
    let home = tempfile::tempdir().unwrap();
    let clock = manual_clock();
    let rig = server(folder(home.path()), &clock).await;
    let id = rig.submit(job("echo")).await.id;
    rig.ends(&id).await;
    rig.stop().await;
    set_by(&clock, YEAR);
    let rig = server(folder(home.path()), &clock).await;
    clock.advance(Duration::from_secs(HOUR as u64 - 1));
    noticed(&rig).await;
    rig.get(&id).await;
    // The operator sees it in the log and corrects the clock.
    set_by(&clock, -YEAR);
    clock.advance(Duration::from_secs(22 * HOUR as u64));
    noticed(&rig).await;
    rig.get(&id).await;
    rig.stop().await;

    // The clock's word counts once it has held for an hour.
    set_by(&clock, YEAR);
    let rig = server(folder(home.path()), &clock).await;
    let mut watcher = rig.watch_ids(&[&id]).await;
    watcher.synced().await;
    clock.advance(Duration::from_secs(HOUR as u64));
    noticed(&rig).await;
    assert_eq!(rig.find(&id).await.unwrap_err().code(), Code::NotFound);
    rig.stop().await;
}

#[tokio::test]
async fn a_wait_for_room_is_neither_longer_nor_shorter_when_the_clock_is_set() {
    for seconds in [-HOUR, YEAR] {
        let clock = manual_clock();
        let full = QueueSettings {
            max_jobs: 1,
            max_wait: Duration::from_secs(60),
            when_full: WhenFull::Wait,
            ..queue(0)
        };
        let rig = server(with_queue(memory(), "small", full), &clock).await;
        let small = || v1::JobSpec { queue: "small".to_owned(), ..job("echo") };
        rig.submit(small()).await;
        let mut jobs = rig.jobs.clone();
        let call = tokio::spawn(async move { jobs.submit(submission(small())).await });
        rig.waiters("small", 1).await;
        set_by(&clock, seconds);
        clock.advance(Duration::from_secs(59));
        noticed(&rig).await;
        rig.waiters("small", 1).await;
        assert!(!call.is_finished(), "set by {seconds} s");
        clock.advance(Duration::from_secs(1));
        let refused = refusal(&soon(call).await.unwrap().unwrap_err());
        assert_eq!((refused.code, refused.reason.as_str()), (Code::ResourceExhausted, "QUEUE_FULL"));
        rig.stop().await;
    }
}

#[tokio::test]
async fn how_long_jobs_wait_and_run_is_counted_right_though_the_clock_was_set() {
    let clock = manual_clock();
    let (handler, mut stage) = Stage::new();
    let builder = Server::builder(with_queue(memory(), QUEUE, queue(1))).clock(Clock::Manual(clock.clone()));
    let rig = Rig::start(builder.handler("held", defaults(), handler)).await;
    let first = rig.submit(job("held")).await.id;
    let running = stage.next().await;
    let second = rig.submit(job("held")).await.id;
    for seconds in [YEAR, -2 * YEAR] {
        clock.advance(Duration::from_secs(5));
        set_by(&clock, seconds);
        noticed(&rig).await;
    }
    let oldest = r#"jobmill_queue_oldest_ready_seconds{queue="default"}"#;
    assert_eq!(rig.metric(oldest).await, 10.0);
    assert_eq!(rig.metric("jobmill_clock_set_seconds").await, -YEAR as f64);
    let stats = rig.queue(QUEUE).await.stats.unwrap();
    assert_eq!(stats.oldest_ready_age.unwrap().seconds, 10);
    running.succeeds();
    rig.ends(&first).await;
    stage.next().await.succeeds();
    rig.ends(&second).await;
    assert_eq!(rig.metric(r#"jobmill_run_seconds_sum{kind="held"}"#).await, 10.0);
    assert_eq!(rig.metric(r#"jobmill_wait_seconds_sum{kind="held"}"#).await, 10.0);
    rig.stop().await;
}

#[tokio::test]
async fn a_job_for_a_time_that_the_servers_clock_takes_for_far_ahead_is_refused_with_what_it_says() {
    let clock = manual_clock();
    clock.set(Timestamp::from_micros(0));
    let rig = server(memory(), &clock).await;
    let mut jobs = rig.jobs.clone();
    let refused = soon(jobs.submit(submission(v1::JobSpec { start: run_time(START_S), ..job("echo") })))
        .await
        .unwrap_err();
    assert!(format!("{refused:?}").contains("after the server's time, 1970-01-01T00:00:00Z"), "{refused:?}");
    rig.stop().await;
}
