//! The QueueService: queues that are created by calls and by the file, pausing, purging, counting.

use std::collections::BTreeMap;

use jobmill::{
    clock::{ClockReading, Timestamp, Uptime},
    engine::{Action, Batch, CallerId, Control, EngineSetup, NewJob, Offer, Outcome, ReplySlot, Submitted},
    job::{AtLeastOne, RetryPolicy},
    proto::v1::{self, JobState, keep::Keep},
    settings::{QueueSettings, WhenFull},
    shard::{Applied, Ledger},
    store::{Store, memory::MemoryStore, sqlite::SqliteStore},
};
use tokio::sync::oneshot::error::TryRecvError;
use tonic::Code;

use crate::support::{
    QUEUE, Rig, Stage, defaults, folder, job, memory, payload, queue, refusal, result, run_time, simple,
    soon, update_of, with_queue,
};

pub(crate) fn in_queue(queue: &str, kind: &str) -> v1::JobSpec {
    v1::JobSpec { queue: queue.to_owned(), ..job(kind) }
}

async fn create(rig: &Rig, name: &str, settings: v1::QueueSettings) -> Result<v1::Queue, tonic::Status> {
    let request =
        v1::CreateQueueRequest { name: name.to_owned(), settings: Some(settings), ..Default::default() };
    soon(rig.queues.clone().create_queue(request)).await.map(|done| done.into_inner().queue.unwrap())
}

async fn update(rig: &Rig, name: &str, settings: v1::QueueSettings) -> Result<v1::Queue, tonic::Status> {
    soon(rig.queues.clone().update_queue(update_of(name, settings)))
        .await
        .map(|done| done.into_inner().queue.unwrap())
}

async fn delete(rig: &Rig, name: &str) -> Result<(), tonic::Status> {
    let request = v1::DeleteQueueRequest { name: name.to_owned(), ..Default::default() };
    soon(rig.queues.clone().delete_queue(request)).await.map(|_| ())
}

async fn purge(rig: &Rig, name: &str) -> i64 {
    let request = v1::PurgeQueueRequest { name: name.to_owned(), ..Default::default() };
    soon(rig.queues.clone().purge_queue(request)).await.unwrap().into_inner().deleted_jobs
}

async fn names(rig: &Rig) -> Vec<String> {
    let listed = soon(
        rig.queues.clone().list_queues(v1::ListQueuesRequest { page_size: 1_000, ..Default::default() }),
    )
    .await
    .unwrap();
    listed.into_inner().queues.into_iter().map(|queue| queue.name).collect()
}

fn keep(keep: Keep) -> Option<v1::Keep> {
    Some(v1::Keep { keep: Some(keep) })
}

fn counts(counts: &[v1::StateCount]) -> BTreeMap<JobState, i64> {
    counts.iter().map(|count| (count.state(), count.count)).collect()
}

#[tokio::test]
async fn a_queue_is_created_changed_and_deleted_and_stays_so_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let rig = Rig::start(simple(folder(home.path()))).await;
    let created = create(&rig, "mail", v1::QueueSettings::default()).await.unwrap();
    let settings = created.settings.unwrap();
    assert_eq!((settings.max_jobs, settings.max_bytes), (Some(100_000), Some(1 << 30)));
    assert_eq!((settings.when_full(), settings.max_waiters), (v1::WhenFull::Wait, Some(1_000)));
    assert_eq!((created.paused, created.declared), (false, false));
    assert_eq!(
        refusal(&create(&rig, "mail", v1::QueueSettings::default()).await.unwrap_err()).code,
        Code::AlreadyExists
    );

    let changed = v1::QueueSettings {
        max_jobs: Some(7),
        max_bytes: Some(1 << 20),
        consumers: Some(0),
        when_full: v1::WhenFull::Reject as i32,
        max_wait: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
        max_waiters: Some(0),
        accept_unknown_kinds: Some(true),
        fair_by: "tenant".to_owned(),
        retention: Some(v1::Retention {
            succeeded: keep(Keep::Time(prost_types::Duration { seconds: 0, nanos: 0 })),
            failed: keep(Keep::Forever(true)),
            cancelled: keep(Keep::Time(prost_types::Duration { seconds: 3_650 * 86_400, nanos: 0 })),
            expired: None,
        }),
    };
    assert_eq!(update(&rig, "mail", changed.clone()).await.unwrap().settings, Some(changed.clone()));
    create(&rig, "another", v1::QueueSettings::default()).await.unwrap();
    delete(&rig, "another").await.unwrap();
    rig.stop().await;

    let rig = Rig::start(simple(folder(home.path()))).await;
    assert_eq!(names(&rig).await, ["default", "mail"]);
    assert_eq!(rig.queue("mail").await.settings, Some(changed));
    // The name of a deleted queue can be used again, and the new queue inherits nothing.
    let again = create(&rig, "another", v1::QueueSettings::default()).await.unwrap();
    assert_eq!(again.stats.unwrap().live_jobs, 0);
    rig.stop().await;
}

