//! UpdateQueue changes only what the mask names, and only if the queue still has the caller's etag.

use std::time::Duration;

use jobmill::{
    clock::{Clock, Timestamp},
    proto::v1::{self, keep::Keep},
    settings::{Retention, Settings},
};
use tonic::{Code, Status};

use super::{duration, raw::no_consumers, shelf};
use crate::support::{
    QUEUE, Refusal, Rig, folder, manual_clock, memory, queue, refusal, simple, soon, with_queue,
};

const SHELF: &str = "shelf";

async fn create(rig: &Rig, name: &str) -> v1::Queue {
    let settings = Some(no_consumers());
    let request = v1::CreateQueueRequest { name: name.to_owned(), settings, ..Default::default() };
    soon(rig.queues.clone().create_queue(request)).await.unwrap().into_inner().queue.unwrap()
}

async fn delete(rig: &Rig, name: &str) {
    let request = v1::DeleteQueueRequest { name: name.to_owned(), ..Default::default() };
    soon(rig.queues.clone().delete_queue(request)).await.unwrap();
}

fn change(etag: &str, paths: &[&str], settings: v1::QueueSettings) -> v1::UpdateQueueRequest {
    let queue = v1::Queue {
        name: SHELF.to_owned(),
        etag: etag.to_owned(),
        settings: Some(settings),
        ..v1::Queue::default()
    };
    let paths = paths.iter().map(|&path| path.to_owned()).collect();
    let update_mask = Some(prost_types::FieldMask { paths });
    v1::UpdateQueueRequest { queue: Some(queue), update_mask, ..Default::default() }
}

async fn update(rig: &Rig, request: v1::UpdateQueueRequest) -> Result<v1::Queue, Status> {
    soon(rig.queues.clone().update_queue(request)).await.map(|done| done.into_inner().queue.unwrap())
}

fn of_jobs(max_jobs: i64) -> v1::QueueSettings {
    v1::QueueSettings { max_jobs: Some(max_jobs), ..Default::default() }
}

/// Returns the refusal of a change of the shelf; asserts that nothing has changed.
async fn refused(rig: &Rig, request: v1::UpdateQueueRequest) -> Refusal {
    let before = rig.queue(SHELF).await;
    let refused = refusal(&update(rig, request).await.expect_err("a refusal"));
    let now = rig.queue(SHELF).await;
    assert_eq!((now.settings, now.etag), (before.settings, before.etag), "{refused:?}");
    refused
}

fn mismatch(refused: &Refusal, present: &v1::Queue) {
    let told = (refused.code, refused.reason.as_str());
    assert_eq!(told, (Code::FailedPrecondition, "ETAG_MISMATCH"), "{refused:?}");
    let metadata = (refused.metadata["queue"].as_str(), refused.metadata["etag"].as_str());
    assert_eq!(metadata, (SHELF, present.etag.as_str()));
}

#[tokio::test]
async fn a_change_without_an_etag_is_a_fault_of_the_request() {
    let rig = shelf().await;
    create(&rig, SHELF).await;
    let without = refused(&rig, change("", &["settings.max_jobs"], of_jobs(7))).await;
    assert_eq!((without.code, &without.fields[..]), (Code::InvalidArgument, &["queue.etag".to_owned()][..]));
    let long = refused(&rig, change(&"e".repeat(65), &["settings.max_jobs"], of_jobs(7))).await;
    assert_eq!((long.code, &long.fields[..]), (Code::InvalidArgument, &["queue.etag".to_owned()][..]));
    let nothing = refused(&rig, v1::UpdateQueueRequest::default()).await;
    assert_eq!(nothing.fields, ["queue", "queue.name", "queue.etag", "update_mask"]);
    rig.stop().await;
}

