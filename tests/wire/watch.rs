//! Watches: events, their order, and what a reconnect or a slow reader misses, which is nothing.

use std::{collections::HashMap, path::Path, time::Duration};

use jobmill::{
    clock::Clock,
    execute::{Attempt, HandlerError},
    job::{Output, PayloadInfo, RetryPolicy},
    proto::v1::{
        self, JobState, WatchDetail, WatchResync, WatchStart, job_queue_client::JobQueueClient,
        watch_event::Event,
    },
    serve::{Server, ServerBuilder},
    settings::{KindDefaults, Settings},
};
use tonic::{Code, transport::Endpoint};

use crate::support::{
    QUEUE, Rig, Stage, Watcher, defaults, describe, folder, job, manual_clock, memory, payload, queue,
    refusal, result, result_type, simple, soon, with_queue,
};

const EVERY: i32 = WatchDetail::EveryTransition as i32;

fn by_filter(filter: v1::JobFilter) -> v1::WatchStatusRequest {
    v1::WatchStatusRequest { filter: Some(filter), detail: EVERY, ..v1::WatchStatusRequest::default() }
}

fn everything() -> v1::WatchStatusRequest {
    by_filter(v1::JobFilter::default())
}

fn in_states(states: &[JobState]) -> v1::JobFilter {
    v1::JobFilter { states: states.iter().map(|state| *state as i32).collect(), ..v1::JobFilter::default() }
}

fn staged(settings: Settings) -> (ServerBuilder, Stage) {
    let (handler, stage) = Stage::new();
    (simple(settings).handler("stage", defaults(), handler), stage)
}

async fn one_at_a_time() -> (Rig, Stage) {
    let (builder, stage) = staged(with_queue(memory(), QUEUE, queue(1)));
    (Rig::start(builder).await, stage)
}

fn id_of(event: &Event) -> String {
    match event {
        Event::Snapshot(job) | Event::Updated(v1::JobUpdated { job: Some(job), .. }) => job.id.clone(),
        Event::Left(v1::JobLeft { id, .. })
        | Event::Deleted(v1::JobDeleted { id })
        | Event::NotFound(v1::JobNotFound { id }) => id.clone(),
        event => panic!("{} is of no job", describe(event)),
    }
}

fn text(events: &[Event]) -> Vec<String> {
    events.iter().map(describe).collect()
}

#[tokio::test]
async fn a_watch_by_ids_ends_with_the_last_of_its_jobs_and_not_before() {
    let (rig, mut stage) = one_at_a_time().await;
    let first = rig.submit(job("stage")).await.id;
    let second = rig.submit(job("stage")).await.id;
    // An id that is named twice is watched once.
    let mut watcher = rig.watch_ids(&[&first, &second, &first]).await;
    assert_eq!(watcher.lines(3).await, ["snapshot 1 RUNNING", "snapshot 1 QUEUED", "synced"]);
    stage.next().await.succeeds();
    assert_eq!(watcher.lines(2).await, ["updated 2 SUCCEEDED", "updated 2 RUNNING"]);
    stage.next().await.succeeds();
    assert_eq!(text(&watcher.rest().await.unwrap()), ["updated 3 SUCCEEDED"]);
    rig.stop().await;
}

#[tokio::test]
async fn what_has_ended_or_is_not_there_is_told_and_the_watch_is_over() {
    let rig = Rig::simple().await;
    let id = rig.submit(job("echo")).await.id;
    rig.ends(&id).await;
    let events = rig.watch_ids(&[&id, "0000000000001"]).await.rest().await.unwrap();
    assert_eq!(text(&events), ["snapshot 2 SUCCEEDED", "not found", "synced"]);
    assert_eq!(id_of(&events[1]), "0000000000001");
    rig.stop().await;
}

