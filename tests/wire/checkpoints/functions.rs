//! Checkpoints of Rust functions and closures in the server's process.

use std::{sync::Arc, time::Duration};

use jobmill::{
    clock::Stopwatch,
    execute::{Attempt, CheckpointError, HandlerError},
    job::Output,
    proto::v1::{self, FailureReason, JobState},
    serve::{Server, ServerBuilder},
    settings::{KindDefaults, Settings},
};

use super::{large, soon_again};
use crate::{
    counted_store::Counts,
    support::{Rig, Stage, folder, job, memory, soon},
};

fn staged(settings: Settings, defaults: KindDefaults) -> (ServerBuilder, Stage) {
    let (handler, stage) = Stage::new();
    (Server::builder(settings).handler("staged", defaults, handler), stage)
}

fn earlier(attempt: &Attempt) -> Option<&[u8]> {
    attempt.earlier_checkpoint().map(|state| &*state.bytes)
}

#[tokio::test]
async fn a_checkpoint_that_is_to_be_written_now_is_on_disk_when_that_is_told_and_the_next_attempt_gets_it() {
    let home = tempfile::tempdir().unwrap();
    for settings in [memory(), folder(home.path())] {
        let (server, mut stage) = staged(settings, soon_again());
        let rig = Rig::start(server).await;
        let id = rig.submit(job("staged")).await.id;
        let first = stage.next().await;
        assert_eq!(earlier(&first.attempt), None);
        for (number, state) in [(1, "a quarter"), (2, "half")] {
            let committed = first.attempt.checkpoint(Output::new(state).media_type("text/plain"), true);
            assert_eq!(committed.number(), Some(number));
            soon(committed).await.unwrap();
            assert_eq!(rig.checkpoint(&id).await, Some((number, state.as_bytes().to_vec())));
        }
        let revision = rig.get(&id).await.revision;
        soon(first.attempt.checkpoint(Output::new("more"), true)).await.unwrap();
        assert_eq!(rig.get(&id).await.revision, revision, "it changes no job");
        first.fails();
        let second = stage.next().await;
        assert_eq!((second.attempt.number(), earlier(&second.attempt)), (2, Some(&b"more"[..])));
        second.succeeds();
        rig.reaches(&id, JobState::Succeeded).await;
        assert_eq!(rig.metric("jobmill_checkpoints_total").await, 3.0);
        assert_eq!(rig.metric("jobmill_checkpoint_bytes_total").await, 17.0);
        assert_eq!(rig.metric("jobmill_reports_refused_total").await, 0.0);
        rig.stop().await;
    }
}

#[tokio::test]
async fn its_media_type_and_metadata_are_kept() {
    let (server, mut stage) = staged(memory(), soon_again());
    let rig = Rig::start(server).await;
    rig.submit(job("staged")).await;
    let first = stage.next().await;
    let state = Output::new("{}").media_type("application/json").metadata("version", "7");
    first.attempt.checkpoint(state.clone(), false);
    first.fails();
    assert_eq!(stage.next().await.attempt.earlier_checkpoint(), Some(&state));
}

#[tokio::test]
async fn the_last_checkpoint_is_written_with_the_end_of_a_failed_attempt() {
    let (server, mut stage) = staged(memory(), soon_again());
    let rig = Rig::start(server).await;
    let id = rig.submit(job("staged")).await.id;
    for (number, expected) in [(1, None), (2, Some(&b"of attempt 1"[..])), (3, Some(&b"of attempt 2"[..]))] {
        let staged = stage.next().await;
        assert_eq!(earlier(&staged.attempt), expected);
        // The first one may be on its way already.
        staged.attempt.checkpoint(Output::new("not this"), false);
        staged.attempt.checkpoint(Output::new(format!("of attempt {number}")), number == 1);
        match number {
            3 => staged.succeeds(),
            _ => staged.fails(),
        }
    }
    rig.reaches(&id, JobState::Succeeded).await;
}

