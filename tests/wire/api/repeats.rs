//! Calls that change something, repeated with the same request id: done once, and answered as the first time.

use std::time::Duration;

use jobmill::{
    clock::Clock,
    proto::v1::{self, JobState, JobView},
};
use tonic::{Code, Response, Status};

use super::{
    raw::{self, Fixtures, Rpc, no_consumers, rpcs, state},
    shelf,
    table::{answer, create, delete_queue, undo},
};
use crate::{
    queues::in_queue,
    support::{
        QUEUE, Rig, folder, job, manual_clock, memory, queue, refusal, result, simple, soon, with_queue,
    },
};

/// Returns every RPC whose request has a request id.
fn repeatable() -> Vec<Rpc> {
    let rpcs: Vec<_> = rpcs().into_iter().filter(Rpc::is_repeatable).collect();
    assert!(rpcs.len() >= 12, "{} RPCs", rpcs.len());
    rpcs
}

/// Repeats a call; asserts that it changed nothing and returns its answer.
async fn repeat(rig: &Rig, rpc: &Rpc, request: &[u8]) -> String {
    let before = state(rig).await;
    let answered = raw::call(rig, &rpc.name, &[], request).await;
    let answered = answered.unwrap_or_else(|status| panic!("{}: {status:?}", rpc.name));
    assert_eq!(state(rig).await, before, "{} was done twice", rpc.name);
    let (told, repeated) = answer(rpc, answered);
    assert!(repeated.is_none_or(|repeated| repeated), "{} does not say that it is a repeat", rpc.name);
    told
}

#[tokio::test]
async fn every_call_is_done_once_and_answered_again_even_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let settings = || with_queue(folder(home.path()), QUEUE, queue(0));
    let mut rig = Rig::start(simple(settings())).await;
    let mut called = Vec::new();
    for rpc in repeatable() {
        let fixtures = Fixtures::set_up(&rig, &rpc.short().to_lowercase()).await;
        if rpc.short() == "ResumeQueue" {
            rig.pause(&fixtures.queue).await;
        }
        let request = fixtures.request(&rpc, &rpc.name);
        let before = state(&rig).await;
        let first = raw::call(&rig, &rpc.name, &[], &request).await;
        let (first, repeated) =
            answer(&rpc, first.unwrap_or_else(|status| panic!("{}: {status:?}", rpc.name)));
        assert!(repeated.is_none_or(|repeated| !repeated), "{} says that it is a repeat", rpc.name);
        assert_ne!(state(&rig).await, before, "{} did nothing", rpc.name);
        assert_eq!(repeat(&rig, &rpc, &request).await, first, "{}", rpc.name);
        undo(&rig, &rpc, &fixtures).await;
        let later = repeat(&rig, &rpc, &request).await;
        // A repeat shows a queue as it is now.
        assert!(
            later == first
                || ["Some(Queue", "Some(Schedule", "Some(Calendar", "Some(Limit"]
                    .iter()
                    .any(|of| first.starts_with(of)),
            "{}: {later} after {first}",
            rpc.name
        );
        called.push((rpc, fixtures, request, later));
    }
    rig.stop().await;
    rig = Rig::start(simple(settings())).await;
    for (rpc, _, request, told) in &called {
        assert_eq!(repeat(&rig, rpc, request).await, *told, "{}", rpc.name);
    }
    rig.stop().await;
}

#[tokio::test]
async fn every_call_is_refused_where_its_request_id_came_with_another_body_or_another_call() {
    let rig = shelf().await;
    let rpcs = repeatable();
    let mut called = Vec::new();
    for rpc in &rpcs {
        let fixtures = Fixtures::set_up(&rig, &rpc.short().to_lowercase()).await;
        let request = fixtures.request(rpc, &rpc.name);
        raw::call(&rig, &rpc.name, &[], &request).await.unwrap();
        called.push((rpc, fixtures));
    }
    let before = state(&rig).await;
    for (n, (rpc, fixtures)) in called.iter().enumerate() {
        let (next, _) = &called[(n + 1) % called.len()];
        let mut others = vec![(rpc, fixtures.other_request(rpc, &rpc.name))];
        // Submit and SubmitAndWatch share request ids and digests, and a schedule that is deleted can't be paused.
        let pair = (rpc.short(), next.short());
        if pair != ("SubmitAndWatch", "Submit") && pair != ("DeleteSchedule", "PauseSchedule") {
            others.push((next, fixtures.request(next, &rpc.name)));
        }
        for (other, request) in others {
            let what = format!("{} after {}", other.name, rpc.name);
            let status = raw::call(&rig, &other.name, &[], &request).await.err();
            let refused = refusal(&status.unwrap_or_else(|| panic!("{what} was carried out")));
            let told = (refused.code, refused.reason.as_str());
            assert_eq!(told, (Code::AlreadyExists, "REQUEST_ID_REUSED"), "{what}");
        }
    }
    assert_eq!(state(&rig).await, before);
    rig.stop().await;
}