#[tokio::test]
async fn a_retry_during_a_watch_is_told_and_an_ended_job_is_not_waited_for() {
    let (rig, mut stage) = one_at_a_time().await;
    let failing = rig.submit(v1::JobSpec { max_attempts: 1, ..job("stage") }).await.id;
    let other = rig.submit(job("stage")).await.id;
    let mut watcher = rig.watch_ids(&[&failing, &other]).await;
    watcher.synced().await;
    stage.next().await.fails();
    assert_eq!(watcher.lines(2).await, ["updated 2 FAILED", "updated 2 RUNNING"]);
    // The job had ended. It runs again, and the watch must report its new end.
    rig.retry(&failing).await.unwrap();
    assert_eq!(watcher.line().await, "updated 3 QUEUED");
    stage.next().await.succeeds();
    assert_eq!(watcher.lines(2).await, ["updated 3 SUCCEEDED", "updated 4 RUNNING"]);
    stage.next().await.succeeds();
    assert_eq!(text(&watcher.rest().await.unwrap()), ["updated 5 SUCCEEDED"]);
    rig.stop().await;
}

#[tokio::test]
async fn a_deleted_job_ends_its_watch() {
    let rig = Rig::start(simple(with_queue(memory(), QUEUE, queue(0)))).await;
    let id = rig.submit(job("echo")).await.id;
    let mut watcher = rig.watch_ids(&[&id]).await;
    watcher.synced().await;
    rig.delete(&id).await.unwrap();
    assert_eq!(text(&watcher.rest().await.unwrap()), ["deleted"]);
    rig.stop().await;
}

#[tokio::test]
async fn a_watcher_that_keeps_up_sees_every_change_of_a_thousand_jobs_that_change_at_once() {
    let rig = Rig::start(simple(with_queue(memory(), QUEUE, queue(1_000)))).await;
    rig.pause(QUEUE).await;
    let ids = rig.submit_batch(vec![job("echo"); 1_000]).await;
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    let mut by_ids = rig.watch_ids(&ids).await;
    let mut by_filter = rig.watch(everything()).await;
    assert_eq!((by_ids.synced().await.len(), by_filter.synced().await.len()), (1_000, 1_000));
    // All of them start in one commit.
    rig.resume(QUEUE).await;
    let mut from_filter = Vec::new();
    for _ in 0..2_000 {
        from_filter.push(by_filter.next().await);
    }
    for events in [by_ids.rest().await.unwrap(), from_filter] {
        let mut told: HashMap<String, Vec<String>> = HashMap::new();
        for event in &events {
            told.entry(id_of(event)).or_default().push(describe(event));
        }
        assert_eq!(told.len(), 1_000);
        for (id, lines) in told {
            assert_eq!(lines, ["updated 2 RUNNING", "updated 3 SUCCEEDED"], "{id}");
        }
    }
    rig.stop().await;
}

#[tokio::test]
async fn a_filter_tells_what_fits_what_comes_what_leaves_and_what_is_deleted() {
    let (rig, mut stage) = one_at_a_time().await;
    let running = rig.submit(job("stage")).await.id;
    let cue = stage.next().await;
    let queued = rig.submit(job("stage")).await.id;
    let mut waiting = rig.watch(by_filter(in_states(&[JobState::Queued]))).await;
    let mut all = rig.watch(everything()).await;
    assert_eq!(waiting.synced().await.into_iter().map(|job| job.id).collect::<Vec<_>>(), [queued.as_str()]);
    assert_eq!(all.synced().await.len(), 2);

    cue.succeeds();
    let cue = stage.next().await;
    assert_eq!(waiting.line().await, "left RUNNING");
    assert_eq!(all.lines(2).await, ["updated 2 SUCCEEDED", "updated 2 RUNNING"]);
    let another = rig.submit(job("stage")).await.id;
    let event = waiting.next().await;
    assert_eq!((describe(&event).as_str(), id_of(&event)), ("updated 1 QUEUED", another.clone()));
    rig.delete(&another).await.unwrap();
    assert_eq!(waiting.line().await, "deleted");
    rig.delete(&running).await.unwrap();
    assert_eq!(all.lines(3).await, ["updated 1 QUEUED", "deleted", "deleted"]);
    cue.succeeds();
    assert_eq!(all.line().await, "updated 3 SUCCEEDED");
    rig.stop().await;
}