#[tokio::test]
async fn another_etag_than_the_present_one_is_refused_and_the_present_one_told() {
    let rig = shelf().await;
    let other = create(&rig, "other").await;
    let first = create(&rig, SHELF).await;
    let present = update(&rig, change(&first.etag, &["settings.max_jobs"], of_jobs(7))).await.unwrap();
    assert_ne!(present.etag, first.etag);
    let garbage = ["x", "\u{202e}", "**", "* ", "0", "\"\"", "0-0"];
    let wrong =
        [first.etag.as_str(), &other.etag, &present.etag.to_uppercase(), &format!("{} ", present.etag)];
    for etag in wrong.into_iter().chain(garbage).filter(|etag| *etag != present.etag) {
        mismatch(&refused(&rig, change(etag, &["settings.max_jobs"], of_jobs(8))).await, &present);
    }
    // The etag from the refusal's metadata is accepted.
    let told = refused(&rig, change(&first.etag, &["settings.max_jobs"], of_jobs(8))).await;
    let now = update(&rig, change(&told.metadata["etag"], &["settings.max_jobs"], of_jobs(8))).await.unwrap();
    assert_eq!(now.settings.unwrap().max_jobs, Some(8));
    rig.stop().await;
}

#[tokio::test]
async fn an_etag_of_a_queue_that_was_deleted_is_not_that_of_the_next_one_by_its_name() {
    let rig = shelf().await;
    let first = create(&rig, SHELF).await;
    delete(&rig, SHELF).await;
    let gone =
        refusal(&update(&rig, change(&first.etag, &["settings.max_jobs"], of_jobs(7))).await.unwrap_err());
    assert_eq!(gone.reason, "QUEUE_NOT_FOUND");
    let next = create(&rig, SHELF).await;
    assert_eq!(next.settings, first.settings);
    mismatch(&refused(&rig, change(&first.etag, &["settings.max_jobs"], of_jobs(7))).await, &next);
    rig.stop().await;
}

#[tokio::test]
async fn an_etag_does_not_come_back_with_the_clock() {
    let clock = manual_clock();
    let rig = Rig::start(simple(memory()).clock(Clock::Manual(clock.clone()))).await;
    let mut seen = Vec::new();
    for round in 0..3 {
        let mut present = create(&rig, SHELF).await;
        for max_jobs in [7, 8, 9] {
            seen.push(present.etag.clone());
            present = update(&rig, change("*", &["settings.max_jobs"], of_jobs(max_jobs))).await.unwrap();
        }
        assert!(!seen.contains(&present.etag), "round {round}: {seen:?} {}", present.etag);
        seen.push(present.etag);
        delete(&rig, SHELF).await;
        clock.set(Timestamp::from_micros(1_800_000_000_000_000));
    }
    rig.stop().await;
}

#[tokio::test]
async fn an_etag_tells_of_a_pause_and_not_of_jobs_and_outlives_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(simple(folder(home.path()))).await;
    let declared = rig.queue(QUEUE).await.etag;
    let first = create(&rig, SHELF).await;
    rig.submit(crate::queues::in_queue(SHELF, "echo")).await;
    assert_eq!(rig.queue(SHELF).await.etag, first.etag);
    rig.pause(SHELF).await;
    let paused = rig.queue(SHELF).await;
    assert_ne!(paused.etag, first.etag);
    // A call that changes nothing keeps the etag.
    rig.pause(SHELF).await;
    assert_eq!(rig.queue(SHELF).await.etag, paused.etag);
    rig.stop().await;
    rig = Rig::start(simple(folder(home.path()))).await;
    assert_eq!(rig.queue(SHELF).await.etag, paused.etag);
    assert_eq!(rig.queue(QUEUE).await.etag, declared, "the file says the same of it");
    rig.resume(SHELF).await;
    let resumed = rig.queue(SHELF).await;
    assert!(![&first.etag, &paused.etag].contains(&&resumed.etag));
    mismatch(&refused(&rig, change(&first.etag, &["settings.max_jobs"], of_jobs(7))).await, &resumed);
    rig.stop().await;
}