#[tokio::test]
async fn a_queue_with_jobs_cannot_be_deleted_but_its_ended_jobs_outlive_it() {
    let rig = Rig::simple().await;
    create(&rig, "q", v1::QueueSettings { consumers: Some(0), ..Default::default() }).await.unwrap();
    let id = rig.submit(in_queue("q", "echo")).await.id;
    let refused = refusal(&delete(&rig, "q").await.unwrap_err());
    assert_eq!((refused.code, refused.reason.as_str()), (Code::FailedPrecondition, "QUEUE_NOT_EMPTY"));
    assert!(refused.message.contains("1 job"), "{}", refused.message);
    rig.cancel(&id).await.unwrap();
    delete(&rig, "q").await.unwrap();
    assert_eq!(rig.get(&id).await.state(), JobState::Cancelled);
    let refused =
        rig.jobs.clone().submit(crate::support::submission(in_queue("q", "echo"))).await.unwrap_err();
    assert_eq!(refusal(&refused).reason, "QUEUE_NOT_FOUND");
    rig.stop().await;
}

#[tokio::test]
async fn what_the_file_declares_is_changed_in_the_file_only() {
    let home = tempfile::tempdir().unwrap();
    let declared = QueueSettings { max_jobs: 5, when_full: WhenFull::Reject, ..queue(2) };
    let rig = Rig::start(simple(with_queue(folder(home.path()), "declared", declared))).await;
    assert!(rig.queue("declared").await.declared);
    for status in [
        update(&rig, "declared", v1::QueueSettings::default()).await.unwrap_err(),
        delete(&rig, "declared").await.unwrap_err(),
        delete(&rig, QUEUE).await.unwrap_err(),
    ] {
        let refused = refusal(&status);
        assert_eq!((refused.code, refused.reason.as_str()), (Code::FailedPrecondition, "QUEUE_DECLARED"));
        assert!(refused.message.contains("configuration file"));
    }
    rig.stop().await;

    // The file now declares other settings, and later none.
    let rig = Rig::start(simple(with_queue(folder(home.path()), "declared", queue(3)))).await;
    assert_eq!(rig.queue("declared").await.settings.unwrap().consumers, Some(3));
    rig.stop().await;
    let rig = Rig::start(simple(folder(home.path()))).await;
    let left = rig.queue("declared").await;
    assert_eq!((left.declared, left.settings.unwrap().consumers), (false, Some(3)));
    delete(&rig, "declared").await.unwrap();
    rig.stop().await;
}

#[tokio::test]
async fn a_pause_survives_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let rig = Rig::start(simple(folder(home.path()))).await;
    rig.pause(QUEUE).await;
    let id = rig.submit(job("echo")).await.id;
    rig.stop().await;
    let rig = Rig::start(simple(folder(home.path()))).await;
    assert!(rig.queue(QUEUE).await.paused);
    assert_eq!(rig.get(&id).await.state(), JobState::Queued);
    rig.resume(QUEUE).await;
    assert_eq!(rig.ends(&id).await.state(), JobState::Succeeded);
    rig.stop().await;
}