#[tokio::test]
async fn a_filter_looks_at_queue_kind_and_labels() {
    let rig = Rig::start(simple(with_queue(memory(), "other", queue(4)))).await;
    let labels = |value: &str| [("tenant".to_owned(), value.to_owned())].into();
    let filter = v1::JobFilter {
        queues: vec![QUEUE.to_owned()],
        kinds: vec!["echo".to_owned()],
        labels: labels("a"),
        ..in_states(&[JobState::Succeeded])
    };
    let mut watcher = rig.watch(by_filter(filter)).await;
    watcher.synced().await;
    let fitting = v1::JobSpec { labels: labels("a"), ..job("echo") };
    for spec in [
        v1::JobSpec { labels: labels("b"), ..job("echo") },
        job("echo"),
        v1::JobSpec { queue: "other".to_owned(), ..fitting.clone() },
        v1::JobSpec { labels: labels("a"), max_attempts: 1, ..job("fail") },
    ] {
        let id = rig.submit(spec).await.id;
        rig.ends(&id).await;
    }
    let id = rig.submit(fitting).await.id;
    let event = watcher.next().await;
    assert_eq!((describe(&event).as_str(), id_of(&event)), ("updated 2 SUCCEEDED", id));
    rig.stop().await;
}

#[tokio::test]
async fn now_skips_the_snapshot() {
    let rig = Rig::start(simple(with_queue(memory(), QUEUE, queue(0)))).await;
    rig.submit(job("echo")).await;
    let request = v1::WatchStatusRequest { start: WatchStart::Now as i32, ..everything() };
    let mut watcher = rig.watch(request).await;
    let second = rig.submit(job("echo")).await.id;
    let event = watcher.next().await;
    assert_eq!((describe(&event).as_str(), id_of(&event)), ("updated 1 QUEUED", second));
    rig.stop().await;
}

#[tokio::test]
async fn the_token_of_a_submission_misses_nothing_after_it() {
    let (rig, mut stage) = one_at_a_time().await;
    let request = crate::support::submission(job("stage"));
    let answer = soon(rig.jobs.clone().submit(request)).await.unwrap().into_inner();
    let id = answer.id().to_owned();
    stage.next().await.succeeds();
    rig.ends(&id).await;
    for request in [everything(), v1::WatchStatusRequest { ids: vec![id], ..Default::default() }] {
        let resume_token = answer.resume_token.clone();
        let mut watcher = rig.watch(v1::WatchStatusRequest { resume_token, ..request }).await;
        assert_eq!(watcher.line().await, "updated 2 SUCCEEDED");
    }
    rig.stop().await;
}

#[tokio::test]
async fn from_any_token_a_watch_by_ids_goes_on_without_a_gap_or_a_repeat() {
    let (rig, mut stage) = one_at_a_time().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(rig.submit(job("stage")).await.id);
    }
    let request = || v1::WatchStatusRequest { ids: ids.clone(), detail: EVERY, ..Default::default() };
    let mut watcher = rig.watch(request()).await;
    let mut told: HashMap<String, i64> =
        watcher.synced().await.into_iter().map(|job| (job.id, job.revision)).collect();
    let mut ended = 0;
    let mut resume_token = watcher.token.clone();
    // Resumes after each message, with changes in between that no watch reports.
    for round in 1..=5 {
        drop(watcher);
        stage.next().await.succeeds();
        watcher = rig.watch(v1::WatchStatusRequest { resume_token, ..request() }).await;
        loop {
            let message = watcher.message().await.unwrap().expect("news");
            resume_token = message.resume_token;
            for event in message.events.into_iter().filter_map(|event| event.event) {
                match event {
                    Event::Synced(_) => {}
                    Event::Updated(v1::JobUpdated { job: Some(job), .. }) => {
                        ended += usize::from(job.done);
                        let before = told.insert(job.id, job.revision).unwrap();
                        assert!(job.revision > before, "{} was told before", job.revision);
                    }
                    event => panic!("{} after a resume", describe(&event)),
                }
            }
            if ended == round {
                break;
            }
        }
    }
    watcher.rest().await.unwrap();
    assert!(told.values().all(|revision| *revision >= 2), "{told:?}");
    rig.stop().await;
}