#[tokio::test]
async fn request_ids_may_have_128_bytes_in_every_call() {
    let rig = shelf().await;
    for rpc in repeatable() {
        let fixtures = Fixtures::set_up(&rig, &rpc.short().to_lowercase()).await;
        let before = state(&rig).await;
        let long = fixtures.request(&rpc, &"r".repeat(129));
        let refused = refusal(&raw::call(&rig, &rpc.name, &[], &long).await.expect_err(&rpc.name));
        assert_eq!((refused.code, refused.fields), (Code::InvalidArgument, vec!["request_id".to_owned()]));
        assert_eq!(state(&rig).await, before, "{}", rpc.name);
        // Each call gets an id of its own, because an id is unique across all calls.
        let fitting = format!("{:r<128}", rpc.short());
        raw::call(&rig, &rpc.name, &[], &fixtures.request(&rpc, &fitting)).await.expect(&rpc.name);
    }
    rig.stop().await;
}

fn cancel(id: &str, request_id: &str) -> v1::CancelJobRequest {
    v1::CancelJobRequest { id: id.to_owned(), request_id: request_id.to_owned(), ..Default::default() }
}

async fn cancelled(rig: &Rig, request: v1::CancelJobRequest) -> Result<v1::CancelJobResponse, Status> {
    soon(rig.jobs.clone().cancel_job(request)).await.map(Response::into_inner)
}

#[tokio::test]
async fn a_change_says_whether_it_is_a_repeat_and_tells_the_job_as_it_was_then() {
    let rig = shelf().await;
    let id = rig.submit(job("echo")).await.id;
    let change = v1::JobChange {
        id: id.clone(),
        state: JobState::Cancelled as i32,
        done: true,
        revision: 2,
        repeated: false,
    };
    let first = cancelled(&rig, cancel(&id, "once")).await.unwrap();
    assert_eq!(first, v1::CancelJobResponse { change: Some(change.clone()), job: None });
    rig.retry(&id).await.unwrap();
    let repeated = v1::JobChange { repeated: true, ..change.clone() };
    let again = cancelled(&rig, cancel(&id, "once")).await.unwrap();
    assert_eq!(again.change, Some(repeated.clone()));
    assert_eq!(rig.get(&id).await.state(), JobState::Queued);
    // Without an id it is a new cancel, and a new cancel of a cancelled job changes nothing.
    for _ in 0..2 {
        let other = cancelled(&rig, cancel(&id, "")).await.unwrap();
        assert_eq!(other.change, Some(v1::JobChange { revision: 4, ..change.clone() }));
    }
    rig.delete(&id).await.unwrap();
    let gone = cancelled(&rig, cancel(&id, "once")).await.unwrap();
    assert_eq!(gone, v1::CancelJobResponse { change: Some(repeated), job: None });
    let refused = refusal(&cancelled(&rig, cancel(&id, "")).await.unwrap_err());
    assert_eq!(refused.reason, "JOB_NOT_FOUND");
    rig.stop().await;
}

