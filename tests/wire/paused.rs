//! A server that is paused by SIGSTOP or in a frozen container. To the server, a pause is a jump of the time.

use std::{path::Path, time::Duration};

use jobmill::{
    execute::{Attempt, Handler, HandlerError},
    handle::{Handle, JobEvent, JobRequest},
    job::{FailureReason, JobId, Output, StateName},
    serve::Server,
};
use tokio::{task::yield_now, time};

use crate::support::{QUEUE, Stage, StagedAttempt, defaults, folder, queue, soon, with_queue};

/// The timeout of an attempt, and of a drain.
const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_secs(3600);

/// Returns a handler whose end takes several polls to arrive, as that of a command does.
fn handler() -> (impl Handler, Stage) {
    let (handler, stage) = Stage::new();
    let in_steps = move |attempt: Attempt| {
        let end = handler.run(attempt);
        async move {
            let outcome = end.await;
            for _ in 0..10 {
                yield_now().await;
            }
            outcome
        }
    };
    (in_steps, stage)
}

async fn server(home: &Path) -> (Server, Stage) {
    let (handler, stage) = handler();
    let mut settings = with_queue(folder(home), QUEUE, queue(1));
    settings.drain_timeout = LIMIT;
    let builder = Server::builder(settings).handler("stage", defaults(), handler).without_listener();
    (soon(builder.start()).await.unwrap(), stage)
}

async fn attempt(handle: &Handle, stage: &mut Stage) -> (JobId, StagedAttempt) {
    let job = soon(handle.submit(JobRequest::new("stage").timeout(LIMIT))).await.unwrap();
    (job.id(), stage.next().await)
}

#[tokio::test]
async fn an_outcome_reached_while_the_server_was_paused_counts_and_is_no_timeout() {
    let home = tempfile::tempdir().unwrap();
    let (server, mut stage) = server(home.path()).await;
    let handle = server.handle();
    let (id, cue) = attempt(&handle, &mut stage).await;
    time::pause();
    cue.ends(Err(HandlerError::permanent("no such page")));
    time::advance(PAUSE).await;
    time::resume();
    let ended = soon(handle.watch(id).outcome()).await.unwrap();
    let unsuccessful = ended.into_result().unwrap_err();
    assert_eq!(
        (unsuccessful.state, unsuccessful.failure.unwrap().reason),
        (StateName::Failed, FailureReason::HandlerError)
    );
    server.stopper().drain();
    soon(server.finished()).await.unwrap();
}

#[tokio::test]
async fn an_attempt_that_ended_while_the_server_was_paused_in_its_drain_is_not_cut_off() {
    let home = tempfile::tempdir().unwrap();
    let (first, mut stage) = server(home.path()).await;
    let (id, cue) = attempt(&first.handle(), &mut stage).await;
    first.stopper().drain();
    // The drain waits for the attempt once these calls have been answered.
    for _ in 0..3 {
        let unknown: JobId = "06g3k5m0v4000".parse().unwrap();
        soon(first.handle().cancel(unknown)).await.unwrap_err();
        yield_now().await;
    }
    time::pause();
    cue.ends(Ok(Output::default()));
    time::advance(PAUSE).await;
    time::resume();
    soon(first.finished()).await.unwrap();

    let (second, _) = server(home.path()).await;
    let whole = soon(second.handle().get(id)).await.unwrap().unwrap();
    assert_eq!((whole.job.state.name(), whole.job.attempt), (StateName::Succeeded, 1));
    second.stopper().force();
    soon(second.finished()).await.unwrap();
}

#[tokio::test]
async fn a_pause_uses_up_a_part_of_an_attempts_time_and_no_more() {
    let home = tempfile::tempdir().unwrap();
    let (server, mut stage) = server(home.path()).await;
    let handle = server.handle();
    let (id, cue) = attempt(&handle, &mut stage).await;
    time::pause();
    time::advance(PAUSE).await;
    for _ in 0..10 {
        yield_now().await;
    }
    assert!(!cue.attempt.cancellation_token().is_cancelled());
    // The drain has a limit all the same.
    cue.attempt.cancelled().await;
    cue.fails();
    time::resume();
    let mut watch = handle.watch(id);
    let times_out = async {
        while let Some(event) = watch.next().await {
            let (JobEvent::Snapshot(job) | JobEvent::Updated { job, .. }) = event.unwrap() else {
                continue;
            };
            if job.state.name() == StateName::BackingOff {
                return job.failure.clone().unwrap().reason;
            }
        }
        panic!("the watch ended before the attempt");
    };
    assert_eq!(soon(times_out).await, FailureReason::Timeout);
    server.stopper().drain();
    soon(server.finished()).await.unwrap();
}