#[tokio::test]
async fn a_star_changes_the_queue_whatever_has_happened() {
    let rig = shelf().await;
    create(&rig, SHELF).await;
    for max_jobs in [7, 8, 9] {
        let now = update(&rig, change("*", &["settings.max_jobs"], of_jobs(max_jobs))).await.unwrap();
        assert_eq!(now.settings.unwrap().max_jobs, Some(max_jobs));
        rig.pause(SHELF).await;
        rig.resume(SHELF).await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn admins_with_masks_of_their_own_do_not_undo_each_other() {
    let rig = shelf().await;
    let seen = create(&rig, SHELF).await;
    let mine = v1::QueueSettings { max_jobs: Some(7), ..seen.settings.clone().unwrap() };
    let yours = v1::QueueSettings { max_waiters: Some(3), ..seen.settings.unwrap() };
    update(&rig, change("*", &["settings.max_jobs"], mine)).await.unwrap();
    let both = update(&rig, change("*", &["settings.max_waiters"], yours)).await.unwrap().settings.unwrap();
    assert_eq!((both.max_jobs, both.max_waiters), (Some(7), Some(3)));
    // Two updates with the same etag: the second one is refused, and succeeds with the etag from the refusal.
    let seen = rig.queue(SHELF).await;
    let mine = v1::QueueSettings { max_jobs: Some(11), ..seen.settings.clone().unwrap() };
    let yours = v1::QueueSettings { max_waiters: Some(12), ..seen.settings.clone().unwrap() };
    update(&rig, change(&seen.etag, &["settings.max_jobs"], mine)).await.unwrap();
    let told = refused(&rig, change(&seen.etag, &["settings.max_waiters"], yours.clone())).await;
    let etag = &told.metadata["etag"];
    let both = update(&rig, change(etag, &["settings.max_waiters"], yours)).await.unwrap().settings.unwrap();
    assert_eq!((both.max_jobs, both.max_waiters), (Some(11), Some(12)));
    rig.stop().await;
}

#[tokio::test]
async fn of_simultaneous_changes_with_the_same_etag_only_one_is_made() {
    let rig = shelf().await;
    let seen = create(&rig, SHELF).await;
    let calls = (0..20).map(|n| update(&rig, change(&seen.etag, &["settings.max_jobs"], of_jobs(100 + n))));
    let answers = soon(futures_util::future::join_all(calls)).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 19));
    let now = rig.queue(SHELF).await;
    assert_eq!(now.settings, won[0].as_ref().unwrap().settings);
    for status in lost {
        mismatch(&refusal(&status.unwrap_err()), &now);
    }
    rig.stop().await;
}

fn keep_for(seconds: i64) -> Option<v1::Keep> {
    Some(v1::Keep { keep: Some(Keep::Time(duration(seconds))) })
}

/// Returns settings in which no value is the default.
fn unusual() -> v1::QueueSettings {
    v1::QueueSettings {
        max_jobs: Some(7),
        max_bytes: Some(2 << 20),
        consumers: Some(3),
        when_full: v1::WhenFull::Reject as i32,
        max_wait: Some(duration(5)),
        max_waiters: Some(6),
        accept_unknown_kinds: Some(true),
        fair_by: "tenant".to_owned(),
        retention: Some(v1::Retention {
            succeeded: keep_for(1),
            failed: keep_for(2),
            cancelled: keep_for(3),
            expired: keep_for(4),
        }),
    }
}

/// Copies the field of one path from the second settings to the first.
type Take = fn(&mut v1::QueueSettings, &v1::QueueSettings);

fn retention(settings: &mut v1::QueueSettings) -> &mut v1::Retention {
    settings.retention.get_or_insert_default()
}

const PATHS: [(&str, Take); 12] = [
    ("settings.max_jobs", |to, from| to.max_jobs = from.max_jobs),
    ("settings.max_bytes", |to, from| to.max_bytes = from.max_bytes),
    ("settings.consumers", |to, from| to.consumers = from.consumers),
    ("settings.when_full", |to, from| to.when_full = from.when_full),
    ("settings.max_wait", |to, from| to.max_wait = from.max_wait),
    ("settings.max_waiters", |to, from| to.max_waiters = from.max_waiters),
    ("settings.accept_unknown_kinds", |to, from| to.accept_unknown_kinds = from.accept_unknown_kinds),
    ("settings.fair_by", |to, from| to.fair_by.clone_from(&from.fair_by)),
    ("settings.retention.succeeded", |to, from| {
        retention(to).succeeded = from.retention.unwrap_or_default().succeeded;
    }),
    ("settings.retention.failed", |to, from| {
        retention(to).failed = from.retention.unwrap_or_default().failed;
    }),
    ("settings.retention.cancelled", |to, from| {
        retention(to).cancelled = from.retention.unwrap_or_default().cancelled;
    }),
    ("settings.retention.expired", |to, from| {
        retention(to).expired = from.retention.unwrap_or_default().expired;
    }),
];