#[tokio::test]
async fn without_haste_it_is_written_at_most_every_half_second_however_many_there_are() {
    let counts = Arc::<Counts>::default();
    let (server, mut stage) = staged(memory(), soon_again());
    let rig = Rig::start(server.around_store(counts.around())).await;
    let id = rig.submit(job("staged")).await.id;
    let attempt = stage.next().await;
    counts.take();
    let began = Stopwatch::start();
    let mut last = attempt.attempt.checkpoint(Output::new("0"), false);
    for number in 1..20_000_u32 {
        // The last state counts; the ones before are replaced and never written.
        last = attempt.attempt.checkpoint(Output::new(number.to_string()), false);
        if number % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    soon(last).await.unwrap();
    let written: usize = counts.take().iter().map(|batch| batch.checkpoints).sum();
    let half_seconds = began.elapsed().as_millis() as usize / 500;
    assert!(written <= half_seconds + 2, "{written} in {:?}", began.elapsed());
    assert_eq!(rig.checkpoint(&id).await, Some((20_000, b"19999".to_vec())));
}

#[tokio::test]
async fn a_flood_that_is_to_be_written_now_has_one_checkpoint_at_a_time_on_its_way() {
    let counts = Arc::<Counts>::default();
    let (server, mut stage) = staged(memory(), soon_again());
    let rig = Rig::start(server.around_store(counts.around())).await;
    let id = rig.submit(job("staged")).await.id;
    let attempt = stage.next().await;
    counts.take();
    let mut last = None;
    for _ in 0..2_000 {
        last = Some(attempt.attempt.checkpoint(Output::new(large(250 << 10)), true));
    }
    soon(last.unwrap()).await.unwrap();
    let batches = counts.take();
    assert!(batches.iter().all(|batch| batch.checkpoints <= 1));
    let written: usize = batches.iter().map(|batch| batch.checkpoints).sum();
    assert!(written < 200, "{written} of 2,000 were written");
    assert_eq!(rig.reaches_checkpoint(&id, 2_000).await.len(), 250 << 10);
}

#[tokio::test]
async fn one_that_is_asked_for_now_is_written_in_a_pause_too() {
    let (server, mut stage) = staged(memory(), soon_again());
    let rig = Rig::start(server).await;
    rig.submit(job("staged")).await;
    let attempt = stage.next().await;
    attempt.attempt.checkpoint(Output::new("first"), false);
    let began = Stopwatch::start();
    for _ in 0..20 {
        soon(attempt.attempt.checkpoint(Output::new("now"), true)).await.unwrap();
    }
    // With pauses it would take 10 s.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_state_over_the_limit_is_refused_and_the_one_before_is_kept() {
    let (server, mut stage) = staged(memory(), soon_again());
    let rig = Rig::start(server).await;
    let id = rig.submit(job("staged")).await.id;
    let attempt = stage.next().await;
    soon(attempt.attempt.checkpoint(Output::new(large(256 << 10)), true)).await.unwrap();
    let refused = attempt.attempt.checkpoint(Output::new(large((256 << 10) + 1)), true);
    assert_eq!(refused.number(), None);
    let error = soon(refused).await.unwrap_err();
    assert_eq!(error, CheckpointError::TooLarge { bytes: (256 << 10) + 1, max_bytes: 256 << 10 });
    let described = Output::new(large(256 << 10)).metadata("a", "b");
    assert!(matches!(
        soon(attempt.attempt.checkpoint(described, true)).await,
        Err(CheckpointError::TooLarge { .. })
    ));
    assert_eq!(rig.checkpoint(&id).await.unwrap().1.len(), 256 << 10);
}

#[tokio::test]
async fn it_is_kept_through_a_timeout() {
    let (server, mut stage) = staged(memory(), soon_again().attempt_timeout(Duration::from_millis(200)));
    let rig = Rig::start(server).await;
    let id = rig.submit(job("staged")).await.id;
    let first = stage.next().await;
    first.attempt.checkpoint(Output::new("half"), false);
    soon(first.attempt.cancelled()).await;
    first.attempt.checkpoint(Output::new("the rest"), false);
    first.fails();
    let second = stage.next().await;
    assert_eq!(earlier(&second.attempt), Some(&b"the rest"[..]));
    let failure = rig.get(&id).await.last_failure.unwrap();
    assert_eq!(failure.reason(), FailureReason::Timeout);
}

#[tokio::test]
async fn it_is_kept_through_a_cancel_and_given_to_a_retry() {
    let (server, mut stage) = staged(memory(), soon_again());
    let rig = Rig::start(server).await;
    let id = rig.submit(job("staged")).await.id;
    let first = stage.next().await;
    rig.cancel(&id).await.unwrap();
    soon(first.attempt.cancelled()).await;
    first.attempt.checkpoint(Output::new("as far as this"), false);
    first.fails();
    rig.reaches(&id, JobState::Cancelled).await;
    rig.retry(&id).await.unwrap();
    assert_eq!(earlier(&stage.next().await.attempt), Some(&b"as far as this"[..]));
}

#[tokio::test]
async fn it_is_kept_through_a_drain_and_the_next_server_hands_it_on() {
    let home = tempfile::tempdir().unwrap();
    let (server, mut stage) = staged(folder(home.path()), soon_again());
    let rig = Rig::start(server).await;
    let id = rig.submit(job("staged")).await.id;
    let cut = rig.submit(job("staged")).await.id;
    let (first, other) = (stage.next().await, stage.next().await);
    assert_eq!((first.id(), other.id()), (id.clone(), cut.clone()));
    other.attempt.checkpoint(Output::new("of one that is cut off"), false);
    rig.stopper().drain();
    soon(first.attempt.cancelled()).await;
    first.attempt.checkpoint(Output::new("at the drain"), false);
    first.fails();
    // The other attempt does not end by itself.
    rig.stopped().await;
    drop(other);

    let (server, mut stage) = staged(folder(home.path()), soon_again());
    let rig = Rig::start(server).await;
    for _ in 0..2 {
        let again = stage.next().await;
        let expected = if again.id() == id { &b"at the drain"[..] } else { b"of one that is cut off" };
        assert_eq!(earlier(&again.attempt), Some(expected));
    }
    rig.force().await;
}

#[tokio::test]
async fn after_the_attempts_end_none_is_taken() {
    let (server, mut stage) = staged(memory(), soon_again());
    let rig = Rig::start(server).await;
    let id = rig.submit(job("staged")).await.id;
    let (keep, kept) = tokio::sync::oneshot::channel();
    let handle = rig.handle();
    let closure = handle.spawn("default", async move |attempt: Attempt| {
        // A closure has one attempt; its checkpoints are kept all the same.
        attempt.checkpoint(Output::new("of a closure"), true).await?;
        let _ = keep.send(attempt);
        Err::<Output, _>(HandlerError::permanent("the end"))
    });
    let closure = soon(closure).await.unwrap().id().to_string();
    let attempt = soon(kept).await.unwrap();
    rig.reaches(&closure, JobState::Failed).await;
    assert_eq!(soon(attempt.checkpoint(Output::new("late"), true)).await, Err(CheckpointError::Over));
    assert_eq!(rig.checkpoint(&closure).await, Some((1, b"of a closure".to_vec())));
    stage.next().await.succeeds();
    rig.reaches(&id, JobState::Succeeded).await;
    assert_eq!(rig.checkpoint(&id).await, None, "most jobs have none");
}

#[tokio::test]
async fn a_retry_may_drop_it() {
    let (server, mut stage) = staged(memory(), KindDefaults { max_attempts: 1, ..soon_again() });
    let rig = Rig::start(server).await;
    let id = rig.submit(job("staged")).await.id;
    let first = stage.next().await;
    first.attempt.checkpoint(Output::new("spoiled"), false);
    first.fails();
    rig.reaches(&id, JobState::Failed).await;
    assert!(rig.checkpoint(&id).await.is_some());
    rig.retry_anew(&id).await;
    let second = stage.next().await;
    assert_eq!((second.attempt.number(), earlier(&second.attempt)), (2, None));
}

#[tokio::test]
async fn a_repeat_of_a_retry_says_the_same_of_the_checkpoint() {
    let (server, mut stage) = staged(memory(), KindDefaults { max_attempts: 1, ..soon_again() });
    let rig = Rig::start(server).await;
    let id = rig.submit(job("staged")).await.id;
    let first = stage.next().await;
    first.attempt.checkpoint(Output::new("spoiled"), false);
    first.fails();
    rig.reaches(&id, JobState::Failed).await;
    let retry = |drop_checkpoint| {
        let request = v1::RetryJobRequest {
            id: id.clone(),
            request_id: "once".into(),
            drop_checkpoint,
            ..Default::default()
        };
        let mut jobs = rig.jobs.clone();
        async move {
            soon(jobs.retry_job(request)).await.map(|answer| answer.into_inner().change.unwrap().repeated)
        }
    };
    assert!(!retry(true).await.unwrap());
    assert!(retry(true).await.unwrap());
    assert_eq!(retry(false).await.unwrap_err().code(), tonic::Code::AlreadyExists);
    assert_eq!(rig.checkpoint(&id).await, None);
}