#[tokio::test]
async fn a_purge_deletes_what_waits_and_nothing_else() {
    let (handler, mut stage) = Stage::new();
    let settings = with_queue(with_queue(memory(), "other", queue(0)), QUEUE, queue(1));
    let rig = Rig::start(simple(settings).handler("stage", defaults(), handler)).await;
    let ended = rig.submit(job("echo")).await.id;
    rig.ends(&ended).await;
    let backing_off = rig.submit(job("fail")).await.id;
    rig.reaches(&backing_off, JobState::BackingOff).await;
    let running = rig.submit(job("stage")).await.id;
    let cue = stage.next().await;
    let elsewhere = rig.submit(in_queue("other", "echo")).await.id;
    // More jobs than one step of a purge deletes.
    rig.submit_batch(vec![job("echo"); 1_000]).await;
    rig.submit_batch(vec![job("echo"); 400]).await;
    rig.submit(v1::JobSpec { start: run_time(2_000_000_000), ..job("echo") }).await;

    assert_eq!(purge(&rig, QUEUE).await, 1_000 + 400 + 1 + 1);
    assert_eq!(rig.total().await, 3);
    cue.succeeds();
    assert_eq!(rig.ends(&running).await.state(), JobState::Succeeded);
    assert_eq!(rig.get(&elsewhere).await.state(), JobState::Queued);
    assert_eq!(purge(&rig, QUEUE).await, 0);
    rig.stop().await;
}

#[tokio::test]
async fn a_purge_goes_on_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let settings = || with_queue(folder(home.path()), "shelf", queue(0));
    let rig = Rig::start(simple(settings())).await;
    for _ in 0..3 {
        rig.submit_batch(vec![in_queue("shelf", "echo"); 1_000]).await;
    }
    rig.stop().await;
    // The state that a server leaves that was killed after a purge's first step.
    let store = SqliteStore::open(home.path()).unwrap();
    let mut ledger = Ledger::open(Box::new(store), &EngineSetup::default()).unwrap();
    let (ask, mut answer) = ReplySlot::new(Uptime::MAX);
    let controls = vec![Control::once(Action::Purge { name: "shelf".to_owned(), ask })];
    assert!(applied(&mut ledger, Batch { controls, ..Batch::default() }).more);
    assert_eq!(answer.try_recv().unwrap_err(), TryRecvError::Empty, "there is more to delete");
    drop(ledger);

    let rig = Rig::start(simple(settings())).await;
    // The new purge joins the old one.
    purge(&rig, "shelf").await;
    assert_eq!(rig.total().await, 0);
    rig.stop().await;
}

/// Applies a batch and answers its callers.
fn applied(ledger: &mut Ledger, batch: Batch) -> Outcome {
    let Applied::Committed { mut outcome, .. } = ledger.apply(batch).unwrap() else { panic!("not applied") };
    outcome.answer();
    outcome
}

/// Returns a job in the queue that always exists.
fn new_job(run_time: Option<Timestamp>) -> NewJob {
    NewJob {
        queue: QUEUE.into(),
        kind: "echo".into(),
        priority: 0,
        max_attempts: 1,
        retry: RetryPolicy::DEFAULT,
        attempt_timeout: std::time::Duration::from_secs(1),
        run_time: run_time.map(Into::into),
        expires: None,
        deadline: None,
        extras: None,
        depends_on: Vec::new(),
        payload: "".into(),
    }
}

#[test]
fn a_job_that_is_purged_in_the_moment_in_which_it_is_due_is_gone() {
    let home = tempfile::tempdir().unwrap();
    let setup = || EngineSetup {
        served_kinds: vec!["echo".to_owned()],
        declared_queues: [(QUEUE.to_owned(), queue(1))].into(),
        ..EngineSetup::default()
    };
    let stores: [Box<dyn Store>; 2] =
        [Box::new(MemoryStore::new()), Box::new(SqliteStore::open(home.path()).unwrap())];
    let due = Timestamp::from_micros(1_000_000);
    for store in stores {
        let mut ledger = Ledger::open(store, &setup()).unwrap();
        let (ask, mut created) = ReplySlot::new(Uptime::MAX);
        let jobs = AtLeastOne::one(new_job(Some(due)));
        let offers = vec![Offer::new(None, jobs, CallerId::default(), None, ask)];
        applied(&mut ledger, Batch { offers, claim: true, ..Batch::default() });
        assert!(matches!(created.try_recv(), Ok(Ok(Submitted::Accepted { .. }))));
        let (ask, mut purged) = ReplySlot::new(Uptime::MAX);
        let controls = vec![Control::once(Action::Purge { name: QUEUE.to_owned(), ask })];
        let present = ClockReading { wall: due, ..ClockReading::default() };
        let outcome = applied(&mut ledger, Batch { present, controls, claim: true, ..Batch::default() });
        assert_eq!(purged.try_recv().unwrap().unwrap().deleted, 1);
        assert!(outcome.claims.is_empty());
    }
}