/// Returns what a watch by filter reports up to the last revision of a job.
async fn up_to(watcher: &mut Watcher, id: &str, revision: i64) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let event = watcher.next().await;
        lines.push(describe(&event));
        if let Event::Updated(v1::JobUpdated { job: Some(job), .. }) = &event
            && job.id == id
            && job.revision == revision
        {
            return lines;
        }
    }
}

fn on_disk(home: &Path) -> Settings {
    with_queue(folder(home), QUEUE, queue(1))
}

#[tokio::test]
async fn from_its_token_a_watch_by_filter_goes_on_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let (builder, mut stage) = staged(on_disk(home.path()));
    let rig = Rig::start(builder).await;
    let first = rig.submit(job("stage")).await.id;
    let mut watcher = rig.watch(everything()).await;
    watcher.synced().await;
    let resume_token = watcher.token.clone();
    drop(watcher);
    stage.next().await.succeeds();
    rig.ends(&first).await;
    let deleted = rig.submit(job("echo")).await.id;
    rig.ends(&deleted).await;
    rig.delete(&deleted).await.unwrap();
    rig.stop().await;

    let (builder, mut stage) = staged(on_disk(home.path()));
    let rig = Rig::start(builder).await;
    let second = rig.submit(job("stage")).await.id;
    let cue = stage.next().await;
    let request = v1::WatchStatusRequest { resume_token, ..everything() };
    let mut watcher = rig.watch(request.clone()).await;
    assert_eq!(
        up_to(&mut watcher, &second, 1).await,
        ["updated 2 SUCCEEDED", "deleted", "updated 1 RUNNING"]
    );
    // Reported events are not repeated; later ones arrive as they happen.
    let resume_token = watcher.token.clone();
    let mut again = rig.watch(v1::WatchStatusRequest { resume_token, ..request }).await;
    cue.succeeds();
    assert_eq!(again.line().await, "updated 2 SUCCEEDED");
    assert_eq!(watcher.line().await, "updated 2 SUCCEEDED");
    rig.stop().await;
}

#[tokio::test]
async fn a_snapshot_that_was_cut_off_half_way_goes_on_and_misses_no_change_of_what_it_told() {
    let rig = Rig::start(simple(with_queue(memory(), QUEUE, queue(0)))).await;
    let ids = rig.submit_batch(vec![job("echo"); 600]).await;
    let mut watcher = rig.watch(everything()).await;
    let page = watcher.message().await.unwrap().unwrap();
    assert!((1..600).contains(&page.events.len()), "{} events in a message", page.events.len());
    drop(watcher);
    // The first page showed the first job as QUEUED; the last page has not shown the last one yet.
    rig.cancel(&ids[0]).await.unwrap();
    rig.cancel(&ids[599]).await.unwrap();

    let request = v1::WatchStatusRequest { resume_token: page.resume_token, ..everything() };
    let mut watcher = rig.watch(request).await;
    let rest = watcher.synced().await;
    assert_eq!(page.events.len() + rest.len(), 600);
    assert_eq!(rest.last().unwrap().state(), JobState::Cancelled);
    let event = watcher.next().await;
    assert_eq!((describe(&event).as_str(), &id_of(&event)), ("updated 2 CANCELLED", &ids[0]));
    rig.cancel(&ids[1]).await.unwrap();
    let event = watcher.next().await;
    assert_eq!((describe(&event).as_str(), &id_of(&event)), ("updated 2 CANCELLED", &ids[1]));
    rig.stop().await;
}

