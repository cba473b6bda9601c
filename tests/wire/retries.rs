//! Snoozes, deadlines, dead processes and bounds, as clients and handlers see them.

use std::time::Duration;

use jobmill::{
    clock::Clock,
    execute::HandlerError,
    proto::v1::{self, FailureReason, JobState, job_spec::Deadline},
    serve::Server,
    settings::{CommandSettings, HandlerSettings, JobBounds, KindDefaults, KindSettings},
};
use prost_types::Duration as Wire;
use tonic::Code;

use crate::support::{
    QUEUE, Rig, Stage, defaults, job, manual_clock, memory, queue, refusal, soon, submission, with_queue,
};

fn seconds(seconds: i64) -> Wire {
    Wire { seconds, nanos: 0 }
}

fn due(millis: i32) -> Option<Deadline> {
    Some(Deadline::DeadlineAfter(Wire { seconds: 0, nanos: millis * 1_000_000 }))
}

/// Starts a server whose kind `stage` is run by the test.
async fn staged(defaults: KindDefaults) -> (Rig, Stage) {
    let (handler, stage) = Stage::new();
    let settings = with_queue(memory(), QUEUE, queue(1));
    (Rig::start(Server::builder(settings).handler("stage", defaults, handler)).await, stage)
}

/// Starts a server with a kind `run` that runs a shell script, and a clock that stands still.
async fn scripted(text: &str) -> Rig {
    let mut settings = with_queue(memory(), QUEUE, queue(1));
    let command = CommandSettings {
        snooze_exit_codes: vec![99],
        snooze_delay: Duration::from_secs(30),
        ..CommandSettings::new(["/bin/sh", "-c", text])
    };
    let handler = HandlerSettings::Command(command);
    settings.kinds.insert("run".to_owned(), KindSettings { handler, defaults: defaults() });
    let builder = Server::builder(settings).command_guard(env!("CARGO_BIN_EXE_jobmill"));
    Rig::start(builder.clock(Clock::Manual(manual_clock()))).await
}

#[tokio::test]
async fn a_rust_handler_that_snoozes_runs_again_uncounted() {
    let (rig, mut stage) = staged(defaults()).await;
    let id = rig.submit(v1::JobSpec { max_attempts: 1, ..job("stage") }).await.id;
    stage.next().await.ends(Err(HandlerError::snooze(Duration::from_secs(3_600))));
    let waiting = rig.reaches(&id, JobState::BackingOff).await;
    assert!(waiting.snoozed && waiting.last_failure.is_none(), "{waiting:?}");
    assert_eq!((waiting.attempt, waiting.counted_attempts, waiting.snoozes), (1, 0, 1));
    rig.retry(&id).await.unwrap();
    let again = stage.next().await;
    assert_eq!(again.attempt.number(), 2);
    again.succeeds();
    let done = rig.ends(&id).await;
    assert_eq!((done.state(), done.counted_attempts, done.failures), (JobState::Succeeded, 1, 0));
    assert_eq!(rig.metric("jobmill_attempts_total{kind=\"stage\",result=\"snoozed\"}").await, 1.0);
    rig.stop().await;
}

#[tokio::test]
async fn a_command_snoozes_by_its_exit_code_for_the_time_that_it_tells() {
    for (script, delay) in [("exit 99", 30), ("echo 'snooze 5m' >&3; exit 99", 300)] {
        let rig = scripted(script).await;
        let waiting = rig.submit(job("run")).await.id;
        let waiting = rig.reaches(&waiting, JobState::BackingOff).await;
        let due = waiting.next_run_time.unwrap().seconds - waiting.update_time.unwrap().seconds;
        assert_eq!((waiting.snoozed, waiting.snoozes, due), (true, 1, delay), "{script}");
        rig.stop().await;
    }
    // A line alone asks for nothing.
    let rig = scripted("echo 'snooze 5m' >&3").await;
    let id = rig.submit(job("run")).await.id;
    assert_eq!(rig.ends(&id).await.state(), JobState::Succeeded);
    rig.stop().await;
}

