//! Properties of watches beyond the order of events, which `watch` tests.

use std::{path::Path, time::Duration};

use jobmill::{
    clock::Stopwatch,
    proto::v1::{self, JobState, WatchResync, watch_event::Event},
    settings::Settings,
};
use tonic::Code;

use super::shelf;
use crate::{
    queues::in_queue,
    support::{
        QUEUE, Rig, Stage, Watcher, defaults, describe, folder, job, memory, queue, refusal, simple, soon,
        with_queue,
    },
};

fn by_ids(ids: &[&str], resume_token: &str) -> v1::WatchStatusRequest {
    let ids = ids.iter().map(|&id| id.to_owned()).collect();
    v1::WatchStatusRequest { ids, resume_token: resume_token.to_owned(), ..Default::default() }
}

fn by_filter(resume_token: &str) -> v1::WatchStatusRequest {
    let filter = Some(v1::JobFilter::default());
    v1::WatchStatusRequest { filter, resume_token: resume_token.to_owned(), ..Default::default() }
}

fn shelved(path: &Path) -> Settings {
    with_queue(folder(path), "shelf", queue(0))
}

#[tokio::test]
async fn with_ids_a_token_that_is_too_old_gives_resync_first_and_out_of_range_where_that_is_asked_for() {
    let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let rig = Rig::start(simple(shelved(home.path()))).await;
    let id = rig.submit(in_queue("shelf", "echo")).await.id;
    rig.stop().await;
    for file in std::fs::read_dir(home.path()).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), other.path().join(file.file_name())).unwrap();
    }
    // The token comes from a later history, which the copy does not have.
    let rig = Rig::start(simple(shelved(home.path()))).await;
    rig.cancel(&id).await.unwrap();
    rig.retry(&id).await.unwrap();
    let mut watcher = rig.watch_ids(&[&id]).await;
    watcher.synced().await;
    let token = watcher.token.clone();
    rig.stop().await;

    let rig = Rig::start(simple(shelved(other.path()))).await;
    let resync =
        |resync: WatchResync| v1::WatchStatusRequest { resync: resync as i32, ..by_ids(&[&id], &token) };
    for how in [WatchResync::Unspecified, WatchResync::Snapshot] {
        let mut watcher = rig.watch(resync(how)).await;
        assert_eq!(watcher.lines(3).await, ["resync", "snapshot 1 QUEUED", "synced"], "{how:?}");
        // The job changes on as usual.
        rig.pause("shelf").await;
        drop(watcher);
    }
    let status = soon(rig.jobs.clone().watch_status(resync(WatchResync::Fail))).await.unwrap_err();
    let refused = refusal(&status);
    assert_eq!((refused.code, refused.reason.as_str()), (Code::OutOfRange, "RESUME_TOKEN_TOO_OLD"));
    let mut watcher = rig.watch(resync(WatchResync::Snapshot)).await;
    watcher.lines(3).await;
    rig.cancel(&id).await.unwrap();
    let rest: Vec<_> = watcher.rest().await.unwrap().iter().map(describe).collect();
    assert_eq!(rest, ["updated 2 CANCELLED"]);
    rig.stop().await;
}

#[tokio::test]
async fn with_ids_a_watch_that_goes_on_tells_what_changed_before_synced_and_nothing_else() {
    let rig = shelf().await;
    let [changed, same, gone] = [1, 2, 3].map(|_| rig.submit(job("echo")));
    let (changed, same, gone) = (changed.await.id, same.await.id, gone.await.id);
    let mut watcher = rig.watch_ids(&[&changed, &same, &gone]).await;
    watcher.synced().await;
    let token = watcher.token.clone();
    drop(watcher);
    rig.cancel(&changed).await.unwrap();
    rig.retry(&changed).await.unwrap();
    rig.delete(&gone).await.unwrap();
    let mut watcher = rig.watch(by_ids(&[&changed, &same, &gone], &token)).await;
    assert_eq!(watcher.lines(3).await, ["updated 3 QUEUED", "not found", "synced"]);
    rig.cancel(&same).await.unwrap();
    assert_eq!(watcher.line().await, "updated 2 CANCELLED");
    rig.stop().await;
}