#[tokio::test]
async fn a_watcher_that_does_not_read_gets_the_latest_states_and_holds_up_no_other() {
    const JOBS: usize = 7_000;
    let rig = Rig::start(simple(with_queue(memory(), QUEUE, queue(1_000)))).await;
    rig.pause(QUEUE).await;
    // A small window, so that little is sent ahead of what the client reads.
    let endpoint = Endpoint::from_shared(format!("http://{}", rig.address())).unwrap();
    let channel = endpoint.initial_stream_window_size(65_535).connect().await.unwrap();
    let stream = soon(JobQueueClient::new(channel).watch_status(everything())).await.unwrap().into_inner();
    let mut slow = Watcher::new(stream);
    slow.synced().await;
    let mut last = String::new();
    for _ in 0..JOBS / 1_000 {
        let spec = v1::JobSpec { labels: [("pad".to_owned(), "x".repeat(200))].into(), ..job("echo") };
        last = rig.submit_batch(vec![spec; 1_000]).await.pop().unwrap();
    }
    rig.resume(QUEUE).await;
    // QUEUED, RUNNING and SUCCEEDED: 21,000 changes, more than the server keeps in memory.
    rig.ends(&last).await;
    let done = async { while rig.queue(QUEUE).await.stats.unwrap().live_jobs > 0 {} };
    soon(done).await;

    let mut revisions: HashMap<String, i64> = HashMap::new();
    let (mut events, mut ended) = (0, 0);
    while ended < JOBS {
        let Event::Updated(v1::JobUpdated { job: Some(job), .. }) = slow.next().await else {
            panic!("no update")
        };
        events += 1;
        let before = revisions.insert(job.id.clone(), job.revision).unwrap_or(0);
        assert!(job.revision > before);
        ended += usize::from(job.state() == JobState::Succeeded);
    }
    assert_eq!(revisions.len(), JOBS);
    assert!(revisions.values().all(|revision| *revision == 3));
    assert!(events < 3 * JOBS, "nothing was merged");
    rig.stop().await;
}

#[tokio::test]
async fn latest_merges_what_comes_together_and_counts_it() {
    let now = KindDefaults {
        retry: RetryPolicy {
            initial_delay: Duration::ZERO,
            max_delay: Duration::ZERO,
            ..RetryPolicy::DEFAULT
        },
        ..defaults()
    };
    let rig = Rig::start(Server::builder(memory()).handler("fail", now, crate::support::fail)).await;
    rig.pause(QUEUE).await;
    let id = rig.submit(v1::JobSpec { max_attempts: 100, ..job("fail") }).await.id;
    let request = v1::WatchStatusRequest { ids: vec![id], ..Default::default() };
    let mut watcher = rig.watch(request).await;
    let mut revision = watcher.synced().await[0].revision;
    rig.resume(QUEUE).await;
    let events = watcher.rest().await.unwrap();
    for event in &events {
        let Event::Updated(v1::JobUpdated { job: Some(job), merged }) = event else { panic!("no update") };
        assert_eq!(job.revision, revision + merged.unwrap() + 1);
        revision = job.revision;
    }
    assert_eq!(describe(events.last().unwrap()).split(' ').nth(2), Some("FAILED"));
    rig.stop().await;
}