#[tokio::test]
async fn a_command_that_dies_by_a_signal_of_its_own_is_a_process_loss() {
    let rig = scripted("kill -SEGV $$").await;
    let spec = v1::JobSpec { max_process_losses: 1, max_attempts: 100, ..job("run") };
    let id = rig.submit(spec).await.id;
    let dead = rig.ends(&id).await;
    assert_eq!(dead.last_failure.as_ref().unwrap().reason(), FailureReason::Poison, "{dead:?}");
    assert_eq!((dead.process_losses, dead.attempts.len()), (1, 1));
    let own = dead.attempts[0].failure.as_ref().unwrap();
    assert_eq!((own.reason(), own.exit_code), (FailureReason::HandlerError, Some(139)));
    rig.stop().await;
    // A shell that lives on and reports the death of its child is not dead.
    let rig = scripted("sh -c 'kill -SEGV $$'; exit 139").await;
    let spec = v1::JobSpec { max_process_losses: 1, max_attempts: 1, ..job("run") };
    let id = rig.submit(spec).await.id;
    assert_eq!(rig.ends(&id).await.process_losses, 0);
    rig.stop().await;
}

#[tokio::test]
async fn a_command_that_the_server_kills_is_no_process_loss() {
    let rig = scripted("exec sleep 1000").await;
    let attempt_timeout = Some(Wire { seconds: 0, nanos: 50_000_000 });
    let late = v1::JobSpec { max_process_losses: 1, max_attempts: 1, attempt_timeout, ..job("run") };
    let late = rig.submit(late).await.id;
    let late = rig.ends(&late).await;
    let reason = late.last_failure.as_ref().unwrap().reason();
    assert_eq!((reason, late.process_losses), (FailureReason::Timeout, 0), "{late:?}");
    let cancelled = rig.submit(v1::JobSpec { max_process_losses: 1, ..job("run") }).await.id;
    rig.reaches(&cancelled, JobState::Running).await;
    rig.cancel(&cancelled).await.unwrap();
    let cancelled = rig.ends(&cancelled).await;
    assert_eq!((cancelled.state(), cancelled.process_losses), (JobState::Cancelled, 0), "{cancelled:?}");
    rig.stop().await;
}

#[tokio::test]
async fn an_attempt_has_no_more_time_than_its_jobs_deadline_leaves() {
    let (rig, mut stage) = staged(defaults()).await;
    let id = rig.submit(v1::JobSpec { deadline: due(300), ..job("stage") }).await.id;
    let running = stage.next().await;
    let told = rig.get(&id).await;
    let deadline = told.deadline_time.unwrap();
    let at = running.attempt.deadline().as_micros();
    assert_eq!(at, deadline.seconds * 1_000_000 + i64::from(deadline.nanos) / 1_000);
    soon(running.attempt.cancelled()).await;
    running.fails();
    let ended = rig.ends(&id).await;
    assert_eq!(ended.state(), JobState::Failed);
    assert_eq!(ended.last_failure.as_ref().unwrap().reason(), FailureReason::Deadline, "{ended:?}");
    assert_eq!(ended.attempts[0].failure.as_ref().unwrap().reason(), FailureReason::Timeout);
    let refused = refusal(&rig.retry(&id).await.unwrap_err());
    assert_eq!((refused.code, &*refused.reason), (Code::FailedPrecondition, "DEADLINE_PASSED"));
    rig.stop().await;
}

#[tokio::test]
async fn a_waiting_job_fails_at_its_deadline_and_its_watcher_is_told() {
    let (rig, mut stage) = staged(defaults()).await;
    rig.submit(job("stage")).await;
    let first = stage.next().await;
    let id = rig.submit(v1::JobSpec { deadline: due(200), ..job("stage") }).await.id;
    let mut watcher = rig.watch_ids(&[&id]).await;
    let ended = watcher.until(JobState::Failed).await;
    assert_eq!((ended.last_failure.unwrap().reason(), ended.attempt), (FailureReason::Deadline, 0));
    first.succeeds();
    rig.stop().await;
}

