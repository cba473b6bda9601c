//! GetServerInfo, except for its limits, which `limits` tests.

use std::path::Path;

use jobmill::{
    clock::Clock,
    proto::v1::{self, WatchResync},
    settings::{Settings, TokenHash},
};
use tonic::{Code, Request, Status};

use crate::{
    queues::in_queue,
    support::{Rig, folder, manual_clock, memory, queue, refusal, simple, soon, with_queue},
    tls::{Home, start, stop},
};

pub(super) async fn info(rig: &Rig) -> v1::GetServerInfoResponse {
    let request = v1::GetServerInfoRequest::default();
    soon(rig.about.clone().get_server_info(request)).await.unwrap().into_inner()
}

#[tokio::test]
async fn it_tells_the_version_and_what_its_clock_says() {
    let clock = manual_clock();
    let rig = Rig::start(simple(memory()).clock(Clock::Manual(clock.clone()))).await;
    let told = info(&rig).await;
    assert_eq!(told.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(told.time, Some(prost_types::Timestamp { seconds: 1_800_000_000, nanos: 0 }));
    clock.advance(std::time::Duration::from_millis(1_500));
    let later = info(&rig).await;
    assert_eq!(later.time, Some(prost_types::Timestamp { seconds: 1_800_000_001, nanos: 500_000_000 }));
    assert_eq!(v1::GetServerInfoResponse { time: told.time, ..later }, told);
    rig.stop().await;
}

const PEOPLE: [(&str, &str, &str); 3] = [
    ("boss", "['admin']", "['*']"),
    ("clerk", "['submit', 'cancel']", "['mail*', 'default']"),
    ("nobody", "[]", "['*']"),
];

#[tokio::test]
async fn it_tells_its_caller_who_that_is_and_what_it_may_do() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("tokens.toml");
    let entry = |(name, roles, queues): (&str, &str, &str)| {
        format!(
            "[tokens.{name}]\nhash = 'sha256:{}'\nroles = {roles}\nqueues = {queues}\n",
            TokenHash::of(name)
        )
    };
    std::fs::write(&file, PEOPLE.map(entry).concat()).unwrap();
    let rig = Rig::start(simple(Settings { tokens: Some(file), ..memory() })).await;
    let told = async |token: &str| {
        let mut request = Request::new(v1::GetServerInfoRequest::default());
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        soon(rig.about.clone().get_server_info(request)).await.map(|told| {
            let v1::GetServerInfoResponse { subject, grants, .. } = told.into_inner();
            (subject, grants)
        })
    };
    let grant = |role: &str, queues: &[&str]| v1::Grant {
        role: role.to_owned(),
        queues: queues.iter().map(|&queue| queue.to_owned()).collect(),
    };
    let own: &[&str] = &["mail*", "default"];
    for (name, grants) in [
        ("boss", vec![grant("admin", &["*"])]),
        ("clerk", vec![grant("submit", own), grant("cancel", own)]),
        ("nobody", vec![]),
    ] {
        assert_eq!(told(name).await.unwrap(), (name.to_owned(), grants));
    }
    assert_eq!(refusal(&told("stranger").await.unwrap_err()).reason, "TOKEN_INVALID");
    let without = soon(rig.about.clone().get_server_info(v1::GetServerInfoRequest::default())).await;
    assert_eq!(refusal(&without.unwrap_err()).reason, "TOKEN_MISSING");
    rig.stop().await;
}

#[tokio::test]
async fn a_caller_without_a_token_is_told_by_its_certificate() {
    let home = Home::new();
    let mut settings = home.settings();
    settings.tls.as_mut().unwrap().client_ca = Some(home.path("clients.pem"));
    let server = start(settings).await;
    let pair = home.authority.pair("ada.example");
    let client = home.client(&server).identity(pair.certificate, pair.key).connect_lazy().unwrap();
    let told = soon(client.server_info()).await.unwrap();
    assert_eq!((told.subject.as_str(), told.grants.len()), ("ada.example", 0));
    stop(server).await;
}