#[tokio::test]
async fn a_token_from_before_what_was_forgotten_is_never_a_silent_gap() {
    let clock = manual_clock();
    let rig =
        Rig::start(simple(with_queue(memory(), QUEUE, queue(0))).clock(Clock::Manual(clock.clone()))).await;
    let mut watcher = rig.watch(everything()).await;
    watcher.synced().await;
    let old = watcher.token.clone();
    // The tombstones are pruned by time and by other deletions, and enough changes follow to push them out of memory.
    let first = rig.submit(job("echo")).await.id;
    rig.delete(&first).await.unwrap();
    clock.advance(Duration::from_secs(25 * 3600));
    let second = rig.submit(job("echo")).await.id;
    rig.delete(&second).await.unwrap();
    for _ in 0..17 {
        rig.submit_batch(vec![job("echo"); 1_000]).await;
    }

    let resume = |resync: WatchResync| v1::WatchStatusRequest {
        resume_token: old.clone(),
        resync: resync as i32,
        ..everything()
    };
    let mut watcher = rig.watch(resume(WatchResync::Fail)).await;
    let refused = refusal(&watcher.event().await.unwrap_err());
    assert_eq!((refused.code, refused.reason.as_str()), (Code::OutOfRange, "RESUME_TOKEN_TOO_OLD"));
    let mut watcher = rig.watch(resume(WatchResync::Snapshot)).await;
    assert_eq!(watcher.line().await, "resync");
    assert_eq!(watcher.synced().await.len(), 17_000);
    rig.stop().await;
}

#[tokio::test]
async fn a_token_from_a_history_that_a_restored_backup_does_not_have_is_too_old() {
    let home = tempfile::tempdir().unwrap();
    let backup = tempfile::tempdir().unwrap();
    let rig = Rig::start(simple(on_disk(home.path()))).await;
    let id = rig.submit(job("echo")).await.id;
    rig.ends(&id).await;
    rig.stop().await;
    for file in ["jobmill.db", "jobmill.db-wal"] {
        if home.path().join(file).exists() {
            std::fs::copy(home.path().join(file), backup.path().join(file)).unwrap();
        }
    }
    let rig = Rig::start(simple(on_disk(home.path()))).await;
    let id = rig.submit(job("echo")).await.id;
    rig.ends(&id).await;
    let mut watcher = rig.watch(everything()).await;
    watcher.synced().await;
    let resume_token = watcher.token.clone();
    rig.stop().await;

    let rig = Rig::start(simple(on_disk(backup.path()))).await;
    let request = |resync: WatchResync| v1::WatchStatusRequest {
        resume_token: resume_token.clone(),
        resync: resync as i32,
        ..everything()
    };
    let refused = soon(rig.jobs.clone().watch_status(request(WatchResync::Fail))).await.unwrap_err();
    assert_eq!(
        (refusal(&refused).code, refusal(&refused).reason.as_str()),
        (Code::OutOfRange, "RESUME_TOKEN_TOO_OLD")
    );
    let mut watcher = rig.watch(request(WatchResync::Snapshot)).await;
    assert_eq!(watcher.lines(3).await, ["resync", "snapshot 2 SUCCEEDED", "synced"]);
    rig.stop().await;
}

#[tokio::test]
async fn a_server_that_stops_says_so_and_the_token_goes_on_elsewhere() {
    let home = tempfile::tempdir().unwrap();
    let (builder, mut stage) = staged(on_disk(home.path()));
    let rig = Rig::start(builder).await;
    let id = rig.submit(job("stage")).await.id;
    let mut by_ids = rig.watch_ids(&[&id]).await;
    let mut by_filter = rig.watch(everything()).await;
    by_ids.synced().await;
    by_filter.synced().await;
    let cue = stage.next().await;
    rig.stopper().drain();
    for watcher in [&mut by_ids, &mut by_filter] {
        assert_eq!(watcher.line().await, "closing");
        let refused = refusal(&watcher.event().await.unwrap_err());
        assert_eq!((refused.code, refused.reason.as_str()), (Code::Unavailable, "STOPPING"));
    }
    // The attempt ends while the server drains, and the watch is not connected.
    cue.succeeds();
    rig.stop().await;

    let (builder, _stage) = staged(on_disk(home.path()));
    let rig = Rig::start(builder).await;
    let resumed = v1::WatchStatusRequest {
        ids: vec![id],
        detail: EVERY,
        resume_token: by_ids.token.clone(),
        ..Default::default()
    };
    assert_eq!(text(&rig.watch(resumed).await.rest().await.unwrap()), ["updated 2 SUCCEEDED", "synced"]);
    let resumed = v1::WatchStatusRequest { resume_token: by_filter.token.clone(), ..everything() };
    assert_eq!(rig.watch(resumed).await.line().await, "updated 2 SUCCEEDED");
    rig.stop().await;
}