#[tokio::test]
async fn a_kinds_bounds_and_defaults_hold_for_its_jobs() {
    let bounds = JobBounds {
        max_attempts: Some(10),
        attempt_timeout: Some(Duration::from_secs(60)),
        max_delay: Some(Duration::from_secs(90)),
        max_snoozes: Some(5),
        max_process_losses: Some(4),
    };
    let own = KindDefaults { bounds, max_snoozes: 2, max_process_losses: 1, ..defaults() }
        .deadline(Duration::from_secs(3_600))
        .attempt_timeout(Duration::from_secs(30));
    let (rig, mut stage) = staged(own).await;
    let policy = |max: i64| Some(v1::RetryPolicy { delays: vec![seconds(max)], ..Default::default() }.into());
    for (field, over, fits) in [
        ("max_attempts", v1::JobSpec { max_attempts: 11, ..job("stage") }, 10),
        ("attempt_timeout", v1::JobSpec { attempt_timeout: Some(seconds(61)), ..job("stage") }, 60),
        ("retry_policy", v1::JobSpec { retry_policy: policy(91), ..job("stage") }, 90),
        ("max_snoozes", v1::JobSpec { max_snoozes: Some(6), ..job("stage") }, 5),
        ("max_process_losses", v1::JobSpec { max_process_losses: 5, ..job("stage") }, 4),
    ] {
        let before = rig.total().await;
        let status = soon(rig.jobs.clone().submit(submission(over))).await.unwrap_err();
        let refused = refusal(&status);
        assert_eq!((refused.code, &*refused.reason), (Code::InvalidArgument, "OVER_BOUND"), "{field}");
        assert_eq!(refused.fields, [format!("job.{field}")]);
        assert!(status.message().contains("raise the kind's bounds"), "{status:?}");
        assert_eq!(rig.total().await, before);
        let spec = v1::JobSpec {
            max_attempts: if field == "max_attempts" { fits } else { 0 },
            max_snoozes: (field == "max_snoozes").then_some(fits),
            ..job("stage")
        };
        let id = rig.submit(spec).await.id;
        stage.next().await.succeeds();
        let done = rig.ends(&id).await;
        assert_eq!(done.deadline_time.unwrap().seconds - done.create_time.unwrap().seconds, 3_600);
    }
    let id = rig.submit(job("stage")).await.id;
    for _ in 0..2 {
        stage.next().await.ends(Err(HandlerError::snooze(Duration::ZERO)));
    }
    stage.next().await.ends(Err(HandlerError::snooze(Duration::ZERO)));
    let over = rig.ends(&id).await;
    assert_eq!(over.last_failure.unwrap().reason(), FailureReason::SnoozedOut);
    rig.stop().await;
}

#[tokio::test]
async fn a_bound_in_a_batch_names_the_job() {
    let bounds = JobBounds { max_attempts: Some(2), ..JobBounds::default() };
    let (rig, _stage) = staged(KindDefaults { bounds, max_attempts: 1, ..defaults() }).await;
    let jobs = vec![job("stage"), v1::JobSpec { max_attempts: 3, ..job("stage") }];
    let request = v1::SubmitBatchRequest { jobs, ..Default::default() };
    let status = soon(rig.jobs.clone().submit_batch(request)).await.unwrap_err();
    assert_eq!(refusal(&status).fields, ["jobs[1].max_attempts"]);
    assert_eq!(rig.total().await, 0);
    rig.stop().await;
}

#[tokio::test]
async fn a_retry_may_reset_the_counts() {
    let (rig, mut stage) = staged(KindDefaults { max_attempts: 1, ..defaults() }).await;
    let id = rig.submit(job("stage")).await.id;
    stage.next().await.fails();
    assert_eq!(rig.ends(&id).await.counted_attempts, 1);
    let request = v1::RetryJobRequest { id: id.clone(), reset_attempts: true, ..Default::default() };
    soon(rig.jobs.clone().retry_job(request)).await.unwrap();
    let again = stage.next().await;
    assert_eq!(again.attempt.number(), 2);
    again.fails();
    let ended = rig.ends(&id).await;
    assert_eq!((ended.counted_attempts, ended.max_attempts, ended.attempts.len()), (1, 1, 2));
    rig.stop().await;
}