#[tokio::test]
async fn stats_and_counts_agree_with_what_is_there() {
    let (handler, mut stage) = Stage::new();
    let clock = crate::support::manual_clock();
    let builder = simple(with_queue(memory(), QUEUE, queue(1)))
        .handler("stage", defaults(), handler)
        .clock(jobmill::clock::Clock::Manual(clock.clone()));
    let rig = Rig::start(builder).await;
    let ended = rig.submit(job("echo")).await.id;
    rig.ends(&ended).await;
    rig.submit(v1::JobSpec { payload: Some(v1::Payload::of(vec![0; 100])), ..job("stage") }).await;
    let cue = stage.next().await;
    rig.submit(v1::JobSpec { labels: [("ab".to_owned(), "cde".to_owned())].into(), ..job("echo") }).await;
    clock.advance(std::time::Duration::from_secs(5));
    rig.submit(job("echo")).await;

    let stats = rig.queue(QUEUE).await.stats.unwrap();
    let expected = BTreeMap::from([(JobState::Queued, 2), (JobState::Running, 1), (JobState::Succeeded, 1)]);
    assert_eq!(counts(&stats.counts), expected);
    assert_eq!((stats.live_jobs, stats.live_bytes), (3, 3 * 256 + 100 + 5));
    assert_eq!(stats.oldest_ready_age.unwrap().seconds, 5);

    let count = async |filter: v1::JobFilter| {
        let request = v1::CountJobsRequest { filter: Some(filter), ..Default::default() };
        let answer = soon(rig.jobs.clone().count_jobs(request)).await.unwrap().into_inner();
        assert!(answer.exact);
        assert_eq!(answer.total, counts(&answer.counts).values().sum::<i64>());
        answer.total
    };
    assert_eq!(count(v1::JobFilter::default()).await, 4);
    assert_eq!(count(v1::JobFilter { kinds: vec!["echo".to_owned()], ..Default::default() }).await, 3);
    assert_eq!(count(v1::JobFilter { states: vec![JobState::Queued as i32], ..Default::default() }).await, 2);
    assert_eq!(count(v1::JobFilter { queues: vec!["nowhere".to_owned()], ..Default::default() }).await, 0);
    let labels = [("ab".to_owned(), "cde".to_owned())].into();
    assert_eq!(count(v1::JobFilter { labels, ..Default::default() }).await, 1);
    let created_after = Some(prost_types::Timestamp { seconds: 1_800_000_005, nanos: 0 });
    assert_eq!(count(v1::JobFilter { created_after, ..Default::default() }).await, 1);
    assert_eq!(count(v1::JobFilter { created_before: created_after, ..Default::default() }).await, 3);
    cue.succeeds();
    rig.stop().await;
}

#[tokio::test]
async fn there_are_limits_to_queues_and_their_consumers() {
    let rig = Rig::simple().await;
    let consumers = |consumers| v1::QueueSettings { consumers: Some(consumers), ..Default::default() };
    for n in 0..9 {
        create(&rig, &format!("wide-{n}"), consumers(10_000)).await.unwrap();
    }
    // 9,996 consumers are left beside the 90,000 and the 4 of `default`.
    let refused = refusal(&create(&rig, "wide-9", consumers(9_997)).await.unwrap_err());
    assert_eq!((refused.code, refused.reason.as_str()), (Code::ResourceExhausted, "TOO_MANY_CONSUMERS"));
    create(&rig, "wide-9", consumers(9_996)).await.unwrap();
    assert_eq!(
        refusal(&update(&rig, "wide-9", consumers(9_997)).await.unwrap_err()).reason,
        "TOO_MANY_CONSUMERS"
    );
    for n in names(&rig).await.len()..1_000 {
        create(&rig, &format!("narrow-{n}"), consumers(0)).await.unwrap();
    }
    let refused = refusal(&create(&rig, "one-more", consumers(0)).await.unwrap_err());
    assert_eq!((refused.code, refused.reason.as_str()), (Code::ResourceExhausted, "TOO_MANY_QUEUES"));
    assert_eq!(names(&rig).await.len(), 1_000);
    rig.stop().await;
}