#[tokio::test]
async fn without_tokens_there_is_no_subject_and_no_grant() {
    let rig = Rig::simple().await;
    let told = info(&rig).await;
    assert_eq!((told.subject.as_str(), told.grants.len()), ("", 0));
    rig.stop().await;
}

fn shelved(path: &Path) -> Settings {
    with_queue(folder(path), "shelf", queue(0))
}

/// Copies the files of a folder, as `cp` does.
fn copy(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[tokio::test]
async fn a_store_keeps_its_id_and_a_copy_of_its_files_gets_another_one() {
    let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let rig = Rig::start(simple(shelved(home.path()))).await;
    let id = info(&rig).await.store_id;
    assert!(id.len() >= 32, "{id:?}");
    let kept = rig.submit(in_queue("shelf", "echo")).await.id;
    rig.stop().await;
    copy(home.path(), other.path());
    let original = Rig::start(simple(shelved(home.path()))).await;
    let twin = Rig::start(simple(shelved(other.path()))).await;
    assert_eq!(info(&original).await.store_id, id);
    let own = info(&twin).await.store_id;
    assert_ne!(own, id);
    assert_eq!(twin.get(&kept).await, original.get(&kept).await);
    for (rig, path, id) in [(original, home.path(), id), (twin, other.path(), own)] {
        rig.stop().await;
        let rig = Rig::start(simple(shelved(path))).await;
        assert_eq!(info(&rig).await.store_id, id, "after a restart");
        rig.stop().await;
    }
}

#[tokio::test]
async fn stores_in_memory_have_ids_of_their_own() {
    let (one, other) = (Rig::simple().await, Rig::simple().await);
    assert_eq!(info(&one).await.store_id, info(&one).await.store_id);
    assert_ne!(info(&one).await.store_id, info(&other).await.store_id);
    one.stop().await;
    other.stop().await;
}

/// Returns the token at the end of the snapshot of a watch by filter.
async fn token(rig: &Rig) -> String {
    let filter = Some(v1::JobFilter::default());
    let mut watcher = rig.watch(v1::WatchStatusRequest { filter, ..Default::default() }).await;
    watcher.synced().await;
    watcher.token
}

/// Returns the first event of a watch that resumes from a token.
async fn resumed(rig: &Rig, resume_token: &str, resync: WatchResync) -> Result<String, Status> {
    let request = v1::WatchStatusRequest {
        filter: Some(v1::JobFilter::default()),
        resume_token: resume_token.to_owned(),
        resync: resync as i32,
        ..Default::default()
    };
    let stream = soon(rig.jobs.clone().watch_status(request)).await?.into_inner();
    let mut watcher = crate::support::Watcher::new(stream);
    watcher.event().await.map(|event| crate::support::describe(&event.expect("an event")))
}

#[tokio::test]
async fn tokens_from_before_a_copy_hold_on_both_sides_and_later_ones_on_their_own() {
    let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let rig = Rig::start(simple(shelved(home.path()))).await;
    let before = token(&rig).await;
    rig.submit(in_queue("shelf", "echo")).await;
    rig.stop().await;
    copy(home.path(), other.path());
    let original = Rig::start(simple(shelved(home.path()))).await;
    let twin = Rig::start(simple(shelved(other.path()))).await;
    for rig in [&original, &twin] {
        assert_eq!(resumed(rig, &before, WatchResync::Fail).await.unwrap(), "updated 1 QUEUED");
    }
    for rig in [&original, &twin] {
        rig.submit(in_queue("shelf", "echo")).await;
    }
    for (one, another) in [(&original, &twin), (&twin, &original)] {
        let late = token(one).await;
        one.submit(in_queue("shelf", "echo")).await;
        assert_eq!(resumed(one, &late, WatchResync::Fail).await.unwrap(), "updated 1 QUEUED");
        let refused = refusal(&resumed(another, &late, WatchResync::Fail).await.unwrap_err());
        assert_eq!((refused.code, refused.reason.as_str()), (Code::OutOfRange, "RESUME_TOKEN_TOO_OLD"));
        assert_eq!(resumed(another, &late, WatchResync::Snapshot).await.unwrap(), "resync");
    }
    original.stop().await;
    twin.stop().await;
}