#[tokio::test]
async fn the_full_view_has_payload_result_and_attempts_and_fits_into_what_clients_read() {
    let rig = Rig::start(simple(memory())).await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(
            rig.submit(v1::JobSpec { payload: Some(v1::Payload::of(vec![7; 1 << 20])), ..job("echo") })
                .await
                .id,
        );
    }
    for id in &ids {
        rig.ends(id).await;
    }
    for request in [everything(), v1::WatchStatusRequest { ids: ids.clone(), ..Default::default() }] {
        let mut watcher =
            rig.watch(v1::WatchStatusRequest { view: v1::JobView::Full as i32, ..request }).await;
        let jobs = watcher.synced().await;
        assert_eq!(jobs.len(), 5);
        for job in jobs {
            assert_eq!((payload(&job).len(), result(&job).len(), job.attempts.len()), (1 << 20, 1 << 20, 1));
        }
    }
    let jobs = rig.watch(everything()).await.synced().await;
    assert!(
        jobs.iter().all(|job| payload(job).is_empty() && result(job).is_empty() && job.attempts.is_empty())
    );
    rig.stop().await;
}

#[tokio::test]
async fn the_largest_job_that_there_can_be_is_told_and_listed_to_clients_that_read_what_is_usual() {
    let now = KindDefaults {
        retry: RetryPolicy {
            initial_delay: Duration::ZERO,
            max_delay: Duration::ZERO,
            ..RetryPolicy::DEFAULT
        },
        max_attempts: 1_000,
        ..defaults()
    };
    let handler = async |attempt: Attempt| {
        if attempt.number() < attempt.job().max_attempts {
            return Err(HandlerError::retryable("m".repeat(10_000)).with_code("c".repeat(10_000)));
        }
        attempt.output_line("o".repeat(1 << 20));
        Ok(Output { bytes: vec![7; 1 << 20].into(), info: PayloadInfo::typed("t".repeat(10_000)) })
    };
    let rig = Rig::start(simple(memory()).handler("large", now, handler)).await;
    let large = v1::JobSpec {
        payload: Some(v1::Payload {
            metadata: (0..16).map(|n| (format!("{n:02}"), "m".repeat(254))).collect(),
            ..v1::Payload::of(vec![7; 1 << 20]).with_type("t".repeat(128))
        }),
        headers: (0..32).map(|n| (format!("{n:02}"), "h".repeat(254))).collect(),
        labels: (0..32).map(|n| (format!("{n:063}"), "v".repeat(256))).collect(),
        ..job("large")
    };
    let middling = v1::JobSpec { payload: Some(v1::Payload::of(vec![7; 700 << 10])), ..job("echo") };
    let mut ids = Vec::new();
    for spec in [middling.clone(), large, middling] {
        ids.push(rig.submit(spec).await.id);
        rig.ends(&ids[ids.len() - 1]).await;
    }
    let job = rig.get(&ids[1]).await;
    assert_eq!((job.state(), job.attempts.len(), result_type(&job).len()), (JobState::Succeeded, 1_000, 128));
    let failure = job.attempts[0].failure.as_ref().unwrap();
    assert_eq!((failure.message.len(), failure.code.len()), (1_024, 128));

    let view = v1::JobView::Full as i32;
    let told = rig.watch(v1::WatchStatusRequest { view, ..everything() }).await.synced().await;
    assert_eq!(told.into_iter().map(|job| job.id).collect::<Vec<_>>(), ids);
    let (mut listed, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = v1::ListJobsRequest { view, page_token, ..Default::default() };
        let page = soon(rig.jobs.clone().list_jobs(request)).await.unwrap().into_inner();
        listed.extend(page.jobs.into_iter().map(|job| job.id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    ids.reverse();
    assert_eq!(listed, ids);
    rig.stop().await;
}