#[tokio::test]
async fn the_job_comes_as_it_is_now_and_as_much_of_it_as_each_call_asks_for() {
    let rig = Rig::simple().await;
    rig.pause(QUEUE).await;
    let payload = Some(v1::Payload::of("bytes"));
    let id = rig.submit(v1::JobSpec { payload, ..job("echo") }).await.id;
    let viewed = |view: JobView| v1::CancelJobRequest { view: view as i32, ..cancel(&id, "once") };
    let first = cancelled(&rig, viewed(JobView::Basic)).await.unwrap();
    assert_eq!(first.job.map(|job| job.state()), Some(JobState::Cancelled));
    rig.retry(&id).await.unwrap();
    rig.resume(QUEUE).await;
    rig.ends(&id).await;
    for (view, bytes) in [
        (JobView::Unspecified, None),
        (JobView::Basic, Some((0, 0))),
        (JobView::Result, Some((0, 5))),
        (JobView::Full, Some((5, 5))),
    ] {
        let again = cancelled(&rig, viewed(view)).await.unwrap();
        let change = again.change.unwrap();
        assert_eq!((change.state(), change.repeated), (JobState::Cancelled, true), "{view:?}");
        let shown = again.job.inspect(|job| assert_eq!(job.state(), JobState::Succeeded, "{view:?}"));
        let sizes = shown.map(|job| (crate::support::payload(&job).len(), result(&job).len()));
        assert_eq!(sizes, bytes, "{view:?}");
    }
    let refused =
        refusal(&cancelled(&rig, v1::CancelJobRequest { view: 4, ..cancel(&id, "") }).await.unwrap_err());
    assert_eq!(refused.fields, ["view"]);
    rig.stop().await;
}

#[tokio::test]
async fn repeats_at_the_same_moment_are_one_call() {
    let rig = shelf().await;
    let id = rig.submit(job("echo")).await.id;
    rig.cancel(&id).await.unwrap();
    let retry =
        || v1::RetryJobRequest { id: id.clone(), request_id: "once".to_owned(), ..Default::default() };
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let (mut jobs, request) = (rig.jobs.clone(), retry());
        calls.spawn(async move { jobs.retry_job(request).await.unwrap().into_inner().change.unwrap() });
    }
    let changes = soon(calls.join_all()).await;
    assert_eq!(changes.iter().filter(|change| !change.repeated).count(), 1);
    for change in changes {
        assert_eq!((change.state(), change.revision, change.done), (JobState::Queued, 3, false));
    }
    assert_eq!(rig.get(&id).await.revision, 3);
    rig.stop().await;
}

#[tokio::test]
async fn a_call_that_was_refused_is_judged_anew() {
    let rig = Rig::simple().await;
    rig.pause(QUEUE).await;
    let id = rig.submit(job("echo")).await.id;
    let retry =
        || v1::RetryJobRequest { id: id.clone(), request_id: "once".to_owned(), ..Default::default() };
    let status = soon(rig.jobs.clone().retry_job(retry())).await.unwrap_err();
    assert_eq!(refusal(&status).reason, "WRONG_STATE");
    rig.cancel(&id).await.unwrap();
    let change = soon(rig.jobs.clone().retry_job(retry())).await.unwrap().into_inner().change.unwrap();
    assert_eq!((change.state(), change.repeated), (JobState::Queued, false));
    rig.stop().await;
}