/// Returns settings with all parts of their retention set, so that they can be compared.
fn whole(mut settings: v1::QueueSettings) -> v1::QueueSettings {
    retention(&mut settings);
    settings
}

#[tokio::test]
async fn each_path_changes_what_it_names_and_nothing_else() {
    let rig = shelf().await;
    let usual = whole(create(&rig, SHELF).await.settings.unwrap());
    for (path, take) in PATHS {
        let mut expected = usual.clone();
        take(&mut expected, &unusual());
        assert_ne!(expected, usual, "{path}");
        let now = update(&rig, change("*", &[path], unusual())).await.unwrap();
        assert_eq!(whole(now.settings.unwrap()), expected, "{path}");
        let back = update(&rig, change("*", &["settings"], usual.clone())).await.unwrap();
        assert_eq!(whole(back.settings.unwrap()), usual, "{path}");
    }
    // Two paths change two fields, in any order and even if one is named twice.
    let mut expected = usual.clone();
    for (path, take) in [PATHS[0], PATHS[9]] {
        take(&mut expected, &unusual());
        assert!(["settings.max_jobs", "settings.retention.failed"].contains(&path));
    }
    let paths = ["settings.retention.failed", "settings.max_jobs", "settings.max_jobs"];
    let now = update(&rig, change("*", &paths, unusual())).await.unwrap();
    assert_eq!(whole(now.settings.unwrap()), expected);
    rig.stop().await;
}

#[tokio::test]
async fn a_path_names_all_that_is_below_it() {
    let rig = shelf().await;
    let usual = whole(create(&rig, SHELF).await.settings.unwrap());
    let now = update(&rig, change("*", &["settings.retention"], unusual())).await.unwrap();
    let expected = v1::QueueSettings { retention: unusual().retention, ..usual };
    assert_eq!(now.settings, Some(expected));
    let now = update(&rig, change("*", &["settings"], unusual())).await.unwrap();
    assert_eq!(now.settings, Some(unusual()));
    rig.stop().await;
}

#[tokio::test]
async fn a_path_without_a_value_sets_the_default() {
    let rig = shelf().await;
    let request = v1::CreateQueueRequest { name: "usual".to_owned(), ..Default::default() };
    let made = soon(rig.queues.clone().create_queue(request)).await.unwrap().into_inner().queue.unwrap();
    let usual = whole(made.settings.unwrap());
    create(&rig, SHELF).await;
    for (path, take) in PATHS {
        update(&rig, change("*", &["settings"], unusual())).await.unwrap();
        let mut expected = unusual();
        take(&mut expected, &usual);
        let now = update(&rig, change("*", &[path], v1::QueueSettings::default())).await.unwrap();
        assert_eq!(whole(now.settings.unwrap()), expected, "{path}");
    }
    update(&rig, change("*", &["settings"], unusual())).await.unwrap();
    let mut nothing = change("*", &["settings"], unusual());
    nothing.queue.as_mut().unwrap().settings = None;
    assert_eq!(whole(update(&rig, nothing).await.unwrap().settings.unwrap()), usual);
    rig.stop().await;
}