#[tokio::test]
async fn with_a_filter_a_watch_that_goes_on_after_synced_sends_none() {
    let rig = shelf().await;
    let id = rig.submit(job("echo")).await.id;
    let mut watcher = rig.watch(by_filter("")).await;
    assert_eq!(watcher.lines(2).await, ["snapshot 1 QUEUED", "synced"]);
    let token = watcher.token.clone();
    drop(watcher);
    // Once with changes to report, and once without.
    rig.cancel(&id).await.unwrap();
    let mut watcher = rig.watch(by_filter(&token)).await;
    assert_eq!(watcher.line().await, "updated 2 CANCELLED");
    let token = watcher.token.clone();
    let mut watcher = rig.watch(by_filter(&token)).await;
    rig.retry(&id).await.unwrap();
    assert_eq!(watcher.line().await, "updated 3 QUEUED");
    rig.stop().await;
}

/// Returns the next message, and the time from the watch's start to its arrival.
async fn next(watcher: &mut Watcher, watch: Stopwatch) -> (v1::WatchStatusResponse, Duration) {
    let message = watcher.message().await.unwrap().expect("a message");
    (message, watch.elapsed())
}

#[tokio::test]
async fn a_bookmark_comes_after_10_quiet_seconds_and_its_token_goes_on_from_there() {
    let rig = shelf().await;
    let id = rig.submit(job("echo")).await.id;
    let stopwatch = Stopwatch::start();
    let mut watchers = [rig.watch_ids(&[&id]).await, rig.watch(by_filter("")).await];
    for watcher in &mut watchers {
        watcher.synced().await;
    }
    let [ids, filter] = &mut watchers;
    let (ids, filter) = tokio::join!(next(ids, stopwatch), next(filter, stopwatch));
    for ((message, elapsed), request) in [(ids, by_ids(&[&id], "")), (filter, by_filter(""))] {
        assert!(elapsed >= Duration::from_secs(10), "after {elapsed:?}");
        let events: Vec<_> = message.events.into_iter().filter_map(|event| event.event).collect();
        assert!(matches!(events[..], [Event::Bookmark(_)]), "{events:?}");
        let is_by_ids = request.filter.is_none();
        let request = v1::WatchStatusRequest { resume_token: message.resume_token, ..request };
        let mut resumed = rig.watch(request).await;
        if is_by_ids {
            assert_eq!(resumed.line().await, "synced");
            rig.cancel(&id).await.unwrap();
            assert_eq!(resumed.line().await, "updated 2 CANCELLED");
        } else {
            assert_eq!(resumed.line().await, "updated 2 CANCELLED", "what came after the bookmark");
        }
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_watch_by_ids_that_is_open_waits_for_the_new_end_of_a_retried_job_and_one_that_is_over_stays_over()
{
    let (handler, mut stage) = Stage::new();
    let settings = with_queue(memory(), QUEUE, queue(1));
    let rig = Rig::start(simple(settings).handler("stage", defaults(), handler)).await;
    let id = rig.submit(v1::JobSpec { max_attempts: 1, ..job("stage") }).await.id;
    let cue = stage.next().await;
    let other = rig.submit(job("stage")).await.id;
    let mut over = rig.watch_ids(&[&id]).await;
    let mut open = rig.watch_ids(&[&id, &other]).await;
    over.synced().await;
    open.synced().await;
    cue.fails();
    let told: Vec<_> = over.rest().await.unwrap().iter().map(describe).collect();
    assert_eq!(told, ["updated 2 FAILED"]);
    let token = over.token.clone();
    open.until(JobState::Failed).await;
    rig.retry(&id).await.unwrap();
    open.until(JobState::Queued).await;
    assert_eq!(over.event().await.unwrap(), None, "its stream has ended");
    // The token of the ended stream still resumes.
    let mut again = rig.watch(by_ids(&[&id], &token)).await;
    assert_eq!(again.lines(2).await, ["updated 3 QUEUED", "synced"]);
    // The other job ends first, and the watch still waits for the retried one.
    stage.next().await.succeeds();
    rig.ends(&other).await;
    stage.next().await.succeeds();
    let ends = |events: Vec<Event>| {
        let jobs = events.into_iter().filter_map(|event| match event {
            Event::Updated(v1::JobUpdated { job, .. }) => job,
            _ => None,
        });
        jobs.filter(|job| job.done).count()
    };
    assert_eq!(ends(open.rest().await.unwrap()), 2);
    assert_eq!(ends(again.rest().await.unwrap()), 1);
    rig.stop().await;
}