#[tokio::test]
async fn the_deletion_of_a_job_is_ok_again_with_its_id_and_not_found_without() {
    let rig = shelf().await;
    let id = rig.submit(job("echo")).await.id;
    let delete = async |request_id: &str| {
        let request_id = request_id.to_owned();
        let request = v1::DeleteJobRequest { id: id.clone(), request_id, ..Default::default() };
        soon(rig.jobs.clone().delete_job(request)).await
    };
    for _ in 0..3 {
        delete("once").await.unwrap();
    }
    for request_id in ["", "another"] {
        let refused = refusal(&delete(request_id).await.unwrap_err());
        assert_eq!((refused.code, refused.reason.as_str()), (Code::NotFound, "JOB_NOT_FOUND"));
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_purge_that_is_repeated_tells_the_same_number_and_deletes_nothing_more() {
    let home = tempfile::tempdir().unwrap();
    let settings = || with_queue(folder(home.path()), QUEUE, queue(0));
    let mut rig = Rig::start(simple(settings())).await;
    create(&rig, "shelf").await;
    rig.submit_batch(vec![in_queue("shelf", "echo"); 1_000]).await;
    rig.submit_batch(vec![in_queue("shelf", "echo"); 500]).await;
    let purge = async |rig: &Rig, request_id: &str| {
        let request_id = request_id.to_owned();
        let request = v1::PurgeQueueRequest { name: "shelf".to_owned(), request_id, ..Default::default() };
        soon(rig.queues.clone().purge_queue(request)).await.unwrap().into_inner().deleted_jobs
    };
    assert_eq!(purge(&rig, "once").await, 1_500);
    rig.submit_batch(vec![in_queue("shelf", "echo"); 3]).await;
    assert_eq!(purge(&rig, "once").await, 1_500);
    assert_eq!(rig.total().await, 3);
    rig.stop().await;
    rig = Rig::start(simple(settings())).await;
    assert_eq!(purge(&rig, "once").await, 1_500);
    assert_eq!(rig.total().await, 3);
    assert_eq!(purge(&rig, "another").await, 3);
    delete_queue(&rig, "shelf").await;
    assert_eq!(purge(&rig, "once").await, 1_500, "the queue is gone");
    rig.stop().await;
}

#[tokio::test]
async fn repeats_during_a_purge_wait_for_its_end_and_are_told_the_same() {
    let rig = shelf().await;
    for _ in 0..5 {
        rig.submit_batch(vec![job("echo"); 1_000]).await;
    }
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let mut queues = rig.queues.clone();
        let request = v1::PurgeQueueRequest {
            name: QUEUE.to_owned(),
            request_id: "once".to_owned(),
            ..Default::default()
        };
        calls.spawn(async move { queues.purge_queue(request).await.unwrap().into_inner().deleted_jobs });
    }
    assert_eq!(soon(calls.join_all()).await, [5_000; 20]);
    assert_eq!(rig.total().await, 0);
    rig.stop().await;
}

#[tokio::test]
async fn a_purge_that_a_restart_cuts_short_tells_a_repeat_all_that_it_deleted() {
    const JOBS: usize = 20_000;
    let home = tempfile::tempdir().unwrap();
    let settings = || with_queue(folder(home.path()), QUEUE, queue(0));
    let mut rig = Rig::start(simple(settings())).await;
    for _ in 0..JOBS / 1_000 {
        rig.submit_batch(vec![job("echo"); 1_000]).await;
    }
    let request = || v1::PurgeQueueRequest {
        name: QUEUE.to_owned(),
        request_id: "once".to_owned(),
        ..Default::default()
    };
    let mut queues = rig.queues.clone();
    let call = tokio::spawn(async move { queues.purge_queue(request()).await });
    soon(async { while rig.total().await == JOBS as i64 {} }).await;
    rig.force().await;
    let _ = soon(call).await;
    rig = Rig::start(simple(settings())).await;
    let told = soon(rig.queues.clone().purge_queue(request())).await.unwrap().into_inner().deleted_jobs;
    assert_eq!(told, JOBS as i64);
    assert_eq!(rig.total().await, 0);
    rig.stop().await;
}

#[tokio::test]
async fn an_id_is_known_for_a_day() {
    let clock = manual_clock();
    let settings = with_queue(memory(), QUEUE, queue(0));
    let rig = Rig::start(simple(settings).clock(Clock::Manual(clock.clone()))).await;
    let pause = async || {
        let request = v1::PauseQueueRequest {
            name: QUEUE.to_owned(),
            request_id: "once".to_owned(),
            ..Default::default()
        };
        soon(rig.queues.clone().pause_queue(request)).await.unwrap().into_inner().queue.unwrap().paused
    };
    // Other deletions make the server forget old request ids.
    let hours_pass = async |hours: u64| {
        clock.advance(Duration::from_secs(hours * 3_600));
        let other = rig.submit(job("echo")).await.id;
        rig.delete(&other).await.unwrap();
    };
    assert!(pause().await);
    rig.resume(QUEUE).await;
    hours_pass(23).await;
    assert!(!pause().await, "a repeat changes nothing");
    hours_pass(2).await;
    assert!(pause().await, "it is another call by now");
    rig.stop().await;
}

#[tokio::test]
async fn a_queue_that_was_deleted_since_is_absent_and_one_that_was_made_anew_is_told() {
    let rig = shelf().await;
    let request = || v1::CreateQueueRequest {
        name: "shelf".to_owned(),
        settings: Some(no_consumers()),
        request_id: "once".to_owned(),
        ..Default::default()
    };
    let made = async || soon(rig.queues.clone().create_queue(request())).await.unwrap().into_inner().queue;
    let first = made().await.expect("a queue");
    delete_queue(&rig, "shelf").await;
    assert_eq!(made().await, None);
    let settings = Some(v1::QueueSettings { max_jobs: Some(7), ..no_consumers() });
    let anew = v1::CreateQueueRequest { name: "shelf".to_owned(), settings, ..Default::default() };
    soon(rig.queues.clone().create_queue(anew)).await.unwrap();
    let told = made().await.expect("a queue");
    assert_eq!(told.settings.unwrap().max_jobs, Some(7));
    assert_ne!(told.etag, first.etag);
    rig.stop().await;
}