#[tokio::test]
async fn masks_that_name_nothing_or_too_much_are_refused() {
    let rig = shelf().await;
    create(&rig, SHELF).await;
    let wrong = [
        "",
        "*",
        ".",
        "settings.",
        ".settings",
        "setting",
        "settings.max",
        "settings.max_job",
        "settings.max_jobs.x",
        "settings.maxJobs",
        "Settings",
        "settings.retention.",
        "settings.retention.failed.time",
        "max_jobs",
        "name",
        "paused",
        "etag",
        "stats",
        "settings,settings.max_jobs",
        " settings",
        "\u{202e}",
    ];
    for path in wrong {
        let refused = refused(&rig, change("*", &["settings.max_jobs", path], of_jobs(7))).await;
        assert_eq!(refused.code, Code::InvalidArgument, "{path:?}");
        assert_eq!(refused.fields, ["update_mask.paths[1]"], "{path:?}");
    }
    let many = ["settings.max_jobs"; 33];
    for paths in [&[][..], &many] {
        let refused = refused(&rig, change("*", paths, of_jobs(7))).await;
        assert_eq!(refused.fields, ["update_mask"], "{} paths", paths.len());
    }
    let mut without = change("*", &[], of_jobs(7));
    without.update_mask = None;
    assert_eq!(refused(&rig, without).await.fields, ["update_mask"]);
    let now = update(&rig, change("*", &many[..32], of_jobs(7))).await.unwrap();
    assert_eq!(now.settings.unwrap().max_jobs, Some(7));
    rig.stop().await;
}

#[tokio::test]
async fn faults_of_values_have_their_paths_in_the_queue() {
    let rig = shelf().await;
    create(&rig, SHELF).await;
    let settings = v1::QueueSettings {
        max_jobs: Some(0),
        retention: Some(v1::Retention {
            succeeded: keep_for(-1),
            failed: Some(v1::Keep { keep: Some(Keep::Forever(false)) }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let refused = refused(&rig, change("*", &["settings"], settings)).await;
    let at = |field: &str| format!("queue.settings.{field}");
    let expected = ["max_jobs", "retention.succeeded.time", "retention.failed.forever"].map(at);
    assert_eq!(refused.fields, expected);
    rig.stop().await;
}

#[tokio::test]
async fn the_whole_queue_can_be_sent_back_as_it_was_told_and_that_changes_and_pins_nothing() {
    let home = tempfile::tempdir().unwrap();
    let keeping = |days: u64| {
        let mut settings = with_queue(folder(home.path()), QUEUE, queue(0));
        settings.retention = Retention {
            failed: jobmill::settings::Keep::For(Duration::from_secs(days * 86_400)),
            ..Retention::default()
        };
        settings
    };
    let mut rig = Rig::start(simple(keeping(5))).await;
    create(&rig, SHELF).await;
    let told = rig.queue(SHELF).await;
    let mut back = change("", &["settings"], v1::QueueSettings::default());
    back.queue = Some(told.clone());
    let now = update(&rig, back).await.unwrap();
    assert_eq!((now.settings, now.etag), (told.settings, told.etag));
    // The queue's failed jobs follow the server's default, which is another time now.
    let failed =
        |queue: &v1::Queue| queue.settings.clone().unwrap().retention.and_then(|retention| retention.failed);
    assert_eq!(failed(&rig.queue(SHELF).await), None);
    rig.stop().await;
    rig = Rig::start(simple(keeping(6))).await;
    assert_eq!(failed(&rig.queue(SHELF).await), None);
    rig.stop().await;
}

#[tokio::test]
async fn what_only_the_server_says_of_a_queue_counts_for_nothing_in_a_request() {
    let rig = shelf().await;
    create(&rig, SHELF).await;
    let mut request = change("*", &["settings.max_jobs"], of_jobs(7));
    let queue = request.queue.as_mut().unwrap();
    (queue.paused, queue.declared) = (true, true);
    queue.stats = Some(v1::QueueStats { live_jobs: 5, ..Default::default() });
    let now = update(&rig, request).await.unwrap();
    assert_eq!((now.paused, now.declared, now.stats.unwrap().live_jobs), (false, false, 0));
    rig.stop().await;
}

#[tokio::test]
async fn a_declared_queue_is_refused_whatever_the_etag() {
    let settings: Settings = with_queue(memory(), SHELF, queue(0));
    let rig = Rig::start(simple(settings)).await;
    let present = rig.queue(SHELF).await;
    assert!(present.declared && !present.etag.is_empty());
    for etag in ["*", "x", &present.etag] {
        let refused = refused(&rig, change(etag, &["settings.max_jobs"], of_jobs(7))).await;
        assert_eq!(refused.reason, "QUEUE_DECLARED", "{etag}");
    }
    rig.stop().await;
}