#[tokio::test]
async fn lists_come_newest_first_and_page_without_gaps() {
    let rig = Rig::start(simple(with_queue(memory(), "shelf", queue(0)))).await;
    let mut all = Vec::new();
    for n in 0..7 {
        let labels = [("parity".to_owned(), (n % 2).to_string())].into();
        all.push(rig.submit(v1::JobSpec { labels, ..in_queue("shelf", "echo") }).await.id);
    }
    all.reverse();
    let list = async |filter: v1::JobFilter, page_size| {
        let (mut found, mut page_token) = (Vec::new(), String::new());
        loop {
            let filter = Some(filter.clone());
            let request = v1::ListJobsRequest { filter, page_size, page_token, ..Default::default() };
            let page = soon(rig.jobs.clone().list_jobs(request)).await.unwrap().into_inner();
            assert!(page.jobs.len() <= page_size as usize);
            found.extend(page.jobs.into_iter().map(|job| job.id));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return found;
            }
        }
    };
    for page_size in [1, 2, 3, 7, 8] {
        assert_eq!(list(v1::JobFilter::default(), page_size).await, all);
    }
    let odd = v1::JobFilter { labels: [("parity".to_owned(), "1".to_owned())].into(), ..Default::default() };
    assert_eq!(list(odd, 1).await, [&all[1], &all[3], &all[5]].map(String::clone));
    rig.stop().await;
}

#[tokio::test]
async fn a_list_of_large_jobs_fits_into_what_clients_read() {
    let rig = Rig::start(simple(with_queue(memory(), "shelf", queue(0)))).await;
    for _ in 0..6 {
        rig.submit(v1::JobSpec {
            payload: Some(v1::Payload::of(vec![0; 1 << 20])),
            ..in_queue("shelf", "echo")
        })
        .await;
    }
    let found = found_by_pages(&rig, v1::JobView::Full, |job| payload(job).len() == 1 << 20).await;
    assert_eq!(found, 6);
    rig.stop().await;
}

/// Returns the number of jobs that fulfil a condition, in all pages.
async fn found_by_pages(rig: &Rig, view: v1::JobView, is_so: impl Fn(&v1::Job) -> bool) -> usize {
    let (mut found, mut page_token) = (0, String::new());
    loop {
        let request = v1::ListJobsRequest { view: view as i32, page_token, ..Default::default() };
        let page = soon(rig.jobs.clone().list_jobs(request)).await.unwrap().into_inner();
        found += page.jobs.iter().filter(|job| is_so(job)).count();
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return found;
        }
    }
}

#[tokio::test]
async fn a_list_of_large_results_fits_into_what_clients_read_without_their_payloads() {
    let rig = Rig::simple().await;
    let large = v1::JobSpec { payload: Some(v1::Payload::of(vec![0; 1 << 20])), ..job("echo") };
    for _ in 0..6 {
        let id = rig.submit(large.clone()).await.id;
        rig.ends(&id).await;
    }
    let only_result = |job: &v1::Job| result(job).len() == 1 << 20 && payload(job).is_empty();
    assert_eq!(found_by_pages(&rig, v1::JobView::Result, only_result).await, 6);
    let view = v1::JobView::Result as i32;
    let filter = Some(v1::JobFilter::default());
    let told = rig.watch(v1::WatchStatusRequest { filter, view, ..Default::default() }).await.synced().await;
    assert_eq!(told.iter().filter(|job| only_result(job)).count(), 6);
    rig.stop().await;
}

#[tokio::test]
async fn a_kind_has_one_handler() {
    let builder = simple(memory()).handler("echo", defaults(), crate::support::echo);
    assert_eq!(builder.start().await.unwrap_err().to_string(), "the kind `echo` has two handlers");
}
